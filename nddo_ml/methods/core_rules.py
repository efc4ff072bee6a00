"""Which core-core formula and constants each pair of species takes in a method.

These are the rules of `integrals.nuclear` for all ordered pairs of rows of a table: pair number i n + j of n rows has atom A of
row i and atom B of row j. The exceptions of the published methods are written here as data, once per table, so that the
evaluation has no branches.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.elements import LANTHANIDES
from nddo_ml.integrals.nuclear import (
    CoreForm,
    DampedRules,
    ExponentialRules,
    PairGaussians,
    PairSource,
    damped,
    exponential,
)
from nddo_ml.methods.tables import Table, core_values

H, HE, B, C, N, O, SI, MO = 1, 2, 5, 6, 7, 8, 14, 42
HALOGENS = (9, 17, 35, 53)
SODIUM_TO_ALUMINIUM = (11, 12, 13)
PSEUDO_ATOM = 100   # the numbers from which MOPAC stores its pseudo-atoms of whole charge

Values = dict[tuple[str, str], float]     # tables.core_values


@dataclass(frozen=True, eq=False)
class TablePairs:
    """All ordered pairs of rows of a table."""

    row_A: Int[Tensor, "pair"]          # of both atoms
    row_B: Int[Tensor, "pair"]
    z_A: Int[Tensor, "pair"]            # Table.core_number of both atoms
    z_B: Int[Tensor, "pair"]
    charge: Float[Tensor, "pair"]       # Z_A Z_B, e^2
    entry: Int[Tensor, "pair"]          # of the pair among the published ones, -1 where it is not listed
    entry_A: Int[Tensor, "pair"]        # of the homonuclear pairs A-A and B-B
    entry_B: Int[Tensor, "pair"]

    @property
    def listed(self) -> Bool[Tensor, "pair"]:
        """Whether alpha and x of the pair are published."""
        return self.entry >= 0

    def between(self, first: int, second: int) -> Bool[Tensor, "pair"]:
        """Whether the two atoms are of these two elements, in either order."""
        return ((self.z_A == first) & (self.z_B == second)) | ((self.z_A == second) & (self.z_B == first))


def table_pairs(table: Table) -> TablePairs:
    """All ordered pairs of rows of a table."""
    n, core, own = len(table.core_number), table.elements.core, table.pairs.index.diagonal()
    a, b = (k.flatten() for k in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    z = table.core_number
    return TablePairs(a, b, z[a], z[b], core[a] * core[b], table.pairs.index[a, b], own[a], own[b])


def exponential_rules(table: Table) -> ExponentialRules:
    """MNDO, PM3, RM1: exponentials and Gaussians of the two atoms, or one exponential of the pair where it is listed."""
    pairs = table_pairs(table)
    listed, charge = pairs.listed[:, None], pairs.charge[:, None]
    first = torch.tensor([True, False])   # a listed pair uses the first of the two exponentials
    gaussians = int(table.parameters.K.ne(0).any(0).sum())   # per atom, as many as any species of this method has
    return ExponentialRules(
        source=_published(pairs),
        charge=pairs.charge,
        constant=charge.abs() * ~listed * charge.new_ones(2),
        slope=2.0 * charge * (listed & first),
        shared=listed & first,
        linear=_beside_hydrogen(pairs) & ~listed,
        count=(~listed).double().expand(-1, 2 * gaussians).contiguous(),
        special=None,
    )


def am1_rules(table: Table) -> ExponentialRules:
    """AM1: boron with H, C or a halogen has Gaussians of the pair in place of its own; Mo-H has a factor r."""
    pairs, rules, values = table_pairs(table), exponential_rules(table), core_values("am1")
    n = rules.count.shape[1] // 2
    count, linear = rules.count.clone(), rules.linear.clone()
    linear[:, 0] |= pairs.between(MO, H)
    special = [torch.zeros(len(count), 2, dtype=count.dtype) for _ in "KLM"]
    for term, partners in (("boron_H", (H,)), ("boron_C", (C,)), ("boron_halogen", HALOGENS)):
        boron_A = (pairs.z_A == B) & _among(pairs.z_B, partners)
        boron_B = (pairs.z_B == B) & _among(pairs.z_A, partners)
        count[:, :n][boron_A] = 0.0
        count[:, n:][boron_B] = 0.0
        for name, column in zip("KLM", special, strict=True):
            column[boron_A | boron_B] = column.new_tensor([values[term, f"{name}1"], values[term, f"{name}2"]])
    return replace(rules, count=count, linear=linear, special=PairGaussians(*special))


def mndod_rules(table: Table) -> ExponentialRules:
    """MNDO/d: a listed pair replaces the exponent of its Na, Mg or Al; everything else as unlisted."""
    pairs = table_pairs(table)
    metals = torch.stack([_among(z, SODIUM_TO_ALUMINIUM) for z in (pairs.z_A, pairs.z_B)], 1)
    constant = pairs.charge.abs()[:, None] * pairs.charge.new_ones(2)
    return ExponentialRules(
        source=_published(pairs),
        charge=pairs.charge,
        constant=constant,
        slope=torch.zeros_like(constant),
        shared=pairs.listed[:, None] & metals,
        linear=_beside_hydrogen(pairs),
        count=pairs.charge.new_zeros(len(pairs.charge), 0),
        special=None,
    )


def pm6_rules(table: Table) -> DampedRules:
    """PM6: unlisted pairs have neither alpha nor x but a term of their own, and their Gaussians count more than once."""
    pairs = table_pairs(table)
    return _damped(table, pairs, _published(pairs), missing=~pairs.listed)


def pm7_rules(table: Table) -> DampedRules:
    """PM7: unlisted pairs take the means of alpha and x of the two homonuclear pairs, one that is missing being zero.

    Pairs with neither (two sparkles), and all of pseudo-atoms of whole charge, follow PM6, as MOPAC's energies show.
    """
    pairs = table_pairs(table)
    pseudo = (pairs.z_A >= PSEUDO_ATOM) | (pairs.z_B >= PSEUDO_ATOM)
    missing = ~pairs.listed & (pseudo | ((pairs.entry_A < 0) & (pairs.entry_B < 0)))
    means = _means(pairs)
    return _damped(table, pairs, PairSource(means.entry, means.weight * ~missing[:, None]), missing)


def _damped(table: Table, pairs: TablePairs, source: PairSource, missing: Bool[Tensor, "pair"]) -> DampedRules:
    """Rules of the PM6 form.

    A missing pair has c = 10 |Z_A Z_B| at exp(-2.18 r) (3.0 beside a lanthanide) and counts the first Gaussian of each atom
    twice, the second once; any other pair counts the first once.
    """
    charge, values = pairs.charge, core_values(table.name)
    near = torch.full_like(charge, values["core_missing_pair", "alpha"])
    near[_among(pairs.z_A, LANTHANIDES) | _among(pairs.z_B, LANTHANIDES)] = values["core_missing_pair", "alpha_lanthanide"]
    generic = torch.stack((values["core_missing_pair", "amplitude"] * charge.sign(), near, torch.zeros_like(charge)), -1)
    return DampedRules(
        source=source,
        charge=charge,
        square=pairs.between(H, C) | pairs.between(H, N) | pairs.between(H, O),      # the exponent is alpha r^2
        extra=torch.where(missing[:, None], generic, _extra(pairs, values)),
        wall=_wall(table, pairs, values),
        count=torch.where(missing[:, None], charge.new_tensor([2.0, 1.0] * 2), charge.new_tensor([1.0, 0.0] * 2)),
    )


EXPONENTIAL = CoreForm(exponential_rules, exponential)
AM1 = CoreForm(am1_rules, exponential)
MNDOD = CoreForm(mndod_rules, exponential)
PM6 = CoreForm(pm6_rules, damped)
PM7 = CoreForm(pm7_rules, damped)


def _among(z: Int[Tensor, "pair"], members: Iterable[int]) -> Bool[Tensor, "pair"]:
    """Whether each number is one of the members."""
    return torch.isin(z, torch.tensor(list(members)))


def _beside_hydrogen(pairs: TablePairs) -> Bool[Tensor, "pair 2"]:
    """Exponentials with the factor r, of A and of B: those of N and O beside H and, by accident of MOPAC, of N beside He."""
    def factor(z: Tensor, other: Tensor) -> Tensor:
        return (_among(z, (N, O)) & (other == H)) | ((z == N) & (other == HE))

    return torch.stack((factor(pairs.z_A, pairs.z_B), factor(pairs.z_B, pairs.z_A)), 1)


def _published(pairs: TablePairs) -> PairSource:
    """alpha and x of listed pairs; zero for the others."""
    return PairSource(pairs.entry.clamp(min=0)[:, None], pairs.listed.double()[:, None])


def _means(pairs: TablePairs) -> PairSource:
    """alpha and x of listed pairs; else half of those of each of the two homonuclear entries, zero where there is none."""
    homonuclear = torch.stack((pairs.entry_A, pairs.entry_B), 1)
    entry = torch.where(pairs.listed[:, None], pairs.entry[:, None], homonuclear)
    return PairSource(entry.clamp(min=0), 0.5 * (entry >= 0).double())


def _extra(pairs: TablePairs, values: Values) -> Float[Tensor, "pair 3"]:
    """Additional term c exp[-(a r + b r^2)] of listed pairs as (c, a, b): C-C, Si-O, and H-O of PM7."""
    extra = torch.zeros(len(pairs.charge), 3, dtype=torch.double)
    extra[pairs.between(C, C)] = extra.new_tensor([values["core_CC", "p1"], values["core_CC", "p2"], 0.0])
    width, centre = values["core_SiO", "width"], values["core_SiO", "centre"]
    amplitude = values["core_SiO", "amplitude"] * math.exp(-width * centre**2)   # Gaussian about the centre, expanded
    extra[pairs.between(SI, O)] = extra.new_tensor([amplitude, -2.0 * width * centre, width])
    if ("core_OH", "p3") in values:   # MOPAC's p3, p4 are of the form -p3 exp(-2 p4 r)
        extra[pairs.between(O, H)] = extra.new_tensor([-values["core_OH", "p3"], 2.0 * values["core_OH", "p4"], 0.0])
    return extra


def _wall(table: Table, pairs: TablePairs, values: Values) -> Float[Tensor, "pair"]:
    """c12 (Z_A^p + Z_B^p)^12, eV angstrom^12, of the unpolarisable cores; Z are atomic numbers."""
    size = table.core_number.double() ** values["core_wall", "exponent_of_Z"]
    return values["core_wall", "c12"] * (size[pairs.row_A] + size[pairs.row_B]) ** 12
