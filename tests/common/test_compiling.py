"""Nobody waits for a compiler: what serves calculations, when kernels are compiled, and by whom.

The kernels here are toys in a cache of their own; the real ones are compiled before the first test (conftest.py).
"""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from support import annotations

from nddo_ml.common import code_cache, compiling
from nddo_ml.common.code_cache import CodeCache
from nddo_ml.hamiltonian import warm_up

pytestmark = pytest.mark.skipif(bool(compiling.unable()), reason="without a compiler torch serves")

PATIENCE = 120.0        # seconds that a toy may take to be compiled on a busy machine

KERNELS = """
import ctypes
from nddo_ml.common.jit import jit

@jit
def twice(x):
    return x + x

cosine = ctypes.CDLL(None).cos
cosine.restype, cosine.argtypes = ctypes.c_double, [ctypes.c_double]

@jit
def unkept(x):
    return cosine(x)
"""
# the process in the background: says that it began, waits until it may go on, fails if it shall
COMPILER = """
import os, sys, time
from pathlib import Path
from nddo_ml.common import compiling

here = Path(__file__).parent

def exercise():
    with open(here / "begun", "a") as begun:
        print(os.getpid(), file=begun)
    end = time.monotonic() + 300
    while not (here / "go").exists():
        assert time.monotonic() < end, "forgotten by its test"
        time.sleep(0.02)
    if (here / "fail").exists():
        raise ValueError("the toy is broken")
    import toy_kernels
    toy_kernels.twice(1.0)

compiling.in_background(exercise, int(sys.argv[1]))
"""
ASKS = "import sys; from nddo_ml.common import compiling; compiling.COMPILER = 'toy_compiler'; print(compiling.ready())"


class Machine:
    """A machine with nothing compiled yet, and toys to compile."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "toy_kernels.py").write_text(KERNELS)
        (folder / "toy_compiler.py").write_text(COMPILER)

    def go(self):
        """Let compilers that wait go on."""
        (self.folder / "go").touch()

    def begun(self):
        """The processes that began to compile."""
        with suppress(FileNotFoundError):
            return [int(line) for line in (self.folder / "begun").read_text().splitlines()]
        return []

    @property
    def cache(self):
        return code_cache.find(code_cache.fingerprint())

    @staticmethod
    def wait(condition):
        """Until the condition holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv(compiling.SWITCH, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compiling, "COMPILER", "toy_compiler")
    monkeypatch.setattr(compiling, "LOOK", 0.0)
    compiling.forget()
    machine = Machine(tmp_path)
    yield machine
    for number in machine.begun():
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    sys.modules.pop("toy_kernels", None)
    monkeypatch.undo()
    compiling.forget()


# --- what machine code depends on

def test_the_fingerprint_follows_all_that_code_depends_on(tmp_path, monkeypatch):
    monkeypatch.setattr(code_cache, "PACKAGE", tmp_path)
    kernel, other = tmp_path / "scf" / "kernels" / "fock.py", tmp_path / "scf" / "ladder.py"
    kernel.parent.mkdir(parents=True)
    kernel.write_text("two = 2")
    seen = [code_cache.fingerprint()]
    other.write_text("no kernel")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    os.utime(kernel, (0, 0))
    assert code_cache.fingerprint() == seen[0]          # times, other files, and what changes no code
    kernel.write_text("two = 3")
    seen.append(code_cache.fingerprint())
    kernel.rename(kernel.with_name("density.py"))
    seen.append(code_cache.fingerprint())
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    seen.append(code_cache.fingerprint())
    monkeypatch.setattr(code_cache, "processor", lambda: ["another"])
    seen.append(code_cache.fingerprint())
    monkeypatch.setattr(code_cache, "versions", lambda: {"numba": "0.1"})
    seen.append(code_cache.fingerprint())
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("harm", ["remove", "shorten", "rename", "no marker", "other marker", "list"])
def test_it_is_complete_only_with_all_its_files(tmp_path, harm):
    cache = CodeCache(tmp_path / "abc")
    assert not cache.complete()
    os.close(cache.lock())
    code, marker = cache.folder / "kernel.nbc", cache.folder / code_cache.MARKER
    code.write_bytes(b"machine code")
    cache.finish(1.0)
    assert cache.complete()
    match harm:
        case "remove":
            code.unlink()
        case "shorten":
            code.write_bytes(b"machine")
        case "rename":
            cache = CodeCache(cache.folder.rename(tmp_path / "other"))
        case "no marker":
            marker.unlink()
        case "other marker":
            marker.write_text('{"fingerprint": "abc"')
        case "list":
            marker.write_text("[1]")
    assert not cache.complete()


