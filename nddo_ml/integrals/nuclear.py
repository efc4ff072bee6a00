"""Repulsion of two atomic cores: charge against charge, softened at short range by exponentials and Gaussians.

Two forms cover all methods. `exponential` (MNDO, AM1, PM3, RM1, MNDO/d) screens with one exponential per atom or one per pair
of elements; `damped` (PM6, PM7) with one exponential per pair, extra terms for a few pairs, and an unpolarisable core. Which
formula and which constants a pair takes depends on its two elements only: a record of rules holds that as masks and
coefficients, so that the energy has no branches and its parameters (alpha, x, K, L, M, gamma) may come from a network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.common.struct import record, tensor_map

LARGEST_EXPONENT = 25.0   # MOPAC drops Gaussians beyond it; the step is K Z_A Z_B/r exp(-25), about 1e-11 eV
LARGEST_WALL = 1e5        # eV
DAMPING = 0.0003000000142492354   # 1/angstrom^5; 0.0003 in single precision, as in MOPAC (5e-7 eV in 200 atoms)


@record
class PairSource:
    """Where the parameters of each pair come from: alpha = sum weight alpha[entry], x = sum weight x[entry]."""

    entry: Int[Tensor, "pair term"]
    weight: Float[Tensor, "pair term"]


@record
class PairValues:
    """Core-core parameters of each pair: alpha (1/angstrom or 1/angstrom^2) and x; 0 where the method has none."""

    alpha: Float[Tensor, "pair"]
    x: Float[Tensor, "pair"]


@record
class PairGaussians:
    """Two Gaussians of the pair itself, instead of those of one of its atoms (AM1 boron)."""

    K: Float[Tensor, "pair 2"]
    L: Float[Tensor, "pair 2"]
    M: Float[Tensor, "pair 2"]


@record
class ExponentialRules:
    """Static choices of `exponential` per pair: charge Z_A Z_B; constant, slope: coefficient of each exponential as constant +
    slope x, Z_A Z_B or |Z_A Z_B| included; shared: the exponent is the pair's instead of the atom's; linear: the exponential is
    multiplied by r; count: how often each Gaussian of A and B counts (0 columns where the method has none).
    """

    source: PairSource
    charge: Float[Tensor, "pair"]
    constant: Float[Tensor, "pair 2"]
    slope: Float[Tensor, "pair 2"]
    shared: Bool[Tensor, "pair 2"]
    linear: Bool[Tensor, "pair 2"]
    count: Float[Tensor, "pair gaussian"]
    special: PairGaussians | None


@record
class DampedRules:
    """Static choices of `damped` per pair: charge Z_A Z_B; square: the exponent is alpha r^2; extra: the term
    c exp[-(a r + b r^2)] as (c, a, b), c in units of Z_A Z_B gamma; wall: c12 (Z_A^p + Z_B^p)^12 in eV angstrom^12;
    count as in ExponentialRules.
    """

    source: PairSource
    charge: Float[Tensor, "pair"]
    square: Bool[Tensor, "pair"]
    extra: Float[Tensor, "pair 3"]
    wall: Float[Tensor, "pair"]
    count: Float[Tensor, "pair gaussian"]


@dataclass(frozen=True)
class CoreForm:
    """A core-core form: `table` makes the rules of all pairs of rows of a method's table, `energy` evaluates them."""

    table: Callable
    energy: Callable


def core_rules(table: ExponentialRules | DampedRules, rows: int, i: Int[Tensor, "pair"], j: Int[Tensor, "pair"]):
    """The rules of pairs whose atoms are rows i and j of a method's table of `rows` rows. Depends on elements only: keep it."""
    flat = i * rows + j
    rules = tensor_map(lambda t: t.index_select(0, flat), table)
    if isinstance(rules, ExponentialRules) and rules.special is not None and not bool((rules.special.L > 0).any()):
        rules = ExponentialRules(**{**vars(rules), "special": None})   # no boron here: spare its terms
    return rules


def pair_values(pairs, rules: ExponentialRules | DampedRules) -> PairValues:
    """alpha and x of each pair from the published entries `pairs` (PairParameters); PM7's means of two entries included."""
    source = rules.source
    if pairs.alpha.shape[0] == 0:
        return PairValues(*source.weight.new_zeros(2, source.weight.shape[0]))
    both = torch.stack((pairs.alpha, pairs.x)).index_select(1, source.entry.reshape(-1))
    return PairValues(*(both.unflatten(1, source.entry.shape) * source.weight).sum(-1))


