"""The quantities of an atom in an NDDO method, before any geometry.

`Elements` holds what never changes (integers, core charges, heats), `AtomParameters` what a method fits and a network may
shift. Both carry one entry per row; a row is a species of the method's table, or, after gathering, an atom. Names and
units are those of the published tables (README of the data folder); a blank of a table is zero here.
"""

from dataclasses import fields
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record

Rows = TypeVar("Rows")      # a record whose fields are tensors with one entry per row


@record
class Elements:
    """Fixed data of each row."""

    number: Int[Tensor, "row"]          # species number
    core: Float[Tensor, "row"]          # charge of the core, e
    n_s: Int[Tensor, "row"]             # principal quantum numbers of the Slater functions
    n_p: Int[Tensor, "row"]
    n_d: Int[Tensor, "row"]
    m_sp: Int[Tensor, "row"]            # principal quantum numbers in the multipoles and the one-centre integrals
    m_d: Int[Tensor, "row"]
    occ_s: Float[Tensor, "row"]         # occupations of the shells of the neutral atom
    occ_p: Float[Tensor, "row"]
    occ_d: Float[Tensor, "row"]
    n_ao: Int[Tensor, "row"]            # number of orbitals: 0, 1, 4 or 9
    main_group: Int[Tensor, "row"]      # 0: the g integrals follow from zsn and zpn
    EHEAT: Float[Tensor, "row"]         # heat of formation of the atom, kcal/mol


@record
class AtomParameters:
    """Fitted parameters of each row."""

    U_ss: Float[Tensor, "row"]          # one-electron energies of the s, p, d functions, eV
    U_pp: Float[Tensor, "row"]
    U_dd: Float[Tensor, "row"]
    beta_s: Float[Tensor, "row"]        # factors of the resonance integrals, eV
    beta_p: Float[Tensor, "row"]
    beta_d: Float[Tensor, "row"]
    zeta_s: Float[Tensor, "row"]        # exponents of the Slater functions, 1/bohr
    zeta_p: Float[Tensor, "row"]
    zeta_d: Float[Tensor, "row"]
    zsn: Float[Tensor, "row"]           # exponents of the one-centre integrals, 1/bohr
    zpn: Float[Tensor, "row"]
    zdn: Float[Tensor, "row"]
    g_ss: Float[Tensor, "row"]          # one-centre integrals (ss|ss), (ss|pp), (pp|pp), (pp|p'p'), (sp|sp), eV
    g_sp: Float[Tensor, "row"]
    g_pp: Float[Tensor, "row"]
    g_p2: Float[Tensor, "row"]
    h_sp: Float[Tensor, "row"]
    F0SD: Float[Tensor, "row"]          # Slater-Condon parameters that replace the computed ones where given, eV
    G2SD: Float[Tensor, "row"]
    rho_core: Float[Tensor, "row"]      # additive term of the core, bohr; 0: the rho0 of the ss distribution
    alpha: Float[Tensor, "row"]         # exponent of the core-core repulsion, 1/angstrom
    K: Float[Tensor, "row 4"]           # Gaussians of the core-core repulsion: heights, eV angstrom
    L: Float[Tensor, "row 4"]           # their exponents, 1/angstrom^2
    M: Float[Tensor, "row 4"]           # their centres, angstrom


@record
class PairParameters:
    """Fitted core-core parameters of pairs of species, one entry per published pair."""

    alpha: Float[Tensor, "entry"]       # exponent, 1/angstrom, or 1/angstrom^2 where the method says so
    x: Float[Tensor, "entry"]           # factor
    index: Int[Tensor, "row row"]       # entry of two rows, -1 where the method has none


def gather(rows_of: Rows, rows: Int[Tensor, "atom"]) -> Rows:
    """A record of one entry per row -> the record of one entry per atom; columns of one kind are read together."""
    columns: dict[str, Tensor] = vars(rows_of)
    kinds: dict[tuple[torch.dtype, torch.Size], list[str]] = {}
    for name, column in columns.items():
        kinds.setdefault((column.dtype, column.shape), []).append(name)
    gathered: dict[str, Tensor] = {}
    for names in kinds.values():
        read = torch.stack([columns[name] for name in names]).index_select(1, rows)
        gathered.update(zip(names, read, strict=True))
    return type(rows_of)(**gathered)


PARAMETER_NAMES = tuple(f.name for f in fields(AtomParameters))
