"""Neural quantum states: a network gives the amplitude of every determinant, and the Rayleigh quotient trains it.

In small spaces all determinants are summed. In larger ones, of any size, those that matter are selected: the space grows by the
determinants whose first-order amplitude is largest, is cut back to its size, and the network is trained before the next round.
The whole space is never built.
G. Carleo, M. Troyer, Science 355, 602 (2017); D. Luo, B. Clark, Phys. Rev. Lett. 122, 226401 (2019).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.wavefunction.determinants.second_quantisation import (
    SecondQuantisedHamiltonian,
    Space,
    determinants,
    diagonal,
    reference_determinant,
    refuse_large_space,
    sparse_matrix,
)
from nddo_ml.wavefunction.determinants.selected_space import first_order
from nddo_ml.wavefunction.natural_gradient import Spring

HALVINGS = 12       # of a step that raises the energy
DERIVATIVES = 2**27     # of the amplitudes by the weights, kept in each step: 1.1 GB
TOGETHER = 256      # determinants differentiated at a time


class RestrictedBoltzmann(nn.Module):
    """psi(n) = Re exp(a.n) prod_k cosh(b_k + w_k.n) with complex a, b and w, which give signs too; n are occupations of 0 or 1.

    It starts as a guess at a correlated state: each electron that leaves the reference determinant costs a factor of e^-1.5 and
    adds a phase of pi/2, so that single excitations vanish (Brillouin's theorem) and double ones are negative.
    """

    def __init__(self, H: SecondQuantisedHamiltonian, hidden: int = 32):
        super().__init__()
        sites = 2 * H.orbitals
        self.visible = nn.Parameter(0.05 * torch.randn(2, sites, dtype=torch.float64))
        self.bias = nn.Parameter(0.05 * torch.randn(2, hidden, dtype=torch.float64))
        self.weight = nn.Parameter(0.05 * torch.randn(2, hidden, sites, dtype=torch.float64))
        with torch.no_grad():
            self.visible[0] += 1.5 * reference_determinant(H).to(torch.float64)
            self.visible[1] += 0.5 * torch.pi * (~reference_determinant(H)).to(torch.float64)

    def forward(self, n: Float[Tensor, "spin_orbital"]) -> Tensor:
        """The amplitude of one determinant."""
        x, y = self.bias + self.weight @ n
        a = self.visible @ n
        factors = torch.complex(torch.cosh(x) * torch.cos(y), torch.sinh(x) * torch.sin(y))
        return (torch.prod(factors) * torch.complex(a[0].exp() * torch.cos(a[1]), a[0].exp() * torch.sin(a[1]))).real


class Backflow(nn.Module):
    """psi(n) = determinant of the occupied rows of M + f(n), f a network: orbitals that depend on where all electrons are."""

    def __init__(self, H: SecondQuantisedHamiltonian, width: int = 24):
        super().__init__()
        sites, self.electrons = 2 * H.orbitals, H.up + H.down
        occupied = torch.nonzero(reference_determinant(H))[:, 0]
        M = 0.02 * torch.randn(sites, self.electrons, dtype=torch.float64)
        M[occupied, torch.arange(self.electrons)] += 1.0
        self.orbitals = nn.Parameter(M)
        first, last = nn.Linear(sites, width), nn.Linear(width, sites * self.electrons)
        self.network = nn.Sequential(first, nn.Tanh(), last).double()
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()

    def forward(self, n: Float[Tensor, "spin_orbital"]) -> Tensor:
        """The amplitude of one determinant."""
        M = self.orbitals + self.network(n).reshape(self.orbitals.shape)
        places = n * 2.0 - torch.linspace(0, 1, len(n), dtype=n.dtype)
        rows = torch.topk(places, self.electrons).indices                # the occupied ones, in order
        return torch.linalg.det(M[rows])


USUAL = Spring(rate=1.0, decay=1e9, momentum=0.5, damping=1e-4, norm=1.0, growth=math.inf)
STATES = {"rbm": RestrictedBoltzmann, "backflow": Backflow}


def neural_state(H: SecondQuantisedHamiltonian, kind: str = "backflow", seed: int = 0, width: int | None = None) -> nn.Module:
    """The network "rbm" or "backflow" with random weights; width: its hidden units, by default 32 and 24.

    Raises:
        UnknownOption: there is no network of that name.
    """
    if kind not in STATES:
        raise UnknownOption(f"state = {kind!r}: expected {', '.join(STATES)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return STATES[kind](H) if width is None else STATES[kind](H, width)


def amplitudes(state: nn.Module, space: Space) -> Float[Tensor, "determinant"]:
    """psi of each determinant of a space, not normalised."""
    return vmap(state)(space.to(torch.float64))


def rayleigh(M: Float[Tensor, "determinant determinant"], psi: Float[Tensor, "determinant"]) -> Float[Tensor, ""]:
    """psi.M psi / psi.psi, which is never below the lowest eigenvalue of M."""
    return psi @ (M @ psi) / (psi @ psi)


@dataclass(frozen=True)
class NeuralStateFit:
    """What the training of a neural state came to."""

    energy: float                   # Rayleigh quotient at the end, in the Hamiltonian's unit
    history: tuple[float, ...]      # and before each step
    space: Space                    # the determinants that were summed


@dataclass(frozen=True)
class NeuralStateTraining:
    """How a neural state is trained."""

    steps: int = 200                # at most
    unit: float = 1.0               # of the energy for the optimiser, in the Hamiltonian's unit: 27.2 for eV
    tolerance: float = 1e-7         # the training ends when ten steps gain less, in these units
    optimiser: Spring = USUAL


def fit_state(state: nn.Module, H: SecondQuantisedHamiltonian, space: Space | None = None,
              training: NeuralStateTraining = NeuralStateTraining(),
              report: Callable[[int, float], None] = lambda done, energy: None) -> NeuralStateFit:
    """Train a state in place: minimise its Rayleigh quotient over a space, by default the whole one, by natural-gradient steps.

    Raises:
        InvalidMolecule: the space is too large to be summed, or to keep the derivatives of all amplitudes.
    """
    space = determinants(H) if space is None else space
    refuse_many_derivatives(state, len(space))
    unit, optimiser = training.unit, training.optimiser
    M = sparse_matrix(H, space) / unit
    n = space.to(torch.float64)
    fresh = optimiser.start(sum(p.numel() for p in state.parameters()), n)
    memory, history = fresh, []
    for t in range(training.steps):
        psi, J = _with_jacobian(state, n)
        norm = psi.norm()
        psi, J = psi / norm, J / norm
        energy = float(psi @ (M @ psi))
        history.append(energy * unit)
        report(t + 1, history[-1])
        if t > 20 and abs(history[-11] - history[-1]) < training.tolerance * unit:
            break
        O, eps = J - psi[:, None] * (psi @ J), energy * psi - M @ psi
        step, memory = optimiser.solve(O, eps, memory, t)
        if not _lowered(state, space, M, step, energy):
            step, memory = optimiser.solve(O, eps, fresh, t)         # without the momentum it goes downhill, if short enough
            if not _lowered(state, space, M, step, energy):
                break
    with torch.no_grad():
        energy = float(rayleigh(M, amplitudes(state, space))) * unit
    return NeuralStateFit(energy, tuple(history), space)


def _lowered(state, space, M, step, energy):
    """Take the step, or a half of it, a quarter, ..., whichever first lowers the energy; whether one of them did."""
    before = parameters_to_vector(state.parameters()).detach()
    for k in range(HALVINGS):
        vector_to_parameters(before + step * 0.5**k, state.parameters())
        with torch.no_grad():
            lowered = float(rayleigh(M, amplitudes(state, space)))
        if lowered < energy:
            return True
    vector_to_parameters(before, state.parameters())
    return False


def _with_jacobian(state, n):
    """(psi `determinant`, d psi/d theta `determinant parameter`), off the tape."""
    parameters = {k: p.detach() for k, p in state.named_parameters()}

    def twice(theta: dict[str, Tensor], x: Float[Tensor, "spin_orbital"]) -> tuple[Tensor, Tensor]:
        psi = functional_call(state, theta, (x,))
        return psi, psi

    J, psi = vmap(jacrev(twice, has_aux=True), (None, 0), chunk_size=TOGETHER)(parameters, n)
    return psi, torch.cat([j.flatten(1) for j in J.values()], 1)


def refuse_many_derivatives(state: nn.Module, count: int) -> None:
    """Do nothing, or refuse to differentiate `count` amplitudes of a state.

    Raises:
        InvalidMolecule: the derivatives by all weights would need more than 1.1 GB.
    """
    weights = sum(p.numel() for p in state.parameters())
    if count * weights > DERIVATIVES:
        raise InvalidMolecule(f"{count} determinants and {weights} weights of the network: {8e-9 * count * weights:.1f} GB of "
                              f"derivatives, and the limit is {8e-9 * DERIVATIVES:.1f} GB: at most {DERIVATIVES // weights} "
                              "determinants (fit_selected), or a smaller network (width; kind \"rbm\" has few weights).")


def fit_selected(state: nn.Module, H: SecondQuantisedHamiltonian, size: int, rounds: int = 6,
                 training: NeuralStateTraining = NeuralStateTraining(steps=40),
                 report: Callable[[int, float], None] = lambda done, energy: None) -> NeuralStateFit:
    """Train a state in place on the `size` determinants that matter most, chosen meanwhile; on fewer if H couples fewer.

    Each round keeps the determinants with the largest amplitude and trains; outside the space of the last round amplitudes are
    those of first order, |<D|H|psi> / (E - <D|H|D>)|. The last round takes four times as many steps. The energy is a Rayleigh
    quotient and therefore an upper bound in the whole space, however large that is.

    Raises:
        UnknownOption: `size` is below 1.
        InvalidMolecule: there are more determinants than can be summed, or differentiated.
    """
    if size < 1:
        raise UnknownOption(f"size = {size}: at least one determinant.")
    refuse_large_space(size, H)
    refuse_many_derivatives(state, size)
    space = reference_determinant(H)[None]
    energy, fit = float(diagonal(H, space)), None
    for k in range(rounds):
        last = k + 1 == rounds
        target = size if last else min(size, max(8, round(size * (k + 1) / rounds)))
        space = _heaviest(state, H, space, energy, target)
        fit = fit_state(state, H, space, replace(training, steps=4 * training.steps) if last else training)
        energy = fit.energy
        report(k + 1, energy)
    if fit is None:
        raise UnknownOption(f"rounds = {rounds}: at least one.")
    return fit


def _heaviest(state, H, space, energy, count):
    """The determinants with the largest amplitudes, among those of the space and those that H couples to the state."""
    with torch.no_grad():
        psi = amplitudes(state, space)
    psi = psi / psi.norm()
    others, weights = first_order(H, space, psi, energy, count)
    weights = torch.cat([psi.abs(), weights])
    return in_order(torch.cat([space, others])[weights.topk(min(count, len(weights))).indices])


def in_order(space: Space) -> Space:
    """The determinants of a space in the order in which `determinants` lists them."""
    rows = np.packbits(space.numpy(), axis=1)
    return space[torch.from_numpy(np.lexsort(rows.T[::-1])[::-1].copy())]
