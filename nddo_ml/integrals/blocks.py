"""The Hamiltonian of a batch in blocks: what the integrals hand to the self-consistent field."""

from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import record


@record
class Integrals:
    """The Hamiltonian of a batch in blocks, eV; lists have one entry per group of atoms or of pairs in the layout."""

    h_atoms: list[Float[Tensor, "k m"]]                     # one-electron blocks of the atoms, packed
    h_pairs: list[Float[Tensor, "group_pair orbitals"]]     # one-electron blocks of the pairs, n_i n_j elements in row order
    one: list[Float[Tensor, "k m m"]]                       # Coulomb integrals over packed charge distributions of the atoms
    two: list[Float[Tensor, "group_pair m_i m_j"]]          # and of the pairs
    core: Float[Tensor, "molecule"]                         # energy of the cores
