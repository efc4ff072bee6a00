"""Smooth parents: the same method, with every derivative where the published one has a corner or a step."""

import copy
import pickle

import pytest
import torch

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.errors import UnknownOption
from nddo_ml.integrals.overlap import FADE, REACH, fade
from nddo_ml.integrals.repulsion import JOIN_CORE, JOIN_RANGE, JOIN_WIDTH, published_join, smooth_join
from nddo_ml.integrals.switch import step
from nddo_ml.methods import method, methods, smooth

TURNS = (JOIN_CORE, JOIN_RANGE - JOIN_WIDTH, JOIN_RANGE)
# S...O 5 to 8 and 14 to 16 angstrom apart, asymmetric, hydrogen atoms in place
PARTNERS = torch.tensor([[-0.9, 0.9, 0.1], [0.9, 0.8, 0.2], [2.4, 0.7, 7.0], [1.7, -0.6, 6.9]], dtype=torch.float64)


def pair(R):
    """Molecule with S and O at a distance R (angstrom), on the tape of R."""
    zero = torch.zeros((), dtype=torch.float64)
    x = torch.cat([torch.stack([zero, zero, zero, 0.3 * R, zero, 0.91**0.5 * R]).view(2, 3), PARTNERS])
    return Molecules.single([16, 8, 1, 1, 1, 1], x)


def derivatives(function, at, order):
    """Value and derivatives of a function of one number, up to an order."""
    R = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    found = [function(R)]
    for _ in range(order):
        found.append(torch.autograd.grad(found[-1].sum(), R, create_graph=True)[0])
    return torch.stack([f.detach().reshape(()) for f in found])


@pytest.mark.parametrize("function, turns", [(step, (0.0, 1.0)), (smooth_join, TURNS), (fade, (FADE, REACH))],
                         ids=["step", "join", "fade"])
def test_every_derivative_is_continuous(function, turns):
    """The first four, on both sides of each turn; finite everywhere, below and beyond included."""
    for turn in turns:
        below, above = derivatives(function, turn - 1e-6, 4), derivatives(function, turn + 1e-6, 4)
        assert (above - below).abs().max() < 1e-4       # the published join jumps by 0.44 in the second
    R = torch.linspace(0.0, 16.0, 6401, dtype=torch.float64).requires_grad_()
    value = function(R)
    for _ in range(4):
        value, = torch.autograd.grad(value.sum(), R, create_graph=True)
        assert torch.isfinite(value).all()


def test_the_published_join_is_not():
    """What the smooth one is for: a jump of the second derivative of w, 2 x 0.22."""
    jump = derivatives(published_join, JOIN_RANGE + 1e-9, 2) - derivatives(published_join, JOIN_RANGE - 1e-9, 2)
    assert float(jump[2]) == pytest.approx(-0.44, abs=1e-6)


def test_the_smooth_join_is_the_published_one():
    """Bit for bit from 0.5 to 6 angstrom and from 7 on; it falls throughout and is 1 at R = 0."""
    R = torch.linspace(JOIN_CORE, JOIN_RANGE - JOIN_WIDTH, 500, dtype=torch.float64)
    assert torch.equal(smooth_join(R), published_join(R))
    assert (smooth_join(torch.tensor([7.0, 7.5, 40.0], dtype=torch.float64)) == 0).all()
    assert (smooth_join(torch.linspace(0.0, 8.0, 4001, dtype=torch.float64)).diff() <= 0).all()
    assert float(smooth_join(torch.zeros(1, dtype=torch.float64))) == 1.0
    assert (fade(torch.tensor([11.999, 15.001], dtype=torch.float64)).tolist()) == [1.0, 0.0]


@pytest.mark.parametrize("name, distance", [("PM7-smooth", 7.0), ("PM7-smooth", 6.0), ("PM7-smooth", 15.0),
                                            ("PM6-smooth", 15.0)])
def test_energy_across_the_cutoffs(name, distance):
    """Energy, slope, curvature and third derivative of a molecule, density included, on both sides (criterion Q5)."""
    model = Hamiltonian(name)

    def curve(R):
        return derivatives(lambda R: model(pair(R), order=3, tolerance=1e-10).energy, R, 3)

    h = 1e-8
    jump = curve(distance + h) - curve(distance - h)
    jump[:3] -= 2 * h * curve(distance)[1:]
    assert torch.isfinite(jump).all()
    assert (jump.abs() < torch.tensor([1e-10, 1e-8, 1e-5, 1e-3], dtype=torch.float64)).all()


def test_near_the_united_atom():
    """The join leaves nothing of 1/R at R -> 0 (criterion L8), where the published one leaves 300 eV at 1e-6 angstrom."""
    R = torch.tensor([1e-6], dtype=torch.float64)
    coulomb = method("PM7").constants.coulomb
    assert float((1 - published_join(R)) * coulomb / R) > 100
    assert float((1 - smooth_join(R)) * coulomb / R) == 0.0


def test_equal_where_nothing_is_far():
    """A molecule without pairs beyond 6 angstrom: the published energy without its corrections, bit for bit, and the same
    forces."""
    water = Molecules.single([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.03, -0.75, -0.48]])
    for name in methods():
        mine = Hamiltonian(smooth(name))(water, forces=True)
        theirs = Hamiltonian(method(name).table.replace("mndod", "mndo/d"))(water, forces=True)
        bare = theirs.energies["electronic"] + theirs.energies["core_core"]
        assert torch.equal(mine.energy, bare) and set(mine.energies) == {"electronic", "core_core"}


def test_distant_pairs_differ_a_little():
    """Between 6 and 7 angstrom the energy moves, by less than 0.02 kcal/mol: the test of the bits above is not empty."""
    R = torch.tensor(6.4, dtype=torch.float64)
    theirs = Hamiltonian("PM7")(pair(R))
    change = Hamiltonian("PM7-smooth")(pair(R)).energy - theirs.energies["electronic"] - theirs.energies["core_core"]
    assert 1e-7 < abs(float(change)) < 1e-3


def test_how_it_is_found():
    parent = smooth("PM7")
    assert parent is not method("PM7") and parent == method("pm7-smooth") == smooth(parent) == method("PM7-smooth")
    assert pickle.loads(pickle.dumps(parent)) == parent == copy.deepcopy(parent)
    assert parent.name == "PM7-smooth" and parent.corrections == () and parent.join is smooth_join
    assert smooth("PM6-D3H4").name == "PM6-smooth" and smooth("AM1").join is None
    assert "PM7-smooth" not in methods()
    with pytest.raises(UnknownOption, match="pm66"):
        method("PM66-smooth")
