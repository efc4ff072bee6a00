"""The parameters of a batch: gathered from the tables, then shifted by a network.

A network returns Shifts; here they meet the records of the parent method. Which shift an atom can take is decided by the
parent's values alone, so that no step appears when a network moves them. D, Q and rho are solved again from the shifted
parameters: every limit of the integrals survives.
"""

from dataclasses import replace
from math import exp

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import cached, record
from nddo_ml.integrals.assembly import Parameters, Topology, spread
from nddo_ml.integrals.multipole import H_PP_FLOOR, AtomIntegrals, atom_integrals
from nddo_ml.integrals.nuclear import PairValues
from nddo_ml.integrals.parameters import AtomParameters
from nddo_ml.integrals.slater_condon import G_NAMES
from nddo_ml.networks.shifts import BOUND, CHANNELS, FACTOR_NAMES, U_NAMES, Shifts
from nddo_ml.orbitals import packed_pairs
from nddo_ml.units import Constants

BLOCK = ((1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3))   # orbitals of the columns of Shifts.block


@record
class Parent:
    """What a network shifts: AtomParameters of each atom, values of each pair; the Slater-Condon parameters and EISOL of the
    free atoms, which stay; and 1 for the shifts of U (atom, U_NAMES) and factors (atom, FACTOR_NAMES) that an atom can take.
    """

    P: AtomParameters
    pairs: PairValues
    slater: Float[Tensor, "atom 12"]
    EISOL: Float[Tensor, "atom"]
    U: Float[Tensor, "atom 3"]
    factors: Float[Tensor, "atom factor"]


def parent(P: AtomParameters, A: AtomIntegrals, pairs: PairValues) -> Parent:
    """The parent's parameters of a batch, per atom and per pair. The g and h are those of A, where the method computes them.

    Where the condition on h_pp = (g_pp - g_p2)/2 ends at its floor, or might when h_pp is scaled, rho2 is scaled instead.
    """
    P = replace(P, **{name: getattr(A, name) for name in G_NAMES})
    shells = torch.stack((P.zeta_s, P.zeta_p, P.zeta_d), 1).gt(0).to(P.U_ss.dtype)
    floored = ((P.g_pp - P.g_p2) / 2 * exp(-BOUND) < H_PP_FLOOR).to(P.U_ss.dtype)
    special = {"h_pp": 1 - floored, "rho2": floored}
    factors = torch.stack([special.get(name, torch.ones_like(floored)) for name in FACTOR_NAMES], 1)
    return Parent(P, pairs, A.slater, A.EISOL, shells, factors)


def shifted(top: Topology, base: Parent, shifts: Shifts, constants: Constants) -> Parameters:
    """The parent's parameters with the shifts of a network, where they are used."""
    allowed = base.factors
    if shifts.resonance is not None:     # beta would say the same as the resonance integrals of the pairs
        allowed = allowed * _without_beta(allowed.device)
    factors = None if shifts.factors is None else torch.exp(shifts.factors * allowed)
    A = atom_integrals(shifted_atoms(base, shifts.U, factors), top.elements, constants, base.slater)
    A = replace(A, EISOL=base.EISOL)
    core = A.core
    if shifts.charges is not None:
        A = replace(A, core=_moved(top, core, shifts))
    if factors is not None:
        f = factors[:, FACTOR_NAMES.index("rho2")]
        A = replace(A, rho2=A.rho2 * f, rho2c=A.rho2c * f)
    p = spread(top, A, base.P, base.pairs)
    if shifts.charges is not None:
        p = replace(p, moved=_products(top, A.core) - _products(top, core))
    if shifts.core is not None:
        p = _with_core(p, over_all(shifts.core, shifts.pairs, len(top.i)))
    if shifts.resonance is not None:
        p = replace(p, resonance=_by_group(top, over_all(shifts.resonance, shifts.pairs, len(top.i))))
    return p if shifts.block is None else replace(p, U=_with_blocks(top, p.U, shifts.block, base))


