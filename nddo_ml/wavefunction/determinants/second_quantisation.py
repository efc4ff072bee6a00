"""Second quantisation: a Hamiltonian in orthonormal orbitals, the determinants it acts on, and its matrix between them.

    H = core + sum h_pq a+_p a_q + 1/2 sum (pq|rs) a+_p a+_r a_s a_q

The valence space of an NDDO molecule is such a Hamiltonian, since its atomic orbitals are orthonormal; active spaces of PySCF
are others (pyscf_active_space.py). A space of determinants is a tensor of occupations with one row per determinant: the
orbitals of spin up, then the orbitals of spin down.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.errors import InvalidMolecule
from nddo_ml.scf.fock import two_electron
from nddo_ml.wavefunction.orbitals.energy_functionals import OCCUPIED_FIRST, Densities, NDDOFunctional

LARGEST = 20_000            # determinants of a space
ORBITALS = 100              # whose n^4 integrals are kept: 0.8 GB
COUPLINGS = 50_000_000      # of a sparse matrix: 1.2 GB
PART = 50_000               # rows that are worked on at a time

Space: TypeAlias = Bool[Tensor, "determinant spin_orbital"]       # occupations; spin up first


@dataclass(frozen=True)
class SecondQuantisedHamiltonian:
    """One- and two-electron integrals over orthonormal orbitals, with the electrons they act on; all of one energy unit."""

    h: Float[Tensor, "orbital orbital"]
    eri: Float[Tensor, "orbital orbital orbital orbital"] = field(repr=False)       # (pq|rs)
    core: float         # energy of the nuclei and of electrons that are left out
    up: int             # electrons of spin up
    down: int           # electrons of spin down

    @property
    def orbitals(self) -> int:
        """Spatial orbitals."""
        return len(self.h)

    def rotated(self, C: Float[Tensor, "orbital orbital"]) -> "SecondQuantisedHamiltonian":
        """The same Hamiltonian in the orbitals C."""
        eri = torch.einsum("pqrs,pi,qj,rk,sl->ijkl", self.eri, C, C, C, C)
        return SecondQuantisedHamiltonian(C.T @ self.h @ C, eri, self.core, self.up, self.down)


def nddo_hamiltonian(functional: NDDOFunctional, canonical: bool = True) -> SecondQuantisedHamiltonian:
    """The valence Hamiltonian of one NDDO molecule, eV, in natural orbitals of its SCF, or in atomic ones (canonical=False).

    Its integrals are two-electron Fock matrices that the engine builds from unit densities.

    Raises:
        InvalidMolecule: there are several molecules, or the one has more than 100 orbitals.
    """
    if functional.molecules != 1:
        raise InvalidMolecule(f"{functional.molecules} molecules: a Hamiltonian in second quantisation is of one.")
    problem, n = functional.problem, functional.size
    if n > ORBITALS:
        raise InvalidMolecule(f"{n} orbitals have {8e-9 * n**4:.1f} GB of integrals; the limit is {ORBITALS} orbitals: take a "
                              "smaller molecule, or an active space (pyscf_active_space).")
    r, s = torch.triu_indices(n, n)
    unit = torch.zeros(len(r), n, n, dtype=problem.h.dtype)
    unit[torch.arange(len(r)), r, s] += 0.5
    unit[torch.arange(len(r)), s, r] += 0.5
    # two channels, the second empty: the empty one feels J alone, (pq|rs)
    D = torch.stack([unit, torch.zeros_like(unit)], 1)[None]
    coulomb = two_electron(problem.layout, functional.kernel, D)[0, :, 1]
    eri = torch.zeros(n, n, n, n, dtype=problem.h.dtype)
    eri[:, :, r, s] = coulomb.movedim(0, -1)
    eri[:, :, s, r] = coulomb.movedim(0, -1)
    occupied = functional.occupied * (2 if len(functional.occupied) == 1 else 1)
    atomic = SecondQuantisedHamiltonian(problem.h[0], eri, float(functional.constant[0]), *occupied)
    return atomic.rotated(natural_orbitals(functional, functional.solve()[1])) if canonical else atomic


def natural_orbitals(functional: NDDOFunctional, D: Densities) -> Float[Tensor, "orbital orbital"]:
    """The natural orbitals of the mean density of both spins, by falling occupation; canonical where occupations are equal."""
    F = functional.evaluate(D)[1].mean((0, 1))
    return torch.linalg.eigh(F - OCCUPIED_FIRST * D.mean((0, 1)))[1]


def size(H: SecondQuantisedHamiltonian) -> int:
    """How many determinants the whole space has."""
    return math.comb(H.orbitals, H.up) * math.comb(H.orbitals, H.down)


def refuse_large_space(count: int, H: SecondQuantisedHamiltonian) -> None:
    """Do nothing, or refuse a space that is too large to be summed.

    Raises:
        InvalidMolecule: `count` is above 20,000.
    """
    if count > LARGEST:
        raise InvalidMolecule(f"{float(count):.3g} determinants of {H.up} + {H.down} electrons in {H.orbitals} orbitals: the "
                              f"limit is {LARGEST}; take those that matter (neural_states.fit_selected) or a smaller active "
                              "space.")


def strings(orbitals: int, electrons: int) -> Bool[Tensor, "string orbital"]:
    """All ways to put electrons of one spin into orbitals, in lexical order."""
    chosen = list(combinations(range(orbitals), electrons))
    rows = torch.zeros(len(chosen), orbitals, dtype=torch.bool)
    for k, places in enumerate(chosen):
        rows[k, list(places)] = True
    return rows


def reference_determinant(H: SecondQuantisedHamiltonian) -> Bool[Tensor, "spin_orbital"]:
    """The occupations of the determinant that fills the first orbitals of each spin."""
    k = torch.arange(H.orbitals)
    return torch.cat([k < H.up, k < H.down])


def determinants(H: SecondQuantisedHamiltonian) -> Space:
    """All determinants of a Hamiltonian.

    Raises:
        InvalidMolecule: there are more than 20,000.
    """
    refuse_large_space(size(H), H)
    up, down = strings(H.orbitals, H.up), strings(H.orbitals, H.down)
    return torch.cat([up.repeat_interleave(len(down), 0), down.repeat(len(up), 1)], 1)


def singles_and_doubles(H: SecondQuantisedHamiltonian) -> Space:
    """The reference determinant and all others in which one or two of its electrons are elsewhere.

    Raises:
        InvalidMolecule: there are more than 20,000.
    """
    ways = [[math.comb(n, k) * math.comb(H.orbitals - n, k) for k in range(3)] for n in (H.up, H.down)]
    refuse_large_space(sum(ways[0][a] * ways[1][b] for a in range(3) for b in range(3 - a)), H)
    up, down = reference_determinant(H).split(H.orbitals)
    parts = [(_excited(up, a), _excited(down, b)) for a in range(3) for b in range(3 - a)]
    return torch.cat([torch.cat([x.repeat_interleave(len(y), 0), y.repeat(len(x), 1)], 1) for x, y in parts])


def _excited(string, count):
    """All ways to move `count` electrons of one spin to empty orbitals."""
    filled, empty = (torch.nonzero(x)[:, 0].tolist() for x in (string, ~string))
    ways = [(*holes, *particles) for holes in combinations(filled, count) for particles in combinations(empty, count)]
    rows = string.repeat(len(ways), 1)
    for row, places in zip(rows, ways, strict=True):
        row[list(places)] ^= True
    return rows


def pairs(H: SecondQuantisedHamiltonian) -> Space:
    """The reference determinant and all others in which one of its pairs of electrons is in another orbital."""
    first, n = reference_determinant(H), H.orbitals
    rows = [first]
    for i in range(min(H.up, H.down)):
        for a in range(max(H.up, H.down), n):
            row = first.clone()
            row[[i, a, n + i, n + a]] ^= True
            rows.append(row)
    return torch.stack(rows)


def leading(H: SecondQuantisedHamiltonian, count: int) -> tuple[Float[Tensor, "determinant"], Space]:
    """(amplitudes, occupations) of the `count` heaviest determinants of a configuration interaction, the heaviest first.

    The space is that of single and double excitations, or of pairs where those are too many. Determinants with less than a
    hundredth of the amplitude of the heaviest are left out.
    """
    excitations = (1 + H.up * (H.orbitals - H.up)) * (1 + H.down * (H.orbitals - H.down))
    space = pairs(H) if excitations > LARGEST // 4 else singles_and_doubles(H)
    vector = ground_state(matrix(H, space))[1]
    kept = vector.abs().argsort(descending=True)[:count]
    kept = kept[vector[kept].abs() > 0.01 * vector.abs().max()]
    return vector[kept], space[kept]


def matrix(H: SecondQuantisedHamiltonian, space: Space) -> Float[Tensor, "determinant determinant"]:
    """<D|H|D'> among the determinants of a space, by the Slater-Condon rules, with the core energy on the diagonal.

    Raises:
        InvalidMolecule: the space has more than 20,000 determinants, or too many of them couple.
    """
    return sparse_matrix(H, space).to_dense()


def sparse_matrix(H: SecondQuantisedHamiltonian, space: Space) -> Tensor:
    """`matrix` as a sparse tensor, whose memory grows with the pairs of determinants that couple.

    Raises:
        InvalidMolecule: the space has more than 20,000 determinants, or too many of them couple.
    """
    count, occupation = len(space), space.numpy()
    refuse_large_space(count, H)
    rows, columns, values = [np.arange(count)], [np.arange(count)], [diagonal(H, space).numpy()]
    coupled = 0
    for i, j in _pairs_of(occupation, 2 * (H.up + H.down)):
        coupled += 2 * len(i)
        if coupled > COUPLINGS:
            raise InvalidMolecule(f"{count} determinants with more than {COUPLINGS} couplings between them: "
                                  f"{24e-9 * COUPLINGS:.1f} GB is the limit; select fewer.")
        coupling = [_couplings(H, occupation[i[k:k + PART]], occupation[j[k:k + PART]]) for k in range(0, len(i), PART)]
        rows, columns, values = [*rows, i, j], [*columns, j, i], [*values, *coupling, *coupling]
    places = torch.from_numpy(np.stack([np.concatenate(rows), np.concatenate(columns)]))
    return torch.sparse_coo_tensor(places, torch.from_numpy(np.concatenate(values)), (count, count),
                                   check_invariants=False).coalesce()


def _pairs_of(occupation, electrons) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs i < j of determinants that differ by one or two spin orbitals, for some rows at a time."""
    n = occupation.astype(np.float32)
    step = max(1, 20_000_000 // len(n))
    for start in range(0, len(n), step):
        differing = electrons - 2 * (n[start:start + step] @ n[start:].T)
        i, j = np.nonzero(np.triu(differing <= 4.5, 1))
        yield i + start, j + start


def diagonal(H: SecondQuantisedHamiltonian, space: Space) -> Float[Tensor, "determinant"]:
    """<D|H|D> = core + sum h_pp + 1/2 sum (J_pq - K_pq), the sums over the occupied spin orbitals of each determinant D."""
    J, K = torch.einsum("ppqq->pq", H.eri), torch.einsum("pqqp->pq", H.eri)
    up, down = space.to(H.h).split(H.orbitals, 1)
    both = up + down
    exchange = ((up @ K) * up + (down @ K) * down).sum(-1)
    return H.core + both @ H.h.diagonal() + 0.5 * (((both @ J) * both).sum(-1) - exchange)


def _couplings(H, bra, ket):
    """<bra|H|ket> of pairs of determinants that differ by one or two spin orbitals."""
    n, h, eri = H.orbitals, H.h.numpy(), H.eri.numpy()

    def g(p: np.ndarray, q: np.ndarray, r: np.ndarray, s: np.ndarray) -> np.ndarray:
        """(pq|rs) over spin orbitals."""
        return eri[p % n, q % n, r % n, s % n] * ((p < n) == (q < n)) * ((r < n) == (s < n))

    emptied, filled = ket & ~bra, bra & ~ket                 # spin orbitals that electrons of the ket leave, and enter
    values = np.empty(len(bra))
    single = filled.sum(1) == 1
    k = np.flatnonzero(single)
    i, a = emptied[k].argmax(1), filled[k].argmax(1)
    same = (bra[k] & ket[k]).reshape(-1, 2, n)
    mean_field = _mean_field(eri, i % n, a % n, same.sum(1), same[np.arange(len(k)), (i >= n).astype(int)])
    values[k] = _sign(ket[k], (i,), (a,)) * ((i < n) == (a < n)) * (h[a % n, i % n] + mean_field)
    k = np.flatnonzero(~single)
    (i, j), (a, b) = _two(emptied[k]), _two(filled[k])
    values[k] = _sign(ket[k], (i, j), (b, a)) * (g(a, i, b, j) - g(a, j, b, i))
    return values


def _mean_field(eri, i, a, both, own):
    """sum_q n_q (ai|qq) - n'_q (aq|qi) of orbitals i and a, n the electrons of both spins and n' those of their own spin."""
    J, K = np.einsum("aiqq->aiq", eri), np.einsum("aqqi->aiq", eri)
    return np.einsum("kq,kq->k", J[a, i], both.astype(float)) - np.einsum("kq,kq->k", K[a, i], own.astype(float))


def _sign(ket, annihilated, created):
    """The sign that operators which act one after another give to determinants."""
    sign, occupation = np.ones(len(ket)), ket
    for place in (*annihilated, *created):
        occupation, sign = _moved(occupation, sign, np.arange(len(ket)), place)
    return sign


def _moved(occupation, sign, rows, place):
    """Occupation and sign after one creation or annihilation at `place`."""
    passed = (np.cumsum(occupation, 1) - occupation)[rows, place]
    occupation = occupation.copy()
    occupation[rows, place] ^= True
    return occupation, sign * np.where(passed % 2 == 0, 1.0, -1.0)


def _two(occupation):
    """The two occupied places of each row, first and second."""
    return np.nonzero(occupation)[1].reshape(-1, 2).T


def ground_state(M: Float[Tensor, "determinant determinant"]) -> tuple[float, Float[Tensor, "determinant"]]:
    """(lowest eigenvalue, its eigenvector) of a matrix between determinants."""
    energies, vectors = torch.linalg.eigh(M)
    return float(energies[0]), vectors[:, 0]

