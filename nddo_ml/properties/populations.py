"""Charges, dipole, spin populations and <S^2>: contractions of a density."""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.integrals.dipole import dipole_blocks
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.topology import Topology
from nddo_ml.molecules import Molecules
from nddo_ml.orbitals import atom_densities, flattened
from nddo_ml.properties.centres import centres_of_mass


def populations(topology: Topology, D: Float[Tensor, "molecule spin orbital orbital"], molecules: Molecules,
                atoms: AtomIntegrals) -> dict[str, Tensor]:
    """charges and spin_populations `atom` (e, Coulson), dipole `molecule 3` (e angstrom, of an ion about its centre of mass)
    and s2 `molecule`, by name.

    q_A = Z_A - sum_i P_ii;  mu = sum_A Z_A r_A - sum P_ij D_ij;  <S^2> = S_z (S_z + 1) + n_beta - tr D_alpha D_beta
    """
    layout, core, spins = topology.layout, atoms.core, D.shape[1]
    flat = flattened(D)
    P = (2.0 / spins) * flat.sum(-1, keepdim=True)
    charges, spin = core.clone(), torch.zeros_like(core)
    dipole = torch.zeros_like(molecules.positions[:1]).expand(layout.molecules, 3)
    dipole = dipole.index_add(0, molecules.molecule, core[:, None] * molecules.positions)
    for group in layout.atoms:
        packed = atom_densities(group, P)[..., 0]
        diagonal = (group.weight == 1).to(packed.dtype)
        charges = charges.index_add(0, group.atoms, -(packed * diagonal).sum(1))
        if spins == 2:
            own = atom_densities(group, flat)
            spin = spin.index_add(0, group.atoms, ((own[..., 0] - own[..., 1]) * diagonal).sum(1))
        blocks = dipole_blocks(group, molecules.positions, atoms.D1, atoms.D_pd, topology.recipe.constants.bohr)
        dipole = dipole.index_add(0, group.molecule, -(packed[..., None] * blocks).sum(1))
    s_z = molecules.unpaired.to(D.dtype) / 2
    s2 = s_z * (s_z + 1)
    if spins == 2:
        s2 = s2 + D[:, 1].diagonal(dim1=1, dim2=2).sum(1) - (D[:, 0] * D[:, 1]).sum((1, 2))
    return {"charges": charges, "dipole": about_centre_of_mass(dipole, molecules), "spin_populations": spin, "s2": s2}


def about_centre_of_mass(dipole: Float[Tensor, "molecule 3"], molecules: Molecules) -> Float[Tensor, "molecule 3"]:
    """The dipole (e angstrom) about the origin as one about the centre of mass; the same for neutral molecules."""
    if not bool((molecules.charge != 0).any()):
        return dipole
    return dipole - molecules.charge.to(dipole.dtype)[:, None] * centres_of_mass(molecules)
