"""The Hamiltonian as a torch module: molecules in, energies and properties out.

    species -> topology;  tables (+ networks) -> parameters;  positions, parameters -> integrals
    density = fixed point of the integrals;  energy(integrals, density) -> everything else by differentiation

The parameters are the published tables. They do not ask for gradients by default; `requires_grad_(True)` puts the energy on their
tape. Molecules of a batch are solved together in buckets of similar size and equal number of spin channels.
"""

from collections import OrderedDict
from dataclasses import fields

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.elements import masses
from nddo_ml.errors import InvalidMolecule, SCFNotConverged
from nddo_ml.integrals.assembly import Parameters, Topology, assemble, distances, spread, topology
from nddo_ml.integrals.corrections import corrections, terms
from nddo_ml.integrals.dipole import dipole_blocks
from nddo_ml.integrals.multipole import atom_integrals
from nddo_ml.integrals.nuclear import pair_values
from nddo_ml.methods import method as find_method
from nddo_ml.methods.parameters import PARAMETER_NAMES, AtomParameters, PairParameters, gather
from nddo_ml.molecules import Molecules, check
from nddo_ml.orbitals import atom_densities, flattened
from nddo_ml.results import Result, State, routes
from nddo_ml.scf import response
from nddo_ml.scf.density import aufbau
from nddo_ml.scf.fock import kernel
from nddo_ml.scf.guess import atomic_populations, guess
from nddo_ml.scf.half_electron import check as check_half_electron
from nddo_ml.scf.half_electron import correction, open_orbitals
from nddo_ml.scf.solve import problem, solve
from nddo_ml.scf.stability import lower, two_channels
from nddo_ml.struct import tensor_map

REMEMBERED = 16          # topologies kept, so that a moving molecule pays for its indices once
BUCKET_WASTE = 1.3       # largest ratio of matrix sizes in one bucket


