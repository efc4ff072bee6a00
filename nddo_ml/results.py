"""What a calculation returns: one typed record for a whole batch.

Per-molecule and per-atom quantities are tensors in the order of the input. Matrices (density, orbitals, bond orders) differ
in size from molecule to molecule and are made on request, for one molecule at a time.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.errors import ImplausibleState, SCFNotConverged
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.plausibility import advice
from nddo_ml.scf.density import Orbitals
from nddo_ml.scf.fock import fock, kernel, one_electron
from nddo_ml.scf.solve import RUNGS, Problem, Solution, canonical
from nddo_ml.units import Constants


@dataclass(frozen=True, eq=False)
class State:
    """The self-consistent states of some molecules of a batch that were solved together; `index` says which, `lowered` by how
    much (eV) leaving an instability lowered the energy of each; `tape`: integrals and density that carry derivatives; `shifts`:
    what a network said (networks.shifts), while it is on the tape; `implausible`: what is wrong with each ("" nothing; empty:
    not judged, or all well).
    """

    index: list
    problem: Problem
    solution: Solution
    lowered: Float[Tensor, "molecule"]
    tape: tuple | None = None
    shifts: object = None
    implausible: list = field(default_factory=list)

    @cached_property
    def orbitals(self) -> Orbitals:
        """Canonical orbitals, made when first asked for."""
        return canonical(self.problem, self.solution)

    def levels(self) -> Float[Tensor, "molecule spin level"]:
        """Orbital energies, differentiable once where the state is on a tape: eps_i = C_i^T F(phi, D0 + dD) C_i, C constant."""
        if self.tape is None:
            return self.orbitals.eps
        integrals, D = self.tape
        lay, C = self.problem.layout, self.orbitals.C
        F = fock(lay, kernel(lay, integrals), one_electron(lay, integrals), D)
        return (C * (F @ C)).sum(-2)


@dataclass(frozen=True, eq=False)
class Result:
    """Energies and properties of a batch; eV, angstrom and e unless the name says otherwise.

    energy `molecule`: total energy with every correction, what `forces` (atom 3; None unless asked for) are the derivative of;
    with point charges it holds their interaction, and point_charge_forces (site 3) is the force on each of them.
    energies: its parts by name: electronic, core_core, the corrections of the method; with a network also the offsets `atoms`
    and its `local` energy. heat_of_formation: kcal/mol at 298 K; NaN with a network, whose energy holds no thermal motion.
    atomization_energy: of a trained network, electronic, from the free atoms of its reference; NaN for published methods.
    dipole `molecule 3`: e angstrom, of an ion about its centre of mass. charges, spin_populations `atom`. s2: <S^2>.
    converged, residual (largest commutator element), iterations `molecule`; the energy of a member that did not converge is
    NaN. implausible: for each molecule what a learned method found that no molecule is like (plausibility.py), "" for nothing;
    such members count as not converged.
    """

    molecules: Molecules
    method: str
    constants: Constants
    energy: Float[Tensor, "molecule"]
    energies: dict
    heat_of_formation: Float[Tensor, "molecule"]
    atomization_energy: Float[Tensor, "molecule"]
    forces: Float[Tensor, "atom 3"] | None
    point_charge_forces: Float[Tensor, "site 3"] | None
    charges: Float[Tensor, "atom"]
    dipole: Float[Tensor, "molecule 3"]
    spin_populations: Float[Tensor, "atom"]
    s2: Float[Tensor, "molecule"]
    converged: Bool[Tensor, "molecule"]
    residual: Float[Tensor, "molecule"]
    iterations: Int[Tensor, "molecule"]
    route: list
    states: list = field(repr=False)
    implausible: list = field(default_factory=list, repr=False)

    @property
    def dipole_debye(self) -> Float[Tensor, "molecule 3"]:
        """The dipole in debye."""
        return self.dipole * self.constants.debye

    def density(self, k: int = 0) -> Float[Tensor, "spin orbital orbital"]:
        """Density matrix of molecule k per spin channel: alpha and beta, or one that holds both alike (half the total
        density)."""
        state, place, n = self._find(k)
        return state.solution.D[place, :, :n, :n]

    def fock(self, k: int = 0) -> Float[Tensor, "spin orbital orbital"]:
        """Fock matrix of molecule k, eV."""
        state, place, n = self._find(k)
        return state.solution.F[place, :, :n, :n]

    def orbital_energies(self, k: int = 0) -> Float[Tensor, "spin orbital"]:
        """Orbital energies of molecule k, eV, ascending in each channel."""
        state, place, n = self._find(k)
        return state.levels()[place, :, :n].gather(-1, self._ascending(k))

    def gap(self, k: int = 0) -> Float[Tensor, ""]:
        """Lowest empty less highest occupied level over both spins, eV; on the tape where the result is."""
        eps, f = self.orbital_energies(k), self.occupations(k)
        return eps[f < 2.0 / len(f)].min() - eps[f > 0].max()

    def occupations(self, k: int = 0) -> Float[Tensor, "spin orbital"]:
        """Occupations of the orbitals: 0 to 2 in a restricted state, 0 or 1 per spin in an unrestricted one."""
        state, place, n = self._find(k)
        f = state.orbitals.f[place, :, :n].gather(-1, self._ascending(k))
        return 2 * f if len(f) == 1 else f

    def coefficients(self, k: int = 0) -> Float[Tensor, "spin orbital level"]:
        """Orbital coefficients of molecule k; columns are orbitals."""
        state, place, n = self._find(k)
        C = state.orbitals.C[place, :, :n, :n]
        return C.gather(-1, self._ascending(k)[:, None].expand_as(C))

    def homo_lumo(self, k: int = 0) -> tuple[float, float]:
        """Highest occupied and lowest empty level over both spins, eV; infinite where there is none."""
        eps, f = self.orbital_energies(k), self.occupations(k)
        full = 2.0 / len(f)
        below, above = eps[f > 0], eps[f < full]
        highest = float(below.detach().max()) if len(below) else -torch.inf
        return highest, float(above.detach().min()) if len(above) else torch.inf

    def bond_orders(self, k: int = 0) -> Float[Tensor, "atom atom"]:
        """Mayer bond orders of molecule k, 2 sum_spin D_ij^2 summed over the orbitals of two atoms (the overlap is the unit
        matrix, so a closed shell gives Wiberg's). Diagonal: the valence of each atom.  Wiberg, Tetrahedron 24, 1083 (1968);
        Mayer, CPL 97, 270 (1983)
        """
        state, place, n = self._find(k)
        D = self.density(k)
        lay = state.problem.layout
        owner = lay.owner[place, :n] - int((lay.molecule < place).sum())
        atoms = self.molecules.sizes[k]
        member = (owner[:, None] == torch.arange(atoms, device=owner.device)).to(D.dtype)
        orders = member.T @ (4.0 / len(D) * D.square().sum(0)) @ member
        return orders - torch.diag(orders.diagonal()) + torch.diag((orders - torch.diag(orders.diagonal())).sum(1))

    def _ascending(self, k):
        """Order of the levels by energy: the orbitals of an excited state are made occupied before empty."""
        state, place, n = self._find(k)
        return state.orbitals.eps[place, :, :n].argsort(dim=-1, stable=True)

    def _find(self, k):
        for state in self.states:
            if k in state.index:
                place = state.index.index(k)
                return state, place, int(state.problem.layout.orbitals[place])
        raise IndexError(f"There is no molecule {k}: the batch has {len(self.molecules)}.")


def routes(state: State) -> list[str]:
    """How each molecule of a state converged, in words."""
    names = {"diis": "DIIS, Newton", "ediis": "DIIS, Newton; energy-DIIS with level shift and damping, Newton",
             "smearing": "DIIS, Newton; energy-DIIS with level shift and damping, Newton; annealed smearing, Newton"}
    return [names[RUNGS[r]] + (f"; left an instability, {fall:.4f} eV lower" if fall > 0 else "")
            for r, fall in zip(state.solution.rung.tolist(), state.lowered.tolist(), strict=True)]


PER_ATOM = ("forces", "charges", "spin_populations")
PER_SITE = ("point_charge_forces",)


def merged(method: str, constants: Constants, molecules: Molecules, parts: list[tuple[list, State, dict]],
           point_charges: PointCharges | None = None) -> Result:
    """The result of all molecules, in the order of the input, from groups: (their indices, state, quantities by name)."""
    indices = [k for index, _, _ in parts for k in index]
    order, atoms = torch.tensor(indices).argsort(), _places(molecules.sizes, indices)
    places = dict.fromkeys(PER_ATOM, atoms)
    if point_charges is not None:
        places |= dict.fromkeys(PER_SITE, _places(point_charges.sizes(len(molecules)), indices))

    def join(values, index):
        if len(values) == 1 or values[0] is None:
            return values[0]
        return torch.cat(values).index_select(0, index.to(values[0].device))

    first = parts[0][2]
    found = {name: join([q[name] for _, _, q in parts], places.get(name, order)) for name in first if name != "energies"}
    energies = {name: join([q["energies"][name] for _, _, q in parts], order) for name in first["energies"]}
    scf = {name: join([getattr(state.solution, name) for _, state, _ in parts], order)
           for name in ("converged", "residual", "iterations")}
    route = [r for _, state, _ in parts for r in routes(state)]
    faults = [fault for _, state, _ in parts for fault in state.implausible or [""] * len(state.index)]
    return Result(molecules=molecules, method=method, constants=constants, energies=energies, **found, **scf,
                  route=[route[k] for k in order.tolist()], states=[state for _, state, _ in parts],
                  implausible=[faults[k] for k in order.tolist()])


def _places(sizes, indices):
    """Where the members of molecules 0, 1, ... of these sizes lie in the molecules `indices`, one after another."""
    start = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return torch.cat([torch.arange(start[k], start[k + 1]) for k in indices]).argsort()


def refuse_unconverged(result: Result, tolerance: float, max_steps: int) -> None:
    """Raise ImplausibleState if any molecule is in no molecule's state, SCFNotConverged if any did not converge."""
    for k, fault in enumerate(result.implausible):
        if fault:
            raise implausible_state(result, k)
    bad = (~result.converged).nonzero()[:, 0].tolist()
    if bad:
        k, count = bad[0], len(result.molecules)
        which = "The SCF" if count == 1 else f"The SCF of {len(bad)} of {count} molecules"
        raise SCFNotConverged(f"{which} did not converge: {'it' if count == 1 else f'molecule {k}'} stopped after "
                              f"{int(result.iterations[k])} iterations (limit {max_steps}) at a commutator of "
                              f"{float(result.residual[k]):.1e} eV (tolerance {tolerance:.0e}). Check geometry, charge and "
                              "multiplicity, raise max_steps, or try unrestricted=True.")


def implausible_state(result: Result, k: int) -> ImplausibleState:
    """The error for molecule k, whose state is none of a molecule."""
    return ImplausibleState(f"The state found is none of a molecule: {result.implausible[k]}. {advice(result.method)}")
