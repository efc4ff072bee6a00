"""From coordinates and parameters to the integrals of a batch.

`Topology` is what the species decide: layout, element data, the core-core rule of every pair. It is made once per molecule.
`assemble` is the differentiable part: positions and parameters in, every block of the Hamiltonian out. Parameters come as one
record per atom and per pair and may have been shifted by a network; the integrals do not know.
"""

from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.integrals.blocks import Integrals
from nddo_ml.integrals.corrections.geometry import Composition
from nddo_ml.integrals.dipole import dipole_blocks
from nddo_ml.integrals.external import PlacedAtoms, external
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.nuclear import CoreParameters, PairValues, core_parameters
from nddo_ml.integrals.one_centre import one_centre
from nddo_ml.integrals.pair_species import PairSpecies, has_own_core, pair_species
from nddo_ml.integrals.parameters import AtomParameters, Elements, gather
from nddo_ml.integrals.two_centre import two_centre
from nddo_ml.methods import Method
from nddo_ml.molecules import COINCIDENT, Molecules, PointCharges, coinciding
from nddo_ml.orbitals import Layout, layout, packed_pairs


@record
class Topology:
    """What the species of a batch decide: rows of the method's table and element data of each atom, layout, atoms i and j of
    all pairs in the order of the layout's groups, their molecule, core-core rules; the species of each group; what the
    corrections look at.
    """

    rows: Int[Tensor, "atom"]
    elements: Elements
    layout: Layout
    i: Int[Tensor, "pair"]
    j: Int[Tensor, "pair"]
    molecule: Int[Tensor, "pair"]
    rules: object
    pair_species: tuple[PairSpecies, ...]
    composition: Composition


def topology(method: Method, molecules: Molecules) -> Topology:
    """The topology of molecules; MissingParameter if the method lacks a species."""
    device = molecules.numbers.device
    rows = method.rows(molecules.numbers)
    elements = gather(method.elements, rows.cpu()) if device.type == "cpu" else gather(_on(method.elements, device), rows)
    lay = layout(elements.n_ao.cpu(), molecules.molecule.cpu(), len(molecules), device)
    empty = rows.new_zeros(0)
    i, j, owner = (
        torch.cat([getattr(g, name) for g in lay.pairs]) if lay.pairs else empty for name in ("i", "j", "molecule")
    )
    own_core = has_own_core(method.parameters.rho_core, method.elements).to(device).index_select(0, rows)
    species = tuple(pair_species(g.shells, gather(elements, g.i), gather(elements, g.j),
                                 bool((own_core[g.i] | own_core[g.j]).any())) for g in lay.pairs)
    return Topology(rows, elements, lay, i, j, owner, method.core_rules(rows[i], rows[j]), species,
                    Composition.of(molecules, i, j))


@record
class Parameters:
    """Every parameter of a batch where it is used, none of it dependent on the positions: A per atom, A of both atoms of each
    pair group, core parameters of both atoms of each pair and of the pair itself; one-electron and two-electron blocks of the
    free atoms by group; factors of the resonance integrals of each pair group (pair, n_i n_j) in the frame of the pair, alike
    for equal shells and m (None: 1). moved: change of the product of the core charges of each pair (None: none).
    """

    A: AtomIntegrals
    A_pairs: list
    P_i: CoreParameters
    P_j: CoreParameters
    pairs: PairValues
    U: list
    one: list
    resonance: list | None = None
    moved: Float[Tensor, "pair"] | None = None


def spread(top: Topology, A: AtomIntegrals, P: AtomParameters, pairs: PairValues) -> Parameters:
    """Parameters per atom carried to the pairs and into the blocks of the free atoms."""
    core = core_parameters(P)
    of_groups = [gather(A, g.atoms) for g in top.layout.atoms]
    of_pairs = [(gather(A, g.i), gather(A, g.j)) for g in top.layout.pairs]
    return Parameters(A, of_pairs, gather(core, top.i), gather(core, top.j), pairs,
                      [_one_electron(g.orbitals, found) for g, found in zip(top.layout.atoms, of_groups, strict=True)],
                      [one_centre(found, g.orbitals) for g, found in zip(top.layout.atoms, of_groups, strict=True)])


