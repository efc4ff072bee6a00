"""What the Monte Carlo asks of a wavefunction, so that tests and users may bring one of their own.

`real_space.ansatz.Wavefunction` is all of it. Classes that hold `nuclei` or `charges` as buffers of a torch module must name
the protocol as a base class: from Python 3.12 on, a check at run time does not see buffers.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from nddo_ml.wavefunction.real_space.jets import Jet

# (sign, ln|psi|) `walker` at the positions `walker electron 3` of all electrons, in bohr
Amplitude: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


@runtime_checkable
class SpinAmplitude(Protocol):
    """An amplitude whose first `up` electrons have spin up and the other `down` ones spin down."""

    up: int
    down: int

    def __call__(self, r: Float[Tensor, "walker electron 3"], /) -> tuple[Tensor, Tensor]:
        """(sign, ln|psi|) at each walker."""
        ...


@runtime_checkable
class MolecularAmplitude(SpinAmplitude, Protocol):
    """An amplitude of electrons around nuclei."""

    nuclei: Tensor          # positions `atom 3`, bohr


@runtime_checkable
class DifferentiableAmplitude(Protocol):
    """A wavefunction whose local energy can be calculated."""

    nuclei: Tensor          # positions `atom 3`, bohr
    charges: Tensor         # nuclear charges `atom`
    determinants: int       # how many there are; sets how many walkers fit into memory

    def jets(self, r: Float[Tensor, "walker electron 3"], /) -> tuple[Tensor | None, Jet]:
        """(sign, jet of ln|psi|) at each walker."""
        ...
