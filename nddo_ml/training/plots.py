"""Pictures of a training: learning curves and parity plots, as PNG files. Needs matplotlib, the extra `plot`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nddo_ml.common.extras import needed
from nddo_ml.training.dataset import LabelledFrame
from nddo_ml.training.evaluate import Prediction
from nddo_ml.units import CODATA_2018

CURVES = (("forces", "force error / kcal mol$^{-1}$ Å$^{-1}$"), ("energy", "energy error / kcal mol$^{-1}$"),
          ("dipole", "dipole error / D"))
INK = "#22262b"


def _pyplot() -> Any:
    return needed("matplotlib.pyplot", "plot", "A picture")


def learning_curves(events: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the errors of the training frames of each epoch, and of the test sets at each validation, against steps.

    events: TrainingJournal.read.
    """
    plt = _pyplot()
    fig, axes = plt.subplots(1, len(CURVES), figsize=(13, 4), layout="constrained")
    epochs = [e for e in events if e["event"] == "epoch"]
    tests = [e for e in events if e["event"] == "validation"]
    for ax, (key, label) in zip(axes, CURVES, strict=True):
        ax.plot([e["steps"] for e in epochs], [_number(e[key]) for e in epochs], color=INK, lw=1, label="training")
        for k, name in enumerate(sorted({name for e in tests for name in e["sets"]})):
            rows = [(e["steps"], _number(e["sets"][name][key])) for e in tests if name in e["sets"]]
            ax.plot(*zip(*rows, strict=True), color=f"C{k}", marker=".", label=name)
        for e in events:
            if e["event"] == "stage":
                ax.axvline(e["steps"], color="0.8", lw=0.8, zorder=0)
        ax.set(xlabel="steps", ylabel=label, yscale="log")
    axes[0].legend(frameon=False, fontsize="small")
    fig.savefig(path, dpi=130)
    plt.close(fig)


def parity(frames: Sequence[LabelledFrame], predictions: Sequence[Prediction], path: Path, title: str = "") -> None:
    """Draw prediction against label: energies less what a sum over elements explains of the labels, force and dipole
    components. Nothing is drawn where no frame has a prediction."""
    plt = _pyplot()
    done = [(f, p, p.forces) for f, p in zip(frames, predictions, strict=True)
            if np.isfinite(p.energy) and p.forces is not None]
    if not done:
        return
    kcal, debye = CODATA_2018.kcal_mol, CODATA_2018.debye
    energy = np.array([[f.energy, p.energy] for f, p, _ in done]) - _by_element([f for f, _, _ in done])[:, None]
    dipoles = [(f.dipole, p.dipole) for f, p, _ in done if f.dipole is not None and p.dipole is not None]
    panels = [("energy / kcal mol$^{-1}$", kcal * energy),
              ("force / kcal mol$^{-1}$ Å$^{-1}$", kcal * np.concatenate([np.stack([f.forces.ravel(), forces.ravel()], 1)
                                                                          for f, _, forces in done]))]
    if dipoles:
        panels.append(("dipole / D", debye * np.concatenate([np.stack(d, 1) for d in dipoles])))
    fig, axes = plt.subplots(1, len(panels), figsize=(4.3 * len(panels), 4.2), layout="constrained", squeeze=False)
    for ax, (label, xy) in zip(axes[0], panels, strict=True):
        xy = xy[np.isfinite(xy).all(1)]
        low, high = (xy.min(), xy.max()) if len(xy) else (0.0, 1.0)
        ax.plot([low, high], [low, high], color="0.7", lw=0.8, zorder=0)
        ax.plot(*xy.T, ".", ms=2, alpha=0.5, color=INK, rasterized=True)
        ax.set(xlabel=f"reference {label}", ylabel=f"model {label}", aspect="equal",
               title=f"mean error {np.abs(xy[:, 0] - xy[:, 1]).mean():.3g}" if len(xy) else "no labels")
    fig.suptitle(title)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def _by_element(frames: Sequence[LabelledFrame]) -> Float[np.ndarray, "frame"]:
    """Sum over the atoms of each frame that fits the labelled energies best, eV."""
    elements = sorted({int(z) for f in frames for z in f.numbers})
    counts = np.array([[np.count_nonzero(f.numbers == z) for z in elements] for f in frames], dtype=float)
    return counts @ np.linalg.lstsq(counts, np.array([f.energy for f in frames]), rcond=None)[0]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
