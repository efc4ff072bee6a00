"""The ASE calculator: `atoms.calc = NDDO("PM6-D3H4")`; charge and multiplicity as in interfaces/atoms.py."""

from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float

from nddo_ml.common.devices import usable
from nddo_ml.common.struct import in_turn
from nddo_ml.common.threads import threads
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.interfaces.atoms import charge_table
from nddo_ml.interfaces.calculator import SCF_DEFAULTS, CalculatorKeywords, MoleculeCalculator
from nddo_ml.interfaces.results import ase_results, off_tape
from nddo_ml.interfaces.sharing import SharedHamiltonians
from nddo_ml.methods import Method
from nddo_ml.methods import method as find_method
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.properties.response import hessian

SHARED = SharedHamiltonians()     # by all calculators of this process


class NDDO(MoleculeCalculator[Result]):
    """ASE calculator of one molecule: energy, forces, dipole, charges, spin populations (as magmoms).

    method: a name from `nddo_ml.methods()`, a Method or a Hamiltonian of your own. charge, multiplicity: interfaces/atoms.py.
    device: of the tensors. threads: of torch while this calculator works. point_charges: (positions, charges) in angstrom and
    e, or one array of x y z q, of charges around the molecule; a copy is kept, `set` replaces it. unrestricted: None: open
    shells only; True: always (a singlet starts with broken symmetry); False: never (half-electron open shells). max_steps: SCF
    iterations. stability: look for a lower state (None: where one is to be feared; Hamiltonian.forward).

    energy and free_energy are the total energy with every correction, eV, and the forces its derivative. With point charges the
    energy holds their interaction with the molecule, and results["point_charge_forces"] the forces on them. The density of the
    last step is the next guess. `result` holds the full Result of the last calculation. A new calculator costs nothing; tables
    are read at the first calculation, and shared by all calculators of the same method and device (see `model`). Threads may
    share a calculator (MoleculeCalculator).

    Raises: UnknownOption, InvalidMolecule (also for periodic atoms), MissingParameter, SCFNotConverged.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "dipole", "charges", "magmom", "magmoms"]
    default_parameters: ClassVar[dict[str, Any]] = {
        "method": "PM6-D3H4", "charge": None, "multiplicity": None, "device": None, "threads": None, "point_charges": None,
        **SCF_DEFAULTS}
    title, refusal = "nddo_ml", "NDDO has no option"

    def __init__(self, method: str | Method | Hamiltonian = "PM6-D3H4", charge: int | None = None,
                 multiplicity: int | None = None, *,
                 device: str | torch.device | None = None, threads: int | None = None,
                 point_charges: Any = None, **keywords: Unpack[CalculatorKeywords]):
        self._model: Hamiltonian | None = None
        self._shown = False
        super().__init__({"method": method, "charge": charge, "multiplicity": multiplicity, "device": device,
                          "threads": threads, "point_charges": point_charges}, keywords)

    @property
    @in_turn
    def model(self) -> Hamiltonian:
        """The Hamiltonian underneath: an nn.Module whose parameters are the tables of the method.

        Made from a name it is one for all calculators of that method and device. Change its parameters, or let them require
        gradients, and it stays with those calculators that have shown it by this property; the others take a new one. To
        change a method for one calculator alone, give it a Hamiltonian of your own: NDDO(Hamiltonian("AM1")).
        """
        self._shown = True
        return self._hamiltonian()

    def _hamiltonian(self) -> Hamiltonian:
        """The Hamiltonian, another one where a shared one was changed through another calculator."""
        given = self.parameters.method
        if isinstance(given, Hamiltonian):
            return given
        if self._model is None or not (self._shown or SHARED.unchanged(self._model)):
            self._model = SHARED.of(given, self.parameters.device)
        return self._model

    @in_turn
    def set(self, **options: Any) -> dict[str, Any]:
        """Change options, and return those that differ; results are discarded if any does.

        Raises: UnknownOption, if there is no such option, method or device; InvalidMolecule, for point charges that are none.
        """
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
    def get_hessian(self, atoms: Atoms | None = None) -> Float[np.ndarray, "coordinate coordinate"]:
        """Second derivatives of the energy, eV/angstrom^2, from the response of the density. atoms: None: those of the last
        calculation.

        Raises: InvalidMolecule, if there are none yet; what the calculator raises.
        """
        with threads(self.parameters.threads):
            molecules = self._molecule(self.atoms if atoms is None else atoms)
            H = hessian(self._hamiltonian(), molecules, point_charges=self._charges(), **self._scf())[0]
        return H.cpu().numpy()

    def _method(self) -> Method:
        given = self.parameters.method
        return find_method(given) if isinstance(given, str | Method) else given.method

    def _calculated(self, molecules: Molecules, guess: Result | None) -> Result:
        return off_tape(self._hamiltonian()(molecules, forces=True, guess=guess, point_charges=self._charges(),
                                            raise_unconverged=True, **self._scf()))

    def _named(self, result: Result) -> dict[str, Any]:
        return ase_results(result)

    def _charges(self) -> PointCharges | None:
        """The point charges around the molecule, if there are any."""
        table = self.parameters.point_charges
        return None if table is None else PointCharges.single(table[:, :3], table[:, 3])

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: a Hamiltonian made from a name is made again when needed."""
        return self.__dict__ | {"_model": None, "_shown": False}
