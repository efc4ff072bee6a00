"""Labels: what a run writes, whatever it was interrupted by; sampling by its statistics; the queues by what they promise."""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.data import vdw_radii
from ase.io import read, write
from support.label_tasks import always_die, die_once, square
from typer.testing import CliRunner

from nddo_ml.cli.main import app
from nddo_ml.errors import IncompatibleFile, InvalidMolecule, MissingExtra, UnknownOption
from nddo_ml.interfaces.ase import NDDO
from nddo_ml.labels import clusters, sampling
from nddo_ml.labels.journal import Journal, text
from nddo_ml.labels.label import label, with_partners
from nddo_ml.labels.levels.catalogue import Own, level
from nddo_ml.labels.levels.theory import frame
from nddo_ml.labels.queue import Dask, Inline, Processes, queue
from nddo_ml.labels.sampling import Sampling, Source, plan
from nddo_ml.labels.structures import Structure, from_atoms, kind, lowest_multiplicity, read_smiles
from nddo_ml.properties.vibrations import WAVENUMBER_ENERGY, normal_modes

LEVEL = Own("AM1")
PHOSPHORUS = Atoms("P4", [[0, 0, 0], [1.56, 1.56, 0], [1.56, 0, 1.56], [0, 1.56, 1.56]])
CHEAP = partial(NDDO, "AM1", threads=1)


def water(shift=0.0):
    atoms = molecule("H2O")
    atoms.positions[1] += [0, shift, 0]
    return from_atoms(atoms)


def waters(count):
    return [Source(structure=water(0.01 * k)) for k in range(count)]


def run(path, sources, plan_=(), jobs=1, level_=LEVEL, **more):
    with Journal(path, level_.name) as journal, queue(jobs) as tasks:
        *_, last = label(sources, Sampling(plan_, CHEAP, method="AM1"), level_, journal, tasks, **more)
    return last


def nddo(*words):
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


# structures

def test_a_structure_survives_its_file(tmp_path):
    """Ids, charges, texts: what is read is what was written, also where the format has traps."""
    made = [Structure([1, 9], [[0, 0, 0], [0, 0, 0.923456785]], smiles=s, how="md 300 K")
            for s in (r"F/C=C\F", "[H]", "C#N", "a 'b'")]
    made += [Structure([8], [[0, -1e-12, 1 / 3]], -1, 2, point_charges=np.array([[1, 2, 3, -0.5]])),
             Structure([1, 1], [[0, 0, 0], [0, 0, 2]], 0, 1, unrestricted=True, complex="A.B@1", fragment="AB")]
    back = [from_atoms(read(io.StringIO(text(s.atoms)), format="extxyz")) for s in made]
    for a, b in zip(made, back, strict=True):
        assert a.id == b.id and (a.smiles, a.how, a.complex, a.fragment) == (b.smiles, b.how, b.complex, b.fragment)
    assert len({s.id for s in made}) == 3      # the four first are one structure: texts do not decide a label


def test_hydrogen_fluoride_is_not_false():
    atoms = Structure([1, 9], [[0, 0, 0], [0, 0, 0.92]], smiles="F").atoms
    assert read(io.StringIO(text(atoms)), format="extxyz").info["smiles"] == "[H]F"


def test_everything_that_decides_a_label_decides_the_id():
    a = water()
    others = [water(1e-6), Structure(a.numbers, a.positions, 2), Structure(a.numbers, a.positions, 0, 3),
              Structure(a.numbers, a.positions, unrestricted=True), Structure(a.numbers, a.positions, point_charges=np.ones((1, 4)))]
    assert len({a.id, *(o.id for o in others)}) == 6


