"""The training loop: stages, epochs, batches; one member of an ensemble per seed.

    gradients of a batch through the SCF (step.py) -> mean over processes -> clip -> Muon/AdamW -> average of the weights

After every `log.validate` epochs the averaged weights are scored on the held-out parts; the best of a stage are kept, written
and what the next stage starts from. Everything that decides the next step is in the checkpoint.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from nddo_ml.common.files import held
from nddo_ml.common.processes import ALONE, World
from nddo_ml.hamiltonian.weights import trained_on
from nddo_ml.methods.learned import TrainedOn
from nddo_ml.training import checkpoints, plots
from nddo_ml.training.batches import collate, draw, orbitals
from nddo_ml.training.config import Config, Stage, checked
from nddo_ml.training.dataset import SAME_KIND, Frame, key
from nddo_ml.training.evaluate import Scores, predict, scores
from nddo_ml.training.losses import Weights, own_loss
from nddo_ml.training.metrics import Journal, Sums, write_structures
from nddo_ml.training.models import finished, hamiltonian_of
from nddo_ml.training.optimiser import Average, Optimiser, clipped, schedule, trainable
from nddo_ml.training.stages import StageData, solve_offsets, stage_data
from nddo_ml.training.starts import Densities
from nddo_ml.training.step import Step, energies

VALIDATION_TOLERANCE = 1e-5     # eV
HYSTERESIS = 1e-3               # eV by which a cold start must be lower to count
DIPOLE_SCORE = 10.0             # kcal/mol per D, in the score
FAILURE_SCORE = 10.0            # for a set of which nothing converges


class Silent:
    """Hears of a training's progress and says nothing; the command line has one that speaks."""

    def stage(self, number: int, stage: Stage, data: StageData, batches: int) -> None:
        """A stage begins."""

    def batch(self, epoch: int, done: int, means: dict) -> None:
        """A batch is done: running means of the epoch."""

    def epoch(self, epoch: int, means: dict) -> None:
        """An epoch is over."""

    def validation(self, epoch: int, sets: dict[str, Scores], best: bool) -> None:
        """The averaged weights were scored."""

    def message(self, text: str) -> None:
        """Something to know."""


