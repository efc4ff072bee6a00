"""The ASE calculator of an ensemble: `atoms.calc = EnsembleCalculator("trained")`.

Charge and multiplicity as in interfaces/ase.py. Beside ASE's own properties, `results` holds how sure they are.
"""

from pathlib import Path
from typing import ClassVar

from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties, all_outputs

from nddo_ml.common.struct import Lock, in_turn
from nddo_ml.ensembles.ensemble import Ensemble
from nddo_ml.errors import UnknownOption
from nddo_ml.interfaces.ase import molecule, threads
from nddo_ml.scf.options import SCF


class EnsembleCalculator(Calculator):
    """ASE calculator of one molecule with uncertainties: energy, forces, dipole, charges are means over the members.

    ensemble: an Ensemble, or the folder or file of one (Ensemble.load). charge, multiplicity, unrestricted, threads, max_steps,
    stability: as for the calculator NDDO; device: of an ensemble that is loaded.

    results also holds energy_uncertainty (eV), forces_uncertainty (atom, 3) and atom_uncertainty (atom), eV/angstrom:
    calibrated standard deviations (EnsembleResult). `result` holds the full EnsembleResult; its density is the next guess.

    Raises UnknownOption, IncompatibleFile, InvalidMolecule, MissingParameter, SCFNotConverged.
    """

    implemented_properties = ("energy", "free_energy", "forces", "dipole", "charges")
    default_parameters: ClassVar = {"ensemble": None, "charge": None, "multiplicity": None, "unrestricted": SCF.unrestricted,
                                    "device": None, "threads": None, "max_steps": SCF.max_steps,
                                    "stability": SCF.stability}
    discard_results_on_any_change = True
    name = "nddo_ml ensemble"

    def __init__(self, ensemble: Ensemble | str | Path, charge=None, multiplicity=None, unrestricted=SCF.unrestricted,
                 device=None, threads=None, max_steps=SCF.max_steps, stability=SCF.stability):
        self.result, self._ensemble, self._solved, self._lock = None, None, None, Lock()
        super().__init__(ensemble=ensemble, charge=charge, multiplicity=multiplicity, unrestricted=unrestricted, device=device,
                         threads=threads, max_steps=max_steps, stability=stability)

    @property
    def ensemble(self) -> Ensemble:
        """The ensemble underneath, read when first needed."""
        if self._ensemble is None:
            given = self.parameters.ensemble
            self._ensemble = given if isinstance(given, Ensemble) else Ensemble.load(given, self.parameters.device)
        return self._ensemble

    @in_turn
    def set(self, **options):
        """Change options; results are discarded if any differs. UnknownOption: there is no such option."""
        unknown = sorted(set(options) - set(self.default_parameters))
        if unknown:
            raise UnknownOption(f"An ensemble's calculator has no option {unknown[0]!r}; it has: "
                                f"{', '.join(self.default_parameters)}.")
        changed = super().set(**options)
        if {"ensemble", "device"} & set(changed):
            self._ensemble = self.result = None
        return changed

    @in_turn
    def get_property(self, name, atoms=None, allow_calculation=True):
        """A property of these atoms: checking, calculating and reading are one turn, as threads may share a calculator."""
        return super().get_property(name, atoms, allow_calculation)

    calculate_properties = in_turn(Calculator.calculate_properties)

    def check_state(self, atoms, tol=1e-15):
        """What changed since the last calculation, charge and multiplicity included."""
        changes = super().check_state(atoms, tol=tol)
        if not changes and self._solved != _identity(self._molecule(atoms)):
            changes = ["info"]
        return changes

    @in_turn
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Everything at once."""
        super().calculate(atoms, properties, system_changes)
        self.results = {}
        molecules, last, p = self._molecule(self.atoms), self.result, self.parameters
        self.result, self._solved = None, None
        guess = last if last is not None and _identity(last.molecules) == _identity(molecules) else None
        with threads(p.threads):
            found = self.ensemble(molecules, forces=True, guess=guess, unrestricted=p.unrestricted, max_steps=p.max_steps,
                                  stability=p.stability, raise_unconverged=True)
        self.result, self._solved = found, _identity(molecules)
        energy = float(found.energy[0])
        arrays = {name: getattr(found, name).cpu().numpy() for name in ("forces", "charges", "forces_uncertainty",
                                                                         "atom_uncertainty")}
        self.results = {"energy": energy, "free_energy": energy, "dipole": found.dipole[0].cpu().numpy(),
                        "energy_uncertainty": float(found.energy_uncertainty[0]), **arrays}

    def export_properties(self):
        """The results that ASE has names for (uncertainties are not among them)."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def _molecule(self, atoms):
        return molecule(atoms, self.ensemble.method, self.parameters.charge, self.parameters.multiplicity)


def _identity(molecules):
    """What must not change for a density to be a good guess."""
    return molecules.numbers.tolist(), molecules.charge.tolist(), molecules.unpaired.tolist()
