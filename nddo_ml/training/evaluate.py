"""How good a model is: its predictions beside the labels, scored by named test set.

A model here is anything that makes Predictions of Frames: a Hamiltonian (`predict`), or another program whose results were put
into Predictions. Energies are compared after offsets per element: the model's own, or fitted to predictions of training frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from nddo_ml.errors import SCFNotConverged
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.scf.options import SCF
from nddo_ml.training import offsets
from nddo_ml.training.batches import batches_of, charges_of, interactions, molecules_of
from nddo_ml.training.dataset import SAME_KIND, LabelledFrame
from nddo_ml.training.step import energies
from nddo_ml.units import CODATA_2018

BATCH = 24
DIPOLE_SCORE = 10.0             # kcal/mol per D, in `overall`
FAILURE_SCORE = 10.0            # kcal/mol that a set of which nothing converges adds to `overall`


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about one frame; None for what it does not give."""

    energy: float                                       # eV, NaN where the calculation failed
    forces: Float[np.ndarray, "atom 3"] | None          # eV/angstrom
    dipole: Float[np.ndarray, "3"] | None = None        # e angstrom, of an ion about its centre of mass
    gap: float | None = None                            # eV
    s2: float | None = None                             # <S^2>
    iterations: int | None = None                       # of the SCF


FAILED = Prediction(float("nan"), None)


@dataclass(frozen=True)
class Scores:
    """Errors over a set of frames, mean absolute ones unless the comment says otherwise; NaN where nothing is labelled."""

    frames: int                     # number of them
    molecules: int                  # number of different ones
    forces: float                   # kcal/mol/angstrom, per component
    force_rmse: float               # root mean square of the same
    energy: float                   # kcal/mol per molecule
    energy_per_atom: float          # kcal/mol
    relative: float                 # kcal/mol: energies of the frames of one molecule about their mean
    atomisation: float              # kcal/mol
    interaction: float              # kcal/mol: energies of complexes less those of their fragments
    dipole: float                   # debye: mean norm of the error
    gap: float                      # eV
    smallest_gap: float             # eV: of the model, no error
    iterations: float               # of the SCF, mean number
    contaminated: int               # frames whose <S^2> differs from the reference's by more than 0.3
    failed: int                     # frames without a prediction


def predict(hamiltonian: Hamiltonian, frames: Sequence[LabelledFrame], tolerance: float = 1e-6, batch: int = BATCH,
            max_steps: int = SCF.max_steps, progress: Callable[[int], None] | None = None) -> list[Prediction]:
    """Predictions of a Hamiltonian, atom offsets included.

    tolerance, max_steps: of the SCF, see Hamiltonian.forward. batch: frames solved together. progress: called with the number
    of frames just done.
    """
    predictions = [FAILED] * len(frames)
    for index in batches_of(hamiltonian.method, frames, batch):
        several = _together(hamiltonian, [frames[k] for k in index], tolerance, max_steps)
        for k, prediction in zip(index, several, strict=True):
            predictions[k] = prediction
        if progress is not None:
            progress(len(index))
    return predictions


def _together(hamiltonian: Hamiltonian, frames: list[LabelledFrame], tolerance: float, max_steps: int) -> list[Prediction]:
    """Predictions of frames solved together; one by one where that fails."""
    molecules = molecules_of(frames)
    try:
        with torch.no_grad():
            result = hamiltonian(molecules, forces=True, point_charges=charges_of(frames), tolerance=tolerance,
                                 max_steps=max_steps, raise_unconverged=False)
            energy, gap = energies(hamiltonian, result, frames).tolist(), result.gaps.tolist()
    except SCFNotConverged:
        return [FAILED] if len(frames) == 1 else [_together(hamiltonian, [f], tolerance, max_steps)[0] for f in frames]
    forces = result.forces.detach().cpu().split(molecules.sizes)
    columns = (result.converged.tolist(), energy, forces, result.dipole.detach().cpu(), gap, result.s2.tolist(),
               result.iterations.tolist())
    return [Prediction(e, f.numpy(), d.numpy(), g, s, n) if ok else FAILED
            for ok, e, f, d, g, s, n in zip(*columns, strict=True)]


def with_offsets(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction], training: Sequence[LabelledFrame] = (),
                 training_predictions: Sequence[Prediction] = ()) -> list[Prediction]:
    """Predictions with an offset for each element added to the energies.

    The offsets are fitted to the predictions of the `training` frames, or without any to those of the frames themselves; the
    constants of ions (offsets.fitted) are left out.
    """
    source, known = (training, training_predictions) if training else (frames, predictions)
    needed = sorted({int(z) for f in [*source, *frames] for z in f.numbers})
    by_element, _ = offsets.fitted(source, [p.energy for p in known], needed)
    return [replace(p, energy=p.energy + sum(by_element[int(z)] for z in f.numbers))
            for f, p in zip(frames, predictions, strict=True)]


