"""Derivatives by external point charges: second and third order, losses on their forces, Hessians, networks."""

import pytest
import torch
from support.physics_models import model, molecule, run
from support.point_charges import around, extrapolated, weights

from nddo_ml import Hamiltonian, PointCharges, networks
from nddo_ml.properties.response import hessian

TIGHT = 1e-10


@pytest.mark.parametrize(("name", "which"), [("AM1", "water"), ("PM6", "hydroxymethyl")])
def test_second_derivatives(name, which):
    """Hessian of (atoms, charges, q, rho) times a vector against differences of first derivatives."""
    m, here = model(name), molecule(which)
    charges = around(here, 3)
    charges = PointCharges(charges.positions, charges.charges, charges.molecule, charges.rho + 0.7)
    start = (here.positions, charges.positions, charges.charges, charges.rho)
    v = [weights(t, k) for k, t in enumerate(start)]

    def gradient(s, order):
        x = [(t + s * d).requires_grad_() for t, d in zip(start, v, strict=True)]
        sites = PointCharges(x[1], x[2], charges.molecule, x[3])
        E = m(here.with_positions(x[0]), point_charges=sites, order=order, tolerance=TIGHT).energy.sum()
        return x, torch.autograd.grad(E, x, create_graph=order > 1)

    x, g = gradient(0.0, 2)
    got = torch.autograd.grad(sum((a * b).sum() for a, b in zip(g, v, strict=True)), x)
    for k, result in enumerate(got):
        expected = extrapolated(lambda s, k=k: gradient(s, 1)[1][k], 1e-3)
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_gradgradcheck():
    """PyTorch's own check at order 3, by charge and position."""
    m, here = model("AM1"), molecule("water")

    def f(x, q):
        return m(here, point_charges=PointCharges(x, q, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.float64)),
                 order=3, tolerance=1e-11).energy

    x = torch.tensor([[1.5, -1.2, 2.0]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, (x, q), eps=1e-4, atol=1e-6)
    assert torch.autograd.gradgradcheck(f, (x, q), eps=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "which"), [("AM1", "water"), ("PM6", "thiol"), ("PM6", "hydroxymethyl")])
def test_losses_on_forces_of_charges(name, which):
    """Gradient of a loss on the forces on charges, on atoms and on the energy by all parameters, against differences (Q13)."""
    here = molecule(which)
    charges = around(here)
    names = ("U_ss", "U_pp", "beta_s", "zeta_p", "g_ss", "g_p2", "h_sp", "zeta_d")
    row = int(here.numbers[1 if which == "thiol" else 0])

    def loss(m, **options):
        r = m(here, point_charges=charges, forces=True, tolerance=TIGHT, **options)
        return (r.point_charge_forces * weights(charges.positions, 4)).sum() + (r.forces * weights(here.positions)).sum()

    m = Hamiltonian(name).requires_grad_(True)
    row = int(m.method.rows(torch.tensor([row]))[0])
    grads = torch.autograd.grad(loss(m, order=2), [getattr(m, n) for n in names], allow_unused=True)
    direction = {n: 0.01 * abs(float(getattr(m, n).detach()[row])) for n in names}
    got = sum(float(g[row]) * direction[n] for n, g in zip(names, grads, strict=True) if g is not None)

    def shifted(s):
        other = Hamiltonian(name)
        with torch.no_grad():
            for n, d in direction.items():
                getattr(other, n)[row] += s * d
        return float(loss(other).detach())

    expected = extrapolated(shifted, 0.1)
    assert got == pytest.approx(expected, rel=2e-6)
    assert abs(expected) > 1e-5


def test_hessian_in_charges():
    """The Hessian of the molecule among fixed charges is the derivative of its forces; translations now cost energy."""
    here = molecule("water")
    charges = around(here)
    H = hessian(model("AM1"), here, point_charges=charges, tolerance=TIGHT)[0]
    v = weights(here.positions)
    expected = extrapolated(lambda s: -run("AM1", here.with_positions(here.positions + s * v), point_charges=charges,
                                           forces=True).forces.detach(), 1e-3)
    torch.testing.assert_close((H @ v.flatten()).view(-1, 3), expected, rtol=1e-6, atol=1e-6)
    assert float(H.view(3, 3, 3, 3).sum((0, 2)).abs().max()) > 1e-3


def test_with_a_network():
    """A network shifts what the charges see: forces on charges, and the gradient of a loss on them by its weights."""
    network = networks.build({"channels": 4, "layers": 1})
    with torch.no_grad():
        for k, w in enumerate(network.parameters()):
            w.add_(0.1 * weights(w, k))
    m, here = Hamiltonian("AM1", network=network), molecule("water")
    charges, chosen = around(here), list(network.parameters())[-1]
    result = m(here, point_charges=charges, forces=True, order=2, tolerance=TIGHT)
    plain = run("AM1", here, point_charges=charges, forces=True)
    assert float((result.point_charge_forces - plain.point_charge_forces).detach().abs().max()) > 1e-4
    w = weights(charges.positions, 2)

    def shaken(s):
        return m(here, point_charges=charges.with_positions(charges.positions + s * w), tolerance=TIGHT).energy.detach()[0]

    assert float((result.point_charge_forces.detach() * w).sum() + extrapolated(shaken, 2e-3)) == pytest.approx(0, abs=1e-6)
    loss = (result.point_charge_forces * w).sum()
    direction, start = weights(chosen), chosen.detach().clone()
    slope = float((torch.autograd.grad(loss, chosen)[0] * direction).sum())

    def reweighted(s):
        with torch.no_grad():
            chosen.copy_(start + s * direction)
        return float((m(here, point_charges=charges, forces=True, tolerance=TIGHT).point_charge_forces.detach() * w).sum())

    assert slope == pytest.approx(extrapolated(reweighted, 1e-2), rel=1e-5)
    assert abs(slope) > 1e-6
