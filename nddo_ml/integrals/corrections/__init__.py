"""Geometry-dependent corrections: what a method adds to the NDDO energy as a function of the positions alone.

`TERMS` says which published method has which correction, under which name and with which constants; a term is a frozen
record that maps a Geometry to an energy per molecule. `corrections` evaluates the terms of a method, grouped for users as
MOPAC prints them. Energies are exact functions of the positions, differentiable to any order where the method is smooth;
`STEPS` says where it jumps.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import outside_inference
from nddo_ml.errors import UnknownOption
from nddo_ml.integrals.corrections.d3 import DispersionD3
from nddo_ml.integrals.corrections.dispersion_dh import DispersionDH
from nddo_ml.integrals.corrections.geometry import Composition, Geometry
from nddo_ml.integrals.corrections.h4 import HydrogenBondH4, HydrogenRepulsion
from nddo_ml.integrals.corrections.halogen import D3H4X
from nddo_ml.integrals.corrections.hydrogen_bond_d3 import HydrogenBondD3
from nddo_ml.integrals.corrections.hydrogen_bond_dh import HydrogenBondDH
from nddo_ml.integrals.corrections.nitrogen import NonplanarNitrogen
from nddo_ml.integrals.corrections.peptide import Peptide
from nddo_ml.integrals.corrections.silanol import SiliconOxygenHydrogen
from nddo_ml.integrals.corrections.triple_bond import TripleBond
from nddo_ml.molecules import Molecules
from nddo_ml.units import CODATA_2018, Constants

NO_ELEMENTS: frozenset[int] = frozenset()

# The energy of each molecule in kcal/mol (molecule), or None where the correction applies to none of them. It may have
# `elements`, atomic numbers that all must occur for it to apply.
Term = Callable[[Geometry, Constants], Tensor | None]

GROUPS = {   # name of a correction -> name in a result
    "peptide": "peptide", "triple_bond": "triple_bond", "nonplanar_nitrogen": "nonplanar_nitrogen", "si_o_h": "si_o_h",
    "dispersion_dh": "dispersion", "dispersion_d3": "dispersion", "hydrogen_bond_dh": "hydrogen_bond",
    "hydrogen_bond_d3": "hydrogen_bond", "h4": "hydrogen_bond", "hh_repulsion": "hh_repulsion",
    "halogen_d3h4x": "halogen", "dispersion_d3bj": "dispersion",   # the last: added to a parent
}

STEPS = {    # name of a correction -> where its published form has a step in the energy, and how high it was found to be
    "h4": "a hydrogen bond D-H...A ends where D-H passes 1.15 Å: 1 to 4 kcal/mol, met when a proton moves from D to A",
    "hydrogen_bond_dh": "a hydrogen bond X-H...Y ends where X and Y are 7 Å (PM7: 0.2 kcal/mol) or 10 Å (PM6-DH+: 0.003) away",
    "dispersion_dh": "carbon loses dispersion with its fourth neighbour: 0.04 kcal/mol for methane beside another",
    "peptide": "the torsional term of a peptide bond ends where C-N passes 1.6 Å: 3 kcal/mol at 40 degrees",
}

_PM6: dict[str, Term] = {"peptide": Peptide(2.5), "triple_bond": TripleBond(), "nonplanar_nitrogen": NonplanarNitrogen()}
_D3_OF_D3H4 = DispersionD3(s6=0.88, rs6=1.18, alpha6=22)
_D3H4: dict[str, Term] = _PM6 | {"dispersion_d3": _D3_OF_D3H4, "h4": HydrogenBondH4(), "hh_repulsion": HydrogenRepulsion()}

TERMS: Mapping[str, Mapping[str, Term]] = {   # method -> name of a correction -> term
    "MNDO": {"peptide": Peptide(6.1737)},
    "AM1": {"peptide": Peptide(3.3191)},
    "PM3": {"peptide": Peptide(7.1853)},
    "RM1": {"peptide": Peptide(2.4127)},
    "MNDO/d": {},
    "PM6": _PM6,
    "PM7": {
        "peptide": Peptide(3.1595), "triple_bond": TripleBond(), "si_o_h": SiliconOxygenHydrogen(),
        "dispersion_dh": DispersionDH(alpha=15.450118, s=1.226593, scale=2.286419),
        "hydrogen_bond_dh": HydrogenBondDH(c_N=-0.171271, c_O=-0.098822, r_XY=7.0, pm7=True, OO=-2.5),
    },
    "PM6-DH+": _PM6 | {
        "dispersion_dh": DispersionDH(alpha=20.0, s=1.04, scale=0.89),
        "hydrogen_bond_dh": HydrogenBondDH(c_N=-0.16, c_O=-0.12, r_XY=10.0, pm7=False),
    },
    "PM6-D3": _PM6 | {
        "dispersion_d3": DispersionD3(s6=1.0, rs6=1.560, alpha6=14, s8=1.009, rs8=1.0),
        "hydrogen_bond_d3": HydrogenBondD3(),
    },
    "PM6-D3H4": _D3H4,
    "PM6-D3H4X": _D3H4 | {"halogen_d3h4x": D3H4X},
    "PM6-D3(H4)": _PM6 | {"dispersion_d3": _D3_OF_D3H4, "hh_repulsion": HydrogenRepulsion()},
}


def terms(method: str) -> Mapping[str, Term]:
    """The corrections of a published method: name -> term.

    Raises:
        UnknownOption: the name is not in TERMS.
    """
    if method not in TERMS:
        raise UnknownOption(f"No corrections are known for the method {method!r}; methods: {', '.join(TERMS)}.")
    return TERMS[method]


@outside_inference
def energy_and_forces(
    term: Term, molecules: Molecules, constants: Constants = CODATA_2018
) -> tuple[Float[Tensor, "molecule"], Float[Tensor, "atom 3"]]:
    """Energy (eV, per molecule) and forces (eV/angstrom, per atom) of one term alone, off the tape."""
    positions = molecules.positions.detach().requires_grad_()
    with torch.enable_grad():
        energy = term(Geometry.of(Composition.of(molecules), positions), constants)
        energy = positions.new_zeros(len(molecules)) if energy is None else energy / constants.kcal_mol
        gradient, = torch.autograd.grad(energy.sum() + 0.0 * positions.sum(), positions)
    return energy.detach(), -gradient


def concerning(terms: Mapping[str, Term], composition: Composition) -> dict[str, Term]:
    """Those of the terms that molecules of this composition may need: the elements that a term looks for all occur."""
    return {name: term for name, term in terms.items() if getattr(term, "elements", NO_ELEMENTS) <= composition.elements}


def corrections(
    terms: Mapping[str, Term], composition: Composition, positions: Float[Tensor, "atom 3"],
    R: Float[Tensor, "pair"] | None = None, constants: Constants = CODATA_2018,
) -> dict[str, Float[Tensor, "molecule"]]:
    """Energies (molecule) of correction terms by the names of their groups (`GROUPS`), eV.

    composition: `Composition.of(molecules)`, good for any number of positions (angstrom); R: the distances of its pairs
    (angstrom) if they are already at hand. A group that applies to no molecule of the batch is a tensor of zeros.
    """
    needed = concerning(terms, composition)
    geometry = Geometry.of(composition, positions, R) if needed else None
    energies: dict[str, Tensor] = {}
    for name, term in terms.items():
        energy = None if geometry is None or name not in needed else term(geometry, constants)
        group = GROUPS[name]
        if energy is None:
            energy = energies.get(group)
            energies[group] = positions.new_zeros(composition.molecules) if energy is None else energy
        else:
            energy = energy / constants.kcal_mol
            energies[group] = energies[group] + energy if group in energies else energy
    return energies
