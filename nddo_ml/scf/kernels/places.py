"""Views of the indices that records.py folded into one array."""

from nddo_ml.common.jit import jit
from nddo_ml.scf.records import Places


@jit
def matrices(folded, k):
    """(orbitals of molecule k, where its matrices begin)."""
    molecules = folded[0]
    return folded[3 + 3 * (molecules + 1) + k], folded[3 + 2 * (molecules + 1) + k]


@jit
def places(folded, k):
    """Where the atoms and pairs of molecule k lie."""
    molecules, atoms, pairs = folded[0], folded[1], folded[2]
    a, b = folded[3 + k], folded[4 + k]
    p, q = folded[4 + molecules + k], folded[5 + molecules + k]
    first = 3 + 3 * (molecules + 1) + molecules
    second = first + 4 * atoms
    return Places(folded[first + a:first + b], folded[first + atoms + a:first + atoms + b],
                  folded[first + 2 * atoms + a:first + 2 * atoms + b], folded[first + 3 * atoms + a:first + 3 * atoms + b],
                  folded[second + p:second + q], folded[second + pairs + p:second + pairs + q],
                  folded[second + 2 * pairs + p:second + 2 * pairs + q], folded[second + 3 * pairs + p:second + 3 * pairs + q])


@jit
def widest(places):
    """The largest number of packed distributions of an atom."""
    width = 1
    for A in range(len(places.first)):
        width = max(width, places.n_ao[A] * (places.n_ao[A] + 1) // 2)
    return width
