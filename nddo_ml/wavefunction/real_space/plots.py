"""Pictures of a real-space run: the energy of each iteration with the exact line, and the distribution of local energies."""

import json
from pathlib import Path

from torch import Tensor

from nddo_ml.common.extras import needed
from nddo_ml.wavefunction.real_space.variational import MonteCarloAverages


def pictures(folder: Path, averages: MonteCarloAverages, exact: float | None) -> list[Path]:
    """Draw energy.png and local-energy.png into the folder of a run, and return their paths; exact: hartree, if it is known.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    energies = [json.loads(line)["energy"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    goal = averages.energy.mean if exact is None else exact
    files = [folder / "energy.png", folder / "local-energy.png"]
    _training(energies, goal, "evaluated" if exact is None else "exact").savefig(files[0], dpi=130)
    _distribution(averages.energies.flatten(), goal).savefig(files[1], dpi=130)
    return files


def _training(energies, goal, label):
    """The energy of each iteration and its running mean, the range of the last three quarters."""
    figure = needed("matplotlib.figure", "plot", "A picture").Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(energies)), energies, lw=0.5, color="0.6", label="iteration")
    window = max(1, len(energies) // 20)
    recent = [energies[max(0, k - window):k + 1] for k in range(len(energies))]
    means = [sum(values) / len(values) for values in recent]
    axes.plot(range(len(means)), means, label=f"mean of {window}")
    axes.axhline(goal, color="k", ls="--", lw=0.8, label=label)
    late = energies[len(energies) // 4:] or [goal]
    reach = max(0.005, 1.5 * max(abs(e - goal) for e in sorted(late)[len(late) // 20:-(len(late) // 20) or None]))
    axes.set(xlabel="iteration", ylabel="energy, hartree", ylim=(goal - reach, goal + reach))
    axes.legend()
    return figure


def _distribution(energies: Tensor, goal: float):
    """A histogram of the local energies within five mean deviations."""
    figure = needed("matplotlib.figure", "plot", "A picture").Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    centre = energies.median()
    width = 5 * float((energies - centre).abs().mean()) or 1.0
    shown = energies[(energies - float(centre)).abs() <= width]
    axes.hist(shown.numpy(), bins=80)
    axes.axvline(goal, color="k", ls="--", lw=0.8)
    axes.set(xlabel=f"local energy, hartree ({1 - len(shown) / len(energies):.1%} lie beyond)", ylabel="samples")
    return figure
