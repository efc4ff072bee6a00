"""The constants of the integrals as the kernels read them: sparse, in plain arrays.

Nothing physical is written here: charge configurations, quadratures, rotations and hybrids are those of the modules beside
this one, entry by entry without their zeros. What depends on the species of a molecule alone is made once and kept.
"""

from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from nddo_ml.integrals.configurations import CORE, MEMBERS, charge_kernel
from nddo_ml.integrals.dipole import HYBRIDS
from nddo_ml.integrals.frame import COMPONENTS, D_TENSORS, SHELLS, component_starts, decomposition
from nddo_ml.integrals.overlap import POINTS, REACH, leggauss, negligible, polynomials
from nddo_ml.integrals.records import Array, Charges, Folded, Hybrids, Indices, Shell, Slater, Sparse, Turning, folded
from nddo_ml.orbitals import DISTRIBUTIONS, packed_pairs
from nddo_ml.units import Constants

# what an atom brings to the multipoles, in the order of the columns of `features`: names of AtomIntegrals
FEATURES = ("D1", "Q", "D_pp", "D_sd", "D_pd", "D_dd", "rho0", "rho1", "rho2", "rho1c", "rho2c", "rho_sd", "rho_pd", "rho_dd",
            "rho_dd0", "rho_core")
ORBITALS = (0, 1, 4, 9)         # of the kinds of shells, by their place
PACKED = np.array([DISTRIBUTIONS[n] for n in ORBITALS])     # products of two of them
# kinds of pairs of charge distributions: orbitals of the two atoms, the larger first; the partner may be a core
KINDS: tuple[tuple[int, int | str], ...] = ((1, 1), (4, 1), (4, 4), (9, 1), (9, 4), (9, 9), (1, CORE), (4, CORE), (9, CORE))


Class = tuple[int, int, tuple[int, ...]]    # orbitals of i and j, principal quantum numbers of their shells


@cache
def constants(kinds: tuple[int, ...], classes: tuple[Class, ...], units: Constants) -> Folded:
    """The constants of pairs of these KINDS, by their numbers, and classes of quantum numbers: records.Sparse, folded."""
    return folded(Sparse(tuple(_shell(n) for n in range(len(ORBITALS))), _charges(kinds, units.hartree),
                         _slater(classes, units.bohr), _hybrids(), units.bohr, units.hartree))


def _rows(matrix: Array) -> tuple[list[int], list[int], list[float]]:
    """How many entries each row has that are not zero, their columns and their values."""
    rows, columns = np.nonzero(matrix)
    return np.bincount(rows, minlength=len(matrix)).tolist(), columns.tolist(), matrix[rows, columns].tolist()


def _ends(counts: list[int]) -> Indices:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _integers(values: Any) -> Indices:
    return np.array(values, dtype=np.int64)


@cache
def _shell(place: int) -> Shell:
    n = ORBITALS[place]
    momenta, components = SHELLS[n], COMPONENTS[n]
    matrix = decomposition(n) if n else np.zeros((0, 0))
    counts, of, value = _rows(matrix)
    return Shell(place, n, len(matrix), component_starts(n)[1] if n else 0, _integers(momenta), _integers(components),
                 _ends(counts), _integers(of), np.array(value, dtype=float), _turning(momenta), _turning(components))


def _turning(momenta: tuple[int, ...]) -> Turning:
    """The generators of both turns for blocks of these angular momenta: rows answer by columns."""
    sizes = [2 * l + 1 for l in momenta]
    at, of, value = [], [], []
    for axis in (0, 1):                                 # e_z turns towards e_x, e_y, which lose e_z
        K = np.zeros((3, 3))
        K[2, axis], K[axis, 2] = 1.0, -1.0
        turned = np.array([K.T @ T + T @ K for T in D_TENSORS])
        blocks = (np.zeros((1, 1)), K, 2 / 3 * np.einsum("aij,bji->ab", turned, D_TENSORS))
        whole, start = np.zeros((sum(sizes), sum(sizes))), 0
        for l, size in zip(momenta, sizes, strict=True):
            whole[start:start + size, start:start + size] = blocks[l]
            start += size
        whole[np.abs(whole) < 1e-14] = 0.0
        counts, columns, entries = _rows(whole)
        at.append(_ends(counts) + len(of))
        of, value = of + columns, value + entries
    return Turning(np.array(at), _integers(of), np.array(value, dtype=float))


