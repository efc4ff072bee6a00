"""A process of one program: it is started for one structure and method, and times calls when it is told to.

    python -m measuring.worker PROGRAM THREADS

Orders come as lines of JSON, answers go back as such; what libraries print goes to the standard error. Times are taken inside,
so that neither the start of the process nor the imports nor the way of an order are in them. MOPAC's library may crash when its
process ends; this one ends at once instead.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

IMPORTS = {"here": "nddo_ml.interfaces.ase", "MOPAC": "mopactools.api", "tblite": "tblite.ase"}


def resident(what: str) -> float:
    """Resident memory of this process, MB; what: VmRSS, now, or VmHWM, at its peak. NaN where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(what + ":"))


def forget_peak() -> None:
    """The peak of the resident memory is what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass        # the peak then holds that of the imports


class Worker:
    """The calls of a program on one structure, and the frame that each kind of call has reached."""

    def __init__(self, program: str, threads: int):
        for module in (IMPORTS[program], "measuring.programs"):
            import_module(module)
        if program == "here":
            import torch

            from nddo_ml.common import compiling
            torch.set_num_threads(threads)
            compiling.eager()
        self.program, self.frame, self.kinds = program, {}, {}
        forget_peak()
        self.imports = resident("VmRSS")

    def load(self, structure: str, method: str) -> dict[str, Any]:
        """Begin with a structure. A molecule of water goes first: what loads at the first calculation is in no time."""
        from measuring.programs import PROGRAMS
        from measuring.structures import structure as molecules

        make = PROGRAMS[self.program]
        make(molecules("water"), method)["cold"](0)
        self.kinds, self.frame = make(molecules(structure), method), {}
        return {"kinds": list(self.kinds), "served": served() if self.program == "here" else ""}

    def time(self, kind: str, calls: int) -> dict[str, Any]:
        """Seconds of so many calls one after another, each with the next frame."""
        from measuring.structures import PERIOD

        call, first = self.kinds[kind], self.frame.get(kind, 0) + 1
        self.frame[kind] = first + calls - 1
        return {"seconds": [seconds(call, k % PERIOD) for k in range(first, first + calls)]}

    def memory(self) -> dict[str, Any]:
        """Resident memory above that after the imports, MB: now and at its peak."""
        return {"now": resident("VmRSS") - self.imports, "peak": resident("VmHWM") - self.imports}


def served() -> str:
    """By what this project calculates in this process: kernels or torch."""
    from nddo_ml.common import compiling
    return "kernels" if compiling.status().kernels else "torch"


def seconds(call: Callable[[int], Any], k: int) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call(k)
    return time.perf_counter() - start


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except Exception as error:                                      # the other side says it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
