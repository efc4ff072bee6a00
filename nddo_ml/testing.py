"""The contract that any method must pass, for methods, networks and corrections of your own.

    from nddo_ml import Hamiltonian
    from nddo_ml.testing import check_method

    check_method(Hamiltonian(mine))

Every check takes a Hamiltonian, or anything that is called like one, and molecules; a failure is an AssertionError that says
which property fails, by how much and for which molecule. The checks need no test framework. Everything is converged to 1e-10
eV, and the tolerances are what the methods of this package reach with that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.elements import symbol
from nddo_ml.errors import InvalidMolecule, MissingParameter
from nddo_ml.hamiltonian.results import Result
from nddo_ml.molecules import Molecules
from nddo_ml.scf.fock import electronic_energy

TIGHT = 1e-10       # eV, the largest commutator element of the states that are checked
STEP = 2e-3         # angstrom, of the differences; extrapolated, they are good to 1e-7 eV/angstrom
FAR = 1000.0        # angstrom between molecules that do not notice each other; dipoles still do, by 1e-8 eV
TILT = 1e-9         # radian off an axis, where the frame of a pair of atoms is hardest to define

ENERGY = 1e-10      # eV, of the same molecule calculated twice
MOVED = 1e-9        # eV, of one 120 angstrom from the origin, whose distances have lost two digits
FORCE = 1e-7        # eV/angstrom, of a molecule and its image
EXACT = 1e-12       # eV and e, of an element of a matrix and its mirror image
SUM = 1e-9          # e, of a sum over the atoms of a molecule
SAME = 1e-8         # eV/angstrom and e, of the same molecule calculated twice

Calculate = Callable[..., Result]       # called as hamiltonian(molecules, forces=..., tolerance=..., raise_unconverged=...)

# asymmetric molecules: atomic numbers, positions (angstrom), charge, multiplicity
DEFAULTS = (
    ([8, 1, 1], [[0.013, -0.021, 0.117], [0.031, 0.763, -0.472], [-0.042, -0.741, -0.489]], 0, 1),
    ([6, 1, 1, 1, 1], [[0.0, 0.02, 0.0], [0.64, 0.63, 0.60], [0.66, -0.61, -0.64], [-0.62, 0.65, -0.63], [-0.61, -0.64, 0.66]],
     0, 1),
    ([6, 17, 16, 1, 1, 1], [[0.0, 0.0, 0.0], [1.70, 0.30, 0.0], [-0.9, 1.4, 0.4], [-0.3, -0.9, 0.5], [-0.2, -0.3, -1.1],
                            [-2.1, 1.1, 0.1]], 0, 1),
    ([7, 1, 1, 1, 1], [[0.0, 0.0, 0.0], [0.62, 0.58, 0.59], [-0.60, -0.59, 0.57], [-0.58, 0.61, -0.60], [0.59, -0.60, -0.57]],
     1, 1),
    ([6, 8, 8, 1], [[0.0, 0.02, 0.0], [1.13, 0.51, 0.03], [-1.14, 0.53, -0.04], [0.03, -1.13, 0.05]], -1, 1),
    ([6, 8, 1, 1, 1], [[0.0, 0.0, 0.02], [1.34, 0.05, -0.04], [-0.55, 0.93, 0.12], [-0.60, -0.91, 0.19], [1.71, -0.82, 0.21]],
     0, 2),
)


def check_method(hamiltonian: Calculate, molecules: Molecules | None = None) -> None:
    """Run every check of this module.

    molecules: what to calculate; None: those of a small set whose elements the method has (`default_molecules`).

    Raises:
        AssertionError: a property does not hold; the message has one line for each that does not.
        MissingParameter: no molecules are given, and the method has the elements of none of the set.
    """
    molecules = default_molecules(hamiltonian) if molecules is None else molecules
    failures = []
    for check in (check_forces, check_invariance, check_batch, check_separation, check_fock, check_state):
        try:
            check(hamiltonian, molecules)
        except AssertionError as error:
            failures.append(str(error))
    if failures:
        raise AssertionError("\n".join(failures))


def default_molecules(hamiltonian: Calculate) -> Molecules:
    """Water, methane, ClCH2SH, ammonium, formate and the radical CH2OH, as far as the method has their elements.

    Raises:
        MissingParameter: it has the elements of none of them.
    """
    known = []
    for entry in DEFAULTS:
        molecule = Molecules.single(*entry)
        try:
            hamiltonian(molecule, raise_unconverged=False)
        except MissingParameter:
            continue
        known.append(molecule)
    if not known:
        raise MissingParameter("The method has the elements of none of the molecules that it is checked with by default: give "
                               "molecules of your own, check_method(hamiltonian, molecules).")
    return _joined(known)


def check_forces(hamiltonian: Calculate, molecules: Molecules, tolerance: float = 1e-6) -> None:
    """Forces are -dE/dR: along a random direction of each molecule, they agree with differences of the energy.

    The differences are central ones of two step lengths, extrapolated (Richardson). tolerance: eV/angstrom.

    Raises:
        AssertionError: they do not agree, or a state did not converge.
    """
    x = molecules.positions
    v = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5)).to(x.device)
    v = v / _summed(v.square().sum(1), molecules).sqrt()[molecules.molecule, None]

    def energies(step: float) -> Tensor:
        return _solved(hamiltonian, molecules.with_positions(x + step * v)).energy.detach()

    coarse, fine = ((energies(s) - energies(-s)) / (2 * s) for s in (STEP, STEP / 2))
    along = _summed((_forces(_solved(hamiltonian, molecules, forces=True)) * v).sum(1), molecules)
    _demand("forces are no derivative of the energy", along + (4 * fine - coarse) / 3, tolerance, "eV/angstrom", molecules)


def check_invariance(hamiltonian: Calculate, molecules: Molecules) -> None:
    """Energy, forces and charges do not depend on where a molecule lies and how its atoms are numbered.

    Each molecule is moved, turned, turned so that a bond lies along an axis or almost so, reflected, and its atoms are put in
    another order: the energy and the charges stay, the forces turn with it. Forces and torques add up to zero.

    Raises:
        AssertionError: one of these does not hold, or a state did not converge.
    """
    parts = [molecules.select([k]) for k in range(len(molecules))]
    here = _solved(hamiltonian, molecules, forces=True)
    forces = _forces(here)
    for images in zip(*map(_images, parts), strict=True):           # one image of every molecule
        there = _solved(hamiltonian, _joined([image.of(part) for image, part in zip(images, parts, strict=True)]), forces=True)
        name, sizes = images[0].name, molecules.sizes
        moved = [image.back(f) for image, f in zip(images, _forces(there).split(sizes), strict=True)]
        charges = [q[image.order.argsort()] for image, q in zip(images, there.charges.split(sizes), strict=True)]
        tolerance = MOVED if bool(images[0].shift.any()) else ENERGY
        _demand(f"the energy changes on {name}", there.energy - here.energy, tolerance, "eV", molecules)
        _demand(f"the forces do not follow {name}", _largest(torch.cat(moved) - forces, molecules), FORCE, "eV/angstrom",
                molecules)
        _demand(f"the charges change on {name}", _largest(torch.cat(charges) - here.charges, molecules), SAME, "e", molecules)
    total = _summed(forces, molecules)
    torque = _summed(torch.linalg.cross(molecules.positions, forces), molecules)
    _demand("the forces do not add up to zero", total.abs().amax(1), SAME, "eV/angstrom", molecules)
    _demand("the torques do not add up to zero", torque.abs().amax(1), FORCE, "eV", molecules)


def check_batch(hamiltonian: Calculate, molecules: Molecules) -> None:
    """A molecule of a batch has the energy, forces and charges that it has alone, and no gradient reaches another molecule.

    Raises:
        AssertionError: one of these does not hold, or a state did not converge.
    """
    batch = molecules if len(molecules) > 1 else molecules.select([0, 0])
    together = _solved(hamiltonian, batch, forces=True)
    singles = [_solved(hamiltonian, batch.select([k]), forces=True) for k in range(len(batch))]
    for name, tolerance, unit in (("energy", ENERGY, "eV"), ("forces", SAME, "eV/angstrom"), ("charges", SAME, "e")):
        change = getattr(together, name) - torch.cat([getattr(alone, name) for alone in singles])
        change = change if name == "energy" else _largest(change, batch)
        _demand(f"{name} of a molecule in a batch and alone differ", change, tolerance, unit, batch)
    x = batch.positions.detach().clone().requires_grad_()
    energy = hamiltonian(batch.with_positions(x), tolerance=TIGHT).energy
    for k in range(len(batch)):
        gradient, = torch.autograd.grad(energy[k], x, retain_graph=True, allow_unused=True)
        if gradient is not None:
            outside = _largest(gradient, batch)
            outside[k] = 0.0
            _demand(f"the energy of {_called(batch, k)} depends on another molecule", outside, 0.0, "eV/angstrom", batch)


def check_separation(hamiltonian: Calculate, molecules: Molecules, tolerance: float = 1e-7) -> None:
    """The energy of two distant molecules is the sum of theirs. Neutral closed shells only, each with the next. tolerance: eV.

    Raises:
        AssertionError: it is not, or a state did not converge.
        InvalidMolecule: none of the molecules is a neutral closed shell.
    """
    chosen = ((molecules.charge == 0) & (molecules.unpaired == 0)).nonzero()[:, 0].tolist()
    if not chosen:
        raise InvalidMolecule("Only neutral closed-shell molecules can be put apart, since ions feel each other at any "
                              "distance, and none is given: add one.")
    first, second = (molecules.select(which) for which in (chosen, [*chosen[1:], chosen[0]]))
    shifted = second.with_positions(second.positions + FAR * torch.tensor([0.6, -0.48, 0.64]).to(second.positions))
    both = _joined([_merged(first.select([k]), shifted.select([k])) for k in range(len(chosen))])
    total = _solved(hamiltonian, both).energy
    parts = _solved(hamiltonian, first).energy + _solved(hamiltonian, second).energy
    _demand(f"the energies of two molecules {FAR:.0f} angstrom apart do not add up", total - parts, tolerance, "eV", both)


def check_fock(hamiltonian: Calculate, molecules: Molecules, tolerance: float = 1e-8) -> None:
    """The Fock matrix is the derivative of the energy by the density: F = dE/dP. tolerance: eV.

    The state of each molecule has the density D of each spin channel, with P = (2/s) sum_spin D for s channels, so that the
    symmetric part of dE/dD is (2/s) F.

    Raises:
        AssertionError: it is not, it is zero, or a state did not converge.
    """
    for state in _solved(hamiltonian, molecules).states:
        layout, here = state.problem.layout, molecules.select(state.index)
        D = state.solution.D.detach().clone().requires_grad_()
        if D.numel() == 0:
            continue                            # cores without orbitals
        with torch.enable_grad():
            gradient, = torch.autograd.grad(electronic_energy(layout, state.problem.integrals, D).sum(), D)
        real = layout.real[:, None, :, None] * layout.real[:, None, None]       # 0 for padded orbitals
        F = (gradient + gradient.mT) * (D.shape[1] / 4) * real
        change = (F - state.solution.F * real).abs().flatten(1).amax(1)
        _demand("the Fock matrix is not the derivative of the energy by the density", change, tolerance, "eV", here)
        zero = (F.abs().flatten(1).amax(1) == 0).to(F.dtype)
        _demand("the Fock matrix is zero", zero, 0.0, "", here)


def check_state(hamiltonian: Calculate, molecules: Molecules, tolerance: float = 1e-8) -> None:
    """The density of each spin is idempotent and commutes with its Fock matrix, and the electrons are those there should be.

    D^2 = D (where no orbital is half filled), [F, D] = 0, the charges of the atoms add up to the charge of the molecule and
    the spin populations to its unpaired electrons. tolerance: of an element of D^2 - D (e) and of the commutator (eV).

    Raises:
        AssertionError: one of these does not hold, or a state did not converge.
    """
    result = _solved(hamiltonian, molecules)
    square, commutator, skew = [], [], []
    for k in range(len(molecules)):
        F, D, f = result.fock(k).detach(), result.density(k).detach(), result.occupations(k) * (len(result.density(k)) / 2)
        whole = bool(((f == 0) | (f == 1)).all())
        square.append(_peak(D @ D - D) if whole else D.new_zeros(()))
        commutator.append(_peak(F @ D - D @ F))
        skew.append(torch.maximum(_peak(F - F.mT), _peak(D - D.mT)))
    _demand("Fock matrix or density is not symmetric", torch.stack(skew), EXACT, "", molecules)
    _demand("the density is not idempotent", torch.stack(square), tolerance, "e", molecules)
    _demand("Fock matrix and density do not commute", torch.stack(commutator), tolerance, "eV", molecules)
    charge = _summed(result.charges.detach(), molecules) - molecules.charge
    _demand("the charges of the atoms do not add up to that of the molecule", charge, SUM, "e", molecules)
    spin = _summed(result.spin_populations.detach(), molecules) - molecules.unpaired
    _demand("the spin populations do not add up to the unpaired electrons", spin, SUM, "e", molecules)


@dataclass(frozen=True, eq=False)
class Image:
    """A molecule somewhere else: its positions x become (x turn^T + shift)[order]."""

    name: str
    turn: Float[Tensor, "3 3"]
    shift: Float[Tensor, "3"]           # angstrom
    order: Int[Tensor, "atom"]

    def of(self, molecule: Molecules) -> Molecules:
        """The image of a molecule."""
        x = molecule.positions @ self.turn.T + self.shift
        return Molecules(molecule.numbers[self.order], x[self.order], molecule.molecule, molecule.charge, molecule.unpaired)

    def back(self, vectors: Float[Tensor, "atom 3"]) -> Float[Tensor, "atom 3"]:
        """Vectors of the atoms of the image, as they are at the molecule."""
        return vectors[self.order.argsort()] @ self.turn


def _images(molecule: Molecules) -> list[Image]:
    """The images of one molecule that it must not notice."""
    x = molecule.positions.detach()
    generator = torch.Generator().manual_seed(len(x))
    turn, bond = (torch.randn(shape, dtype=x.dtype, generator=generator) for shape in ((3, 3), (3,)))
    turn, bond = torch.linalg.qr(turn)[0].to(x), bond.to(x)
    turn = turn * torch.linalg.det(turn)                        # a proper rotation
    if len(x) > 1:
        bond = x[1:] - x[0]
        bond = bond[bond.norm(dim=1).argmin()]                  # to the nearest neighbour of the first atom
    same, still, nothing = torch.eye(3).to(x), torch.arange(len(x), device=x.device), torch.zeros(3).to(x)
    order = torch.randperm(len(x), generator=generator).to(x.device)
    axes = {"+z": [0, 0, 1], "-z": [0, 0, -1], "x": [1, 0, 0], f"z, {TILT:.0e} off": [TILT, 0, 1]}
    onto = [Image(f"a rotation of a bond onto {name}", _frame(torch.tensor(axis).to(x)) @ _frame(bond).T, nothing, still)
            for name, axis in axes.items()]
    return [Image("a translation", same, torch.tensor([100.0, -57.0, 31.0]).to(x), still),
            Image("a rotation", turn, nothing, still), *onto, Image("a reflection", -turn, nothing, still),
            Image("another order of the atoms", same, nothing, order)]


def _frame(axis: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """A proper rotation whose first column lies along the axis."""
    others = torch.eye(3).to(axis)[axis.abs().argsort()[:2]]        # two directions that do not run along it
    Q, R = torch.linalg.qr(torch.stack([axis, *others], 1))
    Q = Q * R.diagonal().sign()
    return torch.cat([Q[:, :2], Q[:, 2:] * torch.linalg.det(Q)], 1)


def _solved(hamiltonian: Calculate, molecules: Molecules, forces: bool = False) -> Result:
    """The tightly converged result. Raises AssertionError where a molecule has none."""
    result = hamiltonian(molecules, forces=forces, tolerance=TIGHT, raise_unconverged=False)
    for k in (~result.converged).nonzero()[:, 0].tolist():
        raise AssertionError(f"The state of {_called(molecules, k)} did not converge to {TIGHT:.0e} eV: nothing can be said of "
                             f"it ({result.route[k]}).")
    return result


def _forces(result: Result) -> Float[Tensor, "atom 3"]:
    """The forces on the atoms, off the tape. Raises AssertionError where there are none."""
    if result.forces is None:
        raise AssertionError("No forces are returned although they were asked for (forces=True).")
    return result.forces.detach()


def _demand(what: str, error: Float[Tensor, "molecule"], tolerance: float, unit: str, molecules: Molecules) -> None:
    """Raise AssertionError unless the error of every molecule is within the tolerance; one that is no number is not."""
    error = error.detach().abs()
    if not bool((error <= tolerance).all()):
        worst = int(error.nan_to_num(torch.inf).argmax())
        raise AssertionError(f"{what[0].upper()}{what[1:]}: by {float(error[worst]):.2e} {unit}, with a tolerance of "
                             f"{tolerance:.0e}, for {_called(molecules, worst)}.")


def _called(molecules: Molecules, k: int) -> str:
    """A molecule in words: its place in the batch, the elements of its atoms, its charge and unpaired electrons."""
    atoms = " ".join(symbol(int(z)) for z in molecules.numbers[molecules.molecule == k])
    return (f"molecule {k} ({atoms}, charge {int(molecules.charge[k])}, multiplicity {int(molecules.unpaired[k]) + 1})")


def _summed(values: Float[Tensor, "atom *columns"], molecules: Molecules) -> Float[Tensor, "molecule *columns"]:
    """Sums over the atoms of each molecule."""
    return values.new_zeros(len(molecules), *values.shape[1:]).index_add(0, molecules.molecule, values)


def _largest(values: Float[Tensor, "atom *columns"], molecules: Molecules) -> Float[Tensor, "molecule"]:
    """The largest absolute value of each molecule."""
    return torch.stack([_peak(part) for part in values.detach().split(molecules.sizes)])


def _peak(values: Tensor) -> Float[Tensor, ""]:
    """The largest absolute value; 0 of nothing."""
    return values.abs().max() if values.numel() else values.new_zeros(())


def _merged(first: Molecules, second: Molecules) -> Molecules:
    """Two neutral closed-shell molecules as one."""
    return Molecules(torch.cat([first.numbers, second.numbers]), torch.cat([first.positions, second.positions]),
                     torch.cat([first.molecule, second.molecule]), first.charge, first.unpaired)


def _joined(molecules: Sequence[Molecules]) -> Molecules:
    """A batch of single molecules."""
    owner = [torch.full_like(m.numbers, k) for k, m in enumerate(molecules)]
    return Molecules(torch.cat([m.numbers for m in molecules]), torch.cat([m.positions for m in molecules]), torch.cat(owner),
                     torch.cat([m.charge for m in molecules]), torch.cat([m.unpaired for m in molecules]))
