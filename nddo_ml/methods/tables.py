"""The published parameter tables, read from the package data once and kept as one row per species.

Rows are ordered by species number: elements, then sparkles, then pseudo-atoms. Layout, units and sources of the files are
described in the README of the data folder.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nddo_ml.common.struct import cached
from nddo_ml.elements import LANTHANIDES, PSEUDO_ATOMS, SPARKLE, SPECIES, is_sparkle
from nddo_ml.integrals.parameters import PARAMETER_NAMES, AtomParameters, Elements, PairParameters

# file of a table -> the base method it belongs to
BASES = {"mndo": "MNDO", "am1": "AM1", "pm3": "PM3", "rm1": "RM1", "mndod": "MNDO/d", "pm6": "PM6", "pm7": "PM7"}
GAUSSIANS = 4           # of the core-core terms of an atom, at most
PSEUDO_ATOM_RHO = 0.5   # bohr, where no g_ss defines it
UNPUBLISHED = {"mndo": frozenset({21, 22, 23, 24, 26, 27, 28, 29, 40, 42, 46, 47, 48, 78})}   # rows of no known reference


@dataclass(frozen=True, eq=False)
class Table:
    """The tables of one base method, one row per species it has parameters for."""

    name: str
    elements: Elements
    parameters: AtomParameters
    pairs: PairParameters
    row_of: Int[Tensor, "species"]      # species number -> row, -1 where there is none
    core_number: Int[Tensor, "row"]     # number in the rules of the core-core terms: Z, or of a pseudo-atom MOPAC's index

    @property
    def species(self) -> list[int]:
        """The species numbers that have a row, in order."""
        return self.row_of.ge(0).nonzero().flatten().tolist()


@cached
def table(name: str) -> Table:
    """The tables of a base method, named as its file: a key of BASES."""
    unpublished = UNPUBLISHED.get(name, frozenset())
    species = [(int(r["Z"]), int(r["Z"]), r) for r in _rows(f"{name}.csv") if int(r["Z"]) not in unpublished]
    species += [(SPARKLE + int(r["Z"]), int(r["Z"]), r) for r in _rows("sparkles.csv") if r["method"] == name]
    charges = [r for r in _rows("pseudo_atoms.csv") if r["method"] == name]
    species += [(PSEUDO_ATOMS[r["name"]], int(r["index"]), _pseudo_atom(r)) for r in charges]
    species.sort(key=lambda entry: entry[0])
    numbers, core_numbers, records = (list(column) for column in zip(*species, strict=True))
    return Table(name, _elements(numbers, records), _parameters(records), _pairs(name, numbers, core_numbers),
                 _row_of(numbers), torch.tensor(core_numbers))


def having(species: int) -> tuple[str, ...]:
    """Names of the base methods that have parameters for a species number."""
    return tuple(name for file, name in BASES.items() if int(table(file).row_of[species]) >= 0)


@cache
def core_values(name: str) -> dict[tuple[str, str], float]:
    """The fixed numbers of the core-core terms of a base method: (term, name) -> value. Names as in corrections.csv."""
    return {(r["term"], r["name"]): float(r["value"]) for r in _rows("corrections.csv") if r["method"] == name}


def _rows(file: str) -> Iterator[dict[str, str]]:
    """The lines of a data file as dictionaries."""
    text = resources.files("nddo_ml.methods").joinpath("data", file).read_text(encoding="utf-8")
    return csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))


def _pseudo_atom(row: dict[str, str]) -> dict[str, str]:
    """A pseudo-atom in the columns of the atomic tables."""
    return row | {"core": row["charge"], "rho_core": "" if row["g_ss"] else str(PSEUDO_ATOM_RHO)}


def _column(records: Sequence[dict[str, str]], name: str, dtype: type[np.generic] = np.float64) -> np.ndarray:
    """One column as an array; a blank or absent column is zero."""
    return np.array([float(r.get(name) or 0) for r in records]).astype(dtype)


def _elements(numbers: Sequence[int], records: Sequence[dict[str, str]]) -> Elements:
    integer = {"n_s", "n_p", "n_d", "m_sp", "m_d", "n_ao", "main_group"}
    columns = {f.name: torch.from_numpy(_column(records, f.name, np.int64 if f.name in integer else np.float64))
               for f in fields(Elements) if f.name != "number"}
    return Elements(number=torch.tensor(numbers), **columns)


def _parameters(records: Sequence[dict[str, str]]) -> AtomParameters:
    columns = {name: torch.from_numpy(_column(records, name)) for name in PARAMETER_NAMES if name not in "KLM"}
    for name in "KLM":
        columns[name] = torch.from_numpy(np.stack([_column(records, f"{name}{k}") for k in range(1, GAUSSIANS + 1)], 1))
    return AtomParameters(**columns)


def _pairs(name: str, numbers: Sequence[int], core_numbers: Sequence[int]) -> PairParameters:
    """Published pairs of species that the method has. Sparkles have none: an entry of La is one of La with orbitals."""
    row = {z: k for k, (number, z) in enumerate(zip(numbers, core_numbers, strict=True)) if not is_sparkle(number)}
    entries = [(row[int(r["Z_A"])], row[int(r["Z_B"])], float(r["alpha"]), float(r["x"])) for r in _rows("pairs.csv")
               if r["method"] == name and int(r["Z_A"]) in row and int(r["Z_B"]) in row]
    index = torch.full((len(core_numbers), len(core_numbers)), -1)
    for k, (a, b, _, _) in enumerate(entries):
        index[a, b] = index[b, a] = k
    alpha, x = np.array([entry[2:] for entry in entries], dtype=np.float64).reshape(-1, 2).T
    return PairParameters(torch.from_numpy(alpha.copy()), torch.from_numpy(x.copy()), index)


def _row_of(numbers: Sequence[int]) -> Tensor:
    """Species number -> row. A lanthanide without orbitals of its own falls back to its sparkle."""
    row_of = torch.full((SPECIES,), -1)
    row_of[torch.tensor(numbers)] = torch.arange(len(numbers))
    for z in LANTHANIDES:
        if row_of[z] < 0:
            row_of[z] = row_of[SPARKLE + z]
    return row_of
