"""Energies that semilocal functionals miss because they do not know half an electron from a whole one: one electron shared by
two distant protons, and fractional numbers of electrons on an atom, between which the exact energy is a straight line.

Perdew, Parr, Levy & Balduz, Phys. Rev. Lett. 49, 1691 (1982); Mori-Sanchez, Cohen & Yang, J. Chem. Phys. 125, 201102 (2006).
"""

from nddo_ml.errors import UnknownOption
from nddo_ml.functional.reactions import KCAL, ChemicalSystem, Reaction
from nddo_ml.units import CODATA_2018

STILL = ((0.0, 0.0, 0.0),)
# E + 1/2, hartree, of the ground state of H2+ by distance, bohr       Madsen & Peek, At. Data Nucl. Data Tables 2, 171 (1971)
EXACT = {2.0: -0.10263421, 3.0: -0.07756286, 4.0: -0.04608488, 6.0: -0.01196905, 8.0: -0.00257039}
FAR = 10.0                                             # angstrom: the proton polarises the atom, -9/4 R^-4, nothing else
# unpaired electrons of atom and cation, and the spin the electron comes from
IONS = {"H": (1, 0, 0), "C": (2, 1, 0), "N": (3, 2, 0), "O": (2, 3, 1), "F": (1, 2, 1), "Si": (2, 1, 0), "P": (3, 2, 0),
        "S": (2, 3, 1), "Cl": (1, 2, 1)}


def hydrogen_ion(R: float) -> ChemicalSystem:
    """H2+ with its protons at a distance R, angstrom."""
    return ChemicalSystem(f"H2+ {R:.4g}", ("H", "H"), ((0.0, 0.0, 0.0), (0.0, 0.0, R)), 1, 1)


def atom(symbol: str, missing: float = 0.0) -> ChemicalSystem:
    """An atom that lacks part of an electron; 1: its cation.

    Raises:
        UnknownOption: an element that is not in IONS.
    """
    if symbol not in IONS:
        raise UnknownOption(f"No fractional electrons of {symbol!r} are known here; elements: {', '.join(IONS)}.")
    neutral, cation, spin = IONS[symbol]
    if missing == 1:
        return ChemicalSystem(f"{symbol}+", (symbol,), STILL, 1, cation)
    taken = (missing, 0.0) if spin == 0 else (0.0, missing)
    return ChemicalSystem(f"{symbol} -{missing:g}e" if missing else f"{symbol} atom", (symbol,), STILL, 0, neutral, taken)


def stretched() -> tuple[dict[str, ChemicalSystem], list[Reaction]]:
    """E(H2+) - E(H), whose references are exact, at 10 angstrom (the first) and at the distances of EXACT."""
    bohr = CODATA_2018.bohr
    systems, reactions = [atom("H")], []
    for R, energy in {FAR: -2.25 * (bohr / FAR) ** 4, **{bohr * x: e for x, e in EXACT.items()}}.items():
        systems.append(hydrogen_ion(R))
        reactions.append(Reaction("stretched", systems[-1].key, (systems[-1].key, "H atom"), (1.0, -1.0), KCAL * energy))
    return {s.key: s for s in systems}, reactions


def fractional(elements: tuple[str, ...],
               parts: tuple[float, ...] = (0.5,)) -> tuple[dict[str, ChemicalSystem], list[Reaction]]:
    """E(N - x) - (1 - x) E(N) - x E(N - 1) = 0 of atoms of N electrons.

    elements: symbols; parts: the x, electrons.

    Raises:
        UnknownOption: an element that is not in IONS.
    """
    systems: dict[str, ChemicalSystem] = {}
    reactions: list[Reaction] = []
    for symbol in elements:
        ends = [(atom(symbol), 1.0), (atom(symbol, 1), 0.0)][:1 if symbol == "H" else 2]       # nothing is left of H+
        for x in parts:
            middle = atom(symbol, x)
            systems |= {s.key: s for s in (middle, *(end for end, _ in ends))}
            coefficients = (1.0, *(-(1 - x) if whole else -x for _, whole in ends))
            reactions.append(Reaction("fractional", middle.key, (middle.key, *(end.key for end, _ in ends)), coefficients, 0.0))
    return systems, reactions
