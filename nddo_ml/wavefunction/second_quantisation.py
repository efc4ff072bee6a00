"""A Hamiltonian in second quantisation and the determinants it acts on: h, (pq|rs) in orthonormal orbitals, exact by full sums.

H = core + sum h_pq a+_p a_q + 1/2 sum (pq|rs) a+_p a+_r a_s a_q. The valence space of an NDDO molecule is one, its atomic
orbitals being orthonormal; active spaces of PySCF are another (pyscf_active_space.py).
"""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.errors import InvalidMolecule
from nddo_ml.scf.fock import two_electron
from nddo_ml.wavefunction.energy_functionals import NDDOFunctional

LARGEST = 20_000            # determinants whose matrix is built whole


@dataclass(frozen=True)
class Hamiltonian:
    """h `orbital orbital`, eri `orbital orbital orbital orbital` = (pq|rs), core energy, electrons of each
    spin; one energy unit."""

    h: Float[Tensor, "orbital orbital"]
    eri: Float[Tensor, "orbital orbital orbital orbital"] = field(repr=False)
    core: float
    up: int
    down: int

    @property
    def orbitals(self) -> int:
        """Spatial orbitals."""
        return len(self.h)

    def rotated(self, C: Float[Tensor, "orbital orbital"]) -> "Hamiltonian":
        """The same Hamiltonian in the orbitals C."""
        eri = torch.einsum("pqrs,pi,qj,rk,sl->ijkl", self.eri, C, C, C, C)
        return Hamiltonian(C.T @ self.h @ C, eri, self.core, self.up, self.down)


def nddo_hamiltonian(functional: NDDOFunctional, canonical: bool = True) -> Hamiltonian:
    """The valence Hamiltonian of one NDDO molecule, eV, in its SCF orbitals (or its atomic ones).

    The integrals are read off the engine's own J and K: two-electron Fock matrices of unit densities.
    InvalidMolecule: several molecules.
    """
    if functional.molecules != 1:
        raise InvalidMolecule(f"{functional.molecules} molecules: a Hamiltonian in second quantisation is of one.")
    p, n = functional.state.problem, functional.size
    r, s = torch.triu_indices(n, n)
    unit = torch.zeros(len(r), n, n, dtype=p.h.dtype)
    unit[torch.arange(len(r)), r, s] += 0.5
    unit[torch.arange(len(r)), s, r] += 0.5
    # two channels, the second empty: the empty one feels J alone, (pq|rs)
    D = torch.stack([unit, torch.zeros_like(unit)], 1)[None]
    coulomb = two_electron(p.layout, functional.kernel, D)[0, :, 1]
    eri = torch.zeros(n, n, n, n, dtype=p.h.dtype)
    eri[:, :, r, s] = coulomb.movedim(0, -1)
    eri[:, :, s, r] = coulomb.movedim(0, -1)
    occupied = functional.occupied * (2 if len(functional.occupied) == 1 else 1)
    found = Hamiltonian(p.h[0], eri, float(functional.constant[0]), *occupied)
    return found.rotated(natural_orbitals(functional, functional.solve()[1])) if canonical else found


def natural_orbitals(functional: NDDOFunctional,
                     D: Float[Tensor, "molecule spin orbital orbital"]) -> Float[Tensor, "orbital orbital"]:
    """The orbitals of the mean density of both spins, by falling occupation; canonical where they are occupied alike."""
    F = functional.evaluate(D)[1].mean((0, 1))
    return torch.linalg.eigh(F - 1e3 * D.mean((0, 1)))[1]


def strings(orbitals: int, electrons: int) -> Bool[Tensor, "string orbital"]:
    """All ways to put electrons of one spin into orbitals, in lexical order."""
    chosen = list(combinations(range(orbitals), electrons))
    rows = torch.zeros(len(chosen), orbitals, dtype=torch.bool)
    for k, places in enumerate(chosen):
        rows[k, list(places)] = True
    return rows


def reference(H: Hamiltonian) -> Bool[Tensor, "spin_orbital"]:
    """The determinant of the first orbitals of each spin."""
    k = torch.arange(H.orbitals)
    return torch.cat([k < H.up, k < H.down])


def determinants(H: Hamiltonian) -> Bool[Tensor, "determinant orbital_of_both_spins"]:
    """All determinants of the Hamiltonian, occupations of spin up, then of spin down."""
    up, down = strings(H.orbitals, H.up), strings(H.orbitals, H.down)
    return torch.cat([up.repeat_interleave(len(down), 0), down.repeat(len(up), 1)], 1)


def singles_and_doubles(H: Hamiltonian) -> Bool[Tensor, "determinant spin_orbital"]:
    """The reference and all determinants with one or two of its electrons elsewhere."""
    up, down = reference(H).split(H.orbitals)
    parts = [(_excited(up, a), _excited(down, b)) for a in range(3) for b in range(3 - a)]
    return torch.cat([torch.cat([x.repeat_interleave(len(y), 0), y.repeat(len(x), 1)], 1) for x, y in parts])