def _charges(kinds: tuple[int, ...], hartree: float) -> Charges:
    """Those of the given kinds; of the others nothing."""
    first, second, feature, squares, terms, integrals = [0], [], [], [0], [0], [0]
    parts: list[tuple[list[int], list[int], list[float]]] = [([], [], []) for _ in range(3)]
    row, column = [], []
    for number, (n_i, n_j) in enumerate(KINDS):
        if number not in kinds:
            second.append(len(feature))
            first.append(len(feature))
            squares.append(squares[-1])
            terms.append(terms[-1])
            integrals.append(integrals[-1])
            continue
        kernel = charge_kernel(n_i, n_j, hartree, torch.device("cpu"))
        feature += [FEATURES.index(name) for name in kernel.features_i]
        second.append(len(feature))
        feature += [FEATURES.index(name) for name in kernel.features_j]
        first.append(len(feature))
        weights = kernel.integrals.numpy()
        given = np.flatnonzero((weights != 0).any(0))
        matrices = kernel.coordinates.numpy().T, kernel.distances.numpy().T, weights[:, given]
        for part, matrix in zip(parts, matrices, strict=True):
            for store, values in zip(part, _rows(matrix), strict=True):
                store += values
        squares.append(squares[-1] + kernel.coordinates.shape[1])
        terms.append(terms[-1] + kernel.distances.shape[1])
        integrals.append(integrals[-1] + len(given))
        columns = component_starts(n_j)[1] if isinstance(n_j, int) else 1
        row += (given // columns).tolist()
        column += (given % columns).tolist()
    forms, distances, of_integrals = (
        (_ends(counts), _integers(of), np.array(value, dtype=float)) for counts, of, value in parts)
    to_core = _integers([-1] + [KINDS.index((n, CORE)) for n in ORBITALS[1:]])
    to_core[0] = to_core[1]     # never read: an atom without orbitals has no distributions
    return Charges(_integers(first), _integers(second), _integers(feature), _integers(squares), *forms, _integers(terms),
                   *distances, *of_integrals, _integers(integrals), _integers(row), _integers(column), to_core,
                   FEATURES.index("rho_core"))


def _slater(classes: tuple[Class, ...], bohr: float) -> Slater:
    quadratures = [_quadrature(points)[0] for points, *_ in POINTS]
    shells, powers, ends, functions, places, places_of_weights = [], [], [0], [], [], []
    weights: list[Array] = []
    length = 0
    for n_i, n_j, numbers in classes:
        block = _class(n_i, n_j, numbers)
        shells.append((len(SHELLS[n_i]), len(SHELLS[n_j])))
        powers.append(2.0 * max(numbers, default=1))
        functions += block.functions
        places += block.places
        ends.append(len(functions))
        starts = []
        for part in block.weights:
            starts.append(length)
            weights.append(part)
            length += len(part)
        places_of_weights.append(starts)
    rules = np.array([(b0, b1, c) for _, b0, b1, c in POINTS])
    return Slater(_integers(shells).reshape(-1, 2), np.array(powers), np.array([negligible(int(n)) for n in powers]),
                  _integers(ends), _integers(functions).reshape(-1, 4), _integers(places).reshape(-1, 4),
                  _integers(places_of_weights).reshape(-1, len(POINTS)), np.concatenate([*weights, np.zeros(0)]),
                  _ends([len(q) for q in quadratures]), np.concatenate(quadratures), rules, REACH / bohr)


@cache
def _quadrature(points: int) -> tuple[Array, Array]:
    """Nodes and weights, which take longer than the polynomials of a class."""
    return leggauss(points)


class _SlaterClass(NamedTuple):
    functions: list[tuple[int, int, int, int]]
    places: list[tuple[int, int, int, int]]
    weights: list[Array]        # for each of POINTS


@cache
def _class(n_i: int, n_j: int, numbers: tuple[int, ...]) -> _SlaterClass:
    """One class of quantum numbers: those of the shells of i, then of j."""
    first, second = SHELLS[n_i], SHELLS[n_j]
    functions, places = [], []
    for a, b in product(first, second):
        for m in range(min(a, b) + 1):
            functions.append((a, b, numbers[a], numbers[len(first) + b]))
            at = [(a * a + MEMBERS[a].index(sign * m), b * b + MEMBERS[b].index(sign * m)) for sign in (1, -1)[:1 + (m > 0)]]
            places.append((*at[0], *(at[1] if m else (-1, -1))))
    weights = []
    for points, *_ in POINTS:
        nodes, factors = _quadrature(points)
        parts = [factors * polynomials(n_a, a, n_b, b, m, tuple(nodes.tolist())) for (a, b, n_a, n_b), m in
                 zip(functions, [m for a, b in product(first, second) for m in range(min(a, b) + 1)], strict=True)]
        weights.append(np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0))
    return _SlaterClass(functions, places, weights)


@cache
def _hybrids() -> Hybrids:
    table = packed_pairs(9)[2]
    moments = (FEATURES.index("D1"), FEATURES.index("D_pd"))
    return Hybrids(_integers([sum(i < n for i, *_ in HYBRIDS) for n in ORBITALS]),
                   _integers([table[i, j] for i, j, *_ in HYBRIDS]), _integers([axis for _, _, axis, *_ in HYBRIDS]),
                   _integers([moments[m] for *_, m in HYBRIDS]), np.array([value for _, _, _, value, _ in HYBRIDS]))
