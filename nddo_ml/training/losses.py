"""What a training minimises: Huber losses of energies, forces, dipoles and whatever else is labelled, and restraints.

Each term is the mean over what is labelled in a batch and valid, in eV, angstrom and e, times its weight. A Huber loss is the
square of an error up to a width and grows linearly beyond, so that no single structure decides a step. A label with an error
bar counts less, by `trust`: of values scattered by the model (w) and by their labels (s), w^2/(w^2 + s^2) is the weight of
least variance.
P. J. Huber, Ann. Math. Statist. 35, 73 (1964)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.common.extras import named
from nddo_ml.common.struct import cached
from nddo_ml.errors import UnknownOption
from nddo_ml.hamiltonian.results import Result
from nddo_ml.training.batches import Batch


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of the loss, and of its restraints; a term of weight 0 is left out."""

    forces: float = 1.0
    energy: float = 4.0             # of the error per square root of the number of atoms
    dipole: float = 40.0
    relative: float = 0.0           # energies of the frames of one molecule among themselves, per square root of atoms
    interaction: float = 0.0        # energies of complexes less those of their fragments
    charges: float = 0.0
    point_charges: float = 0.0      # forces on the point charges around a frame
    gap: float = 0.0                # restraint: gaps below `Widths.gap`
    drift: float = 0.0              # restraint: mean square shift of the parameters relative to their bounds
    local: float = 0.01             # restraint: mean square energy of the head `local`, eV per atom
    own: dict = field(default_factory=dict)     # weights of losses of your own by "module:Name" (`own_loss`)


