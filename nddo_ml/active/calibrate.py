"""Calibrating an ensemble: its errors on labelled frames it was not trained on, beside what its members disagree about.

What is reported of a calibration was measured across molecules: half of them scaled by a fit to the other half, and the other
way round; the scale that is kept is fitted to all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from nddo_ml.ensembles.calibration import Calibration, Reliability, Scale, fit, reliability
from nddo_ml.ensembles.ensemble import Ensemble, EnsembleResult, atom_spread
from nddo_ml.training.batches import charges_of, draw, molecules_of, orbitals
from nddo_ml.training.dataset import LabelledFrame, share
from nddo_ml.training.stages import has_dispersion, with_dispersion, without_dispersion

BATCH = 24            # frames
TOLERANCE = 1e-6      # of the SCF, eV
MIN_HALF = 8          # errors in each half; with fewer the reliability is that of the fit itself


@dataclass(frozen=True, eq=False)
class Opinion:
    """What an ensemble says of a structure: means over the members, and how sure they are; NaN where an SCF failed."""

    energy: float                                       # eV
    forces: Float[np.ndarray, "atom 3"]                 # eV/angstrom
    energy_spread: float                                # standard deviation over the members, eV
    atom_spread: Float[np.ndarray, "atom"]              # of a component of the force on each atom, eV/angstrom
    energy_uncertainty: float                           # the spread, calibrated
    atom_uncertainty: Float[np.ndarray, "atom"]

    @property
    def certain(self) -> bool:
        """Whether the ensemble could say anything: every SCF has converged."""
        return bool(np.isfinite(self.atom_uncertainty).all())


@dataclass(frozen=True, eq=False)
class EnsembleErrors:
    """Errors of an ensemble's means on frames, beside their spread and uncertainty; eV and eV/angstrom."""

    energy: Float[np.ndarray, "frame"]
    energy_spread: Float[np.ndarray, "frame"]
    energy_uncertainty: Float[np.ndarray, "frame"]
    forces: Float[np.ndarray, "atom 3"]
    atom_spread: Float[np.ndarray, "atom"]
    atom_uncertainty: Float[np.ndarray, "atom"]
    owner: np.ndarray           # `frame`: name of the molecule it is of
    of_atoms: np.ndarray        # `atom`: the same of each atom


def opinions(ensemble: Ensemble, frames: Sequence[LabelledFrame], tolerance: float = TOLERANCE, batch: int = BATCH,
             progress: Callable[[int], object] | None = None) -> list[Opinion]:
    """What an ensemble says of frames. progress: called with the number of frames just done. tolerance: of the SCF, eV."""
    if not frames:
        return []
    said: dict[int, Opinion] = {}
    channels = [2 if f.multiplicity > 1 else 1 for f in frames]
    for index in draw(orbitals(ensemble.method, frames), channels, batch, (0,)):
        some = [frames[k] for k in index]
        result = ensemble(molecules_of(some), forces=True, point_charges=charges_of(some), tolerance=tolerance,
                          raise_unconverged=False)
        said |= zip(index, by_molecule(result), strict=True)
        if progress is not None:
            progress(len(index))
    return [said[k] for k in range(len(frames))]


def by_molecule(result: EnsembleResult) -> list[Opinion]:
    """The result of an ensemble, calculated with forces, molecule by molecule."""
    assert result.forces is not None and result.forces_spread is not None and result.atom_uncertainty is not None
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
    scaled = with_dispersion(bare) if has_dispersion(ensemble.members[0]) else bare
    return [replace(f, energy=float("nan")) if f.charge and offsets == "fitted" else f for f in scaled]


def errors(frames: Sequence[LabelledFrame], said: Sequence[Opinion]) -> EnsembleErrors:
    """Errors of the opinions on these frames; frames of single atoms count for energies only."""
    many = [(f, o) for f, o in zip(frames, said, strict=True) if len(f) > 1]
    forces = [o.forces - f.forces for f, o in many] or [np.zeros((0, 3))]

    def per_atom(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts) if parts else np.zeros(0)

    return EnsembleErrors(
        np.array([o.energy - f.energy for f, o in zip(frames, said, strict=True)]),
        np.array([o.energy_spread for o in said]), np.array([o.energy_uncertainty for o in said]),
        np.concatenate(forces), per_atom([o.atom_spread for _, o in many]), per_atom([o.atom_uncertainty for _, o in many]),
        np.array([f.molecule for f in frames]), per_atom([np.repeat(f.molecule, len(f)) for f, _ in many]))


def calibration(errors: EnsembleErrors) -> Calibration:
    """Scales fitted to the errors, and what they are worth.

    Raises:
        UnknownOption: there are fewer than eight errors.
    """
    energy, energy_worth = _fitted(errors.energy_spread, errors.energy[:, None], errors.owner)
    forces, forces_worth = _fitted(errors.atom_spread, errors.forces, errors.of_atoms)
    frames = int(np.isfinite(errors.energy_spread).sum())
    return Calibration(energy, forces, frames, energy_worth, forces_worth)


def calibrated(ensemble: Ensemble, frames: Sequence[LabelledFrame],
               progress: Callable[[int], object] | None = None) -> Ensemble:
    """The ensemble with a calibration fitted to labelled frames on its scale (`on_scale`), of molecules it was not trained on.

    Raises:
        UnknownOption: there are too few frames.
    """
    return Ensemble(ensemble.members, calibration(errors(frames, opinions(ensemble, frames, progress=progress))))


def _fitted(spread: Float[np.ndarray, "n"], error: Float[np.ndarray, "n components"],
            owner: np.ndarray) -> tuple[Scale, Reliability]:
    """The scale fitted to all, and the reliability of two halves of the molecules, each scaled by a fit to the other."""
    scale = fit(spread, error)
    half = np.array([share(f"calibration {name}") < 0.5 for name in owner])
    uncertainty = scale(spread)
    usable = np.isfinite(spread) & np.isfinite(error).all(1)
    if min((usable & half).sum(), (usable & ~half).sum()) >= MIN_HALF:
        uncertainty = np.where(half, fit(spread[~half], error[~half])(spread), fit(spread[half], error[half])(spread))
    return scale, reliability(uncertainty, error)