class Hamiltonian(nn.Module):
    """An NDDO Hamiltonian: `Hamiltonian("PM6")(molecules)` returns a Result.

    method: a name from `nddo_ml.methods()`. Parameters: one tensor per column of the method's table (a value per species), and alpha_AB, x_AB of its
    pairs. UnknownOption for an unknown method.
    """

    def __init__(self, method: str = "PM6", device=None):
        super().__init__()
        self.method = find_method(method)
        for name in PARAMETER_NAMES:
            self.register_parameter(name, nn.Parameter(getattr(self.method.parameters, name).clone(), requires_grad=False))
        self.alpha_AB = nn.Parameter(self.method.pairs.alpha.clone(), requires_grad=False)
        self.x_AB = nn.Parameter(self.method.pairs.x.clone(), requires_grad=False)
        self.register_buffer("pair_index", self.method.pairs.index, persistent=False)
        self._topologies: OrderedDict = OrderedDict()
        self._derived = None
        self.to(device)

    def forward(self, molecules: Molecules, *, forces: bool = False, unrestricted: bool | None = None, guess: Result | None = None,
                field: Float[Tensor, "molecule 3"] | None = None, order: int = 1, tolerance: float = 1e-7, max_steps: int = 300,
                stability: bool | None = None, raise_unconverged: bool | None = None) -> Result:
        """Energies and properties of molecules.

        forces: also -dE/dR. unrestricted: None: open shells only; True: alpha and beta orbitals apart (a singlet starts with broken symmetry);
        False: never, open shells then are half-electron states. guess: an earlier result of the same molecules to start from. field: uniform electric field, V/angstrom.
        order: the results stay differentiable this many times (positions, field and parameters with requires_grad): 1 energies only, 2 and 3
        through the response of the density. tolerance: largest commutator element, eV; max_steps: SCF iterations.
        stability: True: look for a lower state, a broken spin symmetry included, and return it; None: only with transition metals, whose SCF has many
        solutions, and among states of the same kind; False: never. raise_unconverged: by default a single molecule raises SCFNotConverged, a member of a batch has energy NaN.

        Raises InvalidMolecule, MissingParameter, SCFNotConverged.
        """
        check(molecules)
        molecules = molecules.to(self.U_ss.device)
        spins = _channels(molecules, unrestricted)
        parts = []
        for index in _buckets(self.method, molecules, spins):
            part = molecules if len(index) == len(molecules) else molecules.select(index)
            fields_ = None if field is None else field[index]
            parts.append((index, self._solve(part, spins[index[0]], index, guess, fields_, forces, order, tolerance,
                                              max_steps, stability, unrestricted)))
        result = _merge(self.method, molecules, parts)
        if raise_unconverged or (raise_unconverged is None and len(molecules) == 1):
            _refuse_unconverged(result, tolerance, max_steps)
        return result

    def records(self) -> tuple[AtomParameters, PairParameters]:
        """The module's parameters as records, one entry per row of the table."""
        return (AtomParameters(*[getattr(self, f.name) for f in fields(AtomParameters)]),
                PairParameters(self.alpha_AB, self.x_AB, self.pair_index))

    def parameters_of(self, top: Topology) -> Parameters:
        """Parameters of a batch where they are used: where a network would shift them."""
        P, pairs = self.records()
        A = self._rows(P)
        return spread(top, gather(A, top.rows), gather(P, top.rows), pair_values(pairs, top.rules))

    def _rows(self, P):
        """Geometry-independent integrals of the table's rows; kept while the parameters stay as they are."""
        taped = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        version = self._version()
        if taped or self._derived is None or self._derived[0] != version:
            elements = tensor_map(lambda t: t.to(P.U_ss.device), self.method.elements)
            A = atom_integrals(P, elements, self.method.constants)
            if taped:
                return A
            self._derived = version, A
        return self._derived[1]

    def _version(self):
        """Changes whenever a parameter is replaced or changed in place."""
        return tuple((id(p), p._version, p.device) for p in self.parameters())

    def _topology(self, molecules):
        """Topology and parameters of molecules, remembered by species while nothing asks for gradients."""
        key = (molecules.numbers.cpu().numpy().tobytes(), molecules.molecule.cpu().numpy().tobytes(), str(molecules.numbers.device))
        version = self._version()
        taped = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        found = self._topologies.get(key)
        if found is None:
            found = {"top": topology(self.method, molecules)}
            self._topologies[key] = found
            while len(self._topologies) > REMEMBERED:
                self._topologies.popitem(last=False)
        self._topologies.move_to_end(key)
        if taped:
            return found["top"], self.parameters_of(found["top"])
        if found.get("version") != version:
            with torch.no_grad():
                found["parameters"], found["version"] = self.parameters_of(found["top"]), version
        return found["top"], found["parameters"]

    def _solve(self, molecules, spins, index, earlier, field, forces, order, tolerance, max_steps, stability, unrestricted):
        """One bucket: all quantities of its molecules by name."""
        positions = molecules.positions
        if forces and not positions.requires_grad:
            positions = positions.detach().requires_grad_()
        top, p = self._topology(molecules)
        alpha, beta = _electrons(molecules, top)
        occupations = aufbau(alpha, beta, spins, top.layout.size)
        with torch.set_grad_enabled(torch.is_grad_enabled() or forces):
            R, u = distances(top, positions)
            integrals = assemble(self.method, top, positions, R, u, p, field)
        task = problem(top.layout, integrals, occupations)
        start = _start(top, alpha, beta, spins, molecules, earlier, index)
        solution = solve(task, start, tolerance, max_steps)
        lowered = torch.zeros_like(solution.energy)
        if stability or (stability is None and earlier is None and _has_metals(top) and _whole(occupations)):
            task, solution, lowered = _most_stable(task, solution, tolerance, bool(stability) and unrestricted is not False)
            spins = task.occupations.shape[1]
        state = State(index, task, solution, lowered)
        with torch.set_grad_enabled(torch.is_grad_enabled() or forces):
            electronic, D = _electronic(top.layout, integrals, state, order, molecules)
            parts = {"electronic": electronic, "core_core": integrals.core,
                     **corrections(terms(self.method.name), top.composition, positions, R, self.method.constants)}
            energy = sum(parts.values())
            energy = torch.where(solution.converged, energy, torch.full_like(energy, torch.nan))
            gradient = None
            if forces:
                total = torch.where(solution.converged, energy, torch.zeros_like(energy)).sum() + 0.0 * positions.sum()
                gradient, = torch.autograd.grad(total, positions, create_graph=order > 1, retain_graph=order > 1 or torch.is_grad_enabled())
        found = {"energy": energy, "energies": parts, "forces": None if gradient is None else -gradient, "state": state,
                 **_populations(self.method, top, p, D, molecules.with_positions(positions), alpha, beta, spins)}
        found["heat_of_formation"] = self._heat(energy, p, top)
        return found

    def _heat(self, energy, p, top):
        """Heat of formation, kcal/mol: kcal (E - sum EISOL) + sum EHEAT, E with corrections."""
        atoms = top.elements.EHEAT - self.method.constants.kcal_mol * p.A.EISOL
        return (self.method.constants.kcal_mol * energy).index_add(0, top.layout.molecule, atoms)


