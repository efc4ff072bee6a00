"""What `nddo-ml run` is asked to calculate."""

from collections.abc import Callable
from dataclasses import dataclass

from nddo_ml.errors import UnknownOption
from nddo_ml.molecules import PointCharges
from nddo_ml.properties.model import ModelKeywords
from nddo_ml.properties.thermochemistry import ATMOSPHERE
from nddo_ml.scf.options import SCF

Report = Callable[[str, float], object]      # told what is being done and which fraction of it is done


@dataclass(frozen=True)
class Wanted:
    """What to calculate, and how."""

    charge: int | None = None                           # e; None: what the structure says
    multiplicity: int | None = None                     # 2S + 1; None: what the structure says
    unrestricted: bool | None = SCF.unrestricted
    stability: bool | None = SCF.stability
    max_steps: int = SCF.max_steps
    optimisation: bool = False
    fmax: float = 0.01                                  # largest force on an atom at its end, eV/angstrom
    steps: int = 500                                    # its evaluations at most
    vibrations: bool = False
    raman: bool = False
    temperature: float = 298.15                         # of the thermochemistry, K
    pressure: float = ATMOSPHERE                        # of the thermochemistry, Pa
    symmetry_number: int | None = None                  # None: detected
    point_charges: PointCharges | None = None           # around the structure

    def __post_init__(self) -> None:
        if self.point_charges is not None and self.vibrations:
            raise UnknownOption("Frequencies are those of an isolated molecule, which turns and moves freely: leave out "
                                "--point-charges, or take the Hessian from the calculator (get_hessian).")

    @property
    def scf(self) -> ModelKeywords:
        """The part that is passed to the model."""
        return {"unrestricted": self.unrestricted, "max_steps": self.max_steps, "stability": self.stability,
                "point_charges": self.point_charges}
