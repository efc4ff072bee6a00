"""Which core-core formula and constants each pair of elements takes in a method.

These are the rules of `integrals.nuclear` for all pairs of rows of a table. The exceptions of the published methods are
written here as data, once per table, so that the evaluation has no branches.
"""

import math

import torch
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
from nddo_ml.methods.tables import Table, constants

H, HE, C, N, O, SI, MO = 1, 2, 6, 7, 8, 14, 42
HALOGENS = (9, 17, 35, 53)
SODIUM_TO_ALUMINIUM = (11, 12, 13)
PSEUDO_ATOM = 100   # the numbers from which MOPAC stores its pseudo-atoms of whole charge


def exponential_rules(table: Table) -> ExponentialRules:
    """MNDO, PM3, RM1: exponentials and Gaussians of the two atoms, or one exponential of the pair where it is listed."""
    listed = (table.pairs.index >= 0).unsqueeze(-1)
    first = torch.tensor([True, False])   # a listed pair uses the first of the two exponentials
    charge = _charge(table)
    gaussians = int(table.parameters.K.ne(0).any(0).sum())   # per atom, as many as any species of this method has
    return ExponentialRules(
        source=_published(table),
        charge=charge,
        constant=charge.abs().unsqueeze(-1) * ~listed * charge.new_ones(2),
        slope=2.0 * charge.unsqueeze(-1) * (listed & first),
        shared=listed & first,
        linear=_beside_hydrogen(table) & ~listed,
        count=(~listed).double().expand(-1, -1, 2 * gaussians).contiguous(),
        special=None,
    )


def am1_rules(table: Table) -> ExponentialRules:
    """AM1: boron with H, C or a halogen has Gaussians of the pair in place of its own; Mo-H has a factor r."""
    rules = exponential_rules(table)
    z = table.core_number
    n = rules.count.shape[-1] // 2
    count, linear = rules.count.clone(), rules.linear.clone()
    linear[..., 0] |= _pair(z, MO, H)
    special = [torch.zeros(*count.shape[:2], 2, dtype=count.dtype) for _ in "KLM"]
    values = constants("am1")
    for term, partners in (("boron_H", (H,)), ("boron_C", (C,)), ("boron_halogen", HALOGENS)):
        boron_first = (z == 5).unsqueeze(1) & _among(z, partners).unsqueeze(0)
        count[..., :n][boron_first] = 0.0
        count[..., n:][boron_first.T] = 0.0
        for name, column in zip("KLM", special, strict=True):
            column[boron_first | boron_first.T] = column.new_tensor([values[term, f"{name}1"], values[term, f"{name}2"]])
    return ExponentialRules(**{**vars(rules), "count": count, "linear": linear, "special": PairGaussians(*special)})


def mndod_rules(table: Table) -> ExponentialRules:
    """MNDO/d: a listed pair replaces the exponent of its Na, Mg or Al; everything else as unlisted."""
    metal = _among(table.core_number, SODIUM_TO_ALUMINIUM).unsqueeze(1)
    listed = table.pairs.index >= 0
    charge = _charge(table)
    constant = charge.abs().unsqueeze(-1) * charge.new_ones(2)
    return ExponentialRules(
        source=_published(table),
        charge=charge,
        constant=constant,
        slope=torch.zeros_like(constant),
        shared=torch.stack((listed & metal, listed & metal.T), -1),
        linear=_beside_hydrogen(table),
        count=charge.new_zeros(*charge.shape, 0),
        special=None,
    )


def pm6_rules(table: Table) -> DampedRules:
    """PM6: unlisted pairs have neither alpha nor x but a term of their own, and their Gaussians count more than once."""
    listed = table.pairs.index >= 0
    return _damped(table, _published(table), missing=~listed)


def pm7_rules(table: Table) -> DampedRules:
    """PM7: unlisted pairs take the means of alpha and x of the two homonuclear pairs, one that is missing being zero.

    Pairs with neither (two sparkles), and all of pseudo-atoms of whole charge, follow PM6, as MOPAC's energies show.
    """
    index = table.pairs.index
    alone, charge = index.diagonal() < 0, table.core_number >= PSEUDO_ATOM
    missing = (index < 0) & (charge.unsqueeze(0) | charge.unsqueeze(1) | (alone.unsqueeze(0) & alone.unsqueeze(1)))
    means = _means(table)
    return _damped(table, PairSource(means.entry, means.weight * (~missing).unsqueeze(-1)), missing)


