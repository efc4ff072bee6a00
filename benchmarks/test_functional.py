r"""What a functional in torch costs: a Kohn-Sham matrix of aspirin (21 atoms) beside libxc.

    OMP_NUM_THREADS=1 pytest benchmarks/test_functional.py --benchmark-enable --benchmark-columns=min,median,rounds \
        --benchmark-timer=time.process_time

One SCF iteration is this matrix and a diagonalisation. Ratios of CPU time within one run are what counts.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from ase.io import read

from nddo_ml.functional import attach, load, names

pytest.importorskip("pyscf")
from pyscf import dft, gto, lib

torch.set_num_threads(1)
lib.num_threads(1)
MOLECULE = Path(__file__).parents[1] / "examples" / "aspirin.xyz"
OURS = [name for name in ("PBE", "R2SCAN", "PBE0", "neural-xc", "neural-xc-projected") if name in names()]


def mean_field(name, basis="def2-svp"):
    atoms = read(MOLECULE)
    mol = gto.M(atom=list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)), basis=basis, verbose=0)
    library, _, functional = name.partition(" ")
    mf = dft.RKS(mol, xc=functional) if library == "libxc" else attach(dft.RKS(mol), load(functional))
    mf = mf.density_fit()
    mf.grids.level = 1
    return mf


@pytest.mark.parametrize("name", ["libxc pbe", "libxc r2scan", "libxc pbe0", *(f"torch {name}" for name in OURS)])
def test_kohn_sham_matrix(benchmark, name):
    """Coulomb, exchange and correlation of a density whose grid and integrals are there."""
    mf = mean_field(name)
    P = mf.get_init_guess()
    mf.get_veff(dm=P)
    benchmark.pedantic(lambda: mf.get_veff(dm=P), rounds=3)
