"""Neural quantum states: a network gives the amplitude of every determinant, and the Rayleigh quotient trains it.

In small spaces all determinants are summed; in larger ones, of any size, those that matter are selected: the space grows by the
determinants whose first-order amplitude is largest and is cut back to its size, the network being trained in between. The space
itself is never built.
G. Carleo, M. Troyer, Science 355, 602 (2017); D. Luo, B. Clark, Phys. Rev. Lett. 122, 226401 (2019).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.wavefunction.determinants.second_quantisation import (
    Hamiltonian,
    determinants,
    diagonal,
    limited,
    reference,
    sparse_matrix,
)
from nddo_ml.wavefunction.determinants.selected_space import first_order
from nddo_ml.wavefunction.natural_gradient import Spring

HALVINGS = 12       # of a step that raises the energy
DERIVATIVES = 2**27     # of the amplitudes by the weights, kept in each step: 1.1 GB
TOGETHER = 256      # determinants differentiated at a time


class RestrictedBoltzmann(nn.Module):
    """psi(n) = Re exp(a.n) prod_k cosh(b_k + w_k.n) with complex a, b, w: signs included.

    It starts as a guess at the correlated state: excitations fall off by e^-1.5 for each electron, and a phase of pi/2 for each
    makes single ones vanish (Brillouin) and double ones negative.
    """

    def __init__(self, H: Hamiltonian, hidden: int = 32):
        super().__init__()
        sites = 2 * H.orbitals
        self.visible = nn.Parameter(0.05 * torch.randn(2, sites, dtype=torch.float64))
        self.bias = nn.Parameter(0.05 * torch.randn(2, hidden, dtype=torch.float64))
        self.weight = nn.Parameter(0.05 * torch.randn(2, hidden, sites, dtype=torch.float64))
        with torch.no_grad():
            self.visible[0] += 1.5 * reference(H).to(torch.float64)
            self.visible[1] += 0.5 * torch.pi * (~reference(H)).to(torch.float64)

    def forward(self, n: Float[Tensor, "spin_orbital"]) -> Tensor:
        """The amplitude of one determinant."""
        x, y = self.bias + self.weight @ n
        a = self.visible @ n
        factors = torch.complex(torch.cosh(x) * torch.cos(y), torch.sinh(x) * torch.sin(y))
        return (torch.prod(factors) * torch.complex(a[0].exp() * torch.cos(a[1]), a[0].exp() * torch.sin(a[1]))).real


class Backflow(nn.Module):
    """psi(n) = det of the occupied rows of M + f(n): orbitals that see where all electrons are."""

    def __init__(self, H: Hamiltonian, width: int = 24):
        super().__init__()
        sites, self.electrons = 2 * H.orbitals, H.up + H.down
        occupied = torch.nonzero(reference(H))[:, 0]
        M = 0.02 * torch.randn(sites, self.electrons, dtype=torch.float64)
        M[occupied, torch.arange(self.electrons)] += 1.0
        self.orbitals = nn.Parameter(M)
        self.network = nn.Sequential(nn.Linear(sites, width), nn.Tanh(), nn.Linear(width, sites * self.electrons)).double()
        with torch.no_grad():
            self.network[2].weight *= 0.1
            self.network[2].bias.zero_()

    def forward(self, n: Float[Tensor, "spin_orbital"]) -> Tensor:
        """The amplitude of one determinant."""
        M = self.orbitals + self.network(n).reshape(self.orbitals.shape)
        places = n * 2.0 - torch.linspace(0, 1, len(n), dtype=n.dtype)
        rows = torch.topk(places, self.electrons).indices                # the occupied ones, in order
        return torch.linalg.det(M[rows])


STATES = {"rbm": RestrictedBoltzmann, "backflow": Backflow}


def neural_state(H: Hamiltonian, kind: str = "backflow", seed: int = 0, **sizes) -> nn.Module:
    """The named network with random weights. UnknownOption: no such."""
    if kind not in STATES:
        raise UnknownOption(f"state = {kind!r}: expected {', '.join(STATES)}.")
    kept = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        return STATES[kind](H, **sizes)
    finally:
        torch.random.set_rng_state(kept)


def amplitudes(state: nn.Module, space: Bool[Tensor, "determinant spin_orbital"]) -> Float[Tensor, "determinant"]:
    """psi of each determinant, not normalised."""
    return vmap(state)(space.to(torch.float64))


def rayleigh(M: Float[Tensor, "determinant determinant"], psi: Float[Tensor, "determinant"]) -> Tensor:
    """psi.M psi / psi.psi: never below the lowest eigenvalue."""
    return psi @ (M @ psi) / (psi @ psi)


@dataclass(frozen=True)
class Fit:
    """energy: Rayleigh quotient at the end, the Hamiltonian's unit; history: of each step; space: the determinants summed."""

    energy: float
    history: tuple[float, ...]
    space: Bool[Tensor, "determinant spin_orbital"]


