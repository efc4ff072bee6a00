"""Several processes, one training: `torchrun --nproc-per-node N -m nddo_ml.cli.main train CONFIG.toml`.

Each process owns a fixed share of the frames (so that it keeps their densities), computes gradients of its own batch, and all
step with the mean. With one process nothing here does anything.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """The processes of a training: `rank` of this one, `size` of all."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, items: Sequence) -> list:
        """This process's part of a list that all have."""
        return list(items[self.rank::self.size])

    def gathered(self, value) -> list:
        """The values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        found = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def join(self, mine: list, count: int) -> list:
        """The list of `count` items whose shares the processes hold."""
        joined = [None] * count
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


def start() -> World:
    """The processes `torchrun` started, joined through gloo (nccl where each has a GPU); a single one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.device_count() >= size else "gloo")
    return World(dist.get_rank(), dist.get_world_size())


def finish() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
