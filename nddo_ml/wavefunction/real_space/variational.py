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
from nddo_ml.wavefunction.natural_gradient import Adam, Memory, Spring
from nddo_ml.wavefunction.real_space.ansatz import Wavefunction
from nddo_ml.wavefunction.real_space.local_energy import clipped, local_energies
from nddo_ml.wavefunction.real_space.sampling import Walkers, healed, roam, scattered, walkers_at
from nddo_ml.wavefunction.real_space.spin import spin_square
from nddo_ml.wavefunction.real_space.statistics import Estimate, reblocked
from nddo_ml.wavefunction.real_space.systems import ElectronSystem

STREAMS = 1_000_003        # between the seeds of two processes
LATE = 0.2                 # share of the iterations that the parameters are averaged over
SPIN_EVERY = 10            # local energies for one measurement of the spin


class SamplingFailed(NDDOError, RuntimeError):
    """The walkers or the parameters of a wavefunction left the finite numbers."""


@dataclass(frozen=True)
class VariationalSettings:
    """How a wavefunction is trained."""

    walkers: int = 512                                              # of all processes together
    steps: int = 10                                                 # Metropolis steps between two iterations
    burn_in: int = 200                                              # Metropolis steps before the first iteration
    clip: float = 10.0                                              # of local energies in gradients, mean absolute deviations
    optimiser: Spring | Adam = field(default_factory=Spring)        # makes steps of the parameters


@dataclass(frozen=True)
class WalkerState:
    """Everything that a training goes on from, apart from the parameters of the wavefunction."""

    iteration: int                                          # iterations done
    walkers: Walkers                                        # of this process
    memory: Memory                                          # of the optimiser
    generator: Tensor                                       # state of the random numbers
    reset: int = 0                                          # walkers that were reset so far
    mean: Float[Tensor, "parameter"] | None = None          # of the parameters over the last fifth of the iterations


@dataclass(frozen=True)
class IterationProgress:
    """What one iteration of a training measured; written to metrics.jsonl under these names."""

    iteration: int
    energy: float           # mean of the local energies before the step, hartree
    error: float            # its standard error if all walkers were independent
    variance: float         # of the local energies
    acceptance: float       # of the Metropolis steps
    step: float             # width of their proposals, bohr
    reset: int              # walkers that were reset so far
    change: float           # length of the step of the parameters


@dataclass(frozen=True)
class Averaging:
    """How often a frozen wavefunction is measured."""

    blocks: int = 200       # times that local energies are taken
    steps: int = 10         # Metropolis steps between them
    burn_in: int = 20       # as many steps again and again before the first


@dataclass(frozen=True)
class MonteCarloAverages:
    """What a frozen wavefunction measures."""

    energy: Estimate                            # hartree
    spin: Estimate                              # S^2, units of hbar^2
    acceptance: float                           # mean over the walks
    reset: int                                  # walkers that were reset
    energies: Float[Tensor, "step walker"]      # all local energies, hartree


def never() -> bool:
    """A run that nobody stops."""
    return False


@dataclass(frozen=True)
class RunControl:
    """What ends a run early, and the processes that share it."""

    stop: Callable[[], bool] = never        # asked between iterations; each process may have its own answer
    world: World = ALONE                    # each process has a share of the walkers, all take the same steps

    def ended(self) -> bool:
        """Whether the run ends here: one of the processes wants to stop."""
        return any(self.world.gathered(self.stop()))


FREE = RunControl()     # one process, to its end


def derivatives(psi: Wavefunction, r: Float[Tensor, "walker electron 3"]) -> Float[Tensor, "walker parameter"]:
    """d ln|psi|/d theta at each walker, with the parameters theta in the order of psi.parameters()."""
    parameters = {k: p.detach() for k, p in psi.named_parameters()}

    def log(theta: dict[str, Tensor], x: Float[Tensor, "electron 3"]) -> Float[Tensor, ""]:
        return functional_call(psi, theta, (x,))[1]

    each = vmap(grad(log), in_dims=(None, 0))(parameters, r)
    return torch.cat([each[k].reshape(len(r), -1) for k in parameters], 1)


