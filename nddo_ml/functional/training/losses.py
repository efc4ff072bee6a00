"""What a training makes small: Huber losses of reaction energies and of properties of the density, each kind's mean times its
weight, at densities that stay as they are."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.functional.base import Functional
from nddo_ml.functional.pyscf.densities import Snapshot, energy
from nddo_ml.functional.pyscf.response import Variation, property_of
from nddo_ml.functional.reactions import KCAL, KINDS, PROPERTIES, Property, Reaction
from nddo_ml.functional.training.config import FunctionalLosses

# error of a property that weighs as much as losses.width of an energy: debye, eV, bohr^-3
COMPARABLE = {"dipole": 0.1, "orbital": 0.5, "density": 1e-4}
UNITS = {"dipole": "debye", "orbital": "eV", "density": "bohr^-3"}


def reaction_errors(reactions: Iterable[Reaction], energies: Mapping[str, float]) -> dict[Reaction, float]:
    """Model less reference, kcal/mol, of the reactions all of whose energies (hartree) there are."""
    return {r: KCAL * sum(c * energies[key] for c, key in zip(r.coefficients, r.systems, strict=True)) - r.reference
            for r in reactions if all(key in energies for key in r.systems)}


def property_error(wanted: Property, value: float) -> float:
    """Model less reference of a property, in its unit; the distance of a density is its own error."""
    if wanted.kind == "density" or isinstance(wanted.reference, str):
        return value
    return value - wanted.reference


def mean_errors(reactions: Iterable[Reaction], energies: Mapping[str, float],
                values: Mapping[Property, float] | None = None) -> dict[str, float]:
    """Mean absolute error by kind: kcal/mol of reactions; debye, eV and bohr^-3 of properties; NaN where there is none."""
    errors = reaction_errors(reactions, energies)
    by_kind = {kind: [abs(e) for r, e in errors.items() if r.kind == kind] for kind in KINDS}
    by_kind |= {kind: [abs(property_error(wanted, q)) for wanted, q in (values or {}).items() if wanted.kind == kind]
                for kind in PROPERTIES}
    return {kind: sum(e) / len(e) if e else math.nan for kind, e in by_kind.items()}


def score(errors: Mapping[str, float], losses: FunctionalLosses) -> float:
    """The errors by kind times their weights, kcal/mol; what is not finite counts nothing."""
    return sum(getattr(losses, kind) * e * losses.width / COMPARABLE.get(kind, losses.width)
               for kind, e in errors.items() if math.isfinite(e))


@dataclass(frozen=True)
class Residuals:
    """Errors and how they depend on the parameters."""

    values: Float[Tensor, "residual"]                   # in units of their widths
    jacobian: Float[Tensor, "residual parameter"]       # their derivatives
    weights: Float[Tensor, "residual"]                  # of their losses

    @property
    def loss(self) -> float:
        """sum of weight * Huber(value)."""
        huber = torch.nn.functional.huber_loss(self.values, torch.zeros_like(self.values), reduction="none")
        return float((self.weights * huber).sum())

    @property
    def curvature(self) -> Float[Tensor, "residual"]:
        """Weights of the squares that touch the losses from above: weight / max(1, |value|)."""
        return self.weights / self.values.abs().clamp(min=1.0)


def residuals(functional: Functional, snapshots: Mapping[str, Snapshot], reactions: Iterable[Reaction],
              losses: FunctionalLosses, variations: Iterable[Variation] = ()) -> Residuals:
    """Of all reactions whose densities there are, and of properties. One density at a time is differentiated."""
    parameters = [p for p in functional.parameters() if p.requires_grad]
    energies = {key: _with_gradient(energy(functional, s), parameters) for key, s in snapshots.items()}
    rows: list[tuple[str, float, Tensor]] = []
    for r in (r for r in reactions if getattr(losses, r.kind) and all(key in energies for key in r.systems)):
        terms = [(c, *energies[key]) for c, key in zip(r.coefficients, r.systems, strict=True)]
        gradient = sum((c * KCAL / losses.width * g for c, _, g in terms), torch.zeros((), dtype=torch.float64))
        rows.append((r.kind, (KCAL * sum(c * e for c, e, _ in terms) - r.reference) / losses.width, gradient))
    for v in (v for v in variations if getattr(losses, v.property.kind)):
        q, g = _with_gradient(property_of(functional, v), parameters)
        width = COMPARABLE[v.property.kind]
        rows.append((v.property.kind, property_error(v.property, q) / width, g / width))
    count = {kind: sum(row[0] == kind for row in rows) for kind, *_ in rows}
    return Residuals(torch.tensor([e for _, e, _ in rows], dtype=torch.float64), torch.stack([g for *_, g in rows]),
                     torch.tensor([getattr(losses, kind) / count[kind] for kind, *_ in rows], dtype=torch.float64))


def _with_gradient(value: Tensor, parameters: Sequence[Tensor]) -> tuple[float, Tensor]:
    """(number, its gradient by all parameters in a row)."""
    slopes = torch.autograd.grad(value, parameters, allow_unused=True)
    flat = [torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1) for p, g in zip(parameters, slopes, strict=True)]
    return float(value.detach()), torch.cat(flat)
