"""Pictures of a real-space run: energy against iteration with the exact line, histogram of local energies."""

import json
from pathlib import Path

from nddo_ml.common.extras import needed
from nddo_ml.wavefunction.real_space.variational import Evaluation


def pictures(folder: Path, found: Evaluation, exact: float | None) -> list[Path]:
    """Files written: energy.png, local-energy.png. MissingExtra: no matplotlib."""
    Figure = needed("matplotlib.figure", "plot", "A picture").Figure
    energies = [json.loads(line)["energy"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    goal = found.energy.mean if exact is None else exact
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(energies)), energies, lw=0.5, color="0.6", label="iteration")
    window = max(1, len(energies) // 20)
    means = [sum(energies[max(0, k - window):k + 1]) / len(energies[max(0, k - window):k + 1]) for k in range(len(energies))]
    axes.plot(range(len(means)), means, label=f"mean of {window}")
    axes.axhline(goal, color="k", ls="--", lw=0.8, label="evaluated" if exact is None else "exact")
    late = energies[len(energies) // 4:] or [goal]
    reach = max(0.005, 1.5 * max(abs(e - goal) for e in sorted(late)[len(late) // 20:-(len(late) // 20) or None]))
    axes.set(xlabel="iteration", ylabel="energy, hartree", ylim=(goal - reach, goal + reach))
    axes.legend()
    histogram = Figure(figsize=(6, 4), layout="constrained")
    axes = histogram.subplots()
    values = found.energies.flatten()
    width = 5 * float((values - values.median()).abs().mean()) or 1.0
    centre = float(values.median())
    shown = values[(values - centre).abs() <= width]
    axes.hist(shown.numpy(), bins=80)
    axes.axvline(goal, color="k", ls="--", lw=0.8)
    axes.set(xlabel=f"local energy, hartree ({1 - len(shown) / len(values):.1%} lie beyond)", ylabel="samples")
    files = [folder / "energy.png", folder / "local-energy.png"]
    for made, file in zip((figure, histogram), files, strict=True):
        made.savefig(file, dpi=130)
    return files
