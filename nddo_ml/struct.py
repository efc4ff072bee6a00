"""Frozen records of tensors.

`@record` makes a class a frozen dataclass and registers it as a pytree, so that one function moves, detaches or maps any
record of the package, nested or not.
"""

import dataclasses

import torch
from torch.utils import _pytree as pytree


def record(cls):
    """The class as a frozen, keyword-friendly dataclass registered with torch's pytrees; compared by identity."""
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    pytree.register_dataclass(cls)
    return cls


def tensor_map(function, tree):
    """`tree` with `function` applied to each of its tensors; everything else is kept."""
    return pytree.tree_map_only(torch.Tensor, function, tree)


def choose(mask, a, b):
    """Record `a` for the molecules in the mask, `b` for the others; the molecule is the first axis of every tensor."""
    def pick(x, y):
        return torch.where(mask.view(-1, *[1] * (x.dim() - 1)), x, y) if isinstance(x, torch.Tensor) else x

    return pytree.tree_map(pick, a, b)
