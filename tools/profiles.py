"""Curves of a Hamiltonian against PySCF: torsions, hydrogen bonds, proton transfer, dissociation of bonds.

    python tools/profiles.py geometries FILE.extxyz                     (tblite, rdkit)
    nddo-ml label FILE.extxyz --output labels/profiles.extxyz           (pyscf; resumable, half an hour)
    python tools/profiles.py plot labels/profiles.extxyz docs/results/profiles --models NAME=MODEL [...]

Geometries are relaxed with GFN2-xTB along the coordinate or moved rigidly; every model is evaluated at the same ones. Curves
are relative to their own value where the reference has its minimum, those of hydrogen bonds to the two molecules. MODEL: as in
tools/peers.py. The plots are PNG, one a curve; curves.json beside them has the numbers and the mean absolute errors.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write

KCAL = 23.06054783061903
OO = (2.4, 2.6, 2.7, 2.8, 2.9, 3.0, 3.2, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0)
CC = (1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 5.0)
OH = (0.75, 0.85, 0.9, 0.96, 1.05, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 3.5, 4.0)
TITLES = {
    "butane": ("butane, C-C-C-C", "torsion, degrees"), "butadiene": ("butadiene, C=C-C=C", "torsion, degrees"),
    "water dimer": ("water dimer", "O...O, angstrom"), "formamide dimer": ("formamide dimer, cyclic", "shift, angstrom"),
    "malonaldehyde": ("malonaldehyde", "r(O-H) - r(H...O), angstrom"),
    "H5O2+": ("H2O-H-OH2+, O-O 2.7 angstrom", "proton off the middle, angstrom"),
    "ethane": ("H3C-CH3, unrestricted", "C-C, angstrom"), "water": ("HO-H, unrestricted", "O-H, angstrom"),
}
PROFILE, PART = "profile ", "part"
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
LOADED = {}     # Hamiltonians by name


# --- geometries

def point(atoms, curve, x, **info):
    """A geometry as one point of a curve; x is the coordinate, or "part" for a molecule alone."""
    made = Atoms(atoms.numbers, atoms.positions)
    made.info = {"group": f"{PROFILE}{curve}", "how": str(x), "charge": 0, "multiplicity": 1} | info
    return made


def relaxed(atoms, charge=0, constraints=()):
    """The geometry relaxed with GFN2-xTB under constraints of ASE."""
    from ase.optimize import BFGS
    from tblite.ase import TBLite

    atoms = atoms.copy()
    atoms.calc = TBLite(method="GFN2-xTB", charge=charge, verbosity=0)
    atoms.set_constraint(list(constraints))
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=400)
    return Atoms(atoms.numbers, atoms.positions)


def embedded(smiles):
    """A conformer with hydrogen atoms."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(molecule, randomSeed=7)
    return Atoms([a.GetSymbol() for a in molecule.GetAtoms()], molecule.GetConformer().GetPositions())


def torsion(curve, smiles):
    """The first four atoms of the SMILES turned from cis to trans, everything else relaxed."""
    from ase.constraints import FixInternals

    start = relaxed(embedded(smiles))
    for angle in range(180, -1, -15):
        start.set_dihedral(0, 1, 2, 3, angle, indices=beyond(start, 1, 2))
        start = relaxed(start, constraints=[FixInternals(dihedrals_deg=[[angle, [0, 1, 2, 3]]])])
        yield point(start, curve, angle)


def beyond(atoms, a, b):
    """The atoms on b's side of the bond a-b."""
    near = atoms.get_all_distances() < 1.8
    found, edge = {b}, [b]
    while edge:
        here = edge.pop()
        for k in np.flatnonzero(near[here]):
            if k not in found and not (here == b and k == a):
                found.add(int(k))
                edge.append(int(k))
    return sorted(found)


def pulled(curve, pair, size, axis, shifts):
    """Two rigid molecules of `size` atoms, the second at shifts along an axis; before, each of them alone."""
    direction = axis / np.linalg.norm(axis)
    for chosen in (slice(0, size), slice(size, None)):
        yield point(pair[chosen], curve, PART)
    for x, shift in shifts:
        moved = pair.copy()
        moved.positions[size:] += shift * direction
        yield point(moved, curve, x)


def water_dimer():
    start = Atoms("OH2OH2", [[0, 0, 0], [0.97, 0, 0], [-0.24, 0.93, 0], [2.9, 0, 0], [3.2, -0.5, 0.76], [3.2, -0.5, -0.76]])
    pair = relaxed(start)
    axis = pair.positions[3] - pair.positions[0]
    return pulled("water dimer", pair, 3, axis, [(r, r - np.linalg.norm(axis)) for r in OO])


