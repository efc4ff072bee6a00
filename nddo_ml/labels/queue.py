"""A queue of tasks: submit a function with an argument, harvest what is completed.

Three places to work: in this process, in processes of this machine (concurrent.futures), on a Dask cluster. All behave alike:
`submit` returns at once, `completed` yields outcomes in the order in which they finish, an exception is an outcome, and tasks
may be submitted while outcomes are being read. Functions and arguments are pickled, so functions stand in modules.

This file imports nothing heavy: a process that works for us sets its numbers of threads before numpy or torch are loaded.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from nddo_ml.errors import UnknownOption

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ATTEMPTS = 2     # of a task during which a worker died; the second time it runs alone, so that only the culprit is blamed


@dataclass(frozen=True)
class TaskOutcome:
    """What became of a task."""

    argument: Any
    value: Any = None           # of the function; None where there is an error
    error: str = ""             # in words; "": none
    seconds: float = 0.0        # that it took


@runtime_checkable
class Queue(Protocol):
    """Where tasks are worked on; a context manager, which abandons what is unfinished when it is left."""

    @property
    def pending(self) -> int:
        """How many tasks were submitted whose outcome has not been read."""
        ...

    @property
    def width(self) -> int:
        """How many tasks run at the same time."""
        ...

    def submit(self, function: Callable[[Any], Any], argument: Any) -> None:
        """Put function(argument) at the end of the queue."""
        ...

    def completed(self, wait: bool = True) -> Iterator[TaskOutcome]:
        """Outcomes as they come; ends when nothing is pending, or without `wait` when nothing else has finished yet."""
        ...

    def __enter__(self) -> "Queue": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
                 /) -> None: ...


def queue(jobs: int = 1, dask: str | None = None) -> Queue:
    """The queue for so many tasks at a time: this process for one, processes for more; `dask`: the address of a scheduler
    ("tcp://host:8786"), or "local" for a cluster of `jobs` processes.

    Raises:
        UnknownOption: fewer than one job.
        MissingExtra: dask.distributed is not installed.
    """
    if jobs < 1:
        raise UnknownOption(f"jobs={jobs}: give 1 or more.")
    if dask is not None:
        return Dask(dask, jobs)
    return Inline() if jobs == 1 else Processes(jobs)


def attempt(function: Callable[[Any], Any], argument: Any) -> TaskOutcome:
    """The outcome of function(argument); every exception becomes an error."""
    start = time.perf_counter()
    try:
        return TaskOutcome(argument, function(argument), "", time.perf_counter() - start)
    except Exception as error:
        return TaskOutcome(argument, None, reason(error), time.perf_counter() - start)


def reason(error: BaseException) -> str:
    """An exception in words; where it is not one of the package's, the line it came from too."""
    text = f"{type(error).__name__}: {str(error).strip() or 'no details'}"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    ours = type(error).__module__ == "nddo_ml.errors"
    return text if ours or not last else f"{text} ({os.path.basename(last[0].filename)}:{last[0].lineno})"


class Inline:
    """Tasks one after the other in this process, each when its outcome is asked for."""

    width = 1

    def __init__(self) -> None:
        self._tasks: deque[tuple[Callable[[Any], Any], Any]] = deque()

    @property
    def pending(self) -> int:
        """How many tasks were submitted whose outcome has not been read."""
        return len(self._tasks)

    def submit(self, function: Callable[[Any], Any], argument: Any) -> None:
        """Put function(argument) at the end of the queue."""
        self._tasks.append((function, argument))

    def completed(self, wait: bool = True) -> Iterator[TaskOutcome]:
        """Outcomes as they come; see Queue."""
        if not wait and self._tasks:       # nothing works by itself here: one task for each look
            yield attempt(*self._tasks.popleft())
            return
        while self._tasks:
            yield attempt(*self._tasks.popleft())

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *error: object) -> None:
        self._tasks.clear()


@dataclass(frozen=True)
class _Task:
    """A task of a pool of processes, and how often it has been tried, this time included."""

    function: Callable[[Any], Any]
    argument: Any
    tries: int = 1


