"""What properties and optimisations ask of a model: that it calculates molecules, and the keywords it takes."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.scf.options import SCFKeywords


class ModelKeywords(SCFKeywords, total=False):
    """Keywords of a model's call beside forces and order: what surrounds the molecules, where to start from, how the
    self-consistent state is looked for."""

    guess: Any
    field: Tensor | None
    point_charges: PointCharges | None


@runtime_checkable
class EnergyModel(Protocol):
    """A Hamiltonian, or what behaves like one."""

    @property
    def method(self) -> Any:
        """The method, whose physical constants its results rest on."""
        ...

    def __call__(self, molecules: Molecules, **options: Any) -> Any:
        """The result of molecules."""
        ...
