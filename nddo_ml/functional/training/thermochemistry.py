"""Reaction energies to train on and to be judged by: files of them, and which are held out.

The bundled file holds 40 atomisation energies (W4-11) and 20 barrier heights (BH76). Parts are split by molecule, so that
the two directions of a barrier never stand on both sides; free atoms belong to all parts. A file may also hold total energies
(reactions of one system), reactions of fractional electrons, and properties of the density.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.functional.reactions import KINDS, PROPERTIES, ChemicalSystem, Property, Reaction

BUNDLED = Path(__file__).parents[2] / "data" / "thermochemistry.json"
PARTS = ("train", "validation", "test")


def read_thermochemistry(path: str | Path | None = None) -> tuple[dict[str, ChemicalSystem], list[Reaction]]:
    """Systems by key, and reactions, of a file; None: the bundled one.

    Raises:
        IncompatibleFile: the file is another one, or contradicts itself.
    """
    path = BUNDLED if path is None else Path(path)
    content = _read(path)
    try:
        systems = {key: ChemicalSystem(key, tuple(s["symbols"]), tuple(map(tuple, s["positions"])), s["charge"], s["unpaired"],
                                       tuple(s.get("missing", (0.0, 0.0)))) for key, s in content["systems"].items()}
        reactions = [Reaction(r["kind"], r["name"], tuple(r["systems"]), tuple(r["coefficients"]), r["reference"])
                     for r in content["reactions"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unfit(path, error) from None
    for r in reactions:
        missing = [key for key in r.systems if key not in systems]
        if missing or len(r.systems) != len(r.coefficients) or r.kind not in KINDS:
            raise IncompatibleFile(f"{path}: the reaction {r.name} ({r.kind}) names {missing or 'coefficients'} that "
                                   "do not fit.")
    return systems, reactions


def read_properties(path: str | Path) -> tuple[dict[str, ChemicalSystem], list[Property]]:
    """Systems by key, and properties, of a thermochemistry file that has any.

    Raises:
        IncompatibleFile: the file is another one, or contradicts itself.
    """
    path = Path(path)
    systems, _ = read_thermochemistry(path)
    try:
        properties = [Property(p["kind"], p["system"], p["reference"]) for p in _read(path).get("properties", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unfit(path, error) from None
    for wanted in properties:
        kind, reference = wanted.kind, wanted.reference
        fits = isinstance(reference, str) if kind == "density" else isinstance(reference, int | float)
        if wanted.system not in systems or kind not in PROPERTIES or not fits:
            raise IncompatibleFile(f"{path}: the property {kind} = {reference!r} of {wanted.system!r} does not fit: expected a "
                                   f"system of the file, one of {', '.join(PROPERTIES)}, and a number (a word for density).")
    return systems, properties


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _unfit(path, error) from None
    if not isinstance(content, dict):
        raise _unfit(path, TypeError(f"a {type(content).__name__}"))
    return content


def _unfit(path: Path, error: Exception) -> IncompatibleFile:
    return IncompatibleFile(f"{path} is no thermochemistry file ({type(error).__name__}: {error}): expected JSON with systems "
                            "(symbols, positions, charge, unpaired) and reactions, as the bundled "
                            f"{BUNDLED.name}.")


def split(reactions: Sequence[Reaction], validation: float, test: float,
          seed: int = 0) -> dict[str, list[Reaction]]:
    """Reactions by part, drawn by the hash of their molecule's name; of either kind about the same fraction.

    validation, test: fractions of the molecules. seed: another one draws others.

    Raises:
        UnknownOption: the fractions leave nothing to train on.
    """
    if not (0 <= validation and 0 <= test and validation + test < 1):
        raise UnknownOption(f"validation = {validation} and test = {test}: fractions that leave molecules for training.")
    parts: dict[str, list[Reaction]] = {part: [] for part in PARTS}
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
