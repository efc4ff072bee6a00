"""One batch through the SCF: outputs on the tape, what counts and what does not, gradients, figures for the log.

A member whose SCF fails, or whose <S^2> is not the reference's state, is masked and counted. Where a whole batch cannot be
differentiated because of one member (no gap, no response), the batch is halved until that member stands alone.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nddo_ml.errors import SCFNotConverged
from nddo_ml.training.batches import Batch, collate
from nddo_ml.training.losses import Outputs, Weights, Widths, terms
from nddo_ml.training.offsets import total

OFFSETS_PART = "atoms"       # the part of a result's energies that holds the offsets


@dataclass(frozen=True)
class Record:
    """What the log keeps of one frame: errors (energy eV, forces mean |.| eV/angstrom, dipole norm e angstrom), s2, gap (eV),
    SCF iterations; fate: ok, difference (only in an interaction energy), unconverged, contaminated (another spin state than the
    reference), failed."""

    frame: int
    energy: float
    forces: float
    dipole: float
    s2: float
    gap: float
    iterations: int
    fate: str


@dataclass(eq=False)
class Outcome:
    """What a batch gave: value of each loss term, records of its frames, how many of them count."""

    losses: dict[str, float] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    valid: int = 0


def energies(hamiltonian, result, frames) -> Tensor:
    """Energies of a result with the offsets of its atoms, whether the Hamiltonian adds them itself or not, eV."""
    return result.energy if OFFSETS_PART in result.energies else result.energy + total(hamiltonian, frames)


class Step:
    """Computes the gradients of batches of one stage: a Hamiltonian, the weights and widths of its losses, SCF settings."""

    def __init__(self, hamiltonian, weights: Weights, widths: Widths, scf, contamination: float, order: int = 2):
        self.hamiltonian, self.weights, self.widths, self.scf = hamiltonian, weights, widths, scf
        self.contamination, self.order = contamination, order

    def __call__(self, frames, batch: Batch, densities) -> Outcome:
        """Add the gradients of a batch's loss to the parameters, from kept densities, and keep the new ones."""
        outcome = Outcome()
        self._part(frames, batch, densities, 1.0, outcome)
        return outcome

    def _part(self, frames, batch, densities, fraction, outcome):
        try:
            result = self._solve(batch, densities.starts(batch.index, batch.molecules))
            found = self._outputs(result, batch)
            parts = terms(found, batch, self.weights, self.widths)
            if parts:
                loss = fraction * sum(parts.values())
                if loss.requires_grad:
                    loss.backward()
        except SCFNotConverged:
            self._halve(frames, batch, densities, fraction, outcome)
            return
        for name, value in parts.items():
            outcome.losses[name] = outcome.losses.get(name, 0.0) + fraction * float(value.detach())
        outcome.valid += int(found.valid.sum())
        outcome.records += _records(result, found, batch)
        for place, k in enumerate(batch.index):
            densities.keep(k, result.density(place)) if bool(result.converged[place]) else densities.forget(k)

    def _halve(self, frames, batch, densities, fraction, outcome):
        """The two halves of a batch that cannot be solved together; a single frame is given up."""
        if len(batch) == 1:
            densities.forget(batch.index[0])
            nan = float("nan")
            outcome.records.append(Record(batch.index[0], nan, nan, nan, nan, nan, 0, "failed"))
            return
        middle = len(batch) // 2
        for half in (batch.index[:middle], batch.index[middle:]):
            part = collate(frames, half).to(batch.energy.device)
            self._part(frames, part, densities, fraction * len(half) / len(batch), outcome)

    def _solve(self, batch, start):
        return self.hamiltonian(
            batch.molecules, forces=True, point_charges=batch.point_charges, order=self.order, guess=start,
            tolerance=self.scf.tolerance, max_steps=self.scf.max_steps, stability=None if start is None else False,
            raise_unconverged=False, response_tolerance=self.scf.response_tolerance)

    def _outputs(self, result, batch) -> Outputs:
        """What counts and what it is."""
        same = ~((result.s2.detach() - batch.s2).abs() > self.contamination)       # NaN, not checked, counts as the same
        with torch.set_grad_enabled(bool(self.weights.gap or self.weights.own) and self.order > 1):
            gap = result.gaps
        return Outputs(energies(self.hamiltonian, result, batch.frames), result.forces, result.dipole, result.charges, gap,
                       result.point_charge_forces, result.drift, result.local_energies, result.converged & same, result)


def _records(result, found, batch) -> list[Record]:
    """The log's record of each frame."""
    with torch.no_grad():
        owner, count = batch.molecules.molecule, len(batch)
        error = (found.forces - batch.forces).abs().mean(1)
        forces = error.new_zeros(count).index_add(0, owner, error) / batch.atoms
        columns = (found.energy - batch.energy, forces, (found.dipole - batch.dipole).norm(dim=-1), result.s2,
                   found.gap.detach(), result.iterations, result.converged, found.valid, batch.counts)
        fate = {(True, True): "ok", (True, False): "difference"}
        return [Record(k, e, f, d, s, g, n, fate[ok, full] if ok else "contaminated" if done else "unconverged")
                for k, e, f, d, s, g, n, done, ok, full in zip(batch.index, *(c.tolist() for c in columns), strict=True)]
