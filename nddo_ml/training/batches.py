"""Batches: which frames are solved together, and their labels as tensors.

The frames of one batch have the same number of spin channels and similar numbers of orbitals, so that little is padded. Which
frames share a batch is drawn anew for each epoch, from the seed and the epoch alone: a training that goes on from a checkpoint
draws the same batches.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from nddo_ml.methods import Method
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.training.dataset import External, LabelledFrame

JITTER = 0.15          # of the number of orbitals: how freely frames of different size mix


@runtime_checkable
class Unlabelled(Protocol):
    """As much of a LabelledFrame as a calculation needs, labels left out."""

    @property
    def numbers(self) -> Int[np.ndarray, "atom"]: ...

    @property
    def positions(self) -> Float[np.ndarray, "atom 3"]: ...

    @property
    def charge(self) -> int: ...

    @property
    def multiplicity(self) -> int: ...

    @property
    def external(self) -> External | None: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Frames that are solved together, and their labels; a label that a frame lacks is NaN."""

    index: list[int]                                    # places of the frames in the data
    frames: list[LabelledFrame]
    molecules: Molecules
    atoms: Float[Tensor, "molecule"]                    # number of atoms
    energy: Float[Tensor, "molecule"]                   # eV
    forces: Float[Tensor, "atom 3"]                     # eV/angstrom
    dipole: Float[Tensor, "molecule 3"]                 # e angstrom
    charges: Float[Tensor, "atom"]                      # e
    s2: Float[Tensor, "molecule"]                       # <S^2>, NaN where it is not checked
    species: Int[Tensor, "molecule"]                    # frames of one number are of one molecule
    interactions: Float[Tensor, "complex molecule"]     # rows: 1 for a complex, -1 for each of its fragments
    counts: Bool[Tensor, "molecule"]                    # False: the frame is here for its interaction energy only
    point_charges: PointCharges | None                  # around the frames; None where no frame has any
    site_forces: Float[Tensor, "site 3"] | None         # on the point charges, eV/angstrom
    energy_error: Float[Tensor, "molecule"]             # standard errors of the labels, 0 where these are exact
    forces_error: Float[Tensor, "atom 3"]

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)
                 if isinstance(getattr(self, f.name), Tensor | Molecules | PointCharges)}
        return replace(self, **moved)


def molecules_of(frames: Sequence[Unlabelled]) -> Molecules:
    """The frames as one batch of molecules."""
    return Molecules.batch([f.numbers for f in frames], [f.positions for f in frames], [f.charge for f in frames],
                           [f.multiplicity for f in frames])


def charges_of(frames: Sequence[Unlabelled]) -> PointCharges | None:
    """The point charges around the frames; None where no frame has any."""
    surroundings = [f.external for f in frames]
    if all(external is None for external in surroundings):
        return None
    nowhere, none = np.zeros((0, 3)), np.zeros(0)
    return PointCharges.batch([nowhere if external is None else external.positions for external in surroundings],
                              [none if external is None else external.charges for external in surroundings])


def collate(frames: Sequence[LabelledFrame], index: Sequence[int]) -> Batch:
    """The frames at the places `index` as a batch."""
    chosen = [frames[k] for k in index]
    known: dict[tuple, int] = {}
    # a frame among point charges is comparable with no other
    species = [known.setdefault((*f.species, k if f.external is not None else -1), len(known)) for k, f in enumerate(chosen)]
    sites = [f.external.forces for f in chosen if f.external is not None]
    errors = [np.zeros((len(f), 3)) if f.forces_error is None else f.forces_error for f in chosen]
    return Batch(
        index=list(index), frames=chosen, molecules=molecules_of(chosen), atoms=_tensor([float(len(f)) for f in chosen]),
        energy=_tensor([f.energy for f in chosen]), forces=_tensor(np.concatenate([f.forces for f in chosen])),
        dipole=_tensor(np.stack([_or_nan(f.dipole, 3) for f in chosen])),
        charges=_tensor(np.concatenate([_or_nan(f.charges, len(f)) for f in chosen])),
        s2=_tensor([np.nan if f.s2 is None or f.multiplicity == 1 else f.s2 for f in chosen]), species=torch.tensor(species),
        interactions=interactions(chosen), counts=torch.tensor([not f.differences_only for f in chosen]),
        point_charges=charges_of(chosen), site_forces=_tensor(np.concatenate(sites)) if sites else None,
        energy_error=_tensor([f.energy_error for f in chosen]), forces_error=_tensor(np.concatenate(errors)))


def interactions(frames: Sequence[LabelledFrame]) -> Float[Tensor, "complex molecule"]:
    """Coefficients of the energies E(AB) - E(A) - E(B) of the complexes whose two fragments are among the frames."""
    members: dict[str, dict[str, int]] = {}
    for k, f in enumerate(frames):
        if f.parts_of is not None and f.fragment is not None:
            members.setdefault(f.parts_of, {})[f.fragment] = k
    whole = [places for places in members.values() if "AB" in places and len(places) > 2]
    coefficients = torch.zeros(len(whole), len(frames), dtype=torch.float64)
    for row, places in zip(coefficients, whole, strict=True):
        row[list(places.values())] = -1.0
        row[places["AB"]] = 1.0
    return coefficients


def orbitals(method: Method, frames: Sequence[Unlabelled]) -> list[int]:
    """Number of orbitals of each frame in a method.

    Raises:
        MissingParameter: a frame has an element that the method lacks.
    """
    elements = sorted({int(z) for f in frames for z in set(f.numbers.tolist())})
    count = dict(zip(elements, method.elements.n_ao[method.rows(torch.tensor(elements))].tolist(), strict=True))
    return [sum(count[z] for z in f.numbers.tolist()) for f in frames]


def spin_channels(frames: Sequence[Unlabelled]) -> list[int]:
    """Spin channels of each frame: 2 (alpha and beta orbitals apart) for open shells, else 1."""
    return [2 if f.multiplicity > 1 else 1 for f in frames]


def batches_of(method: Method, frames: Sequence[Unlabelled], size: int) -> list[list[int]]:
    """Places of all frames in batches of about `size`, the same batches whenever asked: for predictions."""
    return draw(orbitals(method, frames), spin_channels(frames), size, (0,)) if frames else []


def draw(sizes: Sequence[int], channels: Sequence[int], size: int, seed: tuple[int, ...],
         together: Sequence[Hashable] | None = None) -> list[list[int]]:
    """Batches of about `size` frames, as lists of places, in random order.

    sizes, channels: orbitals and spin channels of each frame. seed: integers that decide everything that is random. together:
    a name for each frame; frames of one name share a batch, which may therefore be larger.
    """
    random = np.random.default_rng(seed)
    groups: dict[Hashable, list[int]] = {}
    for k in range(len(sizes)):
        groups.setdefault(k if together is None else together[k], []).append(k)
    tilted = [(max(channels[k] for k in group), max(sizes[k] for k in group) * (1 + JITTER * random.random()), random.random(),
               group) for group in groups.values()]
    batches: list[list[int]] = []
    for spins in sorted(set(channels)):
        alike = [group for c, *_, group in sorted(tilted, key=lambda t: t[:3]) if c == spins]
        total = sum(map(len, alike))
        count, before = max(1, -(-total // size)), 0
        parts: list[list[int]] = [[] for _ in range(count)]
        for group in alike:
            parts[before * count // total] += group
            before += len(group)
        batches += [part for part in parts if part]
    return [batches[k] for k in random.permutation(len(batches))]


def _or_nan(values: np.ndarray | None, count: int) -> np.ndarray:
    return np.full(count, np.nan) if values is None else values


def _tensor(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64))