def gamma(
    R: Float[Tensor, "pair"], rho_i: Float[Tensor, "pair"], rho_j: Float[Tensor, "pair"], constants
) -> Float[Tensor, "pair"]:
    """Interaction of two unit core charges, eV:  EV / sqrt(R^2 + (rho_core,i + rho_core,j)^2), R and rho in bohr.

    Tends to EV/R at long range. PM7 joins it to the point-charge limit afterwards.
    """
    return constants.hartree * torch.rsqrt(R * R + (rho_i + rho_j).square())


def exponential(rules: ExponentialRules, r, gamma, P_i, P_j, pair: PairValues) -> Float[Tensor, "pair"]:
    """Core repulsion of MNDO, AM1, PM3, RM1 and MNDO/d, eV; r in angstrom, gamma in eV, P_i and P_j AtomParameters per pair.

    E = gamma [Z_A Z_B + c_A r^m exp(-a_A r) + c_B r^m exp(-a_B r)] + Z_A Z_B/r (Gaussians of A and B)

    Pairs without parameters of their own: c = |Z_A Z_B|, a the alpha of the atom, m = 1 for N and O beside H, else 0
    (Dewar & Thiel 1977; Gaussians: Dewar, Zoebisch, Healy, Stewart 1985). Pairs with: c_A = 2 x Z_A Z_B, a_A = alpha_AB,
    c_B = 0, no Gaussians (Stewart, J. Mol. Model. 10, 155, 2004); MNDO/d instead puts alpha_AB in place of the alpha of
    Na, Mg, Al (Thiel & Voityuk, J. Phys. Chem. 100, 616, 1996).
    """
    a = torch.where(rules.shared, pair.alpha.unsqueeze(1), torch.stack((P_i.alpha, P_j.alpha), 1))
    s = torch.exp(-a * r.unsqueeze(1)) * torch.addcmul(rules.constant, rules.slope, pair.x.unsqueeze(1))
    s = torch.where(rules.linear, s * r.unsqueeze(1), s).sum(1)
    energy = gamma * (rules.charge + s)
    if rules.count.shape[1]:
        energy = energy + rules.charge / r * gaussians(rules.count, r, P_i, P_j, rules.special)
    return energy


def damped(rules: DampedRules, r, gamma, P_i, P_j, pair: PairValues) -> Float[Tensor, "pair"]:
    """Core repulsion of PM6 and PM7, eV; r in angstrom, gamma in eV (PM7: joined), P_i and P_j the AtomParameters per pair.

    E = Z_A Z_B gamma {1 + 2 x exp[-alpha (r + 0.0003 r^6)] + c exp[-(a r + b r^2)]} + Z_A Z_B/r (Gaussians of A and B)
        + min(1e5, 1e-8 [(Z_A^0.3333 + Z_B^0.3333)/r]^12)

    H-C, H-N and H-O: exp(-alpha r^2). The term c: C-C, Si-O, PM7 H-O, and unlisted pairs of PM6.
    MOPAC ends the last term at 3 (Z_A^0.3333 + Z_B^0.3333), where it is 2e-14 eV; here it goes on.
    Voityuk & Roesch 2000; Stewart, J. Mol. Model. 13, 1173 (2007) and 19, 1 (2013)
    """
    r2 = r * r
    r6 = r2 * r2 * r2
    distance = torch.where(rules.square, r2, torch.add(r, r6, alpha=DAMPING))
    c, a, b = rules.extra.unbind(1)
    s = 2.0 * pair.x * torch.exp(-pair.alpha * distance) + c * torch.exp(-r * torch.addcmul(a, b, r))
    wall = torch.clamp(rules.wall / (r6 * r6), max=LARGEST_WALL)
    return rules.charge * (gamma * (1.0 + s) + gaussians(rules.count, r, P_i, P_j, None) / r) + wall


def gaussians(count, r, P_i, P_j, special: PairGaussians | None) -> Float[Tensor, "pair"]:
    """Sum of the Gaussians of both atoms, K exp[-L (r - M)^2], eV angstrom; `count` (pair, gaussian) weighs A's, then B's."""
    n = count.shape[1] // 2
    K, L, M = (torch.cat((p[:, :n], q[:, :n]), 1) for p, q in ((P_i.K, P_j.K), (P_i.L, P_j.L), (P_i.M, P_j.M)))
    K = K * count
    if special is not None:
        K, L, M = torch.cat((K, special.K), 1), torch.cat((L, special.L), 1), torch.cat((M, special.M), 1)
    exponent = L * (r.unsqueeze(1) - M).square()
    return (K * torch.exp(-exponent) * (exponent <= LARGEST_EXPONENT)).sum(1)