def shifted_atoms(base: Parent, U: Float[Tensor, "atom 3"] | None,
                  factors: Float[Tensor, "atom factor"] | None) -> AtomParameters:
    """AtomParameters of each atom with shifts of U and factors of zeta, beta, g and h.

    g_ss, g_pp, h_sp and h_pp/g_pp are scaled, h_pp = (g_pp - g_p2)/2. g_p2 = g_pp - 2 h_pp follows, and g_sp takes the
    geometric mean of the factors of g_ss and of g_pp + 2 g_p2. So the matrix (AA|AA), whose eigenvalues are h_sp, h_pp and
    those of [[g_ss, sqrt(3) g_sp], [sqrt(3) g_sp, g_pp + 2 g_p2]], is positive definite wherever the parent's is.
    """
    P = base.P
    if U is not None:
        P = replace(P, **{name: getattr(P, name) + u for name, u in zip(U_NAMES, (U * base.U).unbind(1), strict=True)})
    if factors is None:
        return P
    f = dict(zip(FACTOR_NAMES, factors.unbind(1), strict=True))
    scaled = {name: getattr(P, name) * f[name] for name in FACTOR_NAMES if name not in ("h_pp", "rho2")}
    # f_pp (g_pp - 2 f_h h_pp), written so that factors of 1 leave g_p2 to the last bit
    g_p2 = f["g_pp"] * (P.g_p2 - (P.g_pp - P.g_p2) * (f["h_pp"] - 1))
    monopole = P.g_pp + 2 * P.g_p2
    growth = torch.where(monopole > 0, scaled["g_pp"] + 2 * g_p2, 1.0) / torch.where(monopole > 0, monopole, 1.0)
    return replace(P, g_p2=g_p2, g_sp=P.g_sp * torch.sqrt(f["g_ss"] * growth), **scaled)


def over_all(values: Float[Tensor, "near column"], pairs: Int[Tensor, "near"], count: int) -> Float[Tensor, "pair column"]:
    """Values of the pairs within reach spread over all pairs, 0 elsewhere."""
    return values.new_zeros(count, values.shape[1]).index_copy(0, pairs, values)


def _with_core(p: Parameters, core: Float[Tensor, "pair 2"]) -> Parameters:
    """Core-core terms with their size (x, K) and their exponents (alpha) scaled, per pair."""
    size, exponent = torch.exp(core).unbind(1)
    P_i, P_j = (replace(P, alpha=P.alpha * exponent, K=P.K * size[:, None]) for P in (p.P_i, p.P_j))
    return replace(p, P_i=P_i, P_j=P_j, pairs=PairValues(p.pairs.alpha * exponent, p.pairs.x * size))


def _moved(top, core, shifts):
    """Charges of the cores after those of the pairs have moved from the second atom to the first; their sum stays."""
    i, j = top.i.index_select(0, shifts.pairs), top.j.index_select(0, shifts.pairs)
    return core.index_add(0, i, shifts.charges).index_add(0, j, -shifts.charges)


def _products(top, core):
    """Products of the core charges of all pairs."""
    return core.index_select(0, top.i) * core.index_select(0, top.j)


def _by_group(top, resonance):
    """Factors of the local resonance integrals of each pair group, (pair, n_i n_j)."""
    parts = resonance.split([len(g.i) for g in top.layout.pairs])
    return [torch.exp(x @ _channel_of(*g.shells, x.device)) for g, x in zip(top.layout.pairs, parts, strict=True)]


@cached
def _channel_of(n_i: int, n_j: int, device) -> Float[Tensor, "channel orbitals"]:
    """1 where a local integral (orbital of i, orbital of j) belongs to a channel: same shells, same m."""
    members = [(0, 0), *((1, m) for m in (1, 1, 0)), *((2, m) for m in (2, 1, 0, 1, 2))]     # shell and |m| of x, y, z, ...
    found = torch.zeros(len(CHANNELS), n_i, n_j, dtype=torch.float64)
    for a in range(n_i):
        for b in range(n_j):
            (l, m), (k, n) = members[a], members[b]
            if n_j == 1 or m == n:      # beside an s-only atom the sigma integral stands at every orbital of a shell
                found[CHANNELS.index((l, k, 0 if n_j == 1 else m)), a, b] = 1
    return found.flatten(1).to(device)


def _with_blocks(top, U, block, base):
    """One-electron blocks of the free atoms with the equivariant additions, for atoms with p functions."""
    block = block * base.U[:, 1:2]
    found = []
    for group, values in zip(top.layout.atoms, U, strict=True):
        if group.orbitals >= 4:
            values = values.index_add(1, _packed(group.orbitals, values.device), block.index_select(0, group.atoms))
        found.append(values)
    return found


@cached
def _packed(orbitals, device):
    table = packed_pairs(orbitals)[2]
    return torch.tensor([int(table[a, b]) for a, b in BLOCK], device=device)


@cached
def _without_beta(device):
    return torch.tensor([0.0 if name.startswith("beta") else 1.0 for name in FACTOR_NAMES], dtype=torch.float64, device=device)
