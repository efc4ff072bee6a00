"""What one stage of a training works on: its frames by part, labels on the model's scale, offsets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nddo_ml.errors import IncompatibleFile
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.integrals.corrections import GROUPS, energy_and_forces
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.training import offsets
from nddo_ml.training.batches import molecules_of
from nddo_ml.training.config import Stage, TrainingData
from nddo_ml.training.dataset import HELD_OUT, LabelledFrame, content_hash, limited, load, part, share, split, summary
from nddo_ml.training.evaluate import predict

CHUNK = 200              # frames whose dispersion is calculated at once
FITTED_ON = 2000         # training frames that offsets are fitted to


@dataclass(frozen=True, eq=False)
class StageData:
    """The labelled frames of a stage."""

    parts: dict[str, list[LabelledFrame]]       # by part, dataset.PARTS
    hash: str                                   # of all frames
    left_out: dict[str, int]                    # number of frames by the reason why they are not used
    summary: list[dict[str, Any]]               # dataset.summary

    @property
    def train(self) -> list[LabelledFrame]:
        """Frames to train on."""
        return self.parts["train"]

    def without(self, charges: dict[int, float]) -> "StageData":
        """The same data with energies less a constant (eV) for each total charge."""
        return replace(self, parts={name: less_constants(frames, charges) for name, frames in self.parts.items()})

    def held_out(self, most: int | None = None) -> dict[str, list[LabelledFrame]]:
        """The test parts, `most` frames of each at most, always the same ones."""
        return {name: _some(self.parts[name], most) for name in HELD_OUT if name in self.parts}


def stage_data(stage: Stage, data: TrainingData) -> StageData:
    """The data of a stage, read, checked and split.

    Raises:
        IncompatibleFile: a file is unusable, or nothing is left to train on.
    """
    frames = load(stage.files)
    usable = [f for f in frames if f.largest_force <= data.largest_force]
    parts = split(without_dispersion(usable, stage.dispersion), data.validation, data.large)
    if not parts.get("train"):
        raise IncompatibleFile(f"{', '.join(stage.files)}: {len(frames)} frames, none of them to train on (validation = "
                               f"{data.validation}, large = {data.large}).")
    parts["train"] = limited(parts["train"], stage.limit)
    left = {"largest force": len(frames) - len(usable)}
    if stage.interactions:
        others = load(stage.interactions)
        parts["train"] += _for_differences(others, data)
        frames = frames + others
    return StageData(parts, content_hash(frames), {k: n for k, n in left.items() if n}, summary(parts))


def less_constants(frames: Sequence[LabelledFrame], charges: dict[int, float]) -> list[LabelledFrame]:
    """The frames with energies less a constant (eV) for each total charge; those for differences only as they are."""
    return [replace(f, energy=f.energy - charges[f.charge]) if f.charge in charges and not f.differences_only else f
            for f in frames]


def _for_differences(frames: Sequence[LabelledFrame], data: TrainingData) -> list[LabelledFrame]:
    """Complexes of the training part with their fragments, without dispersion; IncompatibleFile if there are none."""
    usable = [f for f in frames if f.parts_of is not None and f.fragment is not None
            and part(f, data.validation, data.large) == "train" and f.largest_force <= data.largest_force]
    if not usable:
        raise IncompatibleFile(f"None of the {len(frames)} frames given as `interactions` is a complex or its fragment: "
                               "`nddo-ml label --sample interactions:N` makes them.")
    return [replace(f, differences_only=True) for f in without_dispersion(usable, "apart")]


def without_dispersion(frames: Sequence[LabelledFrame], labels: str) -> list[LabelledFrame]:
    """The frames with labels that hold no dispersion: D3(BJ) is subtracted from those that are said to hold it.

    labels: apart (only those marked `ref_dispersion=included`), included (all), learned (none: labels stay as they are).
    """
    bare = list(frames)
    todo = [] if labels == "learned" else [k for k, f in enumerate(bare) if labels == "included" or f.dispersion_included]
    for start in range(0, len(todo), CHUNK):
        index = todo[start:start + CHUNK]
        molecules = molecules_of([bare[k] for k in index])
        energy, forces = energy_and_forces(OMEGA_B97X_D3BJ, molecules)
        for k, e, f in zip(index, energy.tolist(), forces.split(molecules.sizes), strict=True):
            bare[k] = replace(bare[k], energy=bare[k].energy - e, forces=bare[k].forces - f.numpy(), dispersion_energy=e,
                              dispersion_forces=f.numpy(), dispersion_included=False)
    return bare


def with_dispersion(frames: Sequence[LabelledFrame]) -> list[LabelledFrame]:
    """The frames with the labelled D3(BJ) added to energies and forces, where it is labelled."""
    return [f if f.dispersion_energy is None or f.dispersion_forces is None else
            replace(f, energy=f.energy + f.dispersion_energy, forces=f.forces + f.dispersion_forces, dispersion_included=True)
            for f in frames]


def has_dispersion(hamiltonian: Hamiltonian) -> bool:
    """Whether a Hamiltonian's energies hold dispersion."""
    return any(GROUPS[name] == "dispersion" for name in hamiltonian.terms)


def solve_offsets(hamiltonian: Hamiltonian, stage: Stage, data: StageData) -> tuple[dict[int, float], dict[int, float]]:
    """Solve the offsets of a stage and install them in the Hamiltonian.

    (eV by element, eV by total charge, which the labels must lose); both empty where the stage keeps those it has.

    Raises:
        IncompatibleFile: an element has no labelled free atom, and the offsets come from these.
    """
    if stage.offsets == "kept":
        return {}, {}
    needed = sorted({int(z) for frames in data.parts.values() for f in frames for z in f.numbers})
    offsets.install(hamiltonian, {})
    atoms = data.parts.get("atoms", [])
    if stage.offsets == "atoms":
        elements, charges = offsets.from_atoms(atoms, [p.energy for p in predict(hamiltonian, atoms)], needed), {}
    else:
        some = _some([f for f in data.train if f.external is None and not f.differences_only], FITTED_ON)
        elements, charges = offsets.fitted(some, [p.energy for p in predict(hamiltonian, some, 1e-4)], needed)
    offsets.install(hamiltonian, elements)
    atom_energies = hamiltonian.get_buffer("atom_energies")
    for frame in (f for f in atoms if f.charge == 0):
        row = hamiltonian.method.rows(molecules_of([frame]).numbers)
        known = float(atom_energies[row])               # NaN: not yet
        atom_energies[row] = min(frame.energy, known) if np.isfinite(known) else frame.energy
    return elements, charges


def _some(frames: list[LabelledFrame], most: int | None) -> list[LabelledFrame]:
    """At most so many frames, the same ones whenever asked."""
    if most is None or len(frames) <= most:
        return frames
    order = sorted(range(len(frames)), key=lambda k: share(frames[k].source))
    return [frames[k] for k in sorted(order[:most])]
