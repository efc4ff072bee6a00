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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.files import held, read_checkpoint, write_checkpoint, write_whole
from nddo_ml.common.json import finite
from nddo_ml.errors import IncompatibleFile, SCFNotConverged, UnknownOption
from nddo_ml.functional import library
from nddo_ml.functional.base import Functional
from nddo_ml.functional.forms.neural import NeuralFunctional
from nddo_ml.functional.pyscf.densities import KohnShamLevel, Snapshot, mean_field, snapshot, solved_system
from nddo_ml.functional.pyscf.nonlocal_part import SpinMatrices
from nddo_ml.functional.pyscf.response import Variation, reference_density, variation
from nddo_ml.functional.reactions import Property, needed_systems
from nddo_ml.functional.training.config import FunctionalConfig
from nddo_ml.functional.training.fit import LevenbergMarquardt
from nddo_ml.functional.training.losses import Residuals, mean_errors, residuals, score
from nddo_ml.functional.training.preparation import reaction_data, untrained

FORMAT = "nddo_ml functional training 1"
FILE = "functional.safetensors"
UNCONVERGED = 10.0      # kcal/mol that a system without a density adds to the error of its round


class SilentFunctionalTraining:
    """Who is told of the progress, and says nothing of it; the command line draws bars."""

    def system(self, round_: int, done: int, total: int) -> None:
        """So many systems of a round have their densities."""

    def step(self, round_: int, done: int, total: int, loss: float) -> None:
        """So many steps of a round are done."""

    def round(self, round_: int, errors: Mapping[str, Mapping[str, float]], best: bool, unconverged: Sequence[str]) -> None:
        """The self-consistent errors of a round, by part and kind; whether it is the best so far; keys of the systems whose SCF
        did not converge."""


