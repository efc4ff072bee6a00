"""Variational Monte Carlo: walkers, local energies and steps of the parameters in turn; then averages with all of it frozen."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nddo_ml.common.processes import ALONE, World
from nddo_ml.errors import NDDOError
from nddo_ml.wavefunction.natural_gradient import Adam, Spring
from nddo_ml.wavefunction.real_space.local_energy import clipped, local_energies
from nddo_ml.wavefunction.real_space.sampling import Walkers, healed, roam, scattered, started
from nddo_ml.wavefunction.real_space.spin import spin_square
from nddo_ml.wavefunction.real_space.statistics import Estimate, reblocked
from nddo_ml.wavefunction.real_space.systems import System

STREAMS = 1_000_003        # between the seeds of two processes
LATE = 0.2                 # share of the iterations the parameters are averaged over
SPIN_EVERY = 10            # local energies for one measurement of the spin


class SamplingFailed(NDDOError, RuntimeError):
    """The walkers or the parameters of a wavefunction left the finite numbers."""


@dataclass(frozen=True)
class Settings:
    """walkers, of all processes together; steps: Metropolis steps between local energies; burn_in: before the first; clip: mean
    absolute deviations of the local energies kept for gradients; optimiser."""

    walkers: int = 512
    steps: int = 10
    burn_in: int = 200
    clip: float = 10.0
    optimiser: Spring | Adam = field(default_factory=Spring)


@dataclass(frozen=True)
class State:
    """Everything a training goes on from, beside the parameters: iteration, walkers, memory of the optimiser, random numbers,
    walkers reset so far, and the mean of the parameters over the last fifth of the iterations (`averaged`)."""

    iteration: int
    walkers: Walkers
    memory: dict
    generator: Tensor
    reset: int = 0
    mean: Float[Tensor, "parameter"] | None = None


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
    """Energy with reblocked error, hartree; spin: S^2, hbar^2; acceptance; walkers reset; energies `step walker`."""

    energy: Estimate
    spin: Estimate
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


def start(psi, system: System, settings: Settings, seed: int = 0, world: World = ALONE) -> State:
    """This process's walkers in equilibrium with psi, and an optimiser that has seen nothing."""
    generator = torch.Generator().manual_seed(seed + STREAMS * world.rank)
    r = scattered(system, settings.walkers // world.size, generator).to(psi.nuclei)
    walkers = started(psi, r, 0.5 / max(system.numbers) ** 0.5)
    for _ in range(max(1, settings.burn_in // 10)):
        walkers = roam(psi, walkers, 10, generator)
    parameters = sum(p.numel() for p in psi.parameters())
    return State(0, walkers, settings.optimiser.start(parameters, psi.nuclei), generator.get_state())


def iteration(psi, state: State, settings: Settings, world: World = ALONE) -> tuple[State, Progress]:
    """One iteration; psi's parameters are changed in place, with several processes by the walkers of all.

    SamplingFailed: no walker has a finite energy.
    """
    generator = random_numbers(state)
    walkers = roam(psi, state.walkers, settings.steps, generator)
    walkers, mine, lost = _measured(psi, walkers, generator)
    energies, O = _of_all(world, mine), _of_all(world, derivatives(psi, walkers.r))
    step, memory = settings.optimiser.step(O, clipped(energies, settings.clip), state.memory, state.iteration)
    world.same([step])
    if not bool(torch.isfinite(step).all()):
        raise SamplingFailed(f"The step of the parameters is not finite at iteration {state.iteration}: lower the rate or "
                             "raise the damping of the optimiser.")
    with torch.no_grad():
        theta = parameters_to_vector(psi.parameters())
        theta = theta + step.to(theta)
        vector_to_parameters(theta, psi.parameters())
        before = theta.double() if state.mean is None else state.mean
        mean = before + (theta - before) / max(1.0, state.iteration * LATE)
    progress = Progress(state.iteration, float(energies.mean()), float(energies.std()) / len(energies) ** 0.5,
                        float(energies.var()), walkers.acceptance, walkers.step, state.reset + lost, float(step.norm()))
    return replace(state, iteration=state.iteration + 1, walkers=walkers, memory=memory, generator=generator.get_state(),
                   reset=state.reset + lost, mean=mean), progress


def _of_all(world, values, axis=0):
    """The rows of all processes."""
    return torch.cat([part.to(values.device) for part in world.gathered(values)], axis) if world.size > 1 else values


def train(psi, system: System, settings: Settings, iterations: int, state: State | None = None, seed: int = 0,
          report: Callable[[Progress, State], None] = lambda progress, state: None,
          stop: Callable[[], bool] = lambda: False, world: World = ALONE) -> State:
    """Train until `iterations` are done in all, or stop() says so; from a state, exactly as if there had been no pause."""
    state = start(psi, system, settings, seed, world) if state is None else state
    while state.iteration < iterations and not any(world.gathered(stop())):
        state, progress = iteration(psi, state, settings, world)
        report(progress, state)
    return state


def averaged(psi, state: State):
    """The wavefunction with the mean of its parameters over the last fifth of the training: the noise of single steps cancels.

    B. T. Polyak, A. B. Juditsky, SIAM J. Control Optim. 30, 838 (1992)
    """
    found = copy.deepcopy(psi)
    if state.mean is not None:
        vector_to_parameters(state.mean.to(psi.nuclei), found.parameters())
    return found


def in_double(psi):
    """The same wavefunction in double precision, for averages; itself if it is."""
    return psi if psi.nuclei.dtype == torch.float64 else copy.deepcopy(psi).double()


def evaluate(psi, state: State, blocks: int, steps: int = 10, burn_in: int = 20,
             report: Callable[[int, Tensor], None] = lambda done, energies: None,
             stop: Callable[[], bool] = lambda: False, world: World = ALONE) -> Evaluation:
    """Energy and spin of the wavefunction as it is: taken at `blocks` times, `steps` Metropolis steps apart, nothing clipped.

    Local energies are those of double precision; a wavefunction of single precision leads the walkers only.
    """
    generator, exactly = random_numbers(state), in_double(psi)
    walkers, reset, found, spins, shares = state.walkers, 0, [], [], []
    for _ in range(burn_in):
        walkers = roam(psi, walkers, steps, generator)
    for k in range(blocks):
        walkers = roam(psi, walkers, steps, generator, adapt=False)
        walkers, energies, lost = _measured(exactly, walkers, generator)
        reset, found, shares = reset + lost, [*found, energies.cpu()], [*shares, walkers.acceptance]
        if k % SPIN_EVERY == 0:
            spins.append(spin_square(psi, walkers.r).cpu())
        report(k + 1, energies)
        if any(world.gathered(stop())):
            break
    energies, spin = (_of_all(world, torch.stack(x), 1) for x in (found, spins))
    return Evaluation(reblocked(energies), reblocked(spin), sum(shares) / len(shares), sum(world.gathered(reset)), energies)


def random_numbers(state: State) -> torch.Generator:
    """A generator that goes on where the state stopped."""
    generator = torch.Generator()
    generator.set_state(state.generator)
    return generator


def _measured(psi, walkers, generator):
    """Local energies, after walkers without a finite one were put elsewhere; and how many they were."""
    energies = local_energies(psi, walkers.r.to(psi.nuclei))
    healthy = torch.isfinite(energies) & torch.isfinite(walkers.log)
    if bool(healthy.all()):
        return walkers, energies, 0
    if not bool(healthy.any()):
        raise SamplingFailed("No walker has a finite local energy: the parameters have diverged; lower the rate of the "
                             "optimiser or start again from an earlier checkpoint.")
    walkers, lost = healed(walkers, healthy, generator)
    return walkers, local_energies(psi, walkers.r.to(psi.nuclei)), lost
