"""The written record of a training: one JSON line per event, running means of an epoch, per-structure tables."""

import csv
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nddo_ml.common.json import finite
from nddo_ml.training.dataset import LabelledFrame
from nddo_ml.training.step import BatchOutcome, FrameRecord
from nddo_ml.units import CODATA_2018

FATES = ("unconverged", "contaminated", "failed")


class TrainingJournal:
    """Appends events to the file metrics.jsonl; a `silent` one writes nothing."""

    def __init__(self, path: Path, silent: bool = False):
        self.path, self.silent = path, silent
        if not silent:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **values: Any) -> None:
        """Append one line: the event, the time, its values; what is not finite becomes null."""
        if not self.silent:
            with self.path.open("a") as file:
                file.write(json.dumps(finite({"event": event, "time": round(time.time(), 3), **values})) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All events so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines() if line.strip()]

    def cut(self, steps: int) -> None:
        """Drop the events after so many steps: a training that goes on from a checkpoint writes them once more."""
        if not self.silent and self.path.exists():
            kept = [event for event in self.read() if event.get("steps", 0) <= steps]
            self.path.write_text("".join(json.dumps(event) + "\n" for event in kept))


class Sums:
    """Running sums of an epoch: `values` by name, plain numbers, so that a checkpoint can hold them."""

    def __init__(self, values: dict[str, float | int] | None = None):
        self.values: dict[str, float | int] = dict(values or {})

    def add(self, outcome: BatchOutcome) -> None:
        """Take in the outcome of a batch."""
        for name, value in outcome.losses.items():
            self.count(f"loss.{name}", value)
        self.count("batches")
        self.count("frames", len(outcome.records))
        for record in outcome.records:
            self.count(record.fate)
            if record.fate == "ok":
                self._add_errors(record)

    def count(self, name: str, value: float | int = 1) -> None:
        """Add a value to the sum of this name."""
        self.values[name] = self.values.get(name, 0) + value

    def merge(self, values: dict[str, float | int]) -> None:
        """Add the sums of another process."""
        for name, value in values.items():
            if name == "gap.smallest":
                self.values[name] = min(self.values.get(name, math.inf), value)
            else:
                self.count(name, value)

    def means(self) -> dict[str, float | int]:
        """What the log says of an epoch.

        Loss terms per batch; errors of the frames that count: forces kcal/mol/angstrom, energy kcal/mol per molecule, dipole
        debye; SCF iterations, smallest gap (eV), mean norm of the gradient, numbers of frames by fate.
        """
        v, ok = self.values, max(1, self.values.get("ok", 0))
        kcal, debye = CODATA_2018.kcal_mol, CODATA_2018.debye
        losses = {name: value / v["batches"] for name, value in v.items() if name.startswith("loss.")}
        return {"loss": sum(losses.values()), **losses, "forces": v.get("forces", 0) / max(1, v.get("with_forces", 0)) * kcal,
                "energy": v.get("energy", 0) / ok * kcal, "dipole": v.get("dipole", 0) / max(1, v.get("dipoles", 0)) * debye,
                "iterations": v.get("iterations", 0) / ok, "smallest_gap": v.get("gap.smallest", math.nan),
                "ok": v.get("ok", 0), "difference": v.get("difference", 0),
                "gradient": v.get("gradient", 0) / max(1, v.get("batches", 0)),
                **{name: v.get(name, 0) for name in (*FATES, "skipped_steps", "cold", "hysteresis")}}

    def _add_errors(self, record: FrameRecord) -> None:
        """Take in the errors of a frame that counts; a label may be an energy alone."""
        self.count("energy", abs(record.energy))
        self.count("iterations", record.iterations)
        if math.isfinite(record.forces):
            self.count("forces", record.forces)
            self.count("with_forces")
        self.values["gap.smallest"] = min(self.values.get("gap.smallest", math.inf), record.gap)
        if math.isfinite(record.dipole):
            self.count("dipole", record.dipole)
            self.count("dipoles")


def write_structures(path: Path, frames: Sequence[LabelledFrame], records: Iterable[FrameRecord]) -> None:
    """The latest record of each frame as CSV: which structures are hard, contaminated, unconverged."""
    names = ["source", "molecule", "charge", "multiplicity", *list(FrameRecord.__dataclass_fields__)[1:]]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for record in sorted(records, key=lambda r: r.frame):
            frame = frames[record.frame]
            values = list(asdict(record).values())[1:]
            writer.writerow([frame.source, frame.molecule, frame.charge, frame.multiplicity,
                             *(f"{x:.6g}" if isinstance(x, float) else x for x in values)])
