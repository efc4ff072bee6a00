"""The ASE calculator: `atoms.calc = NDDO("PM6-D3H4")`.

Charge and multiplicity come from the arguments, from `atoms.info` ("charge"; "multiplicity", or "spin", which is read as the
multiplicity 2S + 1 too; nddo_ml.structures.said lists other names of both) or from the sums of the initial charges and magnetic
moments; sources that disagree are refused, never overruled. Where nothing is said a molecule is neutral and has the lowest
multiplicity of its electron count. Sparkles and pseudo-atoms are named in `atoms.arrays["species"]`
(names of nddo_ml.elements; the atomic number of a pseudo-atom is 0, ASE's "X").
"""

from contextlib import contextmanager
from dataclasses import fields, replace
from typing import ClassVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties, all_outputs

from nddo_ml.common.devices import usable
from nddo_ml.common.struct import Lock, in_turn, ordinary
from nddo_ml.elements import SPARKLE, is_sparkle, number, symbol
from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.methods import Method
from nddo_ml.methods import method as find_method
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.scf.options import SCF
from nddo_ml.structures import said
from nddo_ml.structures.said import agreed

# arrays with names of species; the second survives extended XYZ, whose own column is called species
NAMES = ("species", "nddo_species")
# Hamiltonians that calculators made from a name share while one of them lives: (name, device) -> Hamiltonian, and what each was
# made like; topologies that such a one keeps, being used by many molecules
_SHARED, _AS_MADE, _MAKING = WeakValueDictionary(), WeakKeyDictionary(), Lock()
SHARED_TOPOLOGIES = 256


