"""What a network costs: energy + forces beside its parent, and a training epoch.

    OMP_NUM_THREADS=1 pytest benchmarks/test_neural.py --benchmark-enable --benchmark-columns=min,median,rounds

A new network has zero shifts but does all the work of a trained one. Ratios within one run are what counts.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from ase.io import read

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.networks import build
from nddo_ml.training.batches import collate, draw, orbitals
from nddo_ml.training.config import TrainingSCF
from nddo_ml.training.dataset import read_frames, split
from nddo_ml.training.losses import Weights, Widths
from nddo_ml.training.optimiser import Average, MuonAdamW, clipped, trainable
from nddo_ml.training.starts import Densities
from nddo_ml.training.step import TrainingStep

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
MOLECULES = {"caffeine": ROOT / "nddo_ml/data/molecules/caffeine.xyz", "ala_4": Path(__file__).parent / "molecules/ala_4.xyz",
             "ala_10": Path(__file__).parent / "molecules/ala_10.xyz"}
PARENTS = ("RM1-smooth", "PM6-smooth")


def model(parent, kind):
    """The parent alone, or with a network."""
    network = {"parent": None, "message passing": {}, "symmetry functions": {"features": "symmetry functions"}}[kind]
    if network is None:
        return Hamiltonian(parent, dispersion=OMEGA_B97X_D3BJ)
    torch.manual_seed(0)
    return Hamiltonian(parent, network=build(network).requires_grad_(False), dispersion=OMEGA_B97X_D3BJ)


@pytest.mark.parametrize("kind", ["parent", "message passing", "symmetry functions"])
@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("name", MOLECULES)
def test_energy_and_forces(benchmark, name, parent, kind):
    """A molecule from atomic densities; indices are kept, as in dynamics."""
    atoms, hamiltonian = read(MOLECULES[name]), model(parent, kind)
    molecule = Molecules.single(atoms.numbers, atoms.positions)
    benchmark.extra_info["atoms"] = len(atoms)
    benchmark.pedantic(lambda: hamiltonian(molecule, forces=True), rounds=8, warmup_rounds=1)


@pytest.mark.parametrize("name", MOLECULES)
def test_shipped_model(benchmark, name):
    """The same with the newest shipped model, whose parent is RM1-smooth."""
    atoms, hamiltonian = read(MOLECULES[name]), Hamiltonian("neural")
    molecule = Molecules.single(atoms.numbers, atoms.positions)
    benchmark.extra_info["atoms"] = len(atoms)
    benchmark.pedantic(lambda: hamiltonian(molecule, forces=True), rounds=8, warmup_rounds=1)


@pytest.mark.parametrize("parent", PARENTS)
def test_training_epoch(benchmark, parent):
    """An epoch over 240 reference structures at order 2 with warm starts: `per_1000` seconds for 1,000 of them."""
    frames = split(read_frames(ROOT / "labels/pool.extxyz.gz"))["train"][:240]
    torch.manual_seed(0)
    hamiltonian = Hamiltonian(parent, network=build({}))
    step = TrainingStep(hamiltonian, Weights(), Widths(), TrainingSCF(), 0.3)
    optimiser, average, densities = MuonAdamW(hamiltonian), Average(trainable(hamiltonian), 0.99), Densities()
    sizes, channels = orbitals(hamiltonian.method, frames), [2 if f.multiplicity > 1 else 1 for f in frames]
    epochs = iter(range(100))

    def epoch():
        for index in draw(sizes, channels, 24, (0, next(epochs))):
            hamiltonian.zero_grad()
            step(frames, collate(frames, index), densities)
            clipped(trainable(hamiltonian), 1.0)
            optimiser.step(1e-4)
            average.update()

    benchmark.pedantic(epoch, rounds=3, warmup_rounds=1)
    if benchmark.enabled:
        benchmark.extra_info["per_1000"] = benchmark.stats.stats.min * 1000 / len(frames)
