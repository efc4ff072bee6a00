"""What a training makes small: Huber losses of reaction energies and of properties of the density, each kind's mean times its
weight, at densities that stay as they are."""

import math
from collections.abc import Mapping, Sequence

import torch

from nddo_ml.functional.base import Functional
from nddo_ml.functional.delocalisation import KCAL
from nddo_ml.functional.pyscf_densities import Snapshot, energy
from nddo_ml.functional.pyscf_response import Variation, property_of
from nddo_ml.functional.thermochemistry import KINDS, PROPERTIES, Property, Reaction

# error of a property that weighs as much as losses.width of an energy: debye, eV, bohr^-3
COMPARABLE = {"dipole": 0.1, "orbital": 0.5, "density": 1e-4}


def errors_of(reactions: Sequence[Reaction], energies: Mapping) -> dict[Reaction, float]:
    """Model less reference, kcal/mol, of the reactions all of whose energies (hartree) there are."""
    return {r: KCAL * sum(c * energies[key] for c, key in zip(r.coefficients, r.systems, strict=True)) - r.reference
            for r in reactions if all(key in energies for key in r.systems)}


def off(wanted: Property, value):
    """Model less reference of a property."""
    return value if wanted.kind == "density" else value - wanted.reference


def mean_errors(reactions: Sequence[Reaction], energies: Mapping, values: Mapping[Property, float] | None = None) -> dict:
    """Mean absolute error by kind, kcal/mol (debye, eV, bohr^-3 of properties); NaN without any."""
    found = errors_of(reactions, energies)
    by_kind = {kind: [abs(e) for r, e in found.items() if r.kind == kind] for kind in KINDS}
    by_kind |= {kind: [abs(off(p, q)) for p, q in (values or {}).items() if p.kind == kind] for kind in PROPERTIES}
    return {kind: sum(e) / len(e) if e else math.nan for kind, e in by_kind.items()}


def score(errors: Mapping[str, float], losses) -> float:
    """The errors by kind times their weights, kcal/mol; what is not finite counts nothing."""
    return sum(getattr(losses, kind) * e * losses.width / COMPARABLE.get(kind, losses.width)
               for kind, e in errors.items() if math.isfinite(e))


def total_loss(energies: Mapping[str, torch.Tensor], values: Mapping[Property, torch.Tensor], reactions: Sequence[Reaction],
               losses) -> torch.Tensor:
    """sum over kinds of weight * mean of Huber(error / width)."""
    by_kind: dict[str, list] = {}
    for r, e in errors_of(reactions, energies).items():
        by_kind.setdefault(r.kind, []).append(e / losses.width)
    for p, q in values.items():
        by_kind.setdefault(p.kind, []).append(off(p, q) / COMPARABLE[p.kind])
    total = torch.zeros((), dtype=torch.float64)
    for kind, e in by_kind.items():
        e = torch.stack(e)
        total = total + getattr(losses, kind) * torch.nn.functional.huber_loss(e, torch.zeros_like(e))
    return total


def loss_and_gradient(functional: Functional, snapshots: Mapping[str, Snapshot], reactions: Sequence[Reaction], losses,
                      variations: Sequence[Variation] = ()) -> float:
    """The loss, with its gradient added to the parameters. One density at a time is differentiated: the loss is a function of
    few numbers, whose gradients are kept."""
    parameters = [p for p in functional.parameters() if p.requires_grad]
    energies = {key: _with_gradient(energy(functional, s), parameters) for key, s in snapshots.items()}
    values = {v.property: _with_gradient(property_of(functional, v), parameters) for v in variations}
    leaves = {key: e.requires_grad_() for key, (e, _) in energies.items()}
    property_leaves = {key: q.requires_grad_() for key, (q, _) in values.items()}
    total = total_loss(leaves, property_leaves, reactions, losses)
    numbers = [*leaves.values(), *property_leaves.values()]
    slopes = torch.autograd.grad(total, numbers, allow_unused=True) if total.requires_grad else [None] * len(numbers)
    gradients = [g for _, g in (*energies.values(), *values.values())]
    for slope, gradient in zip(slopes, gradients, strict=True):
        for p, g in zip(parameters, gradient, strict=True):
            if slope is not None and g is not None:
                p.grad = slope * g if p.grad is None else p.grad + slope * g
    return float(total.detach())


def _with_gradient(value, parameters):
    """(number without history, its gradient by the parameters)."""
    return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)
