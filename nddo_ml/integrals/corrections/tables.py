"""Element data of the corrections, as tensors indexed by atomic number.

Row 0 and every species without an entry (pseudo-atoms, blanks of the table) hold 0. Sources: data/corrections.md.
"""

import csv
import functools
from importlib import resources

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from nddo_ml.common.struct import cached

SIZE = 95   # rows of every table: atomic numbers 0 to 94


@cached
def column(name: str, device: torch.device) -> Float[Tensor, "element"]:
    """One column of corrections_elements.csv, entry per atomic number."""
    return torch.tensor(_elements()[name], dtype=torch.float64, device=device)


@cached
def members(elements: frozenset[int], device: torch.device) -> Bool[Tensor, "element"]:
    """True at the atomic numbers of `elements`."""
    return torch.tensor([z in elements for z in range(SIZE)], device=device)


@cached
def bond_limits(device: torch.device) -> Float[Tensor, "two"]:
    """Table of the largest bonded distance of two elements, flattened (SIZE * SIZE), angstrom: f (r_A + r_B)."""
    radius = _elements()["r_bond"]
    factor = np.full((SIZE, SIZE), 1.1)
    for a, b, f in ((6, 1, 1.25), (5, 7, 1.0), (6, 6, 1.2), (6, 7, 1.2), (16, 16, 1.2)):
        factor[a, b] = factor[b, a] = f
    known = (radius > 0)[:, None] & (radius > 0)
    return torch.tensor(np.where(known, factor * (radius[:, None] + radius), 0.0).ravel(), device=device)


@cached
def valence_radii(device: torch.device) -> Float[Tensor, "two"]:
    """r_A + r_B of two elements, flattened (SIZE * SIZE), angstrom: the distance of a full smooth bond; 0 without data."""
    radius = _elements()["r_val"]
    known = (radius > 0)[:, None] & (radius > 0)
    return torch.tensor(np.where(known, radius[:, None] + radius, 0.0).ravel(), device=device)


@cached
def coordination_limits(device: torch.device) -> Float[Tensor, "two"]:
    """Largest neighbour distance in the hydrogen-bond terms, flattened (SIZE * SIZE), angstrom: 4/3 (rcov_A + rcov_B)."""
    radius = _elements()["rcov"]
    known = (radius > 0)[:, None] & (radius > 0)
    return torch.tensor(np.where(known, 4.0 / 3.0 * (radius[:, None] + radius), 0.0).ravel(), device=device)


@cached
def d3_reference(
    device: torch.device,
) -> tuple[Float[Tensor, "element element 5 5"], Float[Tensor, "element 5"], Float[Tensor, "element element"]]:
    """D3 reference data by atomic number: C6 (Z, Z, ref, ref) in hartree bohr^6, reference coordination numbers (Z, ref) with
    a mask value -1, R0 (Z, Z) in angstrom. S. Grimme et al., J. Chem. Phys. 132, 154104 (2010).
    """
    with resources.files("nddo_ml.data").joinpath("d3_reference.npz").open("rb") as file:
        data = np.load(file)
        rows, pairs_c6, pairs_r0 = data["cn"], data["c6"], data["r0"]
    a, b = np.tril_indices(len(rows))
    c6 = np.zeros((SIZE, SIZE, 5, 5))
    c6[a + 1, b + 1] = pairs_c6
    c6[b + 1, a + 1] = pairs_c6.transpose(0, 2, 1)
    r0 = np.zeros((SIZE, SIZE))
    r0[a + 1, b + 1] = r0[b + 1, a + 1] = pairs_r0
    cn = np.full((SIZE, 5), -1.0)
    cn[1:] = np.where(rows >= 0, rows / 1e4, -1.0)
    cn[0, 0] = 0.0   # species without data: one reference, with C6 = 0
    C6, CN, R0 = (torch.tensor(x, device=device) for x in (c6 / 1e4, cn, r0 / 1e4))
    return C6, CN, R0


@functools.cache
def _elements() -> dict[str, NDArray[np.float64]]:
    """Numeric columns of the element table."""
    text = resources.files("nddo_ml.data").joinpath("corrections_elements.csv").read_text()
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    columns: dict[str, NDArray[np.float64]] = {}
    for name in rows[0].keys() - {"Z", "symbol"}:
        columns[name] = np.zeros(SIZE)
        for row in rows:
            columns[name][int(row["Z"])] = float(row[name] or 0.0)
    return columns
