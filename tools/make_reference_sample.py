"""A stratified sample of the reference records, small enough to live in the repository.

    python tools/make_reference_sample.py REFERENCE THEORY tests/data/reference

From every group the fewest records that together show each of its methods, elements, names, states, corrections, geometries and
distances (greedy set cover: `features` says what must appear); the groups of WHOLE complete. Coordinates and energies keep all
digits; what MOPAC prints beyond the accuracy of its SCF is rounded to two digits more than any tolerance needs. REFERENCE
holds the groups NN_name.jsonl, THEORY `reference_elements.csv`, `reference_molecules.csv` and `reference_geometries.xyz`, which
are copied whole.
"""

import argparse
import gzip
import json
from pathlib import Path

GROUPS = ("01", "02", "03", "04", "05", "06", "08", "10")
WHOLE = ("01_small_equilibrium", "01_small_amides_nomm", "04_dimers_pm6_corrections", "04_fd_gradients", "06_frequencies",
         "06_polarizability", "10_optimised_geometries")
THEORY_FILES = ("reference_elements.csv", "reference_molecules.csv", "reference_geometries.xyz")
LARGEST = 82            # atoms; larger systems stay in the long test
DECIMALS = {
    "gradient_kcal_mol_A": 7, "charges": 8, "spin_populations": 8, "dipole_D": 7, "orbital_energies_eV": 7,
    "orbital_energies_alpha_eV": 7, "orbital_energies_beta_eV": 7, "fd_gradient_kcal_mol_A": 7,
    "fd_hessian_kcal_mol_A2": 6, "fd_dipole_derivatives_D_A": 7,
}
DROPPED = ("tdhf_polarizability", "mopac_force_transition_dipole", "mopac_force_reduced_mass", "start_dipole")


def load(path):
    """Records of one group, each with its `id`, group:line."""
    with open(path) as lines:
        return [json.loads(line) | {"id": f"{path.stem}:{k}"} for k, line in enumerate(lines)]


def features(record):
    """What this record would show: a set of hashable facts."""
    method, results = record["method"], record["results"]
    gradient = results["gradient_kcal_mol_A"]
    unprinted = results["gradient_norm_kcal_mol_A"] > 0 and not any(v for row in gradient for v in row)
    shown = {("scf", method, record["scf"]), ("name", record["name"]), ("zero gradient", unprinted)}
    shown |= {("element", method, z) for z in record["numbers"]}
    shown |= {("state", method, record["charge"], record["multiplicity"])}
    shown |= {("correction", method, name) for name in results["corrections_kcal_mol"]}
    shown |= {("unique", method, record.get("scf_solution_unique"))}
    for key in ("geometry", "orientation"):
        if key in record:
            shown |= {(key, method, record[key]), (key, record["name"], record[key] if record["name"] == "HF" else None)}
    for key in ("centroid_distance_factor", "separation_angstrom", "r_angstrom"):
        if key in record:
            shown |= {(key, record["name"], record["scf"], record[key]), (key, method, record[key])}
    return shown


def cover(records):
    """The chosen records: at each step the one that shows most new facts per atom squared, until nothing new is left."""
    left = {r["id"]: features(r) for r in records}
    by_id = {r["id"]: r for r in records}
    missing, chosen = set().union(*left.values()), []
    while missing:
        best = max(left, key=lambda k: (len(left[k] & missing) / (10 + len(by_id[k]["numbers"])), k))
        missing -= left.pop(best)
        chosen.append(by_id[best])
    return sorted(chosen, key=lambda r: int(r["id"].split(":")[1]))


def rounded(value, decimals):
    """The nested list with every float rounded."""
    if isinstance(value, list):
        return [rounded(v, decimals) for v in value]
    return round(value, decimals) + 0.0


def compact(record):
    """The record with long arrays rounded and what no test uses left out."""
    results = {k: rounded(v, DECIMALS[k]) if k in DECIMALS else v for k, v in record["results"].items() if k not in DROPPED}
    return record | {"results": results}


def write(path, text):
    """Gzip without a time stamp, so that the same sample gives the same file."""
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("theory", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    lines, report = [], []
    for path in sorted(options.reference.glob("*.jsonl")):
        if path.stem[:2] not in GROUPS:
            continue
        records = [r for r in load(path) if r["scf"] != "MOZYME" and r["method"] != "PM6-DH2" and len(r["numbers"]) <= LARGEST]
        chosen = records if path.stem in WHOLE else cover(records)
        lines += [json.dumps(compact(r), separators=(",", ":")) for r in chosen]
        report.append(f"{path.stem}: {len(chosen)} of {len(records)}")
    write(options.output / "records.jsonl.gz", "\n".join(lines) + "\n")
    for name in THEORY_FILES:
        write(options.output / f"{name}.gz", (options.theory / name).read_text())
    total = sum(p.stat().st_size for p in options.output.iterdir())
    parser.exit(0, "\n".join(report) + f"\n{len(lines)} records, {total / 1e6:.2f} MB in {options.output}\n")


if __name__ == "__main__":
    main()
