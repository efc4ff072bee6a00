"""Shared by all tests: one thread (the tests may run beside other work), arguments checked against their annotations, and
kernels that are compiled before the first test, so that all of them go the way that users go. NDDO_ML_COMPILED=0 pytest: by
torch alone, as where there is no numba.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# nothing is compiled in the background, by the commands that tests run neither
os.environ["NDDO_ML_COMPILED"] = os.environ.get("NDDO_ML_COMPILED") or "cached"

import subprocess
import sys

import pytest
import torch
from jaxtyping import config
from support import annotations

torch.set_num_threads(1)

# Calls of the package are checked against its annotations, shapes included.
annotations.install(os.environ.get("SHAPES", "nddo_ml").split(","))


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Machine code of all kernels, from an earlier session or compiled now (half a minute), by the command that does it for
    users. What a test needs and is not there is a warning, and so an error."""
    from nddo_ml.common import code_cache, compiling

    compiling.eager()
    if os.environ["NDDO_ML_COMPILED"] == "0" or compiling.unable() or code_cache.find(code_cache.fingerprint()).complete():
        return
    path = os.pathsep.join([str(code_cache.PACKAGE.parent), os.environ.get("PYTHONPATH", "")])      # the package that is tested
    subprocess.run([sys.executable, "-m", "nddo_ml.cli.main", "warm-up"], check=True, env={**os.environ, "PYTHONPATH": path})
    assert code_cache.find(code_cache.fingerprint()).complete(), "something else changes the sources, or the machine code"
    compiling.forget()


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
