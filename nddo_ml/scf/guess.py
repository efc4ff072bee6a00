"""The first density: neutral spherical atoms, the molecular charge spread evenly.

Diagonal, as in MOPAC: hydrogen holds its electron, main-group atoms spread theirs over s and p, transition metals fill s,
then d, then p. It decides nothing but the number of iterations (docs/performance.md), except that equal spins must be told
apart somewhere: an unrestricted singlet starts with an excess of alpha and of beta electrons on alternate atoms, so that its
symmetry can break.
"""

import torch
from jaxtyping import Float
from torch import Tensor

BROKEN = 1.5   # factor by which an unrestricted singlet's populations are tilted, alternately from atom to atom


def atomic_populations(core, n_ao, transition) -> Float[Tensor, "atom 9"]:
    """Electrons in each of the nine possible orbitals of neutral atoms: core charge, number of orbitals, transition metal or
    not."""
    zero = core.new_zeros(len(core), 9)
    s, p, d = zero.clone(), zero.clone(), zero.clone()
    s[:, 0], p[:, 1:4], d[:, 4:] = 1.0, 1.0, 1.0
    in_s = torch.minimum(core, torch.full_like(core, 2.0))
    in_d = torch.clamp(core - in_s, 0.0, 10.0)
    metal = in_s[:, None] * s + in_d[:, None] / 5 * d + (core - in_s - in_d)[:, None] / 3 * p
    main = torch.where((n_ao == 1)[:, None], core[:, None] * s, core[:, None] / 4 * (s + p))
    return torch.where((transition & (n_ao == 9))[:, None], metal, main)


def guess(populations: Float[Tensor, "molecule orbital"], atom, real, alpha, beta, spins: int, broken):
    """Diagonal start density (molecule, spin, orbital, orbital) from populations of neutral atoms, shifted to the electron
    count.

    atom: which atom of its molecule each orbital belongs to; `broken` marks the molecules whose equal alpha and beta
    populations are tilted.
    """
    total = (alpha + beta).to(populations.dtype)
    excess = (populations.sum(1) - total) / real.sum(1).clamp(min=1)
    diagonal = (populations - excess[:, None] * real) * real
    if spins == 1:
        return torch.diag_embed(diagonal / 2)[:, None]
    share = torch.stack([alpha, beta], 1) / total.clamp(min=1)[:, None]
    tilt = BROKEN ** (1.0 - 2.0 * (atom % 2))
    tilt = torch.where(broken[:, None], tilt, 1.0)
    return torch.diag_embed(diagonal[:, None] * share[..., None] * torch.stack([tilt, 1 / tilt], 1))
