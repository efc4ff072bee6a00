"""The Hamiltonian as a torch module: molecules in, energies and properties out.

    species -> topology;  tables, shifted by a network if there is one -> parameters;  positions, parameters -> integrals
    density = fixed point of the integrals;  energy(integrals, density) -> everything else by differentiation

Without a network the parameters are the published tables. They do not ask for gradients by default; `requires_grad_(True)`
puts the energy on their tape. Molecules of a batch are solved together in buckets of similar size and equal number of spin
channels.
"""

from collections import OrderedDict
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.common.devices import check_conversion, check_plain, usable
from nddo_ml.common.struct import Lock, in_turn, ordinary, outside_inference, tensor_map
from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.hamiltonian import faults, weights
from nddo_ml.hamiltonian.plausibility import implausible
from nddo_ml.hamiltonian.results import PER_ATOM, PER_SITE, Result, State, merged, refuse_faulty, refuse_unconverged
from nddo_ml.hamiltonian.shifted import parent, shifted
from nddo_ml.hamiltonian.states import buckets, channels, electrons, start_density, suspicious
from nddo_ml.integrals.assembly import Topology, assemble, distances, spread, topology
from nddo_ml.integrals.corrections import GROUPS, corrections
from nddo_ml.integrals.multipole import atom_integrals
from nddo_ml.integrals.nuclear import pair_values
from nddo_ml.integrals.parameters import PARAMETER_NAMES, AtomParameters, PairParameters, gather
from nddo_ml.methods import Method
from nddo_ml.methods import method as find_method
from nddo_ml.molecules import Molecules, PointCharges, check, check_charges
from nddo_ml.properties.populations import populations
from nddo_ml.scf import half_electron, response
from nddo_ml.scf.density import aufbau
from nddo_ml.scf.fock import electronic_energy, fock, kernel, one_electron
from nddo_ml.scf.options import SCF
from nddo_ml.scf.orders import Order, advanced, entered
from nddo_ml.scf.solve import problem, solve
from nddo_ml.scf.stability import lower, two_channels
from nddo_ml.scf.zero_modes import free_axes

REMEMBERED_PAIRS = 500_000   # of the topologies kept


@dataclass(frozen=True)
class Options:
    """How a state is found and what is made of it; see Hamiltonian.forward."""

    scf: SCF
    forces: bool
    order: int
    response_tolerance: float

    def __post_init__(self):
        if self.order not in (1, 2, 3):
            raise UnknownOption(f"order={self.order!r}: derivatives are exact to order 1, 2 or 3.")
        if not self.response_tolerance > 0:
            raise UnknownOption(f"response_tolerance={self.response_tolerance!r}: it must be positive.")


