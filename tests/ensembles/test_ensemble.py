"""Ensembles: means and spreads of their members, uncertainties that mean what they say, files that come back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule as ase_molecule
from ase.md.verlet import VelocityVerlet
from scipy.spatial.transform import Rotation
from scipy.stats import norm

from nddo_ml import Hamiltonian, Molecules, relax
from nddo_ml.active.calibrate import calibrated, errors, on_scale, opinions
from nddo_ml.active.plots import reliability_picture
from nddo_ml.ensembles.calibration import NORMAL, Calibration, Scale, fit, reliability
from nddo_ml.ensembles.ensemble import Ensemble
from nddo_ml.errors import IncompatibleFile, InvalidMolecule, SCFNotConverged, UnknownOption
from nddo_ml.hamiltonian import weights
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.interfaces.ensemble import EnsembleCalculator
from nddo_ml.networks import build
from nddo_ml.training.dataset import LabelledFrame

SETTINGS = {"channels": 6, "radial": 5, "layers": 1}
NAMES = ("H2O", "CH3OH", "HCN", "NH3")


def member(seed, size=0.1, parent="AM1", **more):
    """A Hamiltonian whose network was moved at random."""
    torch.manual_seed(seed)
    network = build({**SETTINGS, **more})
    with torch.no_grad():
        for p in network.parameters():
            p.add_(size * torch.randn_like(p))
    return Hamiltonian(parent, network=network)


def saved(folder, seeds=(0, 1, 2), level="a level", **more):
    paths = []
    for seed in seeds:
        paths.append(folder / f"m{seed}.safetensors")
        weights.save(member(seed, **more), paths[-1], f"m{seed}", weights.Origin(level, "0"))
    return paths


@pytest.fixture(scope="module")
def ensemble():
    return Ensemble([member(k) for k in range(3)])


@pytest.fixture(scope="module")
def molecules():
    found = [ase_molecule(name) for name in NAMES]
    return Molecules.batch([a.numbers for a in found], [a.positions for a in found])


# results

def test_means_and_spreads_are_those_of_the_members(ensemble, molecules):
    found = ensemble(molecules, forces=True)
    alone = [m(molecules, forces=True) for m in ensemble.members]
    for name in ("energy", "forces", "dipole", "charges"):
        stack = torch.stack([getattr(r, name) for r in alone])
        assert torch.allclose(getattr(found, name), stack.mean(0), atol=1e-6), "started from another density, the same state"
    assert torch.allclose(found.energy_spread, torch.stack([r.energy for r in alone]).std(0), atol=1e-6)
    assert torch.allclose(found.forces_spread, torch.stack([r.forces for r in alone]).std(0), atol=1e-6)
    assert float(found.energy_spread.min()) > 1e-3, "these members disagree"
    assert torch.equal(found.energy_uncertainty, found.energy_spread), "not calibrated yet"


def test_later_members_start_from_the_first_ones_density(molecules):
    """Members that disagree by some 0.3 eV in the energy, more than trained ones do."""
    ensemble = Ensemble([member(k, 0.005) for k in range(3)])
    found = ensemble(molecules)
    for k, m in enumerate(ensemble.members[1:], 1):
        assert int(found.members[k].iterations.sum()) < 0.7 * int(m(molecules).iterations.sum())
    again = ensemble(molecules, guess=found)
    assert int(again.members[0].iterations.sum()) < 0.5 * int(found.members[0].iterations.sum())
    assert torch.allclose(again.energy, found.energy, atol=1e-7)


def test_equal_members_are_certain(molecules):
    found = Ensemble([member(3), member(3)])(molecules, forces=True)
    assert float(found.energy_spread.max()) < 1e-6 and float(found.forces_spread.max()) < 1e-4


def test_uncertainty_of_an_atom_does_not_depend_on_the_direction(ensemble):
    atoms = ase_molecule("CH3OH")
    turn = Rotation.random(random_state=3).as_matrix()
    a, b = (ensemble(Molecules.single(atoms.numbers, x), forces=True) for x in (atoms.positions, atoms.positions @ turn.T))
    assert torch.allclose(a.atom_uncertainty, b.atom_uncertainty, atol=1e-7)
    assert not torch.allclose(a.forces_uncertainty, b.forces_uncertainty, atol=1e-3)
    assert torch.allclose(a.forces_uncertainty.square().mean(1).sqrt(), a.atom_uncertainty)


def test_one_member_that_fails_is_enough_to_know_nothing(ensemble, molecules):
    found = ensemble(molecules, forces=True, max_steps=1, raise_unconverged=False)
    assert not bool(found.converged.any())
    assert bool(torch.isnan(found.energy).all()) and bool(torch.isnan(found.atom_uncertainty).all())
    with pytest.raises(SCFNotConverged):
        ensemble(molecules.select([0]), max_steps=1)


def test_requests_that_an_ensemble_has_not_are_refused(ensemble, molecules):
    """It is differentiated by nothing: an order of derivatives, which a Hamiltonian has, would promise what is not there."""
    with pytest.raises(TypeError, match="no option 'order' here"):
        ensemble(molecules, order=2)


def test_an_ensemble_relaxes_like_a_hamiltonian(molecules):
    near = Ensemble([member(k, 0.02) for k in range(2)])
    found = relax(near, molecules.select([0]), fmax=0.02)
    assert float(near(found.molecules, forces=True).forces.abs().max()) < 0.02


# members

@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda f: [member(0)], UnknownOption, "two members or more"),
    (lambda f: str(saved(f)[0]), UnknownOption, "One name was given"),
    (lambda f: [member(0), Hamiltonian("AM1")], UnknownOption, "Member 1 of the ensemble, AM1, has no network"),
    (lambda f: [member(0), member(1, parent="PM3")], IncompatibleFile, "their parent: member 0 has AM1, member 1 has PM3"),
    (lambda f: [member(0), member(1, species=[1, 6])], IncompatibleFile, "share their elements"),
    (lambda f: [*saved(f, [0]), *saved(f, [1], "b")], IncompatibleFile, "theory: .*m0.safetensors has a level, .* has b"),
    (lambda f: [member(0), Hamiltonian("AM1", build(SETTINGS), OMEGA_B97X_D3BJ)], IncompatibleFile, "dispersion")])
def test_members_that_do_not_belong_together_are_refused(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        Ensemble(make(tmp_path))


# files

def test_files_come_back_and_may_move(tmp_path, molecules):
    (tmp_path / "here").mkdir()
    given = Calibration(Scale(2.0, 0.1, 0.9, 2.2), Scale(3.0), 40, reliability(np.ones(9), np.ones((9, 1))))
    made = Ensemble(saved(tmp_path / "here"), given)
    assert made.save(tmp_path / "here").name == "ensemble.json"
    moved = (tmp_path / "here").rename(tmp_path / "there")
    for source in (moved, moved / "ensemble.json", str(moved)):
        again = Ensemble.load(source)
        assert again.level == "a level" and json.dumps(again.calibration.as_dict()) == json.dumps(given.as_dict())
    a, b = made(molecules), again(molecules)
    assert torch.equal(a.energy_uncertainty, b.energy_uncertainty)
    assert torch.allclose(b.energy_uncertainty, (4.0 * b.energy_spread**2 + 0.01).sqrt())


def test_the_members_of_a_training_are_found(tmp_path):
    for k in range(2):
        (tmp_path / f"seed-{k}").mkdir()
        weights.save(member(k), tmp_path / f"seed-{k}" / "model.safetensors", "m", weights.Origin("x", "0"))
    found = Ensemble.load(tmp_path)
    assert len(found) == 2 and found.calibration == Calibration()


def test_foreign_files_are_refused_by_name(tmp_path):
    with pytest.raises(IncompatibleFile, match=r"holds no ensemble.json and 0"):
        Ensemble.load(tmp_path)
    with pytest.raises(IncompatibleFile, match="no ensemble"):
        Ensemble.load(tmp_path / "none.json")
    paths = saved(tmp_path)
    with pytest.raises(IncompatibleFile, match="not the JSON file"):
        Ensemble.load(paths[0])
    file = Ensemble(paths).save(tmp_path)
    said = json.loads(file.read_text())
    for change, message in (({"format": "x"}, "expected the format"), ({"sha256": ["0"]}, "hash of each member"),
                            ({"calibration": {"energy": 1}}, "no calibration of this version")):
        (tmp_path / "other.json").write_text(json.dumps(said | change))
        with pytest.raises(IncompatibleFile, match=message):
            Ensemble.load(tmp_path / "other.json")
    weights.save(member(9), paths[1], "m1", weights.Origin("a level", "0"))
    with pytest.raises(IncompatibleFile, match=r"m1.safetensors is not the file that .* was calibrated with"):
        Ensemble.load(tmp_path)
    paths[1].unlink()
    with pytest.raises(IncompatibleFile, match=r"names the member m1.safetensors, which is not there"):
        Ensemble.load(tmp_path)
    with pytest.raises(UnknownOption, match="has no file"):
        Ensemble([member(0), member(1)]).save(tmp_path / "x.json")


# calibration, on errors whose distribution is known

def drawn(scale, floor, n=4000, components=1, seed=0):
    """Spreads, and normal errors of variance (scale spread)^2 + floor^2."""
    random = np.random.default_rng(seed)
    spread = np.exp(random.normal(0, 0.8, n)) * 0.1
    return spread, random.standard_normal((n, components)) * np.sqrt((scale * spread)**2 + floor**2)[:, None]


@pytest.mark.parametrize(("scale", "floor"), [(1.0, 0.0), (3.0, 0.0), (0.4, 0.0), (2.0, 0.2), (0.5, 0.3)])
def test_scale_and_floor_are_recovered(scale, floor):
    """4,000 errors: 1.1 % is one standard deviation of a scale without a floor; with one, the two are correlated."""
    spread, error = drawn(scale, floor)
    found = fit(spread, error)
    assert found.scale == pytest.approx(scale, rel=0.04 if floor == 0 else 0.15)
    assert found.floor == pytest.approx(floor, rel=0.15) and (floor > 0) == (found.floor > 0)
    worth = reliability(found(spread), error)
    assert worth.reduced == pytest.approx(1.0, abs=1e-9), "unit variance is exact at the largest likelihood"
    assert worth.coverage_68 == pytest.approx(0.68, abs=0.02) and worth.coverage_95 == pytest.approx(0.95, abs=0.01)
    assert found.within_68 == pytest.approx(NORMAL[68], abs=0.05) and found.within_95 == pytest.approx(NORMAL[95], abs=0.08)
    assert worth.area < 0.015


def test_fit_does_not_depend_on_units():
    spread, error = drawn(2.0, 0.2)
    a, b = fit(spread, error), fit(1e3 * spread, 1e3 * error)
    assert b.scale == pytest.approx(a.scale, rel=1e-3) and b.floor == pytest.approx(1e3 * a.floor, rel=1e-3)


def test_components_share_their_spread():
    spread, error = drawn(1.5, 0.0, 2000, 3)
    assert fit(spread, error).scale == pytest.approx(fit(np.repeat(spread, 3), error.reshape(-1, 1)).scale, rel=1e-6)
    assert reliability(spread, error).errors == 6000


def test_members_that_agree_where_they_err_need_a_floor():
    random = np.random.default_rng(1)
    spread = np.concatenate([np.zeros(50), random.uniform(0.1, 1, 500)])
    error = np.concatenate([random.normal(0, 0.5, 50), random.normal(0, np.hypot(spread[50:], 0.5))])[:, None]
    found = fit(spread, error)
    assert found.floor == pytest.approx(0.5, rel=0.15) and np.isfinite(found(spread)).all()


def test_reliability_says_what_is_wrong():
    spread, error = drawn(1.0, 0.0)
    half = reliability(spread / 2, error)
    assert half.reduced == pytest.approx(2.0, rel=0.03) and half.coverage_68 == pytest.approx(2 * norm.cdf(0.497) - 1, abs=0.02)
    assert half.area > 0.15 > 0.01 > reliability(spread, error).area
    shuffled = np.random.default_rng(5).permutation(spread)
    assert reliability(spread, error).rank > 0.4 > 0.05 > abs(reliability(shuffled, error).rank)
    assert np.isnan(reliability(np.ones(20), error[:20]).rank)


def test_missing_values_are_left_out_and_too_few_refused():
    spread, error = drawn(2.0, 0.0, 100)
    holes = np.concatenate([spread, [np.nan, 1.0]]), np.concatenate([error, [[1.0], [np.nan]]])
    assert fit(*holes) == fit(spread, error) and reliability(*holes) == reliability(spread, error)
    with pytest.raises(UnknownOption, match="7 labelled errors to calibrate with"):
        fit(spread[:7], error[:7])


# calibration on frames

def labelled(ensemble, error, seed=2):
    """Distorted molecules whose labels are the ensemble's means plus normal errors of so many spreads."""
    random, found = np.random.default_rng(seed), []
    for k in range(80):
        atoms = ase_molecule(NAMES[k % 4])
        x = atoms.positions + random.normal(0, 0.05, (len(atoms), 3))
        found.append(LabelledFrame(f"x:{k}", f"molecule {k}", "core", "", atoms.numbers, x, 0, 1, 0.0, np.zeros_like(x)))
    said = opinions(ensemble, found)
    return [replace(f, energy=o.energy + error * o.energy_spread * random.standard_normal(),
                    forces=o.forces + error * o.atom_spread[:, None] * random.standard_normal(o.forces.shape))
            for f, o in zip(found, said, strict=True)]


