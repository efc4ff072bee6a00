"""The training loop: stages, epochs, batches; one member of an ensemble per seed.

    gradients of a batch through the SCF (step.py) -> mean over processes -> clip -> Muon/AdamW -> average of the weights

After every `log.validate` epochs the averaged weights are scored on the held-out parts; the best of a stage are kept, written
and what the next stage starts from. Everything that decides the next step is in the checkpoint.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.files import held
from nddo_ml.common.processes import ALONE, World
from nddo_ml.hamiltonian.results import Result
from nddo_ml.methods.learned import TrainedOn
from nddo_ml.training import checkpoints, plots
from nddo_ml.training.batches import Batch, collate
from nddo_ml.training.checkpoints import Standing
from nddo_ml.training.config import Stage, TrainingConfig, checked
from nddo_ml.training.dataset import key
from nddo_ml.training.evaluate import Scores, overall, predict, scores
from nddo_ml.training.losses import own_loss
from nddo_ml.training.metrics import Sums, TrainingJournal, write_structures
from nddo_ml.training.models import device_of, finished, hamiltonian_of, trained_before
from nddo_ml.training.optimiser import Average, MuonAdamW, clipped, put, schedule, trainable
from nddo_ml.training.stages import StageData, solve_offsets, stage_data
from nddo_ml.training.starts import Densities
from nddo_ml.training.step import BatchOutcome, TrainingStep, energies
from nddo_ml.training.work import StageWork, share_of

VALIDATION_TOLERANCE = 1e-5     # eV
HYSTERESIS = 1e-3               # eV by which a cold start must be lower to count


class SilentTraining:
    """Hears of a training's progress and says nothing; the command line has one that speaks."""

    def stage(self, number: int, stage: Stage, data: StageData, batches: int) -> None:
        """A stage begins; batches: of an epoch."""

    def batch(self, epoch: int, done: int, means: dict[str, Any]) -> None:
        """A batch is done; means: of the epoch so far (Sums.means)."""

    def epoch(self, epoch: int, means: dict[str, Any]) -> None:
        """An epoch is over."""

    def validation(self, epoch: int, sets: dict[str, Scores], best: bool) -> None:
        """The averaged weights were scored, by test part; best: these are the best so far."""

    def message(self, text: str) -> None:
        """Something to know."""