def formamide_dimer():
    one = np.array([[0, 0, 0], [1.22, 0, 0], [-0.7, 1.15, 0], [-1.7, 1.1, 0], [-0.2, 2.02, 0], [-0.55, -0.95, 0.0]])
    pair = relaxed(Atoms("CONH3CONH3", np.concatenate([one, np.array([1.6, 4.1, 0.0]) - one])))
    axis = pair.positions[6:].mean(0) - pair.positions[:6].mean(0)
    shifts = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.4, 0.7, 1.2, 2.0, 4.0)
    return pulled("formamide dimer", pair, 6, axis, [(s, s) for s in shifts])


def malonaldehyde():
    from ase.constraints import FixInternals

    start = relaxed(embedded("O=CC=CO"))      # rdkit's conformer is closed by the constraint below
    o = [k for k, z in enumerate(start.numbers) if z == 8]
    h = next(k for k, z in enumerate(start.numbers) if z == 1 and start.get_distance(k, o[1]) < 1.2)
    start = chelate(start, o, h)
    for q in (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0):
        combination = [[h, o[0], 1.0], [h, o[1], -1.0]]
        towards = start.positions[o[0]] - start.positions[o[1]]     # a first step, or the constraint would never be looked at
        now = start.get_distance(h, o[0]) - start.get_distance(h, o[1])
        start.positions[h] += 0.5 * (now - q) * towards / np.linalg.norm(towards)
        start = relaxed(start, constraints=[FixInternals(bondcombos=[[q, combination]])])
        yield point(start, "malonaldehyde", q)


def chelate(atoms, o, h):
    """Malonaldehyde as the planar cis-enol with its internal hydrogen bond, in the same order of atoms (O=C-C=C-O)."""
    ring = {o[0]: [1.27, 0.0], 1: [1.22, 1.25], 2: [0.0, 1.95], 3: [-1.2, 1.3], o[1]: [-1.3, -0.02], h: [-0.4, -0.5]}
    around = {1: [2.15, 1.8], 2: [0.0, 3.04], 3: [-2.13, 1.87]}
    made = atoms.copy()
    for k, x in ring.items():
        made.positions[k] = [*x, 0.0]
    for k in range(len(atoms)):
        if atoms.numbers[k] == 1 and k != h:
            carbon = min(around, key=lambda c: atoms.get_distance(k, c))
            made.positions[k] = [*around[carbon], 0.0]
    return relaxed(made)


def shared_proton():
    start = Atoms("OH2OH2H", [[-1.35, 0, 0], [-1.9, 0.76, 0.2], [-1.9, -0.76, 0.2], [1.35, 0, 0], [1.9, 0.2, 0.76],
                              [1.9, 0.2, -0.76], [0, 0, 0]])
    from ase.constraints import FixAtoms

    middle = relaxed(start, charge=1, constraints=[FixAtoms([0, 3, 6])])
    for x in (0.0, 0.08, 0.16, 0.24, 0.32, 0.4, 0.48):
        moved = middle.copy()
        moved.positions[6, 0] += x
        yield point(moved, "H5O2+", x, charge=1)


def ethane():
    start = relaxed(embedded("CC"))
    order = [0, *[k for k in range(2, 8) if start.get_distance(0, k) < 1.4],
             1, *[k for k in range(2, 8) if start.get_distance(1, k) < 1.4]]
    start = start[order]
    axis = start.positions[4] - start.positions[0]
    for r in CC:
        moved = start.copy()
        moved.positions[4:] += axis * (r / np.linalg.norm(axis) - 1)
        yield point(moved, "ethane", r, unrestricted=True)


def water():
    start = relaxed(Atoms("OHH", [[0, 0, 0], [-0.24, 0.93, 0], [0.96, 0, 0]]))
    axis = start.positions[2] - start.positions[0]
    for r in OH:
        moved = start.copy()
        moved.positions[2] = moved.positions[0] + axis * r / np.linalg.norm(axis)
        yield point(moved, "water", r, unrestricted=True)


def geometries():
    """All points of all curves."""
    for curve in (water_dimer(), water(), shared_proton(), malonaldehyde(), ethane(), torsion("butadiene", "C=CC=C"),
                  formamide_dimer(), torsion("butane", "CCCC")):
        yield from curve


# --- evaluation and pictures

def curves(frames):
    """curve -> (its points in order of the coordinate, its two separate molecules or nothing)."""
    points, parts = defaultdict(list), defaultdict(list)
    for atoms in frames:
        name = atoms.info["group"].removeprefix(PROFILE)
        (parts if atoms.info["how"] == PART else points)[name].append(atoms)
    return {name: (sorted(found, key=coordinate), parts[name]) for name, found in points.items()}