def test_free_atoms_have_their_ground_state():
    """Experiment (NIST): H 2, C 3, N 4, O 3, F 2, P 4, S 3, Cl 2, Ne 1; ions like the isoelectronic atom."""
    found = {z: lowest_multiplicity([z], 0) for z in (1, 6, 7, 8, 9, 10, 15, 16, 17)}
    assert found == {1: 2, 6: 3, 7: 4, 8: 3, 9: 2, 10: 1, 15: 4, 16: 3, 17: 2}
    assert lowest_multiplicity([17], -1) == 1 and lowest_multiplicity([8], 1) == 4
    with pytest.raises(InvalidMolecule, match="Fe"):
        lowest_multiplicity([26], 2)


@pytest.mark.parametrize("change", [{"positions": [[0, 0, 0], [0, 0, 0.1]]}, {"multiplicity": 2}, {"multiplicity": 0},
                                    {"positions": [[0, 0, 0], [0, 0, np.nan]]}, {"charge": 3}, {"numbers": []}])
def test_what_cannot_be_labelled_is_refused(change):
    with pytest.raises(InvalidMolecule):
        Structure(**{"numbers": [1, 1], "positions": [[0, 0, 0], [0, 0, 0.74]]} | change)


def test_lists_of_smiles(tmp_path):
    (tmp_path / "a.smi").write_text("# comment\nCCO core\n\nC\n")
    (tmp_path / "b.json").write_text('["C", {"smiles": "N", "group": "core"}]')
    (tmp_path / "c.json").write_text('{"x": 1}')
    assert read_smiles(tmp_path / "a.smi") == [("CCO", "core"), ("C", "")]
    assert read_smiles(tmp_path / "b.json") == [("C", ""), ("N", "core")]
    with pytest.raises(IncompatibleFile, match=r"c\.json"):
        read_smiles(tmp_path / "c.json")


def test_charge_and_spin_come_from_the_file():
    radical = from_atoms(molecule("CH3CH2O"))       # ASE brings its initial magnetic moments
    assert (radical.multiplicity, radical.group) == (2, "radical")
    atoms = molecule("CH3CH2O")
    atoms.info["multiplicity"] = 4
    with pytest.raises(InvalidMolecule, match=r"Contradicting values of the multiplicity: 4 .* 2 from"):
        from_atoms(atoms)


# levels

def test_an_own_method_labels_what_the_calculator_finds():
    ion = molecule("CH3CH2O")
    ion.set_initial_magnetic_moments(None)
    ion.info |= {"charge": -1, "multiplicity": 1}
    found = frame(from_atoms(ion), LEVEL(from_atoms(ion)), LEVEL)
    ion.calc = NDDO("AM1")
    assert found.info["ref_energy"] == pytest.approx(ion.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(found.arrays["ref_forces"], ion.get_forces(), atol=1e-5)
    # about the origin: the dipole of an ion moves with it, by its charge
    moved = Structure(ion.numbers, ion.positions + [0, 0, 5], -1)
    np.testing.assert_allclose(LEVEL(moved).dipole - found.info["ref_dipole"], [0, 0, -5], atol=1e-5)
    assert found.info["ref_dispersion"] == "included" and found.info["level"] == "AM1"


def test_point_charges_come_with_their_forces():
    bare = water()
    s = Structure(bare.numbers, bare.positions, point_charges=np.array([[0, 0, 3.0, -0.8], [2.5, 1, 0, 0.4]]))
    found, step = LEVEL(s), 1e-3
    shifted = [Structure(s.numbers, s.positions, point_charges=s.point_charges + d * np.array([[0, 0, step, 0], [0] * 4])) for d in (1, -1)]
    slope = (LEVEL(shifted[0]).energy - LEVEL(shifted[1]).energy) / (2 * step)
    assert found.point_charge_forces[0, 2] == pytest.approx(-slope, abs=1e-5) and abs(slope) > 0.01
    np.testing.assert_allclose(found.forces.sum(0) + found.point_charge_forces.sum(0), 0, atol=1e-6)


def test_unknown_levels_are_refused_by_name(monkeypatch):
    with pytest.raises(UnknownOption, match="PM6 has no basis"):
        level("PM6", basis="sto-3g")
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nddo_ml\[train\]'"):
        level()
    monkeypatch.setitem(sys.modules, "tblite", None)
    with pytest.raises(MissingExtra, match=r"nddo_ml\[train\]"):
        level("GFN2-xTB")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match=r"nddo_ml\[cluster\]"):
        queue(1, "local")


