"""The command `warm-up`: it compiles, says so, and says what calculates and why."""

import sys

import pytest
from typer.testing import CliRunner

from nddo_ml.cli import warm_up
from nddo_ml.cli.main import app
from nddo_ml.common import code_cache, compiling

pytestmark = pytest.mark.skipif(bool(compiling.unable()), reason="without a compiler torch serves")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command on a machine with nothing compiled, and nothing to compile."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(compiling.SWITCH, "1")
    monkeypatch.setattr(warm_up, "exercise", lambda report: report("water", 0, 1))
    compiling.forget()
    yield lambda *options: CliRunner().invoke(app, ["warm-up", *options])
    monkeypatch.undo()
    compiling.forget()


def test_it_compiles_once(command):
    assert "torch" in command("--status").output and "not compiled yet" in command("--status").output
    first, second, again = command(), command(), command("--again")
    assert "Compiled in" in first.output and "compiled already" in second.output and "Compiled in" in again.output
    assert first.exit_code == second.exit_code == again.exit_code == 0
    status = command("--status").output
    assert "compiled kernels" in status and str(compiling.status().folder) in status and "numba" in status


def test_again_throws_away_what_there_is(command):
    command()
    old = compiling.status().folder / "old.nbc"
    old.write_bytes(b"code")
    command("--again")
    assert not old.exists()


def test_a_failure_is_said_and_kept_until_the_next_attempt(command, monkeypatch):
    def fail(report):
        raise ValueError("of a compiler")

    with monkeypatch.context() as broken:
        broken.setattr(warm_up, "exercise", fail)
        done = command()
    assert done.exit_code == 1 and "ValueError: of a compiler" in done.output
    assert "failed: ValueError" in command("--status").output
    assert command().exit_code == 0 and "compiled kernels" in command("--status").output


def test_it_waits_for_a_process_that_compiles(command, monkeypatch):
    cache = code_cache.find(code_cache.fingerprint())
    descriptors = [cache.lock()]

    def finish(seconds):
        cache.finish(seconds)
        __import__("os").close(descriptors.pop())

    monkeypatch.setattr(warm_up.time, "sleep", finish)
    assert "compiled already" in command().output and not descriptors


def test_the_switch_is_mentioned(command, monkeypatch):
    monkeypatch.setenv(compiling.SWITCH, "0")
    assert f"{compiling.SWITCH}=0 is set" in command().output
    assert f"{compiling.SWITCH}=0" in command("--status").output


def test_without_numba(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    done = command()
    assert done.exit_code == 2 and "numba is not installed" in done.output and "pip install numba" in done.output
    assert "numba is not installed" in command("--status").output
