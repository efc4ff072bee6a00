"""Slater-Condon parameters: the radial part of the repulsion of two electrons on one atom.

Angular integration of (ab|cd) over one atom leaves a few radial integrals Rk(ab,cd) of its Slater functions. They fix the
one-centre integrals with d functions, of transition metals those of s and p too, and the energy of the isolated atom. Rows
are species or atoms; only rows that have d functions, or take their s and p integrals from exponents, are evaluated.
"""

from math import factorial, log

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import cached
from nddo_ml.elements import ELEMENTS
from nddo_ml.integrals.parameters import AtomParameters, Elements
from nddo_ml.units import Constants

G_NAMES = ("g_ss", "g_sp", "h_sp", "g_pp", "g_p2")
_WITH_D: dict[str, tuple[str, str, int]] = {   # name: shells of electron 1, shells of electron 2, k
    "F0sd": ("ss", "dd", 0), "G2sd": ("sd", "sd", 2), "F0pd": ("pp", "dd", 0), "F2pd": ("pp", "dd", 2),
    "G1pd": ("pd", "pd", 1), "G3pd": ("pd", "pd", 3), "F0dd": ("dd", "dd", 0), "F2dd": ("dd", "dd", 2),
    "F4dd": ("dd", "dd", 4), "R1sppd": ("sp", "pd", 1), "R2ppsd": ("pp", "sd", 2), "R2sddd": ("sd", "dd", 2),
}
_SP: dict[str, tuple[str, str, int]] = {"R0ss": ("ss", "ss", 0), "R0sp": ("ss", "pp", 0), "R1sp": ("sp", "sp", 1),
       "R0pp": ("pp", "pp", 0), "R2pp": ("pp", "pp", 2)}
RADIAL = _WITH_D | _SP
SLATER_NAMES = tuple(_WITH_D)

TABULATED_FROM = 1e-3   # eV; a smaller F0SD or G2SD of a table means "not given"
H_SP_FLOOR = 1e-7       # eV
_N_MAX = 7
_A, _M = 2 * _N_MAX, 2 * _N_MAX + 5    # exclusive upper bounds of the powers a and m of the closed form

# coefficients of F0sd, F0dd, -G2sd/5, -F2dd/49, -F4dd/49 in the energy of the d electrons of an isolated atom
_D_ELECTRONS = {
    21: (2, 0, 1, 0, 0), 22: (4, 1, 2, 8, 1), 23: (6, 3, 3, 15, 8), 24: (5, 10, 5, 35, 35), 25: (10, 10, 5, 35, 35),
    26: (12, 15, 6, 35, 35), 27: (14, 21, 7, 43, 36), 28: (16, 28, 8, 50, 43), 29: (10, 45, 5, 70, 70), 39: (2, 0, 1, 0, 0),
    40: (4, 1, 2, 8, 1), 41: (4, 6, 4, 21, 21), 42: (5, 10, 5, 35, 35), 43: (10, 10, 5, 35, 35), 44: (7, 21, 5, 43, 36),
    45: (8, 28, 5, 50, 43), 46: (0, 45, 0, 70, 70), 47: (10, 45, 5, 70, 70), 57: (2, 0, 1, 0, 0), 71: (2, 0, 1, 0, 0),
    72: (4, 1, 2, 8, 1), 73: (6, 3, 3, 15, 8), 74: (5, 10, 5, 35, 35), 75: (10, 10, 5, 35, 35), 76: (12, 15, 6, 35, 35),
    77: (14, 21, 7, 43, 36), 78: (9, 36, 5, 56, 56), 79: (10, 45, 5, 70, 70),
}


