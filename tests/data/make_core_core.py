"""Makes core_core.json: core-core repulsion energies of MOPAC 22.0.6 for tests/test_nuclear.py.

    python tests/data/make_core_core.py REFERENCE > tests/data/core_core.json

REFERENCE is a folder of MOPAC records (JSON lines with `core_repulsion_eV` to 1e-10 eV); the other molecules are run with the
`mopac` on the path, whose output shows five decimals. `rho_core` (bohr) of elements whose g_ss is recomputed from zsn is
added, so that the test needs no other integral.
"""

import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from nddo_ml.elements import number
from nddo_ml.methods import method

ORGANIC = ("formamide", "HNO3", "CH3F", "CF3I", "SiO", "SiF4", "CH3SiH3", "P4", "NH4+", "HOBr")
METALS = ("B2H6", "BCl3", "BF3", "Na2", "NaCl", "MgCl2", "AlF3", "LiF", "Mg(H2O)6_2+", "Zn(H2O)6_2+", "Mo(CO)6", "Fe(CO)5",
          "TiF4", "PbCl2", "XeF2", "KCl", "WF6")
WATER = [("O", 0, 0, 0), ("H", 0.96, 0, 0), ("H", -0.24, 0.93, 0)]
AMMONIA = [("N", 0, 0, 0), ("H", 0.96, 0.1, 0.2), ("H", -0.44, 0.93, 0), ("H", -0.44, -0.9, 0.1)]
HELIUM = [("N", 0, 0, 0), ("He", 0.9, 0.3, 0.2), ("H", -0.5, 0.8, 0.1), ("H", -0.5, -0.9, 0.1), ("H", -0.3, 0.1, 1.0)]
BORON = [("B", 0, 0, 0), ("Cl", 1.7, 0, 0.1), ("C", -0.8, 1.3, 0), ("H", -1.4, 1.3, 0.9), ("H", -1.4, 1.3, -0.9),
         ("H", -0.2, 2.2, 0.1), ("H", -0.6, -1, 0), ("N", 0.2, 0.2, 2.8),
         ("H", 0.2, 0.2, 3.8), ("H", 0.9, -0.4, 2.5), ("H", -0.8, 0.2, 2.6)]
MAGNESIUM = [("Mg", 0, 0, 0), ("S", 2.2, 0.1, 0.1), ("C", -1.5, 1.3, 0), ("H", -1.9, 1.3, 0.9), ("H", -1.9, 1.3, -0.9),
             ("H", -1.2, 2.2, 0.1), ("H", 2.5, 1.3, 0)]
ALUMINIUM = [("Al", 0, 0, 0), ("Al", 2.2, 0.1, 0.1), ("Na", 0, 2.9, 0.3), ("Na", 2, 3, 1), ("H", -1, -1, 0.2),
             ("C", 0, 0, 2.2), ("H", 1, 0, 2.4), ("H", -1, 0, 2.4), ("H", 0, 1, 2.4)]
CORES = {   # name here: name in MOPAC, charge of the molecule with it
    "+": ("+", 1), "-": ("-", -1), "++": ("++", 2), "+1/2": ("Fr", 0), "-1/2": ("At", 0),
    "Eu:sparkle": ("Eu", 3), "Gd:sparkle": ("Gd", 3),
}
BESIDE = {"AM1": ("+", "-", "Eu:sparkle"), "PM3": ("+", "Gd:sparkle"), "RM1": ("+", "++", "Eu:sparkle"), "MNDO": ("+", "-"),
          "PM6": tuple(CORES), "PM7": tuple(CORES)}


