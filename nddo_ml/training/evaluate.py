"""How good a model is: its predictions beside the labels, scored by named test set.

A model here is anything that makes Predictions of Frames: a Hamiltonian (`predict`), or another program whose results were put
into Predictions. Energies are compared after offsets per element: the model's own, or fitted to predictions of training frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from nddo_ml.errors import SCFNotConverged
from nddo_ml.scf.options import SCF
from nddo_ml.training import offsets
from nddo_ml.training.batches import charges_of, draw, interactions, molecules_of, orbitals
from nddo_ml.training.dataset import Frame
from nddo_ml.training.step import energies
from nddo_ml.units import CODATA_2018

BATCH = 24


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about one frame: energy eV, forces eV/angstrom, dipole e angstrom (of an ion about its centre of mass),
    gap eV, s2, SCF iterations; energy NaN and forces None where it failed, None for what the model does not give."""

    energy: float
    forces: np.ndarray | None
    dipole: np.ndarray | None = None
    gap: float | None = None
    s2: float | None = None
    iterations: int | None = None


FAILED = Prediction(float("nan"), None)


@dataclass(frozen=True)
class Scores:
    """Errors over a set of frames, NaN where nothing is labelled. Mean absolute: forces kcal/mol/A per component, energy
    kcal/mol per molecule, energy_per_atom, relative (frames of one molecule about their mean), atomisation, interaction
    (complexes less their fragments), gap eV. dipole: mean norm of the error, D. force_rmse. smallest_gap eV, iterations (mean),
    contaminated (frames whose <S^2> differs from the reference's by more than 0.3), failed.
    """

    frames: int
    molecules: int
    forces: float
    force_rmse: float
    energy: float
    energy_per_atom: float
    relative: float
    atomisation: float
    interaction: float
    dipole: float
    gap: float
    smallest_gap: float
    iterations: float
    contaminated: int
    failed: int


def predict(hamiltonian, frames: Sequence[Frame], tolerance: float = 1e-6, batch: int = BATCH, max_steps: int = SCF.max_steps,
            progress: Callable[[int], None] | None = None) -> list[Prediction]:
    """Predictions of a Hamiltonian, atom offsets included. progress: called with the number of frames just done."""
    found = [FAILED] * len(frames)
    if not frames:
        return found
    channels = [2 if f.multiplicity > 1 else 1 for f in frames]
    for index in draw(orbitals(hamiltonian.method, frames), channels, batch, (0,)):
        for k, prediction in zip(index, _batch(hamiltonian, [frames[k] for k in index], tolerance, max_steps), strict=True):
            found[k] = prediction
        if progress is not None:
            progress(len(index))
    return found


def _batch(hamiltonian, frames, tolerance, max_steps):
    """Predictions of frames solved together; one by one where that fails."""
    molecules = molecules_of(frames)
    try:
        with torch.no_grad():
            result = hamiltonian(molecules, forces=True, point_charges=charges_of(frames), tolerance=tolerance,
                                 max_steps=max_steps, raise_unconverged=False)
            energy, gap = energies(hamiltonian, result, frames).tolist(), result.gaps.tolist()
    except SCFNotConverged:
        return [FAILED] if len(frames) == 1 else [_batch(hamiltonian, [f], tolerance, max_steps)[0] for f in frames]
    forces = result.forces.detach().cpu().split(molecules.sizes)
    columns = (result.converged.tolist(), energy, forces, result.dipole.detach().cpu(), gap, result.s2.tolist(),
               result.iterations.tolist())
    return [Prediction(e, f.numpy(), d.numpy(), g, s, n) if ok else FAILED
            for ok, e, f, d, g, s, n in zip(*columns, strict=True)]