class Training:
    """One member: a model, its optimiser, and where it stands."""

    def __init__(self, config: Config, seed: int, folder: Path, world: World | None = None, report: Silent | None = None):
        self.config, self.seed, self.folder = config, seed, Path(folder)
        self.world, self.report = world or ALONE, report or Silent()
        for name in {name for stage in config.stage for name in stage.losses.own}:
            own_loss(name)                     # refuses one that does not exist before any work
        self.model = hamiltonian_of(config, seed)
        self.trained = _trained_before(self.model)
        self.world.same([p.data for p in self.model.parameters()])
        self.densities = Densities()
        self.journal = Journal(self.folder / "metrics.jsonl", silent=not self.world.first)
        self.stage, self.epoch, self.batch, self.steps = 0, 0, 0, 0
        self.sums, self.best, self.best_values, self.charges = Sums(), float("inf"), None, {}
        self._begin()

    @property
    def checkpoint(self) -> Path:
        """Where this process's checkpoint lies; all processes share the first one's weights."""
        return self.folder / "checkpoint.pt"

    def run(self, stop: Callable[[], bool] = lambda: False, epochs: int | None = None) -> bool:
        """Train to the end; whether it is reached. stop: asked after every batch; epochs: stop after so many of them."""
        left = epochs
        while self.stage < len(self.config.stage):
            self._enter()
            while self.epoch < self._epochs():
                if left == 0 or not self._epoch(stop):
                    self.save()
                    return False
                left = None if left is None else left - 1
            self._leave()
        self.save()
        return True

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return False
        state = checkpoints.checked(checkpoints.read(self.checkpoint), self.config.as_dict(), self.checkpoint)
        self.stage, self.epoch, self.batch, self.steps = (state[k] for k in ("stage", "epoch", "batch", "steps"))
        self.model.load_state_dict(state["model"])
        self._begin()
        self.optimiser.restore(state["optimiser"])
        self.average.restore(state["average"])
        self.sums, self.charges = Sums(state["sums"]), state["charges"]
        self.trained = None if state.get("trained") is None else set(state["trained"])
        self.best, self.best_values = state["best"], state["best_values"]
        torch.set_rng_state(state["random"])
        if self._density_file().exists():
            kept = checkpoints.read(self._density_file())
            if kept["mark"] == self._mark():
                self.densities.restore(kept)
        self.journal.cut(self.steps)
        self.resumed = True
        return True

    def save(self) -> None:
        """Write the checkpoint."""
        checkpoints.write(self._density_file(), {"mark": self._mark(), **self.densities.state()})
        if self.world.first:
            state = {"config": self.config.as_dict(), "seed": self.seed, "stage": self.stage, "epoch": self.epoch,
                     "batch": self.batch, "steps": self.steps, "model": dict(self.model.state_dict()),
                     "charges": self.charges, "trained": None if self.trained is None else sorted(self.trained),
                     "optimiser": self.optimiser.state(), "average": self.average.state(),
                     "sums": self.sums.values,
                     "best": self.best, "best_values": self.best_values, "random": torch.get_rng_state()}
            checkpoints.write(self.checkpoint, state)
        self.world.gathered(None)

    def _mark(self):
        """Which checkpoint densities belong to."""
        return [self.stage, self.epoch, self.batch, self.steps, self.world.size]

    def _density_file(self):
        return self.folder / f"densities-{self.world.rank}.pt"

    def _begin(self):
        """A fresh optimiser and average, as each stage has."""
        o = self.config.optimiser
        stage = self.config.stage[min(self.stage, len(self.config.stage) - 1)]
        self.optimiser = Optimiser(self.model, o.ratio, o.momentum, stage.weight_decay, stage.kind == "finetune")
        self.average = Average(trainable(self.model), o.average)
        self.resumed = False

    def _epochs(self):
        stage = self.config.stage[self.stage]
        return 1 if stage.kind == "frozen" else stage.epochs

    def _enter(self):
        """Read the data of the stage, solve its offsets unless it was resumed, share out the frames."""
        stage, config = self.config.stage[self.stage], self.config
        self._take(stage_data(stage, config.data))
        self._remember()
        self.sizes = orbitals(self.model.method, self.frames)
        self.channels = [2 if f.multiplicity > 1 else 1 for f in self.frames]
        self.batches = max(self.world.gathered(len(self._batches((0,)))))
        frozen = stage.kind == "frozen"
        self.step = Step(self.model, stage.losses, stage.widths, config.scf, config.data.contamination, 1 if frozen else 2)
        self.report.stage(self.stage + 1, stage, self.data, self.batches)
        self.latest = {}
        if self.epoch == 0 and self.batch == 0 and not self.resumed:
            elements, self.charges = solve_offsets(self.model, stage, self.data)
            self._take(self.data.without(self.charges))
            self.journal.write("stage", steps=self.steps, number=self.stage + 1, kind=stage.kind, offsets=elements,
                               charges=self.charges, data=self.data.hash, summary=self.data.summary,
                               left_out=self.data.left_out)
            self._validate()
        else:
            self._take(self.data.without(self.charges))

    def _remember(self):
        """Keep which molecules the stage trains on. Held-out ones that the weights this began with were trained on are said:
        their errors are none of unseen molecules."""
        if self.trained is None:
            return
        before = _trained_before(self.model)
        seen = {f.molecule for name, frames in self.data.held_out().items() if name != "dissociation" for f in frames
                if key(f.molecule) in before}
        if seen:
            self.report.message(f"{self.config.model.start} was trained on {len(seen)} of the held-out molecules, whose errors "
                                "will look too small: hold out those that it did (data.validation, data.large).")
        self.trained |= {key(f.molecule) for f in self.data.train}

    def _take(self, data):
        """Work with these data; frames whose energies are compared belong to one process and one batch."""
        names = groups(data.train, self.config.stage[self.stage].losses)
        mine = set(self.world.share(list(dict.fromkeys(names))))
        self.data, self.frames = data, [f for f, name in zip(data.train, names, strict=True) if name in mine]
        self.groups = [name for name in names if name in mine]

    def _leave(self):
        """The best weights of the stage are written and go on."""
        stage = self.config.stage[self.stage]
        if stage.kind != "frozen" and self.best_values is not None:
            with torch.no_grad():
                for p, value in zip(trainable(self.model), self.best_values, strict=True):
                    p.copy_(value)
            self._score(None, "final")
            if self.world.first:
                self._write_weights(f"stage-{self.stage + 1}")
                if self.stage + 1 == len(self.config.stage):
                    self._write_weights("model")
        self.densities.clear()
        self.stage, self.epoch, self.batch = self.stage + 1, 0, 0
        self.best, self.best_values, self.sums = float("inf"), None, Sums()
        self._begin()

    def _epoch(self, stop) -> bool:
        """One epoch from where it stands; False if it was stopped."""
        stage, o = self.config.stage[self.stage], self.config.optimiser
        seed = (self.seed, self.stage, self.epoch, self.world.rank)
        batches = self._batches(seed)
        total = self.batches * self._epochs()
        cold = self.config.scf.cold
        check = cold > 0 and self.epoch > 0 and self.epoch % cold == 0
        began = time.perf_counter()
        while self.batch < self.batches:
            index = batches[self.batch] if self.batch < len(batches) else []
            if stage.kind == "frozen":
                with torch.no_grad():
                    self._gradients(index, False)
            else:
                rate = stage.rate * schedule(self.epoch * self.batches + self.batch, total, o.warm_up, o.final)
                self._move(self._gradients(index, check), rate)
                self.steps += 1
            self.batch += 1
            self.report.batch(self.epoch, self.batch, self.sums.means() if self.sums.values.get("batches") else {})
            if any(self.world.gathered(stop())) and self.batch < self.batches:
                return False
        self._epoch_over(time.perf_counter() - began)
        return True

    def _batches(self, seed) -> list[list[int]]:
        """Batches of an epoch, as lists of places. Of complexes that count for their interaction energies only, as many are
        drawn as bring no more frames than there are others.
        """
        names = dict.fromkeys(name for name, f in zip(self.groups, self.frames, strict=True) if f.differences_only)
        others = sum(not f.differences_only for f in self.frames)
        most = max(1, others // 3)
        drawn = names if len(names) <= most else set(
            np.random.default_rng(seed).permutation(np.array(list(names), dtype=object))[:most])
        places = [k for k, f in enumerate(self.frames) if not f.differences_only or self.groups[k] in drawn]
        found = draw([self.sizes[k] for k in places], [self.channels[k] for k in places], self.config.optimiser.batch, seed,
                     [self.groups[k] for k in places])
        return [[places[k] for k in batch] for batch in found]

    def _gradients(self, index, check) -> int:
        """Put the gradients of the frames `index` into the parameters; how many of the frames count."""
        for p in self.model.parameters():
            p.grad = None
        if not index:
            return 0
        batch = collate(self.frames, index).to(self.model.U_ss.device)
        cold = self._cold(batch) if check else None
        outcome = self.step(self.frames, batch, self.densities)
        self.sums.add(outcome)
        self.latest.update({r.frame: r for r in outcome.records})
        if cold is not None:
            self._compare(batch, cold, outcome)
        return outcome.valid

    def _move(self, valid, rate):
        """One step of the optimiser, unless a gradient is not finite."""
        parameters = trainable(self.model)
        if self.world.average(parameters, float(valid)) == 0:
            return
        norm = clipped(parameters, self.config.optimiser.clip)
        if not np.isfinite(norm):
            self.sums.count("skipped_steps")
            return
        self.sums.count("gradient", norm)
        self.optimiser.step(rate)
        self.average.update()

    def _cold(self, batch):
        """The batch solved from neutral atoms."""
        scf = self.config.scf
        with torch.no_grad():
            result = self.model(batch.molecules, point_charges=batch.point_charges, tolerance=scf.tolerance,
                                max_steps=scf.max_steps, raise_unconverged=False)
            return result, energies(self.model, result, batch.frames)

    def _compare(self, batch, cold, outcome):
        """Where the cold start found a lower state than the kept density, that state is kept."""
        result, energy = cold
        warm = {r.frame: r.energy for r in outcome.records}
        for place, (k, e) in enumerate(zip(batch.index, (energy - batch.energy).tolist(), strict=True)):
            if np.isfinite(e) and not e > warm[k] - HYSTERESIS:
                self.densities.keep(k, result.density(place))
                self.sums.count("hysteresis")
            self.sums.count("cold")

    def _epoch_over(self, seconds):
        """Log, validate, checkpoint."""
        log, last = self.config.log, self.epoch + 1 == self._epochs()
        sums = Sums()
        for values in self.world.gathered(self.sums.values):
            sums.merge(values)
        means = sums.means()
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, Sums()
        self.journal.write("epoch", steps=self.steps, stage=self.stage + 1, epoch=self.epoch, seconds=seconds, **means)
        self.report.epoch(self.epoch, means)
        kind = self.config.stage[self.stage].kind
        if self.world.first:
            write_structures(self.folder / f"structures-{self.stage + 1}.csv", self.frames, self.latest.values())
        if kind != "frozen" and (last or self.epoch % log.validate == 0):
            self._validate()
        if self.world.first and log.plot and (last or self.epoch % log.plot == 0):
            plots.learning_curves(self.journal.read(), self.folder / "learning.png")
        if last or self.epoch % log.checkpoint == 0:
            self.save()

    def _validate(self):
        """Score the averaged weights on the held-out parts; keep them if they are the best of the stage."""
        with self.average.applied():
            sets = self._score(self.config.log.frames, "validation")
            score = overall(sets)
            best = score < self.best or self.best_values is None or score == float("inf")    # nothing held out: the latest
            if best:
                self.best, self.best_values = score, [v.clone() for v in self.average.values]
                if self.world.first and self.epoch:
                    self._write_weights("best")
        self.report.validation(self.epoch, sets, best)

    def _score(self, most, event) -> dict[str, Scores]:
        """Scores of the weights as they are, by test part."""
        found, log = {}, self.config.log
        for name, frames in self.data.held_out(most).items():
            predictions = self.world.join(predict(self.model, self.world.share(frames), VALIDATION_TOLERANCE), len(frames))
            found[name] = scores(frames, predictions, contamination=self.config.data.contamination)
            if self.world.first and log.plot and (event == "final" or (self.epoch and self.epoch % log.plot == 0)):
                plots.parity(frames, predictions, self.folder / f"parity-{name}.png",
                             f"{name}: {len(frames)} frames, stage {self.stage + 1}, epoch {self.epoch}")
        self.journal.write(event, steps=self.steps, stage=self.stage + 1, epoch=self.epoch,
                           sets={name: asdict(s) for name, s in found.items()}, score=overall(found))
        return found

    def _write_weights(self, name):
        stage = self.config.stage[self.stage]
        notes = {"seed": self.seed, "stage": self.stage + 1, "epoch": self.epoch, "steps": self.steps, "score": self.best,
                 "training_frames": len(self.data.train), "dispersion_of_labels": stage.dispersion,
                 "offsets": stage.offsets, "data": self.data.hash}
        level = self.config.data.level
        d, trained = self.config.data, self.trained
        checkpoints.save_weights(finished(self.model, self.config.model.dispersion), self.folder / f"{name}.safetensors", level,
                                 self.data.hash, notes,
                                 None if trained is None else TrainedOn(d.validation, d.large, frozenset(trained)))


def _trained_before(model) -> set[int] | None:
    """Keys of the molecules that the weights a training begins with were trained on; None: their file does not say."""
    card = model.method.card
    if card is None:
        return set()
    found = trained_on(card)
    return None if found is None else set(found.molecules)


def groups(frames: Sequence[Frame], losses: Weights) -> list:
    """A name for each frame, the same for frames whose energies the losses compare: complexes and their fragments, or all
    frames of a molecule."""
    if losses.relative:
        return [f.molecule for f in frames]
    return [f.parts_of if losses.interaction and f.parts_of is not None else k for k, f in enumerate(frames)]


def overall(sets: dict[str, Scores]) -> float:
    """The figure that decides which weights are best: force error (kcal/mol/A) + energy error (kcal/mol) + 10 dipole error (D)
    + error of interaction energies (kcal/mol), mean over the frames of the parts held out by hash; lower is better. What fails
    counts as FAILURE_SCORE."""
    mine = [s for name, s in sets.items() if name in SAME_KIND]
    total = sum(s.frames for s in mine)
    if not total:
        return float("inf")
    points = [FAILURE_SCORE if not np.isfinite(s.energy) else
              np.nan_to_num(s.forces) + s.energy + DIPOLE_SCORE * np.nan_to_num(s.dipole)
              + np.nan_to_num(s.interaction) + FAILURE_SCORE * s.failed / s.frames
              for s in mine]
    return float(sum(p * s.frames for p, s in zip(points, mine, strict=True)) / total)


def train(config: Config, world: World | None = None, report: Silent | None = None, stop: Callable[[], bool] = lambda: False,
          restart: bool = False) -> list[Path]:
    """Train all members of an ensemble, one folder each (`seed-N`), going on from their checkpoints unless `restart`; the
    folders of those that are done. Raises UnknownOption; IncompatibleFile, also where another run holds one of the folders."""
    checked(config)
    folders = [Path(config.output) / f"seed-{seed}" for seed in config.seeds]
    done = []
    with held(*folders, world=world or ALONE):
        for seed, folder in zip(config.seeds, folders, strict=True):
            training = Training(config, seed, folder, world, report)
            if restart:
                for name in ("checkpoint.pt", "metrics.jsonl"):
                    (folder / name).unlink(missing_ok=True)
            elif training.resume():
                training.report.message(f"Going on from {training.checkpoint}: stage {training.stage + 1}, epoch "
                                        f"{training.epoch}.")
            if not training.run(stop):
                break
            done.append(folder)
    return done