# sampling

def test_plans():
    assert [(s.name, s.count, s.temperatures) for s in plan("conformers:4, md:300/600:2,modes:3")] == [
        ("conformers", 4, ()), ("md", 2, (300.0, 600.0)), ("modes", 3, (300.0,))]
    for wrong in ("md:x:2", "walks:2", "md:300:0", "dimers:300:2", "md:1:2:3"):
        with pytest.raises(UnknownOption, match="step of sampling"):
            plan(wrong)


def test_displacements_have_the_width_of_quantum_oscillators():
    """<(x_O)^2> of many displacements against the sum over modes of the formula; 400 draws: 7 % noise, three of it allowed."""
    start = sampling.relaxed(water(), CHEAP, fmax=1e-3)
    drawn = sampling.displacements(start, sampling.Step("modes", 400, (300.0,)), CHEAP, np.random.default_rng(1))
    found = np.mean([(s.positions - start.positions) ** 2 for s in drawn], 0)
    hessian = CHEAP().get_hessian(start.atoms)
    modes = normal_modes(hessian, torch.tensor(start.atoms.get_masses()), torch.tensor(start.positions))
    E = modes.frequencies.numpy() * WAVENUMBER_ENERGY
    width = sampling.HBAR_SQUARED / (2 * E) / np.tanh(E / (2 * units.kB * 300))
    expected = np.einsum("m,max->ax", width, modes.modes.numpy() ** 2)
    large = expected > 1e-3
    assert large.sum() >= 4
    np.testing.assert_allclose(found[large], expected[large], rtol=0.22)


@pytest.mark.parametrize("scale", [0.85, 1.0, 1.5])
def test_dimers_touch_at_their_distance(scale):
    a, b = clusters.placed(water(), from_atoms(molecule("CH4")), scale, np.random.default_rng(3))
    d = np.linalg.norm(a.positions[:, None] - b.positions[None], axis=-1)
    radii = [np.minimum(vdw_radii[s.numbers], clusters.CONTACT) for s in (a, b)]
    assert (d / (radii[0][:, None] + radii[1][None])).min() == pytest.approx(scale, abs=1e-6)
    for s, reference in ((a, water()), (b, from_atoms(molecule("CH4")))):      # rigid, not mirrored
        np.testing.assert_allclose(s.atoms.get_all_distances(), reference.atoms.get_all_distances(), atol=1e-7)


def test_interactions_come_with_their_fragments():
    """Relaxed, as placed, pulled apart: each time the two molecules are those of the complex, atom by atom."""
    found = sampling.dimers(water(), from_atoms(molecule("NH3")), sampling.Step("interactions", 4), CHEAP,
                            np.random.default_rng(1))
    assert len(found) == 12 and len({s.complex for s in found}) == 4
    for pair, a, b in zip(found[::3], found[1::3], found[2::3], strict=True):
        np.testing.assert_array_equal(pair.positions, np.concatenate([a.positions, b.positions]))
        assert (pair.fragment, a.fragment, b.fragment) == ("AB", "A", "B") and pair.complex == a.complex == b.complex != ""
    assert ["relaxed" in s.how for s in found[::3]] == [True, False, True, False]
    assert [" x" in s.how for s in found[::3]] == [False, False, True, False]


def test_molecules_that_have_joined_are_no_complex():
    bonded = from_atoms(molecule("C2H6"))
    halves = [replace(bonded, numbers=bonded.numbers[k], positions=bonded.positions[k], multiplicity=2)
              for k in ([0, 2, 3, 4], [1, 5, 6, 7])]
    assert sampling._with_parts(clusters.joined(*halves, "complex"), *halves, 1.0) == []


