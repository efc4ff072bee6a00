"""Repulsion of two atomic cores: charge against charge, softened at short range by exponentials and Gaussians.

Two forms cover all methods. `exponential` (MNDO, AM1, PM3, RM1, MNDO/d) screens with one exponential per atom or one per pair
of elements; `damped` (PM6, PM7) with one exponential per pair, extra terms for a few pairs, and an unpolarisable core. Which
formula and which constants a pair takes depends on its two elements only: a record of rules holds that as masks and
coefficients, so that the energy has no branches and its parameters (alpha, x, K, L, M, gamma) may come from a network.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.common.struct import record, tensor_map
from nddo_ml.integrals.parameters import AtomParameters, PairParameters

LARGEST_EXPONENT = 25.0   # MOPAC drops Gaussians beyond it; the step is K Z_A Z_B/r exp(-25), about 1e-11 eV
LARGEST_WALL = 1e5        # eV
DAMPING = 0.0003000000142492354   # 1/angstrom^5; 0.0003 in single precision, as in MOPAC (5e-7 eV in 200 atoms)


@record
class CoreParameters:
    """What one atom of each pair brings to the core-core repulsion."""

    alpha: Float[Tensor, "row"]     # exponent, 1/angstrom
    K: Float[Tensor, "row 4"]       # heights of the Gaussians, eV angstrom
    L: Float[Tensor, "row 4"]       # their exponents, 1/angstrom^2
    M: Float[Tensor, "row 4"]       # their centres, angstrom


def core_parameters(parameters: AtomParameters) -> CoreParameters:
    """The part of the parameters that the core-core repulsion looks at, row by row."""
    return CoreParameters(parameters.alpha, parameters.K, parameters.L, parameters.M)


@record
class PairSource:
    """Where the parameters of each pair come from: alpha = sum weight alpha[entry], x = sum weight x[entry]."""

    entry: Int[Tensor, "*pair term"]
    weight: Float[Tensor, "*pair term"]


@record
class PairValues:
    """Core-core parameters of each pair; 0 where the method has none."""

    alpha: Float[Tensor, "pair"]    # exponent, 1/angstrom, or 1/angstrom^2 where the rules say so
    x: Float[Tensor, "pair"]        # factor


@record
class PairGaussians:
    """Two Gaussians of the pair itself, instead of those of one of its atoms (AM1 boron)."""

    K: Float[Tensor, "*pair 2"]     # eV angstrom
    L: Float[Tensor, "*pair 2"]     # 1/angstrom^2
    M: Float[Tensor, "*pair 2"]     # angstrom


@record
class ExponentialRules:
    """Static choices of `exponential`. `pair` is one axis over pairs of atoms, or two over the rows of a method's table."""

    source: PairSource
    charge: Float[Tensor, "*pair"]              # Z_A Z_B
    constant: Float[Tensor, "*pair 2"]          # the exponentials have the coefficients constant + slope x; Z_A Z_B or
    slope: Float[Tensor, "*pair 2"]             # |Z_A Z_B| is included in both
    shared: Bool[Tensor, "*pair 2"]             # the exponent is that of the pair instead of that of the atom
    linear: Bool[Tensor, "*pair 2"]             # the exponential is multiplied by r
    count: Float[Tensor, "*pair gaussian"]      # how often each Gaussian of A, then of B counts; no columns: there are none
    special: PairGaussians | None


@record
class DampedRules:
    """Static choices of `damped`. `pair` is one axis over pairs of atoms, or two over the rows of a method's table."""

    source: PairSource
    charge: Float[Tensor, "*pair"]              # Z_A Z_B
    square: Bool[Tensor, "*pair"]               # the exponent is alpha r^2
    extra: Float[Tensor, "*pair 3"]             # (c, a, b) of the term c exp[-(a r + b r^2)], c in units of Z_A Z_B gamma
    wall: Float[Tensor, "*pair"]                # c12 (Z_A^p + Z_B^p)^12, eV angstrom^12
    count: Float[Tensor, "*pair gaussian"]      # how often each Gaussian of A, then of B counts


CoreRules = ExponentialRules | DampedRules

# Repulsion (pair) of the cores in eV from (rules, R, gamma, parameters of atoms i, of atoms j, values of the pairs): R in
# angstrom, gamma in eV. The rules are those that its form makes.
CoreEnergy = Callable[[Any, Tensor, Tensor, CoreParameters, CoreParameters, PairValues], Tensor]


@dataclass(frozen=True)
class CoreForm:
    """A core-core form of a method: which formula and constants each pair takes, and the evaluation."""

    table: Callable[[Any], CoreRules]     # the tables of a method -> rules of all pairs of their rows
    energy: CoreEnergy


