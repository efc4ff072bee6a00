"""Functions compiled to machine code.

A *kernel* is a function of arrays and numbers that numba compiles. Kernels live in the folders named `kernels` and nowhere
else; what calls them is imported only where they are ready (common/compiling.py), for compiling takes half a minute and numba
may be missing.
"""

import hashlib
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps

from nddo_ml.common import compiling
from nddo_ml.common.code_cache import MISSED
from nddo_ml.common.compiling import NotCompiled

Kernel = TypeVar("Kernel", bound=Callable[..., object])

# sums may be reordered and multiplications fused; infinities and NaN keep their meaning
PLAIN: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}
BARE: dict[str, Any] = PLAIN | {"_nrt": False}


def jit(function: Kernel) -> Kernel:
    """The function, loaded from the cache on disk when it is first called, or compiled where that is allowed; it runs without
    the lock of the interpreter, and divides by zero as numpy does."""
    return _kept(numba.njit(**PLAIN)(function), function)


def bare(function: Kernel) -> Kernel:
    """The same for functions that make no arrays: numba does not count the references to those they are given, which takes
    longer than the integrals of a pair."""
    return _kept(numba.njit(**BARE)(function), function)


def inlined(function: Kernel) -> Kernel:
    """The same for small functions that become part of the kernels that call them."""
    return cast(Kernel, numba.njit(forceinline=True, **PLAIN)(function))


def bare_inlined(function: Kernel) -> Kernel:
    """The same for those that make no arrays, as parts of `bare` kernels."""
    return cast(Kernel, numba.njit(forceinline=True, **BARE)(function))


def spliced(function: Kernel) -> Kernel:
    """The same for functions that return views of arrays: their statements take the place of the call."""
    return cast(Kernel, numba.njit(inline="always", **BARE)(function))


def _kept(kernel: Any, function: Kernel) -> Kernel:
    """The kernel with its machine code on disk."""
    kernel._cache = _KernelCache(function)
    return cast(Kernel, kernel)


class _Locator:
    """Tells numba that machine code lies in the folder of its fingerprint, which stands for the state of all sources."""

    def __init__(self, function: Callable[..., object]) -> None:
        code = function.__code__
        self._py_file, self._line, self._folder = code.co_filename, code.co_firstlineno, compiling.folder()

    def ensure_cache_path(self) -> None:
        """Make the folder."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        """The folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """The fingerprint: it has the content of the file, of those it imports, and no times."""
        return self._folder.name

    def get_disambiguator(self) -> str:
        """What tells functions of one name apart."""
        return str(self._line)


class _Files(CompileResultCacheImpl):
    """Files named by module and function, wherever numba's settings would put them."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._lineno, self._locator = function.__code__.co_firstlineno, _Locator(function)
        name, build = f"{function.__module__}.{function.__qualname__}", getattr(sys, "abiflags", "")
        self._filename_base = self.get_filename_base(name, build)

    def check_cachable(self, cres: Any) -> bool:
        """True: it can be kept on disk.

        Raises: TypeError, where it cannot: it would be compiled again and again.
        """
        with warnings.catch_warnings(action="ignore"):
            kept = super().check_cachable(cres)
        if not kept:
            raise TypeError(f"{cres.fndesc.qualname} cannot be kept on disk: it refers to a pointer or a large array")
        return True


class _KernelCache(FunctionCache):
    """Machine code on disk. A file that cannot be read is none, and nothing is compiled while somebody waits."""

    _impl_class = _Files

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code for a signature; None: it may be compiled, and is not there.

        Raises: NotCompiled, where it is not there and may not be compiled.
        """
        try:
            code = super().load_overload(sig, target_context)
        except Exception:
            code = None
        if code is None and not compiling.may_compile():
            self._note(sig)
            raise NotCompiled(f"{self._py_func.__module__}.{self._py_func.__qualname__} has no machine code for {sig}")
        return code

    def _note(self, sig: Any) -> None:
        """Write down what is missing, for the next process that compiles."""
        record = dumps((self._py_func.__module__, self._py_func.__qualname__, sig))
        with suppress(OSError):
            folder = Path(self.cache_path) / MISSED
            folder.mkdir(parents=True, exist_ok=True)
            (folder / hashlib.sha256(str((self._name, sig)).encode()).hexdigest()[:24]).write_bytes(record)