def fit(state: nn.Module, H: Hamiltonian, steps: int = 200, space: Bool[Tensor, "determinant spin_orbital"] | None = None,
        unit: float = 1.0, tolerance: float = 1e-7, optimiser: Spring | None = None, M: Tensor | None = None,
        report: Callable[[int, float], None] = lambda done, energy: None) -> Fit:
    """Minimise the Rayleigh quotient over all determinants of a space (the whole one if None) by natural-gradient steps.

    unit: energies are divided by it for the optimiser (27.2 for eV). Ends when ten steps gain less than `tolerance` units. M:
    the matrix of the space, if it is at hand. InvalidMolecule: the space is too large.
    """
    space = determinants(H) if space is None else space
    derivatives_fit(state, len(space))
    M = (sparse_matrix(H, space) if M is None else M) / unit
    optimiser = optimiser or Spring(rate=1.0, decay=1e9, momentum=0.5, damping=1e-4, norm=1.0, growth=math.inf)
    n = space.to(torch.float64)
    fresh = optimiser.start(sum(p.numel() for p in state.parameters()), n)
    memory, history = fresh, []
    for t in range(steps):
        psi, J = _with_jacobian(state, n)
        norm = psi.norm()
        psi, J = psi / norm, J / norm
        energy = float(psi @ (M @ psi))
        history.append(energy * unit)
        report(t + 1, history[-1])
        if t > 20 and abs(history[-11] - history[-1]) < tolerance * unit:
            break
        O, eps = J - psi[:, None] * (psi @ J), energy * psi - M @ psi
        step, memory = optimiser.solve(O, eps, memory, t)
        if not _lowered(state, n, M, step, energy):
            step, memory = optimiser.solve(O, eps, fresh, t)         # without the momentum it goes downhill, if short enough
            if not _lowered(state, n, M, step, energy):
                break
    with torch.no_grad():
        energy = float(rayleigh(M, amplitudes(state, space))) * unit
    return Fit(energy, tuple(history), space)


def _lowered(state, n, M, step, energy):
    """Whether the step, or a half of it, a quarter, ..., lowers the energy; taken if so."""
    before = parameters_to_vector(state.parameters()).detach()
    for k in range(HALVINGS):
        vector_to_parameters(before + step * 0.5**k, state.parameters())
        with torch.no_grad():
            found = float(rayleigh(M, amplitudes(state, n)))
        if found < energy:
            return True
    vector_to_parameters(before, state.parameters())
    return False


def _with_jacobian(state, n):
    """(psi, d psi / d theta) of all determinants, off the tape."""
    parameters = {k: p.detach() for k, p in state.named_parameters()}

    def one(theta, x):
        psi = functional_call(state, theta, (x,))
        return psi, psi

    J, psi = vmap(jacrev(one, has_aux=True), (None, 0), chunk_size=TOGETHER)(parameters, n)
    return psi, torch.cat([j.flatten(1) for j in J.values()], 1)


def derivatives_fit(state: nn.Module, count: int) -> None:
    """InvalidMolecule: more derivatives of `count` amplitudes than a step may keep."""
    weights = sum(p.numel() for p in state.parameters())
    if count * weights > DERIVATIVES:
        raise InvalidMolecule(f"{count} determinants and {weights} weights of the network: {8e-9 * count * weights:.1f} GB of "
                              f"derivatives, and the limit is {8e-9 * DERIVATIVES:.1f} GB: at most {DERIVATIVES // weights} "
                              "determinants (selected), or a smaller network (hidden, width; kind \"rbm\" has few weights).")


def selected(H: Hamiltonian, size: int, kind: str = "backflow", rounds: int = 6, steps: int = 40, unit: float = 1.0,
             seed: int = 0, report: Callable[[int, float], None] = lambda done, energy: None) -> Fit:
    """A neural state on the `size` determinants that matter most, chosen while it is trained; fewer if H couples fewer.

    Each round keeps the determinants with the largest amplitude, in first order |<D|H|psi> / (E - <D|H|D>)| for those outside
    the space so far, and trains. The energy is a Rayleigh quotient: an upper bound in the whole space, of any size.
    UnknownOption: no size. InvalidMolecule: more determinants than can be trained on.
    """
    if size < 1:
        raise UnknownOption(f"size = {size}: at least one determinant.")
    limited(size, H)
    state = neural_state(H, kind, seed)
    derivatives_fit(state, size)
    space = reference(H)[None]
    energy = float(diagonal(H, space))
    for k in range(rounds):
        target = min(size, max(8, round(size * (k + 1) / rounds))) if k + 1 < rounds else size
        with torch.no_grad():
            psi = amplitudes(state, space)
        psi = psi / psi.norm()
        others, weights = first_order(H, space, psi, energy, target)
        weights = torch.cat([psi.abs(), weights])
        space = in_order(torch.cat([space, others])[weights.topk(min(target, len(weights))).indices])
        found = fit(state, H, steps if k + 1 < rounds else 4 * steps, space, unit)
        energy = found.energy
        report(k + 1, energy)
    return found


def in_order(space: Bool[Tensor, "determinant spin_orbital"]) -> Bool[Tensor, "determinant spin_orbital"]:
    """The determinants in the order of `determinants`."""
    rows = np.packbits(space.numpy(), axis=1)
    return space[torch.from_numpy(np.lexsort(rows.T[::-1])[::-1].copy())]
