"""Golden values of MOPAC for what the stored reference lacks: half-electron open shells, bond orders, thermochemistry,
sparkles, pseudo-atoms, and molecules of our own choice.

    python tools/mopac_goldens.py tools/golden_structures.xyz tests/data/reference/goldens.jsonl.gz --parameters DIR

DIR holds the tables EHEAT and EISOL come from (`am1.csv`, `am1_sparkles.csv`, ...); MOPAC prints the energy of the atoms with
five decimals only. Each state is searched by several SCF routes; the lowest is kept and the heats of all are listed. A line of
the output is one record: heat, total energy without corrections, corrections, gradient, charges, dipole, orbital energies, bond
orders, and the whole input line.
"""

import argparse
import csv
import gzip
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

KCAL = 23.06054783061903
SYMBOLS = """X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe
Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi""".split()
PSEUDO = {"++": 103, "+": 104, "--": 105, "-": 106}
NUMBER = {s: z for z, s in enumerate(SYMBOLS)} | PSEUDO
METHODS = ("MNDO", "AM1", "PM3", "RM1", "PM6", "PM7")
PM6_FAMILY = ("PM6-D3", "PM6-DH+", "PM6-D3H4")
SINGLE_POINT = "1SCF PRECISE GRADIENTS SCFCRT=1.D-12 DISP BONDS AUX(PRECISION=9,MOS=99999,XS,XP) THREADS=1"
MULTIPLICITY = {1: "SINGLET", 2: "DOUBLET", 3: "TRIPLET"}
ROUTES = ("", "PULAY", "CAMP", "SHIFT=20")
STEP = 1e-3          # angstrom, five-point differences of the heat
LARGEST_FD = 14      # atoms
CORRECTIONS = {"DISPERSION ENERGY": "dispersion", "H-BOND ENERGY": "hydrogen_bond", "H - H CORRECTION ENERGY": "hh_repulsion",
               "MM CORR. FOR -CO-NH-": "mm_peptide", "MM CORRECTION FOR >N-": "mm_nitrogen_sp2",
               "MM CORR. FOR Si-O-H": "mm_si_o_h"}


def structures(path):
    """Yield records (name, kind, charge, multiplicity, symbols, coordinates_angstrom) of an xyz file (key=value comments)."""
    lines = Path(path).read_text().splitlines()
    at = 0
    while at < len(lines):
        count = int(lines[at])
        record = dict(word.split("=") for word in lines[at + 1].split())
        rows = [line.split() for line in lines[at + 2:at + 2 + count]]
        yield record | {"symbols": [r[0] for r in rows], "coordinates_angstrom": [[float(v) for v in r[1:4]] for r in rows]}
        at += count + 2


