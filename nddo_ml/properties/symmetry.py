"""Point groups: which rotations and reflections map a molecule onto itself.

An operation about the centroid is fixed by where it takes two atoms that do not lie on one line with the centre. So the two
atoms of fewest look-alikes (same kind, same distance from the centre) are sent to every fitting pair of look-alikes, and each
candidate is checked on all atoms. The number of proper rotations is the symmetry number of thermochemistry.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nddo_ml.properties.arrays import Numbers, plain

TOLERANCE = 0.05   # angstrom an atom may miss its image by: above the noise of optimised geometries, below real distortions


@dataclass(frozen=True)
class PointGroup:
    """The symmetry of a molecule."""

    name: str       # of Schoenflies
    number: int     # symmetry number: how many proper rotations there are; 1 for atoms
    shape: str      # "monatomic", "linear" or "nonlinear", the words of ASE
    # orthogonal matrices about the centroid; the identity alone for atoms and linear molecules, whose groups are infinite
    operations: Float[np.ndarray, "operation 3 3"]
    deviation: float     # largest distance between an atom and its image, angstrom


def molecular_shape(positions: Numbers, tolerance: float = TOLERANCE) -> str:
    """The shape of a molecule: "monatomic", "linear" (every atom within `tolerance` angstrom of one line) or "nonlinear"."""
    x = plain(positions)
    if len(x) == 1:
        return "monatomic"
    x = x - x.mean(0)
    axis = np.linalg.svd(x, full_matrices=False)[2][0]
    off_axis = x - np.outer(x @ axis, axis)
    return "linear" if np.linalg.norm(off_axis, axis=1).max() < min(tolerance, 0.01 * np.ptp(x @ axis)) else "nonlinear"


def symmetry_number(numbers: Numbers, positions: Numbers, tolerance: float = TOLERANCE) -> int:
    """The rotational symmetry number: how many proper rotations map the molecule onto itself within `tolerance` (angstrom)."""
    return point_group(numbers, positions, tolerance).number


def point_group(numbers: Numbers, positions: Numbers, tolerance: float = TOLERANCE) -> PointGroup:
    """The point group of a molecule; atoms are told apart by `numbers` alone (give isotopes different numbers).

    positions in angstrom, (atom, 3). Candidates that miss the tolerance only partly are dropped until what remains is a group.
    """
    kinds, x = np.asarray(numbers), plain(positions)
    x = x - x.mean(0)
    shape = molecular_shape(x, tolerance)
    if shape == "monatomic":
        return PointGroup("K", 1, shape, np.eye(3)[None], 0.0)
    if shape == "linear":
        turned, deviation = _image(kinds, x, -np.eye(3)[None], tolerance)
        return PointGroup("D*h", 2, shape, np.eye(3)[None], float(deviation[0])) if len(turned) else \
            PointGroup("C*v", 1, shape, np.eye(3)[None], 0.0)
    candidates = np.concatenate([_candidates(kinds, x, tolerance, handedness) for handedness in (1, -1)])
    operations, permutations, deviation = _closed(kinds, x, candidates, tolerance)
    number = int((np.linalg.det(operations) > 0).sum())
    return PointGroup(_name(operations, permutations), number, shape, operations, deviation)


def _frame(a, b, handedness=1):
    """Orthonormal frames (..., 3, 3), as columns, of the plane of a and b; the third axis flipped for handedness -1."""
    e1 = a / np.linalg.norm(a, axis=-1, keepdims=True)
    e2 = b - (b * e1).sum(-1, keepdims=True) * e1
    e2 = e2 / np.linalg.norm(e2, axis=-1, keepdims=True)
    return np.stack([e1, e2, handedness * np.cross(e1, e2)], -1)


def _candidates(kinds, x, tolerance, handedness):
    """Orthogonal matrices (candidate, 3, 3) that take two reference atoms to look-alikes at the same mutual distance."""
    radius = np.linalg.norm(x, axis=1)
    alike = (kinds[:, None] == kinds) & (np.abs(radius[:, None] - radius) < tolerance)
    off_centre = np.flatnonzero(radius > max(0.3, 2 * tolerance))
    # sine of the angle between all directions; a pair of references must span a plane
    unit = x[off_centre] / radius[off_centre, None]
    first = off_centre[np.argmin(alike[off_centre].sum(1))]
    sine = np.linalg.norm(np.cross(unit, x[first] / radius[first]), axis=1)
    spanning = off_centre[sine > min(0.3, 0.99 * sine.max())]
    second = spanning[np.argmin(alike[spanning].sum(1))]
    i, j = (k.ravel() for k in np.meshgrid(np.flatnonzero(alike[first]), np.flatnonzero(alike[second]), indexing="ij"))
    distance = np.linalg.norm(x[first] - x[second])
    fits = (np.abs(np.linalg.norm(x[i] - x[j], axis=1) - distance) < 2 * tolerance) & (i != j)
    return _frame(x[i[fits]], x[j[fits]], handedness) @ _frame(x[first], x[second]).T


def _image(kinds, x, operations, tolerance):
    """Permutations (operation, atom) and deviations of those operations that map every atom onto one of its kind."""
    images, misses = [], []
    for operation in operations:
        distance = np.linalg.norm((x @ operation.T)[:, None] - x, axis=-1)
        distance[kinds[:, None] != kinds] = np.inf
        target = distance.argmin(1)
        if distance[np.arange(len(x)), target].max() < tolerance and len(np.unique(target)) == len(x):
            images.append(target)
            misses.append(distance[np.arange(len(x)), target].max())
    return np.array(images, dtype=int).reshape(-1, len(x)), np.array(misses)


def _closed(kinds, x, candidates, tolerance):
    """The largest group among the candidates, best fits first: refined operations, their permutations, largest deviation."""
    elements = {}
    for operation in candidates:
        # the reference atoms may be off by the tolerance themselves: a loose match, a least-squares fit, then the real test
        loose = _image(kinds, x, operation[None], 3 * tolerance)[0]
        if len(loose):
            refined = _fit(x, x[loose[0]], np.linalg.det(operation))
            exact, deviation = _image(kinds, x, refined[None], tolerance)
            if len(exact):
                elements[(np.linalg.det(operation) > 0, *exact[0])] = (deviation[0], refined)
    identity = (True, *range(len(x)))
    ordered = sorted((key for key in elements if key != identity), key=lambda key: elements[key][0])
    table = np.array([identity, *ordered], dtype=int)
    operations = np.stack([np.eye(3), *(elements[key][1] for key in ordered)])
    deviation = np.array([0.0, *(elements[key][0] for key in ordered)])
    count = next(count for count in range(len(table), 0, -1) if _is_group(table[:count]))
    return operations[:count], table[:count, 1:], float(deviation[:count].max())


def _is_group(table):
    """Whether permutations (operation, 1 + atom), each led by 1 for proper and 0 for improper, are closed under composition."""
    handedness = (table[:, None, :1] == table[None, :, :1]).astype(int)
    products = np.concatenate([handedness, table[:, 1:][:, table[:, 1:]]], -1).reshape(-1, table.shape[1])
    return len(np.unique(products, axis=0)) == len(table)


def _fit(x, y, determinant):
    """The orthogonal matrix of this determinant that best takes x to y (Kabsch)."""
    u, _, vt = np.linalg.svd(y.T @ x)
    return u @ np.diag([1, 1, np.sign(determinant * np.linalg.det(u @ vt))]) @ vt


def _name(operations, permutations):
    """Schoenflies symbol of a finite point group from its orthogonal matrices and permutations of atoms."""
    is_proper = np.linalg.det(operations) > 0
    proper, improper = operations[is_proper], operations[~is_proper]
    orders = np.array([_order(p) for p in permutations[is_proper]])
    n, count = int(orders.max()), len(proper)
    trace = np.trace(improper, axis1=1, axis2=2)   # 1 for a mirror, -3 for the inversion
    inversion, normals = bool((trace < -2.9).any()), [_axis(-m) for m in improper[trace > 0.95]]
    if (n, count) in {(3, 12), (4, 24), (5, 60)}:
        return {12: "T", 24: "O", 60: "I"}[count] + ("h" if inversion else "d" if len(improper) else "")
    if count == 1:
        return "C1" if not len(improper) else "Ci" if inversion else "Cs"
    axis = _axis(proper[orders.argmax()])
    horizontal = any(abs(normal @ axis) > 0.9 for normal in normals)
    if count == 2 * n:
        return f"D{n}h" if (inversion if n == 2 else horizontal) else f"D{n}d" if normals else f"D{n}"
    return f"C{n}h" if horizontal else f"C{n}v" if normals else f"S{2 * n}" if len(improper) else f"C{n}"


def _order(permutation):
    """The smallest n for which n repetitions of the permutation are the identity."""
    power, n = permutation, 1
    while not np.array_equal(power, np.arange(len(permutation))):
        power, n = permutation[power], n + 1
    return n


def _axis(rotation):
    """Unit vector along the axis of a proper rotation."""
    return np.linalg.svd(rotation - np.eye(3))[2][-1]
