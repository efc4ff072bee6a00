"""What one stage of a training works on: its frames by part, labels on the model's scale, offsets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nddo_ml.errors import IncompatibleFile
from nddo_ml.integrals.corrections import GROUPS, energy_and_forces
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.training import offsets
from nddo_ml.training.batches import molecules_of
from nddo_ml.training.config import Data, Stage
from nddo_ml.training.dataset import HELD_OUT, Frame, content_hash, limited, load, part, share, split, summary
from nddo_ml.training.evaluate import predict

CHUNK = 200              # frames whose dispersion is calculated at once
FITTED_ON = 2000         # training frames that offsets are fitted to


@dataclass(frozen=True, eq=False)
class StageData:
    """The frames of a stage by part, the hash of all, what was left out (counts by reason), a summary by part."""

    parts: dict[str, list[Frame]]
    hash: str
    left_out: dict[str, int]
    summary: list[dict]

    @property
    def train(self) -> list[Frame]:
        """Frames to train on."""
        return self.parts["train"]

    def without(self, charges: dict[int, float]) -> "StageData":
        """The same data with energies less a constant (eV) for each total charge."""
        def moved(f):
            return replace(f, energy=f.energy - charges[f.charge]) if f.charge in charges and not f.differences_only else f

        return replace(self, parts={name: [moved(f) for f in frames] for name, frames in self.parts.items()})

    def held_out(self, most: int | None = None) -> dict[str, list[Frame]]:
        """The test parts, `most` frames of each at most, always the same ones."""
        return {name: _some(self.parts[name], most) for name in HELD_OUT if name in self.parts}


def stage_data(stage: Stage, data: Data) -> StageData:
    """Read, check and split the data of a stage. IncompatibleFile if nothing is left to train on."""
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


def _for_differences(frames, data):
    """Complexes of the training part with their fragments, without dispersion; IncompatibleFile if there are none."""
    mine = [f for f in frames if f.parts_of is not None and f.fragment is not None
            and part(f, data.validation, data.large) == "train" and f.largest_force <= data.largest_force]
    if not mine:
        raise IncompatibleFile(f"None of the {len(frames)} frames given as `interactions` is a complex or its fragment: "
                               "`nddo-ml label --sample interactions:N` makes them.")
    return [replace(f, differences_only=True) for f in without_dispersion(mine, "apart")]


def without_dispersion(frames: Sequence[Frame], labels: str) -> list[Frame]:
    """The frames with labels that hold no dispersion: D3(BJ) is subtracted where they are said to hold it.

    labels: apart (only those marked `ref_dispersion=included`), included (all), learned (none: labels stay as they are).
    """
    found = list(frames)
    todo = [] if labels == "learned" else [k for k, f in enumerate(found) if labels == "included" or f.dispersion_included]
    for start in range(0, len(todo), CHUNK):
        index = todo[start:start + CHUNK]
        molecules = molecules_of([found[k] for k in index])
        energy, forces = energy_and_forces(OMEGA_B97X_D3BJ, molecules)
        for k, e, f in zip(index, energy.tolist(), forces.split(molecules.sizes), strict=True):
            found[k] = replace(found[k], energy=found[k].energy - e, forces=found[k].forces - f.numpy(), dispersion_energy=e,
                               dispersion_forces=f.numpy(), dispersion_included=False)
    return found


def with_dispersion(frames: Sequence[Frame]) -> list[Frame]:
    """The frames with the labelled D3(BJ) added to energies and forces, where it is labelled."""
    return [f if f.dispersion_energy is None or f.dispersion_forces is None else
            replace(f, energy=f.energy + f.dispersion_energy, forces=f.forces + f.dispersion_forces, dispersion_included=True)
            for f in frames]


def has_dispersion(hamiltonian) -> bool:
    """Whether a Hamiltonian's energies hold dispersion."""
    return any(GROUPS[name] == "dispersion" for name in hamiltonian.terms)


def solve_offsets(hamiltonian, stage: Stage, data: StageData) -> tuple[dict[int, float], dict[int, float]]:
    """Solve the offsets of a stage and install them in the Hamiltonian: (eV by element, eV by charge, which the labels must
    lose); both empty where the stage keeps those it has."""
    if stage.offsets == "kept":
        return {}, {}
    needed = sorted({int(z) for frames in data.parts.values() for f in frames for z in f.numbers})
    offsets.install(hamiltonian, {})
    atoms = data.parts.get("atoms", [])
    if stage.offsets == "atoms":
        found, charges = offsets.from_atoms(atoms, [p.energy for p in predict(hamiltonian, atoms)], needed), {}
    else:
        some = _some([f for f in data.train if f.external is None and not f.differences_only], FITTED_ON)
        found, charges = offsets.fitted(some, [p.energy for p in predict(hamiltonian, some, 1e-4)], needed)
    offsets.install(hamiltonian, found)
    for frame in (f for f in atoms if f.charge == 0):
        row = hamiltonian.method.rows(molecules_of([frame]).numbers)
        hamiltonian.atom_energies[row] = min(frame.energy, _known(float(hamiltonian.atom_energies[row])))
    return found, charges


def _known(energy):
    return energy if np.isfinite(energy) else np.inf


def _some(frames, most):
    """At most so many frames, the same ones whenever asked."""
    if most is None or len(frames) <= most:
        return frames
    order = sorted(range(len(frames)), key=lambda k: share(frames[k].source))
    return [frames[k] for k in sorted(order[:most])]
