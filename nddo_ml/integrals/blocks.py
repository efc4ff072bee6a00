"""The Hamiltonian of a batch in blocks: what the integrals hand to the self-consistent field."""

from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import record


@record
class Integrals:
    """The Hamiltonian of a batch in blocks, eV; lists have one entry per group of atoms or of pairs of the layout."""

    h_atoms: list[Tensor]                   # one-electron blocks of the atoms (k, m), over packed charge distributions
    h_pairs: list[Tensor]                   # one-electron blocks of the pairs (pair, n_i n_j)
    one: list[Tensor]                       # Coulomb integrals of the atoms (k, m, m), over packed charge distributions
    two: list[Tensor]                       # Coulomb integrals of the pairs (pair, m_i, m_j), over packed distributions
    core: Float[Tensor, "molecule"]         # core-core energy
