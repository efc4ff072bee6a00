"""A start from the project's own orbitals: the determinants of a real-space ansatz fitted to those of an NDDO calculation.

NDDO knows Slater functions of the valence shells; core orbitals with Slater's exponents are put below them. The determinants
are the heaviest of a configuration interaction in the valence space: from copies of a single one, gradients do not find the
pairs of electrons that stretched bonds and near degeneracies excite. The ansatz divides out what its Jastrow factor has at
the nuclei.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.elements import symbol
from nddo_ml.errors import MissingParameter
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.molecules import Molecules
from nddo_ml.units import CODATA_2018
from nddo_ml.wavefunction.determinants.second_quantisation import leading, natural_orbitals, nddo_hamiltonian
from nddo_ml.wavefunction.orbitals.energy_functionals import nddo_functional
from nddo_ml.wavefunction.real_space.features import nucleus_vectors
from nddo_ml.wavefunction.real_space.jets import log_sum
from nddo_ml.wavefunction.real_space.sampling import scattered, started, walk
from nddo_ml.wavefunction.real_space.systems import System

SHELLS = {0: 0, 1: 1, 4: 2, 9: 3}       # orbitals of an atom -> shells s, p, d


@dataclass(frozen=True)
class Shell:
    """Slater functions r^(n-1) exp(-zeta r) Y_l on an atom."""

    atom: int
    n: int
    l: int
    zeta: float


@dataclass(frozen=True)
class MeanField:
    """Determinants over Slater functions: C `determinant function occupied` of each spin, spin-up first, weights included."""

    nuclei: Float[Tensor, "atom 3"]
    shells: tuple[Shell, ...]
    C: tuple[Float[Tensor, "determinant function occupied"], Float[Tensor, "determinant function occupied"]]

    def functions(self, r: Float[Tensor, "... electron 3"]) -> Float[Tensor, "... electron function"]:
        """Values of the normalised Slater functions."""
        d = r[..., None, :] - self.nuclei
        length = d.norm(dim=-1).clamp(min=1e-9)
        found = []
        for s in self.shells:
            R = length[..., s.atom]
            norm = (2 * s.zeta) ** (s.n + 0.5) / math.sqrt(math.factorial(2 * s.n))
            found.append((norm * R ** (s.n - 1) * torch.exp(-s.zeta * R))[..., None]
                         * angular(d[..., s.atom, :] / R[..., None], s.l))
        return torch.cat(found, -1)

    def matrices(self, r: Float[Tensor, "... electron 3"]) -> Float[Tensor, "... determinant electron orbital"]:
        """The orbitals at all electrons; 0 where electron and orbital are of different spin."""
        phi, (up, down) = self.functions(r)[..., None, :, :], (C.shape[-1] for C in self.C)
        top = torch.nn.functional.pad(phi[..., :up, :] @ self.C[0], (0, down))
        return torch.cat([top, torch.nn.functional.pad(phi[..., up:, :] @ self.C[1], (up, 0))], -2)

    def __call__(self, r: Float[Tensor, "... electron 3"]) -> tuple[Tensor, Tensor]:
        """(sign, ln|psi|) of the sum of the determinants."""
        return log_sum(*torch.linalg.slogdet(self.matrices(r)))


def angular(u: Float[Tensor, "... 3"], l: int) -> Float[Tensor, "... m"]:
    """Real spherical harmonics of unit vectors, in the order of the engine: s; x, y, z; x2-y2, xz, z2, yz, xy."""
    x, y, z = u.unbind(-1)
    values = {0: (torch.ones_like(x),), 1: tuple(math.sqrt(3) * c for c in (x, y, z)),
              2: (math.sqrt(15) / 2 * (x * x - y * y), math.sqrt(15) * x * z, math.sqrt(5) / 2 * (3 * z * z - 1),
                  math.sqrt(15) * y * z, math.sqrt(15) * x * y)}[l]
    return torch.stack(values, -1) / math.sqrt(4 * math.pi)


def core_shells(atom: int, Z: int) -> list[Shell]:
    """Shells below those of NDDO, with Slater's exponents.   J. C. Slater, Phys. Rev. 36, 57 (1930)"""
    inner = [Shell(atom, 1, 0, Z - 0.3)] if Z > 2 else []
    outer = [Shell(atom, 2, l, (Z - 4.15) / 2) for l in (0, 1)] if Z > 10 else []
    return inner + outer