def _electronic(lay, integrals, state, order, molecules):
    """Electronic energy of a bucket, differentiable `order` times, and the density that its populations come from."""
    solution = state.solution
    half_electron = solution.D.shape[1] == 1 and bool((molecules.unpaired > 0).any())
    if order == 1 and not half_electron:
        return response.electronic_energy(lay, integrals, solution.D), solution.D
    ref = response.reference(lay, state.problem.integrals, state.orbitals, solution.D, solution.F)
    if not half_electron:
        return response.energy(ref, integrals, order)
    if order > 1:
        raise InvalidMolecule("Half-electron states have exact forces but no exact second derivatives here: use unrestricted=True for an "
                              "open shell, or differences of the forces.")
    X = response.rotation(ref, integrals)[1] if torch.is_grad_enabled() else None
    c = open_orbitals(state.orbitals, None if X is None else X[:, 0])
    energy = response.electronic_energy(lay, integrals, solution.D) + correction(lay, kernel(lay, integrals), c)
    return energy, solution.D


def _whole(occupations):
    return bool(((occupations == 0) | (occupations == 1)).all())


def _has_metals(top):
    """Whether there is a transition metal."""
    return bool(((top.elements.occ_d > 0) & (top.elements.n_ao == 9)).any())


def _most_stable(task, solution, tolerance, break_spin):
    """Problem and solution after looking for lower states, and by how much each energy fell; `break_spin`: restricted states may break their
    spin symmetry.
    """
    if not _whole(task.occupations):
        raise InvalidMolecule("The stability of half-electron states is not defined: use unrestricted=True.")
    if task.occupations.shape[1] == 2 or not break_spin:
        return task, *lower(task, solution, tolerance)
    wide, doubled = two_channels(task, solution)
    found, lowered = lower(wide, doubled, tolerance)
    return (wide, found, lowered) if bool((lowered > 0).any()) else (task, solution, lowered)


def _channels(molecules, unrestricted):
    """Spin channels of each molecule."""
    if unrestricted is False:
        check_half_electron(molecules.unpaired)
    if unrestricted is None:
        return [2 if n else 1 for n in molecules.unpaired.tolist()]
    return [2 if unrestricted else 1] * len(molecules)


def _buckets(method, molecules, spins):
    """Molecules solved together: equal spin channels, similar number of orbitals."""
    if len(molecules) == 1:
        return [[0]]
    n_ao = method.elements.n_ao.to(molecules.numbers.device)[method.rows(molecules.numbers)]
    sizes = torch.zeros(len(molecules), dtype=torch.long, device=n_ao.device).index_add(0, molecules.molecule, n_ao.long()).tolist()
    buckets = []
    for k in sorted(range(len(sizes)), key=lambda k: (spins[k], sizes[k], k)):
        last = buckets[-1] if buckets else None
        if last and spins[last[0]] == spins[k] and sizes[k] <= BUCKET_WASTE * sizes[last[0]] + 4:
            last.append(k)
        else:
            buckets.append([k])
    return [sorted(b) for b in buckets]


def _electrons(molecules, top):
    """Alpha and beta electrons of each molecule; an impossible charge or spin raises InvalidMolecule."""
    cores = top.elements.core.new_zeros(len(molecules)).index_add(0, molecules.molecule, top.elements.core)
    total = torch.round(cores).long() - molecules.charge
    size = top.layout.orbitals
    for k, (n, unpaired, orbitals, core) in enumerate(zip(total.tolist(), molecules.unpaired.tolist(), size.tolist(), cores.tolist(), strict=True)):
        charge = int(molecules.charge[k])
        if abs(core - round(core)) > 1e-6:
            raise InvalidMolecule(f"Molecule {k} has core charges that add up to {core:g}: half charges must come in pairs.")
        if not 0 <= n <= 2 * orbitals:
            raise InvalidMolecule(f"Molecule {k} with charge {charge} has {n} valence electrons in {orbitals} orbitals: the charge must lie "
                                  f"between {round(core) - 2 * orbitals} and {round(core)}.")
        if (n - unpaired) % 2 or unpaired > n or (n + unpaired) // 2 > orbitals:
            most = min(n, 2 * orbitals - n)
            raise InvalidMolecule(f"Molecule {k} with charge {charge} has {n} valence electrons, which cannot have multiplicity {unpaired + 1}: it must be "
                                  f"{'odd' if n % 2 == 0 else 'even'} and at most {most + 1}.")
    return (total + molecules.unpaired) // 2, (total - molecules.unpaired) // 2


