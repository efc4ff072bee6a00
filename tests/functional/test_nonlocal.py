"""The part of the density matrix: invariance, potential, kernel, forces, Hessian, excitations."""

import numpy as np
import pytest
import torch

from nddo_ml.errors import UnknownOption
from nddo_ml.functional import Functional, NeuralGGA, Projected, attach

pyscf = pytest.importorskip("pyscf")
from pyscf import dft, gto, lib  # noqa: E402
from support.functionals import randomised  # noqa: E402

from nddo_ml.functional.pyscf.nonlocal_part import NonlocalKernel, energy_and_potential  # noqa: E402
from nddo_ml.functional.reactions import ChemicalSystem  # noqa: E402

lib.num_threads(1)
WATER = np.array([[0, 0, 0.1], [0, 0.757, -0.47], [0, -0.7, -0.5]])
AMINO = np.array([[0, 0, 0.14], [0, 0.8, -0.5], [0.1, -0.8, -0.5]])
IMINO = np.array([[0, 0, 0.14], [0.1, 0.8, -0.5]])
FLUORIDE = np.array([[0, 0, 0], [0.1, 0.2, 0.9]])


class Bare(Functional):
    """Exact exchange and nothing on the grid: what is left beside the projections has no error of integration."""

    exact_exchange = 1.0

    def exchange(self, n, sigma, tau):
        return 0 * n


def with_projection(functional, seed=7, scale=0.3, alone=0.0):
    functional.nonlocal_part = Projected(elements=(1, 7, 8), width=8, seed=seed, alone=alone)
    return randomised(functional, scale)


def molecule(symbols, positions, spin=0):
    return gto.M(atom=list(zip(symbols, positions, strict=True)), spin=spin, basis="6-31g", verbose=0)


def solved(functional, mol, unrestricted=False):
    mf = (dft.UKS if mol.spin or unrestricted else dft.RKS)(mol)
    mf.grids.level, mf.conv_tol, mf.conv_tol_grad, mf.chkfile = 0, 1e-13, 1e-8, None
    mf = attach(mf, functional)
    mf.kernel()
    assert mf.converged
    return mf


def random_densities(mol, seed=0):
    rng = np.random.default_rng(seed)
    P = rng.normal(size=(2, mol.nao, mol.nao)) * 0.1
    return P + P.transpose(0, 2, 1)


@pytest.mark.parametrize("alone", [0.0, 1.5])
def test_potential_is_the_derivative_of_the_energy_and_kernel_that_of_the_potential(alone):
    mol = molecule("OHH", WATER)
    part = with_projection(Bare(), alone=alone).nonlocal_part
    P, X = random_densities(mol), random_densities(mol, 1)
    step = 1e-4
    (up, V_up), (down, V_down) = (energy_and_potential(part, mol, P + s * step * X) for s in (1, -1))
    V = energy_and_potential(part, mol, P)[1]
    assert abs(V).max() > 1e-3
    assert abs((up - down) / (2 * step) - (V * X).sum()) < 1e-8
    assert np.abs((V_up - V_down) / (2 * step) - NonlocalKernel(part, mol, P)(X)).max() < 1e-7


def test_invariance():
    """Rotation, order of atoms, exchange of spins; nothing from nothing; no electrons, no energy."""
    part = with_projection(Bare()).nonlocal_part
    a = solved(with_projection(Bare()), molecule("OHH", WATER))
    angle = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    b = solved(with_projection(Bare()), molecule("HOH", (WATER @ angle.T + 0.3)[[1, 0, 2]]))
    assert abs(a.e_tot - b.e_tot) < 1e-9
    mol = molecule("NHH", AMINO, 1)
    P = random_densities(mol)
    assert abs(energy_and_potential(part, mol, P)[0] - energy_and_potential(part, mol, P[::-1].copy())[0]) < 1e-13
    assert energy_and_potential(part, mol, 0 * P)[0] == 0
    assert energy_and_potential(Projected(), mol, P)[0] == 0


def test_one_spin_alone():
    """With `alone`, what is said of a spin fades with the population of the other one: pairs of electrons are left in peace."""
    part = with_projection(Bare(), alone=0.1).nonlocal_part
    mol = molecule("OHH", WATER)
    P = random_densities(mol) + np.eye(mol.nao)
    one = np.stack([P[0], 0 * P[0]])
    assert abs(energy_and_potential(part, mol, one)[0]) > 1e-3 and abs(energy_and_potential(part, mol, P)[0]) < 1e-8
    assert abs(energy_and_potential(part, mol, one)[0] - energy_and_potential(part, mol, one[::-1].copy())[0]) < 1e-13


def test_distant_molecules_add_up():
    """50 angstrom apart the projectors of one do not meet the orbitals of the other."""
    part = with_projection(Bare()).nonlocal_part
    far = WATER + [0, 0, 50]
    one, two = molecule("OHH", WATER), molecule("OHHOHH", np.concatenate([WATER, far]))
    P = random_densities(one)
    both = np.zeros((2, two.nao, two.nao))
    both[:, :one.nao, :one.nao], both[:, one.nao:, one.nao:] = P, P
    assert abs(energy_and_potential(part, two, both)[0] - 2 * energy_and_potential(part, one, P)[0]) < 1e-12