def radial_integrals(zeta: Float[Tensor, "row 3"], n: Int[Tensor, "row 3"], hartree: float) -> Float[Tensor, "row 17"]:
    """Rk(ab,cd) of RADIAL (eV) for the s, p and d Slater functions of each row, exponents zeta in 1/bohr.

    Rk = EV N_a N_b N_c N_d Int Int r1^P e^(-p r1) r<^k / r>^(k+1) r2^S e^(-q r2) dr1 dr2,  N = (2 zeta)^(n+1/2) / sqrt((2n)!)
    P = n_a + n_b, S = n_c + n_d, p = zeta_a + zeta_b, q = zeta_c + zeta_d. Over either half, r1 < r2 or r1 > r2,
    Int_{s<r} s^m e^(-cs) r^a e^(-br) = sum_{j=0..a} a!/j! (m+j)! b^-(a-j+1) (b+c)^-(m+j+1), a sum of positive terms.
    Zero where a function is missing (zeta = 0).                Thiel, Voityuk, Theor. Chim. Acta 81, 391 (1992)
    """
    first, second, k = _radial_counts(zeta.device)
    present = zeta > 0
    zeta = torch.where(present, zeta, 1.0)
    both = first + second
    half_log_factorial = _half_log_factorials(zeta.device).index_select(0, 2 * n.flatten()).view(n.shape)
    log_norm = (n + 0.5) * torch.log(2 * zeta) - half_log_factorial
    p, q = zeta @ first, zeta @ second
    P, S = (n.to(zeta.dtype) @ count for count in (first, second))
    a = torch.stack((S, P)) - k - 1
    m = torch.stack((P, S)) + k
    b = torch.stack((q, p))
    entry = (a.clamp_min(0) * _M + m).long().flatten()      # a < 0 only where a function is missing
    coefficients = _half_range_coefficients(zeta.device).index_select(0, entry).view(*a.shape, _A)
    powers = (b / (p + q))[..., None] ** torch.arange(_A, device=zeta.device)
    halves = torch.exp(log_norm @ both - (a + 1) * b.log() - (m + 1) * (p + q).log()) * (coefficients * powers).sum(-1)
    return hartree * halves.sum(0) * (present.to(zeta.dtype) @ both == 4)


def one_centre_parameters(
    parameters: AtomParameters, elements: Elements, constants: Constants
) -> tuple[Float[Tensor, "row 5"], Float[Tensor, "row 12"]]:
    """The g integrals (row, 5) in the order of G_NAMES and Slater-Condon parameters (row, 12) of SLATER_NAMES, eV.

    g_ss = R0(ss,ss), g_sp = R0(ss,pp), h_sp = R1(sp,sp)/3, g_pp = R0(pp,pp) + 4/25 R2(pp,pp), g_p2 = R0(pp,pp) - 2/25 R2(pp,pp)
    with the exponents zsn and zpn where main_group is 0; fitted parameters otherwise. A tabulated F0SD or G2SD replaces the
    computed one. Rows without p functions have only g_ss; without zdn all Slater-Condon parameters are zero.
    """
    t = parameters
    g = torch.stack((t.g_ss, t.g_sp, t.h_sp.clamp_min(H_SP_FLOOR), t.g_pp, t.g_p2), 1)
    sp = elements.n_ao >= 4
    g = torch.where(torch.stack((torch.ones_like(sp), sp, sp, sp, sp), 1), g, 0.0)
    slater = g.new_zeros(g.shape[0], len(SLATER_NAMES))
    computed = (elements.main_group == 0) & sp
    rows = (computed | (elements.n_ao == 9)).nonzero()[:, 0]
    if rows.shape[0] == 0:
        return g, slater

    def at(*columns: Tensor) -> Tensor:
        return torch.stack(columns, 1).index_select(0, rows)

    zeta = at(t.zsn, t.zpn, t.zdn)
    radial = radial_integrals(zeta, at(elements.m_sp, elements.m_sp, elements.m_d), constants.hartree)
    tabulated = at(t.F0SD, t.G2SD)
    replaced = torch.where(tabulated > TABULATED_FROM, tabulated, radial[:, :2])
    with_d = (zeta[:, 2:] > 0) & at(elements.n_ao == 9)
    slater = slater.index_copy(0, rows, torch.where(with_d, torch.cat((replaced, radial[:, 2:len(SLATER_NAMES)]), 1), 0.0))
    g_computed = radial[:, len(SLATER_NAMES):] @ _g_of_radial(g.device)
    use = at(computed) & (zeta[:, :2] > 0).all(1, keepdim=True)
    return g.index_copy(0, rows, torch.where(use, g_computed, g.index_select(0, rows))), slater


