"""What the kernels of the integrals read and write: records of arrays, and how they are folded.

A kernel is handed few arrays, for each costs a quarter of a microsecond to hand over, as much as the integrals of a pair. So
the records of a plan are folded into one array of integers and one of numbers, one field after another, and a kernel unfolds
them again into views (kernels/unfold.py, in the same order).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

ROOM = 5235        # numbers that the scratch of a kernel takes


class Turning(NamedTuple):
    """How the components of an atom, or its orbitals, answer when the axis turns towards e_x and e_y: two sparse matrices."""

    at: Indices         # (2, component + 1): where the entries of a row begin
    of: Indices         # columns
    value: Array


class Shell(NamedTuple):
    """What the number of its orbitals decides about an atom."""

    place: int                      # in ORBITALS
    orbitals: int
    packed: int                     # distributions, products of two orbitals
    size: int                       # components
    momenta: Indices                # angular momentum of each kind of orbitals
    components: Indices             # of each kind of components
    at: Indices                     # decomposition of the distributions: where the entries of each begin
    of: Indices                     # components
    value: Array
    turning_orbitals: Turning
    turning_components: Turning


class Charges(NamedTuple):
    """The kernels of point charges of all KINDS, one after another (configurations.ChargeKernel)."""

    first: Indices          # (kind + 1): where the features of the first atom begin in `feature`
    second: Indices         # (kind): where those of the second begin
    feature: Indices        # columns of FEATURES
    squares: Indices        # (kind + 1): where the linear forms of a kind begin
    coordinate_at: Indices  # (form + 1): where the coefficients of a form begin
    coordinate_of: Indices  # places among R and the features of both atoms
    coordinate: Array
    terms: Indices          # (kind + 1): where the distances of a kind begin
    distance_at: Indices    # (term + 1)
    distance_of: Indices    # forms of this kind
    distance: Array
    weight_at: Indices      # (term + 1)
    weight_of: Indices      # integrals of this kind that are not zero
    weight: Array           # eV bohr
    integrals: Indices      # (kind + 1): where the integrals of a kind begin
    row: Indices            # their components of the first atom
    column: Indices         # and of the second
    to_core: Indices        # (shell): the kind of a shell and a core
    rho_core: int           # column of FEATURES


class Slater(NamedTuple):
    """Overlaps of Slater functions, for classes of quantum numbers one after another."""

    shells: Indices         # (class, 2): shells of i and j
    powers: Array           # (class): twice the largest principal quantum number
    negligible: Array       # (class): R zeta beyond which the overlap is
    integrals: Indices      # (class + 1): where those of a class begin
    functions: Indices      # (integral, 4): shells a and b, principal quantum numbers n_a and n_b
    places: Indices         # (integral, 4): local orbitals of i and j for m, then for -m; -1: none
    weights_at: Indices     # (class, rule): where the weights begin: integral, power and node
    weights: Array
    nodes_at: Indices       # (rule + 1)
    nodes: Array
    rules: Array            # (rule, 3): when that many nodes are enough (overlap.POINTS)
    limit: float            # bohr, beyond which nothing overlaps


class Hybrids(NamedTuple):
    """The moments <a|r|b> within an atom (dipole.HYBRIDS)."""

    count: Indices          # (shell): how many of them there are
    distribution: Indices
    axis: Indices
    moment: Indices         # columns of FEATURES
    value: Array


class Sparse(NamedTuple):
    """All constants of a method's integrals."""

    shells: tuple[Shell, ...]       # by their place in ORBITALS
    charges: Charges
    slater: Slater
    hybrids: Hybrids
    bohr: float                     # angstrom
    hartree: float                  # eV


