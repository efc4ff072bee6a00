"""What a calculation returns: one typed record for a whole batch.

Per-molecule and per-atom quantities are tensors in the order of the input. Matrices (density, orbitals, bond orders) differ
in size from molecule to molecule and are made on request, for one molecule at a time.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.errors import ImplausibleState, InvalidParameter, SCFNotConverged
from nddo_ml.hamiltonian.plausibility import advice
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.scf.density import Orbitals
from nddo_ml.scf.fock import fock, kernel, one_electron
from nddo_ml.scf.orders import advanced
from nddo_ml.scf.solve import RUNGS, Problem, Solution, canonical
from nddo_ml.units import Constants

DEGENERATE = 1e-4   # eV


@dataclass(frozen=True, eq=False)
class State:
    """The self-consistent states of some molecules of a batch that were solved together; `index` says which, `lowered` by how
    much (eV) leaving an instability lowered the energy of each, `trapped` the negative eigenvalue (eV) of the orbital Hessian
    where one could not be left, 0 elsewhere; `tape`: integrals and density that carry derivatives, and their order; `shifts`:
    what a network said (networks.shifts), while it is on the tape; `refused`: why a molecule has no result although it was
    solved (with published parameters in place of bad ones), by its place; `implausible`: what is wrong with each ("" nothing;
    empty: not judged, or all well).
    """

    index: list
    problem: Problem
    solution: Solution
    lowered: Float[Tensor, "molecule"]
    trapped: Float[Tensor, "molecule"]
    tape: tuple | None = None
    shifts: object = None
    refused: Mapping[int, str] = field(default_factory=dict)
    implausible: list = field(default_factory=list)

    def without(self, refused: Mapping[int, str]) -> "State":
        """The state with these molecules refused too: they count as not converged."""
        if not refused:
            return self
        found = replace(self, refused={**refused, **self.refused})
        return replace(found, solution=replace(self.solution, converged=self.solution.converged & found.accepted))

    @property
    def accepted(self) -> Bool[Tensor, "molecule"]:
        """Which molecules are not refused."""
        converged = self.solution.converged
        return torch.tensor([k not in self.refused for k in range(len(converged))], device=converged.device)

    @cached_property
    def orbitals(self) -> Orbitals:
        """Canonical orbitals, made when first asked for."""
        return canonical(self.problem, self.solution)

    def levels(self) -> Float[Tensor, "molecule spin level"]:
        """Orbital energies, differentiable once less than the energy where the state is on a tape.

        eps_i = F_ii + sum_k dF_ik^2 / (eps_i - eps_k), F = C^T F(phi, D) C with constant orbitals, dF what is on the tape of
        it: perturbation theory to second order. Of levels closer than DEGENERATE only the sum has a derivative; pairs of them
        are left out of the second term.
        """
        if self.tape is None:
            return self.orbitals.eps
        integrals, D, order = self.tape
        lay, C, eps = self.problem.layout, self.orbitals.C, self.orbitals.eps
        F = C.mT @ fock(lay, kernel(lay, integrals), one_electron(lay, integrals), D) @ C
        found = F.diagonal(dim1=-2, dim2=-1)
        if order.order > 2:
            apart = eps[..., :, None] - eps[..., None, :]
            mixes = apart.abs() > DEGENERATE
            found = found + ((F - F.detach()).square() / torch.where(mixes, apart, torch.inf)).sum(-1)
        return advanced(found, order)


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
    found = [names[RUNGS[int(r)]] + (f"; left an instability, {fall:.4f} eV lower" if fall > 0 else "")
             + (f"; stopped on a saddle point, eigenvalue {trapped:.4f} eV" if trapped < 0 else "")
             for r, fall, trapped in torch.stack([state.solution.rung, state.lowered, state.trapped], 1).tolist()]
    return [f"refused: {state.refused[k]}" if k in state.refused else route for k, route in enumerate(found)]


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


def refuse_faulty(result: Result, raising: bool) -> None:
    """Say which molecules were refused for their parameters, and why: InvalidParameter, or a warning."""
    bad = {state.index[place]: why for state in result.states for place, why in state.refused.items()}
    if not bad:
        return
    count = len(result.molecules)
    text = "; ".join(f"{f'molecule {k}: ' if count > 1 else ''}{bad[k]}" for k in sorted(bad)[:3])
    text = (f"{result.method} cannot calculate {'this molecule' if count == 1 else f'{len(bad)} of {count} molecules'} "
            f"({text}{'; ...' if len(bad) > 3 else ''}). Parameters must be finite and of the published sign and size: put "
            "them right, or load the method anew.")
    if raising:
        raise InvalidParameter(text)
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def refuse_unconverged(result: Result, tolerance: float, max_steps: int) -> None:
    """Raise ImplausibleState if any molecule is in no molecule's state, SCFNotConverged if any did not converge."""
    for k, fault in enumerate(result.implausible):
        if fault:
            raise implausible_state(result, k)
    bad = (~result.converged).nonzero()[:, 0].tolist()
    if bad:
        k, count = bad[0], len(result.molecules)
        which = "The SCF" if count == 1 else f"The SCF of {len(bad)} of {count} molecules"
        raise SCFNotConverged(f"{which} did not converge: {'it' if count == 1 else f'molecule {k}'} "
                              f"{_where_it_stopped(result, k, tolerance, max_steps)}.")


def _where_it_stopped(result, k, tolerance, max_steps):
    """In words, and what to do about it."""
    state, place, _ = result._find(k)
    trapped, gap = float(state.trapped[place]), float(state.solution.gap[place])
    steps, residual = int(result.iterations[k]), float(result.residual[k])
    if residual > tolerance:
        return (f"stopped after {steps} iterations (limit {max_steps}) at a commutator of {residual:.1e} eV (tolerance "
                f"{tolerance:.0e}). Check geometry, charge and multiplicity, raise max_steps, or try unrestricted=True")
    found = (f"the orbital Hessian has an eigenvalue of {trapped:.2g} eV" if trapped < 0 else
             f"an empty level lies {-gap:.2g} eV below an occupied one")
    return (f"found only a saddle point in {steps} iterations: {found}, so a lower state exists that could not be reached. "
            "Check geometry, charge and multiplicity, or try unrestricted=True")


def implausible_state(result: Result, k: int) -> ImplausibleState:
    """The error for molecule k, whose state is none of a molecule."""
    return ImplausibleState(f"The state found is none of a molecule: {result.implausible[k]}. {advice(result.method)}")
