"""When a process goes over to the kernels: not before torch was asked for as much as loading them takes."""

import os

import pytest

from nddo_ml.common import compiling


@pytest.fixture
def fresh(monkeypatch):
    """A process that has calculated nothing yet, on a machine whose kernels are compiled."""
    monkeypatch.setattr(compiling._process, "asked", 0.0)
    if os.environ.get(compiling.SWITCH) == "0" or not compiling.ready():
        pytest.skip("no kernels here")


def test_a_single_small_calculation_loads_no_kernels(fresh):
    assert not compiling.due(0.01) and not compiling.serving()


def test_many_of_them_do(fresh):
    served = [compiling.due(0.01) for _ in range(60)]
    first = served.index(True)
    assert abs((first + 1) * 0.01 - compiling.LOADING) <= 0.011 and all(served[first:]) and compiling.serving()


def test_a_large_one_does_at_once(fresh):
    assert compiling.due(10.0)


def test_whoever_allows_compiling_waits_for_nothing(fresh):
    with compiling.allowed():
        assert compiling.due(0.0)
    with compiling.off():
        assert not compiling.due(10.0)


def test_eager_processes_begin_with_them(fresh):
    compiling.eager()
    assert compiling.due(0.0)