class Atoms(NamedTuple):
    """The atoms of a batch."""

    n_ao: Indices
    shell: Indices          # places in ORBITALS
    first: Indices          # first orbital in the matrix of the molecule
    molecule: Indices
    special: Indices        # bits
    features: Array         # (atom, FEATURES)
    zeta: Array             # (atom, 3), 1/bohr
    beta: Array             # (atom, 3), eV
    core: Array             # charges, e
    rho_core: Array         # bohr
    U: Array                # one-electron blocks of the free atoms, packed, one after another, eV
    U_at: Indices           # where those of an atom begin


class Pairs(NamedTuple):
    """The pairs of a batch, molecule after molecule; the atom with more orbitals is the first."""

    i: Indices
    j: Indices
    order: Indices          # the place of each among the pairs of the topology
    shell_i: Indices
    shell_j: Indices
    kind: Indices           # of charge distributions (sparse.KINDS)
    slater: Indices         # class of quantum numbers
    own_core: Indices       # 1 where the cores have integrals of their own
    two_at: Indices         # where the block (m_i, m_j) of each begins


class Cores(NamedTuple):
    """The core-core repulsion of the pairs in the order of the topology; nothing where torch evaluates it."""

    form: int
    charge: Array
    values: Array           # (pair, 7): two exponents, coefficients and flags of r; or alpha, x, flag of r^2, c, a, b, wall
    gaussians_at: Indices
    gaussians: Array        # (gaussian, 3): K, L, M


class Scaling(NamedTuple):
    """Factors of the integrals of pairs in the order of the topology; empty where there are none."""

    join: Array             # (pair, 2): weight of the multipole integrals, and its derivative by r
    fade: Array             # (pair, 2): factor of the resonance integrals, and its derivative by r
    factors: Array          # of the resonance integrals in the frame of the pair, flat
    coulomb: float          # eV angstrom
    factors_at: Indices     # where those of a pair begin
    factor_strides: Indices     # (pair, 2): from an orbital of i, of j to the next


class Adjoint(NamedTuple):
    """Derivatives of the energy by what the atoms bring; without rows where they are not asked for."""

    features: Array
    zeta: Array
    beta: Array
    core: Array
    factors: Array


class Sites(NamedTuple):
    """Point charges."""

    x: Array                # (site, 3), angstrom
    charge: Array           # e
    rho: Array              # bohr
    at: Indices             # (molecule + 1): where those of a molecule begin


class Scratch(NamedTuple):
    """Room for one pair."""

    u: Array
    opposite: Array
    given: Array
    forms: Array
    inverse: Array
    local: Array
    weights: Array
    slopes: Array
    pulled: Array
    harmonics: Array
    harmonic_slopes: Array
    orbital_harmonics: Array
    components: Array
    E: Array
    vectors: Array
    quadrupole: Array
    quadrupole_back: Array
    row: Array
    M: Array
    W: Array
    H: Array
    V: Array
    V_j: Array
    weights_i: Array
    weights_j: Array
    q_i: Array
    q_j: Array
    by_axis: Array
    by_turn: Array
    across: Array
    A: Array
    B: Array
    X: Array
    overlap: Array


class Folded(NamedTuple):
    """Records as one array of integers and one of numbers."""

    ints: Indices
    ints_at: Indices        # where each field begins, and where the last ends
    reals: Array
    reals_at: Indices


def folded(*trees: Any) -> Folded:
    """Records folded, field after field and record after record; what they hold is an array, a number or a record again."""
    parts: dict[bool, list[NDArray[Any]]] = {True: [np.zeros(0, dtype=np.int64)], False: [np.zeros(0)]}

    def add(value: Any) -> None:
        if isinstance(value, tuple):
            for member in value:
                add(member)
        else:
            array = np.asarray(value).ravel()
            whole = array.dtype.kind in "iub"
            parts[whole].append(array.astype(np.int64 if whole else np.float64))

    add(trees)
    ends = {whole: np.cumsum([len(part) for part in each]) for whole, each in parts.items()}
    return Folded(np.concatenate(parts[True]), ends[True], np.concatenate(parts[False]), ends[False])