class Processes:
    """Tasks in `jobs` processes of this machine, one thread each.

    A process that dies (killed, out of memory) costs nothing but its task, which is tried once more on its own.
    """

    def __init__(self, jobs: int):
        self.width = jobs
        self._waiting: deque[_Task] = deque()
        self._running: dict[futures.Future, _Task] = {}
        self._suspects: deque[_Task] = deque()              # tasks during which a process died
        self._done: deque[TaskOutcome] = deque()
        self._pool: futures.ProcessPoolExecutor | None = None

    @property
    def pending(self) -> int:
        """How many tasks were submitted whose outcome has not been read."""
        return len(self._waiting) + len(self._running) + len(self._suspects) + len(self._done)

    def submit(self, function: Callable[[Any], Any], argument: Any) -> None:
        """Put function(argument) at the end of the queue."""
        self._waiting.append(_Task(function, argument))
        self._feed()

    def completed(self, wait: bool = True) -> Iterator[TaskOutcome]:
        """Outcomes as they come; see Queue."""
        while self.pending:
            if not self._done:
                self._feed()
                self._gather(wait)
            if not (self._done or wait):
                return
            while self._done:
                yield self._done.popleft()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *error: object) -> None:
        self._waiting.clear()
        self._suspects.clear()
        self._running.clear()
        self._done.clear()
        self._stop()

    def _feed(self) -> None:
        """Keep as many tasks in the pool as there are processes; a suspect is alone there."""
        while self._suspects or self._waiting:
            alone = self._suspects or any(task.tries > 1 for task in self._running.values())
            if len(self._running) >= (1 if alone else self.width):
                return
            line = self._suspects or self._waiting
            try:
                future = self._open().submit(attempt, line[0].function, line[0].argument)
            except BrokenProcessPool:       # noticed by the pool before us; _gather will see it at the running tasks
                if not self._running:
                    self._stop()
                return
            self._running[future] = line.popleft()

    def _gather(self, wait: bool) -> None:
        """Move what has finished to the outcomes, what a dying process took with it to the suspects."""
        done, _ = futures.wait(self._running, timeout=None if wait else 0, return_when=futures.FIRST_COMPLETED)
        finished = [f for f in done if not isinstance(f.exception(), BrokenProcessPool)]
        self._done.extend(_outcome(self._running.pop(f), f) for f in finished)
        if len(finished) == len(done):
            return
        for task in self._running.values():      # the pool is gone with all its tasks
            if task.tries < ATTEMPTS:
                self._suspects.append(replace(task, tries=task.tries + 1))
            else:
                self._done.append(TaskOutcome(task.argument, None, "WorkerDied: the process that worked on it ended without an "
                                                                   "answer, twice (out of memory, or killed)."))
        self._running.clear()
        self._stop()

    def _open(self) -> futures.ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")     # no locks, files or threads of this process are inherited
            self._pool = futures.ProcessPoolExecutor(self.width, mp_context=context, initializer=_worker)
        return self._pool

    def _stop(self) -> None:
        """End the processes ourselves: a pool that breaks while it starts one waits for that one for ever (Python 3.11)."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        workers = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in workers:
            process.terminate()
        for process in workers:
            process.join()


class Dask:
    """Tasks on a Dask cluster: the scheduler at an address, or "local" for one of `jobs` processes on this machine.

    Raises:
        MissingExtra: dask.distributed is not installed.
        ConnectionError: there is no scheduler, or it has gone.
    """

    patience = 20      # seconds in which a scheduler must answer

    def __init__(self, address: str, jobs: int = 1):
        from nddo_ml.common.extras import needed

        self._distributed = needed("distributed", "cluster", "A Dask cluster")
        self.address, self.width = address, jobs
        self._tasks: dict[Any, Any] = {}        # Dask's future -> argument
        self._client: Any = None                # from __enter__ to __exit__
        self._cluster: Any = None
        self._finished: Any = None

    @property
    def pending(self) -> int:
        """How many tasks were submitted whose outcome has not been read."""
        return len(self._tasks)

    def submit(self, function: Callable[[Any], Any], argument: Any) -> None:
        """Put function(argument) at the end of the queue."""
        future = self._client.submit(attempt, function, argument, pure=False)
        self._tasks[future] = argument
        self._finished.add(future)

    def completed(self, wait: bool = True) -> Iterator[TaskOutcome]:
        """Outcomes as they come; see Queue."""
        while self._tasks and (wait or self._finished.has_ready()):
            future = next(self._finished)
            argument = self._tasks.pop(future)
            if future.status in ("cancelled", "lost"):
                raise ConnectionError(f"The Dask scheduler {self.address} is gone, with {len(self._tasks) + 1} tasks "
                                      "unfinished: start it again and repeat the command; what is finished is kept.")
            finished = future.status == "finished"
            yield future.result() if finished else TaskOutcome(argument, None, reason(future.exception()))
            future.release()

    def __enter__(self) -> "Dask":
        try:
            if self.address == "local":
                self._cluster = self._distributed.LocalCluster(n_workers=self.width, threads_per_worker=1,
                                                               dashboard_address=None)
            self._client = self._distributed.Client(self._cluster or self.address, timeout=self.patience)
        except (OSError, ValueError) as error:
            raise ConnectionError(f"There is no Dask scheduler at {self.address} ({error}): give the address that `dask "
                                  'scheduler` prints, or "local".') from error
        if self._cluster is None:
            self.width = max(1, sum(self._client.nthreads().values()))
        self._finished = self._distributed.as_completed()
        return self

    def __exit__(self, *error: object) -> None:
        self._client.cancel(list(self._tasks))
        self._tasks.clear()
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def _outcome(task: _Task, future: futures.Future) -> TaskOutcome:
    """The outcome of a future of the pool; an argument that cannot be pickled is an error too."""
    error = future.exception()
    return future.result() if error is None else TaskOutcome(task.argument, None, reason(error))


def _worker() -> None:
    """A process that works: one thread, deaf to the terminal's interrupt, and it ends when its parent does."""
    for name in THREADS:
        os.environ[name] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(multiprocessing.parent_process(),), daemon=True).start()


def _follow(parent: Any) -> None:
    """End this process when its parent (multiprocessing's handle of it) ends."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
