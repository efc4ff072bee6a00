"""The Hamiltonian as a torch module: molecules in, energies and properties out.

    species -> topology;  tables, shifted by a network if there is one -> parameters;  positions, parameters -> integrals
    density = fixed point of the integrals;  energy(integrals, density) -> everything else by differentiation

Without a network the parameters are the published tables. They do not ask for gradients by default; `requires_grad_(True)`
puts the energy on their tape. Molecules of a batch are solved together in buckets of similar size and equal number of spin
channels.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import reduce
from operator import itemgetter
from typing import Any, Unpack, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.common.devices import check_conversion, check_plain, usable
from nddo_ml.common.struct import ordinary, outside_inference
from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.hamiltonian import accounts, faults, shifted, starts, sweep, walk, weights
from nddo_ml.hamiltonian.buckets import Assembly, Bucket
from nddo_ml.hamiltonian.memory import Memory
from nddo_ml.hamiltonian.merging import Part, merged, reported
from nddo_ml.hamiltonian.results import Result
from nddo_ml.hamiltonian.shifted import Parent, Rows
from nddo_ml.hamiltonian.starts import HasDensity, Start
from nddo_ml.hamiltonian.tape import Tape, check_order, forces, movable
from nddo_ml.integrals.corrections import GROUPS
from nddo_ml.integrals.corrections.d3 import DispersionD3BJ
from nddo_ml.integrals.parameters import PARAMETER_NAMES, AtomParameters, PairParameters
from nddo_ml.integrals.placed import Parameters
from nddo_ml.integrals.topology import Topology
from nddo_ml.methods import Method
from nddo_ml.methods import method as find_method
from nddo_ml.molecules import NOTHING, Molecules, PointCharges, Surroundings, check, received
from nddo_ml.networks.shifts import Shifts
from nddo_ml.pairs import Distances
from nddo_ml.properties.populations import populations
from nddo_ml.scf.options import SCFKeywords, asked
from nddo_ml.scf.orders import Order
from nddo_ml.scf.problem import Problem

COLUMNS = (*PARAMETER_NAMES, "alpha_AB", "x_AB")        # of the tables
BESIDE = ("atom_offsets", "atom_energies")              # buffers with a value for each row, too
_parameters_of, _buffers_of = itemgetter(*COLUMNS), itemgetter(*BESIDE)


class Hamiltonian(nn.Module):
    """An NDDO Hamiltonian: `Hamiltonian("PM6")(molecules)` returns a Result.

    method: a name from `nddo_ml.methods()`, that of a learned method or its file, or a Method.
    network: shifts the parameters of this parent from the geometry (nddo_ml.networks).
    dispersion: a correction term added to the energy, DispersionD3BJ for one; not where the method has its own.
    load: False: nothing is read from the file of a learned method, network and dispersion are what is given.
    A learned method comes with both; a network given beside it takes its weights.

    Parameters: one tensor per column of the method's table (a value per species), alpha_AB and x_AB of its pairs, and those of
    the network. `atom_offsets` (eV, one per row of the table, 0 for published methods) are added for each atom: they bring the
    energies of a trained model to the zero of its reference. `atom_energies` (eV, NaN where unknown): of the free atoms at the
    level it was trained on. `remembered`: how many topologies are kept, so that a moving molecule pays for its indices once.

    Parameters may be changed in any way, `.data` included: their values are compared before each calculation. It always works
    in float64. Several threads may use one Hamiltonian as long as none changes its parameters.

    Raises:
        UnknownOption: there is no such method or device, or network and dispersion do not go with it.
        IncompatibleFile: a file of weights is none, or the network given does not fit it.
    """

    remembered = 16
    U_ss: nn.Parameter
    atom_offsets: Tensor
    atom_energies: Tensor
    pair_index: Tensor

    @outside_inference
    def __init__(self, method: str | Method = "PM6", network: nn.Module | None = None, dispersion: DispersionD3BJ | None = None,
                 device: str | torch.device | None = None, load: bool = True) -> None:
        super().__init__()
        device, given = usable(device), network
        self.method = find_method(method)
        learned = self.method.card if load else None
        if learned is not None:
            described, its_dispersion = weights.parts(learned)
            network = described if given is None else given
            if dispersion not in (None, its_dispersion):
                raise UnknownOption(f"{self.method.name} was trained with dispersion = {its_dispersion}; given: {dispersion}. "
                                    "Leave it out, or take load=False.")
            dispersion = its_dispersion
        if network is not None and not isinstance(network, nn.Module):     # pyright: ignore[reportUnnecessaryIsInstance]: a door
            raise UnknownOption(f"network={network!r} is no torch module: make one with nddo_ml.networks.build, or give a file "
                                "of weights as the method (docs/howto/extending.md).")
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
        if learned is not None:
            weights.fill(self, learned, given is not None)
        self.memory = Memory()
        self.to(device)

    @outside_inference
    def forward(self, molecules: Molecules, *, forces: bool = False, order: int = 1, guess: HasDensity | None = None,
                field: Float[Tensor, "molecule 3"] | None = None, point_charges: PointCharges | None = None,
                **scf: Unpack[SCFKeywords]) -> Result:
        """Energies and properties of molecules.

        forces: also -dE/dR, on the atoms and on the point charges.
        order: how often the results may be differentiated, by positions, field, point charges and parameters that require
            gradients. 1: the energy, once, at no cost; 2 and 3: through the response of the density, forces, charges, dipoles
            and orbital energies then once less. What goes beyond raises UnknownOption in the backward pass.
        guess: an earlier result of the same molecules to start from.
        field: uniform electric field, V/angstrom.
        point_charges: charges around the molecules (integrals/external.py); the energy holds their interaction with the
            molecule, not that among themselves.
        scf: how the state is looked for: unrestricted, tolerance, max_steps, stability, biradical, raise_unconverged and more,
            with their defaults in nddo_ml.scf.options.SCF.

        A parameter, or a shift of the network, that is not finite or absurd (faults.py) makes the molecules that need it NaN:
        `route` names it, and so does a warning; where unconverged ones raise, InvalidParameter is raised. The others of a batch
        stay as they are. Inside torch.inference_mode all works as under torch.no_grad, forces included.

        Raises:
            InvalidMolecule: the molecules, their charge, spin or surroundings are impossible.
            InvalidParameter: a parameter cannot be used.
            MissingParameter: the method lacks an element.
            SCFNotConverged: no self-consistent state was found; of a learned method ImplausibleState, where it was none that a
                molecule can be in (plausibility.py).
            UnknownOption: an option means nothing.
        """
        options = asked(scf)
        check_order(order)
        check_plain((molecules, field, point_charges), self.parameters())
        check(molecules)
        molecules = molecules.to(self.U_ss.device)
        surroundings = received(field, point_charges, molecules)
        channels, whole = starts.spin_channels(molecules, options.unrestricted), range(len(molecules))
        parts: list[Part] = []
        for index in starts.buckets(self.method, molecules, channels):
            alone = len(index) == len(whole)
            part, around = (molecules, surroundings) if alone else (molecules.select(index), surroundings.select(index))
            names = index if len(whole) > 1 else None
            bucket = Bucket(index, names, part, around, channels[index[0]], guess, options)
            parts.append(self._calculated(bucket, forces, order))
        return reported(merged(self.method, molecules, surroundings, parts), options)

    def _calculated(self, bucket: Bucket, with_forces: bool, order: int) -> Part:
        """The walk of molecules that are solved together."""
        scf, index = bucket.scf, bucket.index
        tables = self.table_taped()
        tape, live = Tape(tables or self._taped(bucket), with_forces, Order(order)), tables or self.network is not None
        if order == 1 and sweep.serves(self, bucket, tape, live):
            part = sweep.swept(self, bucket, tape, live)
            if part is not None:
                return part
        given, around = bucket.molecules, bucket.surroundings
        leaf, leaf_around = movable(given, around) if with_forces else (given, around)
        with tape.recording():
            molecules, surroundings = tape.enter(leaf), tape.enter(leaf_around)
            made = self.assembled(molecules, surroundings, names=bucket.names, enter=tape.enter)
            topology = made.topology
            electrons = walk.electrons(topology, molecules, bucket.channels, scf.biradical, index)
            problem = walk.problem(topology, made.integrals, electrons)
            start = starts.earlier(topology, bucket.channels, bucket.guess, index)
            state = replace(walk.state(topology, molecules, problem, scf, start), index=index).without(made.faults)
            electronic, density = walk.energy(molecules, made.integrals, state, order, scf.response_tolerance)
            if tape.on:
                state = replace(state, tape=None if order == 1 else (made.integrals, density, tape.order), shifts=made.shifts)
            parts = {"electronic": electronic, **self.other_parts(made, molecules)}
            with tape.responding():
                held = populations(topology, density, molecules, made.parameters.atoms)
            held = tape.advance(held)
            if self.judges:
                own = made.parameters.atoms.core, held["charges"]
                state = accounts.judged(state, molecules, topology, made.distances.R, own, bucket.names)
            state = state.without(accounts.not_finite(parts, state.solution.converged))
            energy, converged = reduce(torch.add, parts.values()), state.solution.converged
            on_atoms = on_charges = None
            if with_forces:
                on_atoms, on_charges = forces(torch.where(converged, energy, 0.0), leaf, leaf_around.charges, tape)
        energy, learned = torch.where(converged, energy, torch.nan), self.learned
        quantities = {"energy": energy, "forces": on_atoms, "point_charge_forces": on_charges,
                      "free_atoms": self.free_atoms(topology, made.parameters, learned), **held}
        return Part(index, state, *tape.leave((quantities, parts)), learned).valid(molecules, surroundings)

    @outside_inference
    def assembled(self, molecules: Molecules, surroundings: Surroundings = NOTHING, names: list[int] | None = None,
                  enter: Callable[[Any], Any] | None = None) -> Assembly:
        """The integrals of molecules in matrices of one size, and what they are made from, on the tape of all that.

        names: what errors call the molecules, None: a single one. enter: applied to the parameters before they are used.
        """
        version = self.version()
        topology, gathered = self.gathered(molecules, version)
        distances = walk.distances(topology, molecules.positions, names)
        shifts, refused = self.shifts(topology, molecules, distances)
        refused = {**refused, **self.refused(topology, version)}
        parameters = shifted.shifted(topology, gathered, shifts) if isinstance(gathered, Parent) else gathered
        parameters = parameters if enter is None else enter(parameters)
        integrals = walk.integrals(topology, molecules.positions, distances, parameters, surroundings, names)
        return Assembly(topology, distances, shifts, parameters, integrals, refused)

    @outside_inference
    def problem(self, molecules: Molecules, unrestricted: bool | None = None) -> tuple[Problem, Start, dict[str, Tensor]]:
        """The self-consistent field of molecules in matrices of one size, off the tape: the problem, where to start from, and
        the energies that do not depend on the density by name, eV.

        Raises:
            InvalidMolecule: the molecules need different numbers of spin channels.
        """
        check(molecules)
        molecules = molecules.to(self.U_ss.device)
        channels = set(starts.spin_channels(molecules, unrestricted))
        if len(channels) > 1:
            raise InvalidMolecule("Closed and open shells together are several problems: ask for one kind at a time, or take "
                                  "unrestricted=True.")
        with torch.no_grad():
            made = self.assembled(molecules, names=list(range(len(molecules))))
            electrons = walk.electrons(made.topology, molecules, channels.pop())
            return (walk.problem(made.topology, made.integrals, electrons), starts.neutral_atoms(made.topology, electrons),
                    self.other_parts(made, molecules))

    @outside_inference
    def rows(self) -> Rows:
        """What the Hamiltonian's tables hold of every species, on the tape of its parameters; published values in place of
        those that cannot be used (faults.py)."""
        version = self.version()
        columns = faults.sound(self._columns(), self.method, version.bad)
        fitted = AtomParameters(**{field.name: columns[field.name] for field in fields(AtomParameters)})
        pairs = PairParameters(columns["alpha_AB"], columns["x_AB"], self.pair_index)

        def make() -> Rows:
            return walk.rows(self.method, fitted, pairs)

        return make() if self.table_taped() else replace(self.memory.rows(version, make), fitted=fitted, pairs=pairs)

    @outside_inference
    def version(self) -> faults.Tables:
        """What the tables and the buffers hold now; the same object as long as nothing in them changes."""
        columns = *_parameters_of(self._parameters), *_buffers_of(self._buffers)
        return self.memory.version(columns, COLUMNS, self.method)

    def refused(self, topology: Topology, version: faults.Tables) -> dict[int, str]:
        """Which molecules, by their place, need values of the tables that cannot be used, and which values."""
        return faults.of_tables(self.method, topology, self._columns(), version.bad) if version.bad else {}

    @property
    def has_offsets(self) -> bool:
        """Whether any element has an offset: the energies are on the zero of a reference then."""
        return bool(self.atom_offsets.detach().cpu().numpy().any())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Hamiltonian":
        """What .to(), .cuda(), .float() and the like call: only what keeps double precision, on a device that exists."""
        check_conversion(fn, f"The Hamiltonian {self.method.name}")
        with ordinary():
            return super()._apply(fn, recurse)

    def _columns(self) -> dict[str, Tensor]:
        """The parameters of the tables by name."""
        held = cast(dict[str, Tensor], self._parameters)       # while torch.func.functional_call replaces them, plain tensors
        return {name: held[name] for name in COLUMNS}

    def _taped(self, bucket: Bucket) -> bool:
        """Whether anything that a calculation is made from, but for the tables, is on a tape."""
        if not torch.is_grad_enabled():
            return False
        learned = () if self.network is None else self.network.parameters()
        given = (bucket.molecules.positions, *bucket.surroundings.tensors(), *learned)
        return True in [tensor.requires_grad for tensor in given]

    def table_taped(self) -> bool:
        """Whether the parameters of the table are on a tape."""
        return torch.is_grad_enabled() and True in [column.requires_grad for column in _parameters_of(self._parameters)]

    def gathered(self, molecules: Molecules, version: faults.Tables) -> tuple[Topology, Parameters | Parent]:
        """The topology of molecules and their parameters from the tables alone: Parameters where they are used, or the Parent
        that a network will shift. Remembered by species; parameters only while nothing asks for gradients of the tables."""
        kept = self.memory.topology(molecules, self.remembered, lambda: walk.topology(self.method, molecules))

        def make() -> Parameters | Parent:
            gathered = shifted.parent(kept.topology, self.rows())
            return shifted.shifted(kept.topology, gathered, None) if self.network is None else gathered

        if self.table_taped():
            return kept.topology, make()
        return kept.topology, self.memory.kept(kept, version, "gathered", make)

    def shifts(self, topology: Topology, molecules: Molecules, distances: Distances) -> tuple[Shifts | None, dict[int, str]]:
        """What the network says, and of which molecules it says nothing that can be used: those shifts are zero."""
        if self.network is None:
            return None, {}
        numbers, i, j, R, u = molecules.numbers, topology.i, topology.j, distances.R, distances.u
        shifts = self.network(numbers, i, j, R, u)
        refused = faults.of_shifts(topology, shifts)
        if refused:     # asked again with their atoms apart: an overflow would end in every gradient of the weights
            bad = torch.tensor([k in refused for k in range(len(molecules))], device=R.device)
            shifts = self.network(numbers, i, j, torch.where(bad[topology.molecule], faults.FAR, R), u)
            shifts = faults.without(shifts, topology, bad)
        return shifts, refused

    @property
    def judges(self) -> bool:
        """Whether states are looked at for what no molecule does (plausibility.py): those of learned Hamiltonians."""
        return self.network is not None or self.method.card is not None

    @property
    def learned(self) -> bool:
        """Whether the energies are those of a reference rather than a published method's."""
        return self.network is not None or self.has_offsets

    def other_parts(self, made: Assembly, molecules: Molecules) -> dict[str, Tensor]:
        """The energies that do not depend on the density by name, eV: of the cores, the corrections, and of a Hamiltonian with
        offsets or a network the offsets and what the network adds to each atom."""
        parts = walk.parts(made.topology, molecules.positions, made.distances, made.integrals, self.terms)
        return parts | self.reference_parts(made.topology, molecules, made.shifts) if self.learned else parts

    def reference_parts(self, topology: Topology, molecules: Molecules, shifts: Shifts | None) -> dict[str, Tensor]:
        """The offsets of the atoms and what a network adds to each of them, summed over molecules, eV."""
        zero, owner = self.atom_offsets.new_zeros(len(molecules)), molecules.molecule
        parts = {"atoms": zero.index_add(0, owner, self.atom_offsets.index_select(0, topology.rows))}
        local = None if shifts is None else shifts.local
        return parts if local is None else parts | {"local": zero.index_add(0, owner, local)}

    def free_atoms(self, topology: Topology, parameters: Parameters, learned: bool) -> Float[Tensor, "molecule"]:
        """What the energy of each molecule is compared with (Result.free_atoms): the heats of its free atoms less their
        energies, kcal/mol, or of a `learned` method their energies at the level that it was trained on, eV."""
        if learned:
            free = self.atom_energies.index_select(0, topology.rows)
        else:
            free = torch.sub(topology.elements.EHEAT, parameters.atoms.EISOL, alpha=self.method.constants.kcal_mol)
        return free.new_zeros(topology.layout.molecules).index_add(0, topology.layout.molecule, free)
