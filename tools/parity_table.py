"""docs/results/parity.md: how far the engine is from MOPAC, group by group, with every record that is set apart.

    python tools/parity_table.py REFERENCE docs/results/parity.md

REFERENCE holds the groups NN_name.jsonl; without it (the word `sample`) the sample in tests/data is used.
"""

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1])]
from support.reference import KCAL, compare, gradient_excuse, group, judged, load, load_group  # noqa: E402
from support.reference_run import evaluate  # noqa: E402
from support.reference_theory import compare_theory, theory  # noqa: E402

from nddo_ml import Hamiltonian, Molecules  # noqa: E402

QUANTITIES = {
    "energy": "energy, eV", "heat": "heat, kcal/mol", "gradient": "gradient, kcal/mol/A", "dipole": "dipole, D",
    "charges": "charges, e", "orbital_energies": "orbitals, eV",
}
SKIPPED = ("07", "09")          # excited states and external charges have tests of their own


def groups(reference):
    """(title, records, judge) of everything that is compared."""
    if reference == "sample":
        for name in sorted({group(r) for r in load()}):
            yield name, [r for r in load() if group(r) == name and judged(r)], compare
    else:
        for path in sorted(Path(reference).glob("*.jsonl")):
            if path.stem[:2] not in SKIPPED:
                yield path.stem, [r for r in load_group(path) if judged(r)], compare
    for kind in dict.fromkeys(r["kind"] for r in load("goldens.jsonl.gz")):
        yield f"goldens: {kind}", [r for r in load("goldens.jsonl.gz") if r["kind"] == kind and judged(r)], compare
    yield "theory sheet", theory(), compare_theory


def summary(title, reports):
    """Table rows of one group: per method the largest and the median deviation of each quantity over the judged records."""
    rows = []
    by_method = defaultdict(list)
    for report in reports:
        by_method[report.record["method"]].append(report)
    for method, own in sorted(by_method.items()):
        cells = []
        for quantity in QUANTITIES:
            values = [abs(c.deviation) for r in own for c in r.checks if c.quantity == quantity and c.verdict == "pass"]
            cells.append(f"{max(values):.0e} ({np.median(values):.0e})" if values else "-")
        apart = sum(any(c.verdict != "pass" for c in r.checks) for r in own)
        rows.append(f"| {title} | {method} | {len(own)} | " + " | ".join(cells) + f" | {apart} |")
    return rows


def exceptional(reports):
    """Lines of the list of records with anything that is not a plain pass: each quantity's deviation, then the reasons."""
    lines = []
    for report in reports:
        r, apart = report.record, [c for c in report.checks if c.verdict != "pass"]
        if apart:
            numbers = ", ".join(f"{c.quantity} {c.deviation:+.1e}" for c in apart)
            reasons = "; ".join(dict.fromkeys(f"{c.verdict}: {c.reason}" for c in apart))
            if any(c.quantity == "gradient" and c.reason and c.reason == gradient_excuse(r) for c in apart):
                reasons += f"; own force against differences of own energy: {own_difference(r):.0e} kcal/mol/A"
            lines.append(f"| {r['id']} | {r['name']} | {r['method']} | {r['scf']} | {numbers} | {reasons} |")
    return lines


def own_difference(record):
    """Force along a random direction less the five-point difference of the package's own energy, kcal/mol/angstrom; the better
    of two steps, because a longer one may cross a list radius (7 angstrom for PM7's hydrogen bonds), where the energy jumps.
    """
    return min(difference(record, 1e-3), difference(record, 1e-4))


def difference(record, step):
    """Force along a random direction less the five-point difference of the package's own energy, kcal/mol/angstrom."""
    direction = np.random.default_rng(0).normal(size=(len(record["numbers"]), 3))
    direction /= np.linalg.norm(direction)
    x = np.array(record["coordinates_angstrom"])
    moved = [x + k * step * direction for k in (-2, -1, 0, 1, 2)]
    molecules = Molecules.batch([record["numbers"]] * 5, moved, record["charge"], record["multiplicity"])
    result = Hamiltonian(record["method"])(molecules, forces=True, unrestricted=record["scf"] == "UHF", tolerance=1e-9)
    E = result.energy.detach().numpy()
    force = result.forces.reshape(5, -1, 3)[2].numpy()
    return KCAL * abs((E[0] - 8 * E[1] + 8 * E[3] - E[4]) / (12 * step) + (force * direction).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("reference")
    parser.add_argument("output", type=Path)
    parser.add_argument("--chunk", type=int, default=256, help="molecules in a batch")
    parser.add_argument("--only", default="", help="only groups whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, lines, count = [], [], 0
    for title, records, judge in groups(options.reference):
        if options.only not in title:
            continue
        begin = time.perf_counter()
        reports = [judge(r, c) for r, c in zip(records, evaluate(records, options.chunk), strict=True)]
        rows += summary(title, reports)
        lines += exceptional(reports)
        count += len(reports)
        bad = sum(bool(r.failures) for r in reports)
        sys.stderr.write(f"{title}: {len(records)} records, {bad} with failures, {time.perf_counter() - begin:.1f} s\n")
    head = (Path(__file__).parent / "parity_head.md").read_text()
    columns = "| group | method | records | " + " | ".join(QUANTITIES.values()) + " | set apart |"
    table = [columns, "|" + "---|" * (4 + len(QUANTITIES)), *rows]
    listing = ["| record | molecule | method | SCF | deviations | why |", "|---|---|---|---|---|---|", *lines]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    text = [head.replace("COUNT", str(count)), *table, "", "## Records set apart", "", *listing, ""]
    options.output.write_text("\n".join(text))


if __name__ == "__main__":
    main()
