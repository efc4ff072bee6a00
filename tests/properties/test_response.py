"""Second and third derivatives of the energy as properties: Hessian, dipole derivatives, polarizability and its derivatives.

Against differences of forces and dipoles, of one molecule, of ions and radicals, and of a mixed batch. The comparison with
MOPAC's frequencies, intensities and polarizabilities is in test_parity_response.py.
"""

import pytest
import torch
from support.physics_models import BENZENE, METHANE, batch, model, molecule, run

from nddo_ml import InvalidMolecule
from nddo_ml.properties.response import dipole_derivatives, hessian, polarizability, polarizability_derivatives

NAMES = ("water", "thiol", "ammonium", "formate", "hydroxymethyl", "oxygen")
METHODS = ("AM1", "MNDO/d", "PM6-D3H4", "PM7")


def extrapolated(f, h):
    """Derivative of f at 0 from +-h, +-h/2."""
    coarse, fine = ((f(s) - f(-s)) / (2 * s) for s in (h, h / 2))
    return (4 * fine - coarse) / 3


def directions(here, seed=0):
    return torch.randn(here.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def products(blocks, v, here):
    """Blocks (coordinate, ...) of every molecule contracted with its part of v."""
    return [torch.tensordot(part.reshape(-1), block, dims=1) for part, block in zip(v.split(here.sizes), blocks, strict=True)]


@pytest.mark.parametrize("name", METHODS)
def test_hessian(name):
    here = batch(NAMES)
    v = directions(here)
    found = products(hessian(model(name), here, tolerance=1e-10), v, here)
    moved = extrapolated(lambda s: -run(name, here.with_positions(here.positions + s * v), forces=True).forces, 1e-3)
    for which, a, b in zip(NAMES, found, moved.split(here.sizes), strict=True):
        assert (a - b.reshape(-1)).abs().max() < 1e-6 * b.abs().max() + 1e-6, which


@pytest.mark.parametrize("name", METHODS)
def test_dipole_derivatives(name):
    """With the origin of an ion's dipole fixed in space, not at its centre of mass."""
    here = batch(NAMES)
    v = directions(here, 1)
    found = torch.stack(products(dipole_derivatives(model(name), here, tolerance=1e-10), v, here))

    def dipole(s):
        from nddo_ml.elements import dipole_masses
        there = here.with_positions(here.positions + s * v)
        w = dipole_masses(there.numbers)
        centre = torch.zeros(len(here), 3, dtype=torch.float64).index_add(0, here.molecule, w[:, None] * there.positions)
        total = torch.zeros(len(here), dtype=torch.float64).index_add(0, here.molecule, w)
        return run(name, there).dipole + here.charge[:, None] * centre / total[:, None]

    assert (found - extrapolated(dipole, 1e-3)).abs().max() < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_polarizability(name):
    here, v = batch(NAMES), torch.tensor([0.3, 0.8, -0.5], dtype=torch.float64)
    alpha = polarizability(model(name), here, tolerance=1e-10)
    assert (alpha - alpha.mT).abs().max() < 1e-8 and bool((torch.linalg.eigvalsh(alpha) > 0).all())
    coulomb = model(name).method.constants.coulomb
    moved = extrapolated(lambda s: run(name, here, field=(s * v).expand(len(here), 3)).dipole, 0.02) * coulomb
    assert (alpha @ v - moved).abs().max() < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_polarizability_derivatives(name):
    here = batch(NAMES)
    v = directions(here, 2)
    found = torch.stack(products(polarizability_derivatives(model(name), here, tolerance=1e-10), v, here))

    def alpha(s):
        return polarizability(model(name), here.with_positions(here.positions + s * v), tolerance=1e-10)

    moved = extrapolated(alpha, 1e-3)
    assert (found - moved).abs().max() < 1e-5 * moved.abs().max()
    assert (found - found.mT).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["PM6", "PM7"])
def test_batch_is_single(name):
    here, m = batch(NAMES), model(name)

    def properties(molecules):
        return [f(m, molecules, tolerance=1e-10) for f in (hessian, dipole_derivatives, polarizability)]

    together = properties(here)
    for k, which in enumerate(NAMES):
        for a, b in zip(together, properties(molecule(which)), strict=True):
            assert (a[k] - b[0]).abs().max() < 1e-7, which


def test_hessian_symmetry_before_averaging():
    """Autograd's own rows are symmetric to the accuracy of the response."""
    here, m = molecule("thiol"), model("PM6")
    x = here.positions.clone().requires_grad_()
    g, = torch.autograd.grad(m(here.with_positions(x), order=2, tolerance=1e-10).energy.sum(), x, create_graph=True)
    rows = torch.stack([torch.autograd.grad(g.flatten()[k], x, retain_graph=True)[0].flatten() for k in range(x.numel())])
    assert (rows - rows.T).abs().max() < 1e-7
    assert (rows - hessian(m, here, tolerance=1e-10)[0]).abs().max() < 1e-7


@pytest.mark.parametrize("entry, axes", [(METHANE, 1), (BENZENE, 2)], ids=["methane", "benzene"])
def test_point_group_of_the_polarizability(entry, axes):
    """Isotropic for methane; for benzene equal in the plane."""
    alpha = polarizability(model("PM6"), molecule(entry), tolerance=1e-10)[0]
    off = alpha - torch.diag(alpha.diagonal())
    assert off.abs().max() < 1e-7
    equal = alpha.diagonal() if axes == 1 else alpha.diagonal()[:2]
    assert equal.max() - equal.min() < 1e-7


def test_unrestricted_is_restricted():
    """Second derivatives of a closed shell with alpha and beta apart."""
    here, m = molecule("thiol"), model("PM6")
    options = {"tolerance": 1e-10}
    for f in (hessian, dipole_derivatives, polarizability):
        assert (f(m, here, **options)[0] - f(m, here, unrestricted=True, **options)[0]).abs().max() < 1e-6


def test_half_electron_is_refused():
    with pytest.raises(InvalidMolecule, match="second derivatives"):
        hessian(model("PM6"), molecule("hydroxymethyl"), unrestricted=False)


def test_progress_is_reported():
    seen = []
    hessian(model("AM1"), molecule("formamide water"), progress=seen.append)
    assert seen == sorted(seen) and abs(seen[-1] - 1) < 1e-12 and len(seen) > 1
