"""Frozen records of tensors, and tensors that are kept.

`@record` makes a class a frozen dataclass and registers it as a pytree, so that one function moves, detaches or maps any
record of the package, nested or not. What is kept from one call to the next (`@cached`, or by an object under its `Lock`) must
serve every later caller: tensors made inside torch.inference_mode can be on no tape ever after, so nothing here is made there.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast, dataclass_transform

import torch
from torch.utils import _pytree as pytree

T = TypeVar("T")
Arguments = ParamSpec("Arguments")

_records: set[type] = set()


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """The class as a frozen, keyword-friendly dataclass registered with torch's pytrees; compared by identity."""
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    names = tuple(field.name for field in dataclasses.fields(cast(Any, cls)))

    def flatten(instance: T) -> tuple[list[Any], None]:
        return [getattr(instance, name) for name in names], None

    def unflatten(values: Iterable[Any], _: None) -> T:
        instance = object.__new__(cls)      # not through __init__: leaves may be anything while a tree is mapped
        for name, value in zip(names, values, strict=True):
            object.__setattr__(instance, name, value)
        return instance

    pytree.register_pytree_node(cls, flatten, unflatten)
    _records.add(cls)
    return cls


def tensor_map(function: Callable[[torch.Tensor], Any], tree: T) -> T:
    """`tree` with `function` applied to each of its tensors; everything else is kept."""
    return pytree.tree_map_only(torch.Tensor, function, tree)


def choose(mask: torch.Tensor, a: T, b: T) -> T:
    """Record `a` for the molecules in the mask, `b` for the others; the molecule is the first axis of every tensor."""
    def pick(x: Any, y: Any) -> Any:
        return torch.where(mask.view(-1, *[1] * (x.dim() - 1)), x, y) if isinstance(x, torch.Tensor) else x

    return pytree.tree_map(pick, a, b)


@contextmanager
def ordinary() -> Iterator[None]:
    """Tensors made in this block are ordinary ones, off the tape, where torch.inference_mode is on; no change elsewhere."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():      # leaving inference mode alone would switch the tape on
        yield


def cached(function: Callable[Arguments, T]) -> Callable[Arguments, T]:
    """functools.cache for functions that make tensors."""
    @functools.wraps(function)
    def make(*args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        with ordinary():
            return function(*args, **kwargs)

    return cast(Callable[Arguments, T], functools.cache(make))


def outside_inference(function: Callable[Arguments, T]) -> Callable[Arguments, T]:
    """The function as it is outside of torch.inference_mode, whether that is on or its arguments were made there."""
    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        if not (torch.is_inference_mode_enabled() or _made_in_inference(args) or _made_in_inference(kwargs.values())):
            return function(*args, **kwargs)
        with ordinary():
            args, kwargs = tensor_map(lambda t: t.clone() if t.is_inference() else t, (args, kwargs))
            return function(*args, **kwargs)

    return call


def _made_in_inference(trees: Iterable[object]) -> bool:
    """Whether torch.inference_mode was on when a tensor among these was made."""
    for tree in trees:
        if isinstance(tree, torch.Tensor):
            if tree.is_inference():
                return True
        elif isinstance(tree, (list, tuple)):       # a union would be made at every call
            if _made_in_inference(tree):
                return True
        elif isinstance(tree, dict):
            if _made_in_inference(tree.values()):
                return True
        elif type(tree) in _records and _made_in_inference(vars(tree).values()):
            return True
    return False


class Lock:
    """A lock that its thread may take again; an object that has one can be copied and pickled, and the copy has its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> "tuple[type[Lock], tuple[()]]":
        return Lock, ()


def in_turn(method: Callable[Arguments, T]) -> Callable[Arguments, T]:
    """The method of an object with a Lock as `_lock`: of all methods so marked, one thread at a time runs one."""
    @functools.wraps(method)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        with args[0]._lock:       # type: ignore[attr-defined]
            return method(*args, **kwargs)

    return call
