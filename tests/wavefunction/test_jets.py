"""The forward Laplacian: every rule, and whole networks, against nested automatic differentiation."""

import time

import pytest
import torch
from torch.func import grad, jvp, vmap

from nddo_ml.wavefunction.real_space import jets
from nddo_ml.wavefunction.real_space.ansatz import wavefunction
from nddo_ml.wavefunction.real_space.systems import from_text
from nddo_ml.wavefunction.real_space.variational import derivatives

TEXTS = {"H": ("H 0 0 0", {}), "He": ("He 0 0 0", {}), "He triplet": ("He 0 0 0", {"multiplicity": 3}),
         "H3+ triplet": ("H 0 0 0; H 0 0 1.7; H 0 1.5 0", {"charge": 1, "multiplicity": 3}),
         "Li": ("Li 0 0 0", {}), "LiH": ("Li 0 0 0; H 0 0 3.015", {})}


def nested(log, r):
    """(gradient, Laplacian) of a scalar function at one point by jvp(grad): right in this version of torch, and slow."""
    x = r.flatten()

    def gradient(x):
        return grad(lambda y: log(y.reshape(r.shape)))(x)

    basis = torch.eye(len(x), dtype=x.dtype)
    return gradient(x), sum(jvp(gradient, (x,), (e,))[1][k] for k, e in enumerate(basis))


