"""Speed of energy + forces on one thread, beside MOPAC's library and tblite where they are installed.

    OMP_NUM_THREADS=1 pytest benchmarks --benchmark-enable --benchmark-columns=min,median,rounds --benchmark-sort=name

Ratios within one run are what counts; machines differ. A cold calculation starts from atomic densities and makes its indices
anew.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.collections import g2
from ase.io import read

from nddo_ml import Hamiltonian, Molecules

torch.set_num_threads(1)
HERE = Path(__file__).parent / "molecules"
SINGLE = {
    "ethanol": lambda: molecule("CH3CH2OH"),
    "aspirin": lambda: read(HERE.parents[1] / "nddo_ml/data/molecules/aspirin.xyz"),
    "ala_10": lambda: read(HERE / "ala_10.xyz"),
    "ala_20": lambda: read(HERE / "ala_20.xyz"),
    "h2o_64": lambda: read(HERE / "h2o_64.xyz"),
}


def small_molecules(count=256):
    """Molecules of 3 to 14 atoms of H, C, N, O (the G2 set), each copy slightly displaced."""
    generator = np.random.default_rng(0)
    chosen = [
        a
        for a in (molecule(name) for name in g2.names)
        if 3 <= len(a) <= 14
        and set(a.numbers) <= {1, 6, 7, 8}
        and a.numbers.sum() % 2 == 0
        and not a.get_initial_magnetic_moments().any()
    ]
    found = []
    for k in range(count):
        atoms = chosen[k % len(chosen)].copy()
        atoms.positions += generator.normal(0, 0.02, atoms.positions.shape)
        found.append(atoms)
    return found


@pytest.mark.parametrize("method", ["AM1", "PM6"])
@pytest.mark.parametrize("name", SINGLE)
def test_single(benchmark, name, method):
    """A new molecule: indices, integrals, SCF from atomic densities, forces."""
    atoms = SINGLE[name]()
    model = Hamiltonian(method)
    molecules = Molecules.single(atoms.numbers, atoms.positions)

    def run():
        model.memory.forget()
        return model(molecules, forces=True)

    benchmark.group = f"{name} {method}"
    result = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.extra_info["iterations"] = result.iterations.tolist()


@pytest.mark.parametrize("method", ["AM1", "PM6"])
def test_batch(benchmark, method):
    """256 molecules in one call."""
    found = small_molecules()
    molecules = Molecules.batch([a.numbers for a in found], [a.positions for a in found])
    model = Hamiltonian(method)

    def run():
        model.memory.forget()
        return model(molecules, forces=True)

    benchmark.group = f"batch of 256 {method}"
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)


MOPAC = """
import sys, time
import numpy as np
from mopactools.api import MopacState, MopacSystem, from_data
data = np.load(sys.argv[1], allow_pickle=True).item()
times = []
for k in range(int(sys.argv[2])):
    start = time.perf_counter()
    for numbers, positions in data["molecules"]:
        system = MopacSystem()
        system.natom = system.natom_move = len(numbers)
        system.atom, system.coord, system.model = list(numbers), np.array(positions).ravel(), data["model"]
        system.charge, system.spin, system.epsilon = 0, 0, 1.0
        found = from_data(system, MopacState())
    times.append(time.perf_counter() - start)
print("TIMES", *times, flush=True)
import os
os._exit(0)
"""


@pytest.mark.parametrize("method", ["AM1", "PM6"])
@pytest.mark.parametrize("name", [*SINGLE, "batch of 256"])
def test_mopac_library(benchmark, name, method, tmp_path):
    """MOPAC's library on the same structures, energy and gradient, in a process of its own (it may crash on leaving)."""
    pytest.importorskip("mopactools")
    structures = small_molecules() if name.startswith("batch") else [SINGLE[name]()]
    data = {"molecules": [(a.get_chemical_symbols(), a.positions) for a in structures], "model": method}
    np.save(tmp_path / "in.npy", data, allow_pickle=True)

    def run():
        command = [sys.executable, "-c", MOPAC, str(tmp_path / "in.npy"), "5"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        line = [x for x in done.stdout.splitlines() if x.startswith("TIMES")]
        assert line, done.stderr[-2000:]
        return min(float(x) for x in line[0].split()[1:])

    benchmark.group = f"{name} {method}"
    benchmark.extra_info["seconds_inside"] = benchmark.pedantic(run, rounds=1)


@pytest.mark.parametrize("name", [*SINGLE, "batch of 256"])
def test_tblite(benchmark, name):
    """GFN2-xTB of tblite on the same structures."""
    tblite = pytest.importorskip("tblite.interface")
    structures = small_molecules() if name.startswith("batch") else [SINGLE[name]()]

    def run():
        for a in structures:
            calculator = tblite.Calculator("GFN2-xTB", a.numbers, a.positions / 0.529177210903)
            calculator.set("verbosity", 0)
            calculator.singlepoint().get("gradient")

    benchmark.group = f"{name} AM1"
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
