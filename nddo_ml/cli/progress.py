"""Long runs on the terminal: their progress bars, how they are stopped, and where they find code of the user's own."""

import math
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def bars(console: Console, disable: bool = False) -> Progress:
    """Progress bars with counts, times, and the field `live` of each task at its end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[live]}"))
    return Progress(*columns, console=console, disable=disable, refresh_per_second=2)


class Stop:
    """Asked again and again: whether the time is up, or the user interrupted once (a second time ends at once)."""

    def __init__(self, minutes: float | None):
        self.end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.interrupted = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def __call__(self) -> bool:
        return self.interrupted or time.monotonic() > self.end

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.interrupted = True


def findable(folder: Path) -> None:
    """Let modules in a folder, that of a configuration, be imported: they may define features, heads and losses."""
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
