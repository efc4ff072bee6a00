"""The orbital ansatz: a network maps a geometry to a rotation of orbitals, and the energy itself trains it, without labels.

C = U0 exp(X - X^T) with the orbitals U0 of a reference geometry in a symmetrically orthonormalised basis, and X (virtual by
occupied) from the network. The determinant is valid whatever the network says, so its energy is an upper bound of the
lowest SCF energy; no SCF is solved. The gradient is dE/dC = 4 F C (RHF; 2 F C for each spin of UHF), pushed through the
exponential and the network; X is measured in units in which the energy of the reference has unit curvature, so that
Gauss-Newton steps fit.
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
from nddo_ml.wavefunction.orbitals.energy_functionals import EnergyFunctional, gradient

LEAST_DAMPING = 1e-9
OCCUPIED_FIRST = 1e3      # lowers occupied levels to be diagonalised apart from the empty ones


def aligned(positions: Float[Tensor, "molecule atom 3"], reference: Float[Tensor, "atom 3"]):
    """Geometries moved and turned onto the reference, by the rotation of least square distance: orbitals are functions of shape
    alone in this frame.   W. Kabsch, Acta Cryst. A32, 922 (1976)
    """
    x = positions - positions.mean(1, keepdim=True)
    y = reference - reference.mean(0)
    U, _, Vh = torch.linalg.svd(x.mT @ y)
    last = torch.sign(torch.linalg.det(U @ Vh))
    turn = torch.stack([torch.ones_like(last), torch.ones_like(last), last], -1)
    return x @ (U * turn[:, None, :]) @ Vh


def distances(positions: Float[Tensor, "molecule atom 3"]) -> Float[Tensor, "molecule pair"]:
    """Distances of all pairs of atoms."""
    i, j = torch.triu_indices(positions.shape[1], positions.shape[1], 1)
    return (positions[:, i] - positions[:, j]).norm(dim=-1)


@dataclass(frozen=True)
class Reference:
    """Orbitals `spin orbital orbital` of the reference geometry, occupied ones first, and for each spin the unit of X (virtual,
    occupied): (4/s (eps_v - eps_o))^-1/2, s spin channels."""

    U0: Float[Tensor, "spin orbital orbital"]
    units: tuple[Float[Tensor, "virtual occupied"], ...]


def reference(functional: EnergyFunctional) -> Reference:
    """The Reference of a single geometry, from its SCF. InvalidMolecule: several geometries."""
    if functional.molecules != 1:
        raise InvalidMolecule(f"A reference is one geometry, not {functional.molecules}.")
    _, D, _ = functional.solve(None)
    _, F = functional.evaluate(D)
    eps, U0 = torch.linalg.eigh(F[0] - OCCUPIED_FIRST * D[0])
    units = []
    for levels, o in zip(eps, functional.occupied, strict=True):
        gaps = levels[o:, None] - levels[None, :o] - OCCUPIED_FIRST
        units.append((4.0 / len(eps) * gaps.clamp(min=gaps.max() * 1e-3)).rsqrt())
    return Reference(U0, tuple(units))


class OrbitalNetwork(nn.Module):
    """Occupied orbitals of each spin, `molecule orbital occupied`, from geometries in the frame of the reference.

    Features: 1/R of all pairs, to zero mean and unit spread over the geometries it is made with. They do not know left from
    right: of chiral molecules use one hand.
    """

    def __init__(self, reference: Reference, positions: Float[Tensor, "molecule atom 3"], width: int = 32, layers: int = 2,
                 seed: int = 0):
        super().__init__()
        features = 1 / distances(positions)
        self.shapes = [tuple(u.shape) for u in reference.units]
        self.register_buffer("U0", reference.U0)
        self.register_buffer("units", torch.cat([u.flatten() for u in reference.units]))
        self.register_buffer("centre", features.mean(0))
        self.register_buffer("spread", features.std(0, correction=0).clamp(min=1e-3))
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        sizes = [features.shape[1]] + [width] * layers
        steps = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
        self.network = nn.Sequential(*steps, nn.Linear(sizes[-1], len(self.units))).double()
        torch.random.set_rng_state(state)
        nn.init.zeros_(self.network[-1].weight)
        nn.init.zeros_(self.network[-1].bias)

    def coordinates(self, positions: Float[Tensor, "molecule atom 3"]) -> Float[Tensor, "molecule rotation"]:
        """All elements of X of all spins, in their units."""
        return self.network((1 / distances(positions) - self.centre) / self.spread)

    def orbitals(self, coordinates: Float[Tensor, "molecule rotation"]) -> list[Float[Tensor, "molecule orbital occupied"]]:
        """The occupied orbitals of each spin these coordinates mean."""
        parts = (coordinates * self.units).split([v * o for v, o in self.shapes], dim=1)
        return [rotated(U, x.unflatten(1, shape)) for U, x, shape in zip(self.U0, parts, self.shapes, strict=True)]

    def forward(self, positions: Float[Tensor, "molecule atom 3"]) -> list[Float[Tensor, "molecule orbital occupied"]]:
        """The occupied orbitals of each spin."""
        return self.orbitals(self.coordinates(positions))


def rotated(U0: Float[Tensor, "orbital orbital"], X: Float[Tensor, "molecule virtual occupied"]):
    """The occupied columns of U0 exp(X - X^T)."""
    v, o = X.shape[-2:]
    A = torch.nn.functional.pad(X, (0, v, o, 0))
    return (U0 @ torch.linalg.matrix_exp(A - A.mT))[..., :o]


def density(C: list[Float[Tensor, "molecule orbital occupied"]]) -> Float[Tensor, "molecule spin orbital orbital"]:
    """D = C C^T of each spin."""
    return torch.stack([c @ c.mT for c in C], 1)


def energy_and_gradient(functional: EnergyFunctional, C: list[Tensor]) -> tuple[Float[Tensor, "molecule"], list[Tensor]]:
    """(E, dE/dC of each spin), by the Fock matrix; nothing is differentiated."""
    with torch.no_grad():
        energy, F = functional.evaluate(density(C))
        return energy, [gradient(F[:, s], c, len(C)) for s, c in enumerate(C)]


@dataclass(frozen=True)
class Fit:
    """Mean energy after each accepted step, in the functional's unit, and evaluations of all geometries."""

    history: tuple[float, ...]
    evaluations: int


