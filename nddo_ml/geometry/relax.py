"""Geometry optimisation with a Hamiltonian: one molecule or a whole batch, each step starting from the densities of the
last."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, Unpack, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.errors import NDDOError
from nddo_ml.geometry.flat import lifted
from nddo_ml.geometry.optimise import Callback, Fixed, OptimisationStep, Optimised, optimise_members
from nddo_ml.hamiltonian.starts import EarlierDensities, HasDensity
from nddo_ml.molecules import Molecules
from nddo_ml.properties.model import ModelKeywords

CHECKS = 3       # how often a relaxed molecule may go on in a lower state
LOWER = 1e-4     # eV: states that differ by less are one


@runtime_checkable
class Evaluated(HasDensity, Protocol):
    """What a model returns, as far as it matters here: that of a Hamiltonian or of an ensemble."""

    energy: Float[Tensor, "molecule"]           # eV
    forces: Float[Tensor, "atom 3"] | None      # eV/angstrom
    converged: Bool[Tensor, "molecule"]


def relax(model: Callable[..., Evaluated], molecules: Molecules, fmax: float = 0.01, steps: int = 500,
          callback: Callback | None = None, fixed: Fixed | None = None, **options: Unpack[ModelKeywords]) -> Optimised:
    """The molecules at their nearest minima, every one at its own pace.

    model: a Hamiltonian. fmax: largest force on an atom at the end, eV/angstrom. steps: evaluations of one molecule at most.
    callback: sees every round (progress bars, trajectories). fixed: directions along which the molecules may not move, as for
    `optimise` (geometry.constraints makes them of ASE's constraints). options: as for the model's call (unrestricted,
    max_steps, ...). A molecule whose SCF fails at its first geometry is returned as given and flagged; later a geometry that
    cannot be calculated only shortens the step of its molecule. Flat drawings of molecules that are not flat leave their plane
    (geometry/flat.py), unless something is fixed.

    Raises: NDDOError, if the molecules or the options are refused.
    """
    start = lifted(molecules) if fixed is None else molecules
    return to_minima(FollowedStates(model, options), start, fmax, steps, callback, fixed)


def to_minima(following: "FollowedStates", molecules: Molecules, fmax: float, steps: int, callback: Callback | None = None,
              fixed: Fixed | None = None) -> Optimised:
    """`optimise` in the lowest states that can be told: steps follow the densities of the last ones, so a state may be left
    behind on the way. At the end every molecule is calculated anew, and where that gives a lower state it goes on from there.
    """
    optimised = optimise_members(following, molecules, fmax, steps, callback, fixed)
    for _ in range(CHECKS):
        lower, again = following.lower_states(optimised)
        if not lower:
            break
        index = torch.tensor(lower, device=optimised.energy.device)
        part = optimise_members(again, optimised.molecules.select(lower), fmax, steps, _renamed(callback, index),
                                None if fixed is None else [fixed[k] for k in lower])
        following.last |= {k: again.last[n] for n, k in enumerate(lower) if n in again.last}
        optimised = _replaced(optimised, part, index)
    return optimised


def _renamed(callback: Callback | None, index: Tensor) -> Callback | None:
    """The callback told of the molecules `index` by their places among all."""
    if callback is None:
        return None

    def told(step: OptimisationStep) -> None:
        callback(replace(step, indices=index[step.indices]))

    return told


def _replaced(whole, part, index):
    """`whole` with the molecules `index` as in `part`; evaluations add up."""
    atoms = torch.isin(whole.molecules.molecule, index)
    values = {name: getattr(whole, name).index_copy(0, index, getattr(part, name))
              for name in ("energy", "converged", "stuck", "lost", "step")}
    positions = _put(whole.molecules.positions, atoms, part.molecules.positions)
    return replace(whole, molecules=whole.molecules.with_positions(positions), forces=_put(whole.forces, atoms, part.forces),
                   evaluations=whole.evaluations.index_add(0, index, part.evaluations), **values)


def _put(values, mask, new):
    return values.masked_scatter(mask[:, None], new)


class FollowedStates:
    """Energies and forces of members of a batch, each from its last density; NaN where a geometry after the first one cannot be
    calculated.

    options: as for the model's call. first: a result at the first geometries. `last`: of each member that is not done the last
    result with a converged state, and its place there.
    """

    def __init__(self, model: Callable[..., Evaluated], options: ModelKeywords, first: Evaluated | None = None):
        self.model, self.options = model, options
        known = [] if first is None else [(first, k) for k in range(len(first.molecules))]
        self.last: dict[int, tuple[Evaluated, int]] = dict(enumerate(known))
        self.begun = first is not None

    def __call__(self, molecules: Molecules, indices: list[int]) -> tuple[Float[Tensor, "molecule"], Float[Tensor, "atom 3"]]:
        """Energy (eV) and forces (eV/angstrom) of the members `indices`.

        Raises: NDDOError, if the first geometries are refused.
        """
        try:
            parts = [self._calculated(molecules, indices)]
        except NDDOError:
            if not self.begun:      # the input itself is refused
                raise
            parts = [self._alone(molecules.select([k]), index) for k, index in enumerate(indices)]
        self.begun = True
        self.last = {index: self.last[index] for index in indices}       # the others are done
        return torch.cat([energy for energy, _ in parts]), torch.cat([forces for _, forces in parts])

    def lower_states(self, optimised: Optimised) -> "tuple[list[int], FollowedStates]":
        """The molecules of a finished optimisation that a calculation of their own finds in a lower state, and what follows
        them from there."""
        anew = self._result(optimised.molecules, self.options)
        lower = (anew.energy < optimised.energy - LOWER).nonzero()[:, 0].tolist()
        again = FollowedStates(self.model, self._options(lower), anew)
        again.last = {n: (anew, k) for n, k in enumerate(lower)}
        return lower, again

    def _result(self, molecules, options: ModelKeywords) -> Evaluated:
        """The result of molecules, of which some may have no energy."""
        without_errors: ModelKeywords = {**options, "raise_unconverged": False}
        return self.model(molecules, forces=True, **without_errors)

    def _options(self, indices) -> ModelKeywords:
        """The options of some members."""
        charges = self.options.get("point_charges")
        return self.options if charges is None else {**self.options, "point_charges": charges.select(indices)}

    def _calculated(self, molecules, indices):
        known = all(index in self.last for index in indices)
        guess = EarlierDensities([self.last[index] for index in indices], molecules) if known else None
        result = self._result(molecules, {**self._options(indices), "guess": guess})
        for place, (index, converged) in enumerate(zip(indices, result.converged.tolist(), strict=True)):
            if converged or index not in self.last:
                self.last[index] = result, place
        assert result.forces is not None
        return result.energy.detach(), result.forces.detach()

    def _alone(self, molecule, index):
        try:
            return self._calculated(molecule, [index])
        except NDDOError:
            lost = molecule.positions.new_full((1,), torch.nan)
            return lost, torch.full_like(molecule.positions, torch.nan)
