"""Geometry optimisation with a Hamiltonian: one molecule or a whole batch, each step starting from the densities of the
last."""

from collections.abc import Callable

import torch

from nddo_ml.dynamics.flat import lifted
from nddo_ml.dynamics.optimise import Optimised, Step, optimise
from nddo_ml.molecules import Molecules
from nddo_ml.results import Result


def relax(model, molecules: Molecules, fmax: float = 0.01, steps: int = 500, callback: Callable[[Step], None] | None = None,
          **options) -> Optimised:
    """The molecules at their nearest minima, every one at its own pace.

    model: a Hamiltonian. fmax: largest force on an atom at the end, eV/angstrom. steps: evaluations of one molecule at most.
    callback: sees every round (progress bars, trajectories). options: as for the model's call (unrestricted, max_steps, ...).
    A molecule whose SCF fails at its first geometry is returned as given and flagged; it never stops the others. Flat drawings
    of molecules that are not flat leave their plane (dynamics/flat.py).
    """
    return optimise(energy_forces(model, **options), lifted(molecules), fmax, steps, callback)


def energy_forces(model, **options) -> Callable[[Molecules], tuple[torch.Tensor, torch.Tensor]]:
    """Energy `molecule` (eV, NaN where the SCF fails) and forces `atom 3` (eV/angstrom) as a function of molecules; as long
    as the same ones come back they start from their last densities.
    """
    last: Result | None = None

    def evaluate(molecules: Molecules):
        nonlocal last
        guess = last if last is not None and _same(last.molecules, molecules) else None
        last = model(molecules, forces=True, guess=guess, raise_unconverged=False, **options)
        return last.energy.detach(), last.forces.detach()

    return evaluate


def _same(a: Molecules, b: Molecules) -> bool:
    """Whether two batches hold the same molecules at other positions."""
    return a.numbers.shape == b.numbers.shape and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("numbers", "molecule", "charge", "unpaired"))
