"""Thermochemistry against textbook statistical mechanics, tabulated gases and the limits of the formulas."""

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule

from nddo_ml.errors import InvalidMolecule
from nddo_ml.properties.thermochemistry import IdealGas, thermochemistry

WATER = molecule("H2O")
FUNDAMENTALS = {"H2O": [1595.0, 3657.0, 3756.0], "N2": [2330.0], "CO2": [667.0, 667.0, 1333.0, 2349.0],
                "CH4": [1306.0] * 3 + [1534.0] * 2 + [2917.0] + [3019.0] * 3}


def of(name, frequencies=None, **options):
    a = molecule(name)
    frequencies = FUNDAMENTALS[name] if frequencies is None else frequencies
    return thermochemistry(frequencies, a.numbers, a.positions, a.get_masses(), IdealGas(**options))


@pytest.mark.parametrize(("name", "entropy", "capacity"), [("H2O", 188.8, 33.6), ("N2", 191.6, 29.1), ("CO2", 213.8, 37.1),
                                                           ("CH4", 186.3, 35.7)])
def test_standard_entropies_of_gases(name, entropy, capacity):
    """J/mol/K at 298.15 K and 1 bar, NIST-JANAF tables, to 0.6: ASE's N2 bond is 3 % long, k ln(1.03^2) = 0.48."""
    t = of(name, pressure=1e5)
    assert t.entropy * units.mol / units.J == pytest.approx(entropy, abs=0.6)
    assert t.heat_capacity_pressure * units.mol / units.J == pytest.approx(capacity, abs=0.2)


def test_atom():
    t = thermochemistry([], [18], [[0.0, 0, 0]], [39.948], IdealGas(energy=-3.0, pressure=1e5))
    assert (t.shape, t.symmetry_number, t.zero_point_energy, t.entropies["rotation"]) == ("monatomic", 1, 0.0, 0.0)
    assert t.entropy * units.mol / units.J == pytest.approx(154.84, abs=0.02)
    assert t.enthalpy == pytest.approx(-3 + 2.5 * units.kB * 298.15, abs=1e-12)


@pytest.mark.parametrize("name", FUNDAMENTALS)
def test_parts_add_up(name):
    t = of(name, energy=-10.0, multiplicity=3, temperature=400.0, pressure=2e5)
    assert sum(t.entropies.values()) == pytest.approx(t.entropy, abs=1e-15)
    assert t.free_energy == pytest.approx(t.enthalpy - 400 * t.entropy, abs=1e-12)
    assert t.enthalpy == pytest.approx(t.internal_energy + units.kB * 400, abs=1e-12)
    assert t.entropies["electronic"] == pytest.approx(units.kB * np.log(3), abs=1e-15)
    assert t.zero_point_energy_kcal_mol == pytest.approx(sum(FUNDAMENTALS[name]) / 2 * 2.8591e-3, rel=1e-4)
    assert t.enthalpy_correction == pytest.approx(t.enthalpy + 10.0)


def test_rotational_entropy_of_water():
    """k (ln(sqrt(pi Ia Ib Ic) (8 pi^2 k T / h^2)^3/2 / 2) + 3/2): the part left by the other three is ASE's rotor."""
    one, two = of("H2O", symmetry_number=1), of("H2O")
    assert (two.symmetry_number, two.point_group) == (2, "C2v")
    assert one.entropy - two.entropy == pytest.approx(units.kB * np.log(2), abs=1e-14)
    inertia = WATER.get_moments_of_inertia() * units._amu * 1e-20
    states = np.sqrt(np.pi * inertia.prod()) * (8 * np.pi**2 * units._k * 298.15 / units._hplanck**2) ** 1.5 / 2
    assert two.entropies["rotation"] == pytest.approx(units.kB * (np.log(states) + 1.5), rel=1e-6)


def test_heat_capacity_is_the_slope_of_the_energy():
    """Cv = dU/dT, central difference over 2 K: error of order (dT/T)^2 = 1e-5."""
    for name in FUNDAMENTALS:
        slope = (of(name, temperature=301.0).internal_energy - of(name, temperature=299.0).internal_energy) / 2
        assert of(name, temperature=300.0).heat_capacity == pytest.approx(slope, rel=1e-4)


def test_imaginary_modes_are_left_out_and_counted():
    t = of("H2O", [-500.0, 3657.0, 3756.0])
    assert t.imaginary == 1
    assert t.zero_point_energy == pytest.approx(of("H2O", [1e-9, 3657.0, 3756.0]).zero_point_energy, abs=1e-9)
    assert of("H2O").imaginary == 0


def test_isotopes_lower_the_symmetry():
    numbers, positions = torch.tensor([8, 1, 1]), torch.tensor(WATER.positions)
    assert thermochemistry(FUNDAMENTALS["H2O"], numbers, positions, torch.tensor([16.0, 1.0, 2.0])).symmetry_number == 1


def test_refusals():
    with pytest.raises(InvalidMolecule, match=r"2 frequencies for a nonlinear molecule of 3 atoms: expected 3"):
        of("H2O", [1000.0, 2000.0])
    with pytest.raises(InvalidMolecule, match="Temperature"):
        of("H2O", temperature=0.0)
    with pytest.raises(InvalidMolecule, match="symmetry number"):
        of("H2O", symmetry_number=0)
