"""Shared by all tests: one thread (the tests may run beside other work), and arguments checked against their annotations."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from jaxtyping import config
from support import annotations

torch.set_num_threads(1)

# Calls of the package are checked against its annotations, shapes included.
annotations.install(os.environ.get("SHAPES", "nddo_ml").split(","))


@pytest.fixture(autouse=True)
def checked_annotations():
    """Every test checks every function anew."""
    annotations.begin()


@pytest.fixture
def wrong_types():
    """Without the checks of annotations: for tests of what the package itself says of arguments of wrong types."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
