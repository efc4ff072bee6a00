"""The local energy E_L = (H psi)/psi of a real-space wavefunction, hartree: its average over |psi|^2 is the energy."""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.wavefunction.real_space.protocols import DifferentiableAmplitude

MATRIX_LIMIT = 2**27        # numbers a pass may hold; larger batches of walkers are taken in chunks


def kinetic(jacobian: Float[Tensor, "coordinate walker"], laplacian: Float[Tensor, "walker"]) -> Float[Tensor, "walker"]:
    """The kinetic energy -1/2 (laplacian ln|psi| + |grad ln|psi||^2), from the derivatives of ln|psi| by the electrons."""
    return -0.5 * (laplacian + jacobian.square().sum(0))


def potential(r: Float[Tensor, "walker electron 3"], nuclei: Float[Tensor, "... atom 3"],
              charges: Float[Tensor, "atom"]) -> Float[Tensor, "walker"]:
    """The Coulomb energy of electrons and nuclei among themselves and with each other.

    Nuclei that differ from walker to walker have the shape `walker 1 atom 3`.
    """
    attraction = -(charges / (r[..., :, None, :] - nuclei).norm(dim=-1)).sum((-2, -1))
    i, j = torch.triu_indices(r.shape[-2], r.shape[-2], 1, device=r.device)
    a, b = torch.triu_indices(len(charges), len(charges), 1, device=r.device)
    repulsion = (1 / (r[..., i, :] - r[..., j, :]).norm(dim=-1)).sum(-1)
    between = (nuclei[..., a, :] - nuclei[..., b, :]).norm(dim=-1)
    return attraction + repulsion + (charges[a] * charges[b] / between).sum(-1).reshape(-1)


def local_energy(psi: DifferentiableAmplitude, r: Float[Tensor, "walker electron 3"]) -> Float[Tensor, "walker"]:
    """E_L = -1/2 (laplacian ln|psi| + |grad ln|psi||^2) + V at each walker."""
    _, jet = psi.jets(r)
    return kinetic(jet.jacobian, jet.laplacian) + potential(r, psi.nuclei, psi.charges)


def local_energies(psi: DifferentiableAmplitude, r: Float[Tensor, "walker electron 3"]) -> Float[Tensor, "walker"]:
    """`local_energy` off the tape, for chunks of walkers that fit into memory."""
    n = r.shape[-2]
    chunk = max(16, MATRIX_LIMIT // ((3 * n + 2) * n * psi.determinants * max(n, 32)))
    with torch.no_grad():
        return torch.cat([local_energy(psi, part) for part in r.split(chunk)])


def clipped(energies: Float[Tensor, "walker"], width: float = 5.0) -> Float[Tensor, "walker"]:
    """The energies, those beyond median +- `width` mean absolute deviations moved there: for gradients, never for averages."""
    centre = energies.median()
    reach = width * (energies - centre).abs().mean()
    return energies.clamp(centre - reach, centre + reach)