class Training:
    """One member of an ensemble: a model, its optimiser, and where it stands.

    seed: decides the first weights and all batches. folder: of everything it writes. world: the processes it is one of.
    report: hears of the progress. `work` is what the running stage works on, or the last one did; None before the first.

    Raises:
        UnknownOption: the model, or a loss of one's own, cannot be made.
    """

    def __init__(self, config: TrainingConfig, seed: int, folder: Path, world: World = ALONE,
                 report: SilentTraining | None = None):
        self.config, self.seed, self.folder = config, seed, Path(folder)
        self.world, self.report = world, report or SilentTraining()
        for name in {name for stage in config.stage for name in stage.losses.own}:
            own_loss(name)                     # refuses one that does not exist before any work
        self.model = hamiltonian_of(config, seed)
        self.world.same([p.data for p in self.model.parameters()])
        self.standing = Standing(trained_before(self.model))
        self.optimiser, self.average = self._fresh()
        self.densities = Densities()
        self.random = torch.Generator().manual_seed(seed).get_state()     # of networks that draw random numbers
        self.journal = TrainingJournal(self.folder / "metrics.jsonl", silent=not self.world.first)
        self.work: StageWork | None = None

    @property
    def checkpoint(self) -> Path:
        """Where this process's checkpoint lies; all processes share the first one's weights."""
        return self.folder / "checkpoint.pt"

    def run(self, stop: Callable[[], bool] = lambda: False, epochs: int | None = None) -> bool:
        """Train to the end; whether it is reached. stop: asked after every batch; epochs: stop after so many of them."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random)
            return self._stages(stop, epochs)

    def resume(self) -> bool:
        """Go on from the checkpoint; False if there is none.

        Raises:
            IncompatibleFile: it is none, or one of other settings.
        """
        if not self.checkpoint.exists():
            return False
        state = checkpoints.checked(checkpoints.read(self.checkpoint), self.config.as_dict(), self.checkpoint)
        self.standing = Standing.from_dict(state)
        self.model.load_state_dict(state["model"])
        self.optimiser, self.average = self._fresh()
        self.optimiser.restore(state["optimiser"])
        self.average.restore(state["average"])
        self.random = state["random"]
        if self._density_file().exists():
            kept = checkpoints.read(self._density_file())
            if kept["mark"] == self._mark():
                self.densities.restore(kept)
        self.journal.cut(self.standing.steps)
        return True

    def _save(self) -> None:
        """Write the checkpoint."""
        self.random = torch.get_rng_state()
        checkpoints.write(self._density_file(), {"mark": self._mark(), **self.densities.state()})
        if self.world.first:
            checkpoints.write(self.checkpoint, {
                "config": self.config.as_dict(), "seed": self.seed, "model": dict(self.model.state_dict()),
                "optimiser": self.optimiser.state(), "average": self.average.state(), "random": self.random,
                **self.standing.as_dict()})
        self.world.gathered(None)              # nobody goes on before all have written

    def _mark(self) -> list[int]:
        """Which checkpoint densities belong to."""
        s = self.standing
        return [s.stage, s.epoch, s.batch, s.steps, self.world.size]

    def _density_file(self) -> Path:
        return self.folder / f"densities-{self.world.rank}.pt"

    def _fresh(self) -> tuple[MuonAdamW, Average]:
        """A fresh optimiser and average, as each stage has."""
        o, stages = self.config.optimiser, self.config.stage
        stage = stages[min(self.standing.stage, len(stages) - 1)]
        optimiser = MuonAdamW(self.model, o.ratio, o.momentum, stage.weight_decay, stage.kind == "finetune")
        return optimiser, Average(trainable(self.model), o.average)

    # stages

    def _stages(self, stop: Callable[[], bool], epochs: int | None) -> bool:
        """All stages from where it stands; whether the end is reached."""
        left = epochs
        while self.standing.stage < len(self.config.stage):
            work = self._enter()
            while self.standing.epoch < work.epochs:
                if left == 0 or not self._epoch(work, stop):
                    self._save()
                    return False
                left = None if left is None else left - 1
            self._leave(work)
        self._save()
        return True

    def _enter(self) -> StageWork:
        """Read the data of the stage, share out the frames and, unless it was begun before, solve its offsets."""
        config, standing = self.config, self.standing
        stage = config.stage[standing.stage]
        data = stage_data(stage, config.data)
        self._remember(data)
        share = share_of(data.train, stage.losses, self.world, self.model.method)
        batches = max(self.world.gathered(len(share.batches(config.optimiser.batch, (0,)))))
        step = TrainingStep(self.model, stage.losses, stage.widths, config.scf, config.data.contamination,
                            order=1 if stage.kind == "frozen" else 2)
        self.report.stage(standing.stage + 1, stage, data, batches)
        begun = standing.begun
        if not begun:
            elements, standing.charges = solve_offsets(self.model, stage, data)
            standing.begun = True
            self.journal.write("stage", steps=standing.steps, number=standing.stage + 1, kind=stage.kind, offsets=elements,
                               charges=standing.charges, data=data.hash, summary=data.summary, left_out=data.left_out)
        self.work = StageWork(stage, data.without(standing.charges), share.without(standing.charges), batches, step)
        if not begun:
            self._validate(self.work)
        return self.work

    def _remember(self, data: StageData) -> None:
        """Keep which molecules the stage trains on. Held-out ones that the weights this began with were trained on are said:
        their errors are none of unseen molecules."""
        trained = self.standing.trained
        if trained is None:
            return
        before = trained_before(self.model) or set()
        seen = {f.molecule for name, frames in data.held_out().items() if name != "dissociation" for f in frames
                if key(f.molecule) in before}
        if seen:
            self.report.message(f"{self.config.model.start} was trained on {len(seen)} of the held-out molecules, whose errors "
                                "will look too small: hold out those that it did (data.validation, data.large).")
        trained |= {key(f.molecule) for f in data.train}

    def _leave(self, work: StageWork) -> None:
        """The best weights of the stage are written and go on."""
        best = self.standing.best_values
        if not work.frozen and best is not None:
            put(trainable(self.model), best)
            self._score(work, None, "final")
            if self.world.first:
                self._write_weights(work, f"stage-{self.standing.stage + 1}")
                if self.standing.stage + 1 == len(self.config.stage):
                    self._write_weights(work, "model")
        self.densities.clear()
        self.standing.next_stage()
        self.optimiser, self.average = self._fresh()

    # epochs

    def _epoch(self, work: StageWork, stop: Callable[[], bool]) -> bool:
        """One epoch from where it stands; False if it was stopped."""
        o, standing, cold = self.config.optimiser, self.standing, self.config.scf.cold
        batches = work.share.batches(o.batch, (self.seed, standing.stage, standing.epoch, self.world.rank))
        total = work.batches * work.epochs
        check = cold > 0 and standing.epoch > 0 and standing.epoch % cold == 0
        began = time.perf_counter()
        while standing.batch < work.batches:
            index = batches[standing.batch] if standing.batch < len(batches) else []
            if work.frozen:
                with torch.no_grad():
                    self._gradients(work, index, False)
            else:
                done = standing.epoch * work.batches + standing.batch
                valid = self._gradients(work, index, check)
                self._move(valid, work.stage.rate * schedule(done, total, o.warm_up, o.final))
                standing.steps += 1
            standing.batch += 1
            self.report.batch(standing.epoch, standing.batch,
                              standing.sums.means() if standing.sums.values.get("batches") else {})
            if any(self.world.gathered(stop())) and standing.batch < work.batches:
                return False
        self._epoch_over(work, time.perf_counter() - began)
        return True

    def _gradients(self, work: StageWork, index: Sequence[int], check: bool) -> int:
        """Put the gradients of the frames `index` into the parameters; how many of the frames count. check: also look for
        lower states from neutral atoms."""
        for p in self.model.parameters():
            p.grad = None
        if not index:
            return 0
        batch = collate(work.share.frames, index).to(device_of(self.model))
        cold = self._cold(batch) if check else None
        outcome = work.step(work.share.frames, batch, self.densities)
        self.standing.sums.add(outcome)
        work.latest.update({record.frame: record for record in outcome.records})
        if cold is not None:
            self._compare(batch, cold, outcome)
        return outcome.valid

    def _move(self, valid: int, rate: float) -> None:
        """One step of the optimiser, unless a gradient is not finite; valid: number of frames behind the gradients."""
        parameters = trainable(self.model)
        if self.world.average(parameters, float(valid)) == 0:
            return
        norm = clipped(parameters, self.config.optimiser.clip)
        if not isfinite(norm):
            self.standing.sums.count("skipped_steps")
            return
        self.standing.sums.count("gradient", norm)
        self.optimiser.step(rate)
        self.average.update()

    def _cold(self, batch: Batch) -> tuple[Result, Float[Tensor, "molecule"]]:
        """The batch solved from neutral atoms, and its energies, eV."""
        scf = self.config.scf
        with torch.no_grad():
            result = self.model(batch.molecules, point_charges=batch.point_charges, tolerance=scf.tolerance,
                                max_steps=scf.max_steps, raise_unconverged=False)
            return result, energies(self.model, result, batch.frames)

    def _compare(self, batch: Batch, cold: tuple[Result, Float[Tensor, "molecule"]], outcome: BatchOutcome) -> None:
        """Where the cold start found a lower state than the kept density, that state is kept."""
        result, energy = cold
        warm = {record.frame: record.energy for record in outcome.records}
        for place, (k, error) in enumerate(zip(batch.index, (energy - batch.energy).tolist(), strict=True)):
            if isfinite(error) and not error > warm[k] - HYSTERESIS:
                self.densities.keep(k, result.density(place))
                self.standing.sums.count("hysteresis")
            self.standing.sums.count("cold")

    def _epoch_over(self, work: StageWork, seconds: float) -> None:
        """Log, validate, checkpoint."""
        log, standing = self.config.log, self.standing
        sums = Sums()
        for values in self.world.gathered(standing.sums.values):
            sums.merge(values)
        means = sums.means()
        standing.epoch, standing.batch, standing.sums = standing.epoch + 1, 0, Sums()
        last = standing.epoch == work.epochs
        self.journal.write("epoch", steps=standing.steps, stage=standing.stage + 1, epoch=standing.epoch, seconds=seconds,
                           **means)
        self.report.epoch(standing.epoch, means)
        if self.world.first:
            write_structures(self.folder / f"structures-{standing.stage + 1}.csv", work.share.frames, work.latest.values())
        if not work.frozen and (last or standing.epoch % log.validate == 0):
            self._validate(work)
        if self.world.first and log.plot and (last or standing.epoch % log.plot == 0):
            plots.learning_curves(self.journal.read(), self.folder / "learning.png")
        if last or standing.epoch % log.checkpoint == 0:
            self._save()

    # scores and weights

    def _validate(self, work: StageWork) -> None:
        """Score the averaged weights on the held-out parts; keep them if they are the best of the stage."""
        standing = self.standing
        with self.average.applied():
            sets = self._score(work, self.config.log.frames, "validation")
            score = overall(sets)
            # infinite: nothing is held out, the latest weights are the best
            best = score < standing.best or standing.best_values is None or score == float("inf")
            if best:
                standing.best, standing.best_values = score, [v.clone() for v in self.average.values]
                if self.world.first and standing.epoch:
                    self._write_weights(work, "best")
        self.report.validation(standing.epoch, sets, best)

    def _score(self, work: StageWork, most: int | None, event: str) -> dict[str, Scores]:
        """Scores of the weights as they are, by test part, of `most` frames of each; written as this event."""
        log, standing = self.config.log, self.standing
        drawn = log.plot and (event == "final" or (standing.epoch and standing.epoch % log.plot == 0))
        sets: dict[str, Scores] = {}
        for name, frames in work.data.held_out(most).items():
            predictions = self.world.join(predict(self.model, self.world.share(frames), VALIDATION_TOLERANCE), len(frames))
            sets[name] = scores(frames, predictions, contamination=self.config.data.contamination)
            if self.world.first and drawn:
                plots.parity(frames, predictions, self.folder / f"parity-{name}.png",
                             f"{name}: {len(frames)} frames, stage {standing.stage + 1}, epoch {standing.epoch}")
        self.journal.write(event, steps=standing.steps, stage=standing.stage + 1, epoch=standing.epoch,
                           sets={name: asdict(s) for name, s in sets.items()}, score=overall(sets))
        return sets

    def _write_weights(self, work: StageWork, name: str) -> None:
        """Write the weights as they are to the file of this name."""
        standing, data = self.standing, self.config.data
        notes = {"seed": self.seed, "stage": standing.stage + 1, "epoch": standing.epoch, "steps": standing.steps,
                 "score": standing.best, "training_frames": len(work.data.train), "dispersion_of_labels": work.stage.dispersion,
                 "offsets": work.stage.offsets, "data": work.data.hash}
        trained = None if standing.trained is None else TrainedOn(data.validation, data.large, frozenset(standing.trained))
        checkpoints.save_weights(finished(self.model, self.config.model.dispersion), self.folder / f"{name}.safetensors",
                                 data.level, work.data.hash, notes, trained)


def train(config: TrainingConfig, world: World = ALONE, report: SilentTraining | None = None,
          stop: Callable[[], bool] = lambda: False, restart: bool = False) -> list[Path]:
    """Train all members of an ensemble, one folder each (`seed-N`); the folders of those that are done.

    Each goes on from its checkpoint unless `restart`. world: the processes this is one of. report: hears of the progress.
    stop: asked after every batch.

    Raises:
        UnknownOption: a value of the configuration cannot be.
        IncompatibleFile: data or a checkpoint cannot be used, or another run holds one of the folders.
    """
    checked(config)
    folders = [Path(config.output) / f"seed-{seed}" for seed in config.seeds]
    done = []
    with held(*folders, world=world):
        for seed, folder in zip(config.seeds, folders, strict=True):
            training = Training(config, seed, folder, world, report)
            if restart:
                for name in ("checkpoint.pt", "metrics.jsonl"):
                    (folder / name).unlink(missing_ok=True)
            elif training.resume():
                training.report.message(f"Going on from {training.checkpoint}: stage {training.standing.stage + 1}, epoch "
                                        f"{training.standing.epoch}.")
            if not training.run(stop):
                break
            done.append(folder)
    return done
