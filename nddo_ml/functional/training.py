"""Training of a functional through its own densities: SCF, steps at constant density, SCF again.

A round makes the densities of the functional as it is; its errors there are self-consistent, and by them the best round is
chosen on the validation molecules. Then the parameters move at constant densities, where the gradient is exact. Everything is
written after each round, and the same call goes on from there.
"""

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nddo_ml.errors import IncompatibleFile, SCFNotConverged
from nddo_ml.functional import library
from nddo_ml.functional.base import Functional
from nddo_ml.functional.config import Config
from nddo_ml.functional.pyscf_densities import Level, Snapshot, energy, snapshot
from nddo_ml.functional.thermochemistry import KINDS, Reaction, System, needed_systems, read_thermochemistry, split
from nddo_ml.units import CODATA_2018
from nddo_ml.weights import write_whole

KCAL = CODATA_2018.hartree * CODATA_2018.kcal_mol      # kcal/mol per hartree
STRETCHED = System("H2+ 10 angstrom", ("H", "H"), ((0.0, 0.0, 0.0), (0.0, 0.0, 10.0)), 1, 1)
ATOM = System("H atom", ("H",), ((0.0, 0.0, 0.0),), 0, 1)
# -alpha / 2 R^4 with alpha = 9/2 bohr^3: the proton polarises the atom, nothing else is left at 10 angstrom
DISSOCIATION = Reaction("stretched", "H2+", (STRETCHED.key, ATOM.key), (1.0, -1.0), -0.011)
FORMAT = "nddo_ml functional training 1"


@dataclass
class Silent:
    """Who is told of the progress; the command line draws bars."""

    def system(self, round_: int, done: int, total: int) -> None: ...

    def step(self, round_: int, done: int, total: int, loss: float) -> None: ...

    def round(self, round_: int, errors: dict, best: bool, unconverged: Sequence[str]) -> None: ...


def errors_of(reactions: Sequence[Reaction], energies: dict) -> dict[Reaction, float]:
    """Model less reference, kcal/mol, of the reactions all of whose energies (hartree) there are."""
    return {r: KCAL * sum(c * energies[key] for c, key in zip(r.coefficients, r.systems, strict=True)) - r.reference
            for r in reactions if all(key in energies for key in r.systems)}


def mean_errors(reactions: Sequence[Reaction], energies: dict) -> dict[str, float]:
    """Mean absolute error by kind, kcal/mol; NaN without any."""
    found = errors_of(reactions, energies)
    by_kind = {kind: [abs(e) for r, e in found.items() if r.kind == kind] for kind in (*KINDS, "stretched")}
    return {kind: sum(e) / len(e) if e else math.nan for kind, e in by_kind.items()}


def loss_and_gradient(functional: Functional, snapshots: dict[str, Snapshot], reactions: Sequence[Reaction], losses) -> float:
    """The loss, with its gradient added to the parameters: Huber losses of reaction energies, the mean over each kind times its
    weight. One density at a time is differentiated."""
    with torch.no_grad():
        energies = {key: energy(functional, s) for key, s in snapshots.items()}
    leaves = {key: E.detach().requires_grad_() for key, E in energies.items()}
    found = errors_of(reactions, leaves)
    total = torch.zeros((), dtype=torch.float64)
    for kind in {r.kind for r in found}:
        e = torch.stack([x for r, x in found.items() if r.kind == kind]) / losses.width
        weight = getattr(losses, kind)
        total = total + weight * torch.nn.functional.huber_loss(e, torch.zeros_like(e))
    slopes = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    for key, slope in zip(leaves, slopes, strict=True):
        if slope is not None:
            (slope * energy(functional, snapshots[key])).backward()
    return float(total.detach())


