"""Properties of the density and their gradients; fractional electrons."""

import json

import numpy as np
import pytest
import torch

from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.functional import NeuralGGA, Projected
from nddo_ml.functional.forms.semilocal import LDA, PBE
from nddo_ml.functional.reactions import KCAL, PROPERTIES, ChemicalSystem, Property, Reaction
from nddo_ml.functional.training import delocalisation
from nddo_ml.functional.training.thermochemistry import read_properties, read_thermochemistry
from nddo_ml.units import CODATA_2018

pytest.importorskip("pyscf")
from support.functionals import randomised

from nddo_ml.functional.pyscf.densities import KohnShamLevel, SolvedSystem, mean_field, snapshot, solve, solved_system
from nddo_ml.functional.pyscf.nonlocal_part import spin_densities
from nddo_ml.functional.pyscf.response import linear_response, property_of, property_value, reference_density, variation
from nddo_ml.functional.training.losses import residuals

HF = ChemicalSystem("hf", ("H", "F"), ((0, 0, 0), (0.1, 0.2, 0.9)), 0, 0)
NH = ChemicalSystem("nh", ("N", "H"), ((0, 0, 0), (0, 0.2, 1.02)), 0, 2)
LEVEL = KohnShamLevel("6-31g", 0, False, 1e-12)


def tightly(functional, system, start=None):
    """Orbital gradients to 1e-9: differences of properties are of the first order in their error."""
    mf = mean_field(functional, system, LEVEL)
    mf.conv_tol_grad = 1e-9
    return SolvedSystem(system, LEVEL, mf, solve(mf, start))


def learned():
    functional = NeuralGGA(width=4, exact_exchange=0.2, learned_fraction=True)
    functional.nonlocal_part = Projected(width=4)
    randomised(functional, 0.15)
    with torch.no_grad():
        functional.mixing.fill_(0.2)
    return functional


@pytest.mark.parametrize("system", [HF, pytest.param(NH, marks=pytest.mark.slow)], ids=lambda s: s.key)
def test_gradients_of_properties_are_those_of_whole_scfs(system):
    """Along a random direction of all parameters (networks, fraction of exact exchange, part of the density matrix), against
    the four-point difference of step 2e-3, whose error is far below 1e-6 of the values."""
    functional, g = learned(), torch.Generator().manual_seed(1)
    parameters = list(functional.parameters())
    direction = [torch.randn(p.shape, generator=g, dtype=p.dtype) * (0.1 if p.dim() == 0 else 1) for p in parameters]
    reference = reference_density(mean_field(functional, system, LEVEL), "mp2")
    solved = tightly(functional, system)
    s = snapshot(functional, solved)
    exact, at = {}, {}
    for kind in PROPERTIES:
        v = variation(functional, Property(kind, system.key, 0.0), s, solved, reference)
        q = property_of(functional, v)
        assert abs(float(q.detach()) - v.value) < 1e-12 * max(abs(v.value), 1)
        gradient = torch.autograd.grad(q, parameters)
        exact[kind] = float(sum((a * b).sum() for a, b in zip(gradient, direction, strict=True)))
    step, before = 2e-3, [p.detach().clone() for p in parameters]
    for k in (-2, -1, 1, 2):
        with torch.no_grad():
            for p, b, d in zip(parameters, before, direction, strict=True):
                p.copy_(b + k * step * d)
        moved = tightly(functional, system, s.density_matrices.numpy()).mean_field
        at[k] = {kind: property_value(kind, moved, reference).value for kind in PROPERTIES}
    for kind, slope in exact.items():
        difference = (8 * (at[1][kind] - at[-1][kind]) - at[2][kind] + at[-2][kind]) / (12 * step)
        assert abs(slope) > 1e-7 and abs(difference - slope) < 2e-5 * abs(slope) + 1e-9, kind


def test_response_is_that_of_a_field():
    """The change of the dipole in an electric field, alpha_zz, by differences of the field."""
    mf = solved_system(PBE(), HF, LEVEL).mean_field
    r = mf.mol.intor_symmetric("int1e_r", comp=3)[2]
    change = linear_response(mf, np.stack([r, r]))
    polarisability, moments = -float((change.sum(0) * r).sum()), []
    for field in (1e-3, -1e-3):
        other = mean_field(PBE(), HF, LEVEL)
        h = other.get_hcore() + field * r
        other.get_hcore, other.conv_tol_grad = (lambda *_, h=h: h), 1e-9
        solve(other)
        moments.append(float((other.make_rdm1() * r).sum()))
    assert polarisability > 1 and abs(polarisability + (moments[0] - moments[1]) / 2e-3) < 1e-4


