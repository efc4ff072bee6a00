"""Ideal-gas thermochemistry (rigid rotor, harmonic oscillator) in the conventions of ASE.

NDDO heats of formation were fitted to 298.15 K and already contain zero-point and thermal energy on average. So never add
`zero_point_energy` or the enthalpy correction at 298 K to a heat of formation: that counts them twice. Corrections belong on
the total energy (`energy`); to a heat of formation add only the change from 298.15 K to another temperature.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.thermochemistry import IdealGasThermo
from scipy import constants as si

from nddo_ml.errors import InvalidMolecule
from nddo_ml.properties.symmetry import TOLERANCE, point_group
from nddo_ml.properties.vibrations import WAVENUMBER_ENERGY
from nddo_ml.units import CODATA_2018

ATMOSPHERE = 101325.0   # Pa


@dataclass(frozen=True)
class Thermochemistry:
    """Thermodynamic functions of one molecule as an ideal gas; energies in eV, entropy and heat capacities in eV/K.

    internal_energy, enthalpy, free_energy (Gibbs) contain `energy` and the zero-point energy; `entropy` at `pressure` (Pa) and
    `temperature` (K) is the sum of `entropies` by name, heat_capacity (constant volume) that of `heat_capacities` by name.
    `imaginary` modes were left out of everything. point_group, shape and symmetry_number as used for the rotational entropy.
    """

    energy: float
    zero_point_energy: float
    internal_energy: float
    enthalpy: float
    entropy: float
    free_energy: float
    heat_capacity: float
    entropies: dict[str, float]
    heat_capacities: dict[str, float]
    temperature: float
    pressure: float
    symmetry_number: int
    point_group: str
    shape: str
    imaginary: int

    @property
    def heat_capacity_pressure(self) -> float:
        """Cp = Cv + k, eV/K."""
        return self.heat_capacity + units.kB

    @property
    def enthalpy_correction(self) -> float:
        """H(T) - energy, eV. Not for NDDO heats of formation, which are at 298 K already."""
        return self.enthalpy - self.energy

    @property
    def free_energy_correction(self) -> float:
        """G(T, p) - energy, eV. Not for NDDO heats of formation, which are at 298 K already."""
        return self.free_energy - self.energy

    @property
    def zero_point_energy_kcal_mol(self) -> float:
        """Zero-point energy, kcal/mol."""
        return self.zero_point_energy * CODATA_2018.kcal_mol

    @property
    def enthalpy_correction_kcal_mol(self) -> float:
        """H(T) - energy, kcal/mol."""
        return self.enthalpy_correction * CODATA_2018.kcal_mol

    @property
    def free_energy_correction_kcal_mol(self) -> float:
        """G(T, p) - energy, kcal/mol."""
        return self.free_energy_correction * CODATA_2018.kcal_mol

    @property
    def entropy_cal_mol_K(self) -> float:
        """Entropy, cal/mol/K."""
        return self.entropy * CODATA_2018.kcal_mol * 1000

    @property
    def heat_capacity_pressure_cal_mol_K(self) -> float:
        """Cp, cal/mol/K."""
        return self.heat_capacity_pressure * CODATA_2018.kcal_mol * 1000


def thermochemistry(frequencies, numbers, positions, masses, energy=0.0, multiplicity=1, temperature=298.15,
                    pressure=ATMOSPHERE, symmetry_number=None, tolerance=TOLERANCE) -> Thermochemistry:
    """Ideal-gas thermodynamic functions from harmonic frequencies.

    frequencies (mode) in cm^-1 without translations and rotations (see vibrations.normal_modes), imaginary ones negative:
    they are excluded and counted. numbers, positions (angstrom) and masses (amu) of one molecule, energy in eV, pressure in Pa
    (one atmosphere; ASE's default is 1e5). The symmetry number is detected (isotopes are told apart by mass) unless given.
    Electronic entropy k ln(multiplicity); no excited states. InvalidMolecule: wrong number of frequencies, T or p not positive.
    """
    frequencies, masses, positions, numbers = (np.asarray(t.detach().cpu() if hasattr(t, "detach") else t, dtype=float)
                                               for t in (frequencies, masses, positions, numbers))
    _, kinds = np.unique(np.stack([numbers, masses], -1), axis=0, return_inverse=True)
    group = point_group(kinds.ravel(), positions, tolerance)
    expected = 3 * len(numbers) - {"monatomic": 3, "linear": 5, "nonlinear": 6}[group.shape]
    if frequencies.size != expected:
        raise InvalidMolecule(f"{frequencies.size} frequencies for a {group.shape} molecule of {len(numbers)} atoms: "
                              f"expected {expected}, without translations and rotations.")
    if not (temperature > 0 and pressure > 0):
        raise InvalidMolecule(f"Temperature {temperature} K and pressure {pressure} Pa: both must be positive.")
    number = group.number if symmetry_number is None else symmetry_number
    if number < 1 or number != int(number):
        raise InvalidMolecule(f"The symmetry number {symmetry_number} must be a whole number of 1 or more.")
    atoms = Atoms(["X"] * len(numbers), positions, masses=masses)
    gas = _ideal_gas(frequencies, group.shape, atoms, energy, number, multiplicity)
    enthalpy, entropy = gas.get_enthalpy(temperature, verbose=False), gas.get_entropy(temperature, pressure, verbose=False)
    real = frequencies[frequencies > 0] * WAVENUMBER_ENERGY
    entropies = _entropies(group.shape, masses.sum(), real, temperature, pressure, multiplicity, entropy)
    capacities = _heat_capacities(group.shape, real, temperature)
    return Thermochemistry(
        float(energy), float(gas.get_ZPE_correction()), float(gas.get_internal_energy(temperature, verbose=False)),
        float(enthalpy), float(entropy), float(enthalpy - temperature * entropy), sum(capacities.values()), entropies,
        capacities, float(temperature), float(pressure), int(number), group.name, group.shape, int((frequencies < 0).sum()))


def _ideal_gas(frequencies, shape, atoms, energy, number, multiplicity):
    """ASE's ideal gas; imaginary modes enter as imaginary energies, which ASE leaves out (and `Thermochemistry` counts)."""
    energies = np.where(frequencies < 0, 1j, 1) * np.abs(frequencies) * WAVENUMBER_ENERGY
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*imag modes removed")
        return IdealGasThermo(energies.tolist(), shape, potentialenergy=float(energy), atoms=atoms, symmetrynumber=int(number),
                              spin=(multiplicity - 1) / 2, ignore_imag_modes=True)


def _entropies(shape, mass, quanta, temperature, pressure, multiplicity, total):
    """Entropy by name, eV/K: vibrations, k ln(multiplicity), Sackur-Tetrode translation; rotation: the rest of total."""
    x = quanta / (units.kB * temperature)
    vibration = units.kB * float((x / np.expm1(x) - np.log1p(-np.exp(-x))).sum())
    electronic = float(units.kB * np.log(multiplicity))
    thermal = si.k * temperature
    states = (2 * np.pi * mass * si.atomic_mass * thermal / si.h**2) ** 1.5 * thermal / pressure
    translation = float(units.kB * (np.log(states) + 2.5))
    rotation = 0.0 if shape == "monatomic" else float(total) - translation - vibration - electronic
    return {"translation": translation, "rotation": rotation, "vibration": vibration, "electronic": electronic}


def _heat_capacities(shape, quanta, temperature):
    """Heat capacity at constant volume by name, eV/K: 3/2 k; 0, 1 or 3/2 k of the rotor; k x^2 e^x/(e^x - 1)^2 of each mode."""
    x = quanta / (units.kB * temperature)
    vibration = float((x**2 * np.exp(-x) / np.expm1(-x) ** 2).sum())
    rotation = {"monatomic": 0.0, "linear": 1.0, "nonlinear": 1.5}[shape]
    return {"translation": 1.5 * units.kB, "rotation": rotation * units.kB, "vibration": vibration * units.kB}
