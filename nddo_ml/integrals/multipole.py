"""Charge distributions of one atom as multipoles: everything the integrals need that does not depend on the geometry.

A product of two orbitals repels like point charges at a separation D from the atom, softened by an additive term rho. D follows
from the orbital exponents; rho from the condition that two such multipoles at one place give the one-centre integral. Both
are functions of the parameters alone, row by row (a row is a species or an atom), differentiable to third order.

Dewar, Thiel, Theor. Chim. Acta 46, 89 (1977); with d functions Thiel, Voityuk, ibid. 81, 391 (1992), 93, 315 (1996).
"""

from collections.abc import Callable
from math import factorial, log, sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import cached, record
from nddo_ml.integrals.parameters import AtomParameters, Elements
from nddo_ml.integrals.slater_condon import G_NAMES, isolated_atom, one_centre_parameters
from nddo_ml.units import Constants

ZETA_FLOOR = 0.3            # 1/bohr
H_PP_FLOOR = 0.1            # eV, in rho2 only
RHO_RANGE = (0.1, 5.0)      # bohr: where the additive terms with d functions were searched when the methods were fitted
RHO_BARE = 0.5              # bohr, of a core without g_ss
RHO_NONE = 1e5              # bohr, of a d monopole without self-repulsion
_UNUSED = 1.0               # bohr, stands for rho of multipoles that an atom does not have


@record
class AtomIntegrals:
    """What each row (species or atom) brings to the integrals.

    Charge separations are 0 where an atom does not have the multipole; additive terms are positive there too.
    """

    U_ss: Float[Tensor, "row"]          # one-electron energies of the s, p, d functions, eV
    U_pp: Float[Tensor, "row"]
    U_dd: Float[Tensor, "row"]
    beta_s: Float[Tensor, "row"]        # factors of the resonance integrals, eV
    beta_p: Float[Tensor, "row"]
    beta_d: Float[Tensor, "row"]
    zeta_s: Float[Tensor, "row"]        # exponents of the Slater functions with their floors, 1/bohr; 0 without that shell
    zeta_p: Float[Tensor, "row"]
    zeta_d: Float[Tensor, "row"]
    g_ss: Float[Tensor, "row"]          # one-centre integrals (ss|ss), (ss|pp), (pp|pp), (pp|p'p'), (sp|sp), eV; 0 without p
    g_sp: Float[Tensor, "row"]
    g_pp: Float[Tensor, "row"]
    g_p2: Float[Tensor, "row"]
    h_sp: Float[Tensor, "row"]
    D1: Float[Tensor, "row"]            # charge separation of the sp dipole, bohr
    Q: Float[Tensor, "row"]             # of the linear pp quadrupole, bohr
    D_pp: Float[Tensor, "row"]          # of the pp quadrupole in integrals with d functions, sqrt(2) Q
    D_sd: Float[Tensor, "row"]          # of the sd quadrupole, bohr
    D_pd: Float[Tensor, "row"]          # of the pd dipole, bohr
    D_dd: Float[Tensor, "row"]          # of the dd quadrupole, bohr
    rho0: Float[Tensor, "row"]          # additive term of the ss and pp charges, bohr
    rho1: Float[Tensor, "row"]          # of the sp dipole, bohr
    rho2: Float[Tensor, "row"]          # of the pp quadrupole, bohr
    rho1c: Float[Tensor, "row"]         # of the sp dipole in integrals with d functions and in the core attraction, bohr
    rho2c: Float[Tensor, "row"]         # of the pp quadrupole in the same, bohr
    rho_sd: Float[Tensor, "row"]        # of the sd quadrupole, bohr
    rho_pd: Float[Tensor, "row"]        # of the pd dipole, bohr
    rho_dd: Float[Tensor, "row"]        # of the dd quadrupole, bohr
    rho_dd0: Float[Tensor, "row"]       # of the dd charge, bohr
    rho_core: Float[Tensor, "row"]      # of the core, bohr
    core: Float[Tensor, "row"]          # charge of the core, e
    slater: Float[Tensor, "row 12"]     # Slater-Condon parameters in the order of SLATER_NAMES, eV
    EISOL: Float[Tensor, "row"]         # energy of the isolated atom, eV