def mopac(keywords, symbols, coordinates, program):
    """(entries of the AUX file, text of the output) of one MOPAC job; ({}, text) where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [f"{s} " + " ".join(f"{v:.10f} 1" for v in x) for s, x in zip(symbols, coordinates, strict=True)]
        Path(folder, "job.mop").write_text("\n".join([keywords, "golden", "", *rows, ""]))
        try:
            subprocess.run([program, "job.mop"], cwd=folder, capture_output=True, timeout=600,
                           env=os.environ | {"OMP_NUM_THREADS": "1"})
        except subprocess.TimeoutExpired:
            return {}, "timeout"
        out, aux = Path(folder, "job.out"), Path(folder, "job.aux")
        text = out.read_text(errors="replace") if out.exists() else ""
        achieved = aux.exists() and ("SCF FIELD WAS ACHIEVED" in text or "FORCE" in keywords or "GNORM" in keywords)
        return (entries(aux.read_text(errors="replace")) if achieved else {}), text


def entries(text):
    """KEY or KEY:UNIT -> words of a MOPAC AUX file (comment lines dropped; a later entry replaces an earlier one)."""
    found, key = {}, None
    for line in text.splitlines():
        if line.strip().startswith("#"):
            continue
        head = re.match(r" ([A-Z][A-Z0-9_.()]*)(?::[^=\[]*)?(?:\[\d+\])?=(.*)$", line)
        if head:
            key = head.group(1)
            found[key] = head.group(2).split()
        elif key:
            found[key].extend(line.split())
    return found


def number(words):
    """The first word as a float (Fortran exponents)."""
    return float(words[0].replace("D", "E"))


def numbers(words):
    """All words as floats rounded to ten decimals; Fortran sometimes leaves no blank before a minus sign."""
    return [round(float(w.replace("D", "E")), 10) for w in re.findall(r"[-+]?\d+\.\d+(?:[DE][-+]?\d+)?", " ".join(words))]


def printed_corrections(text):
    """kcal/mol of the terms between ENERGY OF ATOMS and the final heat, as printed (five decimals)."""
    block = text.split("ENERGY OF ATOMS")[1].split("= FINAL HEAT OF FORMATION")[0] if "ENERGY OF ATOMS" in text else ""
    found = {}
    for label, value in re.findall(r"^\s+([A-Z][^=\n]+?)\s*=\s*(-?\d+\.\d+)\s*KCAL", block, re.M):
        if label != "SUM" and float(value) != 0:
            found[CORRECTIONS[label]] = float(value)
    return found


def atom_energies(folder):
    """(method, Z) -> EHEAT - KCAL EISOL, and (method, -Z) for the sparkle."""
    found = {}
    for method in METHODS:
        for name, sign in ((f"{method.lower()}.csv", 1), (f"{method.lower()}_sparkles.csv", -1)):
            path = Path(folder, name)
            if path.exists():
                rows = csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#"))
                for row in rows:
                    found[method, sign * int(row["Z"])] = float(row["EHEAT"] or 0) - KCAL * float(row.get("EISOL") or 0)
    return found


def energy_of_atoms(record, text, atoms):
    """kcal/mol: the tables' value plus 12 for every triple bond that MOPAC 22 counted, checked against the printed one."""
    base = record["method"].split("-")[0]
    sparkle = -1 if record["kind"] == "sparkle" else 1
    exact = 0.0
    for z in record["numbers"]:
        exact += 0.0 if z > 99 else atoms[base, -z if sparkle < 0 and 57 <= z <= 71 else z]
    printed = float(re.search(r"ENERGY OF ATOMS\s*=\s*(-?\d+\.\d+)", text).group(1))
    triple = round((printed - exact) / 12)
    if abs(printed - exact - 12 * triple) > 2e-4:
        raise ValueError(f"{record['name']} {record['method']}: energy of atoms {printed} printed, {exact} from the tables")
    return exact + 12 * triple


def single_point(record, aux, text, atoms):
    """The `results` of one record."""
    heat, total = number(aux["HEAT_OF_FORMATION"]), energy_of_atoms(record, text, atoms)
    corrections = printed_corrections(text)
    results = {
        "heat_of_formation_kcal_mol": heat,
        "energy_of_atoms_kcal_mol": round(total, 8),
        "corrections_kcal_mol": corrections,
        "total_energy_eV": (heat - total - sum(corrections.values())) / KCAL,
        "dipole_D": numbers(aux["DIP_VEC"]) if "DIP_VEC" in aux else [0.0] * 3,
        "charges": numbers(aux["ATOM_CHARGES"]),
        "mopac_bond_orders_lower_triangle": numbers(aux["BOND_ORDERS"]),
        "gradient_kcal_mol_A": triples(numbers(aux.get("GRADIENTS", []))),
        "gradient_norm_kcal_mol_A": number(aux["GRADIENT_NORM"]),
    }
    if "ALPHA_EIGENVALUES" in aux:
        results |= {"orbital_energies_alpha_eV": numbers(aux["ALPHA_EIGENVALUES"]),
                    "orbital_energies_beta_eV": numbers(aux["BETA_EIGENVALUES"]),
                    "s2": number(aux["TOTAL_SPIN"]), "spin_populations": spins(aux)} | bond_orders(aux)
    else:
        results["orbital_energies_eV"] = numbers(aux["EIGENVALUES"])
    return results


