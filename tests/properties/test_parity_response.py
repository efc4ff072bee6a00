"""Second derivatives against MOPAC: Hessians, frequencies, infrared intensities, polarizabilities, thermochemistry.

Golden values: groups 06 of the stored sample (differences of MOPAC 22.0.6 gradients and dipoles at its own minima, keywords in
the records) and the thermochemistry goldens of tools/mopac_goldens.py.
"""

from functools import cache

import numpy as np
import pytest
import torch
from support.reference import KCAL, group, load

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.properties.response import dipole_derivatives, hessian, polarizability
from nddo_ml.properties.thermochemistry import IdealGas, thermochemistry
from nddo_ml.properties.vibrations import ir_intensities, normal_modes
from nddo_ml.units import CODATA_2018

FREQUENCY = 1.0          # cm^-1, above LOW
LOW = 200.0
INTENSITY = 0.02         # relative; weak bands: 0.01 km/mol
POLARIZABILITY = 0.005   # relative to the isotropic value
METHODS = ("MNDO", "AM1", "PM3", "RM1", "PM6", "PM7")


@cache
def hamiltonian(method):
    return Hamiltonian(method)


def molecules(records):
    return Molecules.batch([r["numbers"] for r in records], [r["coordinates_angstrom"] for r in records],
                           [r["charge"] for r in records], [r["multiplicity"] for r in records])


@pytest.mark.parametrize("method", METHODS)
def test_vibrations(method):
    """Frequencies above 200 cm^-1 within 1 cm^-1, intensities within 2 %, the Hessian within its finite-difference noise."""
    records = [r for r in load() if group(r) == "06_frequencies" and r["method"] == method]
    assert len(records) == 5
    batch = molecules(records)
    second, slopes = hessian(hamiltonian(method), batch), dipole_derivatives(hamiltonian(method), batch)
    for r, H, dipole in zip(records, second, slopes, strict=True):
        results, n = r["results"], 3 * len(r["numbers"])
        name = f"{r['name']} {method}"
        expected = np.array(results["fd_hessian_kcal_mol_A2"]).reshape(n, n) / KCAL
        assert np.abs(H.numpy() - expected).max() < 2e-3, name                     # eV/angstrom^2 of up to 100
        found = normal_modes(H, results["atomic_masses_amu"], r["coordinates_angstrom"])
        frequencies = np.sort(np.array(results["fd_frequencies_cm-1"]))
        own = found.frequencies.numpy()
        high = frequencies > LOW
        assert np.abs(own - frequencies)[high].max() < FREQUENCY, name
        intensities = ir_intensities(dipole, found.modes).numpy()
        order = np.argsort(results["fd_frequencies_cm-1"])
        compare_bands(own, intensities, np.array(results["fd_ir_intensities_km_mol"])[order], name)


def compare_bands(frequencies, own, expected, name):
    """Intensities summed over degenerate levels, within 2 % or 0.01 km/mol."""
    level = np.concatenate([[0], np.cumsum(np.diff(frequencies) > 2.0)])
    ours, theirs = np.bincount(level, own), np.bincount(level, expected)
    assert (np.abs(ours - theirs) < INTENSITY * theirs + 0.01).all(), f"{name}: {ours} {theirs}"


@pytest.mark.parametrize("method", METHODS)
def test_polarizability(method):
    """Static polarizability within 0.5 %; molecules with d orbitals have no consistent value in MOPAC and are left out."""
    records = [r for r in load() if group(r) == "06_polarizability" and r["method"] == method and not r["has_d_orbitals"]]
    assert len(records) >= 12
    alpha = polarizability(hamiltonian(method), molecules(records)).numpy() / CODATA_2018.bohr**3
    for r, own in zip(records, alpha, strict=True):
        expected = np.array(r["results"]["polarizability_au"])
        limit = POLARIZABILITY * np.trace(expected) / 3
        assert np.abs(own - expected).max() < limit, f"{r['name']} {method}"
        assert np.abs(own - own.T).max() < 1e-8


@pytest.mark.parametrize("method", METHODS)
def test_thermochemistry(method):
    """Ideal-gas functions at 298 K and 1 atm: enthalpy, entropy, heat capacity of MOPAC to the difference of its constants."""
    records = [r for r in load("goldens.jsonl.gz") if r["kind"] == "thermochemistry" and r["method"] == method]
    assert len(records) == 6
    for r, H in zip(records, hessian(hamiltonian(method), molecules(records)), strict=True):
        results = r["results"]
        masses = results["atomic_masses_amu"]
        frequencies = normal_modes(H, masses, r["coordinates_angstrom"]).frequencies
        gas = thermochemistry(frequencies, r["numbers"], torch.tensor(r["coordinates_angstrom"]), masses,
                              IdealGas(temperature=results["temperature_K"], tolerance=2e-3))
        name = f"{r['name']} {method}"
        assert gas.symmetry_number == int(r["symmetry"]), name
        enthalpy = 1000 * (gas.enthalpy_correction_kcal_mol - gas.zero_point_energy_kcal_mol)
        assert abs(gas.zero_point_energy_kcal_mol - results["zero_point_energy_kcal_mol"]) < 0.02, name
        assert abs(enthalpy - results["enthalpy_cal_mol"]) < 3.0, name
        assert abs(gas.entropy_cal_mol_K - results["entropy_cal_K_mol"]) < 0.02, name
        assert abs(gas.heat_capacity_pressure_cal_mol_K - results["heat_capacity_cal_K_mol"]) < 0.02, name
