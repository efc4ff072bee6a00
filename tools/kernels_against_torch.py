"""How far the compiled kernels are from torch, over the reference set: energies, forces, iterations, and what was handed over.

    python tools/kernels_against_torch.py REFERENCE [--methods AM1 PM6] [--only 04] [--seconds 600] [--tolerance 1e-7]

Every record is calculated alone, by kernels and by torch, to a commutator (eV) far below the default: forces know its size. A
record is another state if its energies differ by more than a microhartree, and an image of one state if only its forces do: a
broken symmetry may point along either of two axes. Of all others the worst differences are shown. It ends with 1 if one of them
is more than 1e-9 eV or 1e-8 eV/angstrom, or if torch found a lower state.
"""

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1])]
from support.reference import judged, load_group  # noqa: E402
from support.reference_run import batch, treatment  # noqa: E402

from nddo_ml import Hamiltonian  # noqa: E402
from nddo_ml.common import compiling  # noqa: E402
from nddo_ml.scf import ladder  # noqa: E402

SKIPPED = ("07", "09")          # excited states, and charges, which tests compare
ENERGY, FORCE, STATE = 1e-9, 1e-8, 2.7e-5       # eV, eV/angstrom, eV
IMAGE = 1e-3                    # eV/angstrom


@dataclass
class Row:
    """One method in one group."""

    records: int = 0
    energy: float = 0.0
    force: float = 0.0
    iterations: int = 0         # records whose iterations differ
    handed_over: int = 0        # records whose self-consistent field torch calculated in the end
    others: list[str] = field(default_factory=list)     # another state: which, and by how much it is higher
    unlike: list[str] = field(default_factory=list)     # the same state, not to the tolerance
    images: int = 0             # records of a broken symmetry that points elsewhere
    failed: int = 0             # converged nowhere


def compared(record, row, climbs, tolerance):
    """Adds a record to its row."""
    molecules, options = batch([record]), treatment(record) | {"tolerance": tolerance}
    model = hamiltonian(record["method"])
    before = len(climbs)
    ours = model(molecules, forces=True, raise_unconverged=False, **options)
    row.handed_over += len(climbs) > before
    with compiling.off():
        theirs = model(molecules, forces=True, raise_unconverged=False, **options)
    row.records += 1
    if bool(ours.converged) != bool(theirs.converged):
        row.others.append(f"{record['id']} converged: {bool(ours.converged)}, by torch: {bool(theirs.converged)}")
        return
    if not bool(ours.converged):
        row.failed += 1
        return
    difference = float(ours.energy - theirs.energy)
    if abs(difference) > STATE:
        row.others.append(f"{record['id']} {difference:+.4f} eV")
        return
    force = float((ours.forces - theirs.forces).abs().max())
    if ours.iterations.tolist() != theirs.iterations.tolist():
        row.iterations += 1
    if force > IMAGE and abs(difference) < ENERGY:
        row.images += 1
        return
    row.energy, row.force = max(row.energy, abs(difference)), max(row.force, force)
    if abs(difference) > ENERGY or force > FORCE:
        row.unlike.append(f"{record['id']} {difference:+.1e} eV {force:.1e} eV/A, iterations {int(ours.iterations)} "
                          f"{int(theirs.iterations)}")


models = {}


def hamiltonian(name):
    """One of each method."""
    return models.setdefault(name, Hamiltonian(name))


def main():
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("--methods", nargs="*", default=None, help="only these, one after the other")
    parser.add_argument("--only", default="", help="only groups whose name contains this")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--tolerance", type=float, default=1e-9, help="commutator, eV")
    options = parser.parse_args()
    torch.set_num_threads(1)
    compiling.eager()
    if not compiling.ready():
        sys.exit(f"There are no compiled kernels: {compiling.status().reason}.")
    climbs, climb = [], ladder.climb

    def counted(*arguments, **named):
        climbs.append(1)
        return climb(*arguments, **named)

    ladder.climb = counted
    by_method = defaultdict(list)
    for path in sorted(options.reference.glob("*.jsonl")):
        if path.stem[:2] not in SKIPPED and options.only in path.stem:
            for record in load_group(path):
                if judged(record) and record["scf"] != "half-electron" and "NOMM" not in record["keywords"]:
                    by_method[record["method"]].append((path.stem, record))
    rows = defaultdict(Row)
    end = time.monotonic() + options.seconds
    for method in options.methods or sorted(by_method):
        for title, record in sorted(by_method[method], key=lambda one: (len(one[1]["numbers"]) > 60, one[0])):
            if time.monotonic() > end:
                sys.stderr.write(f"stopped in {method} {title}: no more time\n")
                break
            compared(record, rows[method, title], climbs, options.tolerance)
    print("| group | method | records | energy, eV | force, eV/A | iterations differ | handed over | other states | images "
          "| failed |")
    print("|" + "---|" * 10)
    for (method, title), row in rows.items():
        numbers = (row.records, f"{row.energy:.0e}", f"{row.force:.0e}", row.iterations, row.handed_over, len(row.others),
                   row.images, row.failed)
        print(f"| {title} | {method} | {' | '.join(map(str, numbers))} |")
    lines = [(kind, method, line) for (method, _), row in rows.items()
             for kind, found in (("other", row.others), ("unlike", row.unlike)) for line in found]
    for kind, method, line in lines:
        print(f"{kind}: {method} {line}")
    sys.exit(any(kind == "unlike" or "+" in line for kind, _, line in lines))


if __name__ == "__main__":
    main()
