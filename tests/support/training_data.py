"""Labels for tests of the training: small molecules whose reference is one of our own methods, PM3, so the truth is known."""

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.elements import dipole_masses

LABELLED_BY = "PM3"
MOLECULES = ("H2O", "NH3", "CH4", "CO", "HF", "HCN", "H2CO", "CH3OH")


def structures(frames=3, seed=5):
    """Distorted molecules, an ion, a radical, and the free atoms H, C, N, O, F, with charge and multiplicity in `info`."""
    random = np.random.default_rng(seed)
    found = []
    for name in MOLECULES:
        for _ in range(frames):
            found.append(_distorted(molecule(name), random, name, 0, 1, "core"))
    for _ in range(frames):
        ammonium = Atoms("NH4", [[0, 0, 0], [.6, .6, .6], [-.6, -.6, .6], [-.6, .6, -.6], [.6, -.6, -.6]])
        found.append(_distorted(ammonium, random, "[NH4+]", 1, 1, "ion"))
        found.append(_distorted(Atoms("OH", [[0, 0, 0], [0, 0, 0.97]]), random, "[OH]", 0, 2, "radical"))
    for symbol, multiplicity in (("H", 2), ("C", 3), ("N", 4), ("O", 3), ("F", 2)):
        found.append(Atoms(symbol, info={"charge": 0, "multiplicity": multiplicity, "smiles": f"[{symbol}]", "group": "radical",
                                         "how": "atom"}))
    return found


def label(found, method=LABELLED_BY):
    """Write reference labels of a method into the structures."""
    result = Hamiltonian(method)(
        Molecules.batch([a.numbers for a in found], [a.positions for a in found], [a.info["charge"] for a in found],
                        [a.info["multiplicity"] for a in found]), forces=True)
    for k, (atoms, forces) in enumerate(zip(found, result.forces.split(result.molecules.sizes), strict=True)):
        masses = dipole_masses(torch.from_numpy(atoms.numbers)).numpy()
        centre = (masses[:, None] * atoms.positions).sum(0) / masses.sum()
        atoms.arrays["ref_forces"] = forces.numpy()
        atoms.info |= {"ref_energy": float(result.energy[k]), "ref_gap": float(result.gap(k)),
                       "ref_dipole": result.dipole[k].numpy() + atoms.info["charge"] * centre}
        if atoms.info["multiplicity"] > 1:
            atoms.info["ref_s2"] = float(result.s2[k])
    return found


def write_labels(path, frames=3):
    """Write a file of labels; its structures."""
    found = label(structures(frames))
    write(path, found, format="extxyz")
    return found


def write_interactions(path, count=4):
    """Write labels of complexes and their molecules, of which only the interaction energies are any good."""
    found = []
    for k in range(count):
        a, b = molecule("H2O"), molecule("HF")
        b.translate([0, 0, 2.8 + 0.1 * k])
        for fragment, atoms in (("AB", a + b), ("A", a), ("B", b)):
            atoms.info = {"charge": 0, "multiplicity": 1, "smiles": "O.F", "group": "complex", "how": f"{k}",
                          "complex": f"O.F{k}@{k}", "fragment": fragment}
            found.append(atoms)
    for atoms in label(found):
        atoms.info["ref_energy"] += 500.0 * len(atoms)
        atoms.arrays["ref_forces"] *= -1
    write(path, found, format="extxyz")


def _distorted(atoms, random, smiles, charge, multiplicity, group):
    atoms = Atoms(atoms.numbers, atoms.positions + random.normal(0, 0.06, (len(atoms), 3)))
    atoms.info = {"charge": charge, "multiplicity": multiplicity, "smiles": smiles, "group": group, "how": "distorted"}
    return atoms