def atom_errors(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction]) -> dict[int, float]:
    """Model less reference (eV) of the neutral free atoms among frames, by element, each in its lowest state."""
    lowest: dict[int, tuple[float, float]] = {}
    for f, p in zip(frames, predictions, strict=True):
        if len(f) == 1 and f.charge == 0 and f.external is None:
            reference, energy = lowest.get(int(f.numbers[0]), (np.inf, np.inf))
            lowest[int(f.numbers[0])] = min(reference, f.energy), min(energy, p.energy)
    return {z: energy - reference for z, (reference, energy) in lowest.items()}


def scores(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction], atoms: dict[int, float] | None = None,
           contamination: float = 0.3) -> Scores:
    """Errors of predictions.

    atoms: error of the model's free atoms (model less reference, eV) by element, for atomisation energies; 0 by construction
    for offsets from atoms. contamination: difference of <S^2> from the reference's that makes a frame count as contaminated.
    """
    done = [(f, p) for f, p in zip(frames, predictions, strict=True) if np.isfinite(p.energy)]
    kcal, debye = CODATA_2018.kcal_mol, CODATA_2018.debye
    error = np.array([p.energy - f.energy for f, p in done]) * kcal
    sizes = np.array([len(f) for f, _ in done])
    force = np.concatenate([(p.forces - f.forces).ravel() for f, p in done if p.forces is not None] or [np.zeros(0)]) * kcal
    force = force[np.isfinite(force)]
    dipoles = [float(np.linalg.norm(p.dipole - f.dipole)) for f, p in done if p.dipole is not None and f.dipole is not None]
    gap = [abs(p.gap - f.gap) for f, p in done if p.gap is not None and f.gap is not None and f.gap != 0]
    own_gaps = [p.gap for _, p in done if p.gap is not None]
    steps = [p.iterations for _, p in done if p.iterations is not None]
    spins = [abs(p.s2 - f.s2) > contamination for f, p in done if p.s2 is not None and f.s2 is not None and f.multiplicity > 1]
    return Scores(
        frames=len(frames), molecules=len({f.molecule for f in frames}), forces=_mean(force),
        force_rmse=float(np.sqrt((force**2).mean())) if len(force) else float("nan"), energy=_mean(error),
        energy_per_atom=_mean(error / np.maximum(sizes, 1)), relative=_mean(_about_mean([f for f, _ in done], error)),
        atomisation=_atomisation([f for f, _ in done], error, atoms),
        interaction=_mean(interactions([f for f, _ in done]).numpy() @ error), dipole=debye * _mean(dipoles), gap=_mean(gap),
        smallest_gap=min(own_gaps, default=float("nan")), iterations=_mean(steps), contaminated=int(sum(spins)),
        failed=len(frames) - len(done))


def overall(sets: dict[str, Scores]) -> float:
    """The figure by which the best weights are chosen, lower is better; infinite without frames held out by hash.

    Force error (kcal/mol/angstrom) + energy error (kcal/mol) + 10 dipole error (D) + error of interaction energies (kcal/mol),
    mean over the frames of the parts held out by hash. What fails counts as FAILURE_SCORE.
    """
    alike = [s for name, s in sets.items() if name in SAME_KIND]
    total = sum(s.frames for s in alike)
    if not total:
        return float("inf")
    points = [FAILURE_SCORE if not np.isfinite(s.energy) else
              np.nan_to_num(s.forces) + s.energy + DIPOLE_SCORE * np.nan_to_num(s.dipole)
              + np.nan_to_num(s.interaction) + FAILURE_SCORE * s.failed / s.frames
              for s in alike]
    return float(sum(p * s.frames for p, s in zip(points, alike, strict=True)) / total)


def _mean(values: Sequence[float | int] | np.ndarray) -> float:
    """Mean absolute value, NaN of nothing."""
    return float(np.abs(values).mean()) if len(values) else float("nan")


def _atomisation(frames: Sequence[LabelledFrame], error: Float[np.ndarray, "frame"], atoms: dict[int, float] | None) -> float:
    """Mean absolute error of the atomisation energies of neutral frames, kcal/mol; error: of their energies, kcal/mol."""
    if atoms is None or not all(int(z) in atoms for f in frames for z in f.numbers):
        return float("nan")
    return _mean([e - CODATA_2018.kcal_mol * sum(atoms[int(z)] for z in f.numbers)
                  for e, f in zip(error, frames, strict=True) if f.charge == 0])


def _about_mean(frames: Sequence[LabelledFrame], error: Float[np.ndarray, "frame"]) -> list[float]:
    """Errors less the mean error of each molecule's frames, of molecules with several."""
    species: dict[tuple, list[int]] = {}
    for k, f in enumerate(frames):
        if f.external is None:
            species.setdefault(f.species, []).append(k)
    return [x for members in species.values() if len(members) > 1 for x in error[members] - error[members].mean()]