def _start(top, alpha, beta, spins, molecules, earlier, index):
    """Start density: of an earlier result of the same molecules, or of neutral atoms."""
    lay = top.layout
    if earlier is not None and len(earlier.molecules) > max(index):
        found = [earlier.density(k) for k in index]
        if all(len(d) == spins and d.shape[-1] == int(n) for d, n in zip(found, lay.orbitals, strict=True)):
            start = lay.real.new_zeros(lay.molecules, spins, lay.size, lay.size)
            for k, d in enumerate(found):
                start[k, :, :d.shape[-1], :d.shape[-1]] = d
            return start
    e = top.elements
    populations = atomic_populations(e.core, e.n_ao, (e.occ_d > 0) & (e.main_group == 0))
    real = lay.owner >= 0
    per_orbital = torch.where(real, populations[lay.owner.clamp(min=0), lay.shell.clamp(min=0)], torch.zeros_like(lay.real))
    return guess(per_orbital, lay.real, alpha, beta, spins, (alpha == beta) & (alpha > 0))


def _populations(method, top, p, D, molecules, alpha, beta, spins):
    """Charges, dipole, spin populations and <S^2> of a density."""
    lay, numbers = top.layout, molecules.numbers
    flat = flattened(D)
    P = (2.0 / spins) * flat.sum(-1, keepdim=True)
    charges, spin = top.elements.core.clone(), torch.zeros_like(top.elements.core)
    dipole = molecules.positions.new_zeros(lay.molecules, 3).index_add(0, molecules.molecule, top.elements.core[:, None] * molecules.positions)
    for group in lay.atoms:
        packed = atom_densities(group, P)[..., 0]
        diagonal = (group.weight == 1).to(packed.dtype)
        charges = charges.index_add(0, group.atoms, -(packed * diagonal).sum(1))
        if spins == 2:
            own = atom_densities(group, flat)
            spin = spin.index_add(0, group.atoms, ((own[..., 0] - own[..., 1]) * diagonal).sum(1))
        blocks = dipole_blocks(group, molecules.positions, p.A.D1, p.A.D_pd, method.constants.bohr)
        dipole = dipole.index_add(0, group.molecule, -torch.einsum("km,kmx->kx", packed, blocks))
    charge = molecules.charge.to(dipole.dtype)
    if bool((charge != 0).any()):
        weights = masses(numbers)
        total = torch.zeros_like(charge).index_add(0, molecules.molecule, weights)
        centre = torch.zeros_like(dipole).index_add(0, molecules.molecule, weights[:, None] * molecules.positions) / total[:, None]
        dipole = dipole - charge[:, None] * centre
    sz = (alpha - beta).to(D.dtype) / 2
    s2 = sz * (sz + 1)
    if spins == 2:
        s2 = s2 + beta - (D[:, 0] * D[:, 1]).sum((1, 2))
    return {"charges": charges, "dipole": dipole, "spin_populations": spin, "s2": s2}


def _merge(method, molecules, parts) -> Result:
    """The result of all molecules from those of the buckets, in the order of the input."""
    states = [found["state"] for _, found in parts]
    order = torch.tensor([k for index, _ in parts for k in index]).argsort()
    owner = molecules.molecule.cpu()
    if len(parts) == 1:
        atoms = torch.arange(len(owner))
    else:
        sizes, start = molecules.sizes, torch.tensor([0, *molecules.sizes]).cumsum(0)
        atoms = torch.cat([torch.arange(start[k], start[k] + sizes[k]) for index, _ in parts for k in index]).argsort()

    def join(get, index):
        values = [get(found) for _, found in parts]
        return values[0] if len(values) == 1 else torch.cat(values).index_select(0, index.to(values[0].device))

    scf = {name: join(lambda f, name=name: getattr(f["state"].solution, name), order) for name in ("converged", "residual", "iterations")}
    route = [r for s in states for r in routes(s)]
    names = parts[0][1]["energies"]
    return Result(
        molecules, method.name, method.constants, join(lambda f: f["energy"], order),
        {name: join(lambda f, name=name: f["energies"][name], order) for name in names},
        join(lambda f: f["heat_of_formation"], order),
        join(lambda f: f["forces"], atoms) if parts[0][1]["forces"] is not None else None,
        join(lambda f: f["charges"], atoms), join(lambda f: f["dipole"], order), join(lambda f: f["spin_populations"], atoms),
        join(lambda f: f["s2"], order), scf["converged"], scf["residual"], scf["iterations"], [route[k] for k in order.tolist()], states)


def _refuse_unconverged(result, tolerance, max_steps):
    bad = (~result.converged).nonzero()[:, 0].tolist()
    if bad:
        k = bad[0]
        raise SCFNotConverged(f"The SCF of {len(bad)} of {len(result.molecules)} molecules did not converge: molecule {k} stopped after "
                              f"{int(result.iterations[k])} iterations (limit {max_steps}) at a commutator of {float(result.residual[k]):.1e} eV "
                              f"(tolerance {tolerance:.0e}). Check its geometry, charge and multiplicity, raise max_steps, or try unrestricted=True.")