def isolated_atom(
    parameters: AtomParameters, elements: Elements, g: Float[Tensor, "row 5"], slater: Float[Tensor, "row 12"]
) -> Float[Tensor, "row"]:
    """EISOL, energy of the isolated atom (eV), from the g integrals and Slater-Condon parameters of `one_centre_parameters`.

    EISOL = U_ss n_s + U_pp n_p + U_dd n_d + g_ss max(n_s - 1, 0) + g_sp n_s n_p - h_sp n_s n_p/2
            + g_p2 [n_p (n_p - 1)/2 + l (l - 1)/4] - g_pp l (l - 1)/4 + E_d,   l = min(n_p, 6 - n_p)
    with the occupations n of the tables; E_d = a1 F0sd + a2 F0dd - a3 G2sd/5 - a4 F2dd/49 - a5 F4dd/49, integers a per element.
    U_ss for H, zero without orbitals.
    """
    n_s, n_p, n_d = elements.occ_s, elements.occ_p, elements.occ_d
    unpaired = torch.minimum(n_p, 6 - n_p)
    exchange = unpaired * (unpaired - 1) / 4
    weights = torch.stack(((n_s - 1).clamp_min(0), n_s * n_p, -n_s * n_p / 2, -exchange, n_p * (n_p - 1) / 2 + exchange), 1)
    energy = parameters.U_ss * n_s + parameters.U_pp * n_p + parameters.U_dd * n_d + (g * weights).sum(1)
    rows = (elements.n_ao == 9).nonzero()[:, 0]
    if rows.shape[0] == 0:
        return energy
    weights = _d_weights(g.device).index_select(0, elements.number.index_select(0, rows))
    return energy.index_add(0, rows, (slater.index_select(0, rows) * weights).sum(1))


@cached
def _radial_counts(device: torch.device) -> tuple[Float[Tensor, "3 17"], Float[Tensor, "3 17"], Float[Tensor, "17"]]:
    """How often s, p, d occur in electron 1 and in electron 2 of each radial integral (3, 17), and its k (17)."""
    first = [[shells.count(shell) for shells, _, _ in RADIAL.values()] for shell in "spd"]
    second = [[shells.count(shell) for _, shells, _ in RADIAL.values()] for shell in "spd"]
    powers = [k for _, _, k in RADIAL.values()]
    first, second, powers = (torch.tensor(x, dtype=torch.float64, device=device) for x in (first, second, powers))
    return first, second, powers


@cached
def _half_log_factorials(device: torch.device) -> Float[Tensor, "15"]:
    """ln(n!)/2 for n = 0 ... 2 N_MAX."""
    return torch.tensor([log(factorial(n)) / 2 for n in range(2 * _N_MAX + 1)], dtype=torch.float64, device=device)


@cached
def _half_range_coefficients(device: torch.device) -> Float[Tensor, "entry 14"]:
    """a!/j! (m+j)! for j <= a, else 0: (a M + m, j)."""
    table = [[float(factorial(a) // factorial(j) * factorial(m + j)) if j <= a else 0.0 for j in range(_A)]
             for a in range(_A) for m in range(_M)]
    return torch.tensor(table, dtype=torch.float64, device=device)


@cached
def _g_of_radial(device: torch.device) -> Float[Tensor, "5 5"]:
    """(5, 5): the radial integrals over s and p to the g integrals."""
    return torch.tensor([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1 / 3, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 4 / 25, -2 / 25]],
                        dtype=torch.float64, device=device)


@cached
def _d_weights(device: torch.device) -> Float[Tensor, "element 12"]:
    """(Z, 12): the weights of the Slater-Condon parameters in E_d."""
    weights = np.zeros((ELEMENTS + 1, len(SLATER_NAMES)))
    places = [SLATER_NAMES.index(s) for s in ("F0sd", "F0dd", "G2sd", "F2dd", "F4dd")]
    for z, a in _D_ELECTRONS.items():
        weights[z, places] = np.array(a) / [1, 1, -5, -49, -49]
    return torch.from_numpy(weights).to(device)
