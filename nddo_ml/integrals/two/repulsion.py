"""Two-electron integrals of two atoms, (ij|kl) with i, j on one and k, l on the other.

Evaluated between point charges in the local frame of the pair (configurations.py) and rotated to the laboratory.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.integrals.two.configurations import ADDITIVE, SEPARATIONS, Terms, terms


def parameters(A_i, A_j) -> tuple[Tensor, Tensor]:
    """Separations (pair, 12) and additive terms (pair, 20) of the two atoms of each pair, bohr."""
    separations = torch.stack([getattr(A, name) for A in (A_i, A_j) for name in SEPARATIONS], 1)
    return separations, torch.stack([getattr(A, name) for A in (A_i, A_j) for name in ADDITIVE], 1)


def interactions(t: Terms, R: Float[Tensor, "pair"], d: Float[Tensor, "pair separation"], rho: Float[Tensor, "pair additive"], hartree: float):
    """The distinct local integrals of a class, eV (pair, integral): charges at R + d Lz, d Lx, d Ly, softened by rho S; R in bohr."""
    z, x, y, s = (v @ m.to(R.device) for v, m in ((d, t.Lz), (d, t.Lx), (d, t.Ly), (rho, t.S)))
    z = z + R[:, None]
    return torch.rsqrt(z * z + x * x + y * y + s * s) @ (hartree * t.M.to(R.device))


def local_repulsion(shells, R, A_i, A_j, hartree, helium=None) -> Float[Tensor, "pair m_i m_j"]:
    """(ij|kl) over packed products in the local frame, eV; helium: pairs whose atom j is helium (s only where d functions take part)."""
    t = terms(*shells)
    m_i, m_j = (n * (n + 1) // 2 for n in shells)
    d, rho = parameters(A_i, A_j)
    w = interactions(t, R, d, rho, hartree).index_select(1, t.place.to(R.device)).view(-1, m_i, m_j)
    if helium is not None and shells[0] == 9 and shells[1] == 4:
        drop = helium[:, None, None] & (torch.arange(m_i, device=R.device) > 9)[:, None] & (torch.arange(m_j, device=R.device) > 0)
        w = torch.where(drop, torch.zeros_like(w), w)
    return w

