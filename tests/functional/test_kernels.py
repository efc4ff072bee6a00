"""Energy densities of torch functionals and their derivatives to third order, against libxc and at the edges."""

import numpy as np
import pytest
import torch

from nddo_ml.errors import SCFNotConverged
from nddo_ml.functional.density import Density
from nddo_ml.functional.derivatives import derivatives
from nddo_ml.functional.forms.r2scan import R2SCAN
from nddo_ml.functional.forms.semilocal import LDA, PBE, PBE0
from nddo_ml.functional.forms.uniform import pw92, vwn5

FUNCTIONALS = ((LDA, "lda,vwn"), (PBE, "pbe"), (PBE0, "pbe0"), (R2SCAN, "r2scan"))
POINTS = 300


def variables(functional, polarised, polarisation=0.5):
    """Densities of a molecule's range, gradients of s up to about 2, tau from the single orbital to overlapping shells."""
    rng = np.random.default_rng(3)
    spins = 2 if polarised else 1
    n = 10 ** rng.uniform(-3, 1.5, (1, POINTS)) * 10 ** rng.uniform(-polarisation, polarisation, (spins, POINTS))
    g = rng.normal(size=(spins, 3, POINTS))
    g *= (n ** (4 / 3) * rng.uniform(0.1, 6, (spins, POINTS)) / np.linalg.norm(g, axis=1))[:, None]
    tau = (g**2).sum(1) / 8 / n + 2.9 * n ** (5 / 3) * rng.uniform(0.02, 4, (spins, POINTS))
    pairs = ((0, 0), (0, 1), (1, 1)) if polarised else ((0, 0),)
    sigma = np.array([(g[i] * g[j]).sum(0) for i, j in pairs])
    rows = np.concatenate([n] + [sigma] * functional.gradient + [tau] * functional.kinetic)
    rho = np.concatenate([n[:, None]] + [g] * functional.gradient + [tau[:, None]] * functional.kinetic, axis=1)
    return torch.from_numpy(rows), rho.squeeze(1) if rho.shape[1] == 1 else rho


@pytest.mark.parametrize("polarised", [False, True])
@pytest.mark.parametrize("cls, name", FUNCTIONALS)
def test_kernels_agree_with_libxc(cls, name, polarised):
    """To 1e-10 of each derivative, or of its scale e / (product of its variables) where it passes through zero."""
    libxc = pytest.importorskip("pyscf.dft.libxc")
    from itertools import combinations_with_replacement

    functional = cls()
    rows, rho = variables(functional, polarised)
    levels = derivatives(functional, rows, polarised, 3)
    expected = libxc.eval_xc1(name, rho if polarised else rho[0], int(polarised), deriv=3)
    n, begin = rows[:1 + polarised].sum(0).numpy(), 0
    for order, level in enumerate(levels):
        reference = expected[begin:begin + len(level)] * (n if order == 0 else 1)
        begin += len(level)
        for indices, ours, theirs in zip(combinations_with_replacement(range(len(rows)), order), level.numpy(), reference,
                                         strict=True):
            scale = np.abs(levels[0][0].numpy() / rows[list(indices)].prod(0).numpy()) if indices else 0
            assert (np.abs(ours - theirs) <= 1e-10 * np.maximum(np.abs(theirs), scale)).all(), indices


@pytest.mark.parametrize("cls", [cls for cls, _ in FUNCTIONALS])
def test_closed_shell_is_two_equal_channels(cls):
    """e and its first derivatives of a closed shell are those of both channels at half the density."""
    functional = cls()
    rows, _ = variables(functional, False)
    n = rows[0]
    both = [n / 2, n / 2]
    if functional.gradient:
        both += [rows[1] / 4] * 3
    if functional.kinetic:
        both += [rows[2] / 2] * 2
    e, v = derivatives(functional, rows, False, 1)
    e2, v2 = derivatives(functional, torch.stack(both), True, 1)
    assert torch.allclose(e, e2, rtol=1e-13, atol=0)
    assert torch.allclose(v[0], (v2[0] + v2[1]) / 2, rtol=1e-11, atol=0)


@pytest.mark.parametrize("cls", [cls for cls, _ in FUNCTIONALS])
def test_empty_channel_and_empty_space_are_finite(cls):
    """The hydrogen atom: no down electron anywhere; derivatives of all orders are finite, far out too."""
    functional = cls()
    r = torch.linspace(1e-4, 20, 200, dtype=torch.float64)
    n = torch.exp(-2 * r) / torch.pi
    zero = torch.zeros_like(n)
    rows = [n, zero]
    if functional.gradient:
        rows += [4 * n**2, zero, zero]
    if functional.kinetic:
        rows += [n / 2, zero]
    for level in derivatives(functional, torch.stack(rows), True, 3):
        assert torch.isfinite(level).all()
    far = derivatives(functional, torch.stack(rows) * 1e-14, True, 3)
    assert all((level == 0).all() for level in far)
    e = derivatives(functional, torch.stack(rows), True, 0)[0][0]
    energy = torch.trapezoid(4 * torch.pi * r**2 * e, r)
    assert -0.33 < float(energy) / (1 - functional.exact_exchange) < -0.26         # exact: -5/16


def test_uniform_gas_correlation():
    """Ferromagnetic gases have about half the correlation; both parametrisations fit the same simulations."""
    n = torch.logspace(-3, 1, 20, dtype=torch.float64)
    closed, ferro = Density(n[None] / 2), Density(torch.stack([n, torch.zeros_like(n)]))
    assert ((pw92(closed) - vwn5(closed)).abs() < 8e-4).all() and (pw92(closed) < 0).all()
    ratio = pw92(ferro) / pw92(closed)
    assert (0.45 < ratio).all() and (ratio < 0.7).all()


def test_density_that_is_not_finite_is_refused():
    rows = torch.ones(2, 5, dtype=torch.float64)
    rows[0, 3] = torch.nan
    with pytest.raises(SCFNotConverged, match=r"not finite \(1 values\)"):
        derivatives(PBE(), rows, False, 1)
