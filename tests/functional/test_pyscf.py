"""Torch functionals in stock PySCF: the same energies, forces, Hessians, excitations as its own; what cannot be is refused."""

import numpy as np
import pytest
import torch
from support.mean_fields import mean_field, solved

from nddo_ml.errors import UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.forms.r2scan import R2SCAN
from nddo_ml.functional.forms.semilocal import LDA, PBE, PBE0
from nddo_ml.functional.pyscf.attach import attach

pyscf = pytest.importorskip("pyscf")
from pyscf import dft, gto, lib, scf  # noqa: E402

lib.num_threads(1)
FUNCTIONALS = {"lda,vwn": LDA, "pbe": PBE, "r2scan": R2SCAN, "pbe0": PBE0}


def both(name, xc, fitted=False, level=0):
    """PySCF's own and ours, solved."""
    return (solved(mean_field(name, xc, fitted=fitted, level=level)),
            solved(attach(mean_field(name, fitted=fitted, level=level), FUNCTIONALS[xc]())))


def excitations(mf, method, states=5, used=None):
    """Converged excitations, of which the first `used` count. A diatomic has room for three states only."""
    td = getattr(mf, method)()
    td.nstates, td.conv_tol = states, 1e-9
    td.kernel()
    assert np.all(td.converged[:used])
    return td


LARGE = [pytest.param(name, xc, fitted, 5, ("TDA", "TDDFT"), marks=pytest.mark.slow) for name, xc, fitted in (
    ("H2O", "pbe0", False), ("NH2", "r2scan", False), ("H2O", "pbe0", True), ("NH2", "lda,vwn", True))]
ETHENE = [pytest.param("C2H4", xc, fitted, 0, (), marks=pytest.mark.slow) for xc, fitted in (("pbe", False), ("r2scan", True))]


@pytest.mark.parametrize("name, xc, fitted, states, methods", [
    ("HF", "pbe0", False, 3, ["TDA"]), ("NH", "r2scan", False, 3, ["TDDFT"]), ("HF", "pbe0", True, 3, ["TDDFT"]),
    ("NH", "lda,vwn", True, 3, ["TDA"]), *LARGE, *ETHENE])
def test_energy_forces_hessian_and_excitations(name, xc, fitted, states, methods):
    """Also where mf.xc was something else before: exact exchange is there, and that of no other functional. Excitations of
    ethene by their matrices A and B, for PySCF's Davidson iterations do not converge there, with its own functionals either."""
    theirs, ours = both(name, xc, fitted)
    assert abs(theirs.e_tot - ours.e_tot) < 1e-9
    assert np.abs(theirs.nuc_grad_method().kernel() - ours.nuc_grad_method().kernel()).max() < 1e-8
    assert np.abs(theirs.Hessian().kernel() - ours.Hessian().kernel()).max() < 1e-7
    for method in methods:
        assert np.abs(excitations(theirs, method, states).e - excitations(ours, method, states).e).max() < 1e-8
    if not methods:
        for matrix, own in zip(theirs.TDDFT().get_ab(), ours.TDDFT().get_ab(), strict=True):
            assert np.abs(matrix - own).max() < 1e-9


@pytest.mark.parametrize("name, xc, method, states, used", [("H3", "pbe0", "TDDFT", 3, None), *(
    pytest.param(name, xc, method, 5, used, marks=pytest.mark.slow)
    for name, xc, used in (("H2O", "pbe", None), ("NH2", "pbe0", None), ("C2H4", "pbe0", 1)) for method in ("TDA", "TDDFT"))])
def test_forces_of_excited_states(name, xc, method, states, used):
    a, b = (excitations(mf, method, states, used).nuc_grad_method().kernel(state=1) for mf in both(name, xc))
    assert np.abs(a - b).max() < 1e-6


def test_newton_and_stability():
    ours = solved(attach(mean_field("NH"), PBE0()))
    second = ours.newton()
    second.conv_tol = 1e-12
    second.kernel()
    assert second.converged and abs(second.e_tot - ours.e_tot) < 1e-9
    again = attach(mean_field("HF"), PBE0()).newton()
    again.kernel()
    assert again.converged and abs(again.e_tot - solved(mean_field("HF", "pbe0")).e_tot) < 1e-9
    assert solved(attach(mean_field("HF"), PBE0())).stability(external=True, return_status=True)[2:] == (True, True)


def test_density_fitting_before_or_after():
    """The auxiliary basis is the one PySCF takes for a hybrid, though it was chosen for PBE first."""
    basis = "def2-svp"
    after = solved(attach(mean_field("H2O", basis=basis), PBE0()).density_fit())
    before = solved(attach(mean_field("H2O", basis=basis).density_fit(), PBE0()))
    theirs = solved(mean_field("H2O", "pbe0", basis=basis).density_fit())
    assert abs(after.e_tot - theirs.e_tot) < 1e-9 and abs(before.e_tot - theirs.e_tot) < 1e-9


