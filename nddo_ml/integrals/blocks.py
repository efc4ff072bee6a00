"""The Hamiltonian of a batch in blocks: what the integrals hand to the self-consistent field."""

from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import record


@record
class Integrals:
    """The Hamiltonian of a batch in blocks (eV), lists in the order of the layout's groups: one-electron blocks of the atoms
    `h_atoms` (k, m) and pairs `h_pairs` (pair, n_i n_j); Coulomb integrals of the atoms `one` (k, m, m) and of the pairs `two`
    (pair, m_i, m_j) over packed charge distributions; core-core energy `core` (molecule).
    """

    h_atoms: list
    h_pairs: list
    one: list
    two: list
    core: Float[Tensor, "molecule"]
