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
from nddo_ml.properties.arrays import Numbers, plain
from nddo_ml.properties.symmetry import TOLERANCE, point_group
from nddo_ml.properties.vibrations import WAVENUMBER_ENERGY
from nddo_ml.units import CODATA_2018

ATMOSPHERE = 101325.0   # Pa


@dataclass(frozen=True)
class IdealGas:
    """What the thermodynamic functions of an ideal gas need beside the geometry and the frequencies of its molecule."""

    energy: float = 0.0                     # eV, of the molecule at rest
    multiplicity: int = 1                   # 2S + 1: entropy k ln(2S + 1); there are no excited states
    temperature: float = 298.15             # K
    pressure: float = ATMOSPHERE            # Pa; ASE's default is 1e5
    symmetry_number: int | None = None      # None: that of the point group
    tolerance: float = TOLERANCE            # angstrom by which an atom may miss its image in the point group


@dataclass(frozen=True)
class Thermochemistry:
    """Thermodynamic functions of one molecule as an ideal gas. Imaginary modes were left out of everything."""

    energy: float                       # eV, of the molecule at rest
    zero_point_energy: float            # eV
    internal_energy: float              # eV; it, enthalpy and free energy contain `energy` and the zero-point energy
    enthalpy: float                     # eV
    entropy: float                      # eV/K, the sum of `entropies`
    free_energy: float                  # eV, of Gibbs
    heat_capacity: float                # eV/K at constant volume, the sum of `heat_capacities`
    entropies: dict[str, float]         # eV/K by name: translation, rotation, vibration, electronic
    heat_capacities: dict[str, float]   # eV/K by name
    temperature: float                  # K
    pressure: float                     # Pa
    symmetry_number: int                # as used for the rotational entropy, like point_group and shape
    point_group: str
    shape: str                          # "monatomic", "linear" or "nonlinear"
    imaginary: int                      # how many modes were left out

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


def thermochemistry(frequencies: Numbers, numbers: Numbers, positions: Numbers, masses: Numbers, gas: IdealGas = IdealGas()
                    ) -> Thermochemistry:
    """Ideal-gas thermodynamic functions from harmonic frequencies.

    frequencies (mode) in cm^-1 without translations and rotations (see vibrations.normal_modes), imaginary ones negative:
    they are excluded and counted. numbers, positions (angstrom) and masses (amu) of one molecule; isotopes are told apart by
    their mass. gas: what is not in the frequencies.

    Raises: InvalidMolecule, if the number of frequencies is not that of the molecule's vibrations, or temperature, pressure or
    symmetry number mean nothing.
    """
    nu, z, x, m = plain(frequencies), plain(numbers), plain(positions), plain(masses)
    _, kinds = np.unique(np.stack([z, m], -1), axis=0, return_inverse=True)
    group = point_group(kinds.ravel(), x, gas.tolerance)
    expected = 3 * len(z) - {"monatomic": 3, "linear": 5, "nonlinear": 6}[group.shape]
    if nu.size != expected:
        raise InvalidMolecule(f"{nu.size} frequencies for a {group.shape} molecule of {len(z)} atoms: "
                              f"expected {expected}, without translations and rotations.")
    temperature, pressure = gas.temperature, gas.pressure
    if not (temperature > 0 and pressure > 0):
        raise InvalidMolecule(f"Temperature {temperature} K and pressure {pressure} Pa: both must be positive.")
    number = group.number if gas.symmetry_number is None else gas.symmetry_number
    if number < 1 or number != int(number):
        raise InvalidMolecule(f"The symmetry number {gas.symmetry_number} must be a whole number of 1 or more.")
    ase = _ideal_gas(nu, group.shape, Atoms(["X"] * len(z), x, masses=m), gas, number)
    enthalpy, entropy = ase.get_enthalpy(temperature, verbose=False), ase.get_entropy(temperature, pressure, verbose=False)
    real = nu[nu > 0] * WAVENUMBER_ENERGY
    entropies = _entropies(group.shape, m.sum(), real, gas, entropy)
    capacities = _heat_capacities(group.shape, real, temperature)
    return Thermochemistry(
        float(gas.energy), float(ase.get_ZPE_correction()), float(ase.get_internal_energy(temperature, verbose=False)),
        float(enthalpy), float(entropy), float(enthalpy - temperature * entropy), sum(capacities.values()), entropies,
        capacities, float(temperature), float(pressure), int(number), group.name, group.shape, int((nu < 0).sum()))


def _ideal_gas(nu, shape, atoms, gas, number):
    """ASE's ideal gas; imaginary modes enter as imaginary energies, which ASE leaves out (and `Thermochemistry` counts)."""
    energies = np.where(nu < 0, 1j, 1) * np.abs(nu) * WAVENUMBER_ENERGY
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*imag modes removed")
        return IdealGasThermo(energies.tolist(), shape, potentialenergy=float(gas.energy), atoms=atoms,
                              symmetrynumber=int(number), spin=(gas.multiplicity - 1) / 2, ignore_imag_modes=True)


def _entropies(shape, mass, quanta, gas, total):
    """Entropy by name, eV/K: vibrations, k ln(multiplicity), Sackur-Tetrode translation; rotation: the rest of total."""
    x = quanta / (units.kB * gas.temperature)
    vibration = units.kB * float((x / np.expm1(x) - np.log1p(-np.exp(-x))).sum())
    electronic = float(units.kB * np.log(gas.multiplicity))
    thermal = si.k * gas.temperature
    states = (2 * np.pi * mass * si.atomic_mass * thermal / si.h**2) ** 1.5 * thermal / gas.pressure
    translation = float(units.kB * (np.log(states) + 2.5))
    rotation = 0.0 if shape == "monatomic" else float(total) - translation - vibration - electronic
    return {"translation": translation, "rotation": rotation, "vibration": vibration, "electronic": electronic}


def _heat_capacities(shape, quanta, temperature):
    """Heat capacity at constant volume by name, eV/K: 3/2 k; 0, 1 or 3/2 k of the rotor; k x^2 e^x/(e^x - 1)^2 of each mode."""
    x = quanta / (units.kB * temperature)
    vibration = float((x**2 * np.exp(-x) / np.expm1(-x) ** 2).sum())
    rotation = {"monatomic": 0.0, "linear": 1.0, "nonlinear": 1.5}[shape]
    return {"translation": 1.5 * units.kB, "rotation": rotation * units.kB, "vibration": vibration * units.kB}
