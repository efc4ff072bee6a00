"""Densities kept from one epoch to the next, so that the SCF of each structure starts where it ended.

They are rounded to float32 and only half is stored: a start needs no more, and 10,000 frames fit into a few tens of MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.molecules import Molecules


class Densities:
    """Converged densities by the place of the frame in the data."""

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, k: int, density: Float[Tensor, "spin orbital orbital"]) -> None:
        """Remember the density of frame k."""
        n = density.shape[-1]
        i, j = torch.tril_indices(n, n, device=density.device)
        self._kept[k] = density.detach()[:, i, j].to("cpu", torch.float32)

    def forget(self, k: int) -> None:
        """Frame k starts from neutral atoms again."""
        self._kept.pop(k, None)

    def clear(self) -> None:
        """All frames start from neutral atoms again."""
        self._kept.clear()

    def density(self, k: int) -> Float[Tensor, "spin orbital orbital"]:
        """The density of frame k."""
        packed = self._kept[k].to(torch.float64)
        n = int((2 * packed.shape[1]) ** 0.5)
        i, j = torch.tril_indices(n, n)
        full = packed.new_zeros(len(packed), n, n)
        full[:, i, j] = packed
        full[:, j, i] = packed
        return full

    def starts(self, index: Sequence[int], molecules: Molecules) -> "Starts | None":
        """What `Hamiltonian.forward(guess=...)` takes for the frames of a batch; None unless all of them are known."""
        return Starts(self, list(index), molecules) if all(k in self._kept for k in index) else None

    def state(self) -> dict[str, list]:
        """Everything, for a checkpoint."""
        return {"index": list(self._kept), "packed": list(self._kept.values())}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the densities of a checkpoint."""
        self._kept = dict(zip(state["index"], state["packed"], strict=True))


@dataclass(frozen=True, eq=False)
class Starts:
    """Start densities of a batch: as much of a Result as an SCF needs to begin from."""

    densities: Densities
    index: list[int]                # place of each molecule of the batch in the data
    molecules: Molecules

    def density(self, k: int) -> Float[Tensor, "spin orbital orbital"]:
        """The start density of molecule k of the batch."""
        return self.densities.density(self.index[k]).to(self.molecules.positions.device)
