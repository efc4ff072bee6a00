"""Pictures of a functional: parity of reaction energies, enhancement factors, learning curves, as PNG. Needs matplotlib."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from nddo_ml.common.extras import needed
from nddo_ml.functional.base import Functional
from nddo_ml.functional.density import uniform_kinetic
from nddo_ml.functional.forms.neural import LIEB_OXFORD
from nddo_ml.functional.forms.uniform import slater
from nddo_ml.functional.reactions import KINDS, PROPERTIES, Reaction

INK = "#22262b"

Curve = Float[np.ndarray, "2 point"] | tuple[np.ndarray, np.ndarray]      # distances (angstrom) and energies (kcal/mol)


def _pyplot() -> Any:
    return needed("matplotlib.pyplot", "plot", "Plots")


def _colour(k: int) -> str:
    """Of the curve or the points of a method; the first is the one that matters."""
    return INK if k == 0 else f"C{k}"


def parity(errors: Mapping[str, Mapping[Reaction, float]], path: str | Path) -> None:
    """Errors of reaction energies (kcal/mol) against their references, by method and reaction; a panel for each kind."""
    plt = _pyplot()
    kinds = [kind for kind in KINDS if any(r.kind == kind for of_method in errors.values() for r in of_method)]
    panels = max(len(kinds), 1)
    fig, axes = plt.subplots(1, panels, figsize=(4.5 * panels, 4.2), layout="constrained", squeeze=False)
    for ax, kind in zip(axes[0], kinds, strict=False):
        for k, (name, of_method) in enumerate(errors.items()):
            xy = np.array([(r.reference, e) for r, e in of_method.items() if r.kind == kind]).reshape(-1, 2)
            mean = np.abs(xy[:, 1]).mean() if len(xy) else np.nan
            ax.plot(*xy.T, "o", ms=4, color=_colour(k), label=f"{name}: {mean:.1f}")
        ax.axhline(0, color="0.7", lw=0.8, zorder=0)
        ax.set(xlabel=f"reference {kind} energy / kcal mol$^{{-1}}$", ylabel="error / kcal mol$^{-1}$")
        ax.legend(frameon=False, fontsize="small", title="mean error")
    fig.savefig(path, dpi=130)
    plt.close(fig)


def enhancement(functionals: Iterable[Functional], path: str | Path) -> None:
    """Exchange enhancement factors F_x against s, at alpha = 0, 1 and 5 where the functional knows tau."""
    plt = _pyplot()
    fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    s = torch.linspace(0, 5, 200, dtype=torch.float64)
    n = torch.ones_like(s)
    sigma = (2 * (3 * torch.pi**2) ** (1 / 3) * s) ** 2
    for k, functional in enumerate(functionals):
        for alpha, style in zip((1, 0, 5) if functional.kinetic else (1,), ("-", "--", ":"), strict=False):
            with torch.no_grad():
                e = functional.exchange(n, sigma, sigma / 8 + alpha * uniform_kinetic(n))
            factor = e / ((1 - functional.exact_exchange) * slater(n))
            ax.plot(s, factor, style, color=_colour(k),
                    label=functional.label + (f", α = {alpha}" if functional.kinetic else ""))
    ax.axhline(LIEB_OXFORD, color="0.7", lw=0.8)
    ax.set(xlabel="s", ylabel="F$_x$")
    fig.legend(frameon=False, fontsize="small", loc="outside right upper")
    fig.savefig(path, dpi=130)
    plt.close(fig)


def dissociation(curves: Mapping[str, Curve], path: str | Path, exact: Curve | None = None, title: str = "") -> None:
    """Energies along a bond by method; below, their forces by differences, in which a kink would show. exact: the energies as
    they should be."""
    plt = _pyplot()
    fig, (upper, lower) = plt.subplots(2, 1, figsize=(5.5, 6), layout="constrained", sharex=True)
    for k, (name, (R, E)) in enumerate(curves.items()):
        upper.plot(R, E, color=_colour(k), label=name)
        lower.plot((R[1:] + R[:-1]) / 2, -np.diff(E) / np.diff(R), color=_colour(k))
    if exact is not None:
        upper.plot(*exact, "o", ms=4, mfc="none", color="0.5", label="exact")
    upper.set(ylabel="energy / kcal mol$^{-1}$", title=title)
    lower.set(xlabel="distance / Å", ylabel="force / kcal mol$^{-1}$ Å$^{-1}$")
    upper.legend(frameon=False, fontsize="small")
    fig.savefig(path, dpi=130)
    plt.close(fig)


def learning(entries: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Loss of the steps, and self-consistent mean errors of the rounds, from the lines of a metrics.jsonl; properties in parts
    of what they were."""
    plt = _pyplot()
    rounds = [e for e in entries if e["event"] == "round"]
    curves = {kind: _errors(rounds, kind) for kind in (*KINDS, *PROPERTIES)}
    properties = any(curves[kind] for kind in PROPERTIES)
    fig, (left, *others) = plt.subplots(1, 2 + properties, figsize=(9 + 4.5 * properties, 3.8), layout="constrained")
    loss = [e["loss"] for e in entries if e["event"] == "step"]
    left.plot(loss, color=INK, lw=1)
    left.set(xlabel="step", ylabel="loss at constant densities")
    left.set_yscale("log" if loss and max(loss) > 5 * min(loss) else "linear")
    for ax, kinds, label in zip(others, (KINDS, PROPERTIES), ("mean error / kcal mol$^{-1}$", "mean error / its start"),
                                strict=False):
        for k, kind in enumerate(kinds):
            for part, values in curves[kind].items():
                scale = values[0] if kind in PROPERTIES else 1.0
                ax.plot([e["round"] for e in rounds], values / scale, "-" if part == "train" else "--", marker=".",
                        color=f"C{k}", label=f"{kind}, {part}")
        ax.set(xlabel="round", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False, fontsize="small")
    fig.savefig(path, dpi=130)
    plt.close(fig)


def _errors(rounds: Sequence[Mapping[str, Any]], kind: str) -> dict[str, np.ndarray]:
    """By part, errors of a kind after each round, NaN where there is none."""
    curves = {part: np.array([e["errors"][part].get(kind) for e in rounds], dtype=float) for part in ("train", "validation")}
    return {part: values for part, values in curves.items() if not np.isnan(values).all()}
