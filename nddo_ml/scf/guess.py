"""The first density: neutral spherical atoms, the molecular charge spread evenly.

Diagonal, as in MOPAC: hydrogen holds its electron, main-group atoms spread theirs over s and p, transition metals fill s,
then d, then p. It decides nothing but the number of iterations (docs/results/performance.md), except that equal spins must be
told apart somewhere: an unrestricted singlet starts with an excess of alpha and of beta electrons on alternate atoms, so
that its symmetry can break.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.scf.problem import Electrons

BROKEN = 1.5   # factor by which an unrestricted singlet's populations are tilted, alternately from atom to atom


def atomic_populations(core: Float[Tensor, "atom"], n_ao: Int[Tensor, "atom"], transition: Bool[Tensor, "atom"]
                       ) -> Float[Tensor, "atom 9"]:
    """Electrons in each of the nine possible orbitals of neutral atoms with core charges `core` (e) and `n_ao` orbitals;
    transition: which of them are transition metals."""
    zero = core.new_zeros(len(core), 9)
    s, p, d = zero.clone(), zero.clone(), zero.clone()
    s[:, 0], p[:, 1:4], d[:, 4:] = 1.0, 1.0, 1.0
    in_s = torch.minimum(core, torch.full_like(core, 2.0))
    in_d = torch.clamp(core - in_s, 0.0, 10.0)
    metal = in_s[:, None] * s + in_d[:, None] / 5 * d + (core - in_s - in_d)[:, None] / 3 * p
    main = torch.where((n_ao == 1)[:, None], core[:, None] * s, core[:, None] / 4 * (s + p))
    return torch.where((transition & (n_ao == 9))[:, None], metal, main)


def guess(populations: Float[Tensor, "molecule orbital"], atom: Int[Tensor, "molecule orbital"],
          real: Float[Tensor, "molecule orbital"], electrons: Electrons) -> Float[Tensor, "molecule spin orbital orbital"]:
    """Diagonal start density from populations of neutral atoms, shifted to the electron count.

    atom: which atom of its molecule each orbital belongs to; real: 0 for padding. Equal alpha and beta populations in two spin
    channels are tilted.
    """
    alpha, beta = electrons.alpha, electrons.beta
    total = (alpha + beta).to(populations.dtype)
    excess = (populations.sum(1) - total) / real.sum(1).clamp(min=1)
    diagonal = (populations - excess[:, None] * real) * real
    if electrons.channels == 1:
        return torch.diag_embed(diagonal / 2)[:, None]
    share = torch.stack([alpha, beta], 1) / total.clamp(min=1)[:, None]
    tilt = BROKEN ** (1.0 - 2.0 * (atom % 2))
    tilt = torch.where(((alpha == beta) & (alpha > 0))[:, None], tilt, 1.0)
    return torch.diag_embed(diagonal[:, None] * share[..., None] * torch.stack([tilt, 1 / tilt], 1))
