"""Molecules: a batch of structures as flat tensors, and the point charges around them.

Atoms of all molecules lie end to end; `molecule` names the owner of each atom. A single molecule is a batch of one. Nothing
is padded here. `numbers` are species numbers: atomic numbers, or those of sparkles and pseudo-atoms (see elements.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record, tensor_map
from nddo_ml.errors import InvalidMolecule

FARTHEST = 1e8      # angstrom from the origin; beyond, squares of distances lose everything that is near
Whole = float | np.integer                              # a whole number
Numbers = Sequence[int] | np.ndarray | Tensor           # of the atoms of one molecule
Positions = Sequence[Any] | np.ndarray | Tensor         # of one molecule, (atom, 3), angstrom
Values = Sequence[float] | np.ndarray | Tensor
Names = Sequence[int] | None                            # what errors call molecules; None: there is one only

COINCIDENT = 0.05   # angstrom; two atoms closer than this are a mistake in the input, not chemistry


@record
class Molecules:
    """A batch of molecules."""

    numbers: Int[Tensor, "atom"]            # species numbers
    positions: Float[Tensor, "atom 3"]      # angstrom
    molecule: Int[Tensor, "atom"]           # owner of each atom, non-decreasing
    charge: Int[Tensor, "molecule"]         # e
    unpaired: Int[Tensor, "molecule"]       # electrons: multiplicity - 1

    def __len__(self) -> int:
        return self.charge.shape[0]

    @property
    def sizes(self) -> list[int]:
        """Atoms of each molecule."""
        return torch.bincount(self.molecule, minlength=len(self)).tolist()

    @staticmethod
    def single(numbers: Numbers, positions: Positions, charge: Whole = 0, multiplicity: Whole = 1) -> "Molecules":
        """One molecule from sequences or arrays; positions in angstrom. A tensor of positions keeps its tape."""
        return Molecules.batch([numbers], [positions], [charge], [multiplicity])

    @staticmethod
    def batch(numbers: Sequence[Numbers], positions: Sequence[Positions], charge: Whole | Sequence[Whole] = 0,
              multiplicity: Whole | Sequence[Whole] = 1) -> "Molecules":
        """Several molecules, one entry of `numbers` and of `positions` each; charge and multiplicity one for all or one
        each."""
        count = len(numbers)
        if count == 0:
            raise InvalidMolecule("No molecules given: pass at least one structure.")
        if len(positions) != count:
            raise InvalidMolecule(f"Numbers of {count} molecules but positions of {len(positions)}: give one entry of each per "
                                  "molecule.")
        numbers = [_species(k, n) for k, n in enumerate(numbers)]
        positions = [_coordinates(k, x, len(n)) for k, (x, n) in enumerate(zip(positions, numbers, strict=True))]
        owner = [len(n) for n in numbers]
        if any(isinstance(x, Tensor) for x in positions):
            xyz = torch.cat([torch.as_tensor(x, dtype=torch.float64) for x in positions])
        else:
            xyz = torch.from_numpy(np.concatenate(positions))
        z = torch.from_numpy(np.concatenate(numbers))
        return Molecules(
            z.to(xyz.device), xyz,
            torch.from_numpy(np.repeat(np.arange(count), owner)).to(xyz.device),
            torch.from_numpy(_whole("charge", charge, count)).to(xyz.device),
            torch.from_numpy(_whole("multiplicity", multiplicity, count) - 1).to(xyz.device),
        )

    def to(self, device: torch.device | str) -> "Molecules":
        """The same molecules on another device."""
        device = torch.device(device)
        here = [self.numbers.device, self.positions.device, self.molecule.device, self.charge.device, self.unpaired.device]
        if here.count(device) == len(here):
            return self
        return tensor_map(lambda t: t.to(device), self)

    def select(self, indices: Sequence[int]) -> "Molecules":
        """The molecules of these indices, in this order."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        sizes = self.sizes
        atoms = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in indices]) if len(indices) else np.zeros(0, int)
        atoms = torch.from_numpy(atoms.astype(np.int64)).to(self.numbers.device)
        owner = torch.from_numpy(np.repeat(np.arange(len(indices)), [sizes[k] for k in indices])).to(atoms.device)
        chosen = torch.as_tensor(list(indices), dtype=torch.long, device=atoms.device)
        return Molecules(self.numbers[atoms], self.positions[atoms], owner, self.charge[chosen], self.unpaired[chosen])

    def with_positions(self, positions: Float[Tensor, "atom 3"]) -> "Molecules":
        """The same molecules at other positions (angstrom)."""
        return Molecules(self.numbers, positions, self.molecule, self.charge, self.unpaired)