def valence_shells(hamiltonian: Hamiltonian, molecule: Molecules) -> list[Shell]:
    """The Slater functions of a Hamiltonian, in the order of its orbitals."""
    e, found = hamiltonian.method.elements, []
    n, zeta = (e.n_s, e.n_p, e.n_d), (hamiltonian.zeta_s, hamiltonian.zeta_p, hamiltonian.zeta_d)
    for atom, row in enumerate(hamiltonian.method.rows(molecule.numbers).tolist()):
        found += [Shell(atom, int(n[l][row]), l, float(zeta[l][row])) for l in range(SHELLS[int(e.n_ao[row])])]
    return found


def mean_field(system: System, method: str = "PM6", determinants: int = 1) -> MeanField:
    """The heaviest determinants of an NDDO method, or of a trained Hamiltonian, for the electrons of a System; where fewer
    have weight, the first is divided into equal parts. MissingParameter: an element it lacks, or a state that its core and
    valence orbitals do not hold; SCFNotConverged.
    """
    hamiltonian = Hamiltonian(method)
    molecule = Molecules.single(list(system.numbers), system.nuclei * CODATA_2018.bohr, sum(system.numbers) - system.electrons,
                                system.up - system.down + 1)
    shells = valence_shells(hamiltonian, molecule)
    core = [s for a, z in enumerate(system.numbers) for s in core_shells(a, z)]
    inner, room = (sum(2 * s.l + 1 for s in x) for x in (core, shells))
    if system.down < inner or system.up > inner + room:
        raise MissingParameter(f"{method} fills {inner} core orbitals twice and has {room} above them, which do not hold "
                               f"{system.up} electrons up and {system.down} down: start without its orbitals.")
    with torch.no_grad():
        D = hamiltonian(molecule).states[0].solution.D
    functional = nddo_functional(hamiltonian, molecule)
    C = natural_orbitals(functional, D)
    valence = nddo_hamiltonian(functional, canonical=False).rotated(C)
    if (valence.up + inner, valence.down + inner) != (system.up, system.down):
        raise MissingParameter(f"{method} treats other electrons of {', '.join(map(symbol, system.numbers))} than those "
                               "outside the core: start without its orbitals.")
    orbitals = chosen(C, *leading(valence, determinants), determinants, inner)
    return MeanField(system.nuclei, (*core, *shells), orbitals)


def chosen(C, weights, occupations, count, inner):
    """Orbitals of each spin of chosen determinants, `inner` core orbitals before those of C; the weight of a determinant is
    shared by its orbitals."""
    copies = 1 + count - len(weights)
    weights = torch.cat([weights[:1].expand(copies) / copies, weights[1:]])
    occupations = torch.cat([occupations[:1].expand(copies, -1), occupations[1:]])
    up, down = (torch.stack([torch.block_diag(torch.eye(inner, dtype=C.dtype), C[:, row]) for row in rows])
                for rows in occupations.split(len(C), 1))
    share = (weights / weights[0]).abs() ** (1 / (up.shape[2] + down.shape[2]))
    up, down = up * share[:, None, None], down * share[:, None, None]
    up[:, :, 0] *= (weights * weights[0]).sign()[:, None]
    return up, down


def fitted(psi, system: System, field: MeanField, iterations: int = 300, walkers: int = 256, rate: float = 5e-3,
           seed: int = 0) -> float:
    """Fit psi's orbitals in place: least squares of its matrices times exp(J at the nuclei) against the mean field's, at
    electrons drawn from the mean field's density. Returns the share of the square that is left.
    """
    generator = torch.Generator().manual_seed(seed)
    sites = started(field, scattered(system, walkers, generator), 0.5 / max(system.numbers) ** 0.5)
    sites = walk(field, sites, 200, generator)
    optimiser = torch.optim.Adam(psi.parameters(), lr=rate)
    for k in range(iterations):
        sites = walk(field, sites, 5, generator)
        r = sites.r.to(psi.nuclei)
        target = field.matrices(sites.r).to(r)
        cusp = psi.jastrow.nuclear(nucleus_vectors(r, psi.nuclei, False)).exp()[:, None]
        left = (psi.matrices(r) * cusp - target).square().mean() / target.square().mean()
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - k / iterations)
        optimiser.zero_grad(set_to_none=True)
        left.backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return float(left.detach())
