"""From positions and parameters to the integrals of a batch: the differentiable part, every block of the Hamiltonian."""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.integrals.blocks import Integrals
from nddo_ml.integrals.dipole import dipole_blocks
from nddo_ml.integrals.external import PlacedAtoms, external
from nddo_ml.integrals.placed import Parameters
from nddo_ml.integrals.topology import Topology
from nddo_ml.integrals.two_centre import PairIntegrals, two_centre
from nddo_ml.molecules import NOTHING, Surroundings
from nddo_ml.pairs import Distances


def integrals(topology: Topology, positions: Float[Tensor, "atom 3"], distances: Distances, parameters: Parameters,
              surroundings: Surroundings = NOTHING, names: list[int] | None = None) -> Integrals:
    """The integrals of a batch from positions (angstrom) and the distances of its pairs.

    Raises:
        InvalidMolecule: a point charge lies on top of an atom. It calls the molecules by their `names`, if there are several.
    """
    layout, recipe = topology.layout, topology.recipe
    h_atoms = list(parameters.U)
    h_pairs, two, gammas, start = [], [], [], 0
    factors = parameters.resonance or [None] * len(layout.pairs)
    for group, species, sides, factor in zip(layout.pairs, topology.pair_species, parameters.sides, factors, strict=True):
        part = slice(start, start := start + len(group.i))
        pair = two_centre(species, distances.R[part], distances.u[part], sides, recipe, factor)
        a, b = group.groups
        if group.shells[0]:
            h_atoms[a] = h_atoms[a].index_add(0, group.row_i, pair.attraction_i)
        if group.shells[1]:
            h_atoms[b] = h_atoms[b].index_add(0, group.row_j, pair.attraction_j)
        h_pairs.append(_resonance(len(group.i), pair))
        two.append(pair.w)
        gammas.append(pair.gamma)
    core = positions.new_zeros(layout.molecules)
    if gammas:
        gamma = torch.cat(gammas)
        sides = parameters.core_i, parameters.core_j
        repulsion = recipe.core_energy(topology.rules, distances.R, gamma, *sides, parameters.pairs)
        if parameters.moved is not None:
            repulsion = repulsion + parameters.moved * gamma
        core = core.index_add(0, topology.molecule, repulsion)
    blocks = Integrals(h_atoms, h_pairs, list(parameters.one), two, core)
    if surroundings.field is not None:
        blocks = _in_field(blocks, topology, positions, parameters, surroundings.field)
    if surroundings.charges is not None:
        atoms = PlacedAtoms(layout, topology.elements, parameters.atoms, positions, names)
        potential, energy = external(atoms, surroundings.charges, recipe.constants, recipe.join is not None)
        blocks = _raised(blocks, potential, energy)
    return blocks


def _in_field(blocks: Integrals, topology: Topology, positions: Tensor, parameters: Parameters, field: Tensor) -> Integrals:
    """The blocks in a uniform electric field (molecule, 3), V/angstrom: -mu . field."""
    layout, atoms = topology.layout, parameters.atoms
    potential = []
    for group in layout.atoms:
        dipole = dipole_blocks(group, positions, atoms.D1, atoms.D_pd, topology.recipe.constants.bohr)
        potential.append(torch.einsum("kmx,kx->km", dipole, field.index_select(0, group.molecule)))
    energy = -(atoms.core[:, None] * positions * field.index_select(0, layout.molecule)).sum(1)
    return _raised(blocks, potential, positions.new_zeros(layout.molecules).index_add(0, layout.molecule, energy))


def _raised(blocks: Integrals, potential: list[Tensor], energy: Tensor) -> Integrals:
    """The blocks with a potential of the electrons of each group of atoms (k, m) and an energy of the cores (molecule), eV."""
    h_atoms = [h + V for h, V in zip(blocks.h_atoms, potential, strict=True)]
    return Integrals(h_atoms, blocks.h_pairs, blocks.one, blocks.two, blocks.core + energy)


def _resonance(pairs: int, values: PairIntegrals) -> Float[Tensor, "group_pair orbitals"]:
    """Resonance blocks of all pairs of a group, zero for the distant ones."""
    flat = values.resonance.flatten(1)
    return flat if len(flat) == pairs else flat.new_zeros(pairs, flat.shape[1]).index_copy(0, values.near, flat)
