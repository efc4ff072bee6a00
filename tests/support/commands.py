"""The command, run within this process or by torchrun."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from nddo_ml.cli.main import app


def nddo(*words):
    """Exit code and everything printed."""
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def torchrun(arguments, cwd):
    """What two processes on CPUs did; `-m torch.distributed.run` is what the command torchrun runs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
                   "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
                          cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
