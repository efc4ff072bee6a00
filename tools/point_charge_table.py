"""How methods respond to external point charges, against labels: the table of docs/howto/point_charges.md.

    python tools/point_charge_table.py LABELS.extxyz AM1 PM6

LABELS: frames with info pc_positions (flattened, angstrom), pc_charges (e), ref_pc_forces (eV/angstrom), ref_energy (eV) and
array ref_forces, and for each of them a frame of the same geometry without charges. Columns: mean absolute errors of the forces
on the charges (kcal/mol/angstrom), the interaction energy (kcal/mol), the change of the forces on the atoms (kcal/mol/angstrom)
and of the dipole (D), each followed by the mean absolute reference; relative root mean square errors of the forces on charges
nearer than 3, 3 to 5 and more than 5 angstrom from an atom.
"""

import sys

import numpy as np
import torch
from ase.io import read

from nddo_ml import Hamiltonian, Molecules, PointCharges
from nddo_ml.units import CODATA_2018

RANGES = ((0, 3), (3, 5), (5, np.inf))


def couples(frames):
    """(embedded frame, the same geometry without charges) wherever there are both."""
    plain = {}
    for atoms in frames:
        if "pc_positions" not in atoms.info:
            plain[_key(atoms)] = atoms
    embedded = [atoms for atoms in frames if "pc_positions" in atoms.info]
    return [(atoms, plain[_key(atoms)]) for atoms in embedded if _key(atoms) in plain]


def _key(atoms):
    return tuple(atoms.numbers), atoms.info["charge"], atoms.info["multiplicity"], atoms.positions.round(5).tobytes()


def charges(atoms):
    """Positions and values of the charges of a frame."""
    return np.reshape(atoms.info["pc_positions"], (-1, 3)), np.atleast_1d(atoms.info["pc_charges"]).astype(float)


def reference(found):
    """Forces on charges, interaction energies, changes of the forces on atoms and of the dipoles."""
    return (np.concatenate([np.reshape(a.info["ref_pc_forces"], (-1, 3)) for a, _ in found]),
            np.array([a.info["ref_energy"] - b.info["ref_energy"] for a, b in found]),
            np.concatenate([a.arrays["ref_forces"] - b.arrays["ref_forces"] for a, b in found]),
            np.array([a.info["ref_dipole"] - b.info["ref_dipole"] for a, b in found]))


def calculated(method, found):
    """The same from a method."""
    model, frames = Hamiltonian(method), [a for a, _ in found]
    molecules = Molecules.batch([a.numbers for a in frames], [a.positions for a in frames], [a.info["charge"] for a in frames],
                                [a.info["multiplicity"] for a in frames])
    sites = PointCharges.batch(*zip(*map(charges, frames), strict=True))
    with_charges, without = model(molecules, point_charges=sites, forces=True), model(molecules, forces=True)
    quantities = (with_charges.point_charge_forces, with_charges.energy - without.energy, with_charges.forces - without.forces,
                  with_charges.dipole - without.dipole)
    return [q.detach().numpy() for q in quantities]


def main(path, *methods):
    torch.set_num_threads(1)
    found = couples(read(path, ":"))
    wanted, kcal, debye = reference(found), CODATA_2018.kcal_mol, CODATA_2018.debye
    near = np.concatenate([np.linalg.norm(charges(a)[0][:, None] - a.positions[None], axis=-1).min(1) for a, _ in found])
    sizes = ", ".join(str(int(((near >= low) & (near < high)).sum())) for low, high in RANGES)
    print(f"{len(found)} frames, {len(near)} charges ({sizes} by distance)")
    for method in methods:
        got = calculated(method, found)
        errors = [f"{np.abs(g - w).mean() * unit:.3f} of {np.abs(w).mean() * unit:.3f}"
                  for g, w, unit in zip(got, wanted, (kcal, kcal, kcal, debye), strict=True)]
        relative = []
        for low, high in RANGES:
            chosen = (near >= low) & (near < high)
            relative.append(f"{np.sqrt(((got[0] - wanted[0])[chosen]**2).sum() / (wanted[0][chosen]**2).sum()):.2f}")
        print(f"| {method} | {' | '.join(errors)} | {' | '.join(relative)} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
