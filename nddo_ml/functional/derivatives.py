"""Derivatives of an energy density by the variables of the grid, to any order, by repeated differentiation in torch.

The variables of a closed shell are its total n, |grad n|^2 and tau; those of spin channels are n_u, n_d, sigma_uu, sigma_ud,
sigma_dd, tau_u, tau_d. Derivatives of an order stand in lexicographic order of their variables (i <= j <= k). Points of a total
density below DENSE have zeros everywhere.
"""

from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.errors import SCFNotConverged
from nddo_ml.functional.base import Functional
from nddo_ml.functional.density import DENSE, Density

CHUNK = 8192      # points at a time, copies for derivatives included: they stay in the cache


def density_of(functional: Functional, rows: Float[Tensor, "variable grid"], polarised: bool) -> Density:
    """The density whose variables, in the order above, are the rows; one row per spin channel where it is polarised."""
    spins, pairs = (2, 3) if polarised else (1, 1)
    scale = (1.0, 1.0) if polarised else (0.5, 0.25)      # of the channel of a closed shell
    sigma = rows[spins:spins + pairs] * scale[1] if functional.gradient else None
    tau = rows[spins + pairs:2 * spins + pairs] * scale[0] if functional.kinetic else None
    return Density(rows[:spins] * scale[0], sigma, tau)


def derivatives(functional: Functional, rows: Float[Tensor, "variable grid"], polarised: bool,
                order: int) -> list[Float[Tensor, "derivative grid"]]:
    """[e, de, d2e, ...] up to `order`: hartree bohr^-3, and that per unit of the variables; e has one row.

    Parameters of the functional are constants here: the result carries no gradient.

    Raises:
        SCFNotConverged: the density is not finite.
    """
    if not bool(torch.isfinite(rows).all()):
        count = int((~torch.isfinite(rows)).sum())
        raise SCFNotConverged(f"The density on the grid is not finite ({count} values), so {functional.label} has no energy; "
                              "look for a diverging SCF, or a wrong density matrix as its start.")
    device = next((weight.device for weight in functional.parameters()), rows.device)
    size = CHUNK // len(_paths(len(rows), order))
    chunks = [_of_chunk(functional, chunk.to(device), polarised, order) for chunk in rows.split(size, dim=1)]
    return [torch.cat(levels, dim=1).to(rows.device) for levels in zip(*chunks, strict=True)]


def _of_chunk(functional: Functional, rows: Tensor, polarised: bool, order: int) -> list[Tensor]:
    """The derivatives at a few points, with zeros where there is no density."""
    spins = 2 if polarised else 1
    dense = rows[:spins].sum(0) > DENSE
    kept = rows[:, dense]
    kept = torch.cat([kept[:spins].clamp(min=0.0), kept[spins:]])      # rounding may leave a channel below zero
    with torch.enable_grad():
        levels = _nested(functional, kept, polarised, order)
    result = []
    for level in levels:
        whole = rows.new_zeros(level.shape[0], rows.shape[1])
        whole[:, dense] = level
        result.append(whole)
    return result


def _nested(functional: Functional, rows: Tensor, polarised: bool, order: int) -> list[Tensor]:
    """Derivatives of one chunk. Each sequence of variables but the last has a copy of the points, so that every order is one
    differentiation of all of them."""
    paths = _paths(len(rows), order)
    variables = [row.repeat(len(paths)).requires_grad_(order > 0) for row in rows]
    value = functional.energy_density(density_of(functional, torch.stack(variables), polarised))
    levels = [value[None, :rows.shape[1]]]
    for k in range(order):
        slopes = torch.stack(_gradients(value, variables, k + 1 < order)).reshape(len(rows), len(paths), rows.shape[1])
        copy = {path[:k]: index for index, path in enumerate(paths)}
        sequences = combinations_with_replacement(range(len(rows)), k + 1)
        levels.append(torch.stack([slopes[i[-1], copy[i[:-1]]] for i in sequences]))
        if k + 1 < order:
            value = slopes[[path[k] for path in paths], range(len(paths))]
    return [level.detach() for level in levels]


def _paths(variables: int, order: int) -> list[tuple[int, ...]]:
    """Sequences of variables of all differentiations but the last."""
    return list(combinations_with_replacement(range(variables), max(order - 1, 0)))


def _gradients(value: Tensor, variables: list[Tensor], again: bool) -> list[Tensor]:
    """The derivative of a sum by each variable; `again`: with a graph for the next one."""
    if not value.requires_grad:
        return [torch.zeros_like(v) for v in variables]
    slopes = torch.autograd.grad(value.sum(), variables, create_graph=again, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(v) if slope is None else slope for slope, v in zip(slopes, variables, strict=True)]
