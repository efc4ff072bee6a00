"""A start from NDDO orbitals: determinants over Slater functions, and the fit of a real-space ansatz to them.

An NDDO method has Slater functions of the valence shells; core orbitals with Slater's exponents are put below them. The
determinants are the heaviest ones of a configuration interaction in the valence space: stretched bonds and near degeneracies
excite pairs of electrons, and from copies of a single determinant gradients do not find them.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.elements import symbol
from nddo_ml.errors import MissingParameter
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.molecules import Molecules
from nddo_ml.units import CODATA_2018
from nddo_ml.wavefunction.determinants.second_quantisation import leading, natural_orbitals, nddo_hamiltonian
from nddo_ml.wavefunction.orbitals.energy_functionals import nddo_functional
from nddo_ml.wavefunction.real_space.ansatz import Wavefunction
from nddo_ml.wavefunction.real_space.features import nucleus_vectors
from nddo_ml.wavefunction.real_space.jets import log_sum, value
from nddo_ml.wavefunction.real_space.sampling import scattered, walk, walkers_at
from nddo_ml.wavefunction.real_space.systems import ElectronSystem

SHELLS = {0: 0, 1: 1, 4: 2, 9: 3}       # orbitals of an atom -> shells s, p, d

# of each spin; the numbers of occupied orbitals differ, that of determinants does not
OccupiedOrbitals: TypeAlias = tuple[Float[Tensor, "determinant function _up"], Float[Tensor, "determinant function _down"]]


@dataclass(frozen=True)
class SlaterShell:
    """The Slater functions r^(n-1) exp(-zeta r) Y_lm of one shell of an atom."""

    atom: int           # index of the nucleus
    n: int              # principal quantum number
    l: int              # angular momentum: 0 (s), 1 (p), 2 (d)
    zeta: float         # exponent, 1/bohr

    @property
    def size(self) -> int:
        """Functions of the shell."""
        return 2 * self.l + 1


@dataclass(frozen=True)
class MeanField:
    """A sum of determinants over Slater functions, an amplitude of the positions of all electrons."""

    nuclei: Float[Tensor, "atom 3"]     # positions, bohr
    shells: tuple[SlaterShell, ...]           # of the functions, in their order
    C: OccupiedOrbitals                 # of spin up and of spin down; the weights of the determinants are in them

    def functions(self, r: Float[Tensor, "... electron 3"]) -> Float[Tensor, "... electron function"]:
        """Values of the normalised Slater functions."""
        d = r[..., None, :] - self.nuclei
        length = d.norm(dim=-1).clamp(min=1e-9)
        values = []
        for s in self.shells:
            R = length[..., s.atom]
            norm = (2 * s.zeta) ** (s.n + 0.5) / math.sqrt(math.factorial(2 * s.n))
            values.append((norm * R ** (s.n - 1) * torch.exp(-s.zeta * R))[..., None]
                          * angular(d[..., s.atom, :] / R[..., None], s.l))
        return torch.cat(values, -1)

    def matrices(self, r: Float[Tensor, "... electron 3"]) -> Float[Tensor, "... determinant electron orbital"]:
        """The values of all orbitals at all electrons; 0 where electron and orbital are of different spin."""
        phi, (up, down) = self.functions(r)[..., None, :, :], (C.shape[-1] for C in self.C)
        of_up = torch.nn.functional.pad(phi[..., :up, :] @ self.C[0], (0, down))
        of_down = torch.nn.functional.pad(phi[..., up:, :] @ self.C[1], (up, 0))
        return torch.cat([of_up, of_down], -2)

    def __call__(self, r: Float[Tensor, "... electron 3"]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """(sign, ln|psi|) of the sum of the determinants."""
        sign, log = log_sum(*torch.linalg.slogdet(self.matrices(r)))
        return sign, value(log)


def angular(u: Float[Tensor, "... 3"], l: int) -> Float[Tensor, "... m"]:
    """Real spherical harmonics of unit vectors, in the order of the engine: s; x, y, z; x2-y2, xz, z2, yz, xy."""
    x, y, z = u.unbind(-1)
    values = {0: (torch.ones_like(x),), 1: tuple(math.sqrt(3) * c for c in (x, y, z)),
              2: (math.sqrt(15) / 2 * (x * x - y * y), math.sqrt(15) * x * z, math.sqrt(5) / 2 * (3 * z * z - 1),
                  math.sqrt(15) * y * z, math.sqrt(15) * x * y)}[l]
    return torch.stack(values, -1) / math.sqrt(4 * math.pi)


def core_shells(atom: int, Z: int) -> list[SlaterShell]:
    """The shells of an atom that NDDO leaves out, with Slater's exponents.       J. C. Slater, Phys. Rev. 36, 57 (1930)"""
    inner = [SlaterShell(atom, 1, 0, Z - 0.3)] if Z > 2 else []
    outer = [SlaterShell(atom, 2, l, (Z - 4.15) / 2) for l in (0, 1)] if Z > 10 else []
    return inner + outer


