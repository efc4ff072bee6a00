"""The comparison of learned models with their parents and other methods on held-out frames: a table for docs/results/neural.md.

    python tools/compare_methods.py LABELS [LABELS ...] --models NAME=MODEL [...] --cache FOLDER [--docs docs/results/neural.md]
    python tools/compare_methods.py LABELS [LABELS ...] --monomers OUT.extxyz

LABELS: extended XYZ, also .gz. MODEL: as in tools/peers.py. All models see the same frames, those of the parts that the
training never sees (nddo_ml.training.dataset), and the same reference, dispersion included. The cache keeps every prediction,
of files of weights by their content; a second run costs seconds. --monomers writes the molecules of the held-out complexes that
are not labelled yet, for `nddo-ml label`; with their labels among LABELS there are interaction energies.
"""

import argparse
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from ase.io import write

sys.path.insert(0, str(Path(__file__).parents[1]))
from peers import predictions

from nddo_ml.common.json import finite
from nddo_ml.methods import method
from nddo_ml.training.dataset import HELD_OUT, content_hash, limited, load, split
from nddo_ml.training.evaluate import scores, with_offsets

PEERS = ("AM1", "PM3", "RM1", "PM6", "PM6-D3H4", "PM7@mopac", "GFN2-xTB")
NDDO = ("AM1", "PM3", "RM1", "PM6", "PM6-D3H4", "PM7@mopac")
COLUMNS = {   # field of Scores -> heading, decimals
    "forces": ("forces, kcal/mol/A", 2), "energy": ("energy, kcal/mol", 2), "energy_per_atom": ("per atom", 3),
    "relative": ("relative", 2), "atomisation": ("atomisation", 2), "dipole": ("dipole, D", 3),
    "failed": ("failed", 0),
}
TITLES = {
    "validation": "neutral closed-shell molecules", "ions": "ions", "radicals": "radicals",
    "complexes": "complexes of two molecules", "large": "molecules larger than any in training",
    "dissociation": "bonds that break",
}
ABOUT = """Mean absolute errors; the reference includes D3(BJ). Energy: after offsets per element, fitted for every model alike
to the same COUNT training frames, neutral ones. Relative: frames of one molecule about their mean. Atomisation: each model
against its own free atoms in their ground states, nothing fitted (GFN2-xTB does not know spin: its free atoms are too high; the
published NDDO methods were fitted to heats at 298 K, so that their energies hold the motion of the nuclei).
Dipole: length of the difference vector, of ions about the centre of mass. Interaction: a complex less its two molecules as they
are in it."""
MARKS = ("<!-- comparison: made by tools/compare_methods.py -->", "<!-- end of the comparison -->")


def total(frame):
    """The frame with dispersion in its energy and forces; None where the labels lack it."""
    if frame.dispersion_included:
        return frame
    if frame.dispersion_energy is None or frame.dispersion_forces is None:
        return None
    return replace(frame, energy=frame.energy + frame.dispersion_energy, forces=frame.forces + frame.dispersion_forces,
                   dispersion_included=True)


def named(frame):
    """Complexes know by which name their monomers call them."""
    if "." in frame.molecule and frame.parts_of is None and frame.external is None:
        return replace(frame, parts_of=f"{frame.molecule}@{frame.how}", fragment="AB")
    return frame


def charge_of(smiles):
    """Formal charge of a SMILES without reading its bonds."""
    found = 0
    for inside in re.findall(r"\[([^\]]*)\]", smiles):
        for sign, count in re.findall(r"([+-])(\d*)", inside):
            found += (1 if sign == "+" else -1) * int(count or 1)
    return found


def first_molecule(frame):
    """Atoms of the first molecule of a complex; None where the two are not apart (a proton has moved, say)."""
    distance = np.linalg.norm(frame.positions[:, None] - frame.positions[None], axis=-1)
    radii = covalent_radii[frame.numbers]
    bonded = distance < 1.25 * (radii[:, None] + radii)
    reached = np.arange(len(frame)) == 0
    while (new := reached | bonded[reached].any(0)).sum() > reached.sum():
        reached = new
    size = int(reached.sum())
    rest = bonded[size:, size:]
    whole = np.linalg.matrix_power(rest.astype(float), max(len(rest), 1)).all() if size < len(frame) else False
    return size if reached[:size].all() and whole else None


def monomers(frames):
    """The molecules of complexes that are not among the frames, cut out as they are."""
    known = {(f.parts_of, f.fragment) for f in frames}
    for f in frames:
        size = first_molecule(f) if f.fragment == "AB" and f.multiplicity == 1 else None
        if size is None:
            continue
        charges = [charge_of(s) for s in f.molecule.split(".")]
        for name, part, charge in zip("AB", (slice(0, size), slice(size, None)), charges, strict=True):
            if (f.parts_of, name) not in known:
                cut = Atoms(f.numbers[part], f.positions[part])
                cut.info = {"complex": f.parts_of, "fragment": name, "smiles": f.molecule, "group": "fragment", "how": f.how,
                            "charge": charge, "multiplicity": 1}
                yield cut


def compared(models, parts, training, cache):
    """Scores by part and model: {part: {model: Scores as a dictionary}}."""
    atoms = [f for f in parts.get("atoms", ()) if f.charge == 0]
    whole = {name: [f for f in frames if f.fragment in (None, "AB")] for name, frames in parts.items() if name in TITLES}
    found = {name: {} for name in whole if whole[name]}
    for label, model in models.items():
        free = {int(f.numbers[0]): p.energy - f.energy for f, p in zip(atoms, predictions(model, atoms, cache), strict=True)}
        fitting = predictions(model, training, cache)
        for name in found:
            own = predictions(model, whole[name], cache)
            score = asdict(scores(whole[name], with_offsets(whole[name], own, training, fitting)))
            score["atomisation"] = scores(whole[name], own, free).atomisation
            if name == "complexes":
                every = predictions(model, parts[name], cache)
                score["interaction"] = scores(parts[name], every).interaction
            found[name][label] = score
    return found


