"""Queues by what they promise."""

import subprocess
import sys

import pytest
from ase.io import read
from support.label_tasks import always_die, die_once, square
from support.labels import CHEAP, LEVEL, waters

from nddo_ml.errors import UnknownOption
from nddo_ml.labels.journal import Journal
from nddo_ml.labels.label import label
from nddo_ml.labels.queue import Dask, Inline, Processes, queue
from nddo_ml.labels.sampling import Sampling


def drained(tasks):
    return {o.argument: o.error.partition(":")[0] or o.value for o in tasks.completed()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_queues_complete_everything(jobs, tmp_path):
    """Errors are outcomes, tasks may be added while outcomes are read, and a dying worker costs its own task only."""
    with queue(jobs) as tasks:
        assert list(tasks.completed()) == [] and tasks.width == jobs
        for x in (1, 2, 3):
            tasks.submit(square, x)
        found = {}
        for outcome in tasks.completed():
            found[outcome.argument] = outcome.error or outcome.value
            if outcome.argument == 1:
                tasks.submit(square, 5)
        assert found.pop(3).startswith("ValueError: three") and found == {1: 1, 2: 4, 5: 25} and tasks.pending == 0
        if jobs == 2:
            tasks.submit(die_once, str(tmp_path / "mark"))
            tasks.submit(always_die, "always")
            for x in (4, 6):
                tasks.submit(square, x)
            assert drained(tasks) == {str(tmp_path / "mark"): "survived", "always": "WorkerDied", 4: 16, 6: 36}


def test_harvest_without_waiting():
    with Inline() as tasks:
        tasks.submit(square, 2)
        assert [o.value for o in tasks.completed(wait=False)] == [4] and tasks.pending == 0
    with pytest.raises(UnknownOption):
        queue(0)


def test_dask(tmp_path):
    pytest.importorskip("distributed")
    with queue(1, "local") as tasks:
        for x in (1, 2, 3):
            tasks.submit(square, x)
        assert drained(tasks) == {1: 1, 2: 4, 3: "ValueError"}
        with Journal(tmp_path / "l.extxyz", LEVEL.name) as journal:
            *_, last = label(waters(2), Sampling((), CHEAP), LEVEL, journal, tasks)
    assert last.labelled == 2 and len(read(tmp_path / "l.extxyz", ":")) == 2


def test_a_dask_scheduler_that_is_not_there():
    pytest.importorskip("distributed")
    absent = Dask("tcp://127.0.0.1:1")
    absent.patience = 1
    with pytest.raises(ConnectionError, match="no Dask scheduler"), absent:
        pass


def test_processes_are_not_needed_to_import():
    """The queue imports nothing heavy: its workers set their threads before numpy is loaded."""
    code = "import sys, nddo_ml.labels.queue; sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert Processes(2).pending == 0
