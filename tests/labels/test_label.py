"""What a run of labelling writes, whatever it was interrupted by."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase.build import molecule
from ase.io import read, write
from support.commands import nddo
from support.labels import run, structure, waters

from nddo_ml.errors import IncompatibleFile
from nddo_ml.labels.journal import Journal
from nddo_ml.labels.levels.own import OwnMethod
from nddo_ml.labels.sampling import Source, plan
from nddo_ml.labels.structures import from_atoms


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
        run(path, waters(1), level=OwnMethod("PM3"))
    write(tmp_path / "other.extxyz", molecule("H2O"))
    before = (tmp_path / "other.extxyz").read_bytes()
    with pytest.raises(IncompatibleFile, match="not made by nddo-ml label"):
        run(tmp_path / "other.extxyz", waters(1))
    assert (tmp_path / "other.extxyz").read_bytes() == before
    with Journal(path, "AM1"), pytest.raises(IncompatibleFile, match="another run"), Journal(path, "AM1"):
        pass


def test_errors_are_listed_and_tried_again_on_request(tmp_path):
    path, sources = tmp_path / "l.extxyz", [*waters(1), Source(structure=from_atoms(molecule("H2O"), 0, 1)),
                                            Source(structure=structure([118], [[0, 0, 0]]))]
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
