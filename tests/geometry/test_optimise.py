"""Optimisation of single molecules and ragged batches on model potentials whose minima are known."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.optimize import BFGS

from nddo_ml.geometry.model_hessian import BACKGROUND, model_hessian
from nddo_ml.geometry.optimise import kept_apart, optimise
from nddo_ml.molecules import Molecules

NAMES = ["H2O", "CH3CH2OH", "C6H6", "isobutane", "CO2", "C2H2", "HCN", "CH3CONH2", "NH3"]


def morse(reference, depth=4.0, noise=0.0):
    """Morse bonds between all atoms of each molecule, at rest in the reference and weaker with distance; by molecule index."""
    r0 = [torch.pdist(torch.tensor(x)) for x in reference]

    def one(x, k):
        strength = depth * (1.2 / r0[k]).clamp(max=1) ** 4
        return (strength * (1 - torch.exp(-1.6 * (torch.pdist(x) - r0[k]))) ** 2).sum()

    def energy_forces(molecules):
        x = molecules.positions.detach().requires_grad_()
        # the tests name a molecule by its charge, which the potential itself does not use
        parts = zip(x.split(molecules.sizes), molecules.charge.tolist(), strict=True)
        energy = torch.stack([one(part, k) for part, k in parts])
        return energy.detach() + noise * torch.rand(len(energy), dtype=x.dtype), -torch.autograd.grad(energy.sum(), x)[0]
    return energy_forces


def rattled(names, scale=0.1, seed=0):
    noise = np.random.default_rng(seed)
    built = [molecule(name) for name in names]
    moved = [a.positions + noise.normal(scale=scale, size=a.positions.shape) for a in built]
    batch = Molecules.batch([a.numbers for a in built], moved, charge=list(range(len(names))))
    return batch, [a.positions for a in built]


@pytest.fixture(scope="module")
def relaxed():
    batch, reference = rattled(NAMES)
    energy_forces = morse(reference)
    return batch, reference, energy_forces, optimise(energy_forces, batch, fmax=1e-3)


def test_the_known_minima_are_found(relaxed):
    batch, reference, energy_forces, result = relaxed
    assert bool(result.converged.all()) and not bool(result.failed.any())
    assert result.energy.max() < 1e-4                     # fmax^2 / 2k with k of order 1 eV/angstrom^2
    for x, x0 in zip(result.molecules.positions.split(batch.sizes), reference, strict=True):
        assert (torch.pdist(x) - torch.pdist(torch.tensor(x0))).abs().max() < 0.02
    energy, forces = energy_forces(result.molecules)
    assert torch.equal(energy, result.energy) and torch.equal(forces, result.forces)
    assert forces.norm(dim=-1).max() < 1e-3
    assert torch.equal(result.molecules.numbers, batch.numbers) and torch.equal(result.molecules.charge, batch.charge)


def test_batch_equals_single(relaxed):
    batch, _, energy_forces, result = relaxed
    for k, x in enumerate(result.molecules.positions.split(batch.sizes)):
        alone = optimise(energy_forces, batch.select([k]), fmax=1e-3)
        assert int(alone.evaluations) == int(result.evaluations[k])
        assert (alone.molecules.positions - x).abs().max() < 1e-8


def test_fewer_evaluations_than_ase(relaxed):
    batch, _, energy_forces, result = relaxed
    counts = []
    for k, size in enumerate(batch.sizes):
        single = batch.select([k])

        class Morse(Calculator):
            implemented_properties = ("energy", "forces")

            def calculate(self, atoms=None, properties=None, system_changes=None, single=single, k=k):
                super().calculate(atoms, properties, system_changes)
                energy, forces = energy_forces(single.with_positions(torch.tensor(atoms.positions)))
                self.results = {"energy": float(energy), "forces": forces.numpy()}
                counts.append(k)
        atoms = Atoms(["X"] * size, single.positions.numpy(), calculator=Morse())
        BFGS(atoms, logfile=None).run(fmax=1e-3, steps=300)
    assert int(result.evaluations.sum()) < 0.8 * len(counts)


def test_energies_fall_and_the_callback_sees_every_evaluation():
    batch, reference = rattled(NAMES, scale=0.3, seed=4)
    seen, best = [], {}

    def callback(step):
        seen.append(step)
        for k, energy, accepted in zip(step.indices.tolist(), step.energy.tolist(), step.accepted.tolist(), strict=True):
            if accepted:
                assert energy <= best.get(k, energy) + 1e-7
                best[k] = energy
    result = optimise(morse(reference), batch, callback=callback)
    assert [step.round for step in seen] == list(range(len(seen))) and seen[-1].remaining == 0
    assert sum(len(step.indices) for step in seen) == int(result.evaluations.sum())
    assert [best[k] for k in range(len(batch))] == result.energy.tolist()
    assert bool((result.energy <= seen[0].energy).all())


def test_never_higher_than_the_start_even_with_a_noisy_energy():
    batch, reference = rattled(["CH3CH2OH", "NH3"], scale=0.02)
    noisy, first = morse(reference, noise=1e-3), []
    result = optimise(noisy, batch, fmax=1e-6, steps=60, callback=lambda step: first.append(step.energy))
    assert bool((result.energy <= first[0]).all())


def test_failed_members_are_flagged_and_leave_the_others_untouched():
    batch, reference = rattled(NAMES)
    good, bad = morse(reference), 3

    def energy_forces(molecules):
        energy, forces = good(molecules)
        lost = molecules.charge == bad
        return torch.where(lost, torch.nan, energy), torch.where(lost[molecules.molecule][:, None], torch.nan, forces)
    result, clean = optimise(energy_forces, batch), optimise(good, batch)
    assert result.failed.nonzero().flatten().tolist() == [bad] and not bool(result.converged[bad])
    assert int(result.evaluations[bad]) == 1 and bool(result.energy[bad].isnan())
    others = torch.arange(len(batch)) != bad
    assert torch.equal(result.energy[others], clean.energy[others]) and bool(result.converged[others].all())
    atoms = batch.molecule == bad
    assert torch.equal(result.molecules.positions[atoms], batch.positions[atoms]) and bool(result.forces[atoms].isnan().all())


def test_a_step_into_the_unknown_is_shortened():
    """NaN wherever the molecule left its start by more than 0.1 angstrom at once: the optimiser creeps up and still arrives."""
    batch, reference = rattled(["CH3CH2OH"], scale=0.15)
    good, last = morse(reference), [batch.positions]

    def energy_forces(molecules):
        energy, forces = good(molecules)
        if (molecules.positions - last[0]).norm(dim=-1).max() > 0.1:
            return energy * torch.nan, forces * torch.nan
        last[0] = molecules.positions
        return energy, forces
    result = optimise(energy_forces, batch)
    assert bool(result.converged.all())


def test_an_impossible_surface_ends_without_convergence():
    """Forces that point uphill: no step is ever accepted, the start comes back, not converged and not failed."""
    batch, reference = rattled(["NH3"])
    good = morse(reference)
    result = optimise(lambda m: (good(m)[0], -good(m)[1]), batch)
    assert not bool(result.converged) and not bool(result.failed) and int(result.evaluations) < 40
    assert torch.equal(result.molecules.positions, batch.positions)


def test_step_limit_atoms_and_a_start_at_the_minimum():
    batch, reference = rattled(["CH3CH2OH"])
    assert int(optimise(morse(reference), batch, steps=3).evaluations) == 3
    assert not bool(optimise(morse(reference), batch, steps=1).converged)
    at_rest = optimise(morse(reference), batch.with_positions(torch.tensor(reference[0])))
    assert bool(at_rest.converged) and int(at_rest.evaluations) == 1
    atom = optimise(morse([np.zeros((1, 3))]), Molecules.single([2], [[0.0, 0, 0]]))
    assert bool(atom.converged) and int(atom.evaluations) == 1


def padded(names, scale=0.1):
    batch, _ = rattled(names, scale)
    sizes = torch.tensor(batch.sizes)
    real = torch.arange(int(sizes.max())) < sizes[:, None]
    numbers = torch.zeros(real.shape, dtype=torch.long).masked_scatter(real, batch.numbers)
    return numbers, torch.zeros(*real.shape, 3, dtype=torch.float64).masked_scatter(real[..., None], batch.positions), real


@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.1])
def test_model_hessian_costs_nothing_for_rigid_motions_and_is_positive(scale):
    """Translation and rotation meet the background alone (stretches, bends, heights and torsions are internal coordinates)."""
    numbers, x, real = padded(NAMES, scale)
    hessian = model_hessian(numbers, x, real)
    assert torch.allclose(hessian, hessian.mT, atol=1e-12)
    assert torch.linalg.eigvalsh(hessian).min() > 0.999 * BACKGROUND
    for axis in torch.eye(3, dtype=torch.float64):
        for motion in (axis.expand_as(x), torch.linalg.cross(axis.expand_as(x), x)):
            flat = (motion * real[..., None]).flatten(1)
            excess = torch.einsum("mij,mj->mi", hessian, flat) - BACKGROUND * flat
            # a bend within 10 degrees of straight counts as straight: some of 6 eV x 2 x sin(10 degrees) is left about its axis
            straight = torch.tensor([name in ("CO2", "C2H2", "HCN") for name in NAMES])
            assert excess[~straight].abs().max() < 1e-10
            assert excess.abs().max() < 2.5


def test_model_hessian_turns_with_the_molecule_and_ignores_padding():
    numbers, x, real = padded(NAMES)
    turn = torch.linalg.qr(torch.tensor(np.random.default_rng(1).normal(size=(3, 3))))[0]
    turned = model_hessian(numbers, (x @ turn.T + 3) * real[..., None], real)
    both = torch.block_diag(*[turn] * x.shape[1])
    assert torch.allclose(turned, both @ model_hessian(numbers, x, real) @ both.T, atol=1e-9)
    alone = model_hessian(numbers[:1, :3], x[:1, :3], real[:1, :3])
    assert torch.allclose(alone, model_hessian(numbers, x, real)[:1, :9, :9], atol=1e-12)


@pytest.mark.parametrize("height", [0.15, 2e-3, 2e-5])
@pytest.mark.parametrize("name", ["CH3CH2OH", "NH3"])
def test_a_step_up_in_the_energy_is_climbed(name, height):
    """The energy jumps by `height` where the first bond is almost at rest, the forces know nothing of it."""
    batch, reference = rattled([name], scale=0.15, seed=2)
    good = morse(reference)

    def bond(positions):
        return float((positions[0] - positions[1]).norm())
    start, end = bond(batch.positions), bond(torch.tensor(reference[0]))

    def energy_forces(molecules):
        energy, forces = good(molecules)
        return energy + height * ((bond(molecules.positions) - (start + 9 * end) / 10) * (end - start) > 0), forces
    result = optimise(energy_forces, batch, fmax=1e-3)
    assert bool(result.converged) and not bool(result.stuck)
    assert float(result.energy) == pytest.approx(height, abs=1e-4)         # the minimum lies beyond the step
    # a high step is met; a low one may be hidden in the energy that a long step gains
    assert height < 0.1 or float(result.step) == pytest.approx(height, rel=0.1)
    smooth = optimise(good, batch, fmax=1e-3)
    assert float(smooth.step) == 0.0 and int(result.evaluations) < 3 * int(smooth.evaluations) + 10


def test_what_stopped_an_optimisation_is_told():
    batch, reference = rattled(["NH3"])
    good = morse(reference)
    seen = []

    def nowhere(molecules):
        energy, forces = good(molecules)
        seen.append(energy)
        return (energy, forces) if len(seen) == 1 else (energy * torch.nan, forces * torch.nan)
    lost = optimise(nowhere, batch)
    assert bool(lost.stuck) and bool(lost.lost) and not bool(lost.converged) and not bool(lost.failed)
    wrong = optimise(lambda m: (good(m)[0], -good(m)[1]), batch)
    assert bool(wrong.stuck) and not bool(wrong.lost) and float(wrong.step) == 0.0
    short = optimise(good, batch, steps=2)
    assert not bool(short.stuck) and not bool(short.lost) and not bool(short.converged)


def test_no_step_brings_atoms_together():
    """A step of 0.5 angstrom head on is halved until half the covalent distance is left; other molecules keep theirs."""
    numbers = torch.tensor([[1, 1], [1, 1]])
    x = torch.tensor([[[0.0, 0, 0], [0.74, 0, 0]], [[0.0, 0, 0], [2.0, 0, 0]]], dtype=torch.float64)
    step = torch.tensor([[[0.35, 0, 0], [-0.35, 0, 0]]] * 2, dtype=torch.float64)
    kept = kept_apart(numbers, x, torch.ones(2, 2, dtype=torch.bool), step)
    assert torch.equal(kept[1], step[1])
    assert torch.equal(kept[0], step[0] / 2)                                # 0.04 -> 0.39 angstrom, the limit is 0.28
    close = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0]]], dtype=torch.float64)   # nearer than that already: it may move apart
    apart = torch.tensor([[[-0.2, 0, 0], [0.2, 0, 0]]], dtype=torch.float64)
    assert torch.equal(kept_apart(numbers[:1], close, torch.ones(1, 2, dtype=torch.bool), apart), apart)


def test_fixed_directions_do_not_move_and_the_rest_comes_to_rest():
    names = ["CH3CH2OH", "NH3", "H2O"]
    batch, reference = rattled(names)
    energy_forces = morse(reference)
    rows = torch.eye(27, dtype=torch.float64)[[0, 1, 2, 3, 4, 5, 12]]        # both carbon atoms of ethanol, x of its atom 4
    slanted = torch.nn.functional.normalize(torch.ones(1, 12, dtype=torch.float64), dim=-1)
    fixed = [rows, slanted, None]
    result = optimise(energy_forces, batch, fmax=1e-3, fixed=fixed)
    assert bool(result.converged.all())
    moved = [x.flatten() for x in (result.molecules.positions - batch.positions).split(batch.sizes)]
    forces = [f.flatten() for f in energy_forces(result.molecules)[1].split(batch.sizes)]
    assert (rows @ moved[0]).abs().max() < 1e-12 and (slanted @ moved[1]).abs().max() < 1e-12
    assert (rows @ forces[0]).abs().max() > 0.1                              # held against a force
    for k, directions in enumerate(fixed):
        d = torch.zeros(1, len(forces[k]), dtype=torch.float64) if directions is None else directions
        assert (forces[k] - d.T @ (d @ forces[k])).reshape(-1, 3).norm(dim=-1).max() < 1e-3
        alone = optimise(energy_forces, batch.select([k]), fmax=1e-3, fixed=[directions])
        assert int(alone.evaluations) == int(result.evaluations[k])
