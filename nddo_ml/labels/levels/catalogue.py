"""Levels of theory: what turns a structure into a label.

A level is a frozen record that can be pickled, called with a Structure, and returns a Label (theory.py). Its name holds all
that decides the numbers, so that labels of two levels are never mixed. Density functionals and wave functions of PySCF stand in
pyscf_levels.py; here are the cheap ones: GFN-xTB through tblite, and our own methods.
"""

from dataclasses import dataclass

import numpy as np

from nddo_ml.common.extras import needed
from nddo_ml.common.struct import cached
from nddo_ml.common.threads import threads
from nddo_ml.errors import UnknownOption
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.labels.levels.pyscf import LEARNED, pyscf_level
from nddo_ml.labels.levels.theory import Label, Level, frontier_gap, without_sites
from nddo_ml.labels.structures import Structure
from nddo_ml.methods import method as find_method
from nddo_ml.methods import methods
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.properties.centres import centres_of_mass
from nddo_ml.properties.gaps import has_gap
from nddo_ml.units import CODATA_2018

DEFAULT = "wb97x-v/def2-tzvp"
XTB = {"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"}


def level(name: str | None = None, functional: str | None = None, basis: str | None = None, **settings) -> Level:
    """The level of that name: "FUNCTIONAL/BASIS" or "WAVE FUNCTION/BASIS" in PySCF ("wb97x-v/def2-tzvp", "b3lyp/def2-svp",
    "hf/...", "mp2/...", "ccsd(t)/cc-pvdz", "fci/..."), "functional:NAME/BASIS" of a functional of nddo_ml.functional by name or
    file, "GFN2-xTB", or one of our own methods ("PM6-D3H4"). functional and basis replace those of the name; settings: fields
    of KohnSham or WaveFunction (None: their default).

    Raises UnknownOption: there is no such functional, basis, wave function or setting. MissingExtra: PySCF is not installed.
    """
    settings = {key: value for key, value in settings.items() if value is not None}
    cheap = None if name is None else _cheap(name)
    if cheap is not None:
        given = [*settings, *(["functional"] if functional else []), *(["basis"] if basis else [])]
        if given:
            raise UnknownOption(f"{cheap.name} has no {given[0]}: leave it out, or choose a level of PySCF such as {DEFAULT}.")
        return cheap
    theory, own_basis = _theory_and_basis(name or DEFAULT)
    return pyscf_level(functional or theory, basis or own_basis or DEFAULT.partition("/")[2], settings)


def _theory_and_basis(name):
    """What stands before the basis, and the basis; the file of a functional may stand in a folder."""
    if not name.startswith(LEARNED):
        theory, _, basis = name.partition("/")
        return theory, basis
    theory, _, basis = name.rpartition("/")
    return (name, "") if basis.endswith(".safetensors") or not theory else (theory, basis)


def _cheap(name):
    """The level of tblite or of our own with that name; None: there is none."""
    if name.startswith(LEARNED):
        return None
    if name.lower() in XTB:
        needed("tblite", "train", "GFN-xTB")
        return Tightbinding(XTB[name.lower()])
    if name.lower() in {m.lower() for m in methods()} or name.endswith(".safetensors"):
        return Own(find_method(name).key)
    return None


@dataclass(frozen=True)
class Tightbinding:
    """GFN1-xTB or GFN2-xTB through tblite; dispersion is part of both. Open shells with the spin polarization of Neugebauer,
    Baedorf, Ehlert, Hansen and Grimme, J. Comput. Chem. 44, 2120 (2023), without which both know no spin."""

    method: str
    dispersion = "included"

    @property
    def name(self):
        return self.method

    def __call__(self, structure: Structure) -> Label:
        """The label. UnknownOption: point charges, which tblite's interface does not take."""
        interface = needed("tblite.interface", "train", "GFN-xTB")
        without_sites(self, structure)
        hartree, bohr = CODATA_2018.hartree, CODATA_2018.bohr
        calculator = interface.Calculator(self.method, structure.numbers, structure.positions / bohr, float(structure.charge),
                                          structure.multiplicity - 1)
        calculator.set("verbosity", 0)
        if structure.multiplicity > 1:
            calculator.add("spin-polarization", 1.0)
        found = calculator.singlepoint()
        eps, f = found.get("orbital-energies"), found.get("orbital-occupations")
        charges = np.asarray(found.get("charges"))
        return Label(float(found.get("energy")) * hartree, -np.asarray(found.get("gradient")) * hartree / bohr,
                     np.asarray(found.get("dipole")) * bohr, charges, frontier_gap(np.ravel(eps), np.ravel(f)) * hartree)


@dataclass(frozen=True)
class Own:
    """A method of this package, published or learned."""

    method: str
    dispersion = "included"

    @property
    def name(self):
        return self.method

    def __call__(self, structure: Structure) -> Label:
        """The label. Raises MissingParameter, SCFNotConverged."""
        molecules = Molecules.single(structure.numbers, structure.positions, structure.charge, structure.multiplicity)
        sites = None if structure.sites is None else PointCharges.single(structure.sites[:, :3], structure.sites[:, 3])
        with threads(1):
            found = _hamiltonian(self.method)(molecules, forces=True, unrestricted=True if structure.unrestricted else None,
                                              point_charges=sites, raise_unconverged=True)
        dipole = found.dipole[0].detach().numpy() + structure.charge * centres_of_mass(molecules)[0].numpy()
        s2 = float(found.s2[0].detach()) if structure.multiplicity > 1 or structure.unrestricted else None
        return Label(float(found.energy[0].detach()), found.forces.detach().numpy(), dipole, found.charges.detach().numpy(),
                     float(found.gap(0).detach()) if has_gap(found.occupations(0)) else 0.0, s2,
                     site_forces=None if sites is None else found.point_charge_forces.detach().numpy(),
                     iterations=int(found.iterations[0]))


@cached
def _hamiltonian(method):
    return Hamiltonian(method)