def test_calibration_on_frames_finds_the_factor(ensemble, tmp_path):
    frames = labelled(ensemble, 2.5)
    found = calibrated(ensemble, frames)
    made = found.calibration
    assert made.frames == 80
    assert np.hypot(made.forces.scale, 0) == pytest.approx(2.5, rel=0.1), "of 1200 components"
    assert made.forces_reliability.reduced == pytest.approx(1.0, abs=0.1), "halves scaled by a fit to the other half"
    assert made.energy_reliability.reduced == pytest.approx(1.0, abs=0.3) and made.energy_reliability.errors == 80
    again = errors(frames, opinions(found, frames))
    assert reliability(again.energy_uncertainty, again.energy).reduced == pytest.approx(1.0, abs=1e-6)
    reliability_picture(again, made, tmp_path / "picture.png", "a title")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_labels_are_brought_to_the_scale_of_the_ensemble(ensemble):
    frame = replace(labelled(ensemble, 0.0)[0], dispersion_energy=-0.5, dispersion_forces=np.ones((3, 3)))
    dispersed = Ensemble([Hamiltonian("AM1", build(SETTINGS), OMEGA_B97X_D3BJ) for _ in range(2)])
    assert on_scale(ensemble, [frame])[0].energy == frame.energy
    assert on_scale(dispersed, [frame])[0].energy == frame.energy - 0.5
    ion = replace(frame, charge=1)
    assert np.isnan(on_scale(ensemble, [ion], offsets="fitted")[0].energy) and on_scale(ensemble, [ion])[0].energy == ion.energy


