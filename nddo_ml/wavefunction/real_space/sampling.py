"""Walkers: positions of all electrons drawn from |psi|^2 by Metropolis steps, most of which move all of them at once.

Between stretched bonds such steps are too short: `leap` takes electrons from nucleus to nucleus.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.wavefunction.real_space.systems import System, owners

ACCEPTANCE = 0.5        # the step is adapted towards this share
ADAPTATION = 1.1


@dataclass(frozen=True)
class Walkers:
    """r `walker electron 3` in bohr, log `walker` = ln|psi| there, step: width of the proposal, bohr; acceptance: of the
    last walk."""

    r: Float[Tensor, "walker electron 3"]
    log: Float[Tensor, "walker"]
    step: float
    acceptance: float = 0.0


def scattered(system: System, count: int, generator: torch.Generator) -> Float[Tensor, "walker electron 3"]:
    """Positions to start from: each electron near a nucleus, as many as its charge asks for, spins alternating."""
    home = owners(system)
    nuclei = system.nuclei[home]
    noise = torch.randn(count, system.electrons, 3, generator=generator, dtype=nuclei.dtype)
    return nuclei + noise * (1.0 / system.charges[home].sqrt())[:, None]


def started(psi, r: Float[Tensor, "walker electron 3"], step: float) -> Walkers:
    """Walkers at given positions."""
    with torch.no_grad():
        return Walkers(r, psi(r)[1], step)


def walk(psi, walkers: Walkers, steps: int, generator: torch.Generator, adapt: bool = True) -> Walkers:
    """The walkers after `steps` Metropolis steps of |psi|^2; the width of the proposal is adapted between walks.

    A proposal where psi is not finite is never accepted. Adapting it while averages are taken would bias them: adapt=False.
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


def roam(psi, walkers: Walkers, steps: int, generator: torch.Generator, adapt: bool = True) -> Walkers:
    """The walkers of a wavefunction after a `walk` and a `leap`."""
    return leap(psi, walk(psi, walkers, steps, generator, adapt), generator)


def leap(psi, walkers: Walkers, generator: torch.Generator) -> Walkers:
    """The walkers after two more proposals, where there are several nuclei: one electron moves by the vector from one nucleus
    to another; a spin-up and a spin-down electron change places. Both are as likely as their reverse."""
    nuclei, r, log = psi.nuclei.to(walkers.r), walkers.r, walkers.log
    if len(nuclei) < 2:
        return walkers
    row = torch.arange(len(r), device=r.device)

    def drawn(count):
        return torch.randint(count, (len(r),), generator=generator, device=generator.device).to(r.device)

    with torch.no_grad():
        hop = r.clone()
        electron = drawn(r.shape[1])
        hop[row, electron] += nuclei[drawn(len(nuclei))] - nuclei[drawn(len(nuclei))]
        r, log, _ = _chosen(psi, r, log, hop, generator)
        if psi.up and psi.down:
            swap, up, down = r.clone(), drawn(psi.up), psi.up + drawn(psi.down)
            swap[row, up], swap[row, down] = r[row, down], r[row, up]
            r, log, _ = _chosen(psi, r, log, swap, generator)
    return replace(walkers, r=r, log=log)


def _chosen(psi, r, log, proposal, generator):
    """Positions and ln|psi| after a symmetric proposal, and where it was accepted."""
    chance = torch.rand(len(r), generator=generator, dtype=r.dtype, device=generator.device).to(r.device)
    new = psi(proposal)[1]
    take = (chance.log() < 2 * (new - log)) & torch.isfinite(new)
    return torch.where(take[:, None, None], proposal, r), torch.where(take, new, log), take


def healed(walkers: Walkers, healthy: Tensor, generator: torch.Generator) -> tuple[Walkers, int]:
    """The walkers with those that are not healthy put where others are, drawn at random, and how many they were."""
    lost = int((~healthy).sum())
    if lost == 0 or lost == len(healthy):
        return walkers, lost
    good = torch.nonzero(healthy)[:, 0]
    source = torch.arange(len(healthy), device=healthy.device)
    source[~healthy] = good[torch.randint(len(good), (lost,), generator=generator, device=generator.device).to(good.device)]
    return replace(walkers, r=walkers.r[source], log=walkers.log[source]), lost