def distances(top: Topology, positions: Float[Tensor, "atom 3"], names=None) -> tuple[Tensor, Tensor]:
    """R (pair) in angstrom and the unit vectors u (pair, 3) from i to j. Two atoms on one spot raise InvalidMolecule, which
    calls the molecules by their `names` if there are several.
    """
    d = positions.index_select(0, top.j) - positions.index_select(0, top.i)
    R = d.square().sum(1).sqrt()
    if len(R) and not float(R.detach().min()) >= COINCIDENT:
        k = int(R.detach().argmin())
        raise coinciding(top.layout.molecule, names, int(top.i[k]), int(top.j[k]), float(R.detach()[k]))
    return R, d / R[:, None]


def assemble(
    method: Method,
    top: Topology,
    positions: Float[Tensor, "atom 3"],
    R: Float[Tensor, "pair"],
    u: Float[Tensor, "pair 3"],
    p: Parameters,
    field: Float[Tensor, "molecule 3"] | None = None,
    charges: PointCharges | None = None,
    names=None,
) -> Integrals:
    """The integrals of a batch (eV) from positions and the `distances` of its pairs; field: uniform electric field of each
    molecule, V/angstrom; charges: around them, names as for `distances`."""
    lay, constants = top.layout, method.constants
    h_atoms = list(p.U)
    h_pairs, two, gammas, start = [], [], [], 0
    recipe = method.recipe
    for k, (group, species, atoms) in enumerate(zip(lay.pairs, top.pair_species, p.A_pairs, strict=True)):
        part = slice(start, start := start + len(group.i))
        found = two_centre(species, R[part], u[part], atoms, recipe, None if p.resonance is None else p.resonance[k])
        a, b = group.groups
        if group.shells[0]:
            h_atoms[a] = h_atoms[a].index_add(0, group.row_i, found.attraction_i)
        if group.shells[1]:
            h_atoms[b] = h_atoms[b].index_add(0, group.row_j, found.attraction_j)
        h_pairs.append(_blocks(len(group.i), found))
        two.append(found.w)
        gammas.append(found.gamma)
    core = positions.new_zeros(lay.molecules)
    if gammas:
        repulsion = method.core_core.energy(top.rules, R, torch.cat(gammas), p.P_i, p.P_j, p.pairs)
        if p.moved is not None:
            repulsion = repulsion + p.moved * torch.cat(gammas)
        core = core.index_add(0, top.molecule, repulsion)
    if field is not None:
        for k, group in enumerate(lay.atoms):
            D = dipole_blocks(group, positions, p.A.D1, p.A.D_pd, constants.bohr)
            h_atoms[k] = h_atoms[k] + torch.einsum("kmx,kx->km", D, field.index_select(0, group.molecule))
        energy = -(p.A.core[:, None] * positions * field.index_select(0, lay.molecule)).sum(1)
        core = core.index_add(0, lay.molecule, energy)
    if charges is not None:
        placed = PlacedAtoms(lay, top.elements, p.A, positions, names)
        added, energy = external(placed, charges, constants, method.join is not None)
        h_atoms, core = [h + V for h, V in zip(h_atoms, added, strict=True)], core + energy
    return Integrals(h_atoms, h_pairs, p.one, two, core)


def _one_electron(orbitals, A: AtomIntegrals) -> Float[Tensor, "k m"]:
    """U on the diagonal of the packed one-centre block."""
    a, b, _ = packed_pairs(orbitals)
    zero = torch.zeros_like(A.U_ss)
    values = (A.U_ss, A.U_pp, A.U_dd)
    shell = np.where(a == 0, 0, np.where(a < 4, 1, 2))
    return torch.stack([values[s] if i == j else zero for s, i, j in zip(shell, a, b, strict=True)], 1)


def _blocks(pairs, found):
    """Resonance blocks of all pairs, zero for the distant ones."""
    flat = found.resonance.flatten(1)
    return flat if len(flat) == pairs else flat.new_zeros(pairs, flat.shape[1]).index_copy(0, found.near, flat)


def _on(tree, device):
    return tree if device.type == "cpu" else type(tree)(*[getattr(tree, f.name).to(device) for f in fields(tree)])
