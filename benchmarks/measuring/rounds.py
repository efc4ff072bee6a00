"""Times of all programs for one structure: their calls take turns in short bursts, so that what disturbs the machine disturbs
all alike, and caches are as warm as in use.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from measuring.structures import TITLES, structure

BURST = 0.03        # s, of calls of one kind one after another
BUDGET = 0.6        # s, of all calls of one kind of one program
ENOUGH = 6          # calls; of those that take long there are fewer, up to three times the budget
MOST = 12           # bursts
LONG = 2.0          # s: a call that takes longer is made once, and counts; shorter ones are made once to warm up
IDLE = 0.25         # s: threads of OpenMP wait actively as long before they sleep; only where there are several


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    structure: str
    method: str = "AM1"
    threads: int = 1
    programs: tuple[str, ...] = ("here", "MOPAC", "tblite")

    def __str__(self) -> str:
        threads = "one_thread" if self.threads == 1 else f"{self.threads}_threads"
        return f"{self.structure}-{self.method}-{threads}".replace(" ", "_")


@dataclass
class Record:
    """What was measured for a case."""

    case: Case
    atoms: int                                                                      # of one molecule; 0: a batch
    times: dict[str, dict[str, list[float]]] = field(default_factory=dict)          # program -> kind -> s of each call
    memory: dict[str, float] = field(default_factory=dict)      # program -> peak of its first cold call above the imports, MB
    served: str = ""                                            # by what the calculations here: kernels or torch

    def middle(self, program: str, kind: str) -> float | None:
        """The median, s for each molecule."""
        return self._of(median, program, kind)

    def least(self, program: str, kind: str) -> float | None:
        """The shortest time, s for each molecule."""
        return self._of(min, program, kind)

    def _of(self, what: Any, program: str, kind: str) -> float | None:
        found = self.times.get(program, {}).get(kind)
        return what(found) / len(structure(self.case.structure)) if found else None

    def as_json(self) -> dict[str, Any]:
        """Case, and median, shortest time and number of calls, ms for each molecule, of every program and kind."""
        def shown(program: str, kind: str, calls: int) -> dict[str, float | int]:
            middle, least = self.middle(program, kind), self.least(program, kind)
            return {"median_ms": 1e3 * middle, "min_ms": 1e3 * least, "calls": calls}

        held = {program: {kind: shown(program, kind, len(calls)) for kind, calls in kinds.items()}
                for program, kinds in self.times.items()}
        return {**asdict(self.case), "atoms": self.atoms, "title": TITLES[self.case.structure], "times": held,
                "memory_mb": self.memory, "served": self.served}


class Process:
    """The worker of one program (worker.py); a context."""

    def __init__(self, program: str, threads: int):
        root = Path(__file__).parents[2]
        path = [str(root / "benchmarks"), str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_STACKSIZE": "512M",
                       "NDDO_ML_COMPILED": "cached"}        # nothing compiles beside what is timed
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
            environment[name] = str(threads)
        self.program = program
        self.process = subprocess.Popen([sys.executable, "-m", "measuring.worker", program, str(threads)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        env=environment)

    def __call__(self, do: str, **given: Any) -> dict[str, Any]:
        """The answer to an order.

        Raises: RuntimeError, if the worker cannot or has died.
        """
        try:
            print(json.dumps({"do": do, **given}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"its process ended with {self.process.wait()}"}
        if "error" in answer:
            raise RuntimeError(f"{self.program}, {do} {given}: {answer['error']}")
        return answer

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            try:
                stream.close()
            except BrokenPipeError:
                pass
        self.process.wait()


def measured(case: Case, once: bool = False) -> Record:
    """Times and memory of a case. once: every kind of call is made once, to see that it works."""
    molecules = structure(case.structure)
    record = Record(case, len(molecules[0]) if len(molecules) == 1 else 0)
    with ExitStack() as stack:
        processes = [stack.enter_context(Process(program, case.threads)) for program in case.programs]
        for process in processes:
            record.times[process.program] = _first(process, record)
        for _ in range(0 if once else MOST):
            asked = [_burst(process, case, record.times[process.program]) for process in processes]
            if not any(asked):
                break
    for kinds in record.times.values():
        for kind, calls in kinds.items():
            kinds[kind] = calls if calls[0] > LONG or len(calls) == 1 else calls[1:]
    return record


def _first(process: Process, record: Record) -> dict[str, list[float]]:
    """One call of every kind, of which only long ones count; the peak of memory is that of the first, a cold one.

    Of a program whose calls are very long only those are made that the table needs.
    """
    loaded = process("load", structure=record.case.structure, method=record.case.method)
    kinds, record.served = loaded["kinds"], record.served or loaded["served"]
    found = {"cold": process("time", kind="cold", calls=1)["seconds"]}
    record.memory[process.program] = process("memory")["peak"]
    longest = found["cold"][0]
    kept = [kind for kind in kinds if longest < LONG or kind in ("cold", "warm", "unchecked")]
    for kind in kept[1:] if longest < 60.0 else []:
        found[kind] = process("time", kind=kind, calls=1)["seconds"]
    return found


def _burst(process: Process, case: Case, found: dict[str, list[float]]) -> bool:
    """A burst of calls of every kind that has time left; whether there was any."""
    asked = False
    for kind, calls in found.items():
        if calls[0] > LONG or (sum(calls) > BUDGET and len(calls) >= ENOUGH) or sum(calls) > 3 * BUDGET:
            continue
        if case.threads > 1 and not asked:
            time.sleep(IDLE)
        calls += process("time", kind=kind, calls=max(1, min(200, int(BURST / calls[-1]))))["seconds"]
        asked = True
    return asked