def test_unrestricted_equals_restricted():
    restricted = solved(attach(mean_field("HF"), R2SCAN()))
    unrestricted = solved(attach(dft.UKS(restricted.mol).set(grids=restricted.grids, conv_tol=1e-12), R2SCAN()))
    assert abs(restricted.e_tot - unrestricted.e_tot) < 1e-9
    assert abs(restricted.to_uks().energy_tot() - restricted.e_tot) < 1e-9


def test_hydrogen_atom():
    """libxc puts a floor of 1e-10 under 1 - |zeta|, which moves phi by (1e-10)^(2/3) / 2 and the correlation of PBE, -6e-3,
    by 2e-7 of it: 1.4e-9. Ours is the limit itself."""
    mol = gto.M(atom="H", spin=1, basis="6-31g", verbose=0)
    for xc, cls in FUNCTIONALS.items():
        theirs, ours = dft.UKS(mol, xc=xc).set(conv_tol=1e-12), attach(dft.UKS(mol).set(conv_tol=1e-12), cls())
        theirs.grids.level = ours.grids.level = 0
        theirs.chkfile = ours.chkfile = None
        assert abs(solved(theirs).e_tot - solved(ours).e_tot) < 2e-9


def test_the_original_is_untouched_and_a_second_functional_replaces_the_first():
    mf = mean_field("H2O")
    twice = solved(attach(attach(mf, PBE0()), LDA()))
    assert mf.xc == "pbe" and not hasattr(mf, "functional")
    assert abs(twice.e_tot - solved(mean_field("H2O", "lda,vwn")).e_tot) < 1e-9


def test_hosts_that_do_not_fit_are_refused():
    mol = gto.M(atom="He", verbose=0, basis="6-31g")
    from pyscf.pbc import dft as pbcdft
    from pyscf.pbc import gto as pbcgto

    cell = pbcgto.M(atom="He", a=np.eye(3) * 4, verbose=0, basis="6-31g")
    for host in (scf.RHF(mol), dft.GKS(mol), dft.ROKS(mol), dft.DKS(mol), dft.RKS(mol).x2c(), pbcdft.RKS(cell),
                 pbcdft.KRKS(cell), dft.RKS(mol, xc="hse06").set(omega=0.2), object()):
        with pytest.raises(UnknownOption):
            attach(host, PBE())
    with pytest.raises(UnknownOption, match="VV10"):
        attach(dft.RKS(mol).set(nlc="vv10"), PBE())


def test_what_would_change_the_functional_silently_is_refused():
    mf = attach(mean_field("H2O"), PBE0())
    mf.xc = "pbe"
    with pytest.raises(UnknownOption, match="changed"):
        mf.kernel()
    mf = attach(mean_field("H2O"), PBE0())
    for call in (mf.to_gks, mf.to_hf, mf.x2c, lambda: mf._numint.libxc.eval_xc, lambda: mf._numint.eval_xc("pbe", None)):
        with pytest.raises(UnknownOption):
            call()


def test_functionals_in_single_precision_are_refused():
    class Scaled(Functional):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.ones((), dtype=torch.float32))

        def exchange(self, n, sigma, tau):
            return -self.factor * n ** (4 / 3)

    with pytest.raises(UnknownOption, match="float64"):
        attach(mean_field("H2O"), Scaled())
    assert np.isfinite(solved(attach(mean_field("H2O"), Scaled().double())).e_tot)


@pytest.mark.slow
def test_r2scan_excited_state_force_is_the_derivative():
    """libxc's third derivatives of r2SCAN are not usable here (PySCF's own equations do not converge): against differences of
    the excited state's total energy, step 1e-3 angstrom, whose error is of the second order (about 1e-6)."""
    def energy(y):
        mol = gto.M(atom=f"O 0 0 0.1; H 0 {y} -0.47; H 0 -0.757 -0.47", basis="6-31g", verbose=0)
        mf = attach(dft.RKS(mol).set(conv_tol=1e-12), R2SCAN())
        mf.grids.level = 3
        td = excitations(solved(mf), "TDA")
        return td.e_tot[0], td

    step = 1e-3
    force = energy(0.757)[1].nuc_grad_method().kernel(state=1)[1, 1]
    slope = (energy(0.757 + step)[0] - energy(0.757 - step)[0]) / (2 * step) * lib.param.BOHR
    assert abs(force - slope) < 2e-5       # the grid moves with the atoms: PySCF's forces leave its response out