def positions(electrons, walkers, seed=0):
    return torch.randn(walkers, electrons, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CASES = [(name, kind, False) for name in TEXTS for kind in ("ferminet", "psiformer")] + [("LiH", "ferminet", True)]


@pytest.mark.parametrize(("name", "kind", "singlet"), CASES)
def test_jets_of_the_ansatz_are_its_derivatives(name, kind, singlet):
    text, spin = TEXTS[name]
    system = from_text(text, **spin)
    psi = wavefunction(system, kind, seed=1, singlet=singlet).requires_grad_(False)
    r = positions(system.electrons, 12)
    sign, jet = psi.jets(r)
    plain = psi(r)
    gradient, laplacian = vmap(lambda x: nested(lambda y: psi(y)[1], x))(r)
    assert torch.equal(sign, plain[0])
    torch.testing.assert_close(jet.value, plain[1], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(jet.jacobian.T, gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(jet.laplacian, laplacian, rtol=1e-9, atol=1e-9)


def test_rules_of_single_operations():
    """Functions that mix every rule, as functions of all positions."""
    a = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(8, 3)
    matrix = torch.linspace(-0.7, 0.9, 12, dtype=torch.float64).reshape(3, 4)
    functions = {
        "chain": lambda x: jets.tanh(jets.linear(x, a)) * jets.exp(jets.linear(x, a) * 0.3),
        "roots": lambda x: jets.sqrt(jets.mapped(x * x, lambda t: t.sum(-1, keepdim=True)) + 1.0) * jets.reciprocal(
            jets.log1p(jets.mapped(x * x, lambda t: t.sum(-1, keepdim=True))) + 0.5),
        "softmax": lambda x: jets.softmax(jets.linear(x, a, a[:, 0])),
        "contract": lambda x: jets.contract("if,jf->ij", jets.tanh(x), jets.linear(x, a[:3])),
        "constant factor": lambda x: jets.contract("if,fg->ig", x * x, matrix) - 2.0 * jets.contract("gf,if->ig", matrix.T, x),
        "joined": lambda x: jets.joined([1.0 - x, x * x]),
    }
    r = positions(3, 1)[0]
    for name, function in functions.items():
        jet = jets.mapped(function(jets.spread(jets.local(r))), lambda t: t.sum((-2, -1)))
        gradient, laplacian = nested(lambda x, f=function: f(x).sum(), r)
        torch.testing.assert_close(jet.jacobian, gradient, rtol=1e-11, atol=1e-11, msg=name)
        torch.testing.assert_close(jet.laplacian, laplacian, rtol=1e-11, atol=1e-11, msg=name)


def test_sums_of_signed_logarithms():
    """ln|sum s e^l| and its jet where the terms nearly cancel."""
    r = positions(2, 1, seed=3)[0]
    signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)

    def logs(x):
        y = jets.tanh(jets.mapped(x, lambda t: t.flatten(-2)))
        return jets.mapped(y, lambda t: t[..., :3]) * 0.4 + jets.mapped(y, lambda t: t[..., 3:])

    sign, jet = jets.log_sum(signs, logs(jets.spread(jets.local(r))))
    gradient, laplacian = nested(lambda x: (signs * logs(x).exp()).sum().abs().log(), r)
    assert float(sign) == float(torch.sign((signs * logs(r).exp()).sum()))
    torch.testing.assert_close(jet.jacobian, gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(jet.laplacian, laplacian, rtol=1e-10, atol=1e-10)


def test_derivatives_of_slogdet():
    """To second order, in reverse and forward over reverse (torch's own are wrong there under vmap in 2.13); nothing raises
    where matrices have no inverse in single precision."""
    A = torch.randn(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: jets.slogdet(x)[1], A.requires_grad_(True), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: jets.slogdet(x)[1], A)
    X = torch.linalg.inv(A.detach())
    second = -torch.einsum("njk,nli->nijkl", X, X)                                    # d2 ln|det A| / dA_ij dA_kl
    for hessian in (torch.func.hessian, lambda f: torch.func.jacrev(torch.func.jacrev(f))):
        torch.testing.assert_close(vmap(hessian(lambda x: jets.slogdet(x)[1]))(A.detach()), second)
    low = torch.randn(2000, 4, 1, generator=torch.Generator().manual_seed(1))
    slopes = vmap(grad(lambda x: jets.slogdet(x)[1]))(low * low.mT)                    # of rank one
    assert slopes.shape == (2000, 4, 4)


def by_backbone(psi, rows):
    """The columns of the backbone's parameters."""
    sizes = [(name.startswith("backbone"), p.numel()) for name, p in psi.named_parameters()]
    return rows[:, torch.cat([torch.full((n,), mine) for mine, n in sizes])]


def test_a_singular_determinant_adds_nothing():
    """Exactly singular, as happens in single precision: the others go on, in value, jets and derivatives by the parameters."""
    system = from_text("Li 0 0 0")
    three, two = (wavefunction(system, determinants=k, seed=1) for k in (3, 2))
    two.backbone.load_state_dict(three.backbone.state_dict())
    with torch.no_grad():
        three.amplitudes[..., :1] = 0                                     # an orbital of the first determinant
        for a, b in zip(three.orbitals, two.orbitals, strict=True):
            b.weight.copy_(a.weight[3:])
            b.bias.copy_(a.bias[3:])
        two.exponents.copy_(three.exponents[..., 3:])
        two.amplitudes.copy_(three.amplitudes[..., 3:])
    r = positions(3, 4)
    assert (torch.linalg.slogdet(three.matrices(r))[0][:, 0] == 0).all()
    for a, b in zip(three(r), two(r), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(three.jets(r)[1].rows, two.jets(r)[1].rows)
    without, expected = (by_backbone(psi, derivatives(psi, r)) for psi in (three, two))
    assert torch.isfinite(derivatives(three, r)).all()
    torch.testing.assert_close(without, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ferminet", "psiformer"])
def test_the_forward_laplacian_is_faster(kind):
    """At least 2.5 times on LiH; processor time, the best of three."""
    system = from_text("Li 0 0 0; H 0 0 3.015")
    psi = wavefunction(system, kind).requires_grad_(False)
    r = positions(system.electrons, 256)

    def best(work):
        work()
        times = []
        for _ in range(3):
            begin = time.process_time()
            work()
            times.append(time.process_time() - begin)
        return min(times)

    slow = best(lambda: vmap(lambda x: nested(lambda y: psi(y)[1], x))(r))
    assert slow > 2.5 * best(lambda: psi.jets(r))
