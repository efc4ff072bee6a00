"""Checkpoints: everything a training needs to go on as if it had never stopped, and the weights it leaves behind.

A checkpoint is written beside its predecessor and then put in its place, so a kill never leaves half of one. The densities of
the warm starts lie in a second file that carries the same mark; where it is missing, the SCF starts cold, and the continuation
differs in the last digits of the SCF tolerance.
"""

import json
from pathlib import Path

from nddo_ml.common.files import read_checkpoint, write_checkpoint
from nddo_ml.errors import IncompatibleFile
from nddo_ml.hamiltonian import weights
from nddo_ml.methods.learned import TrainedOn

FORMAT = "nddo_ml training 1"
LOOSE = ("output", "log")      # settings that may change between a checkpoint and its continuation


def write(path: Path, content: dict) -> None:
    """Write a checkpoint, or the densities beside it, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, FORMAT, content)


def read(path: Path) -> dict:
    """What `write` wrote. IncompatibleFile for anything else."""
    return read_checkpoint(path, FORMAT)


def checked(state: dict, config: dict, path: Path) -> dict:
    """The checkpoint, if it is one of this configuration (IncompatibleFile names the first setting that differs)."""
    changed = different(state["config"], config)
    if changed:
        raise IncompatibleFile(f"{path} belongs to a training with other settings ({changed}): restore them, choose another "
                               "output folder, or --restart.")
    return state


def different(old: dict, new: dict, prefix: str = "") -> str:
    """The first setting of the old configuration that is another now, with both values; empty if none is. A setting the old
    one did not have yet does not count."""
    for key in sorted(old, key=str):
        if not prefix and key in LOOSE:
            continue
        a, b = _by_number(old[key]), _by_number(new.get(key))
        if isinstance(a, dict) and isinstance(b, dict):
            found = different(a, b, f"{prefix}{key}.")
            if found:
                return found
        elif _plain(a) != _plain(b):
            return f"{prefix}{key}: {a!r} then, {b!r} now"
    return ""


def _by_number(value):
    """A list of tables as one table of its entries, counted from 1; anything else as it is."""
    if isinstance(value, list | tuple) and value and all(isinstance(entry, dict) for entry in value):
        return {str(k): entry for k, entry in enumerate(value, 1)}
    return value


def save_weights(hamiltonian, path: Path, level: str, data: str, notes: dict, trained: TrainedOn | None = None) -> None:
    """Write a trained Hamiltonian, with a network or without, as a file that can be named as a method."""
    weights.save(hamiltonian, path, name=path.stem, level=level, data=data, notes=json.dumps(notes), trained=trained)


def _plain(value):
    return [_plain(x) for x in value] if isinstance(value, list | tuple) else value