def atom_integrals(
    parameters: AtomParameters, elements: Elements, constants: Constants, slater: Float[Tensor, "row 12"] | None = None,
    derivatives: int = 3,
) -> AtomIntegrals:
    """All geometry-independent quantities of each row, from its parameters.

    slater: the Slater-Condon parameters (eV) if they are known; the g and h of `parameters` are then taken as they are.
    derivatives: how often the additive terms can be differentiated, 1 or 3; once costs less.
    """
    t = parameters
    if slater is None:
        g, slater = one_centre_parameters(t, elements, constants)
    else:
        g = torch.stack([getattr(t, name) for name in G_NAMES], 1)
    g_ss, g_sp, h_sp, g_pp, g_p2 = g.unbind(1)
    p, d = elements.n_ao >= 4, elements.n_ao == 9
    zeta_p = torch.where(p, t.zeta_p.clamp_min(ZETA_FLOOR), 0.0)
    zeta_d = torch.where(d, t.zeta_d.clamp_min(ZETA_FLOOR), 0.0)
    rho0 = additive_charge(g_ss, constants.hartree)
    # a row without p functions is given harmless operands here and its own values below
    D1, Q = separations_sp(elements.m_sp, torch.where(p, t.zeta_s, 1.0), torch.where(p, zeta_p, 1.0))
    h_pp = (g_pp - g_p2) / 2
    rho1 = additive_dipole(torch.where(p, h_sp, 1.0), D1, constants.hartree, derivatives)
    rho2 = additive_quadrupole(torch.where(p, h_pp.clamp_min(H_PP_FLOOR), 1.0), Q, constants.hartree, derivatives)
    D1, Q = torch.where(p, D1, 0.0), torch.where(p, Q, 0.0)
    rho1, rho2 = torch.where(p, rho1, rho0), torch.where(p, rho2, rho0)
    sp = torch.stack((t.zeta_s, zeta_p, t.zeta_d, Q, h_pp, rho1, rho2), 1)
    D_sd, D_pd, D_dd, rho_sd, rho_pd, rho_dd, rho_dd0, rho1c, rho2c = _with_d(
        elements, sp, slater, constants.hartree, derivatives).unbind(1)
    return AtomIntegrals(
        U_ss=t.U_ss, U_pp=t.U_pp, U_dd=t.U_dd, beta_s=t.beta_s, beta_p=t.beta_p, beta_d=t.beta_d,
        zeta_s=t.zeta_s, zeta_p=zeta_p, zeta_d=zeta_d, g_ss=g_ss, g_sp=g_sp, g_pp=g_pp, g_p2=g_p2, h_sp=h_sp,
        D1=D1, Q=Q, D_pp=sqrt(2) * Q, D_sd=D_sd, D_pd=D_pd, D_dd=D_dd,
        rho0=rho0, rho1=rho1, rho2=rho2, rho1c=rho1c, rho2c=rho2c, rho_sd=rho_sd, rho_pd=rho_pd, rho_dd=rho_dd, rho_dd0=rho_dd0,
        rho_core=torch.where(t.rho_core > 0, t.rho_core, rho0), core=elements.core, slater=slater,
        EISOL=isolated_atom(t, elements, g, slater),
    )


def _with_d(
    elements: Elements, sp: Float[Tensor, "row 7"], slater: Float[Tensor, "row 12"], hartree: float,
    derivatives: int
) -> Float[Tensor, "row 9"]:
    """D_sd, D_pd, D_dd, rho_sd, rho_pd, rho_dd, rho_dd0, rho1c, rho2c of each row; only rows with d functions cost.

    sp: zeta_s, zeta_p, zeta_d, Q, h_pp, rho1, rho2 of each row.
    """
    zero, unused = torch.zeros_like(sp[:, 0]), torch.full_like(sp[:, 0], _UNUSED)
    without = torch.stack((zero, zero, zero, unused, unused, unused, unused, sp[:, 5], sp[:, 6]), 1)
    rows = (elements.n_ao == 9).nonzero()[:, 0]
    if rows.shape[0] == 0:
        return without
    values = sp.index_select(0, rows)
    zeta, (Q, h_pp, rho1, rho2) = values[:, :3].contiguous(), values[:, 3:].unbind(1)
    n = torch.stack((elements.m_sp, elements.m_sp, elements.m_d), 1).index_select(0, rows)
    slater = slater.index_select(0, rows)
    G2sd, G1pd, F0dd, F2dd = slater[:, 1], slater[:, 4], slater[:, 6], slater[:, 7]
    D_sd, D_pd, D_dd = separations_d(n, zeta).unbind(1)
    # the charges of M_2m lie at D/sqrt(2) = Q in the notation of the linear quadrupole
    h = torch.stack((G2sd / 5, 3 / 49 * F2dd, h_pp), 1)
    quadrupoles = additive_quadrupole(h, torch.stack((D_sd / sqrt(2), D_dd / sqrt(2), Q), 1), hartree,
                                      derivatives).clamp(*RHO_RANGE)
    rho_sd, rho_dd, rho_pp = quadrupoles.unbind(1)
    rho_pd = additive_dipole(4 / 15 * G1pd, D_pd, hartree, derivatives).clamp(*RHO_RANGE)
    rho_dd0 = torch.where(F0dd > 0, hartree / (2 * torch.where(F0dd > 0, F0dd, 1.0)), RHO_NONE)
    metal = elements.main_group.index_select(0, rows) == 0
    rho1c, rho2c = torch.where(metal, rho1.clamp(*RHO_RANGE), rho1), torch.where(metal, rho_pp, rho2)
    return without.index_copy(0, rows, torch.stack((D_sd, D_pd, D_dd, rho_sd, rho_pd, rho_dd, rho_dd0, rho1c, rho2c), 1))