class Hamiltonian(nn.Module):
    """An NDDO Hamiltonian: `Hamiltonian("PM6")(molecules)` returns a Result.

    method: a name from `nddo_ml.methods()`, that of a learned method or its file, or a Method; UnknownOption for any other.
    network: shifts the parameters of this parent from the geometry (nddo_ml.networks). dispersion: a correction term added to
    the energy, DispersionD3BJ for one; it is refused where the method has its own (UnknownOption). A learned method comes with
    both; a network given beside it takes its weights (IncompatibleFile where they do not fit). load=False: nothing is read from
    the file of a learned method, network and dispersion are what is given.
    Parameters: one tensor per column of the method's table (a value per species), alpha_AB and x_AB of its pairs, and those of
    the network. `atom_offsets` (eV, one per row of the table, 0 for published methods) are added for each atom: they bring the
    energies of a trained model to the zero of its reference. `atom_energies` (eV, NaN where unknown): of the free atoms at the
    level it was trained on. `remembered`: how many topologies are kept, so that a moving molecule pays for its indices once.

    Parameters may be changed in any way, `.data` included: their values are compared before each calculation. It always works
    in float64. Several threads may use one Hamiltonian as long as none changes its parameters.
    """

    remembered = 16

    @outside_inference
    def __init__(self, method: str | Method = "PM6", network: nn.Module | None = None, dispersion=None, device=None,
                 load: bool = True):
        super().__init__()
        device, given = usable(device), network
        self.method = find_method(method)
        learned = self.method.card is not None and load
        if learned:
            described, its_dispersion = weights.parts(self.method.card)
            network = described if given is None else given
            if dispersion not in (None, its_dispersion):
                raise UnknownOption(f"{self.method.name} was trained with dispersion = {its_dispersion}; given: {dispersion}. "
                                    "Leave it out, or take load=False.")
            dispersion = its_dispersion
        if network is not None and not isinstance(network, nn.Module):
            raise UnknownOption(f"network={network!r} is no torch module: make one with nddo_ml.networks.build, or give a file "
                                "of weights as the method (docs/extending.md).")
        if network is not None and any(t.is_inference() for t in (*network.parameters(), *network.buffers())):
            raise UnknownOption("The network was made inside torch.inference_mode: its weights can never be trained. Make it "
                                "outside.")
        self.network, self.dispersion = network, dispersion
        self.terms = {**self.method.terms}
        if dispersion is not None:
            if any(GROUPS[name] == "dispersion" for name in self.terms):
                raise UnknownOption(f"{self.method.name} has dispersion of its own: take its base method as parent, or "
                                    "dispersion=None.")
            self.terms["dispersion_d3bj"] = dispersion
        for name in PARAMETER_NAMES:
            self.register_parameter(name, nn.Parameter(getattr(self.method.parameters, name).clone(), requires_grad=False))
        self.alpha_AB = nn.Parameter(self.method.pairs.alpha.clone(), requires_grad=False)
        self.x_AB = nn.Parameter(self.method.pairs.x.clone(), requires_grad=False)
        self.register_buffer("pair_index", self.method.pairs.index, persistent=False)
        self.register_buffer("atom_offsets", torch.zeros_like(self.method.parameters.U_ss))
        self.register_buffer("atom_energies", torch.full_like(self.method.parameters.U_ss, torch.nan))
        if learned:
            weights.fill(self, self.method.card, given is not None)
        self._topologies: OrderedDict = OrderedDict()
        self._derived = self._seen = None
        self._lock = Lock()
        self.to(device)

    @outside_inference
    def forward(self, molecules: Molecules, *, forces: bool = False, unrestricted: bool | None = SCF.unrestricted,
                guess: Result | None = None, field: Float[Tensor, "molecule 3"] | None = None,
                point_charges: PointCharges | None = None, order: int = 1, tolerance: float = SCF.tolerance,
                max_steps: int = SCF.max_steps, stability: bool | None = SCF.stability, biradical: bool = SCF.biradical,
                raise_unconverged: bool | None = None, response_tolerance: float = response.TOLERANCE) -> Result:
        """Energies and properties of molecules.

        forces: also -dE/dR, on the atoms and on the point charges.
        unrestricted: None: alpha and beta orbitals apart for open shells only; True: always (a singlet starts with broken
            symmetry); False: never, open shells are half-electron states.
        guess: an earlier result of the same molecules to start from.
        field: uniform electric field, V/angstrom.
        point_charges: charges around the molecules (integrals/external.py); the energy holds their interaction with the
            molecule, not that among themselves.
        order: how often the results may be differentiated, by positions, field, point charges and parameters that require
            gradients. 1: the energy, once, at no cost; 2 and 3: through the response of the density, forces, charges, dipoles
            and orbital energies then once less. What goes beyond raises UnknownOption in the backward pass.
        tolerance: largest commutator element, eV. max_steps: SCF iterations.
        stability: True: look for a lower state, a broken spin symmetry included, and return it; None: only for a lower one of
            the same kind, where it is to be feared or looking costs next to nothing (states.suspicious); False: never. What is
            found unstable and cannot be left is not converged.
        biradical: singlets are open shells of two half-filled orbitals (half-electron, lowest root of their configuration
            interaction) instead of closed shells.
        raise_unconverged: None: a single molecule raises SCFNotConverged, a member of a batch is flagged and its energy NaN.
        response_tolerance: relative residual of the response equations behind orders 2 and 3.

        A parameter, or a shift of the network, that is not finite or absurd (faults.py) makes the molecules that need it NaN:
        `route` names it, and so does a warning; where unconverged ones raise, InvalidParameter is raised. The others of a batch
        stay as they are. Inside torch.inference_mode all works as under torch.no_grad, forces included.

        Raises InvalidMolecule, InvalidParameter, MissingParameter, SCFNotConverged, UnknownOption; of a learned method
        ImplausibleState (plausibility.py), as SCFNotConverged.
        """
        check_plain((molecules, field, point_charges), self.parameters())
        check(molecules)
        molecules = molecules.to(self.U_ss.device)
        options = Options(SCF(unrestricted, tolerance, max_steps, stability, biradical), forces, order, response_tolerance)
        field = None if field is None else _checked_field(field, molecules)
        if point_charges is not None:
            check_charges(point_charges, molecules)
            point_charges = point_charges.to(molecules.positions.device)
        spins = channels(molecules, unrestricted)
        parts = []
        for index in buckets(self.method, molecules, spins):
            part = molecules if len(index) == len(molecules) else molecules.select(index)
            here = None if field is None else field[index]
            sites = point_charges if point_charges is None or part is molecules else point_charges.select(index)
            parts.append((index, *self._solve(part, index, len(molecules) > 1, spins[index[0]], guess, here, sites, options)))
        result = merged(self.method.name, self.method.constants, molecules, parts, point_charges)
        raising = len(molecules) == 1 if raise_unconverged is None else raise_unconverged
        refuse_faulty(result, raising)
        if raising:
            refuse_unconverged(result, tolerance, max_steps)
        return result

    def _apply(self, fn, recurse=True):
        """What .to(), .cuda(), .float() and the like call: only what keeps double precision, on a device that exists."""
        check_conversion(fn, f"The Hamiltonian {self.method.name}")
        with ordinary():
            return super()._apply(fn, recurse)

    def records(self) -> tuple[AtomParameters, PairParameters]:
        """The module's parameters as records, one entry per row of the table; published values in place of those that cannot be
        used (faults.py)."""
        columns = faults.sound(self._columns(), self.method, self._tables().bad)
        return (AtomParameters(*[columns[f.name] for f in fields(AtomParameters)]),
                PairParameters(columns["alpha_AB"], columns["x_AB"], self.pair_index))

    def parameters_of(self, top: Topology):
        """Parameters of a batch, from the tables alone: Parameters where they are used, or the Parent a network will shift."""
        P, pairs = self.records()
        A, P, pairs = gather(self._rows(P), top.rows), gather(P, top.rows), pair_values(pairs, top.rules)
        return spread(top, A, P, pairs) if self.network is None else parent(P, A, pairs)

    def _taped(self):
        """Whether any parameter is on a tape."""
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())

    def _table_taped(self):
        """Whether the parameters of the table are."""
        return torch.is_grad_enabled() and any(p.requires_grad for p in self._parameters.values())

    @property
    def has_offsets(self) -> bool:
        """Whether any element has an offset: the energies are on the zero of a reference then."""
        return bool(self.atom_offsets.any())

    def _columns(self):
        """The parameters of the tables by name."""
        return {name: self._parameters[name] for name in (*PARAMETER_NAMES, "alpha_AB", "x_AB")}

    def _tables(self) -> faults.Tables:
        """What the tables hold now; the same object as long as nothing in them changes. `_seen` is what was found last."""
        self._seen = found = faults.tables(self._columns(), self.method, self._seen)
        return found

    def _rows(self, P):
        """Geometry-independent integrals of the table's rows; kept while the parameters stay as they are."""
        version = None if self._table_taped() else self._tables()
        if version is None or self._derived is None or self._derived[0] is not version:
            elements = tensor_map(lambda t: t.to(P.U_ss.device), self.method.elements)
            A = atom_integrals(P, elements, self.method.constants)
            if version is None:
                return A
            self._derived = version, A
        return self._derived[1]

    @in_turn
    def _topology(self, molecules):
        """Topology and parameters of molecules, remembered by species while nothing asks for gradients."""
        key = (*(t.cpu().numpy().tobytes() for t in (molecules.numbers, molecules.molecule)), str(molecules.numbers.device))
        found = self._topologies.pop(key, None) or {"top": topology(self.method, molecules)}
        self._topologies[key] = found
        pairs = sum(len(kept["top"].i) for kept in self._topologies.values())
        while len(self._topologies) > 1 and (len(self._topologies) > self.remembered or pairs > REMEMBERED_PAIRS):
            pairs -= len(self._topologies.popitem(last=False)[1]["top"].i)
        if self._table_taped():
            return found["top"], self.parameters_of(found["top"])
        version = self._tables()
        if found.get("version") is not version:
            with torch.no_grad():
                found["parameters"], found["version"] = self.parameters_of(found["top"]), version
        return found["top"], found["parameters"]

    def _solve(self, molecules, index, several, spins, earlier, field, sites, options):
        """One bucket, the molecules `index` of the batch: its state, and all quantities by name."""
        positions, constants = molecules.positions, self.method.constants
        outside = ([] if field is None else [field]) + ([] if sites is None else [sites.positions, sites.charges, sites.rho])
        wanted = positions.requires_grad or any(t.requires_grad for t in outside)
        taped = self._taped() or (wanted and torch.is_grad_enabled())
        if options.forces and not positions.requires_grad:
            positions = positions.detach().requires_grad_()
        if options.forces and sites is not None and not sites.positions.requires_grad:
            sites = sites.with_positions(sites.positions.detach().requires_grad_())
        top, p = self._topology(molecules)
        counted, moved = Order(options.order), (positions,) if sites is None else (positions, sites.positions)
        alpha, beta = electrons(molecules, top, index, options.scf.biradical and spins == 1)
        with torch.set_grad_enabled(taped or options.forces):
            if taped:
                positions, field, sites = tensor_map(lambda t: entered(t, counted), (positions, field, sites))
            R, u = distances(top, positions, index if several else None)
            shifts, faulty = self._shifts(top, molecules, R, u)
            refused = {**faulty, **faults.of_tables(self.method, top, self._columns(), self._seen.bad)}
            p = p if shifts is None else shifted(top, p, shifts, constants)
            p = tensor_map(lambda t: entered(t, counted), p) if taped else p
            integrals = assemble(self.method, top, positions, R, u, p, field, sites, index if several else None)
            task = problem(top.layout, integrals, aufbau(alpha, beta, spins, top.layout.size))
            start, followed = start_density(top, alpha, beta, spins, earlier, index)
            solution = solve(task, start, options.scf.tolerance, options.scf.max_steps)
            none = torch.zeros_like(solution.energy)
            state = _settled(State(index, task, solution, none, none), top, molecules, followed, options.scf)
            state = state.without(refused)
            electronic, D = _electronic(top, integrals, state, molecules, options.order, options.response_tolerance)
            if taped:
                state = replace(state, tape=None if options.order == 1 else (integrals, D, counted), shifts=shifts)
            parts = {"electronic": electronic, "core_core": integrals.core,
                     **corrections(self.terms, top.composition, positions, R, constants),
                     **self._atomic(top, molecules, shifts)}
            with torch.set_grad_enabled(taped and options.order > 1):  # at fixed density their derivatives would be wrong
                found = populations(top, D, molecules.with_positions(positions), p.A, constants.bohr)
                found = tensor_map(lambda t: advanced(t, counted), found)
            state = self._judged(state, top, molecules, R, p.A.core, found["charges"], index if several else None)
            energy = sum(parts.values())
            state = state.without(_not_finite(parts, state.solution.converged))
            converged = state.solution.converged
            forces = on_charges = None
            if options.forces:
                forces, *rest = _forces(torch.where(converged, energy, 0.0), moved, taped and options.order > 1, taped)
                on_charges = rest[0] if rest else None
        energy = torch.where(converged, energy, torch.nan)
        found = {"forces": forces, "point_charge_forces": on_charges,
                 "heat_of_formation": self._heat(top, molecules, p, energy),
                 "atomization_energy": self._atomization(top, molecules, energy), **found}
        if not bool(converged.all()):
            of_atoms = converged.index_select(0, molecules.molecule)
            of_sites = None if sites is None else converged.index_select(0, sites.molecule)
            found = {name: _valid(value, of_atoms if name in PER_ATOM else of_sites if name in PER_SITE else converged)
                     for name, value in found.items()}
        if state.refused:
            parts = {name: _valid(value, state.accepted) for name, value in parts.items()}
        found |= {"energy": energy, "energies": parts}
        return state, found if taped else tensor_map(torch.Tensor.detach, found)

    def _shifts(self, top, molecules, R, u):
        """What the network says, and of which molecules it says nothing that can be used: those shifts are zero."""
        if self.network is None:
            return None, {}
        shifts = self.network(molecules.numbers, top.i, top.j, R, u)
        refused = faults.of_shifts(top, shifts)
        if refused:     # asked again with their atoms apart: an overflow would end in every gradient of the weights
            bad = torch.tensor([k in refused for k in range(len(molecules))], device=R.device)
            shifts = self.network(molecules.numbers, top.i, top.j, torch.where(bad[top.molecule], faults.FAR, R), u)
            shifts = faults.without(shifts, top, bad)
        return shifts, refused

    def _judged(self, state, top, molecules, R, core, charges, names):
        """The state; of a learned Hamiltonian with what is implausible about it, its members then not converged."""
        if self.network is None and self.method.card is None:
            return state
        converged = state.solution.converged
        found = implausible(top, molecules, R.detach(), core.detach(), charges.detach(), names)
        found = [fault if done else "" for fault, done in zip(found, converged.tolist(), strict=True)]
        good = converged & torch.tensor([not fault for fault in found], device=R.device)
        return replace(state, implausible=found, solution=replace(state.solution, converged=good)) if any(found) else state

    def _atomic(self, top, molecules, shifts):
        """Energies that are sums over atoms: of a Hamiltonian with offsets or a network the offsets, and what the network adds,
        eV."""
        if not self._learned:
            return {}
        zero = self.atom_offsets.new_zeros(len(molecules))
        parts = {"atoms": zero.index_add(0, molecules.molecule, self.atom_offsets.index_select(0, top.rows))}
        local = None if shifts is None else shifts.local
        return parts if local is None else parts | {"local": zero.index_add(0, molecules.molecule, local)}

    @property
    def _learned(self):
        """Whether the energies are those of a reference rather than a published method's."""
        return self.network is not None or self.has_offsets

    def _atomization(self, top, molecules, energy):
        """Energy of the free atoms less that of the molecule, eV, at the level the Hamiltonian was trained on; NaN where
        unknown."""
        if not self._learned:
            return torch.full_like(energy, torch.nan)
        return (-energy).index_add(0, molecules.molecule, self.atom_energies.index_select(0, top.rows))

    def _heat(self, top, molecules, p, energy):
        """Heat of formation at 298 K, kcal/mol; NaN with a network or offsets, whose energies hold no thermal motion."""
        if self._learned:
            return torch.full_like(energy, torch.nan)
        kcal_mol = self.method.constants.kcal_mol
        return (kcal_mol * energy).index_add(0, molecules.molecule, top.elements.EHEAT - kcal_mol * p.A.EISOL)


