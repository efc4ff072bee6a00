"""Frozen records of tensors, and tensors that are kept.

`@record` makes a class a frozen dataclass and registers it as a pytree, so that one function moves, detaches or maps any
record of the package, nested or not. What is kept from one call to the next (`@cached`, or by an object under its `Lock`) must
serve every later caller: tensors made inside torch.inference_mode can be on no tape ever after, so nothing here is made there.
"""

import dataclasses
import functools
import threading
from contextlib import contextmanager

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


@contextmanager
def ordinary():
    """Tensors made in this block are ordinary ones, off the tape, where torch.inference_mode is on; no change elsewhere."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():      # leaving inference mode alone would switch the tape on
        yield


def cached(function):
    """functools.cache for functions that make tensors."""
    @functools.wraps(function)
    def make(*args, **kwargs):
        with ordinary():
            return function(*args, **kwargs)

    return functools.cache(make)


def outside_inference(function):
    """The function as it is outside of torch.inference_mode, whether that is on or its arguments were made there."""
    @functools.wraps(function)
    def call(*args, **kwargs):
        with ordinary():
            args, kwargs = tensor_map(lambda t: t.clone() if t.is_inference() else t, (args, kwargs))
            return function(*args, **kwargs)

    return call


class Lock:
    """A lock that its thread may take again; an object that has one can be copied and pickled, and the copy has its own."""

    def __init__(self):
        self._lock = threading.RLock()

    def __enter__(self):
        self._lock.acquire()

    def __exit__(self, *error):
        self._lock.release()

    def __reduce__(self):
        return Lock, ()


def in_turn(method):
    """The method of an object with a Lock as `_lock`: of all methods so marked, one thread at a time runs one."""
    @functools.wraps(method)
    def call(self, *args, **kwargs):
        with self._lock:
            return method(self, *args, **kwargs)

    return call
