"""The rungs of the ladder: ways from a start density into the reach of Newton's method, each more patient than the last.

All are fixed-point steps with extrapolation (`iterate`); they differ in the extrapolation, in damping, level shift and
temperature. What a rung returns only has to be a fair start: `ladder` lets Newton's method end the calculation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import choose
from nddo_ml.scf.accelerate import History, diis, energy_diis
from nddo_ml.scf.density import DensityBuilder, Matrices, Orbitals, density, fermi
from nddo_ml.scf.flat import FlatKernel
from nddo_ml.scf.fock import Kernel, fock
from nddo_ml.scf.problem import Prepared, Problem

SWITCH = 0.1            # eV: commutator below which Newton's method takes over
HISTORY = 8
TEMPERATURES = (1.0, 0.5, 0.25, 0.1, 0.03)      # eV, annealing

Climb = Callable[[Prepared, Matrices, int, DensityBuilder], tuple[Orbitals, int]]


@dataclass(frozen=True)
class Rung:
    """One way of looking for a self-consistent state."""

    name: str
    words: str                  # what a report says about it
    climb: Climb                # (prepared problem, start density, most iterations, density builder) -> orbitals, iterations
    newton_steps: int | None    # of Newton's method afterwards; None: as many as the calculation has left


@dataclass(frozen=True)
class FixedPoint:
    """How fixed-point steps are taken."""

    steps: int                                                          # at most
    coefficients: Callable[[History], Float[Tensor, "molecule entry"]]  # of the extrapolation
    shift: float = 0.0                                                  # of the occupied levels, eV
    damping: float = 0.0                                                # share of the last density
    temperature: float | None = None                                    # of the occupations, eV


def iterate(problem: Problem, two: Kernel | FlatKernel, start: Matrices, settings: FixedPoint, build: DensityBuilder
            ) -> tuple[Orbitals, int]:
    """Orbitals and iterations used: fixed-point steps with extrapolation until every commutator is below SWITCH.

    The first diagonalisation precedes any test: a start density proportional to 1 commutes with everything. A molecule that
    is done waits for the others unchanged. One that has climbed is handed on with the lowest state it passed through:
    extrapolation of far apart fragments can end in absurd charges, and what comes next only goes downhill. two: in the
    precision of these steps.
    """
    dtype = two.dtype
    layout, real, occupations = problem.layout, problem.layout.real, problem.occupations.to(dtype)
    temperature, shift, damping = settings.temperature, settings.shift, settings.damping
    highest = None if temperature is not None else _highest(occupations)
    h, D = problem.h.to(dtype), start.to(dtype)
    spin_factor, history, orbitals, lowest = 2.0 / occupations.shape[1], History(HISTORY), None, None
    done = torch.zeros(layout.molecules, dtype=torch.bool, device=h.device)
    energy = h.new_zeros(layout.molecules)
    taken = 0
    for k in range(max(settings.steps, 1)):
        taken = k + 1
        F = fock(layout, two, h, D)
        if orbitals is not None:
            FD = F @ D
            error = FD - FD.mT
            energy = 0.5 * spin_factor * (D * (F + h[:, None])).sum((1, 2, 3))
            lowest = _lower_of(lowest, (energy, orbitals))
            done = done | (error.abs().flatten(1).amax(1) < SWITCH)
            if bool(done.all()):
                break
            history.add(F, D, error, energy)
            F = history.combine(settings.coefficients(history)) if k > 1 else F
        new = build(F - shift * D if shift else F, real, occupations)
        if temperature is not None:
            new = replace(new, f=fermi(new.eps, occupations.sum(-1), temperature, real))
        orbitals = choose(done, orbitals, new) if orbitals is not None and bool(done.any()) else new
        undamped = density(orbitals, highest)
        D = undamped if not damping or k == 0 else (1 - damping) * undamped + damping * D
    assert orbitals is not None
    if lowest is not None and temperature is None and not damping:
        slack = 1e-3 + torch.finfo(dtype).eps * 10 * energy.abs()
        climbed = energy > lowest[0] + slack
        orbitals = choose(climbed, lowest[1], orbitals) if bool(climbed.any()) else orbitals
    return _double(orbitals), taken


@dataclass(frozen=True)
class Rapid:
    """DIIS, in float32 for large molecules: what almost every molecule needs."""

    steps: int = 30

    def __call__(self, ready: Prepared, start: Matrices, limit: int, build: DensityBuilder) -> tuple[Orbitals, int]:
        return iterate(ready.problem, ready.rough, start, FixedPoint(min(self.steps, limit), diis), build)


@dataclass(frozen=True)
class Downhill:
    """Energy-DIIS with damping and a level shift, which cannot climb, then DIIS."""

    steps: int = 30
    further: int = 40       # of DIIS

    def __call__(self, ready: Prepared, start: Matrices, limit: int, build: DensityBuilder) -> tuple[Orbitals, int]:
        careful = FixedPoint(min(self.steps, limit), energy_diis, shift=2.0, damping=0.3)
        orbitals, used = iterate(ready.problem, ready.exact, start, careful, build)
        further = FixedPoint(min(self.further, limit - used), diis)
        orbitals, more = iterate(ready.problem, ready.exact, density(orbitals), further, build)
        return orbitals, used + more


@dataclass(frozen=True)
class Annealed:
    """Fermi occupations, cooled to zero temperature from one of TEMPERATURES to the next."""

    steps: int = 15         # at each temperature
    further: int = 20       # at zero

    def __call__(self, ready: Prepared, start: Matrices, limit: int, build: DensityBuilder) -> tuple[Orbitals, int]:
        used, D = 0, start
        for temperature in TEMPERATURES:
            warm = FixedPoint(min(self.steps, limit - used), diis, temperature=temperature)
            orbitals, more = iterate(ready.problem, ready.exact, D, warm, build)
            D, used = density(orbitals), used + more
        orbitals, more = iterate(ready.problem, ready.exact, D, FixedPoint(min(self.further, limit - used), diis), build)
        return orbitals, used + more


LADDER = (
    Rung("diis", "DIIS, Newton", Rapid(), newton_steps=30),
    Rung("ediis", "energy-DIIS with level shift and damping, Newton", Downhill(), newton_steps=30),
    Rung("smearing", "annealed smearing, Newton", Annealed(), newton_steps=None),
)


def _lower_of(lowest: tuple[Tensor, Orbitals] | None, here: tuple[Tensor, Orbitals]) -> tuple[Tensor, Orbitals]:
    """The lower of two (energy, orbitals), molecule by molecule."""
    if lowest is None:
        return here
    better = here[0] < lowest[0]
    if bool(better.all()):
        return here
    return choose(better, here, lowest)


def _highest(occupations: Float[Tensor, "molecule spin level"]) -> int:
    """Levels that can be occupied: all beyond are empty in every molecule."""
    return int((occupations > 0).flatten(0, 1).any(0).sum())


def _double(orbitals: Orbitals) -> Orbitals:
    """Orbitals in float64, orthonormal to float64: Newton-Schulz steps remove the rounding of float32. One leaves electron
    counts wrong by 1e-10, which are 5e-9 eV in a hundred atoms; two leave the rounding of float64."""
    if orbitals.C.dtype == torch.float64:
        return orbitals
    C = orbitals.C.to(torch.float64)
    for _ in range(2):
        C = 1.5 * C - 0.5 * C @ (C.mT @ C)
    return Orbitals(C, orbitals.eps.to(C.dtype), orbitals.f.to(C.dtype))
