"""Forces on the nuclei of a real-space wavefunction, with space-warp coordinates: electrons near a nucleus move with it.

F_A = -< dE_L/dR_A + sum_i w_iA dE_L/dr_i > - 2 < (E_L - E) (dln|psi|/dR_A + sum_i w_iA dln|psi|/dr_i + 1/2 sum_i dw_iA/dr_i) >,
w_iA = |r_i - R_A|^-4 / sum_B |r_i - R_B|^-4. Unlike that of the bare Hellmann-Feynman force its variance does not
diverge where an electron meets a nucleus. Exact where the parameters are at their minimum.
C. Umrigar, Int. J. Quantum Chem. 36, 217 (1989); S. Sorella, L. Capriotti, J. Chem. Phys. 133, 234111 (2010)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from nddo_ml.wavefunction.real_space.local_energy import clipped, kinetic, potential
from nddo_ml.wavefunction.real_space.sampling import roam
from nddo_ml.wavefunction.real_space.statistics import reblocked
from nddo_ml.wavefunction.real_space.variational import in_double, random_numbers

CHUNK = 128     # walkers at a time: the tape of a local energy is long


@dataclass(frozen=True)
class Forces:
    """force and error `atom 3`, hartree/bohr."""

    force: Float[Tensor, "atom 3"]
    error: Float[Tensor, "atom 3"]


class _LocalEnergy(torch.nn.Module):
    """(E_L, ln|psi|) with a tape by electrons and nuclei."""

    def __init__(self, psi):
        super().__init__()
        self.psi = psi

    def forward(self, r):
        _, jet = self.psi.jets(r)
        return kinetic(jet.jacobian, jet.laplacian) + potential(r, self.psi.nuclei, self.psi.charges), jet.value


def warp(r: Float[Tensor, "walker electron 3"], nuclei: Float[Tensor, "atom 3"]) -> tuple[Tensor, Tensor]:
    """Share of each nucleus in the motion of each electron, `walker electron atom`, and its gradient by the electron."""
    d = r[..., :, None, :] - nuclei
    s = d.square().sum(-1)
    weight = (s.amin(-1, keepdim=True) / s).square()
    weight = weight / weight.sum(-1, keepdim=True)
    slope = -4 * d / s[..., None]                                   # of ln |r - R|^-4
    return weight, weight[..., None] * (slope - (weight[..., None] * slope).sum(-2, keepdim=True))


def contributions(psi, r: Float[Tensor, "walker electron 3"]) -> tuple[Tensor, Tensor, Tensor]:
    """(E_L `walker`; its derivative along the warp and that of ln|psi| J^1/2, `walker atom 3`)."""
    found = []
    for part in r.split(CHUNK):
        x = part.detach().requires_grad_(True)
        R = psi.nuclei.expand(len(part), 1, -1, -1).clone().requires_grad_(True)      # each walker its own: one pass, all rows
        energy, log = functional_call(_LocalEnergy(psi), {"psi.nuclei": R}, (x,))
        weight, divergence = warp(part, psi.nuclei)
        warped = []
        for f in (energy, log):
            by_electrons, by_nuclei = torch.autograd.grad(f.sum(), (x, R), retain_graph=True)
            warped.append(by_nuclei[:, 0] + torch.einsum("nia,nic->nac", weight, by_electrons))
        found.append((energy.detach(), warped[0], warped[1] + 0.5 * divergence.sum(1)))
    return tuple(torch.cat(x) for x in zip(*found, strict=True))


def forces(psi, state, blocks: int, steps: int = 10) -> Forces:
    """Forces with reblocked errors from `blocks` times, `steps` Metropolis steps apart; local energies and their derivatives
    beyond ten mean deviations, near nodes, are moved there."""
    generator, walkers, rows, exactly = random_numbers(state), state.walkers, [], in_double(psi)
    for _ in range(blocks):
        walkers = roam(psi, walkers, steps, generator, adapt=False)
        rows.append(contributions(exactly, walkers.r.to(exactly.nuclei)))
    energy, slope, log = (torch.stack(x) for x in zip(*rows, strict=True))
    energy = clipped(energy.flatten(), 10.0).reshape(energy.shape)
    terms = -2 * (energy - energy.mean())[..., None, None] * (log - log.mean((0, 1)))
    atoms = slope.shape[2]
    estimates = [reblocked(terms[..., a, c] - clipped(slope[..., a, c].flatten(), 10.0).reshape(energy.shape))
                 for a in range(atoms) for c in range(3)]
    return Forces(torch.tensor([e.mean for e in estimates]).reshape(atoms, 3),
                  torch.tensor([e.error for e in estimates]).reshape(atoms, 3))
