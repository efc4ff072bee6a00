"""Half-electron states: open shells with one set of orbitals for both spins.

The self-consistent field is that of a closed shell whose open orbitals hold half an electron of each spin; its energy counts a
repulsion of each half electron with itself that must be taken out afterwards (Dewar, Hashmall, Venier, J. Am. Chem. Soc. 90,
1953 (1968)):

    one open orbital m, doublet:      -1/4 (mm|mm)
    two open orbitals m, n, triplet:  -1/4 (mm|mm) - 1/4 (nn|nn) - 1/2 (mn|mn)

These terms are not stationary in the orbitals, so already the forces need the response of the open orbitals.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.errors import InvalidMolecule
from nddo_ml.orbitals import Layout
from nddo_ml.scf.density import Orbitals
from nddo_ml.scf.fock import Kernel, two_electron


def check(unpaired) -> None:
    """Refuse more open orbitals than the method knows (InvalidMolecule)."""
    if bool((unpaired > 2).any()):
        raise InvalidMolecule(f"A half-electron state has at most two open orbitals, but multiplicity "
                              f"{int(unpaired.max()) + 1} was asked for: use unrestricted=True.")


def open_orbitals(
    orbitals: Orbitals, X: Float[Tensor, "molecule virtual occupied"] | None = None
) -> Float[Tensor, "molecule orbital 2"]:
    """The open orbitals (a zero column where there is one or none), rotated to first order by X if given."""
    f, C = orbitals.f[:, 0], orbitals.C[:, 0]
    if X is not None:
        levels, (virtual, occupied) = f.shape[-1], X.shape[-2:]
        A = torch.nn.functional.pad(X, (0, levels - occupied, levels - virtual, 0))
        C = C + C @ (A - A.mT)
    half = (f > 0) & (f < 1)
    place = half.to(torch.long).topk(min(2, f.shape[-1]), dim=-1).indices.sort(-1).values
    chosen = C.gather(-1, place[:, None].expand(-1, C.shape[-2], -1))
    return chosen * half.gather(-1, place)[:, None].to(C.dtype)


def correction(layout: Layout, kernel: Kernel, c: Float[Tensor, "molecule orbital 2"]) -> Float[Tensor, "molecule"]:
    """Energy (eV) that turns the half-electron energy into that of the doublet or triplet with open orbitals c."""
    if c.shape[-1] == 1:
        c = torch.cat([c, torch.zeros_like(c)], -1)
    m, n = c.unbind(-1)

    def product(a, b):
        return 0.5 * (a[:, :, None] * b[:, None, :] + b[:, :, None] * a[:, None, :])

    D = torch.stack([product(m, m), product(n, n), product(m, n)], 1)
    G = two_electron(layout, kernel, D[:, :, None])[:, :, 0]          # 2 J - K of each product
    mm, nn, mn = (D * G).sum((2, 3)).unbind(1)
    coulomb = (D[:, 1] * G[:, 0]).sum((1, 2))                          # 2 (mm|nn) - (mn|mn)
    exchange = 0.8 * mn + 0.2 * coulomb                                # (mn|mn); mn holds 3/2 (mn|mn) - 1/2 (mm|nn)
    return -0.25 * mm - 0.25 * nn - 0.5 * exchange