class FunctionalTraining:
    """One seed of a configuration; `run` trains it, and resumes it where it was cut off.

    Args:
        config: what is trained, on what, how.
        seed: of the weights.
        watch: is told of the progress.
        stop: says when to stop before the end.
        restart: whether what an earlier run has written is forgotten.
        functional: one of your own to train, with its parameters as they are, in place of what the configuration describes.

    Raises:
        UnknownOption: the configuration cannot be, or leaves nothing to learn.
        IncompatibleFile: a file of reactions is another one, or an earlier run was one with other settings.
    """

    def __init__(self, config: FunctionalConfig, seed: int = 0, watch: SilentFunctionalTraining | None = None,
                 stop: Callable[[], bool] = lambda: False, restart: bool = False,
                 functional: Functional | None = None) -> None:
        config.checked()
        self.config, self.seed, self.stop = config, seed, stop
        self.watch = watch or SilentFunctionalTraining()
        self.folder = Path(config.output) / f"seed-{seed}"
        d = config.data
        self.level = KohnShamLevel(d.basis, d.grid, d.fitted, d.tolerance, min(d.step_grid, d.grid))
        self.data = reaction_data(config)
        self.functional = untrained(config, seed) if functional is None else functional
        learned = [p for p in self.functional.parameters() if p.requires_grad]
        if not learned:
            raise UnknownOption(f"{self.functional.label} has no parameters to learn: take NeuralGGA or NeuralMetaGGA, "
                                "projected = true, or a class of your own with parameters.")
        self.fit = LevenbergMarquardt(learned, config.optimiser.prior)
        self.round, self.best = 0, {"score": math.inf}
        self.snapshots: dict[str, Snapshot] = {}                                        # of this run, by key of the system
        self.starts: dict[str, Float[Tensor, "*spin orbital orbital"]] = {}             # where the next SCFs begin
        self.variations: dict[Property, Variation] = {}
        self.references: dict[Property, SpinMatrices] = {}
        self.unconverged: list[str] = []                                                # keys, of this round
        with held(self.folder):                # nothing is taken over, or taken away, under a run that goes on
            if restart:
                (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            else:
                self._resume()

    def run(self) -> Path:
        """Train to the end, or until `stop` says so; the file of the best functional so far.

        Raises:
            IncompatibleFile: another run writes into this seed's folder.
        """
        rounds = self.config.optimiser.rounds
        with held(self.folder):
            while self.round <= rounds:
                start = time.monotonic()
                if not self._densities():
                    break
                self._judge(time.monotonic() - start)
                if self.round < rounds:
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
        self.unconverged = []
        if self.round == 0 and self._shared():
            return True
        keys = self.data.judged()
        keys += [wanted.system for wanted in self.data.properties if wanted.system not in keys]
        for k, key in enumerate(dict.fromkeys(keys)):
            if self.stop():
                return False
            try:
                self._density(key)
            except SCFNotConverged as error:
                self.unconverged.append(key)      # its old density, if any, goes on being used
                self._log(event="unconverged", system=key, reason=str(error))
            self.watch.system(self.round, k + 1, len(keys))
        if self.round == 0 and not self.data.properties:
            content = {"of": self._starting_point(), "unconverged": self.unconverged,
                       "snapshots": {key: vars(s) for key, s in self.snapshots.items()}}
            write_checkpoint(self._first_file, FORMAT, content)
        return True

    def _density(self, key: str) -> None:
        """Solve a system; its density and properties are then those of the functional as it is."""
        solved = solved_system(self.functional, self.data.systems[key], self.level, self.starts.get(key))
        self._keep(key, snapshot(self.functional, solved))
        for wanted in self.data.properties:
            if wanted.system == key:
                made = variation(self.functional, wanted, self.snapshots[key], solved, self._reference(wanted))
                self.variations[wanted] = made

    def _keep(self, key: str, made: Snapshot) -> None:
        self.snapshots[key], self.starts[key] = made, made.density_matrices

    def _reference(self, wanted: Property) -> SpinMatrices | None:
        """What the density of a system is compared with."""
        if not isinstance(wanted.reference, str):
            return None
        if wanted not in self.references:
            mf = mean_field(self.functional, self.data.systems[wanted.system], self.level)
            self.references[wanted] = reference_density(mf, wanted.reference)
        return self.references[wanted]

    def _shared(self) -> bool:
        """Whether an earlier seed has left the densities of the same starting point; then they are taken."""
        if not self._first_file.exists():
            return False
        content = read_checkpoint(self._first_file, FORMAT)
        if content.get("of") != self._starting_point():
            return False
        for key, fields in content["snapshots"].items():
            self._keep(key, Snapshot(**fields))
        self.unconverged = list(content["unconverged"])
        return True

    @property
    def _first_file(self) -> Path:
        return Path(self.config.output) / "first-densities.pt"

    def _starting_point(self) -> str:
        """What the first densities depend on: not the seed, for networks start from zero."""
        form, keys = replace(self.config.functional, width=0), sorted(self.data.judged())
        start = hashlib.sha256(Path(form.start).read_bytes()).hexdigest() if Path(form.start).is_file() else ""
        neural = isinstance(self.functional, NeuralFunctional)
        own = {} if neural else {k: w.tolist() for k, w in self.functional.state_dict().items()}
        return json.dumps([asdict(form), start, own, asdict(self.level), [asdict(self.data.systems[key]) for key in keys]])

    def _judge(self, seconds: float) -> None:
        """Self-consistent errors; the best functional on the validation molecules is written."""
        parts = self.data.parts
        energies = {key: s.energy for key, s in self.snapshots.items() if key not in self.unconverged}
        values = {wanted: v.value for wanted, v in self.variations.items() if wanted.system not in self.unconverged}
        errors = {"train": mean_errors(parts["train"], energies, values),
                  "validation": mean_errors(parts["validation"], energies)}
        judged = {kind: e if math.isnan(errors["validation"][kind]) else errors["validation"][kind]
                  for kind, e in errors["train"].items()}
        total = score(judged, self.config.losses) + UNCONVERGED * len(self.unconverged)
        best = total < self.best["score"]
        self._log(event="round", round=self.round, errors=errors, score=total, best=best, unconverged=self.unconverged,
                  rungs=sorted({s.rung for s in self.snapshots.values()}), seconds=seconds,
                  exact_exchange=self.functional.exact_exchange)
        if best:
            self.best = {"score": total, "round": self.round}
            self._save(errors)
        self.watch.round(self.round, errors, best, self.unconverged)

    def _save(self, errors: Mapping[str, Mapping[str, float]]) -> None:
        held_out = {part: sorted({r.name for r in self.data.parts[part]}) for part in ("validation", "test")}
        notes = {"errors": finite(errors), "round": self.round, "seed": self.seed, **held_out}
        library.save(self.functional, self.folder / FILE, name=Path(self.config.output).name, level=self.level.name,
                     data=self._hash(), notes=json.dumps(notes))

    def _steps(self) -> None:
        """Steps of the parameters at these densities."""
        steps = self.config.optimiser.steps
        trained = [r for r in self.data.parts["train"] if self.snapshots.keys() >= set(r.systems)]
        used = {key: self.snapshots[key] for key in needed_systems(trained)}

        def evaluated() -> Residuals:
            return residuals(self.functional, used, trained, self.config.losses, list(self.variations.values()))

        here = evaluated()
        for step in range(steps):
            here, better = self.fit.step(here, evaluated)
            self._log(event="step", round=self.round, step=step, loss=here.loss, damping=self.fit.damping)
            self.watch.step(self.round, step + 1, steps, here.loss)
            if not better:
                break

    def _hash(self) -> str:
        """Of what it was trained on."""
        used = json.dumps([[r.name, r.kind, r.reference] for r in self.data.parts["train"]]
                          + [[wanted.system, wanted.kind, wanted.reference] for wanted in self.data.properties])
        return hashlib.sha256(used.encode()).hexdigest()[:16]

    def _log(self, **entry: Any) -> None:
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(finite(entry)) + "\n")

    def _checkpoint(self) -> None:
        content = {"config": self.config.as_dict(), "round": self.round, "best": self.best,
                   "functional": self.functional.state_dict(), "origin": self.fit.origin, "damping": self.fit.damping,
                   "densities": self.starts}
        write_checkpoint(self.folder / "checkpoint.pt", FORMAT, content)

    def _resume(self) -> None:
        """Go on from the checkpoint of an earlier run, if there is one."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        kept = read_checkpoint(path, FORMAT)
        mine = self.config.as_dict()
        changed = [k for k in mine if k not in ("output", "seeds")
                   and json.dumps(mine[k]) != json.dumps(kept["config"].get(k))]
        if changed:
            raise IncompatibleFile(f"{path} belongs to a training with other settings (table {changed[0]}): restore them, "
                                   "choose another output folder, or --restart.")
        self.round, self.best = kept["round"], kept["best"]
        self.functional.load_state_dict(kept["functional"])
        self.fit.origin, self.fit.damping = kept["origin"], kept["damping"]
        self.starts = kept["densities"]


def best_seed(config: FunctionalConfig) -> Path:
    """The file of the best seed on the validation molecules, copied into the output folder as `functional.safetensors`.

    Raises:
        IncompatibleFile: no seed has finished a round.
    """
    output, by_score = Path(config.output), {}
    for seed in config.seeds:
        path = output / f"seed-{seed}" / "checkpoint.pt"
        if path.exists():
            by_score[read_checkpoint(path, FORMAT)["best"]["score"]] = path.parent / FILE
    if not by_score:
        raise IncompatibleFile(f"{output} holds no finished round of any seed: train first.")
    chosen = by_score[min(by_score)]
    write_whole(output / FILE, lambda path: Path(path).write_bytes(chosen.read_bytes()))
    return chosen
