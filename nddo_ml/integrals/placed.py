"""The parameters of a batch where the integrals read them: per atom, per side of each pair, in the blocks of the free atoms.

None of it depends on the positions, so it is made once for a molecule that moves. Where the values came from, a table or a
network, does not show.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.nuclear import CoreParameters, PairValues, core_parameters
from nddo_ml.integrals.one_centre import one_centre
from nddo_ml.integrals.parameters import AtomParameters, gather
from nddo_ml.integrals.topology import Topology
from nddo_ml.orbitals import Layout, packed_pairs


@record
class Parameters:
    """Every parameter of a batch where it is used; lists have one entry per group of atoms or of pairs in the layout."""

    layout: Layout
    atoms: AtomIntegrals                                        # of each atom
    core_i: CoreParameters                                      # of atom i of each pair
    core_j: CoreParameters                                      # of atom j
    pairs: PairValues                                           # of the pair itself
    U: Sequence[Tensor]                                         # one-electron blocks (k, m) of the free atoms, eV
    one: Sequence[Tensor]                                       # their two-electron blocks (k, m, m), eV
    # factors of the resonance integrals (pair, n_i n_j) in the frame of the pair, alike for equal shells and m; None: 1
    resonance: Sequence[Tensor] | None = None
    moved: Float[Tensor, "pair"] | None = None                  # change of the product of the core charges, e^2; None: none

    @cached_property
    def sides(self) -> list[tuple[AtomIntegrals, AtomIntegrals]]:
        """Those of atoms i and j of the pairs of each group; made when they are first asked for."""
        return [(gather(self.atoms, group.i), gather(self.atoms, group.j)) for group in self.layout.pairs]


def placed(topology: Topology, atoms: AtomIntegrals, fitted: AtomParameters, pairs: PairValues) -> Parameters:
    """Parameters of each atom and pair carried to where they are used."""
    core = core_parameters(fitted)
    groups = topology.layout.atoms
    own = [gather(atoms, group.atoms) for group in groups]
    return Parameters(topology.layout, atoms, gather(core, topology.i), gather(core, topology.j), pairs,
                      [_one_electron(group.orbitals, values) for group, values in zip(groups, own, strict=True)],
                      [one_centre(values, group.orbitals) for group, values in zip(groups, own, strict=True)])


def _one_electron(orbitals: int, atoms: AtomIntegrals) -> Float[Tensor, "k m"]:
    """U on the diagonal of the packed one-centre block."""
    a, b, _ = packed_pairs(orbitals)
    zero = torch.zeros_like(atoms.U_ss)
    values = (atoms.U_ss, atoms.U_pp, atoms.U_dd)
    shell = np.where(a == 0, 0, np.where(a < 4, 1, 2))
    return torch.stack([values[s] if i == j else zero for s, i, j in zip(shell, a, b, strict=True)], 1)
