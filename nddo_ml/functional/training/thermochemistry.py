"""Reaction energies to train on and to be judged by: systems with geometries and spins, reactions with reference values.

The bundled file holds 40 atomisation energies (W4-11) and 20 barrier heights (BH76). Parts are split by molecule, so that
the two directions of a barrier never stand on both sides; free atoms belong to all parts. A file may also hold total energies
(reactions of one system), reactions of fractional electrons, and properties of the density.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from nddo_ml.errors import IncompatibleFile, UnknownOption

BUNDLED = Path(__file__).parents[2] / "data" / "thermochemistry.json"
KINDS = ("atomisation", "barrier", "total", "stretched", "fractional")       # of reactions
PROPERTIES = ("dipole", "orbital", "density")
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class System:
    """A molecule or atom: symbols, positions (angstrom), charge, number of unpaired electrons. missing: parts of an electron
    that are taken from the highest occupied orbital of either spin."""

    key: str
    symbols: tuple[str, ...]
    positions: tuple[tuple[float, ...], ...]
    charge: int
    unpaired: int
    missing: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Reaction:
    """sum(coefficients * E(systems)) = reference, kcal/mol. kind: one of KINDS. name: of what is atomised, or of the transition
    state."""

    kind: str
    name: str
    systems: tuple[str, ...]
    coefficients: tuple[float, ...]
    reference: float


@dataclass(frozen=True)
class Property:
    """A number that the density of a system should give. kind: dipole (its length, debye), orbital (energy of the highest
    occupied orbital, eV), or density (mean square distance per electron, bohr^-3, from the density of the wave function that
    `reference` names, 0 for none)."""

    kind: str
    system: str
    reference: float | str


def read_thermochemistry(path=None) -> tuple[dict[str, System], list[Reaction]]:
    """Systems by key, and reactions. IncompatibleFile: another file, or one that contradicts itself."""
    path = BUNDLED if path is None else Path(path)
    found = _read(path)
    try:
        systems = {key: System(key, tuple(s["symbols"]), tuple(map(tuple, s["positions"])), s["charge"], s["unpaired"],
                               tuple(s.get("missing", (0.0, 0.0)))) for key, s in found["systems"].items()}
        reactions = [Reaction(r["kind"], r["name"], tuple(r["systems"]), tuple(r["coefficients"]), r["reference"])
                     for r in found["reactions"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unfit(path, error) from None
    for r in reactions:
        missing = [key for key in r.systems if key not in systems]
        if missing or len(r.systems) != len(r.coefficients) or r.kind not in KINDS:
            raise IncompatibleFile(f"{path}: the reaction {r.name} ({r.kind}) names {missing or 'coefficients'} that "
                                   "do not fit.")
    return systems, reactions


def read_properties(path) -> tuple[dict[str, System], list[Property]]:
    """Systems by key, and properties, of a thermochemistry file that has any. IncompatibleFile."""
    path = Path(path)
    systems, _ = read_thermochemistry(path)
    try:
        found = [Property(p["kind"], p["system"], p["reference"]) for p in _read(path).get("properties", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unfit(path, error) from None
    for p in found:
        fits = isinstance(p.reference, str) if p.kind == "density" else isinstance(p.reference, int | float)
        if p.system not in systems or p.kind not in PROPERTIES or not fits:
            raise IncompatibleFile(f"{path}: the property {p.kind} = {p.reference!r} of {p.system!r} does not fit: expected a "
                                   f"system of the file, one of {', '.join(PROPERTIES)}, and a number (a word for density).")
    return systems, found


def _read(path):
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _unfit(path, error) from None
    if not isinstance(found, dict):
        raise _unfit(path, TypeError(f"a {type(found).__name__}"))
    return found


def _unfit(path, error):
    return IncompatibleFile(f"{path} is no thermochemistry file ({type(error).__name__}: {error}): expected JSON with systems "
                            "(symbols, positions, charge, unpaired) and reactions, as the bundled "
                            f"{BUNDLED.name}.")


def split(reactions: list[Reaction], validation: float, test: float, seed: int = 0) -> dict[str, list[Reaction]]:
    """Reactions by part, drawn by the hash of their molecule's name; of either kind about the same fraction.

    UnknownOption: the fractions leave nothing to train on.
    """
    if not (0 <= validation and 0 <= test and validation + test < 1):
        raise UnknownOption(f"validation = {validation} and test = {test}: fractions that leave molecules for training.")
    parts = {part: [] for part in PARTS}
    for kind in KINDS:
        chosen = sorted({r.name for r in reactions if r.kind == kind},
                        key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())
        v, t = round(validation * len(chosen)), round(test * len(chosen))
        part_of = {name: "validation" if k < v else "test" if k < v + t else "train" for k, name in enumerate(chosen)}
        for r in reactions:
            if r.kind == kind:
                parts[part_of[r.name]].append(r)
    if not parts["train"]:
        raise UnknownOption("No reaction is left for training: lower validation and test.")
    return parts


def needed_systems(reactions: list[Reaction]) -> list[str]:
    """Keys of all systems of the reactions, once each."""
    return list(dict.fromkeys(key for r in reactions for key in r.systems))
