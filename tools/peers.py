"""Predictions of other programs and of Hamiltonians for labelled frames, kept in a folder so that they are made once.

A model is named by a text: `GFN2-xTB` (tblite), `PM7@mopac` (MOPAC through mopactools, in a process of its own), otherwise what
`Hamiltonian` takes, a published method or a file of weights; `+D3BJ` at its end adds the dispersion of omegaB97X-D3(BJ).
Predictions are total energies (eV, each model's own zero), forces and dipoles of ions about the centre of mass.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

sys.path.insert(0, str(Path(__file__).parents[1]))
from nddo_ml import Hamiltonian
from nddo_ml.elements import dipole_masses
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.training.evaluate import FAILED, Prediction, predict
from nddo_ml.units import CODATA_2018

KCAL, DEBYE = CODATA_2018.kcal_mol, CODATA_2018.debye
CHUNK = 200          # frames that a kill may lose
DISPERSION = "+D3BJ"


def hamiltonian(name: str) -> Hamiltonian:
    """The Hamiltonian of a text."""
    return Hamiltonian(name.removesuffix(DISPERSION), dispersion=OMEGA_B97X_D3BJ if name.endswith(DISPERSION) else None)


def predictions(name, frames, folder):
    """Predictions of a model, from the folder where they are there, else calculated and put there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{identity(name)}.jsonl"
    known = recall(path)
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")                # a kill cut the last line: the next must not continue it
    keys = [key(f) for f in frames]
    missing = list({k: f for k, f in zip(keys, frames, strict=True) if k not in known}.items())
    for start in range(0, len(missing), CHUNK):
        part = missing[start:start + CHUNK]
        found = calculate(name, [f for _, f in part])
        with path.open("a") as file:
            for (k, _), prediction in zip(part, found, strict=True):
                known[k] = prediction
                file.write(json.dumps(written(k, prediction)) + "\n")
        sys.stderr.write(f"{name}: {min(start + CHUNK, len(missing))} of {len(missing)}\n")
    return [known[k] for k in keys]


def identity(name):
    """File name of a model: a file of weights counts by its content."""
    path = Path(name.removesuffix(DISPERSION))
    tail = DISPERSION if name.endswith(DISPERSION) else ""
    if path.is_file():
        return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}{tail}"
    return name.replace("/", "_")


def key(frame):
    """Hash of a structure with its charge and spin."""
    words = (frame.numbers.tobytes(), np.rint(frame.positions * 1e6).astype(np.int64).tobytes(),
             f"{frame.charge} {frame.multiplicity}".encode())
    return hashlib.sha256(b"|".join(words)).hexdigest()[:20]


def written(k, p):
    """A prediction as one record."""
    fine = np.isfinite(p.energy)
    return {"key": k, "energy": p.energy if fine else None, "forces": np.round(p.forces, 7).ravel().tolist() if fine else None,
            "dipole": None if p.dipole is None else np.round(p.dipole, 7).tolist(), "gap": p.gap, "s2": p.s2,
            "iterations": p.iterations}


def recall(path):
    """key -> prediction of a file; a last line cut by a kill is dropped."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            r = json.loads(line)
        except ValueError:
            continue
        found[r["key"]] = FAILED if r["energy"] is None else Prediction(
            r["energy"], np.array(r["forces"]).reshape(-1, 3), None if r["dipole"] is None else np.array(r["dipole"]), r["gap"],
            r["s2"], r["iterations"])
    return found


def calculate(name, frames):
    """Predictions of a model."""
    if name == "GFN2-xTB":
        return [xtb(f) for f in frames]
    if name.endswith("@mopac"):
        return mopac(name.removesuffix("@mopac"), frames)
    return predict(hamiltonian(name), frames)


def xtb(frame):
    """GFN2-xTB of a frame."""
    from tblite.ase import TBLite

    atoms = Atoms(frame.numbers, frame.positions)
    atoms.calc = TBLite(method="GFN2-xTB", charge=frame.charge, multiplicity=frame.multiplicity, accuracy=0.1, verbosity=0)
    try:
        energy, forces, dipole = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_dipole_moment()
    except Exception as error:   # tblite raises errors of its own kind, wrapped by ASE
        sys.stderr.write(f"GFN2-xTB, {frame.molecule} {frame.how}: {str(error)[:80]}\n")
        return FAILED
    return Prediction(float(energy), forces, about_centre_of_mass(dipole, frame))


def about_centre_of_mass(dipole, frame):
    """A dipole about the origin, moved to the centre of mass; the same for neutral molecules."""
    masses = dipole_masses(torch.from_numpy(frame.numbers)).numpy()
    return dipole - frame.charge * (masses[:, None] * frame.positions).sum(0) / masses.sum()


def mopac(method, frames):
    """A method of MOPAC; open shells unrestricted. A frame that ends the process is marked as failed and the rest goes on."""
    found = []
    while len(found) < len(frames):
        jobs = [{"method": method, "numbers": f.numbers.tolist(), "positions": f.positions.tolist(), "charge": f.charge,
                 "spin": (f.multiplicity - 1) // 2} for f in frames[len(found):]]
        done = subprocess.run([sys.executable, __file__], input=json.dumps(jobs), capture_output=True, text=True, check=False,
                              env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found += [Prediction(r["heat"] / KCAL, -np.array(r["gradient"]).reshape(-1, 3) / KCAL, np.array(r["dipole"]) / DEBYE)
                  if r else FAILED for r in records]
        if len(found) < len(frames):
            sys.stderr.write(f"MOPAC stopped at {frames[len(found)].molecule}: {done.stderr[-200:]}\n")
            found.append(FAILED)
    return found


def mopac_worker():
    """Standard input: structures; a line for each on standard output, {} where MOPAC reports an error."""
    from mopactools.api import MopacState, MopacSystem, from_data

    for job in json.load(sys.stdin):
        system = MopacSystem()
        system.natom = system.natom_move = len(job["numbers"])
        system.charge, system.spin, system.model, system.tolerance = job["charge"], job["spin"], job["method"], 0.01
        system.atom, system.coord = job["numbers"], np.array(job["positions"]).ravel()
        r = from_data(system, MopacState())
        good = not r.error_msg and np.isfinite(r.heat)
        record = {"heat": r.heat, "gradient": r.coord_deriv.tolist(), "dipole": r.dipole.tolist()} if good else {}
        print(json.dumps(record), flush=True)
    os._exit(0)          # the library may not survive an orderly end


if __name__ == "__main__":
    mopac_worker()
