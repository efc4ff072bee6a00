"""Half-electron states: open shells with one set of orbitals for both spins.

The self-consistent field is that of a closed shell whose open orbitals hold half an electron of each spin; its energy counts a
repulsion of each half electron with itself that must be taken out afterwards (Dewar, Hashmall, Venier, J. Am. Chem. Soc. 90,
1953 (1968)):

    one open orbital m, doublet:      -1/4 (mm|mm)
    two open orbitals m, n, triplet:  -1/4 (mm|mm) - 1/4 (nn|nn) - 1/2 (mn|mn)
    the same, singlet:                +3/2 (mn|mn) in place of -1/2 (mn|mn), then mixed with the two closed-shell configurations

These terms are not stationary in the orbitals, so already the forces need the response of the open orbitals.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.errors import InvalidMolecule
from nddo_ml.orbitals import Layout
from nddo_ml.scf.density import Orbitals
from nddo_ml.scf.fock import Kernel, two_electron
from nddo_ml.scf.rotations import generator


def check(unpaired: Int[Tensor, "molecule"]) -> None:
    """Refuse more unpaired electrons than the method has open orbitals for.

    Raises:
        InvalidMolecule: a molecule has more than two.
    """
    if bool((unpaired > 2).any()):
        raise InvalidMolecule(f"A half-electron state has at most two open orbitals, but multiplicity "
                              f"{int(unpaired.max()) + 1} was asked for: use unrestricted=True.")


def open_orbitals(orbitals: Orbitals, X: Float[Tensor, "molecule virtual occupied"] | None = None
                  ) -> Float[Tensor, "molecule orbital open"]:
    """The open orbitals, at most two (a zero column where there is one or none), rotated to first order by X if given."""
    f, C = orbitals.f[:, 0], orbitals.C[:, 0]
    if X is not None:
        C = C + C @ generator(X, f.shape[-1])
    half = (f > 0) & (f < 1)
    place = half.to(torch.long).topk(min(2, f.shape[-1]), dim=-1).indices.sort(-1).values
    chosen = C.gather(-1, place[:, None].expand(-1, C.shape[-2], -1))
    return chosen * half.gather(-1, place)[:, None].to(C.dtype)


@dataclass(frozen=True)
class _TwoOrbitals:
    """Matrix elements of two open orbitals m and n, each `molecule`, eV: of the Fock matrix f, and of the repulsion."""

    f_mm: Tensor
    f_nn: Tensor
    f_mn: Tensor
    mm: Tensor          # (mm|mm)
    nn: Tensor          # (nn|nn)
    J: Tensor           # (mm|nn)
    K: Tensor           # (mn|mn)
    mm_mn: Tensor       # (mm|mn)
    nn_mn: Tensor       # (nn|mn)


def correction(layout: Layout, kernel: Kernel, c: Float[Tensor, "molecule orbital open"],
               F: Float[Tensor, "molecule orbital orbital"], singlet: Bool[Tensor, "molecule"]
               ) -> tuple[Float[Tensor, "molecule"], Float[Tensor, "molecule orbital orbital"]]:
    """Energy (eV) that turns the half-electron energy into that of the state with open orbitals c: doublet, triplet, or where
    `singlet` the lowest singlet; and what that state adds to the density matrix D. F: the Fock matrix of the orbitals, eV.
    """
    if c.shape[-1] == 1:
        c = torch.cat([c, torch.zeros_like(c)], -1)
    m, n = c.unbind(-1)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return 0.5 * (a[:, :, None] * b[:, None, :] + b[:, :, None] * a[:, None, :])

    D = torch.stack([product(m, m), product(n, n), product(m, n)], 1)
    G = two_electron(layout, kernel, D[:, :, None])[:, :, 0]           # 2 J - K of each product
    DG = (D[:, :, None] * G[:, None]).sum((3, 4))
    mm, nn, coulomb, mixed = DG[:, 0, 0], DG[:, 1, 1], DG[:, 1, 0], DG[:, 2, 2]
    K = 0.8 * mixed + 0.2 * coulomb      # (mn|mn), from 3/2 (mn|mn) - 1/2 (mm|nn) and 2 (mm|nn) - (mn|mn)
    high_spin = -0.25 * mm - 0.25 * nn - 0.5 * K
    if not bool(singlet.any()):
        return high_spin, torch.zeros_like(F)
    f_mm, f_nn, f_mn = (D * F[:, None]).sum((2, 3)).unbind(1)
    low, v = _lowest_singlet(_TwoOrbitals(f_mm, f_nn, f_mn, mm, nn, (coulomb + K) / 2, K, DG[:, 2, 0], DG[:, 2, 1]))
    v_m, v_n, v_mn = v.unbind(1)
    # one-particle density of the root in m and n, less the half electrons; D holds one spin, half of it
    change = torch.stack([v_m**2 + v_mn**2 / 2 - 0.5, v_n**2 + v_mn**2 / 2 - 0.5, 2**0.5 * v_mn * (v_m + v_n)], 1)
    added = (change[..., None, None] * D).sum(1)
    return torch.where(singlet, low, high_spin), torch.where(singlet[:, None, None], added, 0.0)


def _lowest_singlet(e: _TwoOrbitals) -> tuple[Float[Tensor, "molecule"], Float[Tensor, "molecule 3"]]:
    """Lowest root, relative to the half-electron energy, of the singlets |m m|, |n n|, |m n| of two electrons in two orbitals,
    and its vector, a constant under differentiation (Hellmann, Feynman).
    """
    J, K = e.J, e.K
    h_mm, h_nn = e.f_mm - 0.5 * e.mm - J + 0.5 * K, e.f_nn - 0.5 * e.nn - J + 0.5 * K
    h_mn = e.f_mn - 0.5 * (e.mm_mn + e.nn_mn)
    reference = h_mm + h_nn + 0.25 * (e.mm + e.nn) + J - 0.5 * K
    to_m, to_n = 2**0.5 * (h_mn + e.mm_mn), 2**0.5 * (h_mn + e.nn_mn)
    rows = ((2 * h_mm + e.mm - reference, K, to_m), (K, 2 * h_nn + e.nn - reference, to_n),
            (to_m, to_n, h_mm + h_nn + J + K - reference))
    M = torch.stack([torch.stack(row, -1) for row in rows], -2)
    v = torch.linalg.eigh(M.detach())[1][..., 0]
    return (v[:, :, None] * M * v[:, None, :]).sum((1, 2)), v