def fit(network: OrbitalNetwork, functional: EnergyFunctional, positions: Float[Tensor, "molecule atom 3"], steps: int = 60,
        tolerance: float = 1e-10, report: Callable[[int, float], None] = lambda done, energy: None) -> Fit:
    """Train on the mean energy of the functional's geometries, until a step lowers it by less than `tolerance`; no SCF.

    Levenberg-Marquardt in the metric of the reference: (J^T J + lambda m) dtheta = -J^T g, J the derivatives of the
    coordinates, g that of the energy, m the mean of the diagonal of J^T J.
    """
    damping, history, evaluations = 1e-1, [], 0
    energy, g, J = _slopes(network, functional, positions)
    for step in range(steps):
        M, b = J.T @ J, -J.T @ g
        scale = M.diagonal().mean()
        before = parameters_to_vector(network.parameters()).detach()
        for _ in range(12):
            damped = M + damping * scale * torch.eye(len(M), dtype=M.dtype)
            change = torch.cholesky_solve(b[:, None], torch.linalg.cholesky(damped))[:, 0]
            vector_to_parameters(before + change, network.parameters())
            with torch.no_grad():
                new = functional.evaluate(density(network(positions)))[0].mean()
            evaluations += 1
            if float(new) <= energy:
                break
            damping = damping * 4
        else:
            vector_to_parameters(before, network.parameters())
            break
        gain, damping = energy - float(new), max(damping / 5, LEAST_DAMPING)
        history.append(float(new))
        report(step + 1, history[-1])
        if gain < tolerance:
            break
        energy, g, J = _slopes(network, functional, positions)
        evaluations += 1
    return Fit(tuple(history), evaluations)


class _Coordinates(nn.Module):
    """The coordinates as what a module returns."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, positions):
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

    def one(theta, x):
        return functional_call(_Coordinates(network), {f"network.{k}": p for k, p in theta.items()}, (x[None],))[0]

    J = vmap(jacrev(one), (None, 0))(parameters, positions)
    J = torch.cat([j.flatten(2) for j in J.values()], 2).flatten(0, 1)
    return float(energy.mean()), g.flatten(), J
