"""Plans, and the structures that sources give by them."""

import numpy as np
import pytest
from ase.build import molecule
from support.labels import CHEAP, PHOSPHORUS, waters

from nddo_ml.errors import UnknownOption
from nddo_ml.labels import draws
from nddo_ml.labels.label import with_partners
from nddo_ml.labels.sampling import Sampling, Source, plan, sampled
from nddo_ml.labels.structures import from_atoms, kind


def test_plans():
    assert [(s.name, s.count, s.temperatures) for s in plan("conformers:4, md:300/600:2,modes:3")] == [
        ("conformers", 4, ()), ("md", 2, (300.0, 600.0)), ("modes", 3, (300.0,))]
    for wrong in ("md:x:2", "walks:2", "md:300:0", "dimers:300:2", "md:1:2:3"):
        with pytest.raises(UnknownOption, match="step of sampling"):
            plan(wrong)


def test_sampling_repeats_itself_and_reports_what_fails(monkeypatch):
    monkeypatch.setattr(draws, "BETWEEN", 20)
    task = Sampling(plan("md:300:1,bonds:1,dimers:2"), CHEAP, seed=3, charged=1.0, method="AM1"), waters(1)[0]
    (first, failed), (second, _) = sampled(task), sampled(task)
    assert [s.id for s in first] == [s.id for s in second] and not failed
    plain, charged = first[:5], first[5:]
    assert [s.how.partition(" ")[0] for s in plain] == ["", "md", "bond", "complex", "complex"]
    assert len(charged) == 5 and all(s.point_charges is not None for s in charged)
    for s in charged:
        assert np.linalg.norm(s.point_charges[:, None, :3] - s.positions[None], axis=-1).min() > 2.0
    ring = Source(structure=from_atoms(PHOSPHORUS))
    _, failed = sampled((Sampling(plan("bonds:1"), CHEAP), ring))
    assert len(failed) == 1 and "ring" in failed[0]


def test_free_atoms_are_labelled_once():
    found, _ = sampled((Sampling(plan("md:300:2,bonds:1"), CHEAP), Source(structure=from_atoms(molecule("O")))))
    assert [s.how for s in found] == ["atom"] and kind(found[0]) == "radical"


def test_partners_come_from_the_list():
    sources = with_partners([*waters(3), Source(smiles="O.N")], 0)
    assert sources[3].partner is None and {s.partner.name for s in sources[:3]} <= {s.name for s in sources[:3]}


def test_the_key_of_a_source_stays_what_files_hold():
    """It decides whether what an earlier version sampled is used again."""
    sampling = Sampling(plan("md:300/600:2,bonds:3"), CHEAP, seed=3, charged=0.25, method="AM1")
    assert sampling.key(Source("CCO", "core", partner=Source("O"))) == "36a5f28facae4bab"
