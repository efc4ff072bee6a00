"""Learned methods: what a file of trained weights says about itself.

A file is a safetensors archive whose metadata name the parent method, the network (null: only the tables were learned), the
elements and the level of theory of the labels. Here only the metadata are read; `nddo_ml.weights` reads the tensors. Shipped
files lie in the package's data; the newest general model is also called "neural".
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nddo_ml.common.files import metadata
from nddo_ml.elements import number
from nddo_ml.errors import IncompatibleFile

FORMAT = "nddo_ml weights 1"
SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parents[1] / "data" / "weights"
NEWEST = "neural"
REQUIRED = ("name", "parent", "network", "dispersion", "elements", "level", "data", "code")


@dataclass(frozen=True)
class TrainedOn:
    """How a training split its data: the fraction of molecules held out (validation), heavy atoms from which on a molecule is
    `large`, and the keys of the molecules trained on (training.dataset.key)."""

    validation: float
    large: int
    molecules: frozenset[int]


@dataclass(frozen=True)
class Card:
    """What a file of weights says: its path, name, parent method, settings of the network (None: without) and of the dispersion
    (None: without), elements, level of theory, hash of the training data, version of the code, notes, number of members,
    calibration, citation (empty: that of its parent), fractions of the split (None: it does not say;
    `nddo_ml.weights.trained_on` reads the molecules too).
    """

    path: Path
    name: str
    parent: str
    network: dict | None
    dispersion: dict | None
    elements: tuple[int, ...]
    level: str
    data: str
    code: str
    notes: str
    members: int
    calibration: dict
    citation: str = ""
    split: dict | None = None


def card(path: str | Path) -> Card:
    """The card of a file of weights. IncompatibleFile names what is wrong with any other."""
    path = Path(path)
    said = metadata(path, FORMAT, "weights written by nddo_ml.weights.save", SUFFIX)
    missing = [key for key in REQUIRED if key not in said]
    if missing:
        raise IncompatibleFile(f"{path} lacks {', '.join(missing)} in its metadata: it is damaged or was edited; train again.")
    return Card(path, said["name"], said["parent"], json.loads(said["network"]), json.loads(said["dispersion"]),
                tuple(number(e) for e in said["elements"].split()), said["level"], said["data"], said["code"],
                said.get("notes", ""), int(said.get("members", 1)), json.loads(said.get("calibration", "{}")),
                 said.get("citation", ""), json.loads(said.get("split", "null")))


@cache
def shipped() -> dict[str, Card]:
    """Cards of the models that come with the package by lower-case name, oldest first; the newest general one also as
    "neural"."""
    cards = [card(path) for path in sorted(SHIPPED.glob(f"*{SUFFIX}"))]
    found = {c.name.lower(): c for c in cards}
    general = [c for c in cards if c.name.lower().startswith(NEWEST)]
    return found | ({NEWEST: general[-1]} if general else {})


def names() -> tuple[str, ...]:
    """Names of the shipped models, oldest first."""
    return tuple(c.name for key, c in shipped().items() if key != NEWEST)


def find(name: str) -> Card | None:
    """The card of a shipped model or of a file of weights; None if the name means neither."""
    if name.lower() in shipped():
        return shipped()[name.lower()]
    return card(name) if name.endswith(SUFFIX) else None
