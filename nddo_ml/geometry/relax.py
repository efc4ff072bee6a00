"""Geometry optimisation with a Hamiltonian: one molecule or a whole batch, each step starting from the densities of the
last."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from nddo_ml.errors import NDDOError
from nddo_ml.geometry.flat import lifted
from nddo_ml.geometry.optimise import Optimised, Step, optimise_members
from nddo_ml.hamiltonian.results import Result
from nddo_ml.molecules import Molecules

CHECKS = 3       # how often a relaxed molecule may go on in a lower state
LOWER = 1e-4     # eV: states that differ by less are one


def relax(model, molecules: Molecules, fmax: float = 0.01, steps: int = 500, callback: Callable[[Step], None] | None = None,
          fixed: Sequence[torch.Tensor | None] | None = None, **options) -> Optimised:
    """The molecules at their nearest minima, every one at its own pace.

    model: a Hamiltonian. fmax: largest force on an atom at the end, eV/angstrom. steps: evaluations of one molecule at most.
    callback: sees every round (progress bars, trajectories). fixed: directions along which the molecules may not move, as for
    `optimise` (dynamics.constraints makes them of ASE's constraints). options: as for the model's call (unrestricted,
    max_steps, ...). A molecule whose SCF fails at its first geometry is returned as given and flagged; later a geometry that
    cannot be calculated only shortens the step of its molecule. Flat drawings of molecules that are not flat leave their plane
    (dynamics/flat.py), unless something is fixed.
    """
    start = lifted(molecules) if fixed is None else molecules
    return to_minima(Evaluation(model, options), start, fmax, steps, callback, fixed)


def to_minima(evaluation: "Evaluation", molecules: Molecules, fmax: float, steps: int,
              callback: Callable[[Step], None] | None = None, fixed: Sequence[torch.Tensor | None] | None = None) -> Optimised:
    """`optimise` in the lowest states that can be told: steps follow the densities of the last ones, so a state may be left
    behind on the way. At the end every molecule is calculated anew, and where that finds a lower state it goes on from there.
    """
    found = optimise_members(evaluation, molecules, fmax, steps, callback, fixed)
    for _ in range(CHECKS):
        lower, again = evaluation.lower_states(found)
        if not lower:
            break
        index = torch.tensor(lower, device=found.energy.device)

        def named(step, index=index):
            callback(replace(step, indices=index[step.indices]))

        part = optimise_members(again, found.molecules.select(lower), fmax, steps, None if callback is None else named,
                                None if fixed is None else [fixed[k] for k in lower])
        evaluation.last |= {k: again.last[n] for n, k in enumerate(lower) if n in again.last}
        found = _replaced(found, part, index)
    return found


def _replaced(found, part, index):
    """`found` with the molecules `index` as in `part`; evaluations add up."""
    atoms = torch.isin(found.molecules.molecule, index)
    values = {name: getattr(found, name).index_copy(0, index, getattr(part, name))
              for name in ("energy", "converged", "stuck", "lost", "step")}
    positions = _put(found.molecules.positions, atoms, part.molecules.positions)
    return replace(found, molecules=found.molecules.with_positions(positions), forces=_put(found.forces, atoms, part.forces),
                   evaluations=found.evaluations.index_add(0, index, part.evaluations), **values)


def _put(values, mask, new):
    return values.masked_scatter(mask[:, None], new)


@dataclass(frozen=True, eq=False)
class _Guess:
    """Densities of some members of a batch, each from the result where it was last calculated."""

    places: list[tuple[Result, int]]
    molecules: Molecules

    def density(self, k: int) -> torch.Tensor:
        """That of molecule k."""
        result, place = self.places[k]
        return result.density(place)


class Evaluation:
    """Energies and forces of members of a batch, from their last densities; NaN where a geometry after the first one cannot be
    calculated. options: as for the model's call. first: a result at the first geometries. `last`: of each member that is not
    done the last result with a converged state, and its place there.
    """

    def __init__(self, model, options: dict, first: Result | None = None):
        self.model, self.options = model, options
        self.last = {} if first is None else {k: (first, k) for k in range(len(first.molecules))}
        self.begun = first is not None

    def __call__(self, molecules: Molecules, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Energy `molecule` (eV) and forces `atom 3` (eV/angstrom) of the members `indices`."""
        try:
            found = [self._calculated(molecules, indices)]
        except NDDOError:
            if not self.begun:      # the input itself is refused
                raise
            found = [self._alone(molecules.select([k]), index) for k, index in enumerate(indices)]
        self.begun = True
        self.last = {index: self.last[index] for index in indices}       # the others are done
        return torch.cat([energy for energy, _ in found]), torch.cat([forces for _, forces in found])

    def lower_states(self, found: Optimised) -> "tuple[list[int], Evaluation]":
        """The molecules of a finished optimisation that a calculation of their own finds in a lower state, and their evaluation
        from there."""
        anew = self.model(found.molecules, forces=True, raise_unconverged=False, **self.options)
        lower = (anew.energy < found.energy - LOWER).nonzero()[:, 0].tolist()
        charges = self.options.get("point_charges")
        options = self.options if charges is None else self.options | {"point_charges": charges.select(lower)}
        again = Evaluation(self.model, options, anew)
        again.last = {n: (anew, k) for n, k in enumerate(lower)}
        return lower, again

    def _calculated(self, molecules, indices):
        known = all(index in self.last for index in indices)
        guess = _Guess([self.last[index] for index in indices], molecules) if known else None
        charges = self.options.get("point_charges")
        here = self.options if charges is None else self.options | {"point_charges": charges.select(indices)}
        result = self.model(molecules, forces=True, guess=guess, raise_unconverged=False, **here)
        for place, (index, converged) in enumerate(zip(indices, result.converged.tolist(), strict=True)):
            if converged or index not in self.last:
                self.last[index] = result, place
        return result.energy.detach(), result.forces.detach()

    def _alone(self, molecule, index):
        try:
            return self._calculated(molecule, [index])
        except NDDOError:
            lost = molecule.positions.new_full((1,), torch.nan)
            return lost, torch.full_like(molecule.positions, torch.nan)
