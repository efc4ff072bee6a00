"""Functions compiled to machine code.

A *kernel* is a function of arrays and numbers that numba compiles. Kernels live in the folders named `kernels` and nowhere else;
what calls them is imported only where they are ready (common/compiling.py), for compiling takes half a minute and numba may be
missing.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., object])

# sums may be reordered and multiplications fused; infinities and NaN keep their meaning
FAST = {"contract", "reassoc", "nsz", "arcp"}


def jit(function: Kernel) -> Kernel:
    """The function compiled when it is first called, or loaded from the cache on disk; it runs without the lock of the
    interpreter, and divides by zero as numpy does."""
    return cast(Kernel, numba.njit(_nrt=False, cache=True, nogil=True, fastmath=FAST, error_model="numpy")(function))


def inlined(function: Kernel) -> Kernel:
    """The same for small functions that become part of the kernels that call them."""
    return cast(Kernel, numba.njit(_nrt=False, forceinline=True, nogil=True, fastmath=FAST, error_model="numpy")(function))


def spliced(function: Kernel) -> Kernel:
    """The same for functions that return views of arrays: their statements take the place of the call."""
    return cast(Kernel, numba.njit(inline="always", _nrt=False, nogil=True, fastmath=FAST, error_model="numpy")(function))