def table(scored, order):
    """Markdown table of one part."""
    extra = {"interaction": ("interaction", 2)} if any(np.isfinite(s["interaction"]) for s in scored.values()) else {}
    columns = {k: v for k, v in (COLUMNS | extra).items() if k == "failed" or any(np.isfinite(s[k]) for s in scored.values())}
    lines = ["| model | " + " | ".join(h for h, _ in columns.values()) + " |", "|---" * (1 + len(columns)) + "|"]
    for label in order:
        cells = ["-" if not np.isfinite(scored[label][k]) else f"{scored[label][k]:.{d}f}" for k, (_, d) in columns.items()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def ratios(found, models, peers):
    """What the aims are about: errors over those of the best NDDO method and of GFN2-xTB, and their growth beyond small neutral
    molecules.
    """
    base = found.get("validation", {})
    if not base or not models:
        return []
    rows = ["forces", "relative", "atomisation"]
    lines = ["Errors on `validation` over those of the best other NDDO method, and of GFN2-xTB; errors of the forces of ions",
             "and radicals and of the energies per atom of the larger molecules over those on `validation`.", "",
             "| model | " + " | ".join(f"{row}: NDDO, GFN2-xTB" for row in rows) + " | ions | radicals | larger |",
             "|---" * (len(rows) + 4) + "|"]
    for label in models:
        cells = []
        for row in rows:
            classical = {p: base[p][row] for p in peers if p in NDDO and np.isfinite(base[p][row])}
            best = min(classical, key=classical.get) if classical else None
            cells.append(f"{base[label][row] / classical[best]:.2f} ({best})" if best else "-")
            cells[-1] += f", {base[label][row] / base['GFN2-xTB'][row]:.2f}" if "GFN2-xTB" in base else ", -"
        for name, row in (("ions", "forces"), ("radicals", "forces"), ("large", "energy_per_atom")):
            cells.append(f"{found[name][label][row] / base[label][row]:.2f}" if name in found else "-")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def markdown(found, counts, models, peers, training):
    """The part of the document between the marks."""
    order = [*models, *peers]
    lines = ["", ABOUT.replace("COUNT", str(len(training))), "", *ratios(found, models, peers), ""]
    for name, scored in found.items():
        c = counts[name]
        lines += [f"### {TITLES[name].capitalize()} (`{name}`)", "",
                  f"{c['frames']} frames of {c['molecules']} molecules, {c['smallest']} to {c['largest']} atoms"
                  + (f"; interaction energies of {c['interactions']} complexes." if c.get("interactions") else "."), "",
                  *table(scored, order), ""]
    return "\n".join(lines)


def counted(parts):
    """What each part holds."""
    found = {}
    for name, frames in parts.items():
        whole = [f for f in frames if f.fragment in (None, "AB")]
        have = {(f.parts_of, f.fragment) for f in frames}
        complexes = [f for f in whole if f.fragment == "AB" and {(f.parts_of, "A"), (f.parts_of, "B")} <= have]
        found[name] = {"frames": len(whole), "molecules": len({f.molecule for f in whole}),
                       "smallest": min(map(len, whole), default=0), "largest": max(map(len, whole), default=0),
                       "interactions": len(complexes)}
    return found


def inserted(path, text):
    """Put the text between the marks of a document."""
    before, _, rest = path.read_text().partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise SystemExit(f"{path} has no lines {MARKS[0]!r} and {MARKS[1]!r}: add them where the tables belong.")
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("labels", nargs="+", type=Path)
    parser.add_argument("--models", nargs="*", default=[], help="NAME=MODEL; the first is the one the aims are about")
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--cache", type=Path, default=Path("comparison_cache"))
    parser.add_argument("--docs", type=Path, help="document with the marks; its .json gets all numbers")
    parser.add_argument("--monomers", help="write the molecules of held-out complexes that have no label, and stop")
    parser.add_argument("--validation", type=float, default=0.1, help="fraction of molecules held out, as in training")
    parser.add_argument("--large", type=int, default=10, help="heavy atoms from which on molecules are never trained on")
    parser.add_argument("--offset-frames", type=int, default=800, help="training frames that offsets are fitted to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    frames = [named(f) for f in map(total, load(options.labels)) if f is not None and f.external is None]
    parts = split(frames, options.validation, options.large)
    training = limited(parts.get("train", []), options.offset_frames)
    held_out = {name: parts[name] for name in (*HELD_OUT, "atoms") if name in parts}
    if options.monomers:
        write(options.monomers, list(monomers(held_out.get("complexes", []))), format="extxyz")
        return
    models = dict(m.partition("=")[::2] if "=" in m else (Path(m).stem, m) for m in options.models)
    parents = [method(m.removesuffix("+D3BJ")).card for m in models.values()]
    peers = {p: p for p in dict.fromkeys([*(c.parent for c in parents if c), *options.peers])}
    found = compared(models | peers, held_out, training, options.cache)
    counts = counted(held_out)
    text = markdown(found, counts, list(models), list(peers), training)
    if options.docs:
        inserted(options.docs, text)
        record = {"data": content_hash(frames),
                  "models": {k: Path(m).name for k, m in models.items()}, "counts": counts, "scores": found}
        options.docs.with_suffix(".json").write_text(json.dumps(finite(record), indent=1) + "\n")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
