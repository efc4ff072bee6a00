"""Sampling: walkers, each with the positions of all electrons, drawn from |psi|^2 by Metropolis steps.

Most steps move all electrons of a walker at once, by a little. In stretched bonds such steps are too short to take an electron
from one nucleus to another; `leap` does.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.wavefunction.real_space.protocols import Amplitude, MolecularAmplitude
from nddo_ml.wavefunction.real_space.systems import ElectronSystem, owners

ACCEPTANCE = 0.5        # the step is adapted towards this share
ADAPTATION = 1.1


@dataclass(frozen=True)
class Walkers:
    """Samples of |psi|^2 and how they are moved."""

    r: Float[Tensor, "walker electron 3"]       # positions, bohr
    log: Float[Tensor, "walker"]                # ln|psi| there
    step: float                                 # width of the proposals, bohr
    acceptance: float = 0.0                     # share of the proposals of the last walk that were accepted


def scattered(system: ElectronSystem, count: int, generator: torch.Generator) -> Float[Tensor, "walker electron 3"]:
    """Positions to start from, bohr: electrons scattered around the nuclei that `owners` gives them."""
    home = owners(system)
    nuclei = system.nuclei[home]
    noise = torch.randn(count, system.electrons, 3, generator=generator, dtype=nuclei.dtype)
    return nuclei + noise * (1.0 / system.charges[home].sqrt())[:, None]


def walkers_at(psi: Amplitude, r: Float[Tensor, "walker electron 3"], step: float) -> Walkers:
    """Walkers at the positions r, in bohr, with proposals of the width `step`."""
    with torch.no_grad():
        return Walkers(r, psi(r)[1], step)


def walk(psi: Amplitude, walkers: Walkers, steps: int, generator: torch.Generator, adapt: bool = True) -> Walkers:
    """The walkers after `steps` Metropolis steps, and with adapt=True a width that brings acceptance closer to one half.

    A proposal where psi is not finite is never accepted. An adapting width would bias averages: take them with adapt=False.
    """
    r, step = walkers.r, walkers.step
    with torch.no_grad():
        log, accepted = psi(r)[1], torch.zeros((), device=r.device)
        for _ in range(steps):
            noise = torch.randn(r.shape, generator=generator, dtype=r.dtype, device=generator.device).to(r.device)
            r, log, take = _chosen(psi, r, log, r + step * noise, generator)
            accepted = accepted + take.float().mean()
    share = float(accepted) / max(1, steps)
    if adapt and steps:
        step = step * (ADAPTATION if share > ACCEPTANCE else 1 / ADAPTATION) if abs(share - ACCEPTANCE) > 0.02 else step
    return replace(walkers, r=r, log=log, step=step, acceptance=share)


def roam(psi: MolecularAmplitude, walkers: Walkers, steps: int, generator: torch.Generator, adapt: bool = True) -> Walkers:
    """The walkers after a `walk` and a `leap`."""
    return leap(psi, walk(psi, walkers, steps, generator, adapt), generator)


def leap(psi: MolecularAmplitude, walkers: Walkers, generator: torch.Generator) -> Walkers:
    """The walkers after two proposals for long ways; where there is one nucleus, the walkers as they are.

    First one electron moves by the vector from one nucleus to another, then a spin-up and a spin-down electron change places.
    Both proposals are as likely as their reverse.
    """
    nuclei, r, log = psi.nuclei.to(walkers.r), walkers.r, walkers.log
    if len(nuclei) < 2:
        return walkers
    row = torch.arange(len(r), device=r.device)
    with torch.no_grad():
        hop = r.clone()
        electron = _drawn(r.shape[1], row, generator)
        hop[row, electron] += nuclei[_drawn(len(nuclei), row, generator)] - nuclei[_drawn(len(nuclei), row, generator)]
        r, log, _ = _chosen(psi, r, log, hop, generator)
        if psi.up and psi.down:
            swap, up, down = r.clone(), _drawn(psi.up, row, generator), psi.up + _drawn(psi.down, row, generator)
            swap[row, up], swap[row, down] = r[row, down], r[row, up]
            r, log, _ = _chosen(psi, r, log, swap, generator)
    return replace(walkers, r=r, log=log)


def _drawn(count, row, generator):
    """A random number below `count` for each row."""
    return torch.randint(count, (len(row),), generator=generator, device=generator.device).to(row.device)


def _chosen(psi, r, log, proposal, generator):
    """(positions, ln|psi|, where the proposal was accepted) after a symmetric proposal."""
    chance = torch.rand(len(r), generator=generator, dtype=r.dtype, device=generator.device).to(r.device)
    new = psi(proposal)[1]
    take = (chance.log() < 2 * (new - log)) & torch.isfinite(new)
    return torch.where(take[:, None, None], proposal, r), torch.where(take, new, log), take


def healed(walkers: Walkers, healthy: Bool[Tensor, "walker"], generator: torch.Generator) -> tuple[Walkers, int]:
    """(the walkers, the unhealthy ones put where healthy ones are, drawn at random; how many were unhealthy)."""
    lost = int((~healthy).sum())
    if lost == 0 or lost == len(healthy):
        return walkers, lost
    good = torch.nonzero(healthy)[:, 0]
    source = torch.arange(len(healthy), device=healthy.device)
    source[~healthy] = good[torch.randint(len(good), (lost,), generator=generator, device=generator.device).to(good.device)]
    return replace(walkers, r=walkers.r[source], log=walkers.log[source]), lost
