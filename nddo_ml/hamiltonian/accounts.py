"""What is made of energies, and what is found wrong with states that converged: numbers that are none, and states that no
molecule is in."""

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import add

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.hamiltonian.plausibility import implausible
from nddo_ml.hamiltonian.state import State
from nddo_ml.integrals.topology import Topology
from nddo_ml.molecules import Molecules


def total(parts: Mapping[str, Float[Tensor, "molecule"]]) -> Float[Tensor, "molecule"]:
    """The sum of the parts of an energy, which lie on the CPU; off the tape it is made by numpy, in less time."""
    if any(part.requires_grad for part in parts.values()):
        return reduce(add, parts.values())
    return torch.from_numpy(reduce(add, [part.numpy() for part in parts.values()]))


def judged(state: State, molecules: Molecules, topology: Topology, R: Float[Tensor, "pair"],
           held: tuple[Float[Tensor, "atom"], Float[Tensor, "atom"]], names: list[int] | None) -> State:
    """The state with what is implausible about it, its members then not converged. R: distances (angstrom); held: charges of
    the cores and of the atoms (e); names: what errors call the molecules."""
    converged = state.solution.converged
    core, charges = (values.detach() for values in held)
    reasons = implausible(topology, molecules, R.detach(), core, charges, names)
    reasons = [reason if done else "" for reason, done in zip(reasons, converged.tolist(), strict=True)]
    if not any(reasons):
        return state
    good = converged & torch.tensor([not reason for reason in reasons], device=converged.device)
    return replace(state, implausible=reasons, solution=replace(state.solution, converged=good))


def not_finite(parts: Mapping[str, Tensor], converged: Tensor) -> dict[int, str]:
    """Which molecules have an energy that is none although their SCF converged, and the part of it that is to blame."""
    lost = converged & ~torch.isfinite(torch.stack(list(parts.values())).detach()).all(0)
    return {k: "not finite: the energy's part " + ", ".join(n for n, v in parts.items() if not bool(torch.isfinite(v[k])))
            for k in lost.nonzero()[:, 0].tolist()}