def separations_sp(
    n: Int[Tensor, "row"], zeta_s: Float[Tensor, "row"], zeta_p: Float[Tensor, "row"]
) -> tuple[Float[Tensor, "row"], Float[Tensor, "row"]]:
    """D1 and Q (bohr) of Slater s and p functions of principal quantum number n.

    D1 = <r>_sp/sqrt(3) = (2n + 1) (4 zeta_s zeta_p)^(n+1/2) / [sqrt(3) (zeta_s + zeta_p)^(2n+2)],
    Q = sqrt(<r^2>_pp/5) = sqrt((4n^2 + 6n + 2)/20) / zeta_p      Dewar & Thiel (1977)
    """
    n = n.to(zeta_s.dtype)
    overlap = (n + 0.5) * torch.log(4 * zeta_s * zeta_p) - (2 * n + 2) * torch.log(zeta_s + zeta_p)
    return (2 * n + 1) / sqrt(3) * torch.exp(overlap), torch.sqrt((4 * n * n + 6 * n + 2) / 20) / zeta_p


def separations_d(n: Int[Tensor, "row 3"], zeta: Float[Tensor, "row 3"]) -> Float[Tensor, "row 3"]:
    """D_sd, D_pd, D_dd (bohr) of the s, p, d Slater functions of each row.

    D_sd = sqrt(4 <r^2>_sd/sqrt(60)), D_pd = 2 <r>_pd/sqrt(20), D_dd = sqrt(4 <r^2>_dd/14),
    <r^l>_ab = N_a N_b (n_a + n_b + l)! / (zeta_a + zeta_b)^(n_a+n_b+l+1), N = (2 zeta)^(n+1/2) / sqrt((2n)!)
    """
    powers, factors, log_factorial = _moment_constants(zeta.device)
    total = n + n[:, 2:] + powers
    log_norm = (n + 0.5) * torch.log(2 * zeta) - log_factorial.index_select(0, (2 * n).flatten()).view(n.shape) / 2
    log_moment = log_norm + log_norm[:, 2:] - (total + 1) * torch.log(zeta + zeta[:, 2:])
    log_moment = log_moment + log_factorial.index_select(0, total.flatten()).view(n.shape)
    # D_sd and D_dd are roots of a second moment: ln D = ln(...)/l
    return torch.exp((log_moment + factors) / powers)


@cached
def _moment_constants(device: torch.device) -> tuple[Int[Tensor, "3"], Float[Tensor, "3"], Float[Tensor, "21"]]:
    """Powers l of sd, pd, dd; logarithms of the factors of their moments; ln n! for n = 0 ... 20."""
    factors = [log(4 / sqrt(60)), log(2 / sqrt(20)), log(4 / 14)]
    log_factorial = [log(factorial(n)) for n in range(21)]
    return (torch.tensor([2, 1, 2], device=device), torch.tensor(factors, dtype=torch.float64, device=device),
            torch.tensor(log_factorial, dtype=torch.float64, device=device))


def additive_charge(g_ss: Float[Tensor, "row"], hartree: float) -> Float[Tensor, "row"]:
    """rho0 = EV/(2 g_ss), bohr: two charges at one place repel with g_ss. RHO_BARE where g_ss is not positive."""
    given = g_ss > 0
    return torch.where(given, hartree / (2 * torch.where(given, g_ss, 1.0)), RHO_BARE)


