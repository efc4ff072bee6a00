"""Scipy's linear algebra follows torch, and gets its threads back."""

import pytest
import torch

from nddo_ml.common import threads

pytest.importorskip("threadpoolctl")


@pytest.fixture
def counts(monkeypatch):
    """A library with 4 threads, and what it was set to."""
    set_to = [4]
    monkeypatch.setattr(threads, "_libraries", lambda: [(lambda: set_to[-1], set_to.append)])
    monkeypatch.setattr(threads, "_blas", threads._Blas())
    return set_to


def test_it_follows_torch_and_is_restored(counts):
    with pytest.raises(ValueError, match="kernel"), threads.blas_threads():
        assert counts == [4, torch.get_num_threads()]
        raise ValueError("of a kernel")
    assert counts == [4, torch.get_num_threads(), 4]


def test_the_last_of_several_restores_it(counts):
    first, second = threads.blas_threads(), threads.blas_threads()
    with first:
        second.__enter__()
    assert counts == [4, torch.get_num_threads()]
    second.__exit__(None, None, None)
    assert counts == [4, torch.get_num_threads(), 4]


def test_nothing_is_set_where_nothing_differs(counts):
    counts.append(torch.get_num_threads())
    with threads.blas_threads():
        pass
    assert len(counts) == 2


def test_the_library_of_scipy_is_found():
    from threadpoolctl import ThreadpoolController

    libraries = threads._libraries()
    assert libraries and all(isinstance(read(), int) for read, _ in libraries)
    read, put = libraries[0]
    before = read()
    put(before)
    assert before in [library["num_threads"] for library in ThreadpoolController().info() if library["user_api"] == "blas"]


def test_without_threadpoolctl_nothing_is_done(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "threadpoolctl", None)
    assert threads._libraries() == []
