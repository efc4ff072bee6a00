"""Remake the records of corrections.json that Debian's `mopac` can print: run it on the structures stored there and compare.

    python tests/data/make_corrections.py          prints every record whose stored values MOPAC does not reproduce
"""

import json
import pathlib
import re
import subprocess
import tempfile

LABELS = {"DISPERSION ENERGY": "dispersion", "H - H CORRECTION ENERGY": "hh_repulsion", "MM CORR. FOR -CO-NH-": "peptide",
          "H-BOND ENERGY": "hydrogen_bond", "MM CORRECTION FOR >N-": "nonplanar_nitrogen", "MM CORR. FOR Si-O-H": "si_o_h"}


def run(method, structure):
    """(heat of formation, printed corrections by name), kcal/mol, of one MOPAC single point."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        lines = [f"{z} {x:.9f} 1 {y:.9f} 1 {w:.9f} 1" for z, (x, y, w) in zip(structure["numbers"], structure["positions"],
                                                                             strict=True)]
        keywords = f"{method} 1SCF DISP GEO-OK AUX(PRECISION=9,XP,XS,MOS=1) THREADS=1 CHARGE={structure.get('charge', 0)}"
        (folder / "a.mop").write_text("\n".join([keywords + " XYZ ITRY=200 NOSYM LET", "", "", *lines, ""]))
        subprocess.run(["mopac", "a.mop"], cwd=folder, check=True, capture_output=True)
        heat = re.search(r"HEAT_OF_FORMATION:KCAL/MOL=(\S+)", (folder / "a.aux").read_text()).group(1)
        printed = re.findall(r"^ {10}([A-Z][^=\n]*?)\s*=\s*(-?\d+\.\d+) KCAL/MOL", (folder / "a.out").read_text(), re.M)
    return float(heat.replace("D", "E")), {LABELS[k]: float(v) for k, v in printed if k in LABELS and float(v)}


def main():
    data = json.loads(pathlib.Path(__file__).with_name("corrections.json").read_text())
    for record in data["records"]:
        structure = data["structures"][record["structure"]]
        heat, printed = run(record["method"], structure)
        worst = max((abs(printed.get(k, 0.0) - v) for k, v in record["kcal_mol"].items()), default=0.0)
        if "heat_minus_PM6" in record:
            worst = max(worst, abs(heat - run("PM6", structure)[0] - record["heat_minus_PM6"]))
        if worst > 1.1e-5:
            print(record["structure"], record["method"], worst, printed)


if __name__ == "__main__":
    main()
