"""Several processes of one calculation, started as `torchrun --nproc-per-node N -m nddo_ml.cli.main COMMAND ...`.

A training shares out its frames among them, a wavefunction its walkers; all take the same steps, and the first writes and
speaks. With one process nothing here does anything.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a calculation, as this one sees them."""

    rank: int = 0     # of this process, counted from 0
    size: int = 1     # number of processes

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of a list that all have."""
        return list(items[self.rank::self.size])

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def join(self, mine: list[T], count: int) -> list[T]:
        """The list of `count` items whose shares the processes hold."""
        joined: list[Any] = [None] * count
        for rank, part in enumerate(self.gathered(mine)):
            joined[rank::self.size] = part
        return joined

    def average(self, parameters: Sequence[nn.Parameter], weight: float) -> float:
        """Replace gradients by their mean over the processes, each with its `weight` (0: it has none); the sum of weights."""
        if self.size == 1:
            return weight
        zeros = [torch.zeros_like(p) if p.grad is None or weight == 0 else p.grad * weight for p in parameters]
        flat = torch.cat([g.double().flatten() for g in zeros] + [zeros[0].new_tensor([weight], dtype=torch.float64)])
        dist.all_reduce(flat)
        total = float(flat[-1])
        for p, g in zip(parameters, flat[:-1].split([p.numel() for p in parameters]), strict=True):
            p.grad = (g / total if total else g).view_as(p).to(p.dtype)
        return total

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the values of the first."""
        if self.size > 1:
            for t in tensors:
                dist.broadcast(t, 0)


ALONE = World()     # a single process


@contextmanager
def joined() -> Iterator[World]:
    """The processes that `torchrun` started, connected through gloo (nccl where each has a GPU) while the context lasts; a
    single one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    dist.init_process_group("nccl" if torch.cuda.device_count() >= size else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
