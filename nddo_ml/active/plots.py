"""Pictures of uncertainties, as PNG files: are they reliable, and do they fall from round to round? Needs matplotlib, the extra
`plot`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nddo_ml.active.calibrate import EnsembleErrors
from nddo_ml.common.extras import needed
from nddo_ml.ensembles.calibration import LEVELS, Calibration, coverage
from nddo_ml.units import CODATA_2018

INK, ACCENT = "#22262b", "#c2410c"
BINS = 10
UNITS = {"energy": "kcal mol$^{-1}$", "forces": "kcal mol$^{-1}$ Å$^{-1}$"}


def _pyplot() -> Any:
    return needed("matplotlib.pyplot", "plot", "A picture")


def reliability_picture(errors: EnsembleErrors, calibration: Calibration, path: Path, title: str = "") -> None:
    """Draw energies above, forces below: coverage against confidence, calibrated and not; errors against uncertainties, with
    their root mean square in bins of equal count, which lies on the diagonal where uncertainties are right.
    """
    plt = _pyplot()
    fig, axes = plt.subplots(2, 2, figsize=(9, 8.4), layout="constrained")
    rows = (("energy", errors.energy[:, None], errors.energy_spread, calibration.energy, calibration.energy_reliability),
            ("forces", errors.forces, errors.atom_spread, calibration.forces, calibration.forces_reliability))
    for (name, error, spread, scale, worth), (left, right) in zip(rows, axes, strict=True):
        known = np.isfinite(spread) & np.isfinite(error).all(1)
        error, spread = error[known], spread[known]
        if len(error) == 0:
            left.set_axis_off()
            right.set_axis_off()
            continue
        left.plot([0, 1], [0, 1], color="0.75", lw=1)
        left.plot(LEVELS, coverage(spread, error), color=INK, lw=1, ls="--", label="bare spread")
        left.plot(LEVELS, coverage(scale(spread), error), color=ACCENT, lw=1.6, label="calibrated")
        said = "" if worth is None else f", area {worth.area:.3f}, rank {worth.rank:.2f}"
        left.set(xlabel="confidence", ylabel=f"fraction of the errors of {name} within", title=f"{error.size} errors{said}",
                 aspect="equal")
        left.legend(frameon=False, fontsize="small")
        _scatter(right, scale(spread), np.abs(error), name)
    fig.suptitle(title)
    _saved(fig, path)
    plt.close(fig)


def rounds_picture(rounds: Sequence[dict], path: Path) -> None:
    """Draw errors of fresh labels before they were trained on and of the held-out parts, and what the ensembles expected,
    against the number of labels. rounds: the records of a loop (loop.py).
    """
    plt = _pyplot()
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for ax, name in zip(axes, ("forces", "energy"), strict=True):
        rows = [(r["labels"], r["fresh"][name]) for r in rounds if r.get("fresh")]
        for key, style, label in (("error", "-", "fresh labels, before training"), ("uncertainty", "--", "their uncertainty")):
            ax.plot([n for n, _ in rows], [_number(s[key]) for _, s in rows], color=ACCENT, ls=style, marker=".", label=label)
        held = [(r["labels"], r["held_out"][name]) for r in rounds if r.get("held_out")]
        for key, style, label in (("error", "-", "held-out, after training"), ("uncertainty", "--", "their uncertainty")):
            ax.plot([n for n, _ in held], [_number(s[key]) for _, s in held], color=INK, ls=style, marker=".", label=label)
        ax.set(xlabel="new labels", ylabel=f"{name}, rms / {UNITS[name]}", yscale="log")
    axes[0].legend(frameon=False, fontsize="small")
    _saved(fig, path)
    plt.close(fig)


def _scatter(ax: Any, uncertainty: Float[np.ndarray, "n"], error: Float[np.ndarray, "n components"], name: str) -> None:
    """Errors against uncertainties, both logarithmic."""
    kcal = CODATA_2018.kcal_mol
    u, e = np.repeat(uncertainty, error.shape[1]) * kcal, np.maximum(error.ravel() * kcal, 1e-6)
    ax.plot(u, e, ".", ms=2, alpha=0.25, color=INK, rasterized=True)
    bins = np.array_split(np.argsort(u, kind="stable"), min(BINS, len(u)))
    mean = np.array([[np.sqrt((u[b] ** 2).mean()), np.sqrt((e[b] ** 2).mean())] for b in bins])
    ax.plot(*mean.T, "o-", color=ACCENT, lw=1.2, ms=4, label="root mean square")
    ax.plot(mean[[0, -1], 0], mean[[0, -1], 0], color="0.6", lw=1)
    ax.set(xlabel=f"uncertainty / {UNITS[name]}", ylabel=f"error / {UNITS[name]}", xscale="log", yscale="log",
           ylim=(max(e.min(), mean[:, 1].min() / 100), None))
    ax.legend(frameon=False, fontsize="small")


def _saved(fig: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=130)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