def _checked_field(field, molecules):
    """The field on the molecules' device, if it has a finite vector for each of them (InvalidMolecule)."""
    if tuple(field.shape) != (len(molecules), 3) or not bool(torch.isfinite(field.detach()).all()):
        raise InvalidMolecule(f"The field has shape {tuple(field.shape)}: expected {(len(molecules), 3)}, finite, in "
                              "V/angstrom.")
    return field.to(molecules.positions.device)


def _not_finite(parts, converged):
    """Which molecules have an energy that is none although their SCF converged, and the part of it that is to blame."""
    lost = converged & ~torch.isfinite(torch.stack(list(parts.values())).detach()).all(0)
    return {k: "not finite: the energy's part " + ", ".join(n for n, v in parts.items() if not bool(torch.isfinite(v[k])))
            for k in lost.nonzero()[:, 0].tolist()}


def _valid(values, converged):
    """NaN for what did not converge."""
    return None if values is None else torch.where(converged.view(-1, *[1] * (values.dim() - 1)), values, torch.nan)


def _forces(energy, moved, differentiable, keep):
    """-dE/dR of the molecules together, for each tensor of positions; a free atom's energy does not know its position."""
    total = energy.sum() + sum(0.0 * positions.sum() for positions in moved)
    return [-g for g in torch.autograd.grad(total, moved, create_graph=differentiable, retain_graph=keep)]


