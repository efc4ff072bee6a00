"""The picture of time and memory against the number of atoms, of this project and its peers."""

from collections.abc import Callable, Sequence
from pathlib import Path

from measuring.rounds import Record

LINES = {           # program, kind -> what it is called, colour, dash
    ("here", "cold"): ("here, cold", "#1f4e79", "-"), ("here", "warm"): ("here, warm", "#1f4e79", "--"),
    ("MOPAC", "cold"): ("MOPAC, cold", "#b5651d", "-"), ("MOPAC", "warm"): ("MOPAC, warm", "#b5651d", "--"),
    ("tblite", "cold"): ("tblite, cold", "#6b8e23", "-"), ("tblite", "warm"): ("tblite, warm", "#6b8e23", "--"),
}
TICKS = (3, 10, 30, 100, 300)


def draw(records: Sequence[Record], picture: Path) -> None:
    """Time of AM1 energy and forces on one thread, and peak memory above the imports, against the number of atoms, both axes
    logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "performance", "svg.fonttype": "none", "font.family": "sans-serif"}
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    chosen = sorted((r for r in records if r.atoms and r.case.threads == 1 and r.case.method == "AM1"), key=lambda r: r.atoms)
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (program, kind), (name, colour, dash) in LINES.items():
        _line(left, chosen, lambda r, p=program, k=kind: _milliseconds(r.middle(p, k)), label=name, color=colour, ls=dash)
        if kind == "cold":
            _line(right, chosen, lambda r, p=program: r.memory.get(p), label=program, color=colour, ls=dash)
    left.set_ylabel("energy and forces, one thread, ms")
    right.set_ylabel("peak memory above the imports, MB")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="atoms (AM1; tblite: GFN2-xTB)", xticks=TICKS, xticklabels=map(str, TICKS))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, which="major", lw=0.4, color="0.85")
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(picture, metadata={"Date": None})


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _line(axes, records: Sequence[Record], value: Callable[[Record], float | None], **style: str) -> None:
    """A line through the records that have a value above zero."""
    points = [(r.atoms, y) for r in records if (y := value(r)) is not None and y > 0]
    if points:
        axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.2, **style)