def core_rules(table: CoreRules, rows: int, i: Int[Tensor, "pair"], j: Int[Tensor, "pair"]) -> CoreRules:
    """The rules of pairs whose atoms are rows i and j of a method's table of `rows` rows. Depends on elements only: keep it.

    table: the rules of all pairs of rows, flattened to one axis.
    """
    flat = i * rows + j
    rules = tensor_map(lambda t: t.index_select(0, flat), table)
    if isinstance(rules, ExponentialRules) and rules.special is not None and not bool((rules.special.L > 0).any()):
        rules = replace(rules, special=None)   # no boron here: spare its terms
    return rules


def pair_values(pairs: PairParameters, rules: CoreRules) -> PairValues:
    """alpha and x of each pair from the published entries `pairs`; PM7's means of two entries included."""
    source = rules.source
    if pairs.alpha.shape[0] == 0:
        n = source.weight.shape[0]
        return PairValues(source.weight.new_zeros(n), source.weight.new_zeros(n))
    both = torch.stack((pairs.alpha, pairs.x)).index_select(1, source.entry.reshape(-1))
    alpha, x = (both.reshape(2, *source.entry.shape) * source.weight).sum(-1).unbind(0)
    return PairValues(alpha, x)


def exponential(
    rules: ExponentialRules, r: Float[Tensor, "pair"], gamma: Float[Tensor, "pair"], atoms_i: CoreParameters,
    atoms_j: CoreParameters, pair: PairValues,
) -> Float[Tensor, "pair"]:
    """Core repulsion of MNDO, AM1, PM3, RM1 and MNDO/d, eV; r in angstrom, gamma in eV, parameters of both atoms of each pair.

    E = gamma [Z_A Z_B + c_A r^m exp(-a_A r) + c_B r^m exp(-a_B r)] + Z_A Z_B/r (Gaussians of A and B)

    Pairs without parameters of their own: c = |Z_A Z_B|, a the alpha of the atom, m = 1 for N and O beside H, else 0
    (Dewar & Thiel 1977; Gaussians: Dewar, Zoebisch, Healy, Stewart 1985). Pairs with: c_A = 2 x Z_A Z_B, a_A = alpha_AB,
    c_B = 0, no Gaussians (Stewart, J. Mol. Model. 10, 155, 2004); MNDO/d instead puts alpha_AB in place of the alpha of
    Na, Mg, Al (Thiel & Voityuk, J. Phys. Chem. 100, 616, 1996).
    """
    a = torch.where(rules.shared, pair.alpha.unsqueeze(1), torch.stack((atoms_i.alpha, atoms_j.alpha), 1))
    s = torch.exp(-a * r.unsqueeze(1)) * torch.addcmul(rules.constant, rules.slope, pair.x.unsqueeze(1))
    s = torch.where(rules.linear, s * r.unsqueeze(1), s).sum(1)
    energy = gamma * (rules.charge + s)
    if rules.count.shape[1]:
        energy = energy + rules.charge / r * gaussians(rules.count, r, atoms_i, atoms_j, rules.special)
    return energy


def damped(
    rules: DampedRules, r: Float[Tensor, "pair"], gamma: Float[Tensor, "pair"], atoms_i: CoreParameters,
    atoms_j: CoreParameters, pair: PairValues,
) -> Float[Tensor, "pair"]:
    """Core repulsion of PM6 and PM7, eV; r in angstrom, gamma in eV (PM7: joined), parameters of both atoms of each pair.

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
    return rules.charge * (gamma * (1.0 + s) + gaussians(rules.count, r, atoms_i, atoms_j, None) / r) + wall


def gaussians(
    count: Float[Tensor, "pair gaussian"], r: Float[Tensor, "pair"], atoms_i: CoreParameters, atoms_j: CoreParameters,
    special: PairGaussians | None,
) -> Float[Tensor, "pair"]:
    """Sum of the Gaussians of both atoms, K exp[-L (r - M)^2], eV angstrom; r in angstrom.

    count: how often each Gaussian of A, then of B counts; special: Gaussians of the pair to be added.
    """
    n = count.shape[1] // 2
    both = ((atoms_i.K, atoms_j.K), (atoms_i.L, atoms_j.L), (atoms_i.M, atoms_j.M))
    K, L, M = (torch.cat((first[:, :n], second[:, :n]), 1) for first, second in both)
    K = K * count
    if special is not None:
        K, L, M = torch.cat((K, special.K), 1), torch.cat((L, special.L), 1), torch.cat((M, special.M), 1)
    exponent = L * (r.unsqueeze(1) - M).square()
    return (K * torch.exp(-exponent) * (exponent <= LARGEST_EXPONENT)).sum(1)
