"""Learned methods: what a file of trained weights says about itself.

A file is a safetensors archive. Its metadata name the parent method, the network, the elements and the level of theory of the
labels; a `Card` holds them. Only the metadata are read here, `nddo_ml.weights` reads the tensors. Files that come with the
package lie in its data; the newest general model is also called "neural".
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
    """How a training split its data."""

    validation: float               # fraction of the molecules that was held out
    large: int                      # heavy atoms from which on a molecule counts as large
    molecules: frozenset[int]       # keys of the molecules trained on (training.dataset.key)


@dataclass(frozen=True)
class Card:
    """What a file of weights says about itself."""

    path: Path
    name: str
    parent: str                     # name of the method whose form it takes
    network: dict | None            # settings of the network; None: only the tables were learned
    dispersion: dict | None         # settings of the dispersion that is added; None: none
    elements: tuple[int, ...]       # atomic numbers it was trained on
    level: str                      # level of theory of the labels
    data: str                       # hash of the training data
    code: str                       # version of the code that trained it
    notes: str
    members: int                    # models in an ensemble; 1: a single model
    calibration: dict               # from the spread of an ensemble to its error
    citation: str = ""              # empty: that of its parent
    split: dict | None = None       # fractions of the split of the data; None: the file does not say


def card(path: str | Path) -> Card:
    """The card of a file of weights.

    Raises:
        IncompatibleFile: it is no such file, or damaged; the message says what is wrong with it.
    """
    path = Path(path)
    said = metadata(path, FORMAT, "weights written by nddo_ml.weights.save", SUFFIX)
    missing = [key for key in REQUIRED if key not in said]
    if missing:
        raise IncompatibleFile(f"{path} lacks {', '.join(missing)} in its metadata: it is damaged or was edited; train again.")
    return Card(path=path, name=said["name"], parent=said["parent"], network=json.loads(said["network"]),
                dispersion=json.loads(said["dispersion"]), elements=tuple(number(e) for e in said["elements"].split()),
                level=said["level"], data=said["data"], code=said["code"], notes=said.get("notes", ""),
                members=int(said.get("members", 1)), calibration=json.loads(said.get("calibration", "{}")),
                citation=said.get("citation", ""), split=json.loads(said.get("split", "null")))


@cache
def shipped() -> dict[str, Card]:
    """Cards of the models that come with the package by lower-case name, oldest first.

    The newest general model is there a second time as "neural".
    """
    cards = [card(path) for path in sorted(SHIPPED.glob(f"*{SUFFIX}"))]
    by_name = {c.name.lower(): c for c in cards}
    general = [c for c in cards if c.name.lower().startswith(NEWEST)]
    return by_name | ({NEWEST: general[-1]} if general else {})


def names() -> tuple[str, ...]:
    """Names of the shipped models, oldest first."""
    return tuple(c.name for key, c in shipped().items() if key != NEWEST)


def find(name: str) -> Card | None:
    """The card of a shipped model or of a file of weights; None if the name means neither.

    Raises:
        IncompatibleFile: the name is that of a file which holds no weights.
    """
    if name.lower() in shipped():
        return shipped()[name.lower()]
    return card(name) if name.endswith(SUFFIX) else None