def initial_state(psi: Wavefunction, system: ElectronSystem, settings: VariationalSettings, seed: int = 0,
                  world: World = ALONE) -> WalkerState:
    """The state before the first iteration: the walkers of this process in equilibrium with psi, and an empty memory."""
    generator = torch.Generator().manual_seed(seed + STREAMS * world.rank)
    r = scattered(system, settings.walkers // world.size, generator).to(psi.nuclei)
    walkers = walkers_at(psi, r, 0.5 / max(system.numbers) ** 0.5)
    for _ in range(max(1, settings.burn_in // 10)):
        walkers = roam(psi, walkers, 10, generator)
    parameters = sum(p.numel() for p in psi.parameters())
    return WalkerState(0, walkers, settings.optimiser.start(parameters, psi.nuclei), generator.get_state())


def iteration(psi: Wavefunction, state: WalkerState, settings: VariationalSettings,
              world: World = ALONE) -> tuple[WalkerState, IterationProgress]:
    """(state, progress) after one iteration, which changes the parameters of psi in place, by the walkers of all processes.

    Raises:
        SamplingFailed: no walker has a finite energy, or the step of the parameters is not finite.
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
    progress = IterationProgress(state.iteration, float(energies.mean()), float(energies.std()) / len(energies) ** 0.5,
                                 float(energies.var()), walkers.acceptance, walkers.step, state.reset + lost,
                                 float(step.norm()))
    return replace(state, iteration=state.iteration + 1, walkers=walkers, memory=memory, generator=generator.get_state(),
                   reset=state.reset + lost, mean=mean), progress


def _of_all(world, values, axis=0):
    """The values of all processes, put together along an axis."""
    return torch.cat([part.to(values.device) for part in world.gathered(values)], axis) if world.size > 1 else values


def train(psi: Wavefunction, state: WalkerState, settings: VariationalSettings, iterations: int,
          report: Callable[[IterationProgress, WalkerState], None] = lambda progress, state: None,
          control: RunControl = FREE) -> WalkerState:
    """Train psi in place until `iterations` are done in all, or the control ends the run; the state to go on from.

    A training that goes on from its last state takes the same steps as one without a pause.
    """
    while state.iteration < iterations and not control.ended():
        state, progress = iteration(psi, state, settings, control.world)
        report(progress, state)
    return state


def averaged(psi: Wavefunction, state: WalkerState) -> Wavefunction:
    """The wavefunction with the mean of its parameters over the last fifth of the training, in which the noise cancels.

    B. T. Polyak, A. B. Juditsky, SIAM J. Control Optim. 30, 838 (1992)
    """
    mean = copy.deepcopy(psi)
    if state.mean is not None:
        vector_to_parameters(state.mean.to(psi.nuclei), mean.parameters())
    return mean


def in_double(psi: Wavefunction) -> Wavefunction:
    """The wavefunction in double precision, for averages; itself if it is."""
    return psi if psi.nuclei.dtype == torch.float64 else copy.deepcopy(psi).double()


def evaluate(psi: Wavefunction, state: WalkerState, averaging: Averaging = Averaging(),
             report: Callable[[int, Tensor], None] = lambda done, energies: None,
             control: RunControl = FREE) -> MonteCarloAverages:
    """Energy and spin of a frozen wavefunction, nothing clipped; from fewer blocks where the control ends the run.

    Local energies are those of double precision; a wavefunction of single precision leads the walkers only.
    """
    generator, exactly, world = random_numbers(state), in_double(psi), control.world
    walkers, reset = state.walkers, 0
    energies, spins, shares = [], [], []
    for _ in range(averaging.burn_in):
        walkers = roam(psi, walkers, averaging.steps, generator)
    for k in range(averaging.blocks):
        walkers = roam(psi, walkers, averaging.steps, generator, adapt=False)
        walkers, mine, lost = _measured(exactly, walkers, generator)
        reset += lost
        energies.append(mine.cpu())
        shares.append(walkers.acceptance)
        if k % SPIN_EVERY == 0:
            spins.append(spin_square(psi, walkers.r).cpu())
        report(k + 1, mine)
        if control.ended():
            break
    energies, spin = (_of_all(world, torch.stack(x), 1) for x in (energies, spins))
    return MonteCarloAverages(reblocked(energies), reblocked(spin), sum(shares) / len(shares), sum(world.gathered(reset)),
                              energies)


def random_numbers(state: WalkerState) -> torch.Generator:
    """A generator whose random numbers go on where the state stopped."""
    generator = torch.Generator()
    generator.set_state(state.generator)
    return generator


def _measured(psi, walkers, generator):
    """(walkers, local energies, walkers reset), after those without a finite energy were put where others are."""
    energies = local_energies(psi, walkers.r.to(psi.nuclei))
    healthy = torch.isfinite(energies) & torch.isfinite(walkers.log)
    if bool(healthy.all()):
        return walkers, energies, 0
    if not bool(healthy.any()):
        raise SamplingFailed("No walker has a finite local energy: the parameters have diverged; lower the rate of the "
                             "optimiser or start again from an earlier checkpoint.")
    walkers, lost = healed(walkers, healthy, generator)
    return walkers, local_energies(psi, walkers.r.to(psi.nuclei)), lost
