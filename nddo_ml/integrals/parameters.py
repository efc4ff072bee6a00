"""The quantities of an atom in an NDDO method, before any geometry.

`Elements` holds what never changes (integers, core charges, heats), `AtomParameters` what a method fits and a network may
shift. Both carry one entry per row; a row is a species of the method's table, or, after gathering, an atom. Names and
units are those of the published tables (README of the data folder); a blank of a table is zero here.
"""

from dataclasses import fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record


@record
class Elements:
    """Fixed data of each row: species number, core charge (e), principal quantum numbers of the Slater functions (n_s, n_p,
    n_d) and of the multipoles and one-centre integrals (m_sp, m_d), occupations of the neutral atom (occ_s, occ_p, occ_d),
    number of orbitals (0, 1, 4 or 9), main_group (0: the g integrals follow from zsn and zpn), EHEAT (kcal/mol).
    """

    number: Int[Tensor, "row"]
    core: Float[Tensor, "row"]
    n_s: Int[Tensor, "row"]
    n_p: Int[Tensor, "row"]
    n_d: Int[Tensor, "row"]
    m_sp: Int[Tensor, "row"]
    m_d: Int[Tensor, "row"]
    occ_s: Float[Tensor, "row"]
    occ_p: Float[Tensor, "row"]
    occ_d: Float[Tensor, "row"]
    n_ao: Int[Tensor, "row"]
    main_group: Int[Tensor, "row"]
    EHEAT: Float[Tensor, "row"]


@record
class AtomParameters:
    """Fitted parameters of each row: U, beta, g, h, F0SD, G2SD in eV; zeta, zsn, zpn, zdn in 1/bohr; rho_core in bohr (0: the
    rho0 of the ss distribution); alpha in 1/angstrom; Gaussian core terms K (eV angstrom), L (1/angstrom^2), M (angstrom).
    """

    U_ss: Float[Tensor, "row"]
    U_pp: Float[Tensor, "row"]
    U_dd: Float[Tensor, "row"]
    beta_s: Float[Tensor, "row"]
    beta_p: Float[Tensor, "row"]
    beta_d: Float[Tensor, "row"]
    zeta_s: Float[Tensor, "row"]
    zeta_p: Float[Tensor, "row"]
    zeta_d: Float[Tensor, "row"]
    zsn: Float[Tensor, "row"]
    zpn: Float[Tensor, "row"]
    zdn: Float[Tensor, "row"]
    g_ss: Float[Tensor, "row"]
    g_sp: Float[Tensor, "row"]
    g_pp: Float[Tensor, "row"]
    g_p2: Float[Tensor, "row"]
    h_sp: Float[Tensor, "row"]
    F0SD: Float[Tensor, "row"]
    G2SD: Float[Tensor, "row"]
    rho_core: Float[Tensor, "row"]
    alpha: Float[Tensor, "row"]
    K: Float[Tensor, "row 4"]
    L: Float[Tensor, "row 4"]
    M: Float[Tensor, "row 4"]


@record
class PairParameters:
    """Fitted core-core parameters of pairs of species: alpha (1/angstrom, or 1/angstrom^2 where the method says so) and x, one
    entry per published pair; `index` (row, row) finds the entry, -1 where the method has none.
    """

    alpha: Float[Tensor, "entry"]
    x: Float[Tensor, "entry"]
    index: Int[Tensor, "row row"]


def gather(records, rows: Int[Tensor, "atom"]):
    """A record of one entry per row -> the record of one entry per atom; columns of one kind are read together."""
    columns, kinds = vars(records), {}
    for name, column in columns.items():
        kinds.setdefault((column.dtype, column.shape), []).append(name)
    found = {}
    for names in kinds.values():
        found.update(zip(names, torch.stack([columns[name] for name in names]).index_select(1, rows).unbind(0), strict=True))
    return type(records)(**found)


PARAMETER_NAMES = tuple(f.name for f in fields(AtomParameters))
