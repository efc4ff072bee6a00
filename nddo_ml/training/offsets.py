"""Energy offsets: what each element's atoms add, so that a model and its reference share one zero.

Either from free atoms, E_ref(atom) - E_model(atom), which makes atomisation energies those of the reference; or by least
squares over molecules, where the reference has no atoms. Solved, never trained.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.errors import IncompatibleFile
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.training.dataset import LabelledFrame


def from_atoms(atoms: Sequence[LabelledFrame], energies: Sequence[float], needed: Sequence[int]) -> dict[int, float]:
    """Offset (eV) of each element in `needed` from labelled free atoms and a model's energies of them without offsets.

    Of several spin states of an atom the lowest in the reference counts.

    Raises:
        IncompatibleFile: a needed element has no labelled atom.
    """
    lowest: dict[int, tuple[float, float]] = {}
    for frame, energy in zip(atoms, energies, strict=True):
        z = int(frame.numbers[0])
        if len(frame) == 1 and frame.charge == 0 and (z not in lowest or frame.energy < lowest[z][0]):
            lowest[z] = frame.energy, energy
    missing = [z for z in needed if z not in lowest]
    if missing:
        raise IncompatibleFile(f"No labelled free atoms of Z = {', '.join(map(str, missing))} in the data: label them, or "
                               'choose offsets = "fitted".')
    return {z: lowest[z][0] - lowest[z][1] for z in needed}


def fitted(frames: Sequence[LabelledFrame], energies: Sequence[float],
           needed: Sequence[int]) -> tuple[dict[int, float], dict[int, float]]:
    """Offsets (eV) of the elements in `needed`, and of the total charges of the ions, by least squares over frames.

    The squares of (E_ref - E_model - sum_A offset(A) - offset(charge)) / (number of atoms) are minimised; `energies` are
    E_model (eV) without offsets, NaN where the model failed.

    The offset of a charge is no part of a model: it takes from the labels a constant difference in ionisation energies and
    electron affinities, several eV in GFN2-xTB (docs/howto/training.md), which no shift of parameters by geometry could follow.
    """
    calculated = np.asarray(energies, dtype=np.float64)
    usable = np.isfinite(calculated)
    charges = sorted({f.charge for f, use in zip(frames, usable, strict=True) if use and f.charge})
    columns = np.array([[np.count_nonzero(f.numbers == z) for z in needed] + [f.charge == q for q in charges] for f in frames],
                       dtype=np.float64)[usable]
    weight = 1.0 / np.array([len(f) for f in frames])[usable]
    difference = np.array([f.energy for f in frames])[usable] - calculated[usable]
    solved = np.linalg.lstsq(columns * weight[:, None], difference * weight, rcond=None)[0].tolist()
    return dict(zip(needed, solved, strict=False)), dict(zip(charges, solved[len(needed):], strict=True))


@torch.no_grad()
def install(hamiltonian: Hamiltonian, offsets: dict[int, float]) -> None:
    """Write offsets (eV by element) into `hamiltonian.atom_offsets`; zero for all other elements."""
    buffer = hamiltonian.get_buffer("atom_offsets")
    buffer.zero_()
    numbers = torch.tensor(sorted(offsets), dtype=torch.long)
    buffer[hamiltonian.method.rows(numbers).to(buffer.device)] = buffer.new_tensor([offsets[int(z)] for z in numbers])


def total(hamiltonian: Hamiltonian, frames: Sequence[LabelledFrame]) -> Float[Tensor, "molecule"]:
    """Sum of the offsets of each frame's atoms, eV."""
    rows = [hamiltonian.method.rows(torch.from_numpy(f.numbers)) for f in frames]
    atom_offsets = hamiltonian.get_buffer("atom_offsets")
    return torch.stack([atom_offsets[r].sum() for r in rows])
