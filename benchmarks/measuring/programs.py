"""How each program is asked for energy and forces: calls by their kind, for the molecules of one structure.

    new     species never seen: everything is made anew
    cold    species known, no density to start from; `unchecked` the same without looking for a lower state
    warm    the next frame of a trajectory, from the density of the last
    ASE     the same through the program's ASE calculator: new positions, then atoms.get_forces()

A program that makes no difference between two kinds has only one of them. This file runs inside the workers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr
from measuring.structures import PERIOD, frames

Step = Callable[[int], Any]     # one call, for the frame of this number


def moving(atoms: tuple[Atoms, ...]) -> list[list[np.ndarray]]:
    """The positions of every molecule for every frame."""
    paths = [frames(a, seed) for seed, a in enumerate(atoms)]
    return [[np.ascontiguousarray(path[k]) for path in paths] for k in range(PERIOD)]


def nddo(atoms: tuple[Atoms, ...], method: str) -> dict[str, Step]:
    """This project. A method `NAME + dispersion of LEARNED` is
    a parent with the dispersion of the model that was trained on it."""
    import torch

    from nddo_ml import NDDO, Hamiltonian, Molecules

    parent, _, learned = method.partition(" + dispersion of ")
    model = Hamiltonian(parent, dispersion=Hamiltonian(learned).dispersion if learned else None)
    numbers, path = [a.numbers for a in atoms], moving(atoms)
    joined = [torch.from_numpy(np.concatenate(x)) for x in path]
    last: dict[str, Any] = {}

    def molecules(k: int) -> Any:
        return Molecules.batch(numbers, path[k]) if len(atoms) > 1 else Molecules.single(numbers[0], path[k][0])

    def cold(k: int, **options: Any) -> None:
        last["result"] = result = model(molecules(k), forces=True, **options)
        assert bool(result.energy.isfinite().all()) and result.forces is not None

    def new(k: int) -> None:
        model.memory.forget()
        cold(k)

    def warm(k: int) -> None:
        before = last["result"]
        last["result"] = model(before.molecules.with_positions(joined[k]), forces=True, guess=before)

    kinds: dict[str, Step] = {"cold": cold, "warm": warm, "new": new}
    if len(atoms) == 1 and len(atoms[0]) > 300:
        kinds |= {"unchecked": lambda k: cold(k, stability=False)}
    if len(atoms) == 1:
        kinds |= {"ASE": through_ase(atoms[0], path, lambda: NDDO(model))}
    return kinds


def through_ase(atoms: Atoms, path: list[list[np.ndarray]], calculator: Callable[[], Any]) -> Step:
    """A step of a trajectory through an ASE calculator, which is made when it is first asked for."""
    mine = atoms.copy()

    def step(k: int) -> None:
        if mine.calc is None:
            mine.calc = calculator()
        mine.positions = path[k][0]
        mine.get_forces()
    return step


def mopac(atoms: tuple[Atoms, ...], method: str) -> dict[str, Step]:
    """MOPAC's library: one system and one state (its density) for each molecule; it has no memory of species, and no ASE
    calculator."""
    from mopactools.api import MopacState, MopacSystem, from_data

    path, held = moving(atoms), []

    def system(a: Atoms, x: np.ndarray) -> Any:
        made = MopacSystem()
        made.natom = made.natom_move = len(a)
        made.atom, made.coord, made.model = a.numbers.astype(np.int32), x.ravel().copy(), method
        return made

    def checked(properties: Any) -> None:
        assert not properties.error_msg and len(properties.coord_deriv), properties.error_msg

    def cold(k: int) -> None:
        held.clear()
        for a, x in zip(atoms, path[k], strict=True):
            held.append((system(a, x), MopacState()))
            checked(from_data(*held[-1]))

    def warm(k: int) -> None:
        for (its_system, its_state), x in zip(held, path[k], strict=True):
            its_system.coord[:] = x.ravel()
            checked(from_data(its_system, its_state))

    return {"cold": cold, "warm": warm}


def tblite(atoms: tuple[Atoms, ...], method: str) -> dict[str, Step]:
    """GFN2-xTB of tblite, whatever the method: `cold` keeps the calculator, `warm` the density too."""
    from tblite.ase import TBLite
    from tblite.interface import Calculator

    path, held = moving(atoms), []

    def calculator(a: Atoms, x: np.ndarray) -> Any:
        made = Calculator("GFN2-xTB", a.numbers, x / Bohr)
        made.set("verbosity", 0)
        return made

    def solved(its: Any, result: Any = None) -> Any:
        found = its.singlepoint(result)
        found.get("energy"), found.get("gradient")
        return found

    def cold(k: int) -> None:
        for n, (a, x) in enumerate(zip(atoms, path[k], strict=True)):
            its = held[n][0] if n < len(held) else calculator(a, x)
            its.update(positions=x / Bohr)
            held[n:n + 1] = [(its, solved(its))]

    def warm(k: int) -> None:
        for (its, result), x in zip(held, path[k], strict=True):
            its.update(positions=x / Bohr)
            solved(its, result)

    kinds = {"cold": cold, "warm": warm}
    return kinds | ({"ASE": through_ase(atoms[0], path, lambda: TBLite(verbosity=0))} if len(atoms) == 1 else {})


PROGRAMS = {"here": nddo, "MOPAC": mopac, "tblite": tblite}
