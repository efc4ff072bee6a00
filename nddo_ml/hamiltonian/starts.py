"""Which state is asked for: spin channels, electron counts, the molecules solved together, the density to start from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.errors import InvalidMolecule
from nddo_ml.integrals.topology import Topology
from nddo_ml.methods import Method
from nddo_ml.molecules import Molecules
from nddo_ml.scf import half_electron
from nddo_ml.scf.guess import atomic_populations, guess
from nddo_ml.scf.problem import Electrons, Solution

BUCKET_WASTE = 1.3       # largest ratio of matrix sizes in one bucket
BUCKET_SLACK = 4         # orbitals beyond that ratio
ORGANIC = frozenset((1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53))
SMALL_GAP = 5.0          # eV
CHECKED = 16             # orbitals of open shells up to which a check costs no more than a fifth of the calculation


@runtime_checkable
class HasDensity(Protocol):
    """What a calculation can start from: a Result, or anything with its densities."""

    @property
    def molecules(self) -> Molecules | Sequence[object]: ...

    def density(self, k: int = 0) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class EarlierDensities:
    """Densities of molecules, each from the result where it was last calculated: what a calculation can start from."""

    places: list[tuple[HasDensity, int]]    # of each molecule: a result, and which of its molecules it is
    molecules: Molecules                    # that start from these densities

    def density(self, k: int = 0) -> Float[Tensor, "spin orbital orbital"]:
        """Density matrix of molecule k."""
        result, place = self.places[k]
        return result.density(place)


def spin_channels(molecules: Molecules, unrestricted: bool | None) -> list[int]:
    """Spin channels of each molecule: 2 for alpha and beta apart, by default for open shells only."""
    if unrestricted is False:
        half_electron.check(molecules.unpaired)
    if unrestricted is None:
        return [2 if n else 1 for n in molecules.unpaired.tolist()]
    return [2 if unrestricted else 1] * len(molecules)


def buckets(method: Method, molecules: Molecules, spins: list[int]) -> list[list[int]]:
    """Molecules solved together: equal spin channels, similar number of orbitals."""
    if len(molecules) == 1:
        return [[0]]
    n_ao = method.elements.n_ao.to(molecules.numbers.device)[method.rows(molecules.numbers)]
    sizes: list[int] = torch.bincount(molecules.molecule, n_ao.to(torch.float64), len(molecules)).long().tolist()
    groups: list[list[int]] = []
    for k in sorted(range(len(sizes)), key=lambda k: (spins[k], sizes[k], k)):
        last = groups[-1] if groups else None
        if last and spins[last[0]] == spins[k] and sizes[k] <= BUCKET_WASTE * sizes[last[0]] + BUCKET_SLACK:
            last.append(k)
        else:
            groups.append([k])
    return [sorted(group) for group in groups]


def electrons(topology: Topology, molecules: Molecules, channels: int | None = None, biradical: bool = False,
              names: Sequence[int] | None = None) -> Electrons:
    """Alpha and beta electrons of molecules with equal numbers of spin channels (None: two if one of them is an open shell).

    biradical: singlets are given two open orbitals.

    Raises:
        InvalidMolecule: the charge or the multiplicity is impossible. It calls the molecules by their `names`.
    """
    channels = (2 if bool((molecules.unpaired > 0).any()) else 1) if channels is None else channels
    orbitals = topology.layout.orbitals
    cores = topology.elements.core.new_zeros(len(molecules)).index_add(0, molecules.molecule, topology.elements.core)
    total = torch.round(cores).long() - molecules.charge
    columns = (total, molecules.unpaired, orbitals, cores, molecules.charge)
    named = range(len(molecules)) if names is None else names
    for k, *values in zip(named, *(column.tolist() for column in columns), strict=True):
        _check_electrons(k, *values)
    unpaired = molecules.unpaired
    if biradical and channels == 1:
        unpaired = torch.where((unpaired == 0) & (total >= 2) & (total < 2 * orbitals), 2, unpaired)
    return Electrons((total + unpaired) // 2, (total - unpaired) // 2, channels)


def _check_electrons(k: int, n: int, unpaired: int, orbitals: int, core: float, charge: int) -> None:
    """Refuse n electrons, so many of them unpaired, that molecule k cannot have (InvalidMolecule)."""
    if abs(core - round(core)) > 1e-6:
        raise InvalidMolecule(f"Molecule {k} has core charges that add up to {core:g}: half charges must come in pairs.")
    if not 0 <= n <= 2 * orbitals:
        raise InvalidMolecule(f"Molecule {k} with charge {charge} has {n} valence electrons in {orbitals} orbitals: the "
                              f"charge must lie between {round(core) - 2 * orbitals} and {round(core)}.")
    if (n - unpaired) % 2 or unpaired > n or (n + unpaired) // 2 > orbitals:
        raise InvalidMolecule(f"Molecule {k} with charge {charge} has {n} valence electrons, which cannot have "
                              f"multiplicity {unpaired + 1}: it must be {'odd' if n % 2 == 0 else 'even'} and at most "
                              f"{min(n, 2 * orbitals - n) + 1}.")


@record
class Start:
    """Where the search for a self-consistent state begins."""

    density: Float[Tensor, "molecule spin orbital orbital"]
    followed: bool      # whether it is that of an earlier state
    # of that state as rows, occupied ones first, if they are known
    orbitals: Float[Tensor, "molecule spin orbital orbital"] | None = None


def earlier(topology: Topology, channels: int, result: HasDensity | None, index: list[int],
            occupations: Float[Tensor, "molecule spin level"] | None = None) -> Start | None:
    """The densities of the molecules `index` in an earlier result, None where there is none or it does not fit.

    occupations: of the levels that are to be filled; where they were filled alike, the orbitals are taken too.
    """
    if result is None or len(result.molecules) <= max(index):
        return None
    layout, states = topology.layout, getattr(result, "states", ())
    if len(states) == 1 and states[0].index == index and states[0].solution.D.shape == (
            layout.molecules, channels, layout.size, layout.size):
        held = states[0].problem
        if held.layout is layout or torch.equal(held.layout.orbitals, layout.orbitals):
            alike = occupations is not None and (
                held.occupations is occupations or torch.equal(held.occupations, occupations))
            return Start(states[0].solution.D, True, states[0].solution.C if alike else None)
    densities = [result.density(k) for k in index]
    if any(len(D) != channels or D.shape[-1] != int(n) for D, n in zip(densities, layout.orbitals, strict=True)):
        return None
    density = layout.real.new_zeros(layout.molecules, channels, layout.size, layout.size)
    for k, D in enumerate(densities):
        density[k, :, :D.shape[-1], :D.shape[-1]] = D
    return Start(density, True)


def neutral_atoms(topology: Topology, electrons: Electrons) -> Start:
    """The densities of neutral atoms, spread to the electrons there are."""
    layout, e = topology.layout, topology.elements
    populations = atomic_populations(e.core, e.n_ao, (e.occ_d > 0) & (e.main_group == 0))
    here = populations[layout.owner.clamp(min=0), layout.shell.clamp(min=0)]
    per_orbital = torch.where(layout.owner >= 0, here, torch.zeros_like(layout.real))
    atom = (layout.owner - layout.owner[:, :1]).clamp(min=0)
    return Start(guess(per_orbital, atom, layout.real, electrons), False)


def suspicious(topology: Topology, molecules: Molecules, solution: Solution, followed: bool) -> Bool[Tensor, "molecule"] | None:
    """Which states may well not be the lowest of their kind, or are open shells so small that looking costs next to nothing;
    None: none.

    Unrestricted singlets, which can sit on the restricted saddle point, and open shells of up to CHECKED orbitals always are.
    Others unless they were `followed` from an earlier density: those with a small gap (eV), and those with elements beyond
    organic chemistry (metals have many solutions).
    """
    restricted, organic = solution.D.shape[1] == 1, topology.composition.elements <= ORGANIC
    if restricted and (followed or (organic and not any(gap < SMALL_GAP for gap in solution.gap.tolist()))):
        return None
    doubted = torch.zeros_like(solution.converged)
    if not restricted:
        doubted = (molecules.unpaired == 0) | (topology.layout.orbitals <= CHECKED)
    if followed:
        return doubted
    doubted = doubted | (solution.gap < SMALL_GAP)
    if organic:
        return doubted
    unusual = ~torch.isin(molecules.numbers, torch.tensor(sorted(ORGANIC), device=molecules.numbers.device))
    return doubted | doubted.long().index_add(0, molecules.molecule, unusual.long()).bool()
