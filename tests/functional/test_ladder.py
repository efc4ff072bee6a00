"""The ladder of an SCF that DIIS does not solve: each rung gives the state of the plain equations, and no rung is an error."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from nddo_ml.errors import SCFNotConverged
from nddo_ml.functional import attach, load
from nddo_ml.functional.forms.semilocal import LDA, PBE0
from nddo_ml.functional.pyscf.densities import KohnShamLevel
from nddo_ml.functional.pyscf.densities import mean_field as of_system
from nddo_ml.functional.pyscf.ladder import RUNGS, ladder
from nddo_ml.functional.reactions import ChemicalSystem, Reaction
from nddo_ml.functional.training.evaluation import evaluate

pytest.importorskip("pyscf")
from support.mean_fields import mean_field, solved

# where neural-xc went round in circles and r2SCAN did not; geometry of W4-11 (GMTKN55)
CLOO = ChemicalSystem("cloo", ("Cl", "O", "O"), ((-1.11512624, -0.06975113, 0.0), (0.82859632, 0.52371847, 0.0),
                                                 (1.64240700, -0.36915726, 0.0)), 0, 1)


@pytest.mark.parametrize(("name", "functional"), [("H3", LDA()), ("NH2", PBE0())])
def test_every_rung_finds_the_same_state(name, functional):
    """After DIIS of two steps, each of the other rungs alone; settings stay, forces are those of the same density."""
    plain = solved(attach(mean_field(name), functional))
    for rung in RUNGS:
        mf = attach(mean_field(name), functional)
        mf.max_cycle = 2
        before = (mf.max_cycle, mf.level_shift, mf.damp)
        assert ladder(mf, rungs=[rung]) == rung.name
        assert mf.converged and (mf.max_cycle, mf.level_shift, mf.damp) == before
        assert mf.e_tot == pytest.approx(plain.e_tot, abs=1e-8)
        assert np.abs(mf.nuc_grad_method().kernel() - plain.nuc_grad_method().kernel()).max() < 1e-5
        assert mf.mo_energy[0] == pytest.approx(plain.mo_energy[0], abs=1e-5)


def test_an_unconverged_state_is_no_number():
    """Neither as the energy of the mean field nor in an evaluation, which names the system."""
    short = [replace(rung, cycles=1) for rung in RUNGS]
    mf = attach(mean_field("NH2"), LDA())
    mf.max_cycle = 1
    with pytest.raises(SCFNotConverged, match=r"NHH \(charge 0, 1 unpaired\).*Newton"):
        ladder(mf, rungs=short)
    assert math.isnan(mf.e_tot) and not mf.converged
    systems = {"oh": ChemicalSystem("oh", ("O", "H"), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.97)), 0, 1),
               "h": ChemicalSystem("h", ("H",), ((0.0,) * 3,), 0, 1)}
    reactions = [Reaction("atomisation", "oh", ("oh",), (1.0,), 0.0), Reaction("total", "h", ("h",), (1.0,), 0.0)]
    for cycles, failed in ((1, {"oh"}), (60, set())):
        result = evaluate("lda,vwn", systems, reactions, KohnShamLevel("sto-3g", 0, False),
                          solver=partial(ladder, cycles=cycles, rungs=short))
        assert failed <= set(result.unconverged) and set(result.energies) == set(systems) - set(result.unconverged)
        assert {r.name for r in result.errors} == set(result.energies)
        assert all(math.isfinite(e) for e in result.energies.values())
    assert set(result.energies) == set(systems)


def test_a_ladder_starts_where_it_is_told():
    plain = solved(attach(mean_field("H3"), LDA()))
    again = attach(mean_field("H3"), LDA())
    assert again.ladder(plain.make_rdm1()) == pytest.approx(plain.e_tot, abs=1e-10) and again.cycles <= 2


@pytest.mark.slow
def test_cloo_of_neural_xc():
    """At the level of the shipped functional; DIIS alone goes round above -610.947 hartree."""
    mf = of_system(load("neural-xc"), CLOO, KohnShamLevel())
    mf.max_cycle = 20
    energy = mf.ladder()
    assert mf.converged and np.abs(mf.get_grad(mf.mo_coeff, mf.mo_occ)).max() < 1e-3
    assert energy < -610.948124 + 1e-4
