"""The table of all programs, as text and as Markdown, the numbers as JSON, and the block of docs/results/performance.md."""

import json
import platform
import re
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from measuring.rounds import Record
from measuring.structures import TITLES
from measuring.targets import calculator, ratio, targets

BEGIN, END = "<!-- speed: made by benchmarks/test_speed.py --write-page -->", "<!-- end of speed -->"
CAPTION = """Energy and forces, milliseconds, medians. *new*: species never seen, all indices made anew; *cold*:
species known, no density to start from; *warm*: the next femtosecond of a trajectory at 300 K, from
the last density; *ASE*: the same through the program's calculator, positions changed and forces
asked for (MOPAC has none: its library's warm call). MOPAC: its library, the same method. tblite:
GFN2-xTB whatever the method. Ratios: time here over that of the faster peer, of the medians, and of
the shortest times in brackets. Memory: peak of a first cold calculation above the imports, MB. All
programs in one run, their calls in turns, times taken inside each process; every row in fresh
processes. A dash: not measured, or the program has no such call."""
HEAD = ("structure", "atoms", "method", "threads", "new", "cold", "warm", "ASE", "MOPAC cold", "warm", "tblite cold", "warm",
        "ASE", "cold ratio", "warm ratio", "ASE ratio", "memory here", "MOPAC", "tblite")
COLUMNS = (*(("here", kind) for kind in ("new", "cold", "warm", "ASE")), *(("MOPAC", kind) for kind in ("cold", "warm")),
           *(("tblite", kind) for kind in ("cold", "warm", "ASE")))


def row(record: Record) -> list[str]:
    """The cells of a record."""
    case = record.case
    times = [milliseconds(record.middle(program, kind)) for program, kind in COLUMNS]
    ratios = [f"{value:.2f} ({ratio(record, kind, least=True):.2f})" if (value := ratio(record, kind)) is not None else "-"
              for kind in ("cold", "warm", "ASE")]
    memory = [f"{record.memory[program]:.0f}" if program in record.memory else "-" for program in ("here", "MOPAC", "tblite")]
    return [TITLES[case.structure], str(record.atoms or ""), case.method, str(case.threads), *times, *ratios, *memory]


def milliseconds(seconds: float | None) -> str:
    """Three digits of a time in ms."""
    if seconds is None:
        return "-"
    ms = 1e3 * seconds
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}" if ms >= 1 else f"{ms:.3f}"


def plain(records: Sequence[Record]) -> str:
    """Table and targets for a terminal."""
    rows = [HEAD, *map(row, records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) if k in (0, 2) else cell.rjust(w)
                       for k, (cell, w) in enumerate(zip(r, widths, strict=True))) for r in rows]
    asked = [f"{'met    ' if t.met else 'NOT MET'}  {t.value:9.3g} (at most {t.most:g})  {t.what}" for t in targets(records)]
    return "\n".join([CAPTION, "", *lines, "", "Targets", *asked])


def markdown(records: Sequence[Record]) -> str:
    """Table and targets for a page."""
    lines = [CAPTION, "", _line(HEAD), _line(["---"] * 3 + ["--:"] * (len(HEAD) - 3)), *(_line(row(r)) for r in records), "",
             "| on one thread | found | at most | |", "|---|--:|--:|---|",
             *(_line([t.what, f"{t.value:.3g}", f"{t.most:g}", "met" if t.met else "**not met**"]) for t in targets(records))]
    added = [f"{TITLES[r.case.structure]} {r.case.method} {value:.2f}" for r in records
             if r.case.threads == 1 and r.atoms in range(1, 60) and (value := calculator(r)) is not None]
    added_to_a_call = "What the ASE calculator adds to a warm call, ms: " + "; ".join(added) + "."
    return "\n".join([*lines, "", added_to_a_call, "", machine(records)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def machine(records: Sequence[Record]) -> str:
    """Where and with what this was measured, and what served the calculations here: kernels or torch."""
    served = " and ".join(sorted({r.served for r in records}))
    held = ", ".join(f"{name} {_version(name)}" for name in ("torch", "numba", "mopactools", "tblite"))
    return f"{date.today()}, {_processor()}, Python {platform.python_version()}, {held}; here by {served}."


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor()


def numbers(records: Sequence[Record]) -> dict[str, Any]:
    """Everything that was measured."""
    return {"machine": machine(records), "records": [r.as_json() for r in records],
            "targets": [{"what": t.what, "value": t.value, "most": t.most, "met": t.met} for t in targets(records)]}


def write(records: Sequence[Record], folder: Path) -> None:
    """speed.md and speed.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.md").write_text(markdown(records) + "\n")
    (folder / "speed.json").write_text(json.dumps(numbers(records), indent=1) + "\n")


def renewed(page: str, block: str) -> str:
    """A page with this block between its two marks.

    Raises: ValueError, if the marks are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page has no lines {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"
