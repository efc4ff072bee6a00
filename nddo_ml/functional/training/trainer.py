"""Training of a functional through its own densities: SCF, steps at constant density, SCF again.

A round makes the densities of the functional as it is; its errors there are self-consistent, and by them the best round is
chosen on the validation molecules. Then the parameters move at constant densities, where the gradient of an energy is exact,
and that of a property exact at first. Everything is written after each round, and the same call goes on from there.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from nddo_ml.common.files import held, read_checkpoint, write_checkpoint, write_whole
from nddo_ml.common.json import finite
from nddo_ml.errors import IncompatibleFile, SCFNotConverged, UnknownOption
from nddo_ml.functional import library
from nddo_ml.functional.base import Functional
from nddo_ml.functional.forms.neural import Neural
from nddo_ml.functional.forms.projection import Projected
from nddo_ml.functional.pyscf.densities import Level, Snapshot, converged, mean_field, of_mean_field
from nddo_ml.functional.pyscf.response import reference_density, variation
from nddo_ml.functional.training import delocalisation
from nddo_ml.functional.training.config import Config
from nddo_ml.functional.training.fit import Fit
from nddo_ml.functional.training.losses import mean_errors, residuals, score
from nddo_ml.functional.training.thermochemistry import Property, needed_systems, read_properties, read_thermochemistry, split

FORMAT = "nddo_ml functional training 1"
FILE = "functional.safetensors"
UNCONVERGED = 10.0      # kcal/mol that a system without a density adds to the error of its round


@dataclass
class Silent:
    """Who is told of the progress; the command line draws bars."""

    def system(self, round_: int, done: int, total: int) -> None: ...

    def step(self, round_: int, done: int, total: int, loss: float) -> None: ...

    def round(self, round_: int, errors: dict, best: bool, unconverged: Sequence[str]) -> None: ...


class Training:
    """One seed of a configuration; `run` trains it, and resumes it where it was cut off. functional: one of your own to train,
    with its parameters as they are, in place of what the configuration describes."""

    def __init__(self, config: Config, seed: int = 0, watch: Silent | None = None, stop: Callable[[], bool] = lambda: False,
                 restart: bool = False, functional: Functional | None = None):
        config.checked()
        self.config, self.seed, self.watch, self.stop = config, seed, watch or Silent(), stop
        self.folder = Path(config.output) / f"seed-{seed}"
        d = config.data
        self.level = Level(d.basis, d.grid, d.fitted, d.tolerance, min(d.step_grid, d.grid))
        self.systems, self.parts, self.properties = data(config)
        self.functional = untrained(config, seed) if functional is None else functional
        learned = [p for p in self.functional.parameters() if p.requires_grad]
        if not learned:
            raise UnknownOption(f"{self.functional.label} has no parameters to learn: take NeuralGGA or NeuralMetaGGA, "
                                "projected = true, or a class of your own with parameters.")
        self.fit = Fit(learned, config.optimiser.prior)
        self.round, self.best, self.snapshots, self.variations, self.references = 0, {"score": math.inf}, {}, {}, {}
        with held(self.folder):                # nothing is taken over, or taken away, under a run that goes on
            if restart:
                (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            else:
                self._resume()

    def run(self) -> Path:
        """Train to the end, or until `stop` says so; the file of the best functional so far. IncompatibleFile: another run
        writes into this seed's folder."""
        o = self.config.optimiser
        with held(self.folder):
            while self.round <= o.rounds:
                start = time.monotonic()
                if not self._densities():
                    break
                self._judge(time.monotonic() - start)
                if self.round < o.rounds:
                    self._steps()
                self.round += 1
                self._checkpoint()
        return self.folder / FILE

    def best_functional(self) -> Functional:
        """The functional of the best round so far, without gradients."""
        return library.load(self.folder / FILE, into=copy.deepcopy(self.functional))

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return self.round > self.config.optimiser.rounds

    def _densities(self) -> bool:
        """New densities of the training and validation systems; whether all were made before `stop`."""
        self.unconverged: list[str] = []
        if self.round == 0 and self._shared():
            return True
        keys = needed_systems(self.parts["train"] + self.parts["validation"])
        keys += [p.system for p in self.properties if p.system not in keys]
        for k, key in enumerate(dict.fromkeys(keys)):
            if self.stop():
                return False
            try:
                self._density(key)
            except SCFNotConverged as error:
                self.unconverged.append(key)      # its old density, if any, goes on being used
                self._log(event="unconverged", system=key, reason=str(error))
            self.watch.system(self.round, k + 1, len(keys))
        if self.round == 0 and not self.properties:
            content = {"of": self._starting_point(), "unconverged": self.unconverged,
                       "snapshots": {key: vars(s) for key, s in self.snapshots.items() if isinstance(s, Snapshot)}}
            write_checkpoint(self._first_file, FORMAT, content)
        return True

    def _density(self, key):
        system, old = self.systems[key], self.snapshots.get(key)
        mf, rung = converged(self.functional, system, self.level, None if old is None else old.density_matrices)
        self.snapshots[key] = of_mean_field(self.functional, system, self.level, mf, rung)
        for p in (p for p in self.properties if p.system == key):
            self.variations[p] = variation(self.functional, p, self.snapshots[key], self.level, mf, self._reference(p))

    def _reference(self, p: Property):
        if p.kind != "density":
            return None
        if p not in self.references:
            self.references[p] = reference_density(mean_field(self.functional, self.systems[p.system], self.level), p.reference)
        return self.references[p]

    def _shared(self) -> bool:
        """Whether an earlier seed has left the densities of the same starting point; then they are taken."""
        if not self._first_file.exists():
            return False
        found = read_checkpoint(self._first_file, FORMAT)
        if found.get("of") != self._starting_point():
            return False
        self.snapshots = {key: Snapshot(**s) for key, s in found["snapshots"].items()}
        self.unconverged = list(found["unconverged"])
        return True

    @property
    def _first_file(self):
        return Path(self.config.output) / "first-densities.pt"

    def _starting_point(self):
        """What the first densities depend on: not the seed, for networks start from zero."""
        keys = sorted(needed_systems(self.parts["train"] + self.parts["validation"]))
        f = replace(self.config.functional, width=0)
        start = hashlib.sha256(Path(f.start).read_bytes()).hexdigest() if Path(f.start).is_file() else ""
        own = {} if isinstance(self.functional, Neural) else {k: w.tolist() for k, w in self.functional.state_dict().items()}
        return json.dumps([asdict(f), start, own, asdict(self.level), [asdict(self.systems[key]) for key in keys]])

    def _judge(self, seconds):
        """Self-consistent errors; the best functional on the validation molecules is written."""
        energies = {key: s.energy for key, s in self.snapshots.items()
                    if isinstance(s, Snapshot) and key not in self.unconverged}
        values = {p: v.value for p, v in self.variations.items() if p.system not in self.unconverged}
        errors = {"train": mean_errors(self.parts["train"], energies, values),
                  "validation": mean_errors(self.parts["validation"], energies)}
        judged = {kind: e if math.isnan(errors["validation"][kind]) else errors["validation"][kind]
                  for kind, e in errors["train"].items()}
        found = score(judged, self.config.losses) + UNCONVERGED * len(self.unconverged)
        best = found < self.best["score"]
        self._log(event="round", round=self.round, errors=errors, score=found, best=best, unconverged=self.unconverged,
                  rungs=sorted({s.rung for s in self.snapshots.values() if isinstance(s, Snapshot)}), seconds=seconds,
                  exact_exchange=self.functional.exact_exchange)
        if best:
            self.best = {"score": found, "round": self.round}
            self._save(errors)
        self.watch.round(self.round, errors, best, self.unconverged)

    def _save(self, errors):
        held_out = {part: sorted({r.name for r in self.parts[part]}) for part in ("validation", "test")}
        notes = {"errors": finite(errors), "round": self.round, "seed": self.seed, **held_out}
        library.save(self.functional, self.folder / FILE, name=Path(self.config.output).name, level=self.level.name,
                     data=self._hash(), notes=json.dumps(notes))

    def _steps(self):
        """Steps of the parameters at these densities."""
        o = self.config.optimiser
        there = {key for key, s in self.snapshots.items() if isinstance(s, Snapshot)}
        trained = [r for r in self.parts["train"] if there.issuperset(r.systems)]
        used = {key: self.snapshots[key] for key in needed_systems(trained)}
        def evaluated():
            return residuals(self.functional, used, trained, self.config.losses, list(self.variations.values()))

        found = evaluated()
        for step in range(o.steps):
            found, better = self.fit.step(found, evaluated)
            self._log(event="step", round=self.round, step=step, loss=found.loss, damping=self.fit.damping)
            self.watch.step(self.round, step + 1, o.steps, found.loss)
            if not better:
                break

    def _hash(self):
        used = json.dumps([[r.name, r.kind, r.reference] for r in self.parts["train"]]
                          + [[p.system, p.kind, p.reference] for p in self.properties])
        return hashlib.sha256(used.encode()).hexdigest()[:16]

    def _log(self, **entry):
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(finite(entry)) + "\n")

    def _checkpoint(self):
        content = {"config": self.config.as_dict(), "round": self.round, "best": self.best,
                   "functional": self.functional.state_dict(), "origin": self.fit.origin, "damping": self.fit.damping,
                   "densities": {key: s.density_matrices for key, s in self.snapshots.items()}}
        write_checkpoint(self.folder / "checkpoint.pt", FORMAT, content)

    def _resume(self):
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        found = read_checkpoint(path, FORMAT)
        mine = self.config.as_dict()
        changed = [k for k in mine if k not in ("output", "seeds")
                   and json.dumps(mine[k]) != json.dumps(found["config"].get(k))]
        if changed:
            raise IncompatibleFile(f"{path} belongs to a training with other settings (table {changed[0]}): restore them, "
                                   "choose another output folder, or --restart.")
        self.round, self.best = found["round"], found["best"]
        self.functional.load_state_dict(found["functional"])
        self.fit.origin, self.fit.damping = found["origin"], found["damping"]
        self.snapshots = {key: _Start(P) for key, P in found["densities"].items()}