def with_offsets(frames: Sequence[Frame], predictions: Sequence[Prediction], training: Sequence[Frame] = (),
                 training_predictions: Sequence[Prediction] = ()) -> list[Prediction]:
    """Predictions with offsets per element fitted to those of `training` frames (to the frames themselves without any), ions
    aside."""
    source, known = (training, training_predictions) if training else (frames, predictions)
    needed = sorted({int(z) for f in [*source, *frames] for z in f.numbers})
    by_element, _ = offsets.fitted(source, [p.energy for p in known], needed)
    return [replace(p, energy=p.energy + sum(by_element[int(z)] for z in f.numbers))
            for f, p in zip(frames, predictions, strict=True)]


def atom_errors(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> dict[int, float]:
    """Model less reference (eV) of the neutral free atoms among frames, by element, each in its lowest state."""
    lowest = {}
    for f, p in zip(frames, predictions, strict=True):
        if len(f) == 1 and f.charge == 0 and f.external is None:
            reference, energy = lowest.get(int(f.numbers[0]), (np.inf, np.inf))
            lowest[int(f.numbers[0])] = min(reference, f.energy), min(energy, p.energy)
    return {z: energy - reference for z, (reference, energy) in lowest.items()}


def scores(frames: Sequence[Frame], predictions: Sequence[Prediction], atoms: dict[int, float] | None = None,
           contamination: float = 0.3) -> Scores:
    """Errors of predictions. atoms: error of the model's free atoms (model less reference, eV) by element, for atomisation
    energies; 0 by construction for offsets from atoms."""
    done = [(f, p) for f, p in zip(frames, predictions, strict=True) if np.isfinite(p.energy)]
    kcal, debye, nan = CODATA_2018.kcal_mol, CODATA_2018.debye, float("nan")
    error = np.array([p.energy - f.energy for f, p in done]) * kcal
    sizes = np.array([len(f) for f, _ in done])
    force = np.concatenate([(p.forces - f.forces).ravel() for f, p in done if p.forces is not None] or [np.zeros(0)]) * kcal
    force = force[np.isfinite(force)]
    dipoles = [np.linalg.norm(p.dipole - f.dipole) for f, p in done if p.dipole is not None and f.dipole is not None]
    gap = [abs(p.gap - f.gap) for f, p in done if p.gap is not None and f.gap is not None and f.gap != 0]
    own_gaps = [p.gap for _, p in done if p.gap is not None]
    steps = [p.iterations for _, p in done if p.iterations is not None]
    spins = [abs(p.s2 - f.s2) > contamination for f, p in done if p.s2 is not None and f.s2 is not None and f.multiplicity > 1]
    atomisation = nan
    if atoms is not None and all(int(z) in atoms for f, _ in done for z in f.numbers):
        atomisation = _mean([e - kcal * sum(atoms[int(z)] for z in f.numbers) for e, (f, _) in zip(error, done, strict=True)
                             if f.charge == 0])
    return Scores(
        frames=len(frames), molecules=len({f.molecule for f in frames}), forces=_mean(force),
        force_rmse=float(np.sqrt((force**2).mean())) if len(force) else nan, energy=_mean(error),
        energy_per_atom=_mean(error / np.maximum(sizes, 1)), relative=_mean(_about_mean(done, error)), atomisation=atomisation,
        interaction=_mean(interactions([f for f, _ in done]).numpy() @ error), dipole=debye * _mean(dipoles), gap=_mean(gap),
        smallest_gap=min(own_gaps, default=nan), iterations=_mean(steps), contaminated=int(sum(spins)),
        failed=len(frames) - len(done))


def _mean(values) -> float:
    """Mean absolute value, NaN of nothing."""
    return float(np.abs(values).mean()) if len(values) else float("nan")


def _about_mean(done, error):
    """Errors less the mean error of each molecule's frames, of molecules with several."""
    kinds = {}
    for k, (f, _) in enumerate(done):
        if f.external is None:
            kinds.setdefault(f.species, []).append(k)
    return [x for members in kinds.values() if len(members) > 1 for x in error[members] - error[members].mean()]