def bond_orders(aux):
    """Bond orders from MOPAC's own UHF orbitals (atoms x atoms): Wiberg, sum P^2, and Mayer, 2 sum (Pa^2 + Pb^2).

    What MOPAC prints for open shells is the first times n/(1/2 tr P^2), n the number of electrons.
    """
    atom = np.array([int(k) - 1 for k in aux["AO_ATOMINDEX"]])
    count, sites = len(atom), int(atom.max()) + 1
    density = []
    for spin in ("ALPHA", "BETA"):
        C = np.array(numbers(aux[f"{spin}_EIGENVECTORS"])).reshape(count, count)
        density.append((C.T * np.array([float(n) for n in aux[f"{spin}_MOLECULAR_ORBITAL_OCCUPANCIES"]])) @ C)
    a, b = density
    orders = {}
    for name, squared in (("wiberg_bond_orders", (a + b) ** 2), ("mayer_bond_orders", 2 * (a * a + b * b))):
        blocks = np.zeros((sites, sites))
        np.add.at(blocks, (atom[:, None], atom[None, :]), squared)
        np.fill_diagonal(blocks, 0.0)
        orders[name] = blocks.round(8).tolist()
    return orders


def triples(flat):
    """Three numbers per atom."""
    return [flat[k:k + 3] for k in range(0, len(flat), 3)]


def spins(aux):
    """Spin populations per atom from those of the orbitals."""
    total = [0.0] * len(aux["ATOM_CHARGES"])
    for atom, value in zip(aux["AO_ATOMINDEX"], numbers(aux["AO_SPINS"]), strict=True):
        total[int(atom) - 1] += value
    return [round(v, 10) for v in total]


def fd_gradient(keywords, record, program):
    """Five-point differences of the heat, kcal/mol/angstrom; None where a displaced SCF failed."""
    gradient = []
    for atom in range(len(record["symbols"])):
        row = []
        for axis in range(3):
            heats = []
            for k in (-2, -1, 1, 2):
                moved = [list(x) for x in record["coordinates_angstrom"]]
                moved[atom][axis] += k * STEP
                aux, _ = mopac(keywords, record["symbols"], moved, program)
                if not aux:
                    return None
                heats.append(number(aux["HEAT_OF_FORMATION"]))
            row.append((heats[0] - 8 * heats[1] + 8 * heats[2] - heats[3]) / (12 * STEP))
        gradient.append([round(v, 8) for v in row])
    return gradient


def state_keywords(record):
    """The part of the keywords that names the electronic state."""
    charge, multiplicity = int(record["charge"]), int(record["multiplicity"])
    words = [f"CHARGE={charge}"] if charge else []
    if record["scf"] == "half-electron":
        words += [f"RHF {MULTIPLICITY[multiplicity]} OPEN({'1,1' if multiplicity == 2 else '2,2'})"]
    elif multiplicity > 1:
        words += [f"UHF {MULTIPLICITY[multiplicity]}"]
    return " ".join(words + (["SPARKLE"] if record["kind"] == "sparkle" else []))


def golden(record, atoms, program):
    """The record with `keywords` and `results` of its lowest SCF solution, or None where no route converges."""
    solutions = {}
    for route in ROUTES:
        keywords = f"{record['method']} {SINGLE_POINT} {state_keywords(record)} {route}".strip()
        aux, text = mopac(keywords, record["symbols"], record["coordinates_angstrom"], program)
        if "HEAT_OF_FORMATION" in aux:
            solutions[route or "default"] = (number(aux["HEAT_OF_FORMATION"]), keywords, aux, text)
    if not solutions:
        return None
    heats = {name: value[0] for name, value in solutions.items()}
    _, keywords, aux, text = min(solutions.values(), key=lambda value: round(value[0], 6))
    found = dict(record)
    found["keywords"] = keywords
    found["scf_solutions_kcal_mol"] = heats
    found["scf_solution_unique"] = len(heats) > 1 and max(heats.values()) - min(heats.values()) < 1e-4
    found["results"] = single_point(record, aux, text, atoms)
    if record["scf"] == "half-electron" and len(record["symbols"]) <= LARGEST_FD:
        gradient = fd_gradient(keywords, record, program)
        if gradient:
            found["results"] |= {"fd_gradient_kcal_mol_A": gradient, "fd_step_angstrom": STEP}
    return found