# the calculator

def test_calculator(ensemble):
    atoms = ase_molecule("CH3OH")
    atoms.calc = EnsembleCalculator(Ensemble(ensemble.members, Calibration(Scale(2.0), Scale(3.0))))
    found = ensemble(Molecules.single(atoms.numbers, atoms.positions), forces=True)
    assert atoms.get_potential_energy() == pytest.approx(float(found.energy), abs=1e-7)
    assert np.allclose(atoms.get_forces(), found.forces.numpy(), atol=1e-5)
    assert atoms.calc.results["energy_uncertainty"] == pytest.approx(2 * float(found.energy_spread), abs=1e-6)
    assert np.allclose(atoms.calc.results["forces_uncertainty"], 3 * found.forces_spread.numpy(), atol=1e-5)
    assert atoms.calc.results["atom_uncertainty"].shape == (6,)
    first = int(atoms.calc.result.members[0].iterations[0])
    VelocityVerlet(atoms, 0.2 * units.fs).run(2)
    assert int(atoms.calc.result.members[0].iterations[0]) < first, "the last density is the next guess"


def test_calculator_reads_files_and_refuses_clearly(tmp_path):
    Ensemble(saved(tmp_path, [0, 1])).save(tmp_path)
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    atoms.calc = EnsembleCalculator(tmp_path)
    assert np.isfinite(atoms.get_potential_energy()) and atoms.calc.result.molecules.unpaired.tolist() == [1]
    with pytest.raises(UnknownOption, match="no option 'metod'"):
        atoms.calc.set(metod="AM1")
    atoms.info["charge"] = -1
    assert np.isfinite(atoms.get_potential_energy()) and atoms.calc.result.molecules.unpaired.tolist() == [0]
    periodic = ase_molecule("H2O")
    periodic.pbc = True
    periodic.calc = EnsembleCalculator(tmp_path)
    with pytest.raises(InvalidMolecule, match="periodic"):
        periodic.get_potential_energy()
