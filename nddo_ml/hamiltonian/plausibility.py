"""States that no molecule is in.

A learned Hamiltonian is a fit: far from what it was trained on its energy may fall below that of every real molecule, into a
hole where nuclei lie on top of each other or atoms hold charges that no atom holds. Such a state converges like any other. It
is found here by what no molecule does, and is treated like one that did not converge: an error, or a member of a batch without
an energy. Published methods are not judged: their limits are those of their papers.
"""


from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from nddo_ml.elements import covalent_radii, symbol
from nddo_ml.integrals.topology import Topology
from nddo_ml.molecules import Molecules, named
from nddo_ml.networks.shifts import LARGEST_MOVED

# of the sum of covalent radii; 0.16 angstrom for H-H, 0.38 for C-C. A parent still repels there, a bond is never below 0.7
WALL = 0.25
# electrons beyond its own that an atom may hold beside the excess of its molecule: no free atom binds two, and in 2,545
# states of the published methods the lowest charge is -1.4
EXTRA = 2.0
SLACK = 0.1      # e: core charges that moved towards an atom without electrons, and rounding


def implausible(topology: Topology, molecules: Molecules, R: Float[Tensor, "pair"], core: Float[Tensor, "atom"],
                charges: Float[Tensor, "atom"], names: list[int] | None = None) -> list[str]:
    """What is wrong with the state of each molecule, "" where nothing is: nuclei nearer than WALL times the sum of their
    covalent radii (R in angstrom), core charges (e) that moved by more than LARGEST_MOVED, atoms with more charge than their
    valence electrons leave behind or with more than EXTRA electrons beyond their own. names: those of the molecules of a batch,
    None for a single one.
    """
    faults = [""] * len(molecules)
    radii = covalent_radii(molecules.numbers)
    reach = radii.index_select(0, topology.i) + radii.index_select(0, topology.j)

    def atom(k: int | Tensor) -> str:
        return f"{symbol(int(molecules.numbers[k]))} {named(molecules.molecule, names, int(k))}"

    _note(faults, R < WALL * reach, topology.molecule, lambda k: (
        f"atoms {atom(topology.i[k])} and {atom(topology.j[k])} are {float(R[k]):.3f} angstrom apart, "
        f"{float(R[k] / reach[k]):.2f} of the sum of their covalent radii (expected: above {WALL})"))
    own, moved = topology.elements.core, core - topology.elements.core
    _note(faults, moved.abs() > LARGEST_MOVED + 1e-9, molecules.molecule, lambda k: (
        f"{float(moved[k]):+.2f} e moved to the core of atom {atom(k)} (at most {LARGEST_MOVED})"))
    lowest = molecules.charge.clamp(max=0).index_select(0, molecules.molecule) - EXTRA
    beyond = (charges > own + SLACK) | (charges < lowest - SLACK)
    _note(faults, beyond & (topology.elements.n_ao > 0), molecules.molecule, lambda k: (
        f"atom {atom(k)} has a charge of {float(charges[k]):+.2f} (expected {float(lowest[k]):+.0f} to {float(own[k]):+.0f})"))
    return faults


def advice(method: str) -> str:
    """What to do about such a state."""
    return (f"This Hamiltonian ({method}) was not trained on anything like it, and its energy means nothing: start from a "
            "better geometry, or relax this one first with a published method (RM1, PM6).")


def _note(faults: list[str], bad: Tensor, owner: Tensor, text: Callable[[int], str]) -> None:
    """Write the first fault of each molecule into `faults`; text: words about entry k of what is bad."""
    for k in bad.nonzero()[:, 0].tolist() if bool(bad.any()) else ():
        m = int(owner[k])
        faults[m] = faults[m] or text(k)