def _electronic(top, integrals, state, molecules, order, tolerance):
    """Electronic energy of a bucket, differentiable `order` times, and the density that its populations come from."""
    lay, D, f = top.layout, state.solution.D, state.problem.occupations
    open_shell = bool(((f > 0) & (f < 1)).any())
    if order == 1 and not open_shell:
        return electronic_energy(lay, integrals, D), D
    ref = response.reference(lay, state.problem.integrals, state.orbitals, D, state.solution.F, tolerance, free_axes(molecules))
    if not open_shell:
        return response.energy(ref, integrals, order)
    if order > 1:
        raise InvalidMolecule("Half-electron states have exact forces but no exact second derivatives here: use "
                              "unrestricted=True for an open shell, or differences of the forces.")
    two, c, moved = kernel(lay, integrals), half_electron.open_orbitals(state.orbitals), D
    if torch.is_grad_enabled():
        X = response.rotation(ref, integrals)[1]
        c, moved = half_electron.open_orbitals(state.orbitals, X[:, 0]), D + response.linear_change(ref, X)
    singlet = ((f > 0) & (f < 1)).any(-1)[:, 0] & (molecules.unpaired == 0)
    F = fock(lay, two, one_electron(lay, integrals), moved)[:, 0]
    energy, added = half_electron.correction(lay, two, c, F, singlet)
    return electronic_energy(lay, integrals, D) + energy, (D + added[:, None]).detach()


def _settled(state: State, top, molecules, followed, options: SCF) -> State:
    """The state, or a lower one where `options.stability` asks for it and there is one."""
    task, solution = state.problem, state.solution
    whole = bool(((task.occupations == 0) | (task.occupations == 1)).all())
    if options.stability and not whole:
        raise InvalidMolecule("The stability of half-electron states is not defined: use unrestricted=True.")
    if options.stability is False or not whole:
        return state
    doubted = solution.converged
    if options.stability is None:
        doubted = doubted & suspicious(top, molecules, solution.D.shape[1], solution.gap, followed)
    if not bool(doubted.any()):
        return state
    if options.stability and options.unrestricted is not False and task.occupations.shape[1] == 1:
        task, solution = two_channels(task, solution)
    found, lowered, trapped = lower(task, solution, options.tolerance, options.max_steps, doubted)
    changed = bool(((lowered > 0) | (trapped < 0)).any())
    return State(state.index, task, found, lowered, trapped) if changed else state
