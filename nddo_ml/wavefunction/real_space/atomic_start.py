"""A start for one atom from Slater functions of its own, and the term of a start: its orbital momentum and parity.

Integrals over functions on one centre are sums of factorials, so that the configuration interaction of a minimal set of shells
is exact and quick. The shells go as far as the electrons of one spin need, to 2s for triplet helium. The term that comes out is
the one that every other start for the state must have.
"""

import math
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.errors import InvalidMolecule
from nddo_ml.wavefunction.determinants.second_quantisation import SecondQuantisedHamiltonian, leading
from nddo_ml.wavefunction.real_space.mean_field_start import MeanField, SlaterShell, angular, occupied_orbitals
from nddo_ml.wavefunction.real_space.systems import ElectronSystem

ROOM = (1, 4, 4, 4)                     # orbitals of the shells 1s; 2s 2p; 3s 3p; 4s 4p
QUANTUM = (1.0, 2.0, 3.0, 3.7)          # Slater's effective quantum numbers
DIFFUSE = 0.1                           # smallest exponent, 1/bohr: where nothing holds an electron
SPLIT = 1e-6                            # hartree between p orbitals: one of the states of a term is taken, not a mixture
LETTERS = "SPDFGHIKLM"


@dataclass(frozen=True)
class Term:
    """The symmetry of a wavefunction around one nucleus."""

    square: float       # <L^2>, units of hbar^2
    parity: int         # 1 even, -1 odd

    def same(self, other: "Term") -> bool:
        """Whether both are of one symmetry; a few determinants have <L^2> nearly, not exactly."""
        return self.parity == other.parity and abs(self.square - other.square) < 0.5

    def __str__(self):
        L = round((math.sqrt(1 + 4 * max(self.square, 0.0)) - 1) / 2)
        pure = L < len(LETTERS) and abs(self.square - L * (L + 1)) < 0.5
        return f"{LETTERS[L] if pure else f'<L^2> = {self.square:.1f},'} {'even' if self.parity > 0 else 'odd'}"


def atomic_field(system: ElectronSystem, determinants: int = 1) -> MeanField:
    """The heaviest determinants of one atom in Slater functions of its own.

    Raises:
        InvalidMolecule: there are several atoms, or more electrons of one spin than the shells up to 4p hold.
    """
    if len(system.numbers) != 1:
        raise InvalidMolecule(f"{len(system.numbers)} atoms: the functions of an atom start one atom alone.")
    shells = slater_shells(system.numbers[0], system.up, system.down)
    H, C = atomic_hamiltonian(system.numbers[0], shells, system.up, system.down)
    weights, occupations = leading(H, determinants)
    return MeanField(system.nuclei, shells, occupied_orbitals(C, weights, occupations, determinants, 0))


def slater_shells(Z: int, up: int, down: int) -> tuple[SlaterShell, ...]:
    """The s and p shells of the lowest quantum numbers that hold the electrons, with exponents by Slater's rules.

    zeta = (Z - s)/n*, where each other electron of the shell adds 0.35 (0.30 in 1s) to the screening s, each electron of the
    shell below 0.85, and each deeper one 1.                                     J. C. Slater, Phys. Rev. 36, 57 (1930)

    Raises:
        InvalidMolecule: there are more electrons of one spin than the shells up to 4p hold.
    """
    if up > sum(ROOM):
        raise InvalidMolecule(f"{up} electrons of one spin: the shells from 1s to 4p hold {sum(ROOM)}.")
    below = np.cumsum((0, *ROOM))
    filled = [sum(min(max(spin - b, 0), room) for spin in (up, down)) for b, room in zip(below, ROOM, strict=False)]
    shells = []
    for k in range(sum(f > 0 for f in filled)):
        screened = (filled[k] - 1) * (0.35 if k else 0.30) + 0.85 * sum(filled[k - 1:k]) + sum(filled[:max(k - 1, 0)])
        zeta = max((Z - screened) / QUANTUM[k], DIFFUSE)
        shells += [SlaterShell(0, k + 1, l, float(zeta)) for l in range(min(k + 1, 2))]
    return tuple(shells)


def atomic_hamiltonian(Z: int, shells: tuple[SlaterShell, ...], up: int,
                       down: int) -> tuple[SecondQuantisedHamiltonian, Float[Tensor, "function orbital"]]:
    """(Hamiltonian of the electrons of an atom in its orbitals, hartree; the orbitals C, functions made orthogonal in turn)."""
    labels = [(s, m) for s in shells for m in range(s.size)]
    n = len(labels)
    S, h = np.zeros((n, n)), np.zeros((n, n))
    for i, (a, m) in enumerate(labels):
        for j, (b, k) in enumerate(labels):
            if (a.l, m) == (b.l, k):
                S[i, j] = moment(a, b, 0)
                h[i, j] = -Z * moment(a, b, -1) - 0.5 * (
                    (b.n * (b.n - 1) - b.l * (b.l + 1)) * moment(a, b, -2) - 2 * b.zeta * b.n * moment(a, b, -1)
                    + b.zeta**2 * moment(a, b, 0)) + SPLIT * m * (i == j)
    g = _repulsion(shells)
    C = torch.linalg.inv(torch.linalg.cholesky(torch.from_numpy(S))).T
    whole = SecondQuantisedHamiltonian(torch.from_numpy(0.5 * (h + h.T)), torch.from_numpy(g), 0.0, up, down)
    return whole.rotated(C), C


def moment(a: SlaterShell, b: SlaterShell, power: int) -> float:
    """<r^power> between the radial parts of two shells."""
    return _norm(a) * _norm(b) * math.factorial(a.n + b.n + power) / (a.zeta + b.zeta) ** (a.n + b.n + power + 1)


