"""Which state is asked for: spin channels, electron counts, the molecules solved together, the density to start from."""

import torch
from jaxtyping import Bool
from torch import Tensor

from nddo_ml.errors import InvalidMolecule
from nddo_ml.hamiltonian.results import Result
from nddo_ml.integrals.assembly import Topology
from nddo_ml.molecules import Molecules
from nddo_ml.scf import half_electron
from nddo_ml.scf.guess import atomic_populations, guess

BUCKET_WASTE = 1.3       # largest ratio of matrix sizes in one bucket
BUCKET_SLACK = 4         # orbitals beyond that ratio
ORGANIC = (1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53)
SMALL_GAP = 5.0          # eV
CHECKED = 16             # orbitals of open shells up to which a check costs no more than a fifth of the calculation


def channels(molecules: Molecules, unrestricted: bool | None) -> list[int]:
    """Spin channels of each molecule: 2 for alpha and beta apart, by default for open shells only."""
    if unrestricted is False:
        half_electron.check(molecules.unpaired)
    if unrestricted is None:
        return [2 if n else 1 for n in molecules.unpaired.tolist()]
    return [2 if unrestricted else 1] * len(molecules)


def buckets(method, molecules: Molecules, spins: list[int]) -> list[list[int]]:
    """Molecules solved together: equal spin channels, similar number of orbitals."""
    if len(molecules) == 1:
        return [[0]]
    n_ao = method.elements.n_ao.to(molecules.numbers.device)[method.rows(molecules.numbers)]
    sizes = torch.bincount(molecules.molecule, n_ao.to(torch.float64), len(molecules)).long().tolist()
    found = []
    for k in sorted(range(len(sizes)), key=lambda k: (spins[k], sizes[k], k)):
        last = found[-1] if found else None
        if last and spins[last[0]] == spins[k] and sizes[k] <= BUCKET_WASTE * sizes[last[0]] + BUCKET_SLACK:
            last.append(k)
        else:
            found.append([k])
    return [sorted(b) for b in found]


def electrons(molecules: Molecules, top: Topology, names, biradical: bool):
    """Alpha and beta electrons of each molecule; an impossible charge or spin raises InvalidMolecule, which calls the
    molecules by their `names`. biradical: singlets are given two open orbitals.
    """
    cores = top.elements.core.new_zeros(len(molecules)).index_add(0, molecules.molecule, top.elements.core)
    total = torch.round(cores).long() - molecules.charge
    columns = (total, molecules.unpaired, top.layout.orbitals, cores, molecules.charge)
    for k, n, unpaired, orbitals, core, charge in zip(names, *(c.tolist() for c in columns), strict=True):
        if abs(core - round(core)) > 1e-6:
            raise InvalidMolecule(f"Molecule {k} has core charges that add up to {core:g}: half charges must come in pairs.")
        if not 0 <= n <= 2 * orbitals:
            raise InvalidMolecule(f"Molecule {k} with charge {charge} has {n} valence electrons in {orbitals} orbitals: the "
                                  f"charge must lie between {round(core) - 2 * orbitals} and {round(core)}.")
        if (n - unpaired) % 2 or unpaired > n or (n + unpaired) // 2 > orbitals:
            raise InvalidMolecule(f"Molecule {k} with charge {charge} has {n} valence electrons, which cannot have "
                                  f"multiplicity {unpaired + 1}: it must be {'odd' if n % 2 == 0 else 'even'} and at most "
                                  f"{min(n, 2 * orbitals - n) + 1}.")
    unpaired = molecules.unpaired
    if biradical:
        unpaired = torch.where((unpaired == 0) & (total >= 2) & (total < 2 * top.layout.orbitals), 2, unpaired)
    return (total + unpaired) // 2, (total - unpaired) // 2


def start_density(top: Topology, alpha, beta, spins: int, earlier: Result | None, index: list[int]):
    """(density, whether it is an earlier one) to start the molecules `index` from: that of an earlier result where it fits,
    else of neutral atoms.
    """
    lay = top.layout
    if earlier is not None and len(earlier.molecules) > max(index):
        found = [earlier.density(k) for k in index]
        if all(len(d) == spins and d.shape[-1] == int(n) for d, n in zip(found, lay.orbitals, strict=True)):
            start = lay.real.new_zeros(lay.molecules, spins, lay.size, lay.size)
            for k, d in enumerate(found):
                start[k, :, :d.shape[-1], :d.shape[-1]] = d
            return start, True
    e = top.elements
    populations = atomic_populations(e.core, e.n_ao, (e.occ_d > 0) & (e.main_group == 0))
    here = populations[lay.owner.clamp(min=0), lay.shell.clamp(min=0)]
    per_orbital = torch.where(lay.owner >= 0, here, torch.zeros_like(lay.real))
    atom = (lay.owner - lay.owner[:, :1]).clamp(min=0)
    return guess(per_orbital, atom, lay.real, alpha, beta, spins, (alpha == beta) & (alpha > 0)), False


def suspicious(top: Topology, molecules: Molecules, spins: int, gap, followed: bool) -> Bool[Tensor, "molecule"]:
    """Which states may well not be the lowest of their kind, or are open shells so small that looking costs next to nothing.

    Unrestricted singlets, which can sit on the restricted saddle point, and open shells of up to CHECKED orbitals always are.
    Others unless they were `followed` from an earlier density: those with a small gap (eV), and those with elements beyond
    organic chemistry (metals have many solutions).
    """
    open_shells = (molecules.unpaired > 0) & (top.layout.orbitals <= CHECKED)
    doubted = (open_shells | (molecules.unpaired == 0)) if spins == 2 else torch.zeros_like(open_shells)
    if followed:
        return doubted
    unusual = ~torch.isin(molecules.numbers, torch.tensor(ORGANIC, device=molecules.numbers.device))
    return doubted | (gap < SMALL_GAP) | doubted.long().index_add(0, molecules.molecule, unusual.long()).bool()