def test_properties_by_other_means():
    """The dipole PySCF prints; the orbital energy of the mean field; the distance of a density from itself."""
    mf = solved_system(PBE(), NH, LEVEL).mean_field
    P = spin_densities(mf.mo_coeff, mf.mo_occ)
    assert abs(property_value("dipole", mf).value - np.linalg.norm(mf.dip_moment(verbose=0))) < 1e-4
    highest = max(mf.mo_energy[s][mf.mo_occ[s] > 0].max() for s in (0, 1))
    assert abs(property_value("orbital", mf).value - highest * CODATA_2018.hartree) < 1e-12
    assert property_value("density", mf, P).value == 0 and property_value("density", mf, 0.9 * P).value > 1e-4
    with pytest.raises(UnknownOption, match="ccsd"):
        reference_density(mf, "full-ci")


def test_residuals_carry_gradients_of_energies_and_properties():
    """Rows of the Jacobian, of a reaction and of a property, against differences of the residuals."""
    from nddo_ml.functional.training.config import FunctionalLosses

    functional, atom = learned(), delocalisation.atom("H")
    solved = {system.key: solved_system(functional, system, LEVEL) for system in (HF, atom)}
    snapshots = {key: snapshot(functional, one) for key, one in solved.items()}
    dipole = variation(functional, Property("dipole", HF.key, 1.5), snapshots[HF.key], solved[HF.key])
    reactions = [Reaction("total", "hf", (HF.key, atom.key), (1.0, -1.0), -62400.0)]

    def evaluated():
        return residuals(functional, snapshots, reactions, FunctionalLosses(), [dipole])

    w, at = functional.exchange_network.layers[2].weight, []
    first = evaluated()
    offset = sum(p.numel() for p in functional.parameters()) - sum(
        p.numel() for p in list(functional.parameters())[[p is w for p in functional.parameters()].index(True):])
    for step in (1e-4, -2e-4):
        with torch.no_grad():
            w[0, 0] += step
        at.append(evaluated().values)
    slope = first.jacobian[:, offset]
    assert (slope.abs() > 1e-3).all() and ((at[0] - at[1]) / 2e-4 - slope).abs().max() < 1e-5 * slope.abs().max()
    assert first.weights.tolist() == [1.0, 1.0] and abs(float(first.values[1]) - (dipole.value - 1.5) / 0.1) < 1e-9


def test_fractional_electrons():
    """Occupations add up; LDA bends below the straight line; without self-interaction (one electron, exact exchange) it is
    straight."""
    systems, reactions = delocalisation.fractional(("H", "O"))
    assert [len(r.systems) for r in reactions] == [2, 3] and all(set(r.systems) <= set(systems) for r in reactions)
    half = snapshot(LDA(), solved_system(LDA(), systems["O -0.5e"], KohnShamLevel("6-31g", 2, False)))
    assert abs(float((half.weights * half.rows[:2]).sum()) - 7.5) < 1e-3
    whole, part = (solved_system(LDA(), systems[key], LEVEL).mean_field.e_tot for key in ("H atom", "H -0.5e"))
    assert part < 0.5 * whole - 0.01

    class Exact(LDA):
        exact_exchange = 1.0

        def exchange(self, n, sigma, tau):
            return 0 * n

        def correlation(self, d):
            return 0 * d.total

    a, b = (solved_system(Exact(), systems[key], LEVEL).mean_field.e_tot for key in ("H atom", "H -0.5e"))
    assert abs(b - 0.5 * a) < 1e-9
    with pytest.raises(UnknownOption, match="elements"):
        delocalisation.fractional(("Xe",))


def test_exact_curve_of_the_hydrogen_ion():
    """Its references against unrestricted Hartree-Fock, exact for one electron but for the basis (under 0.2 kcal/mol)."""
    from pyscf import gto, scf

    systems, reactions = delocalisation.stretched()
    assert reactions[0].systems[0] == "H2+ 10"
    for r in reactions:
        ion = systems[r.systems[0]]
        mol = gto.M(atom=list(zip(ion.symbols, ion.positions, strict=True)), charge=1, spin=1, basis="aug-cc-pvqz", verbose=0,
                    symmetry=True)
        assert abs(KCAL * (scf.UHF(mol).kernel() + 0.5) - r.reference) < 0.2, r.name


def test_files_with_properties(tmp_path):
    path = tmp_path / "some.json"
    content = {"systems": {"hf": {"symbols": ["H", "F"], "positions": [[0, 0, 0], [0, 0, 0.9]], "charge": 0, "unpaired": 0,
                                  "missing": [0, 0.25]}},
               "reactions": [], "properties": [{"kind": "dipole", "system": "hf", "reference": 1.8},
                                               {"kind": "density", "system": "hf", "reference": "ccsd"}]}
    path.write_text(json.dumps(content))
    systems, properties = read_properties(path)
    assert systems["hf"].missing == (0, 0.25) and [p.kind for p in properties] == ["dipole", "density"]
    for wrong in ({"kind": "colour", "system": "hf", "reference": 1.0}, {"kind": "dipole", "system": "x", "reference": 1.0},
                  {"kind": "density", "system": "hf", "reference": 1.0}, {"kind": "dipole"}):
        path.write_text(json.dumps({**content, "properties": [wrong]}))
        with pytest.raises(IncompatibleFile):
            read_properties(path)
    assert read_thermochemistry()[0]["W4-11/h2o"].missing == (0.0, 0.0)
