"""The walk from molecules to an energy: the table of contents of the package.

    species                     -> topology      layout of orbitals and pairs, element data, core-core rules
    tables                      -> rows          multipoles and one-centre integrals of every species
    topology, rows, shifts      -> parameters    of each atom and pair; a network may shift them
    topology, positions         -> distances     of every pair of atoms, and their directions
    distances, parameters       -> integrals     one- and two-electron blocks, energy of the cores
    integrals, electrons        -> problem       what the self-consistent field needs, off the tape
    problem, start              -> state         the fixed point D = density(fock(D))
    integrals, state            -> energy        a contraction of every integral with the density, on the tape

Every step is a pure function, and everything else (forces, charges, response) is a value or a derivative of the last one.
`Hamiltonian.forward` composes them; whoever builds an embedding, a dynamics or excited states starts from them:

    method, molecules = nddo_ml.method("PM6"), Molecules.single([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    topology = walk.topology(method, molecules)
    parameters = walk.parameters(topology, walk.rows(method))
    distances = walk.distances(topology, molecules.positions)
    integrals = walk.integrals(topology, molecules.positions, distances, parameters)
    problem = walk.problem(topology, integrals, walk.electrons(topology, molecules))
    state = walk.state(topology, molecules, problem)
    electronic, density = walk.energy(molecules, integrals, state)
    parts = walk.parts(topology, molecules.positions, distances, integrals, method.terms) | {"electronic": electronic}
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from nddo_ml import pairs
from nddo_ml.common.struct import tensor_map
from nddo_ml.errors import InvalidMolecule
from nddo_ml.hamiltonian import electronic as electronic_energies
from nddo_ml.hamiltonian import shifted, starts
from nddo_ml.hamiltonian.shifted import Rows
from nddo_ml.hamiltonian.starts import Start, electrons
from nddo_ml.hamiltonian.state import State
from nddo_ml.integrals import assembly
from nddo_ml.integrals import topology as topologies
from nddo_ml.integrals.blocks import Integrals
from nddo_ml.integrals.corrections import Term, corrections
from nddo_ml.integrals.multipole import atom_integrals
from nddo_ml.integrals.parameters import AtomParameters, PairParameters
from nddo_ml.integrals.placed import Parameters
from nddo_ml.integrals.topology import Topology
from nddo_ml.methods import Method
from nddo_ml.molecules import NOTHING, Molecules, Surroundings
from nddo_ml.networks.shifts import Shifts
from nddo_ml.pairs import Distances
from nddo_ml.scf import problem as problems
from nddo_ml.scf.ladder import solve
from nddo_ml.scf.options import SCF, USUAL
from nddo_ml.scf.problem import Electrons, Problem, two_channels
from nddo_ml.scf.rungs import LADDER
from nddo_ml.scf.stability import lower

__all__ = ["Rows", "Start", "distances", "electrons", "energy", "integrals", "parameters", "parts", "problem", "rows", "state",
           "topology"]


def rows(method: Method, fitted: AtomParameters | None = None, pairs: PairParameters | None = None) -> Rows:
    """The rows of a method's table, or of other values in its place, on their tape."""
    fitted = method.parameters if fitted is None else fitted
    device = fitted.U_ss.device

    def here(values: Tensor) -> Tensor:
        return values.to(device)

    elements = tensor_map(here, method.elements)
    return Rows(fitted, atom_integrals(fitted, elements, method.constants), method.pairs if pairs is None else pairs)


def topology(method: Method, molecules: Molecules) -> Topology:
    """The topology of molecules.

    Raises:
        MissingParameter: the method lacks a species.
    """
    return topologies.topology(method.recipe, method.rows(molecules.numbers), molecules)


def distances(topology: Topology, positions: Float[Tensor, "atom 3"], names: list[int] | None = None) -> Distances:
    """How far apart the atoms of every pair are; positions in angstrom.

    Raises:
        InvalidMolecule: two atoms lie on one spot. It calls the molecules by their `names`, if there are several.
    """
    return pairs.distances(positions, topology.i, topology.j, topology.layout.molecule, names)


