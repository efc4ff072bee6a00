"""The parameters of a batch: gathered from the tables, then shifted by a network.

A network returns Shifts; here they meet the records of the parent method. Which shift an atom can take is decided by the
parent's values alone, so that no step appears when a network moves them. D, Q and rho are solved again from the shifted
parameters: every limit of the integrals survives.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import exp

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import cached, record
from nddo_ml.integrals.multipole import H_PP_FLOOR, AtomIntegrals, atom_integrals
from nddo_ml.integrals.nuclear import PairValues, pair_values
from nddo_ml.integrals.parameters import AtomParameters, PairParameters, gather
from nddo_ml.integrals.placed import Parameters, placed
from nddo_ml.integrals.slater_condon import G_NAMES
from nddo_ml.integrals.topology import Topology
from nddo_ml.networks.shifts import BOUND, CHANNELS, FACTOR_NAMES, U_NAMES, Shifts
from nddo_ml.orbitals import packed_pairs

BLOCK = ((1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3))   # orbitals of the columns of Shifts.block


@record
class Rows:
    """What a method knows of every species, one entry per row of its table."""

    fitted: AtomParameters      # as they stand in the table
    atoms: AtomIntegrals        # multipoles and one-centre integrals made from them
    pairs: PairParameters       # core-core parameters of pairs of species


@record
class Parent:
    """The parameters of a batch as the tables give them: what a network shifts."""

    fitted: AtomParameters                  # of each atom, with the g and h as the method computes them
    atoms: AtomIntegrals                    # multipoles and one-centre integrals made from them
    pairs: PairValues                       # core-core parameters of each pair
    U: Float[Tensor, "atom 3"]              # 1 where an atom takes a shift of U_NAMES, else 0
    factors: Float[Tensor, "atom factor"]   # 1 where it takes a factor of FACTOR_NAMES, else 0


def parent(topology: Topology, rows: Rows) -> Parent:
    """The parameters that the tables give each atom and pair.

    Where the condition on h_pp = (g_pp - g_p2)/2 ends at its floor, or might when h_pp is scaled, rho2 is scaled instead.
    """
    atoms = gather(rows.atoms, topology.rows)
    fitted = replace(gather(rows.fitted, topology.rows), **{name: getattr(atoms, name) for name in G_NAMES})
    shells = torch.stack((fitted.zeta_s, fitted.zeta_p, fitted.zeta_d), 1).gt(0).to(fitted.U_ss.dtype)
    floored = ((fitted.g_pp - fitted.g_p2) / 2 * exp(-BOUND) < H_PP_FLOOR).to(fitted.U_ss.dtype)
    special = {"h_pp": 1 - floored, "rho2": floored}
    factors = torch.stack([special.get(name, torch.ones_like(floored)) for name in FACTOR_NAMES], 1)
    return Parent(fitted, atoms, pair_values(rows.pairs, topology.rules), shells, factors)


def shifted(topology: Topology, base: Parent, shifts: Shifts | None, derivatives: int = 3) -> Parameters:
    """The parent's parameters where they are used, with the shifts of a network (None: as they are). derivatives: how often
    they can be differentiated by the shifts, 1 or 3."""
    if shifts is None:
        return placed(topology, base.atoms, base.fitted, base.pairs)
    allowed = base.factors
    if shifts.resonance is not None:     # beta would say the same as the resonance integrals of the pairs
        allowed = allowed * _without_beta(allowed.device)
    factors = None if shifts.factors is None else torch.exp(shifts.factors * allowed)
    fitted = shifted_atoms(base, shifts.U, factors)
    atoms = atom_integrals(fitted, topology.elements, topology.recipe.constants, base.atoms.slater, derivatives)
    atoms = replace(atoms, EISOL=base.atoms.EISOL)
    core = atoms.core
    if shifts.charges is not None:
        atoms = replace(atoms, core=_moved(topology, core, shifts.pairs, shifts.charges))
    if factors is not None:
        f = factors[:, FACTOR_NAMES.index("rho2")]
        atoms = replace(atoms, rho2=atoms.rho2 * f, rho2c=atoms.rho2c * f)
    parameters = placed(topology, atoms, base.fitted, base.pairs)
    if shifts.charges is not None:
        parameters = replace(parameters, moved=_products(topology, atoms.core) - _products(topology, core))
    if shifts.core is not None:
        parameters = _with_core(parameters, over_all(shifts.core, shifts.pairs, len(topology.i)))
    if shifts.resonance is not None:
        parameters = replace(parameters,
                             resonance=_by_group(topology, over_all(shifts.resonance, shifts.pairs, len(topology.i))))
    if shifts.block is not None:
        parameters = replace(parameters, U=_with_blocks(topology, parameters.U, shifts.block * base.U[:, 1:2]))
    return parameters


def shifted_atoms(base: Parent, U: Float[Tensor, "atom 3"] | None,
                  factors: Float[Tensor, "atom factor"] | None) -> AtomParameters:
    """AtomParameters of each atom with shifts of U and factors of zeta, beta, g and h.

    g_ss, g_pp, h_sp and h_pp/g_pp are scaled, h_pp = (g_pp - g_p2)/2. g_p2 = g_pp - 2 h_pp follows, and g_sp takes the
    geometric mean of the factors of g_ss and of g_pp + 2 g_p2. So the matrix (AA|AA), whose eigenvalues are h_sp, h_pp and
    those of [[g_ss, sqrt(3) g_sp], [sqrt(3) g_sp, g_pp + 2 g_p2]], is positive definite wherever the parent's is.
    """
    fitted = base.fitted
    if U is not None:
        moved = zip(U_NAMES, (U * base.U).unbind(1), strict=True)
        fitted = replace(fitted, **{name: getattr(fitted, name) + u for name, u in moved})
    if factors is None:
        return fitted
    f = dict(zip(FACTOR_NAMES, factors.unbind(1), strict=True))
    scaled = {name: getattr(fitted, name) * f[name] for name in FACTOR_NAMES if name not in ("h_pp", "rho2")}
    # f_pp (g_pp - 2 f_h h_pp), written so that factors of 1 leave g_p2 to the last bit
    g_p2 = f["g_pp"] * (fitted.g_p2 - (fitted.g_pp - fitted.g_p2) * (f["h_pp"] - 1))
    monopole = fitted.g_pp + 2 * fitted.g_p2
    growth = torch.where(monopole > 0, scaled["g_pp"] + 2 * g_p2, 1.0) / torch.where(monopole > 0, monopole, 1.0)
    return replace(fitted, g_p2=g_p2, g_sp=fitted.g_sp * torch.sqrt(f["g_ss"] * growth), **scaled)


def over_all(values: Float[Tensor, "near column"], pairs: Int[Tensor, "near"], count: int) -> Float[Tensor, "pair column"]:
    """Values of the pairs within reach spread over all pairs, 0 elsewhere."""
    return values.new_zeros(count, values.shape[1]).index_copy(0, pairs, values)


def _with_core(parameters: Parameters, core: Float[Tensor, "pair 2"]) -> Parameters:
    """Core-core terms with their size (x, K) and their exponents (alpha) scaled, per pair."""
    size, exponent = torch.exp(core).unbind(1)
    core_i, core_j = (replace(side, alpha=side.alpha * exponent, K=side.K * size[:, None])
                      for side in (parameters.core_i, parameters.core_j))
    pairs = PairValues(parameters.pairs.alpha * exponent, parameters.pairs.x * size)
    return replace(parameters, core_i=core_i, core_j=core_j, pairs=pairs)


def _moved(topology: Topology, core: Tensor, pairs: Tensor, charges: Tensor) -> Float[Tensor, "atom"]:
    """Charges of the cores after those of the pairs have moved from the second atom to the first; their sum stays."""
    i, j = topology.i.index_select(0, pairs), topology.j.index_select(0, pairs)
    return core.index_add(0, i, charges).index_add(0, j, -charges)


def _products(topology: Topology, core: Tensor) -> Float[Tensor, "pair"]:
    """Products of the core charges of all pairs."""
    return core.index_select(0, topology.i) * core.index_select(0, topology.j)


def _by_group(topology: Topology, resonance: Float[Tensor, "pair channel"]) -> list[Tensor]:
    """Factors of the local resonance integrals of each pair group, (pair, n_i n_j)."""
    groups = topology.layout.pairs
    parts = resonance.split([len(group.i) for group in groups])
    return [torch.exp(x @ _channel_of(*group.shells, x.device)) for group, x in zip(groups, parts, strict=True)]


@cached
def _channel_of(n_i: int, n_j: int, device: torch.device) -> Float[Tensor, "channel orbitals"]:
    """1 where a local integral (orbital of i, orbital of j) belongs to a channel: same shells, same m."""
    members = [(0, 0), *((1, m) for m in (1, 1, 0)), *((2, m) for m in (2, 1, 0, 1, 2))]     # shell and |m| of x, y, z, ...
    belongs = torch.zeros(len(CHANNELS), n_i, n_j, dtype=torch.float64)
    for a in range(n_i):
        for b in range(n_j):
            (l, m), (k, n) = members[a], members[b]
            if n_j == 1 or m == n:      # beside an s-only atom the sigma integral stands at every orbital of a shell
                belongs[CHANNELS.index((l, k, 0 if n_j == 1 else m)), a, b] = 1
    return belongs.flatten(1).to(device)


def _with_blocks(topology: Topology, U: Sequence[Tensor], block: Float[Tensor, "atom 9"]) -> list[Tensor]:
    """One-electron blocks of the free atoms with equivariant additions to those with p functions."""
    blocks: list[Tensor] = []
    for group, values in zip(topology.layout.atoms, U, strict=True):
        if group.orbitals >= 4:
            values = values.index_add(1, _packed(group.orbitals, values.device), block.index_select(0, group.atoms))
        blocks.append(values)
    return blocks


@cached
def _packed(orbitals: int, device: torch.device) -> Int[Tensor, "9"]:
    table = packed_pairs(orbitals)[2]
    return torch.tensor([int(table[a, b]) for a, b in BLOCK], device=device)


@cached
def _without_beta(device: torch.device) -> Float[Tensor, "factor"]:
    return torch.tensor([0.0 if name.startswith("beta") else 1.0 for name in FACTOR_NAMES], dtype=torch.float64, device=device)
