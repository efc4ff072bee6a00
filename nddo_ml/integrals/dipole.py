"""The dipole operator of NDDO: point charges at the nuclei and hybrid moments within each atom.

    mu = sum_A Z_A r_A - sum_A sum_(ij on A) P_ij D_ij,      D_ij = r_A delta_ij + a0 <i|x|j>

with <s|x|px> = D1 and <p|x|d> = D_pd times a fixed pattern. The same operator couples the molecule to a uniform field, h -> h
+ F.D, so that mu = -dE/dF exactly (MOPAC leaves the p-d part out of its field, not out of its dipole).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import cached
from nddo_ml.orbitals import AtomGroup, packed_pairs

S, X, Y, Z, X2Y2, XZ, Z2, YZ, XY = range(9)
HYBRIDS = (   # (orbital, orbital, axis, coefficient, moment): moment 0 is D1, moment 1 is D_pd
    (X, S, 0, 1.0, 0), (Y, S, 1, 1.0, 0), (Z, S, 2, 1.0, 0),
    (XZ, Z, 0, 1.0, 1), (X2Y2, X, 0, 1.0, 1), (XY, Y, 0, 1.0, 1), (Z2, X, 0, -3**-0.5, 1),
    (YZ, Z, 1, 1.0, 1), (X2Y2, Y, 1, -1.0, 1), (XY, X, 1, 1.0, 1), (Z2, Y, 1, -3**-0.5, 1),
    (XZ, X, 2, 1.0, 1), (YZ, Y, 2, 1.0, 1), (Z2, Z, 2, 2 * 3**-0.5, 1),
)


@cached
def _patterns(orbitals: int) -> tuple[Float[Tensor, "m"], Float[Tensor, "2 m 3"]]:
    """1 for diagonal distributions (m), coefficients of D1 and D_pd (2, m, 3)."""
    a, b, table = packed_pairs(orbitals)
    hybrid = torch.zeros(2, len(a), 3, dtype=torch.float64)
    for i, j, axis, coefficient, moment in HYBRIDS:
        if i < orbitals:
            hybrid[moment, table[i, j], axis] = coefficient
    return torch.from_numpy((a == b).astype(float)), hybrid


def dipole_blocks(
    group: AtomGroup, positions: Float[Tensor, "atom 3"], D1: Float[Tensor, "atom"], D_pd: Float[Tensor, "atom"], bohr: float
) -> Float[Tensor, "k m 3"]:
    """D_ij of the atoms of a group over packed distributions, angstrom.

    positions and bohr in angstrom, D1 and D_pd in bohr, all of them of every atom of the batch.
    Dewar, Thiel, JACS 99, 4899 (1977); Thiel, Voityuk, Theor. Chim. Acta 81, 391 (1992)
    """
    diagonal, hybrid = (t.to(positions.device) for t in _patterns(group.orbitals))
    moments = bohr * torch.stack([D1, D_pd]).index_select(1, group.atoms)
    here = positions.index_select(0, group.atoms)
    return diagonal[None, :, None] * here[:, None] + torch.einsum("ck,cmx->kmx", moments, hybrid)
