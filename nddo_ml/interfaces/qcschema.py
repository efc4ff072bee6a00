"""QCSchema in and out: a dictionary AtomicInput (version 1 of the MolSSI schema) becomes an AtomicResult, or a FailedOperation.

QCSchema is in atomic units: hartree, bohr, e; what does not exist (an empty orbital's level where there is none, a heat of
formation with a network) is None, never NaN or infinite. Drivers energy, gradient, hessian and properties. Keywords:
unrestricted, stability, max_steps, device, threads, as in the ASE calculator. Nothing but the standard library and numpy is
needed: objects of qcelemental convert themselves (`compute(input.dict())`, `AtomicResult(**compute(...))`).
"""

import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import nddo_ml
from nddo_ml.common.devices import usable
from nddo_ml.common.json import finite
from nddo_ml.common.threads import threads
from nddo_ml.elements import number
from nddo_ml.errors import InvalidMolecule, NDDOError, SCFNotConverged, UnknownOption
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.interfaces.results import off_tape
from nddo_ml.molecules import Molecules
from nddo_ml.properties.response import hessian
from nddo_ml.scf.options import SCF
from nddo_ml.units import CODATA_2018

BOHR, HARTREE = CODATA_2018.bohr, CODATA_2018.hartree
DRIVERS = ("energy", "gradient", "hessian", "properties")
KEYWORDS = {"unrestricted": SCF.unrestricted, "stability": SCF.stability, "max_steps": SCF.max_steps, "device": None,
            "threads": None}


def compute(atomic_input: dict[str, Any]) -> dict[str, Any]:
    """The AtomicResult of an AtomicInput, both as dictionaries; never raises: what went wrong comes back as a FailedOperation,
    with error_type "input_error", "convergence_error" or "unknown_error".
    """
    try:
        answer = _result(dict(atomic_input))
    except SCFNotConverged as error:
        answer = _failed(atomic_input, "convergence_error", str(error))
    except NDDOError as error:
        answer = _failed(atomic_input, "input_error", str(error))
    except Exception:   # the schema asks for a record of any failure
        answer = _failed(atomic_input, "unknown_error", traceback.format_exc())
    return finite(answer)


def molecules(molecule: dict[str, Any]) -> Molecules:
    """The molecule of a QCSchema Molecule: symbols, geometry in bohr, molecular_charge, molecular_multiplicity (0 and 1 by
    default).

    Raises: UnknownOption, if an entry is missing; InvalidMolecule, if there are ghost atoms or shapes do not fit.
    """
    symbols = _given(molecule, "symbols", "the molecule")
    geometry = _geometry(_given(molecule, "geometry", "the molecule"))
    if geometry.size != 3 * len(symbols):
        raise InvalidMolecule(f"{len(symbols)} symbols but {geometry.size} coordinates: expected {3 * len(symbols)}, in bohr.")
    real = molecule.get("real")
    if real is not None and not np.all(real):
        raise InvalidMolecule(f"Atom {int(np.argmin(real))} is a ghost (real = false): an NDDO basis has no ghost functions; "
                              "remove it.")
    return Molecules.single([number(s) for s in symbols], geometry.reshape(-1, 3) * BOHR,
                            molecule.get("molecular_charge", 0), molecule.get("molecular_multiplicity", 1))


def _geometry(given: Any) -> np.ndarray:
    """Coordinates as numbers. InvalidMolecule: they are none."""
    try:
        return np.asarray(given, dtype=float)
    except (TypeError, ValueError) as error:
        raise InvalidMolecule(f"The geometry cannot be read as numbers ({error}): give x1 y1 z1 x2 ..., in bohr.") from None