def _damped(table, source, missing) -> DampedRules:
    """Rules of the PM6 form. A missing pair has c = 10 |Z_A Z_B| at exp(-2.18 r) (3.0 beside a lanthanide) and counts the first
    Gaussian of each atom twice, the second once; any other pair counts the first once.
    """
    values = constants(table.name)
    charge = _charge(table)
    missing = missing.unsqueeze(-1)
    lanthanide = _among(table.core_number, LANTHANIDES)
    near = torch.full_like(charge, values["core_missing_pair", "alpha"])
    near[lanthanide.unsqueeze(0) | lanthanide.unsqueeze(1)] = values["core_missing_pair", "alpha_lanthanide"]
    generic = torch.stack((values["core_missing_pair", "amplitude"] * charge.sign(), near, torch.zeros_like(charge)), -1)
    return DampedRules(
        source=source,
        charge=charge,
        square=_hydrogen_square(table),
        extra=torch.where(missing, generic, _extra(table, values)),
        wall=_wall(table, values),
        count=torch.where(missing, charge.new_tensor([2.0, 1.0] * 2), charge.new_tensor([1.0, 0.0] * 2)),
    )


EXPONENTIAL = CoreForm(exponential_rules, exponential)
AM1 = CoreForm(am1_rules, exponential)
MNDOD = CoreForm(mndod_rules, exponential)
PM6 = CoreForm(pm6_rules, damped)
PM7 = CoreForm(pm7_rules, damped)


def _charge(table) -> Tensor:
    """Z_A Z_B."""
    return table.elements.core.unsqueeze(1) * table.elements.core.unsqueeze(0)


def _among(z, members):
    return torch.isin(z, torch.tensor(list(members)))


def _pair(z, first, second):
    """Pairs of these two elements, either order."""
    ordered = (z == first).unsqueeze(1) & (z == second).unsqueeze(0)
    return ordered | ordered.T


def _beside_hydrogen(table):
    """Exponentials with the factor r, of A and of B: those of N and O beside H and, by accident of MOPAC, of N beside He."""
    z = table.core_number
    first = (_among(z, (N, O)).unsqueeze(1) & (z == H).unsqueeze(0)) | ((z == N).unsqueeze(1) & (z == HE).unsqueeze(0))
    return torch.stack((first, first.T), -1)


def _published(table):
    """alpha and x of listed pairs; zero for the others."""
    index = table.pairs.index
    return PairSource(index.clamp(min=0).unsqueeze(-1), (index >= 0).double().unsqueeze(-1))


def _means(table):
    """alpha and x of listed pairs; else half of those of each of the two homonuclear entries, zero where there is none."""
    index = table.pairs.index
    own = index.diagonal()
    homonuclear = torch.stack((own.unsqueeze(1).expand_as(index), own.unsqueeze(0).expand_as(index)), -1)
    entry = torch.where((index >= 0).unsqueeze(-1), index.unsqueeze(-1), homonuclear)
    return PairSource(entry.clamp(min=0), 0.5 * (entry >= 0).double())


def _hydrogen_square(table):
    """Pairs H-C, H-N, H-O: the exponent is alpha r^2."""
    z = table.core_number
    return _pair(z, H, C) | _pair(z, H, N) | _pair(z, H, O)


def _extra(table, values):
    """Additional term c exp[-(a r + b r^2)] of listed pairs as (c, a, b): C-C, Si-O, and H-O of PM7."""
    z = table.core_number
    extra = torch.zeros(len(z), len(z), 3, dtype=torch.double)
    extra[_pair(z, C, C)] = extra.new_tensor([values["core_CC", "p1"], values["core_CC", "p2"], 0.0])
    width, centre = values["core_SiO", "width"], values["core_SiO", "centre"]
    amplitude = values["core_SiO", "amplitude"] * math.exp(-width * centre**2)   # Gaussian about the centre, expanded
    extra[_pair(z, SI, O)] = extra.new_tensor([amplitude, -2.0 * width * centre, width])
    if ("core_OH", "p3") in values:   # MOPAC's p3, p4 are of the form -p3 exp(-2 p4 r)
        extra[_pair(z, O, H)] = extra.new_tensor([-values["core_OH", "p3"], 2.0 * values["core_OH", "p4"], 0.0])
    return extra


def _wall(table, values):
    """c12 (Z_A^p + Z_B^p)^12, eV angstrom^12, of the unpolarisable cores; Z are atomic numbers."""
    size = table.core_number.double() ** values["core_wall", "exponent_of_Z"]
    return values["core_wall", "c12"] * (size.unsqueeze(1) + size.unsqueeze(0)) ** 12
