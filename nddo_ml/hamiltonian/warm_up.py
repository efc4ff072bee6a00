"""Calculations that need every kernel, for every combination of types that occurs: they bring the machine code of all of them.

As a module, `python -m nddo_ml.hamiltonian.warm_up`, this is the process that compiles in the background (common/compiling.py).
"""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch

from nddo_ml.common import compiling
from nddo_ml.common.threads import threads
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.molecules import Molecules, PointCharges

Report = Callable[[str, int, int], object]     # what is calculated, which one it is of how many
Calculation = Callable[[], object]
Structure = tuple[list[int], list[list[float]]]     # numbers, positions in angstrom

WATER = ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
METHANE = ([6, 1, 1, 1, 1], [[0.0, 0.0, 0.0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63],
                             [0.63, -0.63, -0.63]])
METHYL = ([6, 1, 1, 1], [[0.0, 0.0, 0.0], [1.08, 0.0, 0.0], [-0.54, 0.9353, 0.0], [-0.54, -0.9353, 0.0]])
HYDROXIDE = ([8, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.96]])
SULFUR_HEXAFLUORIDE = ([16, 9, 9, 9, 9, 9, 9], [[0.0, 0.0, 0.0], [1.56, 0.0, 0.0], [-1.56, 0.0, 0.0], [0.0, 1.56, 0.0],
                                               [0.0, -1.56, 0.0], [0.0, 0.0, 1.56], [0.0, 0.0, -1.56]])
IRON_CARBONYL = ([26, 6, 8], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.8], [0.0, 0.0, 2.95]])


def together(*structures: Structure) -> Molecules:
    """A batch of neutral closed shells."""
    return Molecules.batch([numbers for numbers, _ in structures], [positions for _, positions in structures])


def chain(carbons: int) -> Structure:
    """A flat alkane: 6 orbitals for each carbon, and 2."""
    numbers: list[int] = []
    positions: list[list[float]] = []
    for k in range(carbons):
        x, side = 1.26 * k, 1.0 if k % 2 else -1.0
        numbers += [6, 1, 1]
        positions += [[x, 0.43 * side, 0.0], [x, 1.06 * side, 0.89], [x, 1.06 * side, -0.89]]
    for k, out in ((0, -1.0), (carbons - 1, 1.0)):
        numbers.append(1)
        positions.append([1.26 * k + 0.9 * out, 0.43 * (1.0 if k % 2 else -1.0) * -0.45, 0.0])
    return numbers, positions


def silent(what: str, done: int, total: int) -> None:
    """Nobody wants to know."""


def exercise(report: Report = silent) -> None:
    """Carry out all calculations; kernels are compiled where `compiling` allows it."""
    with torch.random.fork_rng(devices=[]), threads(1):
        todo = list(_calculations())
        for done, (what, calculate) in enumerate(todo):
            report(what, done, len(todo))
            calculate()
        report("", len(todo), len(todo))


def _calculations() -> Iterator[tuple[str, Calculation]]:
    """What is calculated, in words, and how."""
    model = cache(Hamiltonian)      # one of each method, made when it is needed

    def case(method: str, molecules: Molecules, forces: bool = True, **options: Any) -> Result:
        return model(method)(molecules, forces=forces, **options)

    def again(method: str, molecules: Molecules, **options: Any) -> Result:
        """From the state that was found before."""
        return case(method, molecules, guess=case(method, molecules, **options), **options)

    water, both = Molecules.single(*WATER), together(WATER, METHANE)
    methyl, hydroxide = Molecules.single(*METHYL, 0, 2), Molecules.single(*HYDROXIDE, -1)
    charges = PointCharges.single([[0.0, 0.0, 3.0], [3.0, 0.0, 0.0]], [0.4, -0.4])
    field = torch.tensor([[0.0, 0.0, 0.1]], dtype=torch.float64)
    for method in ("AM1", "PM6", "PM7", "PM6-D3H4"):
        yield f"water, {method}", lambda method=method: again(method, water)
    yield "water without forces", lambda: case("AM1", water, forces=False)
    yield "a batch", lambda: again("AM1", both)
    yield "a radical", lambda: again("AM1", methyl)
    yield "a half-electron radical", lambda: case("AM1", methyl, unrestricted=False)
    yield "an unrestricted singlet", lambda: case("AM1", water, unrestricted=True)
    yield "an anion", lambda: case("PM6", hydroxide)
    yield "d functions", lambda: again("PM6", Molecules.single(*SULFUR_HEXAFLUORIDE))
    yield "d functions of a batch", lambda: case("PM6", together(WATER, SULFUR_HEXAFLUORIDE))
    yield "a metal", lambda: case("PM7", Molecules.single(*IRON_CARBONYL), raise_unconverged=False)
    yield "74 orbitals", lambda: again("AM1", Molecules.single(*chain(12)))
    yield "the stability of 74 orbitals", lambda: case("AM1", Molecules.single(*chain(12)), stability=True)
    yield "a stability", lambda: case("AM1", water, stability=True)
    yield "point charges", lambda: again("AM1", water, point_charges=charges)
    yield "a field", lambda: again("AM1", water, field=field)
    yield "a learned Hamiltonian", lambda: again("neural", water)
    yield "a batch of a learned Hamiltonian", lambda: again("neural", both)


if __name__ == "__main__":
    compiling.in_background(exercise, int(sys.argv[1]) if len(sys.argv) > 1 else None)      # what holds the folder already
