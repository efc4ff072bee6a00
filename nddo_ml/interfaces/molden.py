"""Molden files: geometry, orbitals, their energies and occupations, for viewers such as Molden, Jmol, IQmol, Avogadro or
Multiwfn.

The basis of NDDO is one Slater function per shell, r^(n-1) exp(-zeta r). Most viewers read Gaussians only, so by default each
Slater function is written as a contraction of Gaussians that reproduces it to an overlap of 0.9999 or better; the format's own
[STO] section is the exact alternative. NDDO takes its basis as orthonormal: the coefficients are written as they are and refer
to orthogonalised atomic orbitals.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from math import factorial, gamma, pi, sqrt
from pathlib import Path

import numpy as np
from jaxtyping import Float

from nddo_ml.elements import symbol
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.interfaces.results import array
from nddo_ml.units import CODATA_2018

Shell = tuple[int, int, float]     # principal quantum number, l, Slater exponent (1/bohr)

SHELLS = "spd"
GAUSSIANS = 10
# exponents and contraction coefficients of Gaussians, and their overlap with the Slater function they stand for
Expansion = tuple[Float[np.ndarray, "gaussian"], Float[np.ndarray, "gaussian"], float]
# places of the orbitals of a shell (package order s, x, y, z, x2-y2, xz, z2, yz, xy) in the order of the format: d is z2, xz,
# yz, x2-y2, xy
ORDER = {0: (0,), 1: (0, 1, 2), 2: (2, 1, 3, 0, 4)}


def write_molden(path: str | Path, model: Hamiltonian, result: Result, k: int = 0, slater: bool = False) -> Path:
    """The file written, with the orbitals of molecule k of a result.

    model: the Hamiltonian that made it (its exponents). slater: exact [STO] functions instead of Gaussians, for the few
    programs that read them.
    """
    path = Path(path)
    path.write_text("\n".join(molden(model, result, k, slater)) + "\n", encoding="utf-8")
    return path


def molden(model: Hamiltonian, result: Result, k: int = 0, slater: bool = False) -> Iterator[str]:
    """The lines of a Molden file; arguments as for `write_molden`."""
    own = result.molecules.molecule == k
    numbers = result.molecules.numbers[own].tolist()
    x = array(result.molecules.positions[own])
    shells = [atom_shells(model, z) for z in numbers]
    yield from ("[Molden Format]", "[Title]", f" {result.method} by nddo_ml; coefficients over orthogonalised atomic orbitals")
    unit = 1.0 if slater else CODATA_2018.bohr
    yield "[Atoms] Angs" if slater else "[Atoms] AU"
    for a, (z, r) in enumerate(zip(numbers, x / unit, strict=True), 1):
        yield f"{symbol(z).split(':')[0]:<3}{a:6d}{z % 1000 if z < 2000 else 0:5d} {r[0]:18.10f} {r[1]:18.10f} {r[2]:18.10f}"
    yield from _slater_section(shells) if slater else _gaussian_section(shells)
    yield from _orbitals(result, k, shells, slater)


def atom_shells(model: Hamiltonian, number: int) -> list[Shell]:
    """Shells of a species: principal quantum number, l and Slater exponent (1/bohr)."""
    row = int(model.method.rows(model.method.elements.number.new_tensor([number]))[0])
    e = model.method.elements
    count = {0: 0, 1: 1, 4: 2, 9: 3}[int(e.n_ao[row])]
    n = (e.n_s, e.n_p, e.n_d)
    zeta = [model.get_parameter(name) for name in ("zeta_s", "zeta_p", "zeta_d")]
    return [(int(n[l][row]), l, float(zeta[l][row])) for l in range(count)]


@cache
def gaussian_expansion(n: int, l: int) -> Expansion:
    """Exponents and contraction coefficients (over normalised Gaussians) of the normalised Slater function r^(n-1) exp(-r), and
    their overlap.

    Least squares of the radial functions, int (R_Slater - sum c_k R_k)^2 r^2 dr, exponents in geometric progression; for
    another zeta multiply the exponents by zeta^2.
    """
    r, weight = _radial_grid(n)
    slater = 2.0 ** (n + 0.5) / sqrt(factorial(2 * n)) * r ** (n - 1) * np.exp(-r)
    best: Expansion | None = None
    for first in np.geomspace(0.01, 0.2, 14) / n:
        for ratio in (2.2, 2.5, 2.8, 3.2):
            exponents = first * ratio ** np.arange(GAUSSIANS)
            norm = np.sqrt(2 * (2 * exponents) ** (l + 1.5) / gamma(l + 1.5))
            basis = norm * r[:, None] ** l * np.exp(-exponents * r[:, None] ** 2)
            c = np.linalg.lstsq(basis * weight[:, None], slater * weight, rcond=1e-10)[0]
            fitted = basis @ c * weight
            overlap = float(fitted @ (slater * weight) / np.linalg.norm(fitted))
            if best is None or overlap > best[2]:
                best = exponents, c / np.linalg.norm(fitted), overlap
    assert best is not None
    return best


def _radial_grid(n):
    """Radii (bohr, zeta = 1) and the square roots of their weights r^2 dr."""
    t, w = np.polynomial.legendre.leggauss(400)
    farthest = 12.0 + 6.0 * n
    u = (t + 1) / 2
    r = farthest * u**3
    return r, np.sqrt(w / 2 * 3 * farthest * u**2) * r


def _gaussian_section(shells):
    yield "[GTO]"
    for a, of_atom in enumerate(shells, 1):
        yield f"{a:5d} 0"
        for n, l, zeta in of_atom:
            exponents, c, _ = gaussian_expansion(n, l)
            yield f" {SHELLS[l]} {len(c):4d} 1.00"
            yield from (f" {e * zeta**2:20.10E} {x:20.10E}" for e, x in zip(exponents, c, strict=True))
        yield ""
    yield "[5D]"


def _slater_section(shells):
    """One line per function: atom, powers of x, y, z and r, exponent and norm, in powers of angstrom as the format wants; d as
    six cartesian functions.
    """
    yield "[STO]"
    for a, of_atom in enumerate(shells, 1):
        for n, l, zeta in of_atom:
            alpha = zeta / CODATA_2018.bohr
            radial = (2 * alpha) ** (n + 0.5) / sqrt(factorial(2 * n))
            for powers, norm in CARTESIAN[l]:
                kx, ky, kz = powers
                yield f"{a:5d} {kx:3d} {ky:3d} {kz:3d} {n - 1 - l:3d} {alpha:16.10f} {radial * norm:18.10E}"


# angular parts over monomials: powers and norm; d in the order xx, yy, zz, xz, yz, xy
CARTESIAN = {
    0: (((0, 0, 0), sqrt(1 / (4 * pi))),),
    1: tuple(((int(k == 0), int(k == 1), int(k == 2)), sqrt(3 / (4 * pi))) for k in range(3)),
    2: tuple((p, sqrt(15 / (4 * pi))) for p in ((2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 0, 1), (0, 1, 1), (1, 1, 0))),
}
# d orbitals of the package (x2-y2, xz, z2, yz, xy) over those monomials
D_MONOMIALS = np.array([[0.5, 0, -0.5 / sqrt(3), 0, 0], [-0.5, 0, -0.5 / sqrt(3), 0, 0], [0, 0, 1 / sqrt(3), 0, 0],
                        [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]])


def file_order(shells: Sequence[Sequence[Shell]], slater: bool) -> Float[np.ndarray, "function orbital"]:
    """Matrix that carries coefficients of the package's orbitals over to the functions of the file; shells: of each atom."""
    blocks = []
    for of_atom in shells:
        for _, l, _ in of_atom:
            blocks.append(D_MONOMIALS if slater and l == 2 else np.eye(2 * l + 1)[list(ORDER[l])])
    full = np.zeros((sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks)))
    row = column = 0
    for b in blocks:
        full[row:row + b.shape[0], column:column + b.shape[1]] = b
        row, column = row + b.shape[0], column + b.shape[1]
    return full


def _orbitals(result, k, shells, slater):
    yield "[MO]"
    order = file_order(shells, slater)
    wanted = result.orbital_energies(k), result.coefficients(k), result.occupations(k)
    energies, C, f = (array(t) for t in wanted)
    for spin, name in zip(range(len(energies)), ("Alpha", "Beta"), strict=False):
        for level, (eps, occupied) in enumerate(zip(energies[spin], f[spin], strict=True)):
            yield from (f" Sym= {level + 1}a", f" Ene= {eps / CODATA_2018.hartree:.10f}", f" Spin= {name}",
                        f" Occup= {occupied:.6f}")
            yield from (f"{i:6d} {c:18.12f}" for i, c in enumerate(order @ C[spin, :, level], 1))