def thermochemistry(record, atoms, program):
    """The record at MOPAC's own minimum, with frequencies and ideal-gas functions at 298 K and 1 atm."""
    opt = f"{record['method']} PRECISE GNORM=0.001 LET DDMIN=0.0 SCFCRT=1.D-12 EF AUX(PRECISION=9) THREADS=1"
    aux, _ = mopac(opt, record["symbols"], record["coordinates_angstrom"], program)
    if "ATOM_X_OPT" not in aux:
        return None
    record = record | {"coordinates_angstrom": triples(numbers(aux["ATOM_X_OPT"])), "keywords_optimisation": opt}
    found = golden(record, atoms, program)
    force = f"{record['method']} FORCE PRECISE THERMO(298,298) LET SCFCRT=1.D-12 AUX(PRECISION=9) THREADS=1"
    aux, text = mopac(force, record["symbols"], record["coordinates_angstrom"], program)
    if found is None or "ENTROPY_TOT" not in aux:
        return None
    found["keywords_force"] = force
    found["results"] |= {
        "point_group": re.search(r"MOLECULAR POINT GROUP\s*:\s*(\S+)", text).group(1),
        "atomic_masses_amu": numbers(aux["ISOTOPIC_MASSES"]),
        "mopac_force_frequencies_cm-1": numbers(aux["VIB._FREQ"]),
        "zero_point_energy_kcal_mol": number(aux["ZERO_POINT_ENERGY"]),
        "temperature_K": 298.0, "pressure_atm": 1.0,
        "enthalpy_cal_mol": number(aux["ENTHALPY_TOT"]), "entropy_cal_K_mol": number(aux["ENTROPY_TOT"]),
        "heat_capacity_cal_K_mol": number(aux["HEAT_CAPACITY_TOT"]),
    }
    return found


def jobs(path):
    """Yield the records to make: every structure with every method that has a meaning for it."""
    for record in structures(path):
        record["charge"], record["multiplicity"] = int(record["charge"]), int(record["multiplicity"])
        record["numbers"] = [NUMBER[s] for s in record["symbols"]]
        scf = "half-electron" if record["kind"] == "half_electron" else "UHF" if record["multiplicity"] > 1 else "RHF"
        family = PM6_FAMILY if record["kind"] == "parity" else ()
        for method in METHODS + family:
            if record["name"] == "water_dication" and method in ("AM1", "PM3"):
                continue        # MOPAC runs these without parameters for ++ and --
            yield record | {"method": method, "scf": scf}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("structures")
    parser.add_argument("output")
    parser.add_argument("--parameters", required=True)
    parser.add_argument("--program", default="/usr/bin/mopac")
    options = parser.parse_args()
    version = subprocess.run([options.program, "--version"], capture_output=True, text=True).stdout.split()[2]
    atoms, made, failed = atom_energies(options.parameters), 0, []
    with gzip.open(options.output, "wt", compresslevel=9) as out:
        for record in jobs(options.structures):
            try:
                make = thermochemistry if record["kind"] == "thermochemistry" else golden
                found = make(record, atoms, options.program)
            except KeyError as missing:
                found, reason = None, f"no {missing}"
            else:
                reason = "no SCF or no parameters"
            if found is None:
                failed.append(f"{record['name']} {record['method']}: {reason}")
                continue
            out.write(json.dumps(found | {"program": f"MOPAC {version}"}, separators=(",", ":")) + "\n")
            made += 1
    parser.exit(0, f"{made} records; not made: {len(failed)}\n" + "\n".join(failed) + "\n")


if __name__ == "__main__":
    main()
