"""The folder of a loop: a folder for each of its rounds, and what stands in it (loop.py says what)."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nddo_ml.active.explore import Candidate
from nddo_ml.active.labelling import labelled, read_picked
from nddo_ml.common.json import write_json


class Rounds:
    """The rounds of a loop by their numbers; 0: the ensemble to begin with."""

    def __init__(self, path: Path):
        self.path = path        # the folder of the loop

    def folder(self, number: int) -> Path:
        """The folder of a round."""
        return self.path / f"round-{number:03d}"

    def labels(self, number: int) -> Path:
        """The file of the labels that a round trains on for the first time."""
        return self.folder(number) / "labels.extxyz"

    def size(self, number: int) -> int:
        """How many labels there are in it."""
        return len(labelled(self.labels(number)))

    def picked(self, numbers: Iterable[int]) -> list[Candidate]:
        """What was picked in these rounds."""
        return [c for k in numbers for c in read_picked(self.folder(k) / "picked.extxyz")]

    def done(self, number: int) -> bool:
        """Whether a round is over."""
        return (self.folder(number) / "round.json").exists()

    def record(self, number: int) -> dict[str, Any]:
        """The record of a round that is over."""
        return json.loads((self.folder(number) / "round.json").read_text())

    def write(self, number: int, record: dict[str, Any]) -> None:
        """Write the record of a round."""
        write_json(self.folder(number) / "round.json", record)

    @property
    def last(self) -> int:
        """The last round that is over."""
        return max((int(p.parent.name.rpartition("-")[2]) for p in self.path.glob("round-*/round.json")), default=0)
