"""The orbital ansatz: a network maps a geometry to a rotation of orbitals, and the energy itself trains it, without labels.

    C = U0 exp(X - X^T)

U0 are the orbitals of a reference geometry in a symmetrically orthonormalised basis, X (virtual by occupied) comes from the
network. The determinant of the occupied columns of C is a valid one whatever the network says, so its energy is an upper bound
of the lowest SCF energy. No SCF is solved: the gradient dE/dC is 4 F C (restricted; 2 F C for each spin otherwise), and the
derivatives of the exponential and of the network do the rest. X is measured in units in which the energy of the reference has
unit curvature, which suits Gauss-Newton steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nddo_ml.errors import InvalidMolecule
from nddo_ml.wavefunction.orbitals.energy_functionals import OCCUPIED_FIRST, Densities, EnergyFunctional, gradient

LEAST_DAMPING = 1e-9
DAMPINGS = 12             # tries of one step, each with four times the damping of the one before


def aligned(positions: Float[Tensor, "molecule atom 3"],
            reference: Float[Tensor, "atom 3"]) -> Float[Tensor, "molecule atom 3"]:
    """Geometries moved and turned onto the reference, each by the rotation of least square distance.

    In this frame orbitals depend on the shape of a molecule alone.        W. Kabsch, Acta Cryst. A32, 922 (1976)
    """
    x = positions - positions.mean(1, keepdim=True)
    y = reference - reference.mean(0)
    U, _, Vh = torch.linalg.svd(x.mT @ y)
    last = torch.sign(torch.linalg.det(U @ Vh))
    turn = torch.stack([torch.ones_like(last), torch.ones_like(last), last], -1)
    return x @ (U * turn[:, None, :]) @ Vh


def distances(positions: Float[Tensor, "molecule atom 3"]) -> Float[Tensor, "molecule pair"]:
    """Distances of all pairs of atoms i < j."""
    i, j = torch.triu_indices(positions.shape[1], positions.shape[1], 1)
    return (positions[:, i] - positions[:, j]).norm(dim=-1)


@dataclass(frozen=True)
class ReferenceOrbitals:
    """Orbitals of the reference geometry, occupied ones first, and the units of X that go with them."""

    U0: Float[Tensor, "spin orbital orbital"]               # in the orthonormal basis
    units: tuple[Float[Tensor, "virtual occupied"], ...]    # of each spin: (4/s (eps_v - eps_o))^-1/2, s spin channels


def reference_orbitals(functional: EnergyFunctional) -> ReferenceOrbitals:
    """The orbitals and units of a single geometry, from its SCF.

    Raises:
        InvalidMolecule: the functional holds several geometries.
    """
    if functional.molecules != 1:
        raise InvalidMolecule(f"A reference is one geometry, not {functional.molecules}.")
    _, D, _ = functional.solve(None)
    _, F = functional.evaluate(D)
    eps, U0 = torch.linalg.eigh(F[0] - OCCUPIED_FIRST * D[0])
    units = []
    for levels, o in zip(eps, functional.occupied, strict=True):
        gaps = levels[o:, None] - levels[None, :o] - OCCUPIED_FIRST
        units.append((4.0 / len(eps) * gaps.clamp(min=gaps.max() * 1e-3)).rsqrt())
    return ReferenceOrbitals(U0, tuple(units))


class OrbitalNetwork(nn.Module):
    """A network from geometries in the frame of the reference to the occupied orbitals of each spin.

    Its features are 1/R of all pairs of atoms, shifted and scaled to zero mean and unit spread over the geometries it is made
    with. They do not tell mirror images apart: of chiral molecules use one hand.
    """

    U0: Tensor
    units: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, reference: ReferenceOrbitals, positions: Float[Tensor, "molecule atom 3"], width: int = 32,
                 layers: int = 2, seed: int = 0):
        super().__init__()
        features = 1 / distances(positions)
        units = torch.cat([u.flatten() for u in reference.units])
        self.shapes = [tuple(u.shape) for u in reference.units]
        self.register_buffer("U0", reference.U0)
        self.register_buffer("units", units)
        self.register_buffer("centre", features.mean(0))
        self.register_buffer("spread", features.std(0, correction=0).clamp(min=1e-3))
        sizes = [features.shape[1]] + [width] * layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            steps = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
            last = nn.Linear(sizes[-1], len(units))
        nn.init.zeros_(last.weight)         # it begins as the reference
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(*steps, last).double()

    def coordinates(self, positions: Float[Tensor, "molecule atom 3"]) -> Float[Tensor, "molecule rotation"]:
        """All elements of X of all spins, in their units."""
        return self.network((1 / distances(positions) - self.centre) / self.spread)

    def orbitals(self, coordinates: Float[Tensor, "molecule rotation"]) -> list[Float[Tensor, "molecule orbital occupied"]]:
        """The occupied orbitals of each spin that belong to these coordinates."""
        parts = (coordinates * self.units).split([v * o for v, o in self.shapes], dim=1)
        return [rotated(U, x.unflatten(1, shape)) for U, x, shape in zip(self.U0, parts, self.shapes, strict=True)]

    def forward(self, positions: Float[Tensor, "molecule atom 3"]) -> list[Float[Tensor, "molecule orbital occupied"]]:
        """The occupied orbitals of each spin."""
        return self.orbitals(self.coordinates(positions))


def rotated(U0: Float[Tensor, "orbital orbital"],
            X: Float[Tensor, "molecule virtual occupied"]) -> Float[Tensor, "molecule orbital occupied"]:
    """The occupied columns of U0 exp(X - X^T)."""
    v, o = X.shape[-2:]
    A = torch.nn.functional.pad(X, (0, v, o, 0))
    return (U0 @ torch.linalg.matrix_exp(A - A.mT))[..., :o]


def density(C: list[Float[Tensor, "molecule orbital _occupied"]]) -> Densities:
    """D = C C^T of each spin."""
    return torch.stack([c @ c.mT for c in C], 1)


def energy_and_gradient(functional: EnergyFunctional, C: list[Tensor]) -> tuple[Float[Tensor, "molecule"], list[Tensor]]:
    """(E, dE/dC of each spin) by the Fock matrix, off the tape; C of each spin: `molecule orbital occupied`."""
    with torch.no_grad():
        energy, F = functional.evaluate(density(C))
        return energy, [gradient(F[:, s], c, len(C)) for s, c in enumerate(C)]


@dataclass(frozen=True)
class OrbitalFit:
    """What the training of an orbital network did."""

    history: tuple[float, ...]      # mean energy after each step that was taken, in the functional's unit
    evaluations: int                # energies of all geometries that were calculated


def fit_network(network: OrbitalNetwork, functional: EnergyFunctional, positions: Float[Tensor, "molecule atom 3"],
                steps: int = 60, tolerance: float = 1e-10,
                report: Callable[[int, float], None] = lambda done, energy: None) -> OrbitalFit:
    """Train the network in place on the mean energy of the functional's geometries, until a step gains less than `tolerance`.

    No SCF is solved. Levenberg-Marquardt: (J^T J + lambda m) dtheta = -J^T g, with J the derivatives of the coordinates by the
    parameters, g the derivatives of the energy by the coordinates, m the mean of the diagonal of J^T J. Since the coordinates
    have unit curvature, J^T J is the Gauss-Newton Hessian.
    """
    damping, history, evaluations = 1e-1, [], 0
    for step in range(steps):
        energy, g, J = _slopes(network, functional, positions)
        new, damping, tries = _lowered(network, functional, positions, (energy, J.T @ J, -J.T @ g), damping)
        evaluations += 1 + tries
        if new is None:
            return OrbitalFit(tuple(history), evaluations)
        damping = max(damping / 5, LEAST_DAMPING)
        history.append(new)
        report(step + 1, new)
        if energy - new < tolerance:
            return OrbitalFit(tuple(history), evaluations)
    return OrbitalFit(tuple(history), evaluations)


def _lowered(network, functional, positions, equations, damping):
    """(mean energy after a step, its damping, energies calculated); None and no step where none of the dampings lowers it."""
    energy, M, b = equations
    scale = M.diagonal().mean()
    before = parameters_to_vector(network.parameters()).detach()
    for tries in range(1, DAMPINGS + 1):
        damped = M + damping * scale * torch.eye(len(M), dtype=M.dtype)
        change = torch.cholesky_solve(b[:, None], torch.linalg.cholesky(damped))[:, 0]
        vector_to_parameters(before + change, network.parameters())
        with torch.no_grad():
            new = float(functional.evaluate(density(network(positions)))[0].mean())
        if new <= energy:
            return new, damping, tries
        damping = damping * 4
    vector_to_parameters(before, network.parameters())
    return None, damping, DAMPINGS


class _Coordinates(nn.Module):
    """A module whose output are the coordinates of a network, as functional_call needs it."""

    def __init__(self, network: OrbitalNetwork):
        super().__init__()
        self.network = network

    def forward(self, positions: Float[Tensor, "molecule atom 3"]) -> Float[Tensor, "molecule rotation"]:
        return self.network.coordinates(positions)


def _slopes(network, functional, positions):
    """(mean energy, its derivative by the coordinates of all geometries, Jacobian of the coordinates by the parameters)."""
    with torch.no_grad():
        coordinates = network.coordinates(positions)
    coordinates.requires_grad_()
    C = network.orbitals(coordinates)
    energy, slopes = energy_and_gradient(functional, C)
    (g,) = torch.autograd.grad(C, coordinates, slopes)
    parameters = {k: p.detach() for k, p in network.named_parameters()}

    def coordinates_of_one(theta: dict[str, Tensor], x: Float[Tensor, "atom 3"]) -> Float[Tensor, "rotation"]:
        return functional_call(_Coordinates(network), {f"network.{k}": p for k, p in theta.items()}, (x[None],))[0]

    J = vmap(jacrev(coordinates_of_one), (None, 0))(parameters, positions)
    J = torch.cat([j.flatten(2) for j in J.values()], 2).flatten(0, 1)
    return float(energy.mean()), g.flatten(), J