def test_what_nobody_uses_is_thrown_away(tmp_path):
    old, used, new = (CodeCache(tmp_path / name) for name in ("old", "used", "new"))
    for cache in (old, used):
        os.close(cache.lock())
        cache.finish(1.0)
    for path in (*old.folder.iterdir(), *used.folder.iterdir()):
        os.utime(path, (0, 0))
    used.touch()
    os.close(new.lock())
    new.finish(1.0)
    assert not old.folder.exists() and used.complete() and new.complete()


# --- who compiles

def test_the_first_question_starts_a_process_and_a_later_one_finds_what_it_made(machine):
    assert not compiling.ready()
    machine.wait(machine.begun)
    assert not compiling.ready() and len(machine.begun()) == 1
    assert compiling.status().reason == "the kernels are being compiled"
    machine.go()
    machine.wait(compiling.ready)
    import toy_kernels

    assert toy_kernels.twice(1.5) == 3.0 and compiling.status().kernels
    made = json.loads((machine.cache.folder / code_cache.MARKER).read_text())
    assert any("twice" in name for name in made["files"])


def test_processes_that_ask_at_once_start_one(machine):
    askers = [subprocess.Popen([sys.executable, "-c", ASKS], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [asker.communicate()[0].strip() for asker in askers] == ["False", "False"]     # they do not wait for its output
    machine.wait(machine.begun)
    assert not compiling.ready()
    machine.go()
    machine.wait(machine.cache.complete)
    assert len(machine.begun()) == 1


def test_the_lock_of_a_killed_process_is_free(machine):
    compiling.ready()
    machine.wait(machine.begun)
    os.kill(machine.begun()[0], signal.SIGKILL)
    machine.wait(lambda: not machine.cache.busy())
    machine.wait(lambda: compiling.ready() or len(machine.begun()) == 2)
    machine.go()
    machine.wait(compiling.ready)
    assert len(machine.begun()) == 2


def test_processes_that_end_without_a_word_are_not_started_forever(machine):
    machine.cache.folder.mkdir(parents=True)
    (machine.cache.folder / code_cache.TRIED).write_text("x" * code_cache.ATTEMPTS)
    assert not compiling.ready() and not machine.begun()
    with pytest.warns(UserWarning, match="ended from outside.*warm-up"):
        compiling.ready()


def test_a_failure_is_said_once_and_not_repeated(machine):
    (machine.folder / "fail").touch()
    machine.go()
    compiling.ready()
    machine.wait(machine.cache.failure)
    with pytest.warns(UserWarning, match=r"ValueError: the toy is broken, see .*log.txt.*nddo-ml warm-up"):
        machine.wait(lambda: compiling.ready() or compiling.status().log)
        compiling.ready()
    compiling.forget()                      # the next process
    with warnings.catch_warnings(record=True) as said:
        assert not compiling.ready() and not compiling.ready()
    assert not said and len(machine.begun()) == 1
    assert "ValueError" in compiling.status().log.read_text()


def test_sources_that_change_meanwhile_leave_no_marker(machine, monkeypatch):
    before = machine.cache
    with pytest.raises(OSError, match="changed"):
        compiling.compile_all(lambda: monkeypatch.setattr(code_cache, "versions", lambda: {"numba": "another"}))
    assert not before.complete() and not machine.cache.complete() and not before.failure()


def test_a_folder_that_cannot_be_written_is_silent(machine, monkeypatch):
    (machine.folder / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(machine.folder / "file"))
    assert not compiling.ready() and not compiling.ready()
    assert "cannot be written" in compiling.status().reason


def test_a_program_with_python_inside_is_not_started_again(machine, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/drawing/drawing")
    assert not compiling.ready() and not machine.cache.busy() and not machine.begun()


# --- what serves

def compiled_here(machine):
    """The toys, compiled by this process."""
    import toy_kernels

    assert compiling.compile_all(lambda: toy_kernels.twice(1.0)) is not None
    return toy_kernels


@pytest.mark.parametrize("setting", ["0", "cached"])
def test_the_switch(machine, monkeypatch, setting):
    monkeypatch.setenv(compiling.SWITCH, setting)
    compiling.forget()
    assert not compiling.ready() and not machine.begun() and not machine.cache.busy()
    compiled_here(machine)
    compiling.forget()
    assert compiling.ready() == (setting == "cached") == compiling.status().kernels


def test_contexts(machine, monkeypatch):
    compiled_here(machine)
    assert compiling.ready() and not compiling.may_compile()
    with compiling.off():
        assert not compiling.ready()
        with compiling.allowed():
            assert compiling.ready() and compiling.may_compile()
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with compiling.allowed():
        assert not compiling.ready()


def test_what_is_missing_is_compiled_in_the_background(machine):
    kernels = compiled_here(machine)
    assert compiling.ready()
    with pytest.raises(compiling.NotCompiled, match=r"twice has no machine code for .*int64"):
        kernels.twice(1)
    compiling.broken(compiling.NotCompiled("twice"))
    assert not compiling.ready()
    machine.go()
    machine.wait(compiling.ready)
    assert kernels.twice(1) == 2 and len(machine.begun()) == 1


def test_a_kernel_that_cannot_be_kept_is_a_failure(machine):
    """Here because it calls through a pointer; it would be compiled in the background by every process."""
    kernels = compiled_here(machine)
    with pytest.raises(TypeError, match="unkept cannot be kept on disk"):
        compiling.compile_all(lambda: kernels.unkept(1.0))
    assert "unkept" in machine.cache.failure()


def test_a_broken_file_is_a_missing_one(machine):
    compiled_here(machine)
    for path in machine.cache.folder.glob("*.nbc"):
        path.write_bytes(bytes(path.stat().st_size))
    del sys.modules["toy_kernels"]
    import toy_kernels

    assert compiling.ready()
    with pytest.raises(compiling.NotCompiled):
        toy_kernels.twice(1.0)
    with compiling.allowed():
        assert toy_kernels.twice(1.0) == 2.0


def test_what_is_missing_without_a_background_is_a_warning(machine, monkeypatch):
    monkeypatch.setenv(compiling.SWITCH, "cached")
    compiled_here(machine)
    assert compiling.ready()
    with pytest.warns(UserWarning, match="NotCompiled"):
        compiling.broken(compiling.NotCompiled("twice"))
    assert not compiling.ready()


def test_a_kernel_that_fails_is_said_once(machine):
    compiled_here(machine)
    assert compiling.ready()
    with pytest.warns(UserWarning, match="a kernel failed .ImportError: no LLVM"):
        compiling.broken(ImportError("no LLVM"))
    compiling.broken(ImportError("no LLVM"))        # a warning would be an error
    assert not compiling.ready() and "no LLVM" in compiling.status().reason
    with pytest.raises(ImportError), compiling.allowed():
        compiling.broken(ImportError("no LLVM"))


def test_without_numba_torch_serves_silently(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert not compiling.ready() and not machine.begun() and not machine.cache.busy()
    assert compiling.status().reason == "numba is not installed"


# --- the kernels of the package

def test_warming_up_needs_nothing_that_is_not_compiled():
    """What is missing would be a warning, and so an error."""
    seen = []
    warm_up.exercise(lambda *report: seen.append(report))
    assert [done for _, done, _ in seen] == list(range(len(seen))) and seen[-1][1] == seen[-1][2] > 10
    numbers, _ = warm_up.chain(12)
    assert sum(4 if z > 1 else 1 for z in numbers) >= 70


def test_kernels_are_not_checked_against_annotations():
    """numba compiles the plain function."""
    import ast

    text = "@jit\ndef kernel(x: int) -> int:\n    return x\n\n@jit.inlined\ndef small(x: int):\n    return x\n"
    kernel, small = annotations._AtFirst(typechecker=None).visit(ast.parse(text)).body[-2:]
    assert len(kernel.decorator_list) == len(small.decorator_list) == 1


def test_the_package_names_the_process_in_the_background():
    assert compiling.COMPILER == warm_up.__name__
    assert Path(warm_up.__file__) in {path for pattern in code_cache.SOURCES for path in code_cache.PACKAGE.glob(pattern)}