def _result(atomic_input):
    driver = getattr(atomic_input.get("driver"), "value", atomic_input.get("driver"))
    if driver not in DRIVERS:
        raise UnknownOption(f"There is no driver {driver!r}; available: {', '.join(DRIVERS)}.")
    keywords = _keywords(atomic_input.get("keywords") or {})
    molecule = molecules(_given(atomic_input, "molecule", "the input"))
    with threads(keywords.pop("threads")):
        device = keywords.pop("device")
        model = Hamiltonian(_given(_given(atomic_input, "model", "the input"), "method", "the model"),
                            device=None if device is None else usable(device))
        result = off_tape(model(molecule, forces=driver in ("gradient", "properties"), raise_unconverged=True, **keywords))
        numbers = properties(result)
        if driver == "hessian":
            # of the state that was found
            keywords |= {"unrestricted": len(result.density(0)) == 2, "guess": result}
            numbers["return_hessian"] = _list(hessian(model, molecule, **keywords)[0] * BOHR**2 / HARTREE)
    returned = {"energy": lambda: numbers["return_energy"], "gradient": lambda: numbers["return_gradient"],
                "hessian": lambda: numbers["return_hessian"], "properties": lambda: _extra_properties(result)}[driver]()
    return atomic_input | {
        "schema_name": "qcschema_output", "schema_version": 1, "driver": driver, "success": True, "error": None,
        "properties": numbers, "return_result": returned, "provenance": _provenance(),
        "extras": dict(atomic_input.get("extras") or {}) | {"nddo_ml": _extras(result)}}


def properties(result: Result) -> dict[str, Any]:
    """The AtomicResultProperties of the first molecule of a result."""
    own = result.molecules.molecule == 0
    orbitals, energy = result.orbital_energies(0).shape[-1], float(result.energy[0]) / HARTREE
    numbers: dict[str, Any] = {
        "calcinfo_natom": int(own.sum()), "calcinfo_nbasis": orbitals, "calcinfo_nmo": orbitals, **_electrons(result),
        "nuclear_repulsion_energy": float(result.energies["core_core"][0]) / HARTREE, "return_energy": energy,
        "scf_total_energy": energy, "scf_dipole_moment": _list(result.dipole[0] / BOHR),
        "scf_iterations": int(result.iterations[0])}
    if result.forces is not None:
        numbers["return_gradient"] = _list(-result.forces[own] * BOHR / HARTREE)
        numbers["scf_total_gradient"] = numbers["return_gradient"]
    return numbers


def _electrons(result):
    occupations = result.occupations(0)
    unpaired = int(result.molecules.unpaired[0])
    total = round(float(occupations.sum()))
    return {"calcinfo_nalpha": (total + unpaired) // 2, "calcinfo_nbeta": (total - unpaired) // 2}


def _extra_properties(result):
    """What the driver "properties" returns, atomic units, flat lists."""
    own = result.molecules.molecule == 0
    homo, lumo = result.homo_lumo(0)
    return {"return_energy": float(result.energy[0]) / HARTREE, "return_gradient": _list(-result.forces[own] * BOHR / HARTREE),
            "dipole": _list(result.dipole[0] / BOHR), "mulliken_charges": _list(result.charges[own]),
            "spin_populations": _list(result.spin_populations[own]), "wiberg_lowdin_indices": _list(result.bond_orders(0)),
            "homo": homo / HARTREE, "lumo": lumo / HARTREE, "s2": float(result.s2[0])}


def _extras(result):
    return {"heat_of_formation_kcal_mol": float(result.heat_of_formation[0]), "scf_route": result.route[0],
            "energies_eV": {name: float(value[0]) for name, value in result.energies.items()}, "method": result.method}


def _keywords(given):
    if not isinstance(given, Mapping):
        raise UnknownOption(f"keywords = {given!r}: QCSchema requires a dictionary; available: {', '.join(KEYWORDS)}.")
    unknown = sorted(set(given) - set(KEYWORDS))
    if unknown:
        raise UnknownOption(f"There is no keyword {unknown[0]!r}; available: {', '.join(KEYWORDS)}.")
    return KEYWORDS | dict(given)


def _given(record, key, where):
    """A required entry of a dictionary. UnknownOption: it is missing."""
    if not hasattr(record, "get") or record.get(key) is None:
        raise UnknownOption(f"{where[0].upper()}{where[1:]} has no {key!r}: QCSchema requires it.")
    return record[key]


def _failed(atomic_input, kind, message):
    return {"id": atomic_input.get("id") if hasattr(atomic_input, "get") else None, "success": False,
            "input_data": atomic_input, "error": {"error_type": kind, "error_message": message, "extras": None},
            "extras": {"provenance": _provenance()}}


def _provenance():
    return {"creator": "nddo_ml", "version": nddo_ml.__version__, "routine": "nddo_ml.interfaces.qcschema.compute"}


def _list(tensor: torch.Tensor) -> list:
    """A flat list of numbers, as QCSchema stores arrays."""
    return tensor.detach().cpu().reshape(-1).tolist()
