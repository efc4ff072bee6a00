"""The self-consistent state of molecules that were solved together: its density, its orbitals, and how it was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.integrals.blocks import Integrals
from nddo_ml.networks.shifts import Shifts
from nddo_ml.scf.density import Orbitals
from nddo_ml.scf.fock import fock, kernel, one_electron
from nddo_ml.scf.orders import Order, advanced
from nddo_ml.scf.problem import Problem, Solution, canonical
from nddo_ml.scf.rungs import LADDER, Rung
from nddo_ml.scf.stability import Lowered

DEGENERATE = 1e-4   # eV


@dataclass(frozen=True, eq=False)
class State:
    """The self-consistent states of some molecules of a batch that were solved together."""

    index: list[int]                        # which of the batch they are
    problem: Problem
    solution: Solution
    ladder: tuple[Rung, ...] = LADDER       # that was climbed
    search: Lowered | None = None           # for lower states; None: nothing came of it, or there was none
    # integrals and density that carry derivatives, and their order; None: no derivatives of levels and the like
    tape: tuple[Integrals, Tensor, Order] | None = None
    shifts: Shifts | None = None            # what a network said, while it is on the tape
    # why a molecule, by its place, has no result although it was solved (with published parameters in place of bad ones)
    refused: Mapping[int, str] = field(default_factory=dict)
    implausible: Sequence[str] = ()         # what is wrong with each ("": nothing); empty: not judged, or all well

    def without(self, refused: Mapping[int, str]) -> "State":
        """The state with these molecules refused too: they count as not converged."""
        if not refused:
            return self
        less = replace(self, refused={**refused, **self.refused})
        return replace(less, solution=replace(self.solution, converged=self.solution.converged & less.accepted))

    @property
    def accepted(self) -> Bool[Tensor, "molecule"]:
        """Which molecules are not refused."""
        converged = self.solution.converged
        return torch.tensor([k not in self.refused for k in range(len(converged))], device=converged.device)

    @property
    def lowered(self) -> Float[Tensor, "molecule"]:
        """By how much leaving an instability lowered the energy, eV."""
        return torch.zeros_like(self.solution.energy) if self.search is None else self.search.fall

    @property
    def trapped(self) -> Float[Tensor, "molecule"]:
        """The negative eigenvalue of the orbital Hessian where an instability could not be left, 0 elsewhere, eV."""
        return torch.zeros_like(self.solution.energy) if self.search is None else self.search.trapped

    @cached_property
    def orbitals(self) -> Orbitals:
        """Canonical orbitals, made when first asked for."""
        return canonical(self.problem, self.solution.D, self.solution.F)

    def levels(self) -> Float[Tensor, "molecule spin level"]:
        """Orbital energies, differentiable once less than the energy where the state is on a tape.

        eps_i = F_ii + sum_k dF_ik^2 / (eps_i - eps_k), F = C^T F(phi, D) C with constant orbitals, dF what is on the tape of
        it: perturbation theory to second order. Of levels closer than DEGENERATE only the sum has a derivative; pairs of them
        are left out of the second term.
        """
        if self.tape is None:
            return self.orbitals.eps
        integrals, D, order = self.tape
        layout, C, eps = self.problem.layout, self.orbitals.C, self.orbitals.eps
        F = C.mT @ fock(layout, kernel(layout, integrals), one_electron(layout, integrals), D) @ C
        levels = F.diagonal(dim1=-2, dim2=-1)
        if order.order > 2:
            apart = eps[..., :, None] - eps[..., None, :]
            mixes = apart.abs() > DEGENERATE
            levels = levels + ((F - F.detach()).square() / torch.where(mixes, apart, torch.inf)).sum(-1)
        return advanced(levels, order)

    def gaps(self) -> Float[Tensor, "molecule"]:
        """Lowest empty less highest occupied level over both spins, eV, infinite where there is none of them; on the tape where
        the state is."""
        f = self.orbitals.f
        eps = self.levels() if torch.is_grad_enabled() else self.orbitals.eps
        real = self.problem.layout.real[:, None].expand_as(f) > 0
        full = 1.0 if f.shape[1] == 2 else f.max()
        empty = torch.where(real & (f < full), eps, torch.inf).flatten(1).amin(1)
        return empty - torch.where(real & (f > 0), eps, -torch.inf).flatten(1).amax(1)


def routes(state: State) -> list[str]:
    """How each molecule of a state converged, in words."""
    climbed = [rung.words for rung in state.ladder]
    if state.search is None and not state.refused:
        return ["; ".join(climbed[:rung + 1]) for rung in state.solution.rung.tolist()]
    columns = torch.stack([state.solution.rung, state.lowered, state.trapped], 1).tolist()
    words = ["; ".join(climbed[:int(rung) + 1]) + (f"; left an instability, {fall:.4f} eV lower" if fall > 0 else "")
             + (f"; stopped on a saddle point, eigenvalue {trapped:.4f} eV" if trapped < 0 else "")
             for rung, fall, trapped in columns]
    return [f"refused: {state.refused[k]}" if k in state.refused else route for k, route in enumerate(words)]
