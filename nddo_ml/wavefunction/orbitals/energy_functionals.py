"""Energy functionals: the energy E(D) and the Fock matrix F = dE/dD of a batch of molecules, in an orthonormal basis.

This is all that an orbital ansatz needs to know of a Hamiltonian. The functional of the NDDO engine is here, for any method and
any trained Hamiltonian; the one of PySCF is in pyscf_functional.py.
"""

from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.errors import InvalidMolecule
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.molecules import Molecules
from nddo_ml.scf.fock import Kernel, fock, kernel
from nddo_ml.scf.ladder import solve
from nddo_ml.scf.options import SCF
from nddo_ml.scf.problem import Problem, Solution

OCCUPIED_FIRST = 1e3      # lowers occupied levels, so that they are diagonalised apart from the empty ones

Densities: TypeAlias = Float[Tensor, "molecule spin orbital orbital"]       # and all that has their shape


@runtime_checkable
class EnergyFunctional(Protocol):
    """A mean-field energy of molecules that are alike: one composition, charge and spin, many geometries.

    An unrestricted state has a spin channel for each spin, a restricted one a single channel that stands for both.
    """

    @property
    def molecules(self) -> int:
        """How many geometries there are."""
        ...

    @property
    def size(self) -> int:
        """Orbitals of each molecule."""
        ...

    @property
    def occupied(self) -> tuple[int, ...]:
        """Occupied orbitals of each spin channel: (alpha, beta), or (pairs,)."""
        ...

    def evaluate(self, D: Densities) -> tuple[Float[Tensor, "molecule"], Densities]:
        """(E, F) of the densities D, which have occupations of 0 and 1 in the orthonormal basis."""
        ...

    def solve(self, D: Densities | None = None) -> tuple[Float[Tensor, "molecule"], Densities, Int[Tensor, "molecule"]]:
        """(E, D, iterations) of the self-consistent field from the densities D, or from the usual guess."""
        ...


def gradient(F: Float[Tensor, "... orbital orbital"], C: Float[Tensor, "... orbital occupied"],
             spins: int) -> Float[Tensor, "... orbital occupied"]:
    """dE/dC = (4/s) F C for the occupied orbitals C of one of s spin channels: 4 F C restricted, 2 F C unrestricted."""
    return (4.0 / spins) * (F @ C)


def shared_composition(molecules: Molecules) -> tuple[list[int], int, int]:
    """(atomic numbers, charge, multiplicity) that all molecules have.

    Raises:
        InvalidMolecule: the molecules differ in one of them.
    """
    first = molecules.numbers[:molecules.sizes[0]]
    alike = len(set(molecules.sizes)) == 1 and torch.equal(molecules.numbers, first.repeat(len(molecules)))
    if not alike or len(molecules.charge.unique()) > 1 or len(molecules.unpaired.unique()) > 1:
        raise InvalidMolecule("The molecules differ in composition, charge or spin: an orbital ansatz is of one molecule at "
                              "many geometries, its atoms in one order.")
    return first.tolist(), int(molecules.charge[0]), int(molecules.unpaired[0]) + 1


@dataclass(frozen=True)
class NDDOFunctional:
    """The energy functional of the NDDO engine, eV; made by `nddo_functional`."""

    problem: Problem                            # what the engine solves
    start: Densities                            # its usual guess
    constant: Float[Tensor, "molecule"]         # core repulsion and corrections, eV
    occupied: tuple[int, ...]                   # orbitals of each spin channel
    tolerance: float                            # of the self-consistent field: largest commutator element, eV
    kernel: Kernel = field(repr=False)          # two-electron integrals arranged for Fock builds

    @property
    def molecules(self) -> int:
        """How many geometries there are."""
        return len(self.constant)

    @property
    def size(self) -> int:
        """Orbitals of each molecule."""
        return self.problem.layout.size

    def evaluate(self, D: Densities) -> tuple[Float[Tensor, "molecule"], Densities]:
        """(E, F) of the densities D: E = constant + (1/s) sum tr D (h + F), F = h + J - K, s spin channels."""
        h = self.problem.h
        F = fock(self.problem.layout, self.kernel, h, D)
        energy = ((h[:, None] + F) * D).sum((1, 2, 3)) / D.shape[1]
        return self.constant + energy, F

    def solution(self, D: Densities | None = None) -> Solution:
        """The engine's self-consistent field from the densities D, or from its own guess."""
        return solve(self.problem, self.start if D is None else D, SCF(tolerance=self.tolerance))

    def solve(self, D: Densities | None = None) -> tuple[Float[Tensor, "molecule"], Densities, Int[Tensor, "molecule"]]:
        """(E, D, iterations) of the self-consistent field from the densities D, or from the engine's own guess."""
        solution = self.solution(D)
        return self.constant + solution.energy, solution.D, solution.iterations


def nddo_functional(hamiltonian: Hamiltonian, molecules: Molecules, unrestricted: bool | None = None,
                    tolerance: float = 1e-7) -> NDDOFunctional:
    """The energy functional of a Hamiltonian at molecules of one composition, charge and spin; unrestricted None: for open
    shells only.

    Raises:
        InvalidMolecule: the molecules differ, or their open shells are half-electron states.
    """
    shared_composition(molecules)
    if unrestricted is False and bool((molecules.unpaired > 0).any()):
        raise InvalidMolecule("Half-electron open shells are no single determinant: use unrestricted orbitals.")
    problem, start, parts = hamiltonian.problem(molecules, unrestricted)
    occupied = tuple(int(n) for n in problem.occupations[0].sum(-1).round().tolist())
    return NDDOFunctional(problem, start.density, torch.stack(list(parts.values())).sum(0), occupied, tolerance,
                          kernel(problem.layout, problem.integrals))