def additive_dipole(h: Float[Tensor, "*row"], D: Float[Tensor, "*row"], hartree: float, derivatives: int = 3
                    ) -> Float[Tensor, "*row"]:
    """rho (bohr) at which two dipoles of separation D at one place interact with h (eV).

    h = EV/4 [1/rho - (rho^2 + D^2)^(-1/2)]: rho -> EV/(4h) as D/rho -> infinity, (EV D^2/(8h))^(1/3) as D/rho -> 0.
    Infinite for h = 0; a smaller h counts as 1e-30.                                  Dewar & Thiel (1977)
    """
    log_y = torch.log(4 / hartree * h.clamp_min(1e-30) * D)
    return D * torch.exp(_root(_dipole, log_y, power=3, offset=log(1 / 2), sharpness=1.36, derivatives=derivatives))


def additive_quadrupole(h: Float[Tensor, "*row"], Q: Float[Tensor, "*row"], hartree: float, derivatives: int = 3
                        ) -> Float[Tensor, "*row"]:
    """rho (bohr) at which two quadrupoles (xz) of charges at (+-Q, +-Q) at one place interact with h (eV).

    h = EV/8 [1/rho - 2 (rho^2 + Q^2)^(-1/2) + (rho^2 + 2 Q^2)^(-1/2)]: rho -> EV/(8h) as Q/rho -> infinity,
    (3 EV Q^4/(32 h))^(1/5) as Q/rho -> 0. Infinite for h = 0; a smaller h counts as 1e-30.       Dewar & Thiel (1977)
    """
    log_y = torch.log(8 / hartree * h.clamp_min(1e-30) * Q)
    return Q * torch.exp(_root(_quadrupole, log_y, power=5, offset=log(3 / 4), sharpness=0.92, derivatives=derivatives))


def _dipole(u: Float[Tensor, "*row"]) -> tuple[Float[Tensor, "*row"], Float[Tensor, "*row"]]:
    """ln[1/x - (1 + x^2)^(-1/2)] at x = e^u, without cancellation, and its derivative by u."""
    x = torch.exp(u)
    s = torch.sqrt(1 + x * x)
    t = x / s
    return -u - torch.log(s * (x + s)), -1 - t - t * t


def _quadrupole(u: Float[Tensor, "*row"]) -> tuple[Float[Tensor, "*row"], Float[Tensor, "*row"]]:
    """ln[1/x - 2 (1 + x^2)^(-1/2) + (2 + x^2)^(-1/2)] at x = e^u, without cancellation, and its derivative by u."""
    x = torch.exp(u)
    xx = x * x
    b, c = torch.sqrt(1 + xx), torch.sqrt(2 + xx)
    p, q = x / b, x / c
    pq = p * q
    value = torch.log(2 * (x + b + c) / ((x + c) * (x + b) * (b + c) * b * c)) - u
    return value, pq * (1 + p + q) / (pq + p + q) - 1 - p - q - p * p - q * q - pq


def _root(
    interaction: Callable[[Tensor], tuple[Tensor, Tensor]], log_y: Float[Tensor, "*row"], power: int, offset: float,
    sharpness: float, derivatives: int = 3,
) -> Float[Tensor, "*row"]:
    """u with interaction(u) = log_y, where interaction -> -u for u -> -infinity and offset - power u for u -> infinity.

    In these logarithms the interaction is concave and falling, so Newton's iteration needs no safeguards; from a smooth
    minimum of the roots of the two asymptotes (sharpness fitted) three steps reach machine precision for any log_y.
    This search stays off the tape. Seen from its result, a constant, the root of a varied log_y is off by a first order of the
    variation; a Newton step on tape squares that, so two leave a fourth order: value and three derivatives are exact. For
    one derivative the slope at the root is enough.
    """
    with torch.no_grad():
        target = log_y.detach()     # the search is not differentiated: the last two steps are
        u = torch.logaddexp(sharpness * target, (target - offset) * (sharpness / power)) / -sharpness
        for _ in range(3 if derivatives > 1 else 4):
            value, slope = interaction(u)
            u = u - (value - target) / slope
        slope = interaction(u)[1] if derivatives == 1 else None
    if slope is not None:
        return u + (log_y - target) / slope
    for _ in range(2):
        value, slope = interaction(u)
        u = u - (value - log_y) / slope
    return u
