"""Drift of the total energy in NVE dynamics: eV per atom and picosecond, a slope fitted to the whole run.

    python tools/energy_drift.py neural alanine_dipeptide.xyz --ps 20 --png drift.png

Velocities are drawn at twice the temperature, so that the run is near it once half of the energy is in the potential.
"""

import argparse
import json
import time

import numpy as np
import torch
from ase import units
from ase.io import read
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from nddo_ml import NDDO, relax
from nddo_ml.interfaces.atoms import molecule


def trajectory(atoms, steps, timestep, every):
    """Times (ps), total energies (eV) and temperatures (K) of a run."""
    found = []
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    for k in range(0, steps + 1, every):
        found.append((k * timestep * 1e-3, atoms.get_total_energy(), atoms.get_temperature()))
        dynamics.run(every)
    return np.array(found).T


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("method")
    parser.add_argument("structure")
    parser.add_argument("--ps", type=float, default=20.0)
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--temperature", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    parser.add_argument("--png")
    given = parser.parse_args()
    torch.set_num_threads(1)
    atoms = read(given.structure)
    atoms.calc = NDDO(given.method)
    relaxed = relax(atoms.calc.model, molecule(atoms, atoms.calc.model.method), fmax=0.02)
    atoms.positions = relaxed.molecules.positions.numpy()
    random = np.random.default_rng(given.seed)
    thermalize_momenta(atoms, temperature_K=2 * given.temperature, rng=random)
    Stationary(atoms)
    ZeroRotation(atoms)
    began = time.perf_counter()
    steps = round(given.ps * 1e3 / given.timestep)
    t, E, T = trajectory(atoms, steps, given.timestep, max(1, steps // 400))
    slope = float(np.polyfit(t, E, 1)[0]) / len(atoms)
    said = {"method": given.method, "atoms": len(atoms), "ps": given.ps, "timestep_fs": given.timestep,
            "mean_temperature_K": float(T[len(T) // 5:].mean()), "drift_eV_per_atom_ps": slope,
            "fluctuation_eV_per_atom": float((E - np.polyval(np.polyfit(t, E, 1), t)).std()) / len(atoms),
            "ms_per_step": (time.perf_counter() - began) / steps * 1e3}
    print(json.dumps(said, indent=1))
    if given.json:
        with open(given.json, "w") as file:
            json.dump(said, file, indent=1)
    if given.png:
        draw(t, E, T, said, given.png)


def draw(t, E, T, said, path):
    """Energy and temperature against time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(6, 4.5), layout="constrained")
    above.plot(t, (E - E[0]) / said["atoms"] * 1e3, lw=0.8)
    above.set_ylabel("E - E(0), meV per atom")
    above.set_title(f"{said['method']}, {said['atoms']} atoms: {said['drift_eV_per_atom_ps']:.1e} eV per atom and ps")
    below.plot(t, T, lw=0.8, color="tab:red")
    below.set(xlabel="time, ps", ylabel="temperature, K")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