def coordinate(atoms):
    """Where on its curve a point is."""
    return float(atoms.info["how"])


def reference_energy(atoms):
    """kcal/mol, dispersion included."""
    return KCAL * (atoms.info["ref_energy"] + atoms.info["ref_energy_d3"])


def energies(name, frames):
    """Energies of a model, kcal/mol; NaN where it fails. Bonds that break are unrestricted and led to their lowest state."""
    if name == "GFN2-xTB" or name.endswith("@mopac"):
        from peers import calculate

        return KCAL * np.array([p.energy for p in calculate(name, [frame_of(a) for a in frames])])
    return KCAL * np.array([own(name, a) for a in frames])


def own(name, atoms):
    """Energy of a Hamiltonian, eV."""
    from peers import hamiltonian

    from nddo_ml import Molecules

    if name not in LOADED:
        LOADED[name] = hamiltonian(name)
    model, info = LOADED[name], atoms.info
    molecule = Molecules.single(atoms.numbers, atoms.positions, info["charge"], info["multiplicity"])
    options = {"unrestricted": True, "stability": True} if info.get("unrestricted") else {}
    return float(model(molecule, raise_unconverged=False, **options).energy)


def frame_of(atoms):
    """The structure as other programs' adapters take it."""
    from types import SimpleNamespace

    info = atoms.info
    return SimpleNamespace(numbers=atoms.numbers, positions=atoms.positions, molecule=info["group"], how=str(info["how"]),
                           charge=int(info["charge"]), multiplicity=int(info["multiplicity"]))


def relative(values, parts, lowest):
    """A curve about its two molecules, or about its value where the reference is lowest."""
    return values - (parts.sum() if len(parts) else values[lowest])


def evaluated(frames, models):
    """curve -> x, reference, one list per model, mean absolute error of each; kcal/mol."""
    found = {}
    for name, (points, parts) in curves(frames).items():
        e, p = (np.array([reference_energy(a) for a in group]) for group in (points, parts))
        lowest = int(e.argmin())
        curve = {"x": [coordinate(a) for a in points], "reference": relative(e, p, lowest).tolist(), "models": {}, "errors": {}}
        for label, model in models.items():
            values = relative(energies(model, points), energies(model, parts) if parts else p, lowest)
            known = np.isfinite(values)
            curve["models"][label] = [v if k else None for v, k in zip(values.tolist(), known, strict=True)]
            curve["errors"][label] = float(np.abs(values - curve["reference"])[known].mean()) if known.any() else None
        found[name] = curve
    return found


def picture(path, name, curve):
    """One curve as a PNG."""
    import matplotlib.pyplot as plt

    title, along = TITLES[name]
    figure, axes = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    for k, (label, values) in enumerate(curve["models"].items()):
        lost, error = values.count(None), curve["errors"][label]
        said = "failed" if error is None else f"{error:.2f}" + (f", {lost} points failed" if lost else "")
        axes.plot(curve["x"], [np.nan if v is None else v for v in values], linestyle=STYLES[k % len(STYLES)],
                  label=f"{label} ({said})")
    axes.plot(curve["x"], curve["reference"], "ko", markersize=4, label="PySCF")
    low, high = min(curve["reference"]), max(curve["reference"])
    axes.set_ylim(low - 0.25 * (high - low), high + 0.35 * (high - low))
    axes.set(title=title, xlabel=along, ylabel="energy, kcal/mol")
    axes.legend(fontsize=7, title="mean absolute error", title_fontsize=7)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot(options):
    import sys

    import torch

    sys.path.insert(0, str(Path(__file__).parents[1]))
    torch.set_num_threads(1)
    models = dict(m.partition("=")[::2] if "=" in m else (Path(m).stem, m) for m in options.models)
    found = evaluated(read(options.reference, ":"), models)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, curve in found.items():
        picture(options.folder / f"{name.replace(' ', '_').replace('+', 'plus')}.png", name, curve)
    (options.folder / "curves.json").write_text(json.dumps(found, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("geometries", help="make the geometries")
    command.add_argument("output", type=Path)
    command.set_defaults(run=lambda options: write(options.output, list(geometries()), format="extxyz"))
    command = commands.add_parser("plot", help="curves of models beside those of PySCF")
    command.add_argument("reference", type=Path)
    command.add_argument("folder", type=Path)
    command.add_argument("--models", nargs="+", required=True, help="NAME=MODEL")
    command.set_defaults(run=plot)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
