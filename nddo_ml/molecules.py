"""Molecules: a batch of structures as flat tensors.

Atoms of all molecules lie end to end; `molecule` names the owner of each atom. A single molecule is a batch of one. Nothing
is padded here. `numbers` are species numbers: atomic numbers, or those of sparkles and pseudo-atoms (see elements.py).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.errors import InvalidMolecule
from nddo_ml.struct import record, tensor_map

COINCIDENT = 0.05   # angstrom; two atoms closer than this are a mistake in the input, not chemistry


@record
class Molecules:
    """A batch of molecules: numbers `atom`, positions `atom 3` in angstrom, molecule `atom` (owner, non-decreasing),
    charge `molecule` in e, unpaired electrons (multiplicity - 1) `molecule`.
    """

    numbers: Int[Tensor, "atom"]
    positions: Float[Tensor, "atom 3"]
    molecule: Int[Tensor, "atom"]
    charge: Int[Tensor, "molecule"]
    unpaired: Int[Tensor, "molecule"]

    def __len__(self):
        return self.charge.shape[0]

    @property
    def sizes(self) -> list[int]:
        """Atoms of each molecule."""
        return torch.bincount(self.molecule, minlength=len(self)).tolist()

    @staticmethod
    def single(numbers, positions, charge=0, multiplicity=1) -> "Molecules":
        """One molecule from sequences or arrays; positions in angstrom. A tensor of positions keeps its tape."""
        return Molecules.batch([numbers], [positions], [charge], [multiplicity])

    @staticmethod
    def batch(numbers: Sequence, positions: Sequence, charge=0, multiplicity=1) -> "Molecules":
        """Several molecules, one entry of `numbers` and of `positions` each; charge and multiplicity one for all or one
        each."""
        count = len(numbers)
        owner = [len(n) for n in numbers]
        for k, (n, x) in enumerate(zip(numbers, positions, strict=True)):
            if len(n) == 0:
                raise InvalidMolecule(f"Molecule {k} has no atoms: give at least one.")
            if tuple(x.shape if hasattr(x, "shape") else np.shape(x)) != (len(n), 3):
                raise InvalidMolecule(f"Molecule {k} has {len(n)} numbers but positions of shape {tuple(np.shape(x))}: "
                                      f"expected ({len(n)}, 3), in angstrom.")
        if count == 0:
            raise InvalidMolecule("No molecules given: pass at least one structure.")
        if any(isinstance(x, Tensor) for x in positions):
            xyz = torch.cat([torch.as_tensor(x, dtype=torch.float64) for x in positions])
        else:
            xyz = torch.from_numpy(np.concatenate([np.asarray(x, dtype=np.float64) for x in positions]))
        z = torch.from_numpy(np.concatenate([np.asarray(n, dtype=np.int64) for n in numbers]))
        return Molecules(
            z.to(xyz.device), xyz,
            torch.from_numpy(np.repeat(np.arange(count), owner)).to(xyz.device),
            torch.from_numpy(_whole("charge", charge, count)).to(xyz.device),
            torch.from_numpy(_whole("multiplicity", multiplicity, count) - 1).to(xyz.device),
        )

    def to(self, device) -> "Molecules":
        """The same molecules on another device."""
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


def check(molecules: Molecules) -> None:
    """Refuse structures that cannot be calculated: non-finite coordinates or impossible multiplicities (InvalidMolecule)."""
    x, names = molecules.positions.detach(), None if len(molecules) == 1 else range(len(molecules))
    if not bool(torch.isfinite(x).all()):
        atom = int((~torch.isfinite(x)).any(-1).nonzero()[0, 0])
        raise InvalidMolecule(f"Atom {named(molecules.molecule, names, atom)} has coordinates {x[atom].tolist()}: all "
                              "coordinates must be finite, in angstrom.")
    if bool((molecules.unpaired < 0).any()):
        k = int((molecules.unpaired < 0).nonzero()[0, 0])
        raise InvalidMolecule(f"Molecule {k} has multiplicity {int(molecules.unpaired[k]) + 1}: it must be 1 or more.")


def coinciding(owner: Int[Tensor, "atom"], names, i: int, j: int, distance: float) -> InvalidMolecule:
    """The error for two atoms on top of each other; names: those of the molecules, None for a single one."""
    first, second = (named(owner, names, k) for k in sorted((i, j)))
    return InvalidMolecule(f"Atoms {first} and {second} are {distance:.4f} angstrom apart: distances below {COINCIDENT} are "
                           "taken as a mistake in the coordinates (units must be angstrom).")


def named(owner: Int[Tensor, "atom"], names, atom: int) -> str:
    """An atom as its user counts: from 0 within its molecule, the molecule named where there are several (names not None)."""
    k = int(owner[atom])
    local = atom - int((owner < k).sum())
    return f"{local} (counting from 0)" if names is None else f"{local} of molecule {names[k]} (counting from 0)"


def _whole(name, value, count):
    """`value` as an integer array of length `count`; a fraction or a wrong length is refused."""
    array = np.asarray(value)
    rounded = np.rint(array.astype(float)) if array.dtype != object else None
    if rounded is None or not np.all(np.isfinite(rounded)) or np.any(rounded != array.astype(float)):
        raise InvalidMolecule(f"The {name} {value!r} is not a whole number.")
    if array.ndim and len(array) != count:
        raise InvalidMolecule(f"{len(array)} values of {name} for {count} molecules: give one for all or one each.")
    return np.ascontiguousarray(np.broadcast_to(rounded.astype(np.int64), (count,))).copy()
