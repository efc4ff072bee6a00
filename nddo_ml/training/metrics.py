"""The written record of a training: one JSON line per event, running means of an epoch, per-structure tables."""

import csv
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from nddo_ml.common.json import finite
from nddo_ml.training.dataset import Frame
from nddo_ml.training.step import Outcome, Record
from nddo_ml.units import CODATA_2018

FATES = ("unconverged", "contaminated", "failed")


class Journal:
    """Appends events to metrics.jsonl; a `silent` one writes nothing."""

    def __init__(self, path: Path, silent: bool = False):
        self.path, self.silent = path, silent
        if not silent:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **values) -> None:
        """One line: the event, the time, its values; what is not finite becomes null."""
        if not self.silent:
            with self.path.open("a") as file:
                file.write(json.dumps({"event": event, "time": round(time.time(), 3), **finite(values)}) + "\n")

    def read(self) -> list[dict]:
        """All events so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines() if line.strip()]

    def cut(self, steps: int) -> None:
        """Drop the epochs a run wrote after the checkpoint it goes on from, so that none is there twice."""
        if not self.silent and self.path.exists():
            kept = [event for event in self.read() if event.get("steps", 0) <= steps]
            self.path.write_text("".join(json.dumps(event) + "\n" for event in kept))


class Sums:
    """Running sums of an epoch; plain numbers, so that a checkpoint can hold them."""

    def __init__(self, values: dict | None = None):
        self.values = dict(values or {})

    def add(self, outcome: Outcome) -> None:
        """Take in the outcome of a batch."""
        self._more(**{f"loss.{name}": value for name, value in outcome.losses.items()}, batches=1, frames=len(outcome.records))
        for r in outcome.records:
            self._more(**{r.fate: 1})
            if r.fate == "ok":
                self._more(energy=abs(r.energy), iterations=r.iterations)
                if math.isfinite(r.forces):                 # a label may be an energy alone
                    self._more(forces=r.forces, with_forces=1)
                self.values["gap.smallest"] = min(self.values.get("gap.smallest", math.inf), r.gap)
                if math.isfinite(r.dipole):
                    self._more(dipole=r.dipole, dipoles=1)

    def count(self, name: str, value: float = 1) -> None:
        """Add to a counter of one's own."""
        self._more(**{name: value})

    def merge(self, values: dict) -> None:
        """Add the sums of another process."""
        for name, value in values.items():
            smallest = name == "gap.smallest"
            mine = self.values.get(name, math.inf if smallest else 0)
            self.values[name] = min(mine, value) if smallest else mine + value

    def means(self) -> dict:
        """Loss terms per batch; errors of the frames that count: forces kcal/mol/A, energy kcal/mol per molecule, dipole D;
        iterations, smallest gap (eV), numbers of frames by fate."""
        v, ok = self.values, max(1, self.values.get("ok", 0))
        kcal, debye = CODATA_2018.kcal_mol, CODATA_2018.debye
        losses = {name: value / v["batches"] for name, value in v.items() if name.startswith("loss.")}
        return {"loss": sum(losses.values()), **losses, "forces": v.get("forces", 0) / max(1, v.get("with_forces", 0)) * kcal,
                "energy": v.get("energy", 0) / ok * kcal, "dipole": v.get("dipole", 0) / max(1, v.get("dipoles", 0)) * debye,
                "iterations": v.get("iterations", 0) / ok, "smallest_gap": v.get("gap.smallest", math.nan),
                "ok": v.get("ok", 0), "difference": v.get("difference", 0),
                "gradient": v.get("gradient", 0) / max(1, v.get("batches", 0)),
                **{name: v.get(name, 0) for name in (*FATES, "skipped_steps", "cold", "hysteresis")}}

    def _more(self, **values):
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0) + value


def write_structures(path: Path, frames: Sequence[Frame], records: Iterable[Record]) -> None:
    """The latest record of each frame as CSV: which structures are hard, contaminated, unconverged."""
    names = ["source", "molecule", "charge", "multiplicity", *list(Record.__dataclass_fields__)[1:]]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for r in sorted(records, key=lambda r: r.frame):
            f = frames[r.frame]
            values = list(asdict(r).values())[1:]
            writer.writerow([f.source, f.molecule, f.charge, f.multiplicity,
                             *(f"{x:.6g}" if isinstance(x, float) else x for x in values)])
