"""E(D) and F = dE/dD of a batch of molecules, in an orthonormal basis: all an orbital ansatz needs to know of a Hamiltonian.

The NDDO engine's own functional is here, any method, trained ones included; PySCF's is in pyscf_functional.py.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.errors import InvalidMolecule
from nddo_ml.molecules import Molecules
from nddo_ml.scf.fock import Kernel, fock, kernel
from nddo_ml.scf.ladder import solve
from nddo_ml.scf.options import SCF
from nddo_ml.scf.problem import Problem, Solution


class EnergyFunctional(Protocol):
    """A mean-field energy of `molecules` molecules alike in size: occupied `(alpha, beta)` or `(pairs,)` orbitals of each spin
    channel, `size` orbitals. The restricted state has one channel, both spins alike."""

    molecules: int
    size: int
    occupied: tuple[int, ...]

    def evaluate(self, D: Float[Tensor, "molecule spin orbital orbital"]) -> tuple[Tensor, Tensor]:
        """(E `molecule`, F of the shape of D), D with occupations 0 and 1 in the orthonormal basis."""
        ...

    def solve(self, D: Float[Tensor, "molecule spin orbital orbital"] | None) -> tuple[Tensor, Tensor, Tensor]:
        """(E, D, iterations) of the self-consistent field from the density D; None: the usual guess."""
        ...


def gradient(F: Float[Tensor, "... orbital orbital"], C: Float[Tensor, "... orbital occupied"], spins: int):
    """dE/dC = (4/s) F C for the occupied orbitals of one of s spin channels: 4 F C restricted, 2 F C unrestricted."""
    return (4.0 / spins) * (F @ C)


@dataclass(frozen=True)
class NDDOFunctional:
    """The energy functional of the NDDO engine; made by `nddo_functional`."""

    problem: Problem
    start: Float[Tensor, "molecule spin orbital orbital"]   # the usual guess
    constant: Float[Tensor, "molecule"]                     # corrections, core repulsion, eV
    occupied: tuple[int, ...]
    tolerance: float                                        # of the commutator, eV
    kernel: Kernel = field(repr=False)

    @property
    def molecules(self) -> int:
        """Molecules of the batch."""
        return len(self.constant)

    @property
    def size(self) -> int:
        """Orbitals of each."""
        return self.problem.layout.size

    def evaluate(self, D: Float[Tensor, "molecule spin orbital orbital"]) -> tuple[Tensor, Tensor]:
        """E = constant + (1/s) sum tr D (h + F), F = h + J - K."""
        h = self.problem.h
        F = fock(self.problem.layout, self.kernel, h, D)
        energy = ((h[:, None] + F) * D).sum((1, 2, 3)) / D.shape[1]
        return self.constant + energy, F

    def solution(self, D: Float[Tensor, "molecule spin orbital orbital"] | None = None) -> Solution:
        """The engine's self-consistent field from the density D."""
        return solve(self.problem, self.start if D is None else D, SCF(tolerance=self.tolerance))

    def solve(self, D: Float[Tensor, "molecule spin orbital orbital"] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(E, D, iterations) from the density D."""
        found = self.solution(D)
        return self.constant + found.energy, found.D, found.iterations


def nddo_functional(hamiltonian, molecules: Molecules, unrestricted: bool | None = None,
                    tolerance: float = 1e-7) -> NDDOFunctional:
    """The energy functional of a Hamiltonian at molecules of one composition, charge and spin.

    InvalidMolecule: they differ, or their open shells are half-electron states.
    """
    first = slice(0, molecules.sizes[0])
    alike = len(set(molecules.sizes)) == 1 and all(
        torch.equal(part.numbers, molecules.numbers[first]) for part in (molecules.select([k]) for k in range(len(molecules))))
    if not alike or len(molecules.charge.unique()) > 1 or len(molecules.unpaired.unique()) > 1:
        raise InvalidMolecule("The molecules differ in composition, charge or spin: an orbital ansatz is of one molecule at "
                              "many geometries, its atoms in one order.")
    if unrestricted is False and bool((molecules.unpaired > 0).any()):
        raise InvalidMolecule("Half-electron open shells are no single determinant: use unrestricted orbitals.")
    problem, start, parts = hamiltonian.problem(molecules, unrestricted)
    occupied = tuple(int(n) for n in problem.occupations[0].sum(-1).round().tolist())
    return NDDOFunctional(problem, start.density, torch.stack(list(parts.values())).sum(0), occupied, tolerance,
                          kernel(problem.layout, problem.integrals))
