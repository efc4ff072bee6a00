"""The ASE calculator of an ensemble: `atoms.calc = EnsembleCalculator("trained")`.

Charge and multiplicity as in interfaces/atoms.py. Beside ASE's own properties, `results` holds how sure they are.
"""

from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch

from nddo_ml.common.struct import in_turn
from nddo_ml.ensembles.ensemble import Ensemble, EnsembleResult
from nddo_ml.interfaces.calculator import SCF_DEFAULTS, CalculatorKeywords, MoleculeCalculator
from nddo_ml.interfaces.results import array
from nddo_ml.methods import Method
from nddo_ml.molecules import Molecules


class EnsembleCalculator(MoleculeCalculator[EnsembleResult]):
    """ASE calculator of one molecule with uncertainties: energy, forces, dipole, charges are means over the members.

    ensemble: an Ensemble, or the folder or file of one (Ensemble.load); device: of an ensemble that is loaded. All other
    options as for the calculator NDDO.

    results also holds energy_uncertainty (eV), forces_uncertainty (atom, 3) and atom_uncertainty (atom), eV/angstrom:
    calibrated standard deviations (EnsembleResult). `result` holds the full EnsembleResult; its density is the next guess.

    Raises: UnknownOption, IncompatibleFile, InvalidMolecule, MissingParameter, SCFNotConverged.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "dipole", "charges"]
    default_parameters: ClassVar[dict[str, Any]] = {
        "ensemble": None, "charge": None, "multiplicity": None, "device": None, "threads": None, **SCF_DEFAULTS}
    title, refusal = "nddo_ml ensemble", "An ensemble's calculator has no option"

    def __init__(self, ensemble: Ensemble | str | Path, charge: int | None = None, multiplicity: int | None = None, *,
                 device: str | torch.device | None = None, threads: int | None = None, **keywords: Unpack[CalculatorKeywords]):
        self._ensemble: Ensemble | None = None
        super().__init__({"ensemble": ensemble, "charge": charge, "multiplicity": multiplicity, "device": device,
                          "threads": threads}, keywords)

    @property
    def ensemble(self) -> Ensemble:
        """The ensemble underneath, read when first needed."""
        if self._ensemble is None:
            given = self.parameters.ensemble
            self._ensemble = given if isinstance(given, Ensemble) else Ensemble.load(given, self.parameters.device)
        return self._ensemble

    @in_turn
    def set(self, **options: Any) -> dict[str, Any]:
        """Change options, and return those that differ; results are discarded if any does.

        Raises: UnknownOption, if there is no such option.
        """
        changed = super().set(**options)
        if {"ensemble", "device"} & set(changed):
            self._ensemble = self.result = None
        return changed

    def _method(self) -> Method:
        return self.ensemble.method

    def _calculated(self, molecules: Molecules, guess: EnsembleResult | None) -> EnsembleResult:
        return self.ensemble(molecules, forces=True, guess=guess, raise_unconverged=True, **self._scf())

    def _named(self, result: EnsembleResult) -> dict[str, Any]:
        energy = float(result.energy[0])
        arrays = {name: array(getattr(result, name)) for name in ("forces", "charges", "forces_uncertainty",
                                                                  "atom_uncertainty")}
        return {"energy": energy, "free_energy": energy, "dipole": array(result.dipole[0]),
                "energy_uncertainty": float(result.energy_uncertainty[0]), **arrays}
