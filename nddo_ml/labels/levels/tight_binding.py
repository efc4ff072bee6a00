"""GFN-xTB as a level of theory, through tblite."""

from dataclasses import dataclass

import numpy as np

from nddo_ml.common.extras import needed
from nddo_ml.labels.levels.theory import Label, frontier_gap, refuse_point_charges
from nddo_ml.labels.structures import Structure
from nddo_ml.units import CODATA_2018

METHODS = {"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"}     # by lower-case name, as tblite spells them


@dataclass(frozen=True)
class TightBinding:
    """GFN1-xTB or GFN2-xTB; dispersion is part of both.

    Open shells have the spin polarization of Neugebauer, Baedorf, Ehlert, Hansen and Grimme, J. Comput. Chem. 44, 2120 (2023),
    without which neither method knows spin.
    """

    method: str     # one of the values of METHODS
    dispersion = "included"

    @property
    def name(self) -> str:
        """That of the method."""
        return self.method

    def __call__(self, structure: Structure) -> Label:
        """The label of a structure.

        Raises:
            UnknownOption: there are point charges, which tblite's interface does not take.
            MissingExtra: tblite is not installed.
        """
        interface = needed("tblite.interface", "train", "GFN-xTB")
        refuse_point_charges(self, structure)
        hartree, bohr = CODATA_2018.hartree, CODATA_2018.bohr
        calculator = interface.Calculator(self.method, structure.numbers, structure.positions / bohr, float(structure.charge),
                                          structure.multiplicity - 1)
        calculator.set("verbosity", 0)
        if structure.multiplicity > 1:
            calculator.add("spin-polarization", 1.0)
        result = calculator.singlepoint()
        eps, f = result.get("orbital-energies"), result.get("orbital-occupations")
        return Label(float(result.get("energy")) * hartree, -np.asarray(result.get("gradient")) * hartree / bohr,
                     np.asarray(result.get("dipole")) * bohr, np.asarray(result.get("charges")),
                     frontier_gap(np.ravel(eps), np.ravel(f)) * hartree)
