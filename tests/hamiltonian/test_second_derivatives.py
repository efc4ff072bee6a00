"""Second derivatives of what is not stationary in the density, and the refusal of every derivative beyond the order."""

import pytest
import torch
from ase.build import molecule

from nddo_ml import Hamiltonian, Molecules, UnknownOption

METHODS = ("AM1", "PM6", "PM7", "neural")
# no degenerate frontier levels: of those only sums have derivatives
MOLECULES = {"H2CO": ("H2CO", 0, 1), "H2O": ("H2O", 0, 1), "CH3SH": ("CH3SH", 0, 1), "NO2": ("NO2", 0, 2),
             "HCOOH+": ("HCOOH", 1, 2)}
QUANTITIES = {"dipole": lambda r, w: (r.dipole[0] * w[0, :3]).sum(), "charges": lambda r, w: (r.charges * w[:, 0]).sum(),
              "gap": lambda r, w: r.gap(0)}


def setting(method, name):
    """Hamiltonian, molecule a little off its symmetric geometry, two random directions."""
    key, charge, multiplicity = MOLECULES[name]
    atoms, generator = molecule(key), torch.Generator().manual_seed(1)
    random = [torch.randn(len(atoms), 3, dtype=torch.float64, generator=generator) for _ in range(3)]
    x = torch.from_numpy(atoms.positions) + 0.03 * random[0]
    return Hamiltonian(method), Molecules.single(atoms.numbers, x, charge, multiplicity), random[1:]


def slopes(model, molecules, weights, direction, order, guess):
    """(d quantity / d positions) . direction of every quantity, and the positions."""
    x = molecules.positions.clone().requires_grad_()
    result = model(molecules.with_positions(x), order=order, tolerance=1e-10, stability=False, guess=guess)
    gradients = {name: torch.autograd.grad(quantity(result, weights), x, create_graph=order == 3, retain_graph=True)[0]
                 for name, quantity in QUANTITIES.items()}
    return {name: (g * direction).sum() for name, g in gradients.items()}, x


@pytest.mark.parametrize("name", MOLECULES)
@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives(method, name):
    """Of dipole, charges and gap along a direction, at order 3, against differences of first derivatives (two step lengths,
    extrapolated), relative 1e-5.
    """
    model, here, (v, w) = setting(method, name)
    guess = model(here, tolerance=1e-10, stability=False)
    first, x = slopes(model, here, w, v, 3, guess)

    def differences(h):
        up, down = (slopes(model, here.with_positions(here.positions + s * v), w, v, 2, guess)[0] for s in (h, -h))
        return {quantity: float(up[quantity] - down[quantity]) / (2 * h) for quantity in QUANTITIES}

    coarse, fine = differences(1e-3), differences(5e-4)
    for quantity in QUANTITIES:
        exact = float((torch.autograd.grad(first[quantity], x, retain_graph=True)[0] * v).sum())
        assert exact == pytest.approx((4 * fine[quantity] - coarse[quantity]) / 3, rel=1e-5, abs=2e-5), quantity


def test_second_derivatives_of_a_batch():
    """Members keep their own: the sum over a batch has the derivatives of each molecule alone."""
    parts = [setting("AM1", name) for name in ("H2O", "H2CO")]
    model = parts[0][0]
    batch = Molecules.batch([p[1].numbers for p in parts], [p[1].positions for p in parts], [0, 0], [1, 1])
    x = batch.positions.clone().requires_grad_()
    dipoles = model(batch.with_positions(x), order=3, tolerance=1e-10).dipole
    gradient, = torch.autograd.grad(dipoles[:, 2].sum(), x, create_graph=True)
    together, = torch.autograd.grad(gradient.square().sum(), x)
    alone = []
    for _, here, _ in parts:
        y = here.positions.clone().requires_grad_()
        dipole = model(here.with_positions(y), order=3, tolerance=1e-10).dipole[0]
        gradient, = torch.autograd.grad(dipole[2], y, create_graph=True)
        alone.append(torch.autograd.grad(gradient.square().sum(), y)[0])
    assert (together - torch.cat(alone)).abs().max() < 1e-6 * together.abs().max()