def data(config: Config):
    """(systems by key, reactions by part, properties) of a configuration. UnknownOption, IncompatibleFile."""
    d, losses = config.data, config.losses
    systems, reactions = read_thermochemistry(d.file or None)
    unknown = sorted(set(d.only) - {r.name for r in reactions})
    if unknown:
        raise UnknownOption(f"data.only names {unknown[0]!r}, which is no reaction of the file.")
    parts = split([r for r in reactions if not d.only or r.name in d.only], d.validation, d.test)
    for wanted, made in ((losses.stretched, delocalisation.stretched),
                         (losses.fractional, lambda: delocalisation.fractional(d.fractional))):
        if wanted:
            more, added = made()
            systems, parts["train"] = systems | more, parts["train"] + added
    if not d.properties:
        return systems, parts, []
    more, properties = read_properties(d.properties)
    return more | systems, parts, properties


def untrained(config: Config, seed: int) -> Functional:
    """The functional a seed begins with; what is to be learned requires gradients. UnknownOption: there is none such."""
    f = config.functional
    if ":" in f.kind:
        return library.own(f.kind)
    part = {"width": f.width, "alone": f.alone} if f.projected else None
    if f.start:
        made = library.load(f.start).requires_grad_(not f.frozen)
        if f.projected and made.nonlocal_part is None:
            made.nonlocal_part = Projected(width=f.width, seed=seed, alone=f.alone)
        if made.nonlocal_part is not None:
            made.nonlocal_part.requires_grad_(True)
        return made
    if f.kind in library.PUBLISHED:
        return library.build(f.kind, nonlocal_part=part, seed=seed)
    return library.build(f.kind, f.parent or None, f.width, f.correlation, f.exact_exchange if f.exact_exchange >= 0 else None,
                         f.learned_fraction, part, seed)


def best_seed(config: Config) -> Path:
    """The file of the best seed on the validation molecules, copied into the output folder as `functional.safetensors`.
    IncompatibleFile: no seed has come so far."""
    output, found = Path(config.output), {}
    for seed in config.seeds:
        path = output / f"seed-{seed}" / "checkpoint.pt"
        if path.exists():
            found[read_checkpoint(path, FORMAT)["best"]["score"]] = path.parent / FILE
    if not found:
        raise IncompatibleFile(f"{output} holds no finished round of any seed: train first.")
    chosen = found[min(found)]
    write_whole(output / FILE, lambda path: Path(path).write_bytes(chosen.read_bytes()))
    return chosen


@dataclass(frozen=True)
class _Start:
    """Of a density of an earlier run, only where the SCF starts."""

    density_matrices: torch.Tensor
