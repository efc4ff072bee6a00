"""Molecules put beside each other, and among point charges: random orientations, given contacts."""

from dataclasses import replace

import numpy as np
from ase.data import vdw_radii
from jaxtyping import Float

from nddo_ml.labels.structures import Structure

CONTACT = 2.0                       # angstrom; largest van der Waals radius that counts
WATER = np.array([[0, 0, 0], [0.7569, 0.5859, 0], [-0.7569, 0.5859, 0]])      # O, H, H; angstrom
WATER_CHARGES = (-0.834, 0.417, 0.417)     # e; TIP3P, J. Chem. Phys. 79, 926 (1983)
WATERS = 4, 20                      # at least, fewer than
NEAREST = 2.2                       # angstrom; of a water's atoms to an atom of the structure
APART = 2.6                         # angstrom; between oxygens
SHELL = 7.0                         # angstrom; waters are placed so far beyond the outermost atom, at most
TRIES = 5000                        # of placing a water
IONIC = 0.4                         # of the structures have an ion in place of a water


def placed(first: Structure, second: Structure, scale: float, rng: np.random.Generator) -> tuple[Structure, Structure]:
    """Two molecules, randomly turned, the second moved along z until the nearest contact is `scale` van der Waals distances."""
    x, y = ((s.positions - s.positions.mean(0)) @ rotation(rng).T for s in (first, second))
    radii = [np.minimum(np.nan_to_num(vdw_radii[s.numbers], nan=CONTACT), CONTACT) for s in (first, second)]
    least = scale * (radii[0][:, None] + radii[1][None])
    d = y[None] - x[:, None]
    across = (d[..., :2] ** 2).sum(-1)
    near = across < least**2
    # the farthest shift at which some pair is exactly at its distance: beyond it all are farther apart
    shift = (np.sqrt(np.where(near, least**2 - across, 0)) - d[..., 2])[near].max() if near.any() else 0.0
    return replace(first, positions=x), replace(second, positions=y + [0, 0, shift])


def joined(a: Structure, b: Structure, how: str) -> Structure:
    """Two molecules as one structure; unpaired electrons are parallel."""
    smiles = f"{a.smiles}.{b.smiles}" if a.smiles and b.smiles else ""
    return Structure(np.concatenate([a.numbers, b.numbers]), np.concatenate([a.positions, b.positions]), a.charge + b.charge,
                     a.multiplicity + b.multiplicity - 1, smiles=smiles, group="complex", how=how, source=a.source)


def surrounded(structure: Structure, rng: np.random.Generator) -> Structure:
    """The structure among the point charges of 4 to 19 random waters (TIP3P), NEAREST or more from its atoms; two times in five
    one of them is replaced by a monovalent ion.
    """
    centre = structure.positions.mean(0)
    reach = np.linalg.norm(structure.positions - centre, axis=1).max() + SHELL
    wanted, waters = int(rng.integers(*WATERS)), []       # each of the latter: x, y, z, charge of its three atoms
    for _ in range(TRIES):
        oxygen = centre + rng.uniform(-reach, reach, 3)
        water = WATER @ rotation(rng).T + oxygen
        far = np.linalg.norm(water[:, None] - structure.positions[None], axis=-1).min() > NEAREST
        if far and all(np.linalg.norm(oxygen - other[0, :3]) > APART for other in waters):
            waters.append(np.column_stack([water, WATER_CHARGES]))
        if len(waters) == wanted:
            break
    if rng.random() < IONIC:
        k = int(rng.integers(len(waters)))
        waters[k] = np.append(waters[k][0, :3], rng.choice([-1.0, 1.0]))[None]
    return replace(structure, point_charges=np.concatenate(waters))


def rotation(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """The matrix of a rotation drawn uniformly (from a normalised quaternion of normal numbers)."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                     [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                     [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
