"""Calibrating an ensemble: its errors on labelled frames it was not trained on, beside what its members disagree about.

What is reported of a calibration was measured across molecules: half of them scaled by a fit to the other half, and the other
way round; the scale that is kept is fitted to all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nddo_ml.ensembles.calibration import Calibration, Reliability, Scale, fit, reliability
from nddo_ml.ensembles.ensemble import Ensemble, atom_spread
from nddo_ml.training.batches import charges_of, draw, molecules_of, orbitals
from nddo_ml.training.dataset import LabelledFrame, share
from nddo_ml.training.stages import has_dispersion, with_dispersion, without_dispersion

BATCH = 24
TOLERANCE = 1e-6      # eV
MIN_HALF = 8          # errors in each half; with fewer the reliability is that of the fit itself


@dataclass(frozen=True, eq=False)
class Opinion:
    """What an ensemble says of a structure: energy eV, forces (atom, 3) eV/angstrom; energy_spread, atom_spread (atom):
    standard deviations over the members; energy_uncertainty, atom_uncertainty (atom): calibrated. NaN where an SCF failed."""

    energy: float
    forces: np.ndarray
    energy_spread: float
    atom_spread: np.ndarray
    energy_uncertainty: float
    atom_uncertainty: np.ndarray


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of an ensemble's means on frames, beside their spread and uncertainty. energy (frame), forces (atom, 3); owner:
    the molecule of each frame by name; of_atoms: that of each atom."""

    energy: np.ndarray
    energy_spread: np.ndarray
    energy_uncertainty: np.ndarray
    forces: np.ndarray
    atom_spread: np.ndarray
    atom_uncertainty: np.ndarray
    owner: np.ndarray
    of_atoms: np.ndarray


def opinions(ensemble: Ensemble, frames: Sequence, tolerance: float = TOLERANCE, batch: int = BATCH,
             progress: Callable[[int], None] | None = None) -> list[Opinion]:
    """Opinions on frames (LabelledFrame, or anything with numbers, positions, charge, multiplicity and `external`). progress:
    called with the number of frames just done."""
    found = [None] * len(frames)
    if not frames:
        return found
    channels = [2 if f.multiplicity > 1 else 1 for f in frames]
    for index in draw(orbitals(ensemble.method, frames), channels, batch, (0,)):
        some = [frames[k] for k in index]
        result = ensemble(molecules_of(some), forces=True, point_charges=charges_of(some), tolerance=tolerance,
                          raise_unconverged=False)
        for k, opinion in zip(index, split(result), strict=True):
            found[k] = opinion
        if progress is not None:
            progress(len(index))
    return found


def split(result) -> list[Opinion]:
    """The result of an ensemble, molecule by molecule."""
    sizes = result.molecules.sizes
    per_atom = (result.forces, atom_spread(result.forces_spread), result.atom_uncertainty)
    forces, spread, uncertainty = ([part.cpu().numpy() for part in x.split(sizes)] for x in per_atom)
    energies = (x.tolist() for x in (result.energy, result.energy_spread, result.energy_uncertainty))
    return [Opinion(e, f, s, d, u, a) for e, s, u, f, d, a in zip(*energies, forces, spread, uncertainty, strict=True)]


def on_scale(ensemble: Ensemble, frames: Sequence[LabelledFrame], labels: str = "apart",
             offsets: str = "atoms") -> list[LabelledFrame]:
    """The frames with labels on the scale of the ensemble's energies: with dispersion if it has dispersion.

    labels: what they hold of it (stages.without_dispersion). offsets "fitted": energies of ions become NaN, because the model
    then lacks a constant for each charge (offsets.fitted).
    """
    bare = without_dispersion(frames, labels)
    found = with_dispersion(bare) if has_dispersion(ensemble.members[0]) else bare
    return [replace(f, energy=float("nan")) if f.charge and offsets == "fitted" else f for f in found]


def errors(frames: Sequence[LabelledFrame], found: Sequence[Opinion]) -> Errors:
    """Errors of the opinions on these frames; frames of single atoms count for energies only."""
    many = [(f, o) for f, o in zip(frames, found, strict=True) if len(f) > 1]

    def joined(parts, shape=(0,)):
        return np.concatenate(parts) if parts else np.zeros(shape)

    return Errors(
        np.array([o.energy - f.energy for f, o in zip(frames, found, strict=True)]),
        np.array([o.energy_spread for o in found]), np.array([o.energy_uncertainty for o in found]),
        joined([o.forces - f.forces for f, o in many], (0, 3)), joined([o.atom_spread for _, o in many]),
        joined([o.atom_uncertainty for _, o in many]), np.array([f.molecule for f in frames]),
        joined([np.repeat(f.molecule, len(f)) for f, _ in many]))


def calibration(found: Errors) -> Calibration:
    """Scales fitted to the errors, and what they are worth. UnknownOption: there are fewer than eight errors."""
    energy, energy_worth = _fitted(found.energy_spread, found.energy[:, None], found.owner)
    forces, forces_worth = _fitted(found.atom_spread, found.forces, found.of_atoms)
    frames = int(np.isfinite(found.energy_spread).sum())
    return Calibration(energy, forces, frames, energy_worth, forces_worth)


def calibrated(ensemble: Ensemble, frames: Sequence[LabelledFrame], progress: Callable[[int], None] | None = None) -> Ensemble:
    """The ensemble with a calibration fitted to labelled frames on its scale (`on_scale`), of molecules it was not trained
    on. UnknownOption: there are too few."""
    return Ensemble(ensemble.members, calibration(errors(frames, opinions(ensemble, frames, progress=progress))))


def _fitted(spread, error, owner) -> tuple[Scale, Reliability]:
    """The scale fitted to all, and the reliability of two halves of the molecules, each scaled by a fit to the other."""
    scale = fit(spread, error)
    half = np.array([share(f"calibration {name}") < 0.5 for name in owner])
    uncertainty = scale(spread)
    usable = np.isfinite(spread) & np.isfinite(error).all(1)
    if min((usable & half).sum(), (usable & ~half).sum()) >= MIN_HALF:
        uncertainty = np.where(half, fit(spread[~half], error[~half])(spread), fit(spread[half], error[half])(spread))
    return scale, reliability(uncertainty, error)
