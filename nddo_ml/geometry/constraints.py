"""Constraints of ASE's Atoms in an optimisation.

Those that take directions away from the cartesian coordinates (fixed atoms and components, planes, lines, the centre of mass)
are obeyed exactly by `optimise`, which then moves in the space that is left. All others (bond lengths, internal coordinates,
springs, symmetry) bend with the geometry: ASE's own BFGS follows them, because they adjust its positions and forces themselves.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedLine, FixedMode, FixedPlane, FixSubsetCom
from ase.optimize import BFGS
from jaxtyping import Float
from scipy.linalg import orth
from torch import Tensor

from nddo_ml.errors import NDDOError

LINEAR = (FixAtoms, FixCartesian, FixedPlane, FixedLine, FixCom, FixSubsetCom, FixedMode)
WHOLE = 1e-9                    # of a direction that may be left of a fixed one
LONGEST = (0.2, 0.05, 0.01)     # angstrom: steps of BFGS (ASE's own first), the next where one led nowhere


def is_linear(atoms: Atoms) -> bool:
    """Whether every constraint takes directions away that do not depend on the geometry."""
    return all(isinstance(c, LINEAR) for c in atoms.constraints)


def fixed_directions(atoms: Atoms) -> Float[Tensor, "direction coordinate"] | None:
    """Orthonormal directions along which linear constraints let no atom move; None without constraints."""
    if not atoms.constraints:
        return None
    unit = np.eye(3 * len(atoms))
    removed = []
    for constraint in atoms.constraints:
        for e in unit:
            left = e.reshape(-1, 3).copy()
            constraint.adjust_forces(atoms, left)
            if np.abs(left.ravel() - e).max() > WHOLE:
                removed.append(e - left.ravel())
    return torch.from_numpy(orth(np.array(removed).T, rcond=WHOLE).T.copy()) if removed else None


def described(atoms: Atoms) -> str:
    """The constraints in words: how many atoms are fixed, and the names of constraints of other kinds; empty without any."""
    if not atoms.constraints:
        return ""
    others = sorted({type(c).__name__ for c in atoms.constraints} - {"FixAtoms", "FixCartesian"})
    cartesian = [c for c in atoms.constraints if isinstance(c, FixAtoms | FixCartesian)]
    of_atoms = fixed_directions(Atoms(atoms, constraint=cartesian))
    held = np.zeros(len(atoms)) if of_atoms is None else of_atoms.square().sum(0).reshape(-1, 3).sum(1).numpy()
    whole, part = int((held > 3 - WHOLE).sum()), int(((held > WHOLE) & (held < 3 - WHOLE)).sum())
    words = [f"{whole} of {len(atoms)} atoms fixed"] if whole or not part else []
    words += [f"{part} of {len(atoms)} atoms fixed along some axes"] if part else []
    return ", ".join((words if of_atoms is not None else []) + others)


def free_forces(atoms: Atoms, forces: Float[np.ndarray, "atom 3"]) -> Float[np.ndarray, "atom 3"]:
    """Forces without what the constraints take, as ASE's optimisers judge them."""
    left = np.array(forces)
    for constraint in atoms.constraints:
        constraint.adjust_forces(atoms, left)
    return left


def in_shorter_steps(atoms: Atoms, lengths: Iterable[float], run: Callable[[float], Iterable[bool]]) -> Iterator[bool]:
    """Whether an optimiser of ASE has converged, after each geometry it reached. Where a geometry cannot be calculated, the
    atoms go back by one and on with the next of the largest step `lengths` (angstrom); after the last they stay there.

    run: an optimiser of these atoms with that largest step, as its `irun` yields.

    Raises: NDDOError, if the first geometry cannot be calculated.
    """
    good = None
    for longest in lengths:
        try:
            for reached in run(longest):
                good = atoms.positions.copy()
                yield bool(reached)
            return
        except NDDOError:
            if good is None:
                raise
            atoms.set_positions(good, apply_constraint=False)


def follow(atoms: Atoms, fmax: float, steps: int, seen: Callable[[], object]) -> bool:
    """Whether ASE's BFGS, which obeys any constraint, brought the atoms (with their calculator) below `fmax` (eV/angstrom)
    within `steps` evaluations; `seen` is called after each.

    Raises: NDDOError, if the first geometry cannot be calculated.
    """
    taken = 0

    def run(longest: float) -> Iterable[bool]:
        return BFGS(atoms, logfile=None, maxstep=longest).irun(fmax=fmax, steps=max(steps - 1 - taken, 0))

    for reached in in_shorter_steps(atoms, LONGEST, run):
        taken += 1
        seen()
        if reached:
            return True
    return False
