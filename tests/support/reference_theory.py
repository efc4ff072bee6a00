"""The two tables of the equation sheet: every element of every method, and twenty molecules with ten methods.

They hold a heat, the norm of the dipole, and for the molecules the total energy of MOPAC 22.0.6.
"""

import csv
import gzip

import numpy as np
from support.reference import DATA, KCAL, TOLERANCE, Report, another_state, energy_tolerance, smooth_triple_bond


def theory():
    """The two tables of the equation sheet as records of closed shells: heat, norm of the dipole, of molecules the energy."""
    geometries = xyz(gzip.decompress((DATA / "reference_geometries.xyz.gz").read_bytes()).decode())
    records = []
    for row in table("reference_molecules.csv.gz"):
        symbols, coordinates = geometries[row["molecule"]]
        energy = float(row["E_total_eV"]) + float(row["E_corr_kcal_mol"]) / kcal(row["method"])
        records.append(theory_record(row, row["molecule"], symbols, coordinates, 0) | {"energy_eV": energy})
    for k, row in enumerate(table("reference_elements.csv.gz")):
        words = row["geometry_angstrom"].split()
        coordinates = [[float(v) for v in words[k + 1:k + 4]] for k in range(0, len(words), 4)]
        records.append(theory_record(row, f"{row['symbol']}{k}", words[::4], coordinates, int(row["charge"])))
    return records


def theory_record(row, name, symbols, coordinates, charge):
    """The fields `evaluate` needs, and the heat and the dipole's norm."""
    return {
        "id": f"theory:{row['method']}:{name}", "name": name, "method": row["method"], "scf": "RHF", "keywords": "",
        "kind": "theory", "symbols": symbols, "numbers": symbols, "coordinates_angstrom": coordinates, "charge": charge,
        "multiplicity": 1,
        "heat_of_formation_kcal_mol": float(row["HOF_kcal_mol"]), "dipole_norm_D": float(row["dipole_D"]),
        "dE_scf_eV": float(row.get("dE_scf_eV", 0.0)),
    }


def kcal(method):
    """kcal/mol per eV of a method."""
    return 23.061 if method == "MNDO/d" else KCAL


def compare_theory(record, computed) -> Report:
    """Heat, dipole norm and energy of a record of `theory`."""
    report = Report(record)
    if computed is None or not np.isfinite(computed.energy):
        report.add("energy", np.nan, verdict="fail", exempt="the SCF did not converge")
        return report
    smooth, _ = smooth_triple_bond(record | {"numbers": [6 if s == "C" else 0 for s in record["symbols"]]})
    triple = 12 * round(smooth / 12) - smooth          # MOPAC 22 counts a triple bond whole or not at all
    heat = computed.heat + triple - record["heat_of_formation_kcal_mol"]
    lower = f"lower than MOPAC by {-heat / KCAL:.6f} eV" if heat < -TOLERANCE["heat"] else ""
    report.add("heat", heat, verdict="lower" if lower else "", exempt=lower)
    soft = "MOPAC stopped before self-consistency" if record["dE_scf_eV"] < -1e-8 else ""
    report.add("dipole", np.linalg.norm(computed.dipole) - record["dipole_norm_D"], exempt=lower or soft)
    if "energy_eV" in record:
        report.add("energy", computed.energy + triple / KCAL - record["energy_eV"], energy_tolerance(record), lower)
    return another_state(report)


def table(name):
    """Rows of a stored CSV file without its comments."""
    lines = gzip.decompress((DATA / name).read_bytes()).decode().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def xyz(text):
    """name -> (symbols, coordinates) of concatenated xyz frames."""
    lines, found, at = text.splitlines(), {}, 0
    while at < len(lines):
        count = int(lines[at])
        rows = [line.split() for line in lines[at + 2:at + 2 + count]]
        found[lines[at + 1].strip()] = [r[0] for r in rows], [[float(v) for v in r[1:4]] for r in rows]
        at += count + 2
    return found
