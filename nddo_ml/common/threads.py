"""How many threads torch works with, and the linear algebra that kernels call."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock

import torch

from nddo_ml.errors import UnknownOption

# what OpenBLAS calls its functions: that of numpy and scipy has affixes
AFFIXES = [(prefix, suffix) for prefix in ("scipy_", "") for suffix in ("", "64_", "_64")]


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Torch with so many threads while the context lasts; None leaves it as it is.

    Raises: UnknownOption, if there are none.
    """
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    if count < 1:
        raise UnknownOption(f"{count} threads asked for: give 1 or more.")
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def blas_threads() -> AbstractContextManager[None]:
    """Scipy's linear algebra, which kernels call, with as many threads as torch while the context lasts.

    The number belongs to the process: among several threads that calculate at once, the first sets it, and the last restores
    what it was.
    """
    return _blas


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Scipy's linear algebra with one thread while the context lasts: for threads that each call kernels."""
    with _blas:
        before = _blas.put([1] * len(_blas.libraries or []))
        try:
            yield
        finally:
            _blas.put(before)


class _Blas(AbstractContextManager[None]):
    """The libraries, found when they are first needed, and how many threads they had before."""

    def __init__(self) -> None:
        self.libraries: list[tuple[Callable[[], int], Callable[[int], object]]] | None = None    # to read, to set
        self.depth = 0                          # contexts that are open
        self.before: list[int] = []             # empty: nothing was changed
        self.lock = Lock()

    def __enter__(self) -> None:
        """Follow torch."""
        with self.lock:
            if self.libraries is None:
                self.libraries = _libraries()
            if self.depth == 0:
                wanted = [torch.get_num_threads()] * len(self.libraries)
                before = self.put(wanted)
                self.before = [] if before == wanted else before
            self.depth += 1

    def __exit__(self, *error: object) -> None:
        """Restore what was."""
        with self.lock:
            self.depth -= 1
            if self.depth == 0 and self.before:
                self.put(self.before)

    def put(self, counts: list[int]) -> list[int]:
        """How many threads the libraries had, after they are given so many."""
        before: list[int] = []
        for (read, put), count in zip(self.libraries or [], counts, strict=True):
            before.append(read())
            if before[-1] != count:
                put(count)
        return before


_blas = _Blas()


def _libraries() -> list[tuple[Callable[[], int], Callable[[int], object]]]:
    """How to read and set the numbers of threads of scipy's linear algebra; none without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    importlib.import_module("scipy.linalg.cython_blas")         # loads the library that kernels call
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    own = [library for library in found if any(part.startswith("scipy") for part in Path(library.filepath).parts[:-1])]
    shared = [getattr(library, "threading_layer", "") == "openmp" for library in own or found]      # with torch, perhaps
    return [(None if omp else _direct(library.dynlib)) or (library.get_num_threads, library.set_num_threads)
            for library, omp in zip(own or found, shared, strict=True)]


def _direct(library: object) -> tuple[Callable[[], int], Callable[[int], object]] | None:
    """The functions of OpenBLAS themselves: threadpoolctl would let one thread of the process alone set them. None: it is
    another library."""
    for prefix, suffix in AFFIXES:
        read = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
        put = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
        if read is not None and put is not None:
            return read, put
    return None
