"""Langevin dynamics: molecules that move in a bath of a given temperature.

    m dv = F dt - m friction v dt + sqrt(2 m friction k_B T) dW        T: temperature of the bath, W: a Wiener process

is propagated by the splitting BAOAB: half a kick by the forces (B), half a drift (A), the bath's part exactly (O), half a drift
(A), half a kick (B). A step asks for forces once, between `moved` (B A O A) and `kicked` (B); without friction it is velocity
Verlet. B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34.

Nothing here knows where forces come from: many_molecules.py has those of a Hamiltonian for many trajectories at once.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import units
from jaxtyping import Float, Int

from nddo_ml.elements import masses


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One molecule in motion, at one moment. Velocities are in ASE's unit, angstrom sqrt(eV/(amu angstrom^2))."""

    numbers: Int[np.ndarray, "atom"]            # atomic numbers
    positions: Float[np.ndarray, "atom 3"]      # angstrom
    velocities: Float[np.ndarray, "atom 3"]
    masses: Float[np.ndarray, "atom 1"]         # amu
    temperature: float                          # of its bath, K
    charge: int = 0                             # e
    multiplicity: int = 1                       # 2S + 1

    @property
    def thermal(self) -> Float[np.ndarray, "atom 1"]:
        """Width of the distribution of each component of the velocities at equilibrium, sqrt(k_B T / m)."""
        return np.sqrt(units.kB * self.temperature / self.masses)

    @property
    def kinetic_energy(self) -> float:
        """Kinetic energy, eV."""
        return float(0.5 * (self.masses * self.velocities**2).sum())


@dataclass(frozen=True)
class Langevin:
    """The propagator."""

    time_step: float        # fs
    friction: float         # 1/fs

    def moved(self, trajectory: Trajectory, forces: Float[np.ndarray, "atom 3"], rng: np.random.Generator) -> Trajectory:
        """The positions at the end of a step, and velocities that lack its last half kick.

        v <- v + dt/2 F/m;  x <- x + dt/2 v;  v <- c v + sqrt(1 - c^2) sqrt(k_B T/m) xi;  x <- x + dt/2 v
        with c = exp(-friction dt), xi: standard normal. forces F: at the beginning of the step, eV/angstrom.
        """
        dt, keep = self.time_step * units.fs, np.exp(-self.friction * self.time_step)
        x, v = trajectory.positions, trajectory.velocities
        v = v + dt / 2 * forces / trajectory.masses
        x = x + dt / 2 * v
        v = keep * v + np.sqrt(1 - keep**2) * trajectory.thermal * rng.standard_normal(x.shape)
        x = x + dt / 2 * v
        return replace(trajectory, positions=x, velocities=v)

    def kicked(self, trajectory: Trajectory, forces: Float[np.ndarray, "atom 3"]) -> Trajectory:
        """The trajectory at the end of a step, from what `moved` gave. forces: at these positions, eV/angstrom."""
        dt = self.time_step * units.fs
        return replace(trajectory, velocities=trajectory.velocities + dt / 2 * forces / trajectory.masses)


def thermal_velocities(trajectory: Trajectory, rng: np.random.Generator) -> Trajectory:
    """The trajectory with velocities drawn from the Maxwell-Boltzmann distribution of its temperature."""
    return replace(trajectory, velocities=trajectory.thermal * rng.standard_normal(trajectory.positions.shape))


def at_rest(numbers: Int[np.ndarray, "atom"], positions: Float[np.ndarray, "atom 3"], temperature: float, charge: int = 0,
            multiplicity: int = 1) -> Trajectory:
    """A molecule of the elements' standard masses at rest, in a bath of a temperature (K); positions in angstrom."""
    mass = masses(torch.as_tensor(numbers)).numpy()[:, None]
    return Trajectory(numbers, positions.copy(), np.zeros_like(positions), mass, temperature, charge, multiplicity)
