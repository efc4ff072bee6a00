"""The folder that holds the machine code of the kernels, and what is known about it.

Its name is a fingerprint of all that the code depends on, so that versions, processors and edited sources never meet in one
folder. It is complete if a marker is there that names its files; a lock is held while something is compiled into it, and ends
with the process that holds it, however that ends. It has its place in the user's cache folder (or in NUMBA_CACHE_DIR), since
that of the package may be read-only and differs from one virtual environment to the next.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nddo_ml.common.files import alone, write_text

PACKAGE = Path(__file__).parents[1]
# what machine code is made from: kernels, what they import, and the calculations that bring them all
SOURCES = ("units.py", "common/jit.py", "common/code_cache.py", "scf/kernels/*.py", "integrals/kernels/*.py",
           "scf/records.py", "integrals/records.py", "integrals/nuclear.py", "integrals/frame.py", "hamiltonian/warm_up.py")
COMPILERS = ("numba", "llvmlite", "numpy")
PROCESSOR = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU implementer", "CPU architecture",
             "CPU variant", "CPU part")                                      # lines of /proc/cpuinfo
HARMLESS = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_DEBUG_CACHE")   # they change no code

ATTEMPTS = 5                    # that end without a word (killed with their job, out of memory) before there are no more
UNUSED = 30 * 86400.0           # seconds after which the code of another fingerprint is thrown away
MARKER, LOCK, LOG, FAILURE, WARNED, TRIED, MISSED = ("complete.json", "lock", "log.txt", "failure.txt", "warned", "attempts",
                                                     "missed")


def fingerprint() -> str:
    """A name for what machine code depends on: the sources of the kernels, the versions of what compiles them, the processor
    with its features, and the settings of numba."""
    said = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in PACKAGE.glob(pattern)}):
        content = path.read_bytes()
        said.update(f"{path.relative_to(PACKAGE).as_posix()} {len(content)}\n".encode() + content)
    settings = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_") and name not in HARMLESS}
    python = [sys.version, sys.flags.optimize, sys.maxsize]
    said.update(json.dumps([versions(), python, processor(), sorted(settings.items())]).encode())
    return said.hexdigest()[:24]


def versions() -> dict[str, str]:
    """The installed versions of what compiles; empty strings where there are none."""
    found = {}
    for name in COMPILERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def processor() -> list[str]:
    """Model and features of the processor, as far as the system tells them at once."""
    lines = [platform.machine(), platform.system()]
    try:
        with open("/proc/cpuinfo") as table:
            for line in table:
                if not line.strip():
                    break                           # the other cores are alike, and there may be hundreds
                if line.partition(":")[0].strip() in PROCESSOR:
                    lines.append(line.strip())
    except OSError:                                 # not Linux; numba looks at the features again when it loads code
        lines.append(platform.processor())
    return lines


def roots() -> list[Path]:
    """Where the folders may be, best first."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return [Path(chosen).absolute() / "nddo_ml"]
    found = []
    with suppress(RuntimeError):                    # a user without a home
        home = Path.home()
        usual = {"Darwin": home / "Library" / "Caches", "Windows": home / "AppData" / "Local"}
        found.append(Path(os.environ.get("XDG_CACHE_HOME") or usual.get(platform.system(), home / ".cache")) / "nddo_ml")
    return [*found, PACKAGE / "__pycache__" / "kernels"]


def find(name: str) -> "CodeCache":
    """The folder of the fingerprint: the first that is complete, else the first that can be written, else the best."""
    candidates = [CodeCache(root / name) for root in roots()]
    complete = (cache for cache in candidates if cache.complete())
    return next(complete, next((cache for cache in candidates if cache.writable()), candidates[0]))


@dataclass(frozen=True)
class CodeCache:
    """One folder of machine code."""

    folder: Path

    @property
    def name(self) -> str:
        """The fingerprint it belongs to."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """What is written while compiling in the background."""
        return self.folder / LOG

    def complete(self) -> bool:
        """Whether the marker is there, of this fingerprint, and all files that it names, in their sizes."""
        try:
            said = json.loads((self.folder / MARKER).read_text())
            return said["fingerprint"] == self.name and all(
                os.stat(self.folder / name).st_size == size for name, size in said["files"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def writable(self) -> bool:
        """Whether files can be made there, as far as one can tell without doing so."""
        there = self.folder
        while not there.exists() and there != there.parent:
            there = there.parent
        return there.is_dir() and os.access(there, os.W_OK | os.X_OK)

    def lock(self) -> int | None:
        """A descriptor that holds the folder, which is made if need be; None: another process compiles.

        Raises: OSError, if it cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        if alone(descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def busy(self) -> bool:
        """Whether a process compiles into it now."""
        if not (self.folder / LOCK).exists():
            return False
        try:
            descriptor = self.lock()
        except OSError:
            return False
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def attempt(self) -> bool:
        """Note an attempt to compile in the background; False: there were enough of them that ended without a word."""
        with open(self.folder / TRIED, "a") as attempts:
            attempts.write("x")
        if (self.folder / TRIED).stat().st_size <= ATTEMPTS:
            return True
        if not self.failure():
            self.fail(f"{ATTEMPTS} attempts were ended from outside (the job was over, or the memory exhausted)")
        return False

    def fail(self, reason: str) -> None:
        """Note that compiling failed: it will not be tried again unless somebody asks for it."""
        write_text(self.folder / FAILURE, reason)

    def failure(self) -> str:
        """Why compiling failed, if it has."""
        try:
            return (self.folder / FAILURE).read_text() or "for no reason that was written down"
        except OSError:
            return ""

    def first_warning(self) -> bool:
        """Whether nobody was told of the failure yet; from now on somebody was."""
        try:
            os.close(os.open(self.folder / WARNED, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        except OSError:
            return True
        return True

    def finish(self, seconds: float) -> None:
        """Write the marker over all that was compiled, forget what went wrong before, and throw away what is out of use."""
        files = {path.name: path.stat().st_size for pattern in ("*.nbi", "*.nbc") for path in sorted(self.folder.glob(pattern))}
        self._remove(FAILURE, WARNED, TRIED)
        write_text(self.folder / MARKER, json.dumps(
            {"fingerprint": self.name, "seconds": round(seconds, 1), "versions": versions(), "processor": processor()[:5],
             "files": files}, indent=1))
        self._tidy()

    def reopen(self) -> None:
        """It is not complete, whatever the marker says; failures and attempts are forgotten."""
        self._remove(MARKER, FAILURE, WARNED, TRIED)

    def empty(self) -> None:
        """Throw the machine code away; the lock stays, for it may be held."""
        self.reopen()
        for pattern in ("*.nbi", "*.nbc"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        shutil.rmtree(self.folder / MISSED, ignore_errors=True)

    def touch(self) -> None:
        """Note that it is in use."""
        with suppress(OSError):
            os.utime(self.folder / MARKER)

    def _remove(self, *names: str) -> None:
        for name in names:
            with suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Throw away folders of other fingerprints that nobody has used for long."""
        for other in self.folder.parent.iterdir():
            with suppress(OSError):
                inside = [path.stat().st_mtime for path in other.iterdir() if path.is_file()]
                if other != self.folder and inside and max(inside) < time.time() - UNUSED:
                    shutil.rmtree(other)
