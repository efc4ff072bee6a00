"""Variational Monte Carlo: walkers, local energies and steps of the parameters in turn; then averages with all of it frozen."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nddo_ml.errors import NDDOError
from nddo_ml.wavefunction.local_energy import clipped, local_energies
from nddo_ml.wavefunction.natural_gradient import Adam, Spring
from nddo_ml.wavefunction.sampling import Walkers, healed, scattered, started, walk
from nddo_ml.wavefunction.statistics import Estimate, reblocked
from nddo_ml.wavefunction.systems import System


class SamplingFailed(NDDOError, RuntimeError):
    """The walkers or the parameters of a wavefunction left the finite numbers."""


@dataclass(frozen=True)
class Settings:
    """walkers; steps: Metropolis steps between local energies; burn_in: before the first; clip: mean absolute deviations of the
    local energies kept for gradients; optimiser."""

    walkers: int = 512
    steps: int = 10
    burn_in: int = 200
    clip: float = 5.0
    optimiser: Spring | Adam = field(default_factory=Spring)


@dataclass(frozen=True)
class State:
    """Everything a training goes on from, beside the parameters: iteration, walkers, memory of the optimiser, random numbers,
    walkers reset so far."""

    iteration: int
    walkers: Walkers
    memory: dict
    generator: Tensor
    reset: int = 0


@dataclass(frozen=True)
class Progress:
    """One iteration: mean local energy and its naive error, variance, acceptance, width of the step, walkers reset, length
    of the step of the parameters."""

    iteration: int
    energy: float
    error: float
    variance: float
    acceptance: float
    step: float
    reset: int
    change: float


@dataclass(frozen=True)
class Evaluation:
    """Energy with reblocked error, hartree; acceptance; walkers reset; energies `step walker`."""

    energy: Estimate
    acceptance: float
    reset: int
    energies: Float[Tensor, "step walker"]


def derivatives(psi, r: Float[Tensor, "walker electron 3"]) -> Float[Tensor, "walker parameter"]:
    """d ln|psi| / d theta at each walker, parameters in the order of psi.parameters()."""
    parameters = {k: p.detach() for k, p in psi.named_parameters()}

    def log(theta, x):
        return functional_call(psi, theta, (x,))[1]

    each = vmap(grad(log), in_dims=(None, 0))(parameters, r)
    return torch.cat([each[k].reshape(len(r), -1) for k in parameters], 1)


def start(psi, system: System, settings: Settings, seed: int = 0) -> State:
    """Walkers in equilibrium with psi, and an optimiser that has seen nothing."""
    generator = torch.Generator().manual_seed(seed)
    r = scattered(system, settings.walkers, generator).to(psi.nuclei.device)
    walkers = started(psi, r, 0.5 / max(system.numbers) ** 0.5)
    for _ in range(max(1, settings.burn_in // 10)):
        walkers = walk(psi, walkers, 10, generator)
    parameters = sum(p.numel() for p in psi.parameters())
    return State(0, walkers, settings.optimiser.start(parameters, psi.nuclei), generator.get_state())


def iteration(psi, state: State, settings: Settings) -> tuple[State, Progress]:
    """One iteration; psi's parameters are changed in place. SamplingFailed: no walker has a finite energy."""
    generator = _generator(state)
    walkers = walk(psi, state.walkers, settings.steps, generator)
    walkers, energies, lost = _measured(psi, walkers, generator)
    step, memory = settings.optimiser.step(derivatives(psi, walkers.r), clipped(energies, settings.clip), state.memory,
                                           state.iteration)
    if not bool(torch.isfinite(step).all()):
        raise SamplingFailed(f"The step of the parameters is not finite at iteration {state.iteration}: lower the rate or "
                             "raise the damping of the optimiser.")
    with torch.no_grad():
        vector_to_parameters(parameters_to_vector(psi.parameters()) + step, psi.parameters())
    progress = Progress(state.iteration, float(energies.mean()), float(energies.std()) / len(energies) ** 0.5,
                        float(energies.var()), walkers.acceptance, walkers.step, state.reset + lost, float(step.norm()))
    return replace(state, iteration=state.iteration + 1, walkers=walkers, memory=memory, generator=generator.get_state(),
                   reset=state.reset + lost), progress


def train(psi, system: System, settings: Settings, iterations: int, state: State | None = None, seed: int = 0,
          report: Callable[[Progress, State], None] = lambda progress, state: None,
          stop: Callable[[], bool] = lambda: False) -> State:
    """Train until `iterations` are done in all, or stop() says so; from a state, exactly as if there had been no pause."""
    state = start(psi, system, settings, seed) if state is None else state
    while state.iteration < iterations and not stop():
        state, progress = iteration(psi, state, settings)
        report(progress, state)
    return state


def evaluate(psi, state: State, blocks: int, steps: int = 10, burn_in: int = 20,
             report: Callable[[int, Tensor], None] = lambda done, energies: None,
             stop: Callable[[], bool] = lambda: False) -> Evaluation:
    """Energy of the wavefunction as it is: local energies at `blocks` times, `steps` Metropolis steps apart, none clipped."""
    generator = _generator(state)
    walkers, reset, found, shares = state.walkers, 0, [], []
    for _ in range(burn_in):
        walkers = walk(psi, walkers, steps, generator)
    for k in range(blocks):
        walkers = walk(psi, walkers, steps, generator, adapt=False)
        walkers, energies, lost = _measured(psi, walkers, generator)
        reset, found, shares = reset + lost, [*found, energies.cpu()], [*shares, walkers.acceptance]
        report(k + 1, energies)
        if stop():
            break
    energies = torch.stack(found)
    return Evaluation(reblocked(energies), sum(shares) / len(shares), reset, energies)


def _generator(state):
    generator = torch.Generator()
    generator.set_state(state.generator)
    return generator


def _measured(psi, walkers, generator):
    """Local energies, after walkers without a finite one were put elsewhere; and how many they were."""
    energies = local_energies(psi, walkers.r)
    healthy = torch.isfinite(energies) & torch.isfinite(walkers.log)
    if bool(healthy.all()):
        return walkers, energies, 0
    if not bool(healthy.any()):
        raise SamplingFailed("No walker has a finite local energy: the parameters have diverged; lower the rate of the "
                             "optimiser or start again from an earlier checkpoint.")
    walkers, lost = healed(walkers, healthy, generator)
    return walkers, local_energies(psi, walkers.r), lost