@record
class PointCharges:
    """External point charges of a batch of molecules.

    Charges do not move, polarise or feel each other. Tensors keep their tape: energies are differentiable by all but
    `molecule`.
    """

    positions: Float[Tensor, "site 3"]      # angstrom
    charges: Float[Tensor, "site"]          # e
    molecule: Int[Tensor, "site"]           # that feels each of them, non-decreasing
    rho: Float[Tensor, "site"]              # additive term that softens its potential, bohr; 0: a bare charge

    def __len__(self) -> int:
        return self.charges.shape[0]

    @staticmethod
    def single(positions: Positions, charges: Values, rho: Values | float = 0.0) -> "PointCharges":
        """The charges around one molecule, from sequences or arrays; rho one for all or one each."""
        return PointCharges.batch([positions], [charges], rho)

    @staticmethod
    def batch(positions: Sequence[Positions], charges: Sequence[Values], rho: Sequence[Values] | Values | float = 0.0
              ) -> "PointCharges":
        """The charges around several molecules, one entry of `positions` and of `charges` per molecule (empty: none); rho one
        for all, or one entry per molecule."""
        if len(positions) != len(charges):
            raise InvalidMolecule(f"Positions of point charges of {len(positions)} molecules but charges of {len(charges)}: "
                                  "give one entry of each per molecule, empty where there are none.")
        if len(charges) == 0:
            raise InvalidMolecule("No molecules given: pass one entry of positions and charges per molecule.")
        charges = [_numbers("point charges", k, q, (-1,)) for k, q in enumerate(charges)]
        positions = [_numbers("positions of point charges", k, x, (len(q), 3))
                     for k, (x, q) in enumerate(zip(positions, charges, strict=True))]
        sizes = [len(q) for q in charges]
        values = _each(rho, sizes)
        owner = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
        xyz, q, values = (torch.cat(parts) for parts in (positions, charges, values))
        return PointCharges(xyz, q, owner.to(xyz.device), values)

    def sizes(self, molecules: int) -> list[int]:
        """Charges of each of so many molecules."""
        return torch.bincount(self.molecule, minlength=molecules).tolist()

    def to(self, device: torch.device | str) -> "PointCharges":
        """The same charges on another device."""
        return tensor_map(lambda t: t.to(device), self)

    def select(self, indices: Sequence[int]) -> "PointCharges":
        """The charges of the molecules of these indices, in this order."""
        members = [(self.molecule == k).nonzero()[:, 0] for k in indices]
        chosen = torch.cat(members) if members else self.molecule[:0]
        owner = torch.from_numpy(np.repeat(np.arange(len(members)), [len(part) for part in members])).to(chosen.device)
        return PointCharges(self.positions[chosen], self.charges[chosen], owner, self.rho[chosen])

    def with_positions(self, positions: Float[Tensor, "site 3"]) -> "PointCharges":
        """The same charges at other positions (angstrom)."""
        return PointCharges(positions, self.charges, self.molecule, self.rho)


@record
class Surroundings:
    """What molecules are placed in; nothing unless given."""

    field: Float[Tensor, "molecule 3"] | None = None    # uniform electric field, V/angstrom
    charges: PointCharges | None = None                 # around the molecules

    def __bool__(self) -> bool:
        return self.field is not None or self.charges is not None

    def tensors(self) -> list[Tensor]:
        """All that an energy may be differentiated by."""
        charges = [] if self.charges is None else [self.charges.positions, self.charges.charges, self.charges.rho]
        return charges if self.field is None else [self.field, *charges]

    def select(self, indices: Sequence[int]) -> "Surroundings":
        """The surroundings of the molecules of these indices, in this order."""
        return Surroundings(None if self.field is None else self.field[list(indices)],
                            None if self.charges is None else self.charges.select(indices))


NOTHING = Surroundings()


