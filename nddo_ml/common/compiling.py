"""Whether the kernels can be used now, and what is done so that they can soon: nobody waits for a compiler.

Kernels serve if their machine code is on disk (code_cache.py). If it is not, the first calculation that could use them starts
one process in the background that compiles them, torch serves, and a process that lives on goes over to them when it finds
them. What was not compiled is never compiled in passing: it counts as missing, torch serves, and the next process in the
background compiles it too. Without numba torch serves, silently.

NDDO_ML_COMPILED=0: torch serves. NDDO_ML_COMPILED=cached: kernels serve where they are compiled, and no process is started.
"""

import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, Popen
from threading import Lock

from nddo_ml.common import code_cache
from nddo_ml.common.code_cache import CodeCache

SWITCH = "NDDO_ML_COMPILED"
COMPILER = "nddo_ml.hamiltonian.warm_up"    # run as a module, it compiles everything
LOOK = 2.0              # seconds between two looks whether the machine code is there
LOADING = 0.4           # seconds of torch's work that loading the kernels is worth; it takes twice as long
PATIENCE = 3            # kernels that may be missing in one process, one after the other, before it stops using any
OFF, ALLOWED = "off", "allowed"

_mode: ContextVar[str] = ContextVar("compiling", default="")


class NotCompiled(Exception):
    """A kernel has no machine code for arguments of these types."""


@dataclass(frozen=True)
class Status:
    """What serves calculations, and why."""

    kernels: bool       # whether the kernels do; else torch
    reason: str         # in a sentence without its end
    folder: Path        # where the machine code is, or would be
    log: Path | None    # of what went wrong in the background, if there is one


@contextmanager
def _in_mode(mode: str) -> Iterator[None]:
    """The mode of this thread while the context lasts."""
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def off() -> AbstractContextManager[None]:
    """Torch serves while the context lasts, in this thread."""
    return _in_mode(OFF)


def allowed() -> AbstractContextManager[None]:
    """Kernels serve while the context lasts, in this thread, and are compiled where they are not; their errors are raised."""
    return _in_mode(ALLOWED)


def ready() -> bool:
    """Whether kernels can be used now, without anybody waiting. The first question may start a process that compiles them."""
    mode = _mode.get()
    if mode:
        return mode == ALLOWED and not unable()
    return _process.ready or (time.monotonic() >= _process.next_look and _process.look())


def due(seconds: float) -> bool:
    """Whether kernels serve a calculation that torch needs about so many seconds for: they are ready, and what torch was asked
    for in this process is worth loading them. Estimates are counted, not time, so that the same calls are served alike."""
    here = ready()
    _process.asked += seconds
    return here and serving()


def serving() -> bool:
    """Whether kernels serve what is done now; see `due`."""
    return (_process.asked > LOADING or _mode.get() == ALLOWED) and ready()


def eager() -> None:
    """Kernels serve from the first calculation on, in this process."""
    _process.asked = float("inf")


def may_compile() -> bool:
    """Whether a kernel may be compiled in this thread now, whoever waits for it."""
    return _mode.get() == ALLOWED


def broken(error: Exception) -> None:
    """Say that a kernel failed: torch serves from here on, and a warning says why; where only machine code was missing, until
    it has been compiled in the background.

    Raises: the error itself, where kernels may be compiled.
    """
    if may_compile():
        raise error
    _process.give_up(error)


def failed(error: Exception) -> bool:
    """Whether an error is that of a kernel rather than of what it was asked: machine code is missing or cannot be loaded, or
    numba or its compiler failed."""
    return isinstance(error, NotCompiled | ImportError | OSError | SystemError) or type(error).__module__.split(".")[0] in (
        "numba", "llvmlite")


def unable() -> str:
    """Why this installation has no kernels at all; empty if it can have them."""
    if find_spec("numba") is None:
        return "numba is not installed"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set"
    return ""


def status() -> Status:
    """What serves calculations in a process like this one; nothing is started."""
    cache = code_cache.find(code_cache.fingerprint())
    failure, complete = cache.failure(), cache.complete()
    reasons = ((_process.stopped, _process.stopped), (os.environ.get(SWITCH) == "0", f"{SWITCH}=0"), (bool(unable()), unable()),
               (complete, "the kernels are compiled"), (cache.busy(), "the kernels are being compiled"),
               (failure, f"compiling the kernels failed: {failure}"),
               (not cache.writable(), "the kernels are not compiled, and the folder for them cannot be written"))
    reason = next((reason for holds, reason in reasons if holds), "the kernels are not compiled yet")
    log = cache.log if failure and cache.log.exists() else None
    return Status(reason == "the kernels are compiled", reason, cache.folder, log)


def forget() -> None:
    """Look anew: at the settings, at the folder, and whatever went wrong in this process."""
    _process.__init__()


def compile_all(exercise: Callable[[], object], descriptor: int | None = None) -> float | None:
    """Seconds in which the calculations of `exercise` compiled all kernels in this process; None: another process compiles.

    descriptor: holds the folder already (CodeCache.lock).

    Raises: OSError, if the folder cannot be written, and whatever the calculations raise.
    """
    name = code_cache.fingerprint()
    cache = _process.folder(name)
    descriptor = cache.lock() if descriptor is None else descriptor
    if descriptor is None:
        return None
    begin = time.monotonic()
    try:
        with allowed():
            exercise()
            _compile_missed(cache.folder / code_cache.MISSED)
        seconds = time.monotonic() - begin
        if code_cache.fingerprint() != name:        # a source was edited meanwhile: what was compiled belongs to neither
            cache.empty()
            raise OSError("the sources of the kernels changed while they were compiled")
        cache.finish(seconds)
    except Exception as error:
        if code_cache.fingerprint() == name:
            cache.fail(f"{type(error).__name__}: {error}".splitlines()[0][:300])
        raise
    finally:
        os.close(descriptor)
    return seconds