@pytest.mark.parametrize("symbols, positions, spin", [pytest.param("OHH", WATER, 0, marks=pytest.mark.slow),
                                                      pytest.param("NHH", AMINO, 1, marks=pytest.mark.slow), ("NH", IMINO, 2)])
def test_forces_and_hessian_are_derivatives(symbols, positions, spin):
    """Without a grid, against differences of step 1e-3 angstrom: their error, third and fourth derivatives times the step
    to the fourth, is far below that of the response equations, 1e-7."""
    functional, step = with_projection(Bare()), 1e-3
    move = np.zeros_like(positions)
    move[1, 1] = step
    at = {k: solved(functional, molecule(symbols, positions + k * move, spin)) for k in (-2, -1, 0, 1, 2)}
    bohr = step / lib.param.BOHR
    slope = (8 * (at[1].e_tot - at[-1].e_tot) - at[2].e_tot + at[-2].e_tot) / (12 * bohr)
    force = at[0].nuc_grad_method().kernel()
    assert abs(force[1, 1] - slope) < 1e-8
    assert np.abs(force.sum(0)).max() < 1e-7
    H = at[0].Hessian().kernel()
    g = {k: at[k].nuc_grad_method().kernel() for k in at if k}
    expected = (8 * (g[1] - g[-1]) - g[2] + g[-2]) / (12 * bohr)
    assert np.abs(H[1, :, 1] - expected).max() < 1e-6 and np.abs(H - H.transpose(1, 0, 3, 2)).max() < 1e-6


def test_restricted_equals_unrestricted_excitations_and_newton():
    functional = with_projection(NeuralGGA(width=8))
    mol = molecule("FH", FLUORIDE)
    r, u = solved(functional, mol), solved(functional, mol, True)
    assert abs(r.e_tot - u.e_tot) < 1e-9
    singlets, triplets, both = r.TDA().set(nstates=3), r.TDA().set(nstates=3, singlet=False), u.TDA().set(nstates=3)
    for td in (singlets, triplets, both):
        td.conv_tol = 1e-9
        td.kernel()
        assert np.all(td.converged)
    merged = np.sort(np.concatenate([singlets.e, triplets.e]))
    assert np.abs(merged[:3] - both.e[:3]).max() < 1e-6
    second = attach(dft.RKS(mol).set(grids=r.grids, conv_tol=1e-12), functional).newton()
    second.kernel()
    assert second.converged and abs(second.e_tot - r.e_tot) < 1e-9
    with pytest.raises(UnknownOption, match="two derivatives"):
        singlets.nuc_grad_method().kernel(state=1)


def test_density_fitting_before_or_after():
    """Energy, forces and Hessian do not depend on which comes first; forces are derivatives of the energy."""
    functional, step = with_projection(Bare()), 1e-3

    def fitted(first, y=0.0):
        mf = dft.RKS(molecule("FH", FLUORIDE + [[0, 0, 0], [0, y, 0]])).set(conv_tol=1e-12, conv_tol_grad=1e-7)
        mf.grids.level = 0
        mf = attach(mf.density_fit(auxbasis="weigend"), functional) if first else attach(mf, functional).density_fit("weigend")
        mf.kernel()
        return mf

    before, after = fitted(True), fitted(False)
    assert abs(before.e_tot - after.e_tot) < 1e-9
    g = after.nuc_grad_method().kernel()
    assert np.abs(before.nuc_grad_method().kernel() - g).max() < 1e-7
    slope = (fitted(False, step).e_tot - fitted(False, -step).e_tot) / (2 * step) * lib.param.BOHR
    assert abs(g[1, 1] - slope) < 1e-6
    assert np.abs(before.Hessian().kernel() - after.Hessian().kernel()).max() < 1e-6
    assert isinstance(attach(after, functional), type(after))


def test_half_electrons_are_told_from_whole_ones():
    """Traces of D alone cannot tell one electron on an atom from a half on each of two far atoms twice; tr D D can."""
    from nddo_ml.functional.forms.semilocal import PBE
    from nddo_ml.functional.pyscf.densities import KohnShamLevel, projections, snapshot, solved_system

    part, level = Projected(), KohnShamLevel("def2-svp", 1)
    ion = ChemicalSystem("ion", ("H", "H"), ((0, 0, 0), (0, 0, 8.0)), 1, 1)
    atom = ChemicalSystem("atom", ("H",), ((0, 0, 0),), 0, 1)
    x, y = (part.descriptors(projections(snapshot(PBE(), solved_system(PBE(), system, level), part))) for system in (ion, atom))
    assert torch.allclose(x[0, :, 2], y[0, :, 2] / 2, rtol=0.1) and (x[0, :, 3] > y[0, :, 3] / 2 + 0.02).all()
