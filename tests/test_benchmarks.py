"""The table of the benchmarks: structures and frames, ratios and targets, the block of a page; nothing here is timed."""

import numpy as np
import pytest
from measuring import report
from measuring.cases import ALL
from measuring.rounds import Case, Record
from measuring.structures import PERIOD, TITLES, frames, structure
from measuring.targets import NETWORK, PARENT, PLAIN, calculator, peer, ratio, targets


def record(case: Case, **times: dict[str, list[float]]) -> Record:
    """A record with made-up times."""
    found = Record(case, 9, times, dict.fromkeys(times, 100.0), "torch")
    found.case = case
    return found


ETHANOL = record(Case("ethanol"), here={"new": [9.0], "cold": [1.0, 3.0, 2.0], "warm": [0.3, 0.3], "ASE": [0.3001, 0.3001]},
                 MOPAC={"cold": [4.0, 4.0], "warm": [2.0]}, tblite={"cold": [5.0], "warm": [1.0], "ASE": [3.0]})


def test_ratios_are_those_to_the_faster_peer():
    assert ratio(ETHANOL, "cold") == 2.0 / 4.0 and ratio(ETHANOL, "cold", least=True) == 1.0 / 4.0
    assert ratio(ETHANOL, "warm") == 0.3 / 1.0
    assert peer(ETHANOL, "ASE") == 2.0                      # MOPAC's library, which has no calculator
    assert ratio(record(Case("ethanol"), here={"cold": [1.0]}), "cold") is None
    assert calculator(ETHANOL) == pytest.approx(0.1)        # ms


def test_targets_are_met_or_not():
    met = {t.what: t.met for t in targets([ETHANOL])}
    assert met == {"ethanol, AM1, cold: time over that of the faster peer": True,
                   "ethanol, AM1, warm: time over that of the faster peer": True,
                   "ethanol, AM1: what the ASE calculator adds to a call, ms": True}
    slower = record(ETHANOL.case, here={"cold": [2.1], "warm": [0.3], "ASE": [0.6]}, MOPAC=ETHANOL.times["MOPAC"])
    assert [t.met for t in targets([slower])] == [False, True, False]
    two = record(Case("ethanol", threads=2), **ETHANOL.times)
    assert not list(targets([two]))                         # targets are for one thread


def test_a_network_is_held_against_its_parent():
    held = [record(Case("ala_4", method, programs=("here",)), here={"cold": [time], "warm": [1.0]})
            for method, time in ((NETWORK, 3.0), (PARENT, 2.0), (PLAIN, 1.0))]
    assert [(t.value, t.met) for t in targets(held)] == [(1.5, True), (1.0, True), (3.0, False), (1.0, True)]


def test_a_batch_is_counted_by_molecule():
    batch = record(Case("batch"), here={"cold": [256.0]}, MOPAC={"cold": [512.0]})
    assert batch.middle("here", "cold") == 1.0 and ratio(batch, "cold") == 0.5


@pytest.mark.parametrize("name", TITLES)
def test_frames_are_small_steps_that_return(name):
    """They differ by a femtosecond each, the last one from the first too, and are the same in every process."""
    for seed, atoms in enumerate(structure(name)[:3]):
        path = frames(atoms, seed)
        steps = np.linalg.norm(np.diff(path, axis=0, append=path[:1]), axis=2)
        assert path.shape == (PERIOD, len(atoms), 3) and np.allclose(path[0], atoms.positions)
        assert 1e-3 < steps.max() < 0.12                    # the fastest of many hydrogens: four widths of 0.0157 by axis
        assert np.array_equal(path, frames(atoms, seed))


def test_structures_reach_from_three_atoms_to_a_protein():
    sizes = [len(structure(name)[0]) for name in TITLES if name != "batch"]
    assert sizes == sorted(sizes) == [3, 9, 21, 52, 112, 192, 212, 642] and len(structure("batch")) == 256
    assert len(set(map(str, ALL))) == len(ALL)


def test_a_block_of_a_page_is_renewed():
    """Twice gives what once gives, and what stands around it stays."""
    page = f"before\n{report.BEGIN}\nyesterday\n{report.END}\nafter\n"
    once = report.renewed(page, report.markdown([ETHANOL]))
    assert once == report.renewed(once, report.markdown([ETHANOL]))
    assert once.startswith("before\n") and once.endswith("\nafter\n")
    assert "yesterday" not in once and "| ethanol | 9 | AM1 |" in once
    with pytest.raises(ValueError, match="no lines"):
        report.renewed("a page", "")


def test_rows_have_a_cell_for_every_column(tmp_path):
    assert len(report.row(ETHANOL)) == len(report.HEAD)
    assert "0.50 (0.25)" in report.plain([ETHANOL]) and "NOT MET" not in report.plain([ETHANOL])
    report.write([ETHANOL], tmp_path)
    assert '"median_ms": 2000.0' in (tmp_path / "speed.json").read_text()