@dataclass(frozen=True)
class Widths:
    """Errors at which the losses turn from squares into straight lines."""

    forces: float = 0.5             # eV/angstrom
    energy: float = 0.2             # eV per square root of the number of atoms
    interaction: float = 0.1        # eV
    dipole: float = 0.2             # e angstrom
    charges: float = 0.1            # e
    point_charges: float = 0.1      # eV/angstrom
    gap: float = 3.0                # eV, no width: the gap below which the restraint acts


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says about a batch; on the tape."""

    energy: Float[Tensor, "molecule"]                   # eV, with all offsets
    forces: Float[Tensor, "atom 3"]                     # eV/angstrom
    dipole: Float[Tensor, "molecule 3"]                 # e angstrom
    charges: Float[Tensor, "atom"]                      # e
    gap: Float[Tensor, "molecule"] | None               # eV
    site_forces: Float[Tensor, "site 3"] | None         # on the point charges, eV/angstrom
    drift: Float[Tensor, ""] | None                     # see Weights; None without a network
    local: Float[Tensor, "atom"] | None                 # eV, in no order; None without the head `local`
    valid: Bool[Tensor, "molecule"]                     # which molecules count
    result: Result | None = None                        # all of it, for losses of your own


OwnLoss = Callable[[Outputs, Batch], Tensor]


@cached
def own_loss(name: str) -> OwnLoss:
    """The loss that "module:Name" names: a function loss(outputs, batch), or a class of which an object is made.

    It returns one number, on the tape. What does not count (`outputs.valid`, `batch.counts`) and labels that are missing (NaN)
    it leaves out itself.

    Raises:
        UnknownOption: there is no such loss, or it cannot be called.
    """
    loss = named(name, "a loss")
    if isinstance(loss, type):
        loss = loss()
    if not callable(loss):
        raise UnknownOption(f"The loss {name} is {loss!r}: expected a function of (found, batch), or a class of such.")
    return cast(OwnLoss, loss)              # what it returns is checked when it is called (`_number`)


def huber(x: Float[Tensor, "..."], width: float) -> Float[Tensor, "..."]:
    """x^2 up to |x| = width, width (2 |x| - width) beyond."""
    size = x.abs()
    return torch.where(size < width, x.square(), width * (2 * size - width))


def trust(error: Float[Tensor, "..."], width: float) -> Float[Tensor, "..."]:
    """Weight 1/(1 + (s/w)^2) of a label with the standard error s, w the width of its Huber loss; 1 for an exact label."""
    return 1 / (1 + (error / width).square())


def terms(outputs: Outputs, batch: Batch, weights: Weights, widths: Widths) -> dict[str, Tensor]:
    """The weighted terms by name; those of weight 0, or without any label in the batch, are left out.

    Raises:
        UnknownOption: a loss of one's own does not exist, or returns something else than one number.
    """
    parts = _labelled(outputs, batch, weights, widths)
    valid = outputs.valid & batch.counts
    if weights.gap and outputs.gap is not None:
        parts["gap"] = weights.gap * torch.relu(widths.gap - outputs.gap[valid]).square().mean()
    if weights.drift and outputs.drift is not None:
        parts["drift"] = weights.drift * outputs.drift
    if weights.local and outputs.local is not None:
        parts["local"] = weights.local * outputs.local.square().mean()
    for name, weight in weights.own.items():
        if weight:
            parts[name] = weight * _number(own_loss(name)(outputs, batch), name)
    return parts


def _labelled(outputs: Outputs, batch: Batch, weights: Weights, widths: Widths) -> dict[str, Tensor]:
    """The weighted Huber losses of what is labelled."""
    valid = outputs.valid & batch.counts
    of_atoms = valid[batch.molecules.molecule]
    error = (outputs.energy - batch.energy)[valid] / batch.atoms[valid].sqrt()
    doubt = batch.energy_error[valid] / batch.atoms[valid].sqrt()
    parts: dict[str, Tensor] = {}

    def add(name: str, values: Tensor, width: float, doubt: Tensor | None = None) -> None:
        known = torch.isfinite(values.detach())
        if getattr(weights, name) and bool(known.any()):
            loss = huber(values[known], width)
            parts[name] = getattr(weights, name) * (loss if doubt is None else trust(doubt[known], width) * loss).mean()

    add("forces", (outputs.forces - batch.forces)[of_atoms], widths.forces, batch.forces_error[of_atoms])
    add("energy", error, widths.energy, doubt)
    if weights.relative:
        several = _several(batch.species[valid])
        add("relative", _within(error, batch.species[valid])[several], widths.energy, doubt[several])
    if weights.interaction:
        difference, uncertain = _interactions(outputs, batch)
        add("interaction", difference, widths.interaction, uncertain)
    labelled = valid & torch.isfinite(batch.dipole).all(-1)
    add("dipole", (outputs.dipole - batch.dipole)[labelled], widths.dipole)
    if weights.charges:
        add("charges", (outputs.charges - batch.charges)[of_atoms & torch.isfinite(batch.charges)], widths.charges)
    sites, site_forces = batch.point_charges, batch.site_forces
    if weights.point_charges and outputs.site_forces is not None and sites is not None and site_forces is not None:
        add("point_charges", (outputs.site_forces - site_forces)[valid[sites.molecule]], widths.point_charges)
    return parts


def _number(value: object, name: str) -> Float[Tensor, ""]:
    """The value of the loss `name` of one's own; UnknownOption where it is not one number."""
    if not isinstance(value, Tensor) or value.dim():
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UnknownOption(f"The loss {name} returned {shape}: expected a tensor of one number.")
    return value


def _counts(species: Int[Tensor, "frame"]) -> Int[Tensor, "species"]:
    """How many frames there are of each species."""
    return torch.bincount(species, minlength=int(species.max()) + 1 if len(species) else 0)


def _several(species: Int[Tensor, "frame"]) -> Bool[Tensor, "frame"]:
    """Frames that are not the only one of their species."""
    return _counts(species)[species] > 1


def _within(error: Float[Tensor, "frame"], species: Int[Tensor, "frame"]) -> Float[Tensor, "frame"]:
    """Errors less the mean error of the frames of the same species."""
    count = _counts(species).to(error.dtype)
    total = error.new_zeros(len(count)).index_add(0, species, error)
    return error - (total / count.clamp(min=1))[species]


def _interactions(outputs: Outputs, batch: Batch) -> tuple[Float[Tensor, "complex"], Float[Tensor, "complex"]]:
    """Errors of the interaction energies of complexes that are valid with all their fragments, and the error bars of their
    labels; eV."""
    whole = ~(batch.interactions[:, ~outputs.valid] != 0).any(1)
    error = torch.where(outputs.valid, outputs.energy - batch.energy, 0.0)
    return batch.interactions[whole] @ error, (batch.interactions[whole].square() @ batch.energy_error.square()).sqrt()
