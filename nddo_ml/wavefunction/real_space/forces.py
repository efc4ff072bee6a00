"""Forces on the nuclei of a real-space wavefunction, with space-warp coordinates: electrons near a nucleus move with it.

    F_A = -< dE_L/dR_A + sum_i w_iA dE_L/dr_i >
          - 2 < (E_L - E) (dln|psi|/dR_A + sum_i w_iA dln|psi|/dr_i + 1/2 sum_i dw_iA/dr_i) >
    w_iA = |r_i - R_A|^-4 / sum_B |r_i - R_B|^-4

The averages are over |psi|^2. Unlike the bare Hellmann-Feynman force, this one has a variance that does not diverge where an
electron meets a nucleus. It is exact if the parameters are at the minimum of the energy.
C. Umrigar, Int. J. Quantum Chem. 36, 217 (1989); S. Sorella, L. Capriotti, J. Chem. Phys. 133, 234111 (2010)
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from nddo_ml.wavefunction.real_space.ansatz import Wavefunction
from nddo_ml.wavefunction.real_space.local_energy import clipped, kinetic, potential
from nddo_ml.wavefunction.real_space.sampling import roam
from nddo_ml.wavefunction.real_space.statistics import reblocked
from nddo_ml.wavefunction.real_space.variational import WalkerState, in_double, random_numbers

CHUNK = 128     # walkers at a time: the tape of a local energy is long

Contributions: TypeAlias = tuple[Float[Tensor, "walker"], Float[Tensor, "walker atom 3"], Float[Tensor, "walker atom 3"]]


@dataclass(frozen=True)
class Forces:
    """Forces on the nuclei, hartree/bohr."""

    force: Float[Tensor, "atom 3"]
    error: Float[Tensor, "atom 3"]      # standard errors


class _LocalEnergy(torch.nn.Module):
    """(E_L, ln|psi|) `walker` on the tape of electrons and nuclei; a module, because functional_call replaces the nuclei."""

    def __init__(self, psi: Wavefunction):
        super().__init__()
        self.psi = psi

    def forward(self, r: Float[Tensor, "walker electron 3"]) -> tuple[Float[Tensor, "walker"], Float[Tensor, "walker"]]:
        _, jet = self.psi.jets(r)
        return kinetic(jet.jacobian, jet.laplacian) + potential(r, self.psi.nuclei, self.psi.charges), jet.value


def warp(r: Float[Tensor, "walker electron 3"],
         nuclei: Float[Tensor, "atom 3"]) -> tuple[Float[Tensor, "walker electron atom"],
                                                   Float[Tensor, "walker electron atom 3"]]:
    """(share w_iA of each nucleus in the motion of each electron, its gradient by the position of the electron)."""
    d = r[..., :, None, :] - nuclei
    s = d.square().sum(-1)
    weight = (s.amin(-1, keepdim=True) / s).square()
    weight = weight / weight.sum(-1, keepdim=True)
    slope = -4 * d / s[..., None]                                   # of ln |r - R|^-4
    return weight, weight[..., None] * (slope - (weight[..., None] * slope).sum(-2, keepdim=True))


def contributions(psi: Wavefunction, r: Float[Tensor, "walker electron 3"]) -> Contributions:
    """(E_L in hartree, its derivative along the warp, that of ln|psi| J^1/2) at each walker, J the Jacobian of the warp."""
    parts = []
    for part in r.split(CHUNK):
        x = part.detach().requires_grad_(True)
        R = psi.nuclei.expand(len(part), 1, -1, -1).clone().requires_grad_(True)      # each walker its own: one pass, all rows
        energy, log = functional_call(_LocalEnergy(psi), {"psi.nuclei": R}, (x,))
        weight, divergence = warp(part, psi.nuclei)
        warped = []
        for f in (energy, log):
            by_electrons, by_nuclei = torch.autograd.grad(f.sum(), (x, R), retain_graph=True)
            warped.append(by_nuclei[:, 0] + torch.einsum("nia,nic->nac", weight, by_electrons))
        parts.append((energy.detach(), warped[0], warped[1] + 0.5 * divergence.sum(1)))
    energies, slopes, logs = zip(*parts, strict=True)
    return torch.cat(energies), torch.cat(slopes), torch.cat(logs)


def forces(psi: Wavefunction, state: WalkerState, blocks: int, steps: int = 10) -> Forces:
    """Forces with reblocked errors, from walkers taken at `blocks` times, `steps` Metropolis steps apart.

    Near nodes local energies and their derivatives diverge: those beyond ten mean deviations are moved there.
    """
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