def _norm(s):
    return (2 * s.zeta) ** (s.n + 0.5) / math.sqrt(math.factorial(2 * s.n))


def slater_integral(k: int, a: SlaterShell, b: SlaterShell, c: SlaterShell, d: SlaterShell) -> float:
    """R^k(ab, cd), the integral of R_a R_b(r1) r<^k / r>^(k+1) R_c R_d(r2), 1/bohr: a sum over both orders of the electrons."""
    one, two = (a.n + b.n, a.zeta + b.zeta), (c.n + d.n, c.zeta + d.zeta)
    return _norm(a) * _norm(b) * _norm(c) * _norm(d) * (_ordered(k, one, two) + _ordered(k, two, one))


def _ordered(k, inner, outer):
    """The part of a Slater integral with the inner electron at r1 < r2; inner is (p, alpha), outer (q, beta).

    The integral of r1^(p+k) exp(-alpha r1) r2^(q-k-1) exp(-beta r2).
    """
    (p, alpha), (q, beta) = inner, outer
    m = q - k - 1
    return sum(math.factorial(m) / math.factorial(j) * beta ** (j - m - 1) * math.factorial(p + k + j)
               / (alpha + beta) ** (p + k + j + 1) for j in range(m + 1))


def _repulsion(shells):
    """(ab|cd) = sum_k R^k(ab, cd) 4 pi/(2k+1) sum_m <a|Y_km|b> <c|Y_km|d>."""
    places = np.cumsum([0] + [s.size for s in shells])
    parts = [slice(i, j) for i, j in pairwise(places)]
    momenta = sorted({s.l for s in shells})
    gaunt = {(l, j, k): _gaunt(l, j, k) for l, j in product(momenta, repeat=2) for k in range(l + j + 1)}
    g = np.zeros((places[-1],) * 4)
    for (i, a), (j, b), (p, c), (q, d) in product(enumerate(shells), repeat=4):
        for k in range(min(a.l + b.l, c.l + d.l) + 1):
            angles = np.einsum("abm,cdm->abcd", gaunt[a.l, b.l, k], gaunt[c.l, d.l, k])
            g[parts[i], parts[j], parts[p], parts[q]] += 4 * math.pi / (2 * k + 1) * slater_integral(k, a, b, c, d) * angles
    return g


def _gaunt(l, j, k):
    """<Y_l|Y_k|Y_j> of real harmonics."""
    u, w = _directions()
    return torch.einsum("u,ua,ub,um->abm", w, angular(u, l), angular(u, j), angular(u, k)).numpy()


def _directions():
    """Directions and weights that integrate products of three harmonics to l = 2 exactly."""
    z, wz = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(6))
    phi = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    side = (1 - z * z).sqrt()[:, None]
    u = torch.stack([side * phi.cos(), side * phi.sin(), z[:, None].expand(-1, 8)], -1).reshape(-1, 3)
    return u, (wz[:, None].expand(-1, 8) * (2 * math.pi / 8)).reshape(-1)


def term(field: MeanField) -> Term:
    """The term of determinants over functions on one centre.

    When psi is turned by the angle w about an axis, <psi|R(w) psi> = sum_m p_m cos(m w). The Fourier coefficients p_m are the
    weights of the projections m on this axis, and <L^2> is the mean of m^2, summed over three axes.
    """
    S, momenta = _overlaps(field.shells), [s.l for s in field.shells]
    highest = 1 + sum(max(momenta) for C in field.C for _ in range(C.shape[2]))
    angles = torch.arange(2 * highest + 1, dtype=torch.float64) * (2 * math.pi / (2 * highest + 1))
    m = torch.arange(-highest, highest + 1, dtype=torch.float64)
    square = 0.0
    for axis in range(3):
        curve = torch.stack([_expectation(field, S @ _turned(momenta, _rotation(axis, float(w)))) for w in angles])
        weights = (torch.cos(m[:, None] * angles) @ curve) / len(angles)
        square += float((m.square() * weights).sum() / curve[0])
    inverted = torch.diag(torch.cat([torch.full((2 * l + 1,), (-1.0) ** l) for l in momenta]).double())
    return Term(square, 1 if _expectation(field, S @ inverted) > 0 else -1)


def _expectation(field, S):
    """sum_kl det(up_k' S up_l) det(down_k' S down_l): <psi|psi> with the overlaps S of the functions, or of turned ones."""
    up, down = (torch.linalg.det(torch.einsum("kfi,fg,lgj->klij", C, S, C)) for C in field.C)
    return (up * down).sum()


def _overlaps(shells):
    """The overlaps of the functions of all shells, `function function`."""
    rows = [[torch.eye(a.size, dtype=torch.float64) * moment(a, b, 0) if a.l == b.l
             else torch.zeros(a.size, b.size, dtype=torch.float64) for b in shells] for a in shells]
    return torch.cat([torch.cat(row, 1) for row in rows])


def _rotation(axis, w):
    """The rotation by the angle w about an axis of the frame."""
    R = torch.eye(3, dtype=torch.float64)
    i, j = [k for k in range(3) if k != axis]
    R[i, i] = R[j, j] = math.cos(w)
    R[i, j], R[j, i] = -math.sin(w), math.sin(w)
    return R


def _turned(momenta, R):
    """The matrix by which the functions of all shells go over into each other when space is turned."""
    u, _ = _directions()
    blocks = {l: torch.linalg.lstsq(angular(u, l), angular(u @ R, l)).solution for l in set(momenta)}
    return torch.block_diag(*(blocks[l] for l in momenta))