def check(molecules: Molecules) -> None:
    """Refuse what cannot be calculated (InvalidMolecule): no Molecules, atoms not in the order of their molecules, non-finite
    coordinates, impossible multiplicities.
    """
    if not isinstance(molecules, Molecules):
        raise InvalidMolecule(f"A {type(molecules).__name__} was given: expected nddo_ml.Molecules, as Molecules.single("
                              "numbers, positions) makes them; for ase.Atoms use the calculator nddo_ml.NDDO.")
    atoms, count = molecules.numbers.shape[0], molecules.charge.shape[0]
    for name, shape in (("positions", (atoms, 3)), ("numbers", (atoms,)), ("molecule", (atoms,)), ("unpaired", (count,))):
        if getattr(molecules, name).shape != shape:
            raise InvalidMolecule(f"The {name} of the molecules have shape {tuple(getattr(molecules, name).shape)}: expected "
                                  f"{shape}, for {atoms} atoms in {count} molecules.")
    x = molecules.positions.detach()
    if x.dtype != torch.float64:
        raise InvalidMolecule(f"The positions are {x.dtype}: expected torch.float64 (positions.double(), or Molecules.batch).")
    owner = molecules.molecule.tolist()
    if owner != sorted(owner):
        raise InvalidMolecule("The atoms of a batch must be ordered by molecule: owners in `molecule` may not decrease.")
    if not _within(x):
        bad, names = ~(x.abs() <= FARTHEST), None if count == 1 else range(count)
        atom = int(bad.any(-1).nonzero()[0, 0])
        raise InvalidMolecule(f"Atom {named(molecules.molecule, names, atom)} has coordinates {x[atom].tolist()}: all "
                              f"coordinates must be finite and below {FARTHEST:g}, in angstrom.")
    for k, unpaired in enumerate(molecules.unpaired.tolist()):
        if unpaired < 0:
            raise InvalidMolecule(f"Molecule {k} has multiplicity {unpaired + 1}: it must be 1 or more.")


def _within(x: Float[Tensor, "atom 3"]) -> bool:
    """Whether all coordinates are at most FARTHEST, which NaN is not."""
    if x.is_cpu:
        return bool(np.abs(x.numpy()).max(initial=0.0) <= FARTHEST)     # in less time
    return float(torch.linalg.vector_norm(x, torch.inf)) <= FARTHEST


def check_charges(charges: PointCharges, molecules: Molecules) -> None:
    """Refuse point charges that cannot be used with these molecules (InvalidMolecule): no PointCharges, of molecules that are
    not there, out of order, of other shapes or types than PointCharges says, not finite, rho negative."""
    if not isinstance(charges, PointCharges):
        raise InvalidMolecule(f"A {type(charges).__name__} was given as point charges: expected nddo_ml.PointCharges, as "
                              "PointCharges.single(positions, charges) makes them.")
    n = len(charges)
    for name, shape in (("positions", (n, 3)), ("charges", (n,)), ("rho", (n,)), ("molecule", (n,))):
        values = getattr(charges, name)
        wanted = torch.int64 if name == "molecule" else torch.float64
        if tuple(values.shape) != shape or values.dtype != wanted:
            raise InvalidMolecule(f"The {name} of the point charges have shape {tuple(values.shape)} and type {values.dtype}: "
                                  f"expected {shape} and {wanted}.")
    if n == 0:
        return
    owner, x = charges.molecule, charges.positions.detach()
    if bool((owner.diff() < 0).any()) or int(owner[0]) < 0 or int(owner[-1]) >= len(molecules):
        raise InvalidMolecule(f"The owners in `molecule` of the point charges must not decrease and lie between 0 and "
                              f"{len(molecules) - 1}: there are {len(molecules)} molecules.")
    rest = torch.stack((charges.charges.detach(), charges.rho.detach()), 1)
    bad = ~(x.abs() <= FARTHEST).all(1) | ~torch.isfinite(rest).all(1) | (rest[:, 1] < 0)
    if bool(bad.any()):
        k = int(bad.nonzero()[0, 0])
        raise InvalidMolecule(f"Point charge {k} of the batch (counting from 0) has position {x[k].tolist()}, charge "
                              f"{float(rest[k, 0]):g} and rho {float(rest[k, 1]):g}: all must be finite, coordinates below "
                              f"{FARTHEST:g} angstrom, rho not negative.")


def received(field: Float[Tensor, "molecule 3"] | None, charges: PointCharges | None, molecules: Molecules) -> Surroundings:
    """A field (V/angstrom) and point charges around molecules, checked and on their device.

    Raises:
        InvalidMolecule: they cannot be used with these molecules.
    """
    device = molecules.positions.device
    if field is not None:
        if tuple(field.shape) != (len(molecules), 3) or not bool(torch.isfinite(field.detach()).all()):
            raise InvalidMolecule(f"The field has shape {tuple(field.shape)}: expected {(len(molecules), 3)}, finite, in "
                                  "V/angstrom.")
        if field.dtype != torch.float64:
            raise InvalidMolecule(f"The field is {field.dtype}: expected torch.float64 (field.double()).")
        field = field.to(device)
    if charges is not None:
        check_charges(charges, molecules)
        charges = charges.to(device)
    return Surroundings(field, charges)