def r0(n, z):
    """Slater-Condon integral R0(ss,ss) in hartree of a Slater s function of quantum number n and exponent z."""
    def upper(a, m):
        return sum(math.factorial(a) / math.factorial(j) * b ** -(a - j + 1) * math.factorial(m + j) / (2 * b) ** (m + j + 1)
                   for j in range(a + 1))
    b = 2 * z
    norm = (b ** (2 * n + 1) / math.factorial(2 * n)) ** 2
    lower = math.factorial(2 * n) / b ** (2 * n + 1) * math.factorial(2 * n - 1) / b ** (2 * n) - upper(2 * n, 2 * n - 1)
    return norm * (lower + upper(2 * n - 1, 2 * n))


def rho_core(name, numbers):
    """EV/(2 g_ss) of the elements whose g_ss is recomputed and that have no rho_core of their own."""
    m = method(name)
    result = {}
    for z in set(numbers):
        k = int(m.rows(m.elements.number.new_tensor([z])))
        if int(m.elements.main_group[k]) == 0 and float(m.parameters.zsn[k]) > 0 and float(m.parameters.rho_core[k]) == 0:
            result[str(z)] = 0.5 / r0(int(m.elements.m_sp[k]), float(m.parameters.zsn[k]))
    return result


def record(name, method_name, numbers, positions, energy, tolerance):
    return {"name": name, "method": method_name, "numbers": numbers, "positions": positions, "core_repulsion_eV": energy,
            "tolerance": tolerance, "rho_core": rho_core(method_name, numbers)}


def printed(name, method_name, atoms, charge=0, keywords=""):
    """A record from the output of MOPAC, five decimals."""
    mopac = {"MNDO/d": "MNDOD"}.get(method_name, method_name)
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"{CORES.get(a, (a.split(':')[0],))[0]} {x} 0 {y} 0 {z} 0" for a, x, y, z in atoms]
        header = [f"{mopac} 1SCF PRECISE XYZ CHARGE={charge} DISP {keywords}", "", name]
        Path(folder, "a.mop").write_text("\n".join([*header, *lines, ""]))
        subprocess.run(["mopac", "a.mop"], cwd=folder, capture_output=True, check=True)
        energy = float(re.search(r"CORE-CORE REPULSION\s+=\s+(\S+) EV", Path(folder, "a.out").read_text())[1])
    return record(name, method_name, [number(a[0]) for a in atoms], [list(map(float, a[1:])) for a in atoms], energy, 6e-6)


def main(reference):
    records = []
    for file, names in (("01_small_equilibrium", ORGANIC), ("03_d_elements_rhf", METALS)):
        seen = set()
        for line in Path(reference, f"{file}.jsonl").read_text().splitlines():
            d = json.loads(line)
            key = d["name"], d["method"]
            if d["name"] in names and key not in seen:
                seen.add(key)
                records.append(record(*key, d["numbers"], d["coordinates_angstrom"], d["results"]["core_repulsion_eV"], 1e-9))
    for name in ("MNDO", "AM1", "PM3", "PM6", "PM7", "MNDO/d"):
        for title, atoms in (("helium", HELIUM), ("boron", BORON), ("magnesium", MAGNESIUM), ("aluminium", ALUMINIUM)):
            records.append(printed(title, name, atoms))
    for name, cores in BESIDE.items():
        for core in cores:
            symbol, charge = CORES[core]
            keywords = {"sparkle": "SPARKLE", "1/2": f"VDWM({symbol.upper()}=1.0)"}.get(core.split(":")[-1].lstrip("+-"), "")
            for title, atoms in (("water", WATER), ("ammonia", AMMONIA)):
                records.append(printed(f"{title} {core}", name, [*atoms, (core, 0.3, 0.4, 2.0)], charge, keywords))
    for name in ("AM1", "PM6", "PM7"):
        for second, charge in (("Gd:sparkle", 6), ("+", 4)):
            cores = [("Eu:sparkle", 0.3, 0.4, 1.9), (second, -1.2, -0.4, 2.4)]
            records.append(printed("water and two cores", name, [*WATER, *cores], charge, "SPARKLE"))
    print("[" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in records) + "]")


if __name__ == "__main__":
    main(sys.argv[1])