def _compile_missed(folder: Path) -> None:
    """Compile what was missing when it was needed (common/jit.py), for the types it was needed for."""
    for record in sorted(folder.glob("*")):
        with suppress(OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError):    # of a broken file
            module, name, types = pickle.loads(record.read_bytes())
            getattr(import_module(module), name).compile(types)


class _Detached(Popen[bytes]):
    """A process that may outlive this one, without a warning that it does."""

    def __del__(self) -> None:
        """Nothing is done."""


class _Process:
    """What this process knows; the one thing here that changes."""

    asked = 0.0             # seconds that torch needs for what was asked for in this process, about

    def __init__(self) -> None:
        self.ready = False                          # machine code was found complete
        self.next_look = 0.0                        # when to look for it again, on the monotonic clock
        self.stopped = ""                           # why this process uses no kernels any more
        self.cache: CodeCache | None = None
        self.missing = 0                            # kernels that had no machine code although it was complete
        self.child: Popen[bytes] | None = None      # compiles in the background
        self.looking = Lock()

    def folder(self, name: str) -> CodeCache:
        """The folder of a fingerprint, which kernels that are imported from now on load from and save to."""
        if self.cache is None or self.cache.name != name:
            self.cache = code_cache.find(name)
        return self.cache

    def look(self) -> bool:
        """Whether the machine code is there; if not, it is looked for again later."""
        if not self.looking.acquire(blocking=False):
            return False                            # another thread looks
        try:
            self.ready = self._look()
        finally:
            self.looking.release()
        return self.ready

    def _look(self) -> bool:
        if self.stopped or os.environ.get(SWITCH) == "0" or unable():
            self.next_look = float("inf")
            return False
        self.next_look = time.monotonic() + LOOK
        if self.child is not None:
            self.child.poll()                       # so that it is not left as a zombie
        cache = self.folder(code_cache.fingerprint() if self.cache is None else self.cache.name)
        if cache.complete():
            name = code_cache.fingerprint()         # the sources may have been edited while it was compiled
            if name == cache.name:
                cache.touch()
                return True
            cache = self.folder(name)
        failure = cache.failure()
        if failure:
            log = f", see {cache.log}" if cache.log.exists() else ""
            self._stop(f"compiling the kernels failed ({failure}{log})", cache.first_warning())
        elif os.environ.get(SWITCH) != "cached":
            self.begin(cache)
        return False

    def begin(self, cache: CodeCache) -> None:
        """Start one process that compiles everything, unless there is one."""
        if getattr(sys, "frozen", False) or "python" not in Path(sys.executable or "").name.lower():
            self.next_look = float("inf")           # a program with Python inside: it would be started a second time
            return
        try:
            descriptor = cache.lock()
        except OSError:                             # nowhere to write: torch serves
            self.next_look = float("inf")
            return
        if descriptor is None:
            return
        try:
            if not cache.complete() and cache.attempt():      # it may have been finished since
                self.child = _compiler(cache, descriptor)
        except OSError as error:
            self._stop(f"the kernels cannot be compiled ({error})", True)
        finally:
            os.close(descriptor)                    # the child holds the lock now

    def give_up(self, error: Exception) -> None:
        """No kernels from here on; if one was only missing, until it is compiled."""
        self.ready, self.next_look = False, time.monotonic() + LOOK
        if isinstance(error, NotCompiled) and self.missing < PATIENCE and os.environ.get(SWITCH) != "cached":
            self.missing += 1
            if self.cache is not None:
                self.cache.reopen()
                self.begin(self.cache)
            return
        self._stop(f"a kernel failed ({type(error).__name__}: {error})", not self.stopped)

    def _stop(self, reason: str, aloud: bool) -> None:
        self.stopped, self.next_look = reason, float("inf")
        if aloud:
            warnings.warn(f"Torch calculates instead of compiled kernels, with the same results but slower: {reason}. "
                          f"`nddo-ml warm-up` compiles them anew, {SWITCH}=0 does without.", stacklevel=5)


_process = _Process()


def folder() -> Path:
    """Where kernels load their machine code from and save it to."""
    return (_process.cache or _process.folder(code_cache.fingerprint())).folder


def _compiler(cache: CodeCache, descriptor: int) -> Popen[bytes]:
    """The process that compiles everything, one thread at low priority, out of reach of the terminal. It inherits the
    descriptor and with it the lock."""
    path = os.pathsep.join([str(code_cache.PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "",
                   "PYTHONOPTIMIZE": str(sys.flags.optimize or ""), SWITCH: "cached"}
    inherited = (descriptor,) if os.name == "posix" else ()
    command = [sys.executable, "-P", "-m", COMPILER, *map(str, inherited)]
    with open(cache.log, "w") as log:
        return _Detached(command, stdin=DEVNULL, stdout=log, stderr=log, cwd=cache.folder, env=environment,
                         start_new_session=True, pass_fds=inherited)


def in_background(exercise: Callable[[], object], descriptor: int | None) -> None:
    """What the process in the background does. What it writes is its log."""
    with suppress(OSError, AttributeError):         # no priorities on this system
        os.nice(19)
    compile_all(exercise, descriptor)