def coinciding(owner: Int[Tensor, "atom"], names: Names, i: int, j: int, distance: float) -> InvalidMolecule:
    """The error for two atoms on top of each other; names: those of the molecules, None for a single one."""
    first, second = (named(owner, names, k) for k in sorted((i, j)))
    return InvalidMolecule(f"Atoms {first} and {second} are {distance:.4f} angstrom apart: distances below {COINCIDENT} are "
                           "taken as a mistake in the coordinates (units must be angstrom).")


def named(owner: Int[Tensor, "atom"], names: Names, atom: int) -> str:
    """An atom as its user counts: from 0 within its molecule, the molecule named where there are several (names not None)."""
    k = int(owner[atom])
    local = atom - int((owner < k).sum())
    return f"{local} (counting from 0)" if names is None else f"{local} of molecule {names[k]} (counting from 0)"


def _species(k: int, numbers: Any) -> np.ndarray:
    """The species numbers of molecule k as an array of integers."""
    array = np.asarray(numbers)
    if array.shape == (0,):
        raise InvalidMolecule(f"Molecule {k} has no atoms: give at least one.")
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not np.array_equal(array, np.rint(array)):
        raise InvalidMolecule(f"Molecule {k} has numbers {numbers!r}: expected a sequence of species numbers such as [8, 1, 1] "
                              "(nddo_ml.elements.number finds that of a symbol).")
    return array.astype(np.int64)


def _coordinates(k: int, positions: Any, atoms: int) -> np.ndarray | Tensor:
    """The positions of molecule k, a tensor as it is, anything else as an array of floats."""
    if isinstance(positions, Tensor):
        array = positions
    else:
        try:
            array = np.asarray(positions)
            array = array.astype(np.float64) if array.dtype.kind in "iufb" else None
        except ValueError:
            array = None
        if array is None:
            raise InvalidMolecule(f"Molecule {k} has positions that are no array of numbers: expected shape ({atoms}, 3), in "
                                  "angstrom.")
    if tuple(array.shape) != (atoms, 3):
        raise InvalidMolecule(f"Molecule {k} has {atoms} numbers but positions of shape {tuple(array.shape)}: "
                              f"expected ({atoms}, 3), in angstrom.")
    return array


def _numbers(name: str, k: int, values: Any, shape: tuple[int, ...]) -> Tensor:
    """Values of molecule k as a tensor of floats of that shape (-1: any length); a tensor of floats keeps its tape."""
    if not isinstance(values, Tensor):
        try:
            array = np.asarray(values)
            array = array.astype(np.float64) if array.dtype.kind in "iufb" else None
        except ValueError:
            array = None
        if array is None:
            raise InvalidMolecule(f"The {name} of molecule {k} are no array of numbers.")
        values = torch.from_numpy(array)
    values = values.to(torch.float64)
    if values.numel() == 0 and shape[0] in (-1, 0):
        return values.reshape(0, *shape[1:])
    if values.dim() != len(shape) or any(n not in (-1, m) for n, m in zip(shape, values.shape, strict=True)):
        expected = "one value each" if shape == (-1,) else shape
        raise InvalidMolecule(f"The {name} of molecule {k} have shape {tuple(values.shape)}: expected {expected}.")
    return values


def _each(rho: Any, sizes: list[int]) -> list[Tensor]:
    """rho of the charges of each molecule: one number for all, or one entry per molecule."""
    if isinstance(rho, float | int) or (isinstance(rho, Tensor) and rho.dim() == 0):
        return [torch.as_tensor(rho, dtype=torch.float64).expand(n) for n in sizes]
    if len(rho) != len(sizes):
        raise InvalidMolecule(f"rho has {len(rho)} entries for {len(sizes)} molecules: give one value for all or one entry "
                              "per molecule.")
    return [_numbers("rho of point charges", k, rho[k], (n,)) for k, n in enumerate(sizes)]


def _whole(name: str, value: Any, count: int) -> np.ndarray:
    """`value` as an integer array of length `count`; a fraction or a wrong length is refused."""
    array = np.asarray(value)
    rounded = np.rint(array.astype(float)) if array.dtype.kind in "iufb" else None
    if rounded is None or not np.all(np.isfinite(rounded)) or np.any(rounded != array.astype(float)):
        raise InvalidMolecule(f"The {name} {value!r} is not a whole number.")
    if array.shape not in ((), (count,)):
        raise InvalidMolecule(f"{array.size} values of {name} for {count} molecules: give one for all or one each.")
    return np.ascontiguousarray(np.broadcast_to(rounded.astype(np.int64), (count,))).copy()