def parameters(topology: Topology, rows: Rows, shifts: Shifts | None = None) -> Parameters:
    """The parameters of each atom and pair where they are used, with what a network says of them."""
    return shifted.shifted(topology, shifted.parent(topology, rows), shifts)


def integrals(topology: Topology, positions: Float[Tensor, "atom 3"], distances: Distances, parameters: Parameters,
              surroundings: Surroundings = NOTHING, names: list[int] | None = None) -> Integrals:
    """Every block of the Hamiltonian, eV, on the tape of all that it is made from.

    Raises:
        InvalidMolecule: a point charge lies on top of an atom.
    """
    return assembly.integrals(topology, positions, distances, parameters, surroundings, names)


def problem(topology: Topology, integrals: Integrals, electrons: Electrons) -> Problem:
    """What the self-consistent field of so many electrons needs of the integrals, off the tape."""
    return problems.problem(topology.layout, integrals, electrons)


def state(topology: Topology, molecules: Molecules, problem: Problem, scf: SCF = USUAL, start: Start | None = None) -> State:
    """The self-consistent state, or a lower one where `scf.stability` asks for it and there is one.

    start: where to look from; None: neutral atoms.

    Raises:
        InvalidMolecule: the stability of a half-electron state is asked for.
    """
    start = starts.neutral_atoms(topology, problem.electrons) if start is None else start
    solution = solve(problem, start.density, scf, start.orbitals, start.followed)
    plain = State(list(range(len(molecules))), problem, solution, LADDER if scf.ladder is None else scf.ladder)
    if scf.stability and not problem.whole:
        raise InvalidMolecule("The stability of half-electron states is not defined: use unrestricted=True.")
    if scf.stability is False or not problem.whole:
        return plain
    doubted = solution.converged
    if scf.stability is None:
        suspected = starts.suspicious(topology, molecules, solution, start.followed)
        if suspected is None:
            return plain
        doubted = doubted & suspected
    return _settled(plain, doubted, scf) if bool(doubted.any()) else plain


def _settled(plain: State, doubted: Tensor, scf: SCF) -> State:
    """The state after a look for lower ones of the `doubted` molecules."""
    task, solution = plain.problem, plain.solution
    if scf.stability and scf.unrestricted is not False and task.occupations.shape[1] == 1:
        task, solution = two_channels(task, solution)
    lowered = lower(task, solution, scf, doubted)
    changed = bool(((lowered.fall > 0) | (lowered.trapped < 0)).any())
    return State(plain.index, task, lowered.solution, plain.ladder, lowered) if changed else plain


def energy(molecules: Molecules, integrals: Integrals, state: State, order: int = 1,
           tolerance: float = SCF.response_tolerance) -> electronic_energies.Energy:
    """The electronic energy of each molecule (eV), differentiable `order` times, and the density that populations come from,
    which is exact in one derivative less.

    Derivatives beyond `order` lack the response of the density. Nothing refuses them here, as the results of a Hamiltonian do
    (scf.orders): count them.

    tolerance: relative residual of the response equations behind orders 2 and 3.

    Raises:
        InvalidMolecule: derivatives of a half-electron state beyond the first are asked for.
        SCFNotConverged: the state has no response.
    """
    return electronic_energies.energy(molecules, integrals, state, order, tolerance)


def parts(topology: Topology, positions: Float[Tensor, "atom 3"], distances: Distances, integrals: Integrals,
          terms: Mapping[str, Term]) -> dict[str, Float[Tensor, "molecule"]]:
    """The energies that do not depend on the density by name, eV: of the cores, and the corrections of the method."""
    added = corrections(terms, topology.composition, positions, distances.R, topology.recipe.constants)
    return {"core_core": integrals.core, **added}
