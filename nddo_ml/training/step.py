"""One batch through the SCF: outputs on the tape, what counts and what does not, gradients, figures for the log.

A member whose SCF fails, or whose <S^2> is not the reference's state, is masked and counted. Where a whole batch cannot be
differentiated because of one member (no gap, no response), the batch is halved until that member stands alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.errors import SCFNotConverged
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.training.batches import Batch, collate
from nddo_ml.training.config import TrainingSCF
from nddo_ml.training.dataset import LabelledFrame
from nddo_ml.training.losses import Outputs, Weights, Widths, terms
from nddo_ml.training.offsets import total
from nddo_ml.training.starts import Densities, Starts

OFFSETS_PART = "atoms"       # the part of a result's energies that holds the offsets


@dataclass(frozen=True)
class FrameRecord:
    """What the log keeps of one frame."""

    frame: int                      # its place in the data
    energy: float                   # error, eV
    forces: float                   # mean absolute error of the components, eV/angstrom
    dipole: float                   # norm of the error, e angstrom
    s2: float                       # <S^2>
    gap: float                      # eV
    iterations: int                 # of the SCF
    # ok; difference: counts in an interaction energy only; unconverged; contaminated: another spin state than the reference;
    # failed
    fate: str


@dataclass(eq=False)
class BatchOutcome:
    """What a batch gave."""

    losses: dict[str, float] = field(default_factory=dict)          # value of each term
    records: list[FrameRecord] = field(default_factory=list)
    valid: int = 0                                                  # frames that count


def energies(hamiltonian: Hamiltonian, result: Result, frames: Sequence[LabelledFrame]) -> Float[Tensor, "molecule"]:
    """Energies of a result with the offsets of its atoms, whether the Hamiltonian adds them itself or not, eV."""
    return result.energy if OFFSETS_PART in result.energies else result.energy + total(hamiltonian, frames)


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """Computes the gradients of the batches of one stage."""

    hamiltonian: Hamiltonian
    weights: Weights                # of the terms of the loss
    widths: Widths
    scf: TrainingSCF
    contamination: float            # largest difference of <S^2> from the reference's of a frame that counts
    order: int = 2                  # of derivatives; 1: nothing but the energies can be trained on

    def __call__(self, frames: Sequence[LabelledFrame], batch: Batch, densities: Densities) -> BatchOutcome:
        """Add the gradients of a batch's loss to the parameters; the SCF starts from kept densities, and the new ones are kept.

        frames: all frames of the stage, of which the batch holds some.
        """
        outcome = BatchOutcome()
        self._part(frames, batch, densities, 1.0, outcome)
        return outcome

    def _part(self, frames: Sequence[LabelledFrame], batch: Batch, densities: Densities, fraction: float,
              outcome: BatchOutcome) -> None:
        """Add what a batch gives to the outcome, times the fraction of the whole batch that it is."""
        try:
            result = self._solve(batch, densities.starts(batch.index, batch.molecules))
            outputs = self._outputs(result, batch)
            parts = terms(outputs, batch, self.weights, self.widths)
            if parts:
                loss = fraction * sum(parts.values(), result.energy.new_zeros(()))
                if loss.requires_grad:
                    loss.backward()
        except SCFNotConverged:
            self._halve(frames, batch, densities, fraction, outcome)
            return
        for name, value in parts.items():
            outcome.losses[name] = outcome.losses.get(name, 0.0) + fraction * float(value.detach())
        outcome.valid += int(outputs.valid.sum())
        outcome.records += _records(result, outputs, batch)
        for place, k in enumerate(batch.index):
            densities.keep(k, result.density(place)) if bool(result.converged[place]) else densities.forget(k)

    def _halve(self, frames: Sequence[LabelledFrame], batch: Batch, densities: Densities, fraction: float,
               outcome: BatchOutcome) -> None:
        """The two halves of a batch that cannot be solved together; a single frame is given up."""
        if len(batch) == 1:
            densities.forget(batch.index[0])
            nan = float("nan")
            outcome.records.append(FrameRecord(batch.index[0], nan, nan, nan, nan, nan, 0, "failed"))
            return
        middle = len(batch) // 2
        for half in (batch.index[:middle], batch.index[middle:]):
            part = collate(frames, half).to(batch.energy.device)
            self._part(frames, part, densities, fraction * len(half) / len(batch), outcome)

    def _solve(self, batch: Batch, start: Starts | None) -> Result:
        return self.hamiltonian(
            batch.molecules, forces=True, point_charges=batch.point_charges, order=self.order, guess=start,
            tolerance=self.scf.tolerance, max_steps=self.scf.max_steps, stability=None if start is None else False,
            raise_unconverged=False, response_tolerance=self.scf.response_tolerance)

    def _outputs(self, result: Result, batch: Batch) -> Outputs:
        """What the model says of a batch, and which molecules of it count."""
        same = ~((result.s2.detach() - batch.s2).abs() > self.contamination)       # NaN, not checked, counts as the same
        with torch.set_grad_enabled(bool(self.weights.gap or self.weights.own) and self.order > 1):
            gap = result.gaps
        return Outputs(energy=energies(self.hamiltonian, result, batch.frames), forces=_asked(result.forces),
                       dipole=result.dipole, charges=result.charges, gap=gap, site_forces=result.point_charge_forces,
                       drift=result.drift, local=result.local_energies, valid=result.converged & same, result=result)


def _asked(value: Tensor | None) -> Tensor:
    """What a result has because it was asked for."""
    if value is None:
        raise AssertionError("The Hamiltonian left out what it was asked for.")
    return value


def _records(result: Result, outputs: Outputs, batch: Batch) -> list[FrameRecord]:
    """The log's record of each frame."""
    with torch.no_grad():
        owner, count = batch.molecules.molecule, len(batch)
        error = (outputs.forces - batch.forces).abs().mean(1)
        forces = error.new_zeros(count).index_add(0, owner, error) / batch.atoms
        columns = (outputs.energy - batch.energy, forces, (outputs.dipole - batch.dipole).norm(dim=-1), result.s2,
                   _asked(outputs.gap).detach(), result.iterations, result.converged, outputs.valid, batch.counts)
        fate = {(True, True): "ok", (True, False): "difference"}
        return [FrameRecord(k, e, f, d, s, g, n, fate[ok, full] if ok else "contaminated" if done else "unconverged")
                for k, e, f, d, s, g, n, done, ok, full in zip(batch.index, *(c.tolist() for c in columns), strict=True)]