def valence_shells(hamiltonian: Hamiltonian, molecule: Molecules) -> list[SlaterShell]:
    """The shells of a Hamiltonian's orbitals at a molecule, in their order."""
    e, shells = hamiltonian.method.elements, []
    n, zeta = (e.n_s, e.n_p, e.n_d), [hamiltonian.get_parameter(f"zeta_{shell}") for shell in "spd"]
    for atom, row in enumerate(hamiltonian.method.rows(molecule.numbers).tolist()):
        shells += [SlaterShell(atom, int(n[l][row]), l, float(zeta[l][row])) for l in range(SHELLS[int(e.n_ao[row])])]
    return shells


def mean_field(system: ElectronSystem, method: str = "PM6", determinants: int = 1) -> MeanField:
    """The heaviest determinants of an NDDO method, or of a trained Hamiltonian, for the electrons of a system.

    Where fewer determinants have weight than are asked for, the first one is divided into equal parts.

    Raises:
        MissingParameter: the method lacks an element, or a state that its core and valence orbitals do not hold.
        SCFNotConverged: the method finds no state.
    """
    hamiltonian = Hamiltonian(method)
    molecule = Molecules.single(list(system.numbers), system.nuclei * CODATA_2018.bohr, sum(system.numbers) - system.electrons,
                                system.up - system.down + 1)
    shells = valence_shells(hamiltonian, molecule)
    core = [s for a, z in enumerate(system.numbers) for s in core_shells(a, z)]
    inner, room = (sum(s.size for s in x) for x in (core, shells))
    if system.down < inner or system.up > inner + room:
        raise MissingParameter(f"{method} fills {inner} core orbitals twice and has {room} above them, which do not hold "
                               f"{system.up} electrons up and {system.down} down: start without its orbitals.")
    with torch.no_grad():
        D = hamiltonian(molecule).density()[None]
    functional = nddo_functional(hamiltonian, molecule)
    C = natural_orbitals(functional, D)
    valence = nddo_hamiltonian(functional, canonical=False).rotated(C)
    if (valence.up + inner, valence.down + inner) != (system.up, system.down):
        raise MissingParameter(f"{method} treats other electrons of {', '.join(map(symbol, system.numbers))} than those "
                               "outside the core: start without its orbitals.")
    weights, occupations = leading(valence, determinants)
    orbitals = occupied_orbitals(C, weights, occupations, determinants, inner)
    return MeanField(system.nuclei, (*core, *shells), orbitals)


def occupied_orbitals(C: Float[Tensor, "orbital orbital"], weights: Float[Tensor, "chosen"],
                      occupations: Bool[Tensor, "chosen spin_orbital"], count: int, inner: int) -> OccupiedOrbitals:
    """The orbitals of each spin that `count` determinants occupy: `inner` core orbitals, then those of C.

    The weight of a determinant is shared by its orbitals. Where fewer are chosen, the first is divided into equal parts.
    """
    copies = 1 + count - len(weights)
    weights = torch.cat([weights[:1].expand(copies) / copies, weights[1:]])
    occupations = torch.cat([occupations[:1].expand(copies, -1), occupations[1:]])
    up, down = (torch.stack([torch.block_diag(torch.eye(inner, dtype=C.dtype), C[:, row]) for row in rows])
                for rows in occupations.split(len(C), 1))
    share = (weights / weights[0]).abs() ** (1 / (up.shape[2] + down.shape[2]))
    up, down = up * share[:, None, None], down * share[:, None, None]
    up[:, :, 0] *= (weights * weights[0]).sign()[:, None]
    return up, down


@dataclass(frozen=True)
class FieldFit:
    """How an ansatz is fitted to a mean field."""

    iterations: int = 300       # steps of Adam
    walkers: int = 256          # positions of all electrons in each step
    rate: float = 5e-3          # learning rate of the first step; it falls to 0 linearly


def fit_to_field(psi: Wavefunction, system: ElectronSystem, field: MeanField, settings: FieldFit = FieldFit(),
                 seed: int = 0) -> float:
    """Fit the orbitals of psi in place to those of a mean field, and return the share of the square that is left.

    Least squares of the matrices of psi, times what its Jastrow factor has at the nuclei, against those of the mean field, at
    electrons drawn from the density of the mean field.
    """
    generator = torch.Generator().manual_seed(seed)
    walkers = walkers_at(field, scattered(system, settings.walkers, generator), 0.5 / max(system.numbers) ** 0.5)
    walkers = walk(field, walkers, 200, generator)
    optimiser = torch.optim.Adam(psi.parameters(), lr=settings.rate)
    left = math.nan
    for k in range(settings.iterations):
        walkers = walk(field, walkers, 5, generator)
        r = walkers.r.to(psi.nuclei)
        target = field.matrices(walkers.r).to(r)
        cusp = value(psi.jastrow.nuclear(nucleus_vectors(r, psi.nuclei, False))).exp()[:, None]
        loss = (psi.matrices(r) * cusp - target).square().mean() / target.square().mean()
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * (1 - k / settings.iterations)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        left = float(loss.detach())
    optimiser.zero_grad(set_to_none=True)
    return left
