"""Batches: which frames are solved together, and their targets as tensors.

Frames of one batch have the same number of spin channels and similar numbers of orbitals, so that little is padded. Membership
is drawn anew each epoch, from the seed and the epoch alone: a run that resumes draws the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.training.dataset import Frame

JITTER = 0.15          # of the number of orbitals: how freely frames of different size mix


@dataclass(frozen=True, eq=False)
class Batch:
    """Frames solved together. index: their places in the data; energy (eV), forces, dipole and charges as labelled, NaN where
    a frame has none; s2, NaN where not checked; species: frames with the same number are of one molecule; interactions: 1 for
    a complex and -1 for its fragments, a row for each complex whose fragments are here; counts: False for frames that are here
    for their interaction energy only; point charges around the frames and the forces on them (site, 3), None without any;
    energy_error, forces_error: standard errors of the labels, 0 where exact.
    """

    index: list
    frames: list
    molecules: Molecules
    atoms: Float[Tensor, "molecule"]
    energy: Float[Tensor, "molecule"]
    forces: Float[Tensor, "atom 3"]
    dipole: Float[Tensor, "molecule 3"]
    charges: Float[Tensor, "atom"]
    s2: Float[Tensor, "molecule"]
    species: Int[Tensor, "molecule"]
    interactions: Float[Tensor, "complex molecule"]
    counts: Bool[Tensor, "molecule"]
    point_charges: PointCharges | None
    site_forces: Float[Tensor, "site 3"] | None
    energy_error: Float[Tensor, "molecule"]
    forces_error: Float[Tensor, "atom 3"]

    def __len__(self):
        return len(self.index)

    def to(self, device) -> "Batch":
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)
                 if isinstance(getattr(self, f.name), Tensor | Molecules | PointCharges)}
        return replace(self, **moved)


def molecules_of(frames: Sequence[Frame]) -> Molecules:
    """The frames as one batch of molecules."""
    return Molecules.batch([f.numbers for f in frames], [f.positions for f in frames], [f.charge for f in frames],
                           [f.multiplicity for f in frames])


def charges_of(frames: Sequence[Frame]) -> PointCharges | None:
    """The point charges around the frames; None where no frame has any."""
    if all(f.external is None for f in frames):
        return None
    nowhere, none = np.zeros((0, 3)), np.zeros(0)
    return PointCharges.batch([nowhere if f.external is None else f.external.positions for f in frames],
                              [none if f.external is None else f.external.charges for f in frames])


def collate(frames: Sequence[Frame], index: Sequence[int]) -> Batch:
    """The frames of these places as a batch."""
    chosen = [frames[k] for k in index]
    kinds = {}
    species = [kinds.setdefault((*f.species, k if f.external is not None else -1), len(kinds)) for k, f in enumerate(chosen)]
    sites = [f.external.forces for f in chosen if f.external is not None]
    return Batch(
        list(index), chosen, molecules_of(chosen), _t([float(len(f)) for f in chosen]), _t([f.energy for f in chosen]),
        _t(np.concatenate([f.forces for f in chosen])), _t(np.stack([_or_nan(f.dipole, 3) for f in chosen])),
        _t(np.concatenate([_or_nan(f.charges, len(f)) for f in chosen])),
        _t([np.nan if f.s2 is None or f.multiplicity == 1 else f.s2 for f in chosen]), torch.tensor(species),
        interactions(chosen), torch.tensor([not f.differences_only for f in chosen]),
        charges_of(chosen), _t(np.concatenate(sites)) if sites else None, _t([f.energy_error for f in chosen]),
        _t(np.concatenate([np.zeros((len(f), 3)) if f.forces_error is None else f.forces_error for f in chosen])))


def interactions(frames: Sequence[Frame]) -> Float[Tensor, "complex molecule"]:
    """Coefficients of the energies E(AB) - E(A) - E(B) of the complexes whose two fragments are among the frames."""
    parts = {}
    for k, f in enumerate(frames):
        if f.parts_of is not None and f.fragment is not None:
            parts.setdefault(f.parts_of, {})[f.fragment] = k
    whole = [p for p in parts.values() if "AB" in p and len(p) > 2]
    found = torch.zeros(len(whole), len(frames), dtype=torch.float64)
    for row, p in zip(found, whole, strict=True):
        row[list(p.values())] = -1.0
        row[p["AB"]] = 1.0
    return found


def orbitals(method, frames: Sequence[Frame]) -> list[int]:
    """Orbitals of each frame in a method; MissingParameter for an element it lacks."""
    kinds = sorted({int(z) for f in frames for z in set(f.numbers.tolist())})
    count = dict(zip(kinds, method.elements.n_ao[method.rows(torch.tensor(kinds))].tolist(), strict=True))
    return [sum(count[z] for z in f.numbers.tolist()) for f in frames]


def draw(sizes: Sequence[int], channels: Sequence[int], size: int, seed: tuple, together: Sequence | None = None) -> list[list]:
    """Batches of about `size` frames as lists of places, in random order; seed: integers that decide everything.

    together: names; frames of one name share a batch, which may therefore be larger.
    """
    random = np.random.default_rng(seed)
    groups = {}
    for k in range(len(sizes)):
        groups.setdefault(k if together is None else together[k], []).append(k)
    tilted = [(max(channels[k] for k in group), max(sizes[k] for k in group) * (1 + JITTER * random.random()), random.random(),
               group) for group in groups.values()]
    found = []
    for spins in sorted(set(channels)):
        mine = [group for c, *_, group in sorted(tilted, key=lambda t: t[:3]) if c == spins]
        total = sum(map(len, mine))
        count, before = max(1, -(-total // size)), 0
        batches = [[] for _ in range(count)]
        for group in mine:
            batches[before * count // total] += group
            before += len(group)
        found += [b for b in batches if b]
    return [found[k] for k in random.permutation(len(found))]


def _or_nan(values, count):
    return np.full(count, np.nan) if values is None else values


def _t(values) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64))
