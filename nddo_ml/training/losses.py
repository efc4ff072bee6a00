"""What a training minimises: Huber losses of energies, forces, dipoles and whatever else is labelled, and two restraints.

Each term is the mean over what is labelled in a batch and valid, in eV, angstrom and e, times its weight. A Huber loss is the
square of an error up to a width and grows linearly beyond, so that no single structure decides a step. A label with an error
bar counts less, by `trust`: of values scattered by the model (w) and by their labels (s), w^2/(w^2 + s^2) is the weight of
least variance.
P. J. Huber, Ann. Math. Statist. 35, 73 (1964)
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.common.extras import named
from nddo_ml.common.struct import cached
from nddo_ml.errors import UnknownOption
from nddo_ml.hamiltonian.results import Result
from nddo_ml.training.batches import Batch


@dataclass(frozen=True)
class Weights:
    """Weights of the terms: forces, energy (per square root of the number of atoms), dipole, relative (energies of frames of
    one molecule among themselves, per square root of atoms), interaction (complexes less their fragments), charges,
    point_charges (forces on them); and restraints: gap (below `Widths.gap`), drift (mean square shift of the parameters
    relative to their bounds), local (mean square energy of the head `local`, eV per atom). own: losses of one's own, weights by
    "module:Name", which [stage.losses] may also hold directly (`own_loss`)."""

    forces: float = 1.0
    energy: float = 4.0
    dipole: float = 40.0
    relative: float = 0.0
    interaction: float = 0.0
    charges: float = 0.0
    point_charges: float = 0.0
    gap: float = 0.0
    drift: float = 0.0
    local: float = 0.01
    own: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Widths:
    """Errors at which the losses turn from squares into straight lines: forces eV/angstrom, energy eV (per square root of
    atoms), interaction eV, dipole e angstrom, charges e, point_charges eV/angstrom; gap: the gap (eV) below which the
    restraint acts."""

    forces: float = 0.5
    energy: float = 0.2
    interaction: float = 0.1
    dipole: float = 0.2
    charges: float = 0.1
    point_charges: float = 0.1
    gap: float = 3.0


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says about a batch, on the tape: energies with all offsets, forces, dipole, charges, gaps, forces on the
    point charges (None without), drift of the parameters and local energies of the atoms (None where there are none); `valid`
    marks the molecules that count. result: all of it, for losses of one's own."""

    energy: Float[Tensor, "molecule"]
    forces: Float[Tensor, "atom 3"]
    dipole: Float[Tensor, "molecule 3"]
    charges: Float[Tensor, "atom"]
    gap: Float[Tensor, "molecule"] | None
    site_forces: Float[Tensor, "site 3"] | None
    drift: Tensor | None
    local: Float[Tensor, "atom"] | None
    valid: Bool[Tensor, "molecule"]
    result: Result | None = None


@cached
def own_loss(name: str) -> Callable[[Outputs, Batch], Tensor]:
    """The loss that "module:Name" names: a function loss(found, batch), or a class of which an object is made, that returns one
    number, on the tape. What does not count (`found.valid`, `batch.counts`) and labels that are missing (NaN) it leaves out
    itself. UnknownOption: there is none."""
    found = named(name, "a loss")
    found = found() if isinstance(found, type) else found
    if not callable(found):
        raise UnknownOption(f"The loss {name} is {found!r}: expected a function of (found, batch), or a class of such.")
    return found


def huber(x: Tensor, width: float) -> Tensor:
    """x^2 up to |x| = width, width (2 |x| - width) beyond."""
    size = x.abs()
    return torch.where(size < width, x.square(), width * (2 * size - width))


def trust(error: Tensor, width: float) -> Tensor:
    """Weight 1/(1 + (s/w)^2) of a label with the standard error s, w the width of its Huber loss; 1 for an exact label."""
    return 1 / (1 + (error / width).square())


def terms(found: Outputs, batch: Batch, weights: Weights, widths: Widths) -> dict[str, Tensor]:
    """The weighted terms by name; those of weight 0, or without any label in the batch, are left out."""
    valid = found.valid & batch.counts
    of_atoms = valid[batch.molecules.molecule]
    error = (found.energy - batch.energy)[valid] / batch.atoms[valid].sqrt()
    doubt = batch.energy_error[valid] / batch.atoms[valid].sqrt()
    parts = {}

    def add(name, values, width, doubt=None):
        known = torch.isfinite(values.detach())
        if getattr(weights, name) and bool(known.any()):
            loss = huber(values[known], width)
            parts[name] = getattr(weights, name) * (loss if doubt is None else trust(doubt[known], width) * loss).mean()

    add("forces", (found.forces - batch.forces)[of_atoms], widths.forces, batch.forces_error[of_atoms])
    add("energy", error, widths.energy, doubt)
    if weights.relative:
        several = _several(batch.species[valid])
        add("relative", _within(error, batch.species[valid])[several], widths.energy, doubt[several])
    if weights.interaction:
        difference, uncertain = _interactions(found, batch)
        add("interaction", difference, widths.interaction, uncertain)
    labelled = valid & torch.isfinite(batch.dipole).all(-1)
    add("dipole", (found.dipole - batch.dipole)[labelled], widths.dipole)
    if weights.charges:
        add("charges", (found.charges - batch.charges)[of_atoms & torch.isfinite(batch.charges)], widths.charges)
    if weights.point_charges and found.site_forces is not None:
        of_sites = valid[batch.point_charges.molecule]
        add("point_charges", (found.site_forces - batch.site_forces)[of_sites], widths.point_charges)
    if weights.gap and found.gap is not None:
        parts["gap"] = weights.gap * torch.relu(widths.gap - found.gap[valid]).square().mean()
    if weights.drift and found.drift is not None:
        parts["drift"] = weights.drift * found.drift
    if weights.local and found.local is not None:
        parts["local"] = weights.local * found.local.square().mean()
    for name, weight in weights.own.items():
        if weight:
            parts[name] = weight * _number(own_loss(name)(found, batch), name)
    return parts


def _number(value, name):
    """The value of a loss of one's own. UnknownOption: it is not one number."""
    if not isinstance(value, Tensor) or value.dim():
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UnknownOption(f"The loss {name} returned {shape}: expected a tensor of one number.")
    return value


def _counts(species):
    return torch.bincount(species, minlength=int(species.max()) + 1 if len(species) else 0)


def _several(species):
    """Frames that are not the only one of their species."""
    return _counts(species)[species] > 1


def _within(error, species):
    """Errors less the mean error of the frames of the same species."""
    count = _counts(species).to(error.dtype)
    total = error.new_zeros(len(count)).index_add(0, species, error)
    return error - (total / count.clamp(min=1))[species]


def _interactions(found, batch):
    """Errors of the interaction energies of complexes that are valid with all their fragments, and the error bars of their
    labels."""
    whole = ~(batch.interactions[:, ~found.valid] != 0).any(1)
    error = torch.where(found.valid, found.energy - batch.energy, 0.0)
    return batch.interactions[whole] @ error, (batch.interactions[whole].square() @ batch.energy_error.square()).sqrt()