class NDDO(Calculator):
    """ASE calculator of one molecule: energy, forces, dipole, charges, spin populations (as magmoms).

    method: a name from `nddo_ml.methods()`, or a Hamiltonian of your own. charge, multiplicity: see the head of this file.
    unrestricted: None: open shells only; True: always (a singlet starts with broken symmetry); False: never (half-electron open
    shells). device: of the tensors. threads: of torch while this calculator works. max_steps: SCF iterations. stability: look
    for a lower state (None: where one is to be feared; Hamiltonian.forward). point_charges: (positions, charges) in angstrom
    and e, or one array of x y z q, of charges around the molecule; a copy is kept, `set` replaces it.

    energy and free_energy are the total energy with every correction, eV, and the forces its derivative. With point charges the
    energy holds their interaction with the molecule, and results["point_charge_forces"] the forces on them. The density of the
    last step is the next guess. `result` holds the full Result of the last calculation. A new calculator costs nothing; tables
    are read at the first calculation, and shared by all calculators of the same method and device (see `model`). Threads may
    share a calculator: they take turns, and each gets its own molecule's numbers from get_property, which is what
    atoms.get_potential_energy() and the like call; `results` and `result` are those of the last molecule, whosever it was.

    Raises UnknownOption, InvalidMolecule (also for periodic atoms), MissingParameter, SCFNotConverged.
    """

    implemented_properties = ("energy", "free_energy", "forces", "dipole", "charges", "magmom", "magmoms")
    default_parameters: ClassVar = {"method": "PM6-D3H4", "charge": None, "multiplicity": None,
                                    "unrestricted": SCF.unrestricted, "device": None, "threads": None,
                                    "max_steps": SCF.max_steps, "stability": SCF.stability,
                                    "point_charges": None}
    discard_results_on_any_change = True
    name = "nddo_ml"

    def __init__(self, method="PM6-D3H4", charge=None, multiplicity=None, unrestricted=SCF.unrestricted, device=None,
                 threads=None, max_steps=SCF.max_steps, stability=SCF.stability, point_charges=None, *,
                 atoms=None, label=None, directory="."):
        self.result, self._model, self._shown, self._solved, self._lock = None, None, False, None, Lock()
        super().__init__(atoms=atoms, label=label, directory=directory, method=method, charge=charge,
                         multiplicity=multiplicity, unrestricted=unrestricted, device=device, threads=threads,
                         max_steps=max_steps, stability=stability, point_charges=point_charges)

    @property
    @in_turn
    def model(self):
        """The Hamiltonian underneath: an nn.Module whose parameters are the tables of the method.

        Made from a name it is one for all calculators of that method and device. Change its parameters, or let them require
        gradients, and it stays with those calculators that have shown it by this property; the others take a new one. To
        change a method for one calculator alone, give it a Hamiltonian of your own: NDDO(Hamiltonian("AM1")).
        """
        self._shown = True
        return self._hamiltonian()

    def _hamiltonian(self):
        """The Hamiltonian, another one where a shared one was changed through another calculator."""
        given = self.parameters.method
        if isinstance(given, torch.nn.Module):
            return given
        if self._model is None or not (self._shown or _unchanged(self._model)):
            self._model = shared(given, self.parameters.device)
        return self._model

    @in_turn
    def set(self, **options):
        """Change options; results are discarded if any differs. UnknownOption: there is no such option, method or device."""
        unknown = sorted(set(options) - set(self.default_parameters))
        if unknown:
            raise UnknownOption(f"NDDO has no option {unknown[0]!r}; it has: {', '.join(self.default_parameters)}.")
        if isinstance(options.get("method"), str):
            options["method"] = find_method(options["method"]).key
        if options.get("device") is not None:
            usable(options["device"])
        if options.get("point_charges") is not None:
            options["point_charges"] = charge_table(options["point_charges"])
        changed = super().set(**options)
        if {"method", "device"} & set(changed):
            self._model, self._shown = None, False
        return changed

    @in_turn
    def get_property(self, name, atoms=None, allow_calculation=True):
        """A property of these atoms: checking, calculating and reading are one turn."""
        return super().get_property(name, atoms, allow_calculation)

    calculate_properties = in_turn(Calculator.calculate_properties)

    @in_turn
    def reset(self):
        """Forget the results; the last density stays as a guess."""
        super().reset()
        self._solved = None

    def check_state(self, atoms, tol=1e-15):
        """What changed since the last calculation; charge, multiplicity and species names included, which ASE does not look at.
        """
        changes = super().check_state(atoms, tol=tol)
        if not changes and self._solved != self._identity(self._molecule(atoms)):
            changes = ["info"]
        return changes

    @in_turn
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """All properties at once: energy and forces share one SCF whatever is asked for first."""
        super().calculate(atoms, properties, system_changes)
        self.results = {}
        molecules = self._molecule(self.atoms)
        last, self.result, self._solved = self.result, None, None
        guess = last if last is not None and self._identity(last.molecules) == self._identity(molecules) else None
        p = self.parameters
        with threads(p.threads):
            model = self._hamiltonian()
            result = model(molecules, forces=True, unrestricted=p.unrestricted, guess=guess, max_steps=p.max_steps,
                           stability=p.stability, point_charges=self._charges(), raise_unconverged=True)
        self.result, self._solved = off_tape(result), self._identity(molecules)
        self.results = ase_results(self.result)

    def export_properties(self):
        """The results that ASE has names for (the forces on point charges are not among them)."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    @in_turn
    def get_hessian(self, atoms=None):
        """Second derivatives of the energy, (3N, 3N), eV/angstrom^2, from the response of the density."""
        from nddo_ml.properties.response import hessian
        p = self.parameters
        with threads(p.threads):
            molecules = self._molecule(self.atoms if atoms is None else atoms)
            found = hessian(self._hamiltonian(), molecules, unrestricted=p.unrestricted, max_steps=p.max_steps,
                            stability=p.stability, point_charges=self._charges())
        return found[0].cpu().numpy()

    def _charges(self):
        """The point charges around the molecule, if there are any."""
        table = self.parameters.point_charges
        return None if table is None else PointCharges.single(table[:, :3], table[:, 3])

    def _molecule(self, atoms):
        p = self.parameters
        return molecule(atoms, getattr(p.method, "method", None) or find_method(p.method), p.charge, p.multiplicity)

    @staticmethod
    def _identity(molecules):
        """What must not change for a density to be a good guess."""
        return molecules.numbers.tolist(), molecules.charge.tolist(), molecules.unpaired.tolist()

    def __getstate__(self):
        """For pickle and deepcopy: a Hamiltonian made from a name is made again when needed."""
        return self.__dict__ | {"_model": None, "_shown": False}


def shared(name: str, device=None):
    """The Hamiltonian of that name which all calculators on the device share while one of them holds it; files of weights are
    read anew for each."""
    from nddo_ml.hamiltonian.model import Hamiltonian  # a calculator that is never used reads no table

    found, key = find_method(name), (find_method(name).key, str(device))
    with _MAKING, ordinary():
        model = _SHARED.get(key)
        if model is None or not _unchanged(model):
            model = Hamiltonian(found, device=device)
            model.remembered = SHARED_TOPOLOGIES
            _AS_MADE[model] = model.version(), _made_like(model)
            if found.key == found.name:
                _SHARED[key] = model
        return model


def _unchanged(model) -> bool:
    """Whether a Hamiltonian is as `shared` made it."""
    tables, like = _AS_MADE.get(model, (None, None))
    with ordinary():
        return model.version() is tables and like == _made_like(model)  # edits of `.data` change the tables, not the versions


def _made_like(model):
    """Changes with the parameters of a model: which they are, how often they were written to, whether they ask for
    gradients."""
    return tuple((id(p), p._version, p.requires_grad, p.dtype, p.device) for p in model.parameters())


def molecule(atoms, method: Method, charge=None, multiplicity=None) -> Molecules:
    """The molecule an Atoms object stands for; charge and multiplicity as in the head of this file.

    Raises InvalidMolecule for periodic or no atoms, contradicting sources, names of species that do not exist;
    MissingParameter.
    """
    if np.any(atoms.pbc):
        raise InvalidMolecule(f"The structure is periodic (pbc = {atoms.pbc.tolist()}): this is a method for molecules. To "
                              "take one cell as an isolated molecule (the boundary must not cut it) set atoms.pbc = False, or "
                              "give --isolated on the command line.")
    if len(atoms) == 0:
        raise InvalidMolecule("The structure has no atoms: give at least one.")
    numbers = species(atoms)
    total = total_charge(atoms, charge)
    return Molecules.single(numbers, atoms.positions, total, spin_multiplicity(atoms, method, numbers, total, multiplicity))


def species(atoms) -> np.ndarray:
    """Species numbers: the atomic numbers, or what the array of names says. InvalidMolecule where the two contradict each
    other.
    """
    names = next((atoms.arrays[key] for key in NAMES if key in atoms.arrays), None)
    if names is None:
        return atoms.numbers
    found = np.array([number(str(name)) for name in names])
    for k, (wanted, z) in enumerate(zip(found, atoms.numbers, strict=True)):
        element = wanted - SPARKLE if is_sparkle(wanted) else wanted
        if z not in (0, element):
            raise InvalidMolecule(f"Atom {k} is {symbol(z)} by its atomic number and {names[k]} by its name in "
                                  "atoms.arrays['species']: make them agree, or remove the array.")
    return found


def total_charge(atoms, argument=None) -> int:
    """The charge that the argument, atoms.info and the initial charges agree on; 0 where none is given."""
    return agreed("charge", {"the argument": argument} | said.charges(atoms), 0)


def spin_multiplicity(atoms, method, numbers, charge, argument=None) -> int:
    """The multiplicity that the argument, atoms.info and the initial magnetic moments agree on; where none is given, the lowest
    there is.
    """
    given = agreed("multiplicity", {"the argument": argument} | said.multiplicities(atoms))
    if given is not None:
        return given
    cores = method.elements.core[method.rows(torch.as_tensor(np.asarray(numbers, dtype=np.int64)))].sum()
    return 1 + (round(float(cores)) - charge) % 2


def charge_table(given) -> np.ndarray:
    """Point charges as one array of x y z q (site, 4), from that or from (positions, charges). InvalidMolecule: they are
    neither."""
    try:
        table = np.array(given, dtype=float)
    except (TypeError, ValueError):   # positions and charges differ in shape
        table = np.zeros(0)
    if table.ndim == 2 and table.shape[1] == 4:
        return table
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InvalidMolecule("point_charges must be (positions, charges) in angstrom and e, or an array of x y z q, one row "
                              "for each charge.")
    charges = PointCharges.single(*given)
    return np.column_stack((_array(charges.positions), _array(charges.charges)))


@contextmanager
def threads(count: int | None):
    """Torch with so many threads inside the block; None leaves it as it is."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    if count < 1:
        raise UnknownOption(f"{count} threads asked for: give 1 or more.")
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def off_tape(result):
    """The result with every tensor detached, so that it can be copied, pickled and kept."""
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    detached = {name: value.detach() for name, value in values.items() if isinstance(value, torch.Tensor)}
    energies = {name: value.detach() for name, value in result.energies.items()}
    molecules = result.molecules.with_positions(result.molecules.positions.detach())
    return replace(result, **detached, energies=energies, molecules=molecules)


def ase_results(result, k: int = 0) -> dict:
    """Properties of molecule k under ASE's names and in its units (eV, angstrom, e)."""
    owned = _array(result.molecules.molecule == k)
    energy = float(result.energy[k])
    found = {"energy": energy, "free_energy": energy, "dipole": _array(result.dipole[k]),
             "charges": _array(result.charges)[owned], "magmom": float(result.molecules.unpaired[k]),
             "magmoms": _array(result.spin_populations)[owned]}
    if result.forces is not None:
        found["forces"] = _array(result.forces)[owned]
    if result.point_charge_forces is not None and k == 0 and len(result.molecules) == 1:
        found["point_charge_forces"] = _array(result.point_charge_forces)
    return found


def _array(tensor):
    return tensor.detach().cpu().numpy()
