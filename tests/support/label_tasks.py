"""Tasks for the tests of the queue: a module that other processes import in no time."""

import os
import signal


def square(x):
    """x^2, but for three."""
    if x == 3:
        raise ValueError("three")
    return x * x


def die_once(path):
    """Kills its process at the first call."""
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def always_die(_):
    """Kills its process."""
    os.kill(os.getpid(), signal.SIGKILL)
