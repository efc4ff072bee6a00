"""Checkpoints: everything a training needs to go on as if it had never stopped, and the weights it leaves behind.

A checkpoint is written beside its predecessor and then put in its place, so a kill never leaves half of one. The densities of
the warm starts lie in a second file that carries the same mark; where it is missing, the SCF starts cold, and the continuation
differs in the last digits of the SCF tolerance.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nddo_ml.common.files import read_checkpoint, write_checkpoint
from nddo_ml.errors import IncompatibleFile
from nddo_ml.hamiltonian import weights
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.methods.learned import TrainedOn
from nddo_ml.training.metrics import Sums

FORMAT = "nddo_ml training 1"
LOOSE = ("output", "log")      # settings that may change between a checkpoint and its continuation


@dataclass(eq=False)
class Standing:
    """Where a training stands, but for its model, its optimiser and its averages."""

    trained: set[int] | None                            # keys of the molecules trained on so far; None: the start does not say
    stage: int = 0
    epoch: int = 0                                      # of this stage
    batch: int = 0                                      # of this epoch
    steps: int = 0                                      # of the optimiser, in all stages
    begun: bool = False                                 # the offsets of this stage are solved
    charges: dict[int, float] = field(default_factory=dict)     # eV by total charge, which the labels of this stage lose
    sums: Sums = field(default_factory=Sums)            # of this epoch
    best: float = float("inf")                          # lowest score of this stage
    best_values: list[Tensor] | None = None             # averaged weights of that score

    def next_stage(self) -> None:
        """The next stage is about to begin."""
        self.stage, self.epoch, self.batch, self.begun = self.stage + 1, 0, 0, False
        self.sums, self.best, self.best_values = Sums(), float("inf"), None

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"trained": None if self.trained is None else sorted(self.trained), "stage": self.stage, "epoch": self.epoch,
                "batch": self.batch, "steps": self.steps, "charges": self.charges, "sums": self.sums.values,
                "best": self.best, "best_values": self.best_values}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Standing":
        """What a checkpoint says. It was written within a stage, so the offsets of that are solved."""
        trained = values.get("trained")
        return Standing(None if trained is None else set(trained), values["stage"], values["epoch"], values["batch"],
                        values["steps"], True, values["charges"], Sums(values["sums"]), values["best"], values["best_values"])


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, or the densities beside it, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, FORMAT, content)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        IncompatibleFile: the file is something else.
    """
    return read_checkpoint(path, FORMAT)


def checked(state: dict[str, Any], config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The checkpoint `state`, read from `path`, if it is one of this configuration.

    Raises:
        IncompatibleFile: it is not; the message names the first setting that differs.
    """
    changed = different(state["config"], config)
    if changed:
        raise IncompatibleFile(f"{path} belongs to a training with other settings ({changed}): restore them, choose another "
                               "output folder, or --restart.")
    return state


def different(old: dict, new: dict, prefix: str = "") -> str:
    """The first setting of the old configuration that is another now, with both values; empty if none is. A setting that the
    old one did not have yet does not count."""
    for key in sorted(old, key=str):
        if not prefix and key in LOOSE:
            continue
        before, now = _by_number(old[key]), _by_number(new.get(key))
        if isinstance(before, dict) and isinstance(now, dict):
            inside = different(before, now, f"{prefix}{key}.")
            if inside:
                return inside
        elif _plain(before) != _plain(now):
            return f"{prefix}{key}: {before!r} then, {now!r} now"
    return ""


def save_weights(hamiltonian: Hamiltonian, path: Path, level: str, data: str, notes: dict[str, Any],
                 trained: TrainedOn | None = None) -> None:
    """Write a trained Hamiltonian, with a network or without, as a file that can be named as a method.

    level: of theory of the labels. data: hash of the training data. notes: for the metadata. trained: the molecules it was
    trained on, None where that is not known.
    """
    weights.save(hamiltonian, path, path.stem, weights.Origin(level, data, json.dumps(notes), trained))


def _by_number(value: Any) -> Any:
    """A list of tables as one table of its entries, counted from 1; anything else as it is."""
    if isinstance(value, list | tuple) and value and all(isinstance(entry, dict) for entry in value):
        return {str(k): entry for k, entry in enumerate(value, 1)}
    return value


def _plain(value: Any) -> Any:
    return [_plain(x) for x in value] if isinstance(value, list | tuple) else value
