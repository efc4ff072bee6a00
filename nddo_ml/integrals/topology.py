"""What the species of a batch decide about its integrals, once for all geometries."""

import torch
from jaxtyping import Int
from torch import Tensor

from nddo_ml.common.struct import record, tensor_map
from nddo_ml.integrals.corrections.geometry import Composition
from nddo_ml.integrals.pair_species import PairSpecies, has_own_core, pair_species
from nddo_ml.integrals.parameters import Elements, gather
from nddo_ml.integrals.recipe import CoreRules, Recipe
from nddo_ml.molecules import Molecules
from nddo_ml.orbitals import Layout, layout


@record
class Topology:
    """What the species of a batch and the method decide. Pairs come in the order of the layout's groups."""

    recipe: Recipe                              # formulas and fixed data of the method
    rows: Int[Tensor, "atom"]                   # of the method's table
    elements: Elements                          # fixed data of each atom
    layout: Layout                              # where orbitals, atoms and pairs lie
    i: Int[Tensor, "pair"]                      # first atom of each pair
    j: Int[Tensor, "pair"]                      # second atom
    molecule: Int[Tensor, "pair"]               # owner of each pair
    rules: CoreRules                            # core-core formula and constants of each pair
    pair_species: tuple[PairSpecies, ...]       # of each group of pairs
    composition: Composition                    # what the corrections look at


def topology(recipe: Recipe, rows: Int[Tensor, "atom"], molecules: Molecules) -> Topology:
    """The topology of molecules whose atoms are these `rows` of the method's table."""
    device = molecules.numbers.device

    def here(values: Tensor) -> Tensor:
        return values.to(device)

    elements = gather(tensor_map(here, recipe.elements), rows)
    placed = layout(elements.n_ao.cpu().numpy(), molecules.molecule.cpu().numpy(), len(molecules), device)
    empty = rows.new_zeros(0)
    i, j, owner = (torch.cat([getattr(group, name) for group in placed.pairs]) if placed.pairs else empty
                   for name in ("i", "j", "molecule"))
    own_core = has_own_core(recipe.rho_core, recipe.elements).to(device).index_select(0, rows)
    species = tuple(pair_species(g.shells, gather(elements, g.i), gather(elements, g.j),
                                 bool((own_core[g.i] | own_core[g.j]).any())) for g in placed.pairs)
    return Topology(recipe, rows, elements, placed, i, j, owner, recipe.core_rules(rows[i], rows[j]), species,
                    Composition.of(molecules, i, j))