@pytest.mark.parametrize("method", ["AM1", "PM6"])
def test_polarizability_by_a_parameter(method):
    """d alpha_zz / d zeta_p(C) is the same from the dipole as from the energy, and that of differences."""
    atoms = molecule("H2CO")
    here = Molecules.single(atoms.numbers, atoms.positions)
    carbon = int(Hamiltonian(method).method.rows(torch.tensor([6])))

    def alpha(model, order, source):
        field = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        result = model(here, field=field, order=order, tolerance=1e-11)
        mu = result.dipole if source == "dipole" else -torch.autograd.grad(result.energy.sum(), field, create_graph=True)[0]
        return torch.autograd.grad(mu[0, 2], field, create_graph=order == 3)[0][0, 2]

    model = Hamiltonian(method)
    model.zeta_p.requires_grad_()
    found = [float(torch.autograd.grad(alpha(model, 3, source), model.zeta_p)[0][carbon]) for source in ("dipole", "energy")]

    def moved(h):
        other = Hamiltonian(method)
        with torch.no_grad():
            other.zeta_p[carbon] += h
        return float(alpha(other, 2, "dipole"))
    expected = (moved(1e-4) - moved(-1e-4)) / 2e-4
    assert found[0] == pytest.approx(found[1], rel=1e-8) and found[0] == pytest.approx(expected, rel=1e-5)


def beyond(order, quantity):
    """Differentiate a quantity of water one time too many."""
    atoms = molecule("H2O")
    x = torch.from_numpy(atoms.positions).requires_grad_()
    result = Hamiltonian("AM1")(Molecules.single(atoms.numbers, x), order=order, forces=True)
    value = {"energy": result.energy[0], "forces": None if result.forces is None else result.forces[0, 1],
             "dipole": result.dipole[0, 2], "charges": result.charges[0], "gap": result.gap(0) if order > 1 else None}[quantity]
    allowed = order if quantity == "energy" else order - 1
    for k in range(allowed):
        gradient, = torch.autograd.grad(value, x, create_graph=True)
        value = gradient[0].sum() + gradient[1, 1]
        assert torch.isfinite(value), k
    return torch.autograd.grad(value, x)


@pytest.mark.parametrize("order, quantity", [
    (1, "energy"), *((order, q) for order in (2, 3) for q in ("energy", "forces", "dipole", "charges", "gap"))])
def test_beyond_the_order(order, quantity):
    """As many derivatives as promised, and an error that says what to ask for instead of a wrong next one."""
    with pytest.raises(UnknownOption, match=rf"beyond order={order}.*{'not offered' if order == 3 else f'order={order + 1}'}"):
        beyond(order, quantity)


def test_parameters_are_counted_too():
    """The second derivative by a parameter, and the mixed one, are refused at order 1 and right at order 2."""
    atoms = molecule("H2O")
    model = Hamiltonian("AM1").requires_grad_()
    for order in (1, 2):
        x = torch.from_numpy(atoms.positions).clone().requires_grad_()
        energy = model(Molecules.single(atoms.numbers, x), order=order).energy.sum()
        by_x, by_u = torch.autograd.grad(energy, (x, model.U_ss), create_graph=True)
        for value, wanted in ((by_u[7], x), (by_x[0, 2], model.U_ss), (by_u[0], model.U_ss)):
            if order == 1:
                with pytest.raises(UnknownOption, match="beyond order=1"):
                    torch.autograd.grad(value, wanted, retain_graph=True)
            else:
                assert torch.isfinite(torch.autograd.grad(value, wanted, retain_graph=True)[0]).all()


def test_a_loss_of_energies_and_forces_trains():
    """What training does is not beyond the order: one backward pass through energies, forces and dipoles of two calculations.
    """
    atoms = molecule("H2O")
    model = Hamiltonian("AM1").requires_grad_()
    results = [model(Molecules.single(atoms.numbers, atoms.positions * s), order=2, forces=True) for s in (1.0, 1.05)]
    sum(r.energy.sum() + r.forces.square().sum() + r.dipole.square().sum() for r in results).backward()
    assert model.U_pp.grad.abs().max() > 0