def test_stretches_change_one_bond():
    ethanol = from_atoms(molecule("CH3CH2OH"))
    for s in sampling.stretches(ethanol, sampling.Step("bonds", 6), np.random.default_rng(0)):
        i, j = (int("".join(filter(str.isdigit, w))) for w in s.how.split()[1].split("-"))
        factor = float(s.how.split("x")[-1])
        old, new = ethanol.atoms.get_all_distances(), s.atoms.get_all_distances()
        assert new[i, j] == pytest.approx(factor * old[i, j], abs=0.01)
        sides = [set(np.flatnonzero(np.isclose(new[k], old[k], atol=1e-6))) for k in (i, j)]
        assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == len(ethanol.numbers)
        assert s.unrestricted == (factor > sampling.BREAKING) or abs(factor - sampling.BREAKING) < 0.01
    with pytest.raises(InvalidMolecule, match="ring"):
        sampling.stretches(from_atoms(PHOSPHORUS), sampling.Step("bonds", 1), np.random.default_rng(0))


def test_torsions_turn_rigid_parts():
    ethanol = from_atoms(molecule("CH3CH2OH"))
    old = ethanol.atoms.get_all_distances()
    found = sampling.torsions(ethanol, sampling.Step("torsions", 8), np.random.default_rng(0))
    assert len(found) == 8 and len({s.how for s in found}) == 8
    for s in found:
        i, j = (int("".join(filter(str.isdigit, w))) for w in s.how.split()[1].split("-"))
        new, angle = s.atoms.get_all_distances(), float(s.how.split()[2])
        assert new[i, j] == pytest.approx(old[i, j]) and sampling._bonds(s) == sampling._bonds(ethanol)
        a, b = (next(p + q - k for p, q in sampling._bonds(ethanol) if k in (p, q) and {p, q} != {i, j}) for k in (i, j))
        turned = s.atoms.get_dihedral(a, i, j, b) - ethanol.atoms.get_dihedral(a, i, j, b)
        assert (turned - angle + 180) % 360 - 180 == pytest.approx(0, abs=0.51)
        for k in (i, j):                                # what hangs on either end of the bond keeps its distance to both ends
            np.testing.assert_allclose(new[k], old[k], atol=1e-6)
    with pytest.raises(InvalidMolecule, match="rotate"):
        sampling.torsions(water(), sampling.Step("torsions", 1), np.random.default_rng(0))


def test_sampling_repeats_itself_and_reports_what_fails(monkeypatch):
    monkeypatch.setattr(sampling, "BETWEEN", 20)
    task = Sampling(plan("md:300:1,bonds:1,dimers:2"), CHEAP, seed=3, charged=1.0, method="AM1"), waters(1)[0]
    (first, failed), (second, _) = sampling.sampled(task), sampling.sampled(task)
    assert [s.id for s in first] == [s.id for s in second] and not failed
    plain, charged = first[:5], first[5:]
    assert [s.how.partition(" ")[0] for s in plain] == ["", "md", "bond", "complex", "complex"]
    assert len(charged) == 5 and all(s.point_charges is not None for s in charged)
    for s in charged:
        assert np.linalg.norm(s.point_charges[:, None, :3] - s.positions[None], axis=-1).min() > 2.0
    ring = Source(structure=from_atoms(PHOSPHORUS))
    _, failed = sampling.sampled((Sampling(plan("bonds:1"), CHEAP), ring))
    assert len(failed) == 1 and "ring" in failed[0]


def test_free_atoms_are_labelled_once():
    found, _ = sampling.sampled((Sampling(plan("md:300:2,bonds:1"), CHEAP), Source(structure=from_atoms(molecule("O")))))
    assert [s.how for s in found] == ["atom"] and kind(found[0]) == "radical"


def test_partners_come_from_the_list():
    sources = with_partners([*waters(3), Source(smiles="O.N")], 0)
    assert sources[3].partner is None and {s.partner.name for s in sources[:3]} <= {s.name for s in sources[:3]}