def _excited(string, count):
    """All ways to move `count` electrons of a string to empty orbitals."""
    filled, empty = (torch.nonzero(x)[:, 0].tolist() for x in (string, ~string))
    ways = [(*holes, *particles) for holes in combinations(filled, count) for particles in combinations(empty, count)]
    rows = string.repeat(len(ways), 1)
    for row, places in zip(rows, ways, strict=True):
        row[list(places)] ^= True
    return rows


def pairs(H: Hamiltonian) -> Bool[Tensor, "determinant spin_orbital"]:
    """The reference and all determinants with one of its pairs elsewhere."""
    first, n = reference(H), H.orbitals
    rows = [first]
    for i in range(min(H.up, H.down)):
        for a in range(max(H.up, H.down), n):
            row = first.clone()
            row[[i, a, n + i, n + a]] ^= True
            rows.append(row)
    return torch.stack(rows)


def leading(H: Hamiltonian, count: int) -> tuple[Float[Tensor, "determinant"], Bool[Tensor, "determinant spin_orbital"]]:
    """(weights, occupations) of the `count` heaviest determinants of a configuration interaction of singles and doubles, or of
    pairs where those are too many; the heaviest first, and none that weighs less than a hundredth of it."""
    excitations = (1 + H.up * (H.orbitals - H.up)) * (1 + H.down * (H.orbitals - H.down))
    space = pairs(H) if excitations > LARGEST // 4 else singles_and_doubles(H)
    vector = ground_state(matrix(H, space))[1]
    kept = vector.abs().argsort(descending=True)[:count]
    kept = kept[vector[kept].abs() > 0.01 * vector.abs().max()]
    return vector[kept], space[kept]


def matrix(H: Hamiltonian, space: Bool[Tensor, "determinant spin_orbital"]) -> Float[Tensor, "determinant determinant"]:
    """<D|H|D'> among the determinants of a space, by the Slater-Condon rules; sparse.

    Spin orbitals are in the order of the columns; core energy on the diagonal.
    """
    occupation = space.numpy()
    h, g = spin_integrals(H)
    count = len(occupation)
    if count > LARGEST:
        raise InvalidMolecule(f"{count} determinants: matrices are built up to {LARGEST}; select determinants, or take a "
                              "smaller active space.")
    differing = 2 * H.up + 2 * H.down - 2 * (occupation.astype(np.float32) @ occupation.T.astype(np.float32))
    rows, columns = np.nonzero(np.triu(differing <= 4.5, 1))
    values = np.empty(len(rows))
    for start in range(0, len(rows), 200_000):
        part = slice(start, start + 200_000)
        values[part] = _couplings(h, g, occupation[rows[part]], occupation[columns[part]])
    dense = torch.zeros(count, count, dtype=torch.float64)
    dense[rows, columns] = dense[columns, rows] = torch.from_numpy(values)
    dense.diagonal().copy_(diagonal(H, space))
    return dense


def diagonal(H: Hamiltonian, space: Bool[Tensor, "determinant spin_orbital"]) -> Float[Tensor, "determinant"]:
    """<D|H|D> = core + sum h_pp + 1/2 sum (J - K)."""
    h, g = spin_integrals(H)
    n = space.to(torch.float64)
    pair = np.einsum("ppqq->pq", g) - np.einsum("pqqp->pq", g)
    return H.core + n @ torch.from_numpy(np.diagonal(h).copy()) + 0.5 * ((n @ torch.from_numpy(pair)) * n).sum(-1)


def spin_integrals(H: Hamiltonian) -> tuple[np.ndarray, np.ndarray]:
    """(h, (pq|rs)) over spin orbitals, spin up first."""
    n = H.orbitals
    h, g = np.zeros((2 * n, 2 * n)), np.zeros((2 * n,) * 4)
    spins = (slice(0, n), slice(n, 2 * n))
    for a in spins:
        h[a, a] = H.h.numpy()
        for b in spins:
            g[a, a, b, b] = H.eri.numpy()
    return h, g


def _couplings(h, g, bra, ket):
    """<bra|H|ket> of pairs of determinants that differ by one or two spin orbitals."""
    empty, filled = ket & ~bra, bra & ~ket                   # orbitals of the ket that are left, orbitals that are entered
    values = np.empty(len(bra))
    single = filled.sum(1) == 1
    k = np.flatnonzero(single)
    i, a = empty[k].argmax(1), filled[k].argmax(1)
    exchange = np.einsum("aiqq->aiq", g) - np.einsum("aqqi->aiq", g)
    mean_field = np.einsum("kq,kq->k", exchange[a, i], (bra[k] & ket[k]).astype(float))
    values[k] = _sign(ket[k], (i,), (a,)) * (h[a, i] + mean_field)
    k = np.flatnonzero(~single)
    (i, j), (a, b) = _two(empty[k]), _two(filled[k])
    values[k] = _sign(ket[k], (i, j), (b, a)) * (g[a, i, b, j] - g[a, j, b, i])
    return values


def _sign(ket, annihilated, created):
    """Sign of a string of operators on determinants, one after another."""
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
    """(lowest energy, its vector) of a matrix of determinants."""
    energies, vectors = torch.linalg.eigh(M)
    return float(energies[0]), vectors[:, 0]