class Training:
    """One seed of a configuration; `run` trains it, and resumes it where it was cut off."""

    def __init__(self, config: Config, seed: int, watch: Silent | None = None, stop: Callable[[], bool] = lambda: False,
                 restart: bool = False):
        self.config, self.seed, self.watch, self.stop = config.checked(), seed, watch or Silent(), stop
        self.folder = Path(config.output) / f"seed-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.level = Level(config.data.basis, config.data.grid, config.data.fitted, config.data.tolerance)
        self.systems, self.parts = self._data()
        self.functional = self._functional()
        o = config.optimiser
        self.adam = torch.optim.AdamW([p for p in self.functional.parameters() if p.requires_grad], lr=o.rate,
                                      weight_decay=o.weight_decay)
        self.round, self.best, self.snapshots = 0, {"score": math.inf}, {}
        if not restart:
            self._resume()
        else:
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)

    def _data(self):
        d = self.config.data
        systems, reactions = read_thermochemistry(d.file or None)
        parts = split(reactions, d.validation, d.test)
        if d.limit:
            parts["train"] = parts["train"][-d.limit:]
        if self.config.losses.stretched:
            systems |= {STRETCHED.key: STRETCHED, ATOM.key: ATOM}
            parts["train"].append(DISSOCIATION)
        return systems, parts

    def _functional(self):
        f = self.config.functional
        if f.start:
            return library.load(f.start).requires_grad_(True)
        arguments = {} if f.kind in library.PUBLISHED else {"parent": f.parent or None, "width": f.width,
                                                            "correlation": f.correlation}
        return library.build(f.kind, **arguments, nonlocal_part={"width": f.width} if f.projected else None, seed=self.seed)

    def run(self) -> Path:
        """Train to the end, or until `stop` says so; the file of the best functional so far."""
        o = self.config.optimiser
        while self.round <= o.rounds:
            if not self._densities():
                return self.folder / "functional.safetensors"
            self._judge()
            if self.round < o.rounds:
                self._steps()
            self.round += 1
            self._checkpoint()
        return self.folder / "functional.safetensors"

    def _densities(self) -> bool:
        """New densities of the training and validation systems; whether all were made before `stop`."""
        keys = needed_systems(self.parts["train"] + self.parts["validation"])
        self.unconverged = []
        for k, key in enumerate(keys):
            if self.stop():
                return False
            old = self.snapshots.get(key)
            try:
                self.snapshots[key] = snapshot(self.functional, self.systems[key], self.level,
                                               start=None if old is None else old.density_matrices)
            except SCFNotConverged as error:
                self.unconverged.append(key)      # its old density, if any, goes on being used
                self._log(event="unconverged", system=key, reason=str(error))
            self.watch.system(self.round, k + 1, len(keys))
        return True

    def _judge(self):
        """Self-consistent errors; the best functional on the validation molecules is written."""
        energies = {key: s.energy for key, s in self.snapshots.items() if key not in self.unconverged}
        errors = {part: mean_errors(self.parts[part], energies) for part in ("train", "validation")}
        judged = errors["validation"] if self.parts["validation"] else errors["train"]
        weights = self.config.losses
        score = sum(getattr(weights, kind) * e for kind, e in judged.items() if math.isfinite(e)) + 10 * len(self.unconverged)
        best = score < self.best["score"]
        self._log(event="round", round=self.round, errors=errors, score=score, best=best, unconverged=self.unconverged,
                  rungs=sorted({s.rung for s in self.snapshots.values()}),
                  steps=sum(s.steps for s in self.snapshots.values()))
        if best:
            self.best = {"score": score, "round": self.round}
            held_out = {part: sorted({r.name for r in self.parts[part]}) for part in ("validation", "test")}
            notes = {"errors": errors, "round": self.round, "seed": self.seed, **held_out}
            library.save(self.functional, self.folder / "functional.safetensors", name=Path(self.config.output).name,
                         level=self.level.name, data=self._hash(), notes=json.dumps(notes))
        self.watch.round(self.round, errors, best, self.unconverged)

    def _steps(self):
        """Steps of the parameters at these densities."""
        o = self.config.optimiser
        trained = [r for r in self.parts["train"] if all(key in self.snapshots for key in r.systems)]
        used = {key: self.snapshots[key] for key in needed_systems(trained)}
        for step in range(o.steps):
            done = (self.round * o.steps + step) / (o.rounds * o.steps)
            for group in self.adam.param_groups:
                group["lr"] = o.rate * (o.final + (1 - o.final) * 0.5 * (1 + math.cos(math.pi * done)))
            self.adam.zero_grad()
            loss = loss_and_gradient(self.functional, used, trained, self.config.losses)
            norm = torch.nn.utils.clip_grad_norm_(self.functional.parameters(), o.clip)
            if bool(torch.isfinite(norm)):
                self.adam.step()
            self._log(event="step", round=self.round, step=step, loss=loss, gradient=float(norm))
            self.watch.step(self.round, step + 1, o.steps, loss)

    def _hash(self):
        used = json.dumps([[r.name, r.kind, r.reference] for r in self.parts["train"]])
        return hashlib.sha256(used.encode()).hexdigest()[:16]

    def _log(self, **entry):
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(_finite(entry)) + "\n")

    def _checkpoint(self):
        content = {"format": FORMAT, "config": self.config.as_dict(), "round": self.round, "best": self.best,
                   "functional": self.functional.state_dict(), "adam": self.adam.state_dict(),
                   "densities": {key: s.density_matrices for key, s in self.snapshots.items()}}
        write_whole(str(self.folder / "checkpoint.pt"), lambda path: torch.save(content, path))

    def _resume(self):
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        try:
            found = torch.load(path, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise IncompatibleFile(f"{path} is not a readable checkpoint ({type(error).__name__}): choose another output "
                                   "folder, or --restart.") from error
        mine = self.config.as_dict()
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise IncompatibleFile(f"{path} is no checkpoint of a functional's training: choose another output folder, or "
                                   "--restart.")
        changed = [k for k in mine if k != "output" and json.dumps(mine[k]) != json.dumps(found["config"].get(k))]
        if changed:
            raise IncompatibleFile(f"{path} belongs to a training with other settings (table {changed[0]}): restore them, "
                                   "choose another output folder, or --restart.")
        self.round, self.best = found["round"], found["best"]
        self.functional.load_state_dict(found["functional"])
        self.adam.load_state_dict(found["adam"])
        self.snapshots = {key: _Start(P) for key, P in found["densities"].items()}


def _finite(value):
    """The value with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(x) for key, x in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class _Start:
    """Of a density of an earlier run, only where the SCF starts."""

    density_matrices: torch.Tensor