# queues

def drained(tasks):
    return {o.argument: o.error.partition(":")[0] or o.value for o in tasks.completed()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_queues_complete_everything(jobs, tmp_path):
    """Errors are outcomes, tasks may be added while outcomes are read, and a dying worker costs its own task only."""
    with queue(jobs) as tasks:
        assert list(tasks.completed()) == [] and tasks.width == jobs
        for x in (1, 2, 3):
            tasks.submit(square, x)
        found = {}
        for outcome in tasks.completed():
            found[outcome.argument] = outcome.error or outcome.value
            if outcome.argument == 1:
                tasks.submit(square, 5)
        assert found.pop(3).startswith("ValueError: three") and found == {1: 1, 2: 4, 5: 25} and tasks.pending == 0
        if jobs == 2:
            tasks.submit(die_once, str(tmp_path / "mark"))
            tasks.submit(always_die, "always")
            for x in (4, 6):
                tasks.submit(square, x)
            assert drained(tasks) == {str(tmp_path / "mark"): "survived", "always": "WorkerDied", 4: 16, 6: 36}


def test_harvest_without_waiting():
    with Inline() as tasks:
        tasks.submit(square, 2)
        assert [o.value for o in tasks.completed(wait=False)] == [4] and tasks.pending == 0
    with pytest.raises(UnknownOption):
        queue(0)


def test_dask(tmp_path):
    pytest.importorskip("distributed")
    with queue(1, "local") as tasks:
        for x in (1, 2, 3):
            tasks.submit(square, x)
        assert drained(tasks) == {1: 1, 2: 4, 3: "ValueError"}
        with Journal(tmp_path / "l.extxyz", LEVEL.name) as journal:
            *_, last = label(waters(2), Sampling((), CHEAP), LEVEL, journal, tasks)
    assert last.labelled == 2 and len(read(tmp_path / "l.extxyz", ":")) == 2


def test_a_dask_scheduler_that_is_not_there():
    pytest.importorskip("distributed")
    absent = Dask("tcp://127.0.0.1:1")
    absent.patience = 1
    with pytest.raises(ConnectionError, match="no Dask scheduler"), absent:
        pass


# runs

def test_a_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "l.extxyz"
    assert run(path, waters(2)).labelled == 2
    last = run(path, [*waters(3), *waters(1)])
    assert (last.labelled, last.kept, last.duplicates, last.errors) == (1, 2, 1, 0)
    frames = read(path, ":")
    assert len({f.info["id"] for f in frames}) == len(frames) == 3
    assert all(f.info["code"].startswith("nddo_ml ") and f.info["level"] == "AM1" for f in frames)


def test_a_torn_end_is_cut_wherever_it_tears(tmp_path):
    """Killed in the middle of a record, at any byte of it: the run finishes with the same frames."""
    path = tmp_path / "l.extxyz"
    run(path, waters(2))
    whole, ids = path.read_bytes(), [f.info["id"] for f in read(path, ":")]
    start = whole.index(b"\n3\n") + 1
    for length in [*range(start, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        run(path, waters(2))
        assert [f.info["id"] for f in read(path, ":")] == ids
    path.write_bytes(whole + bytes(100))          # blocks that never reached the disk
    assert run(path, waters(2)).kept == 2 and path.read_bytes() == whole
    path.write_bytes(b"x" + whole)
    with pytest.raises(IncompatibleFile, match="broken at byte 0"):
        run(path, waters(2))


def test_torn_samples_are_drawn_again(tmp_path):
    path, steps = tmp_path / "l.extxyz", plan("bonds:3")
    run(path, waters(1), steps)
    samples = tmp_path / "l.structures.extxyz"
    whole, ids = samples.read_bytes(), {f.info["id"] for f in read(path, ":")}
    for length in (len(whole) // 2, len(whole) - 1):
        samples.write_bytes(whole[:length])
        last = run(path, waters(1), steps)
        assert (last.labelled, last.kept) == (0, 4) and samples.read_bytes() == whole
    assert {f.info["id"] for f in read(path, ":")} == ids


def test_levels_are_not_mixed_and_foreign_files_are_kept(tmp_path):
    path = tmp_path / "l.extxyz"
    run(path, waters(1))
    with pytest.raises(IncompatibleFile, match="'AM1', and 'PM3' is asked for"):
        run(path, waters(1), level_=Own("PM3"))
    write(tmp_path / "other.extxyz", molecule("H2O"))
    before = (tmp_path / "other.extxyz").read_bytes()
    with pytest.raises(IncompatibleFile, match="not made by nddo-ml label"):
        run(tmp_path / "other.extxyz", waters(1))
    assert (tmp_path / "other.extxyz").read_bytes() == before
    with Journal(path, "AM1"), pytest.raises(IncompatibleFile, match="another run"), Journal(path, "AM1"):
        pass


def test_errors_are_listed_and_tried_again_on_request(tmp_path):
    path, sources = tmp_path / "l.extxyz", [*waters(1), Source(structure=from_atoms(molecule("H2O"), 0, 1)),
                                            Source(structure=Structure([118], [[0, 0, 0]]))]
    for retry in (False, False, True):
        last = run(path, sources, retry=retry)
        assert last.errors == 1 and last.labelled + last.kept == 1
    lines = [json.loads(line) for line in (tmp_path / "l.errors.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and lines[0]["formula"] == "Og" and "MissingParameter" in lines[0]["reason"]


def test_killed_without_warning(tmp_path):
    """kill -9 in the middle of a run with two workers: nothing lost, nothing doubled, no worker left behind."""
    write(tmp_path / "in.extxyz", [w.structure.atoms for w in waters(60)])
    command = [sys.executable, "-m", "nddo_ml.cli.main", "label", "in.extxyz", "-o", "l.extxyz", "--level", "AM1", "-j", "2"]
    out = tmp_path / "l.extxyz"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while time.time() < deadline and (not out.exists() or out.stat().st_size < 3000):
        time.sleep(0.01)
    process.kill()
    process.wait()
    complete = len(read(out, ":")) if out.stat().st_size else 0
    assert 0 < complete < 60
    last = run(out, waters(60))
    assert last.kept + last.labelled == 60 and last.kept >= complete - 1
    ids = [f.info["id"] for f in read(out, ":")]
    assert len(ids) == len(set(ids)) == 60


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    far = molecule("H2O")
    far.positions[1] = far.positions[0] + 0.1
    write("in.extxyz", [molecule("H2O"), molecule("NH3"), far])
    code, printed = nddo("label", "in.extxyz", "-o", "l.extxyz", "--level", "AM1", "--sample", "modes:1", "--method", "AM1")
    assert code == 1 and "4 frames" in printed and "1 without a label" in printed
    assert "angstrom apart" in (tmp_path / "l.errors.jsonl").read_text()
    frames = read("l.extxyz", ":")
    assert {f.info["source"] for f in frames} >= {"in.extxyz#0", "in.extxyz#1"} and all("ref_energy" in f.info for f in frames)
    code, printed = nddo("label", "in.extxyz", "-o", "l.extxyz", "--level", "PM3")
    assert code == 2 and "levels are not mixed" in printed
    assert nddo("label", "-o", "x.extxyz", "--level", "AM1")[0] == 2
    assert nddo("label", "in.extxyz", "--level", "AM1", "--sample", "walk:1")[0] == 2
    assert nddo("label", "in.extxyz", "--level", "AM1", "--point-charges", "2")[0] == 2


def test_processes_are_not_needed_to_import():
    """The queue imports nothing heavy: its workers set their threads before numpy is loaded."""
    code = "import sys, nddo_ml.labels.queue; sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert Processes(2).pending == 0
