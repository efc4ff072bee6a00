"""Self-consistent densities: SCF of a functional in PySCF, and what of it is enough to know the energy of any other functional.

At a self-consistent density E is stationary, so dE/dtheta by a parameter of the functional is that of E_xc at constant density;
the density itself, on the grid and projected, is all a training needs.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from nddo_ml.common.extras import needed
from nddo_ml.elements import number
from nddo_ml.errors import UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.derivatives import density_of
from nddo_ml.functional.forms.projection import Projected, projected
from nddo_ml.functional.pyscf.attach import attach
from nddo_ml.functional.pyscf.ladder import ladder
from nddo_ml.functional.pyscf.nonlocal_part import elements, overlaps, spin_densities
from nddo_ml.functional.training.thermochemistry import System

PAIRS = ((0, 0), (0, 1), (1, 1))      # of spins, in sigma
CYCLES = 60              # of DIIS alone
NEGLIGIBLE = 1e-10      # electrons at a point: below it the point does not matter


@dataclass(frozen=True)
class Level:
    """basis; grid: PySCF's level; fitted: density fitting; tolerance: of the energy, hartree. step_grid: of the densities that
    are kept for the steps of a training (the rest of the energy makes up for the difference); None: the grid of the SCF."""

    basis: str = "def2-tzvpp"
    grid: int = 2
    fitted: bool = True
    tolerance: float = 1e-8
    step_grid: int | None = None

    @property
    def name(self) -> str:
        """For metadata."""
        return f"{self.basis}{' df' if self.fitted else ''} grid{self.grid}"


@dataclass(frozen=True)
class Snapshot:
    """A density: variables of both spins (7, grid) and weights, projections D and atomic numbers where asked for, energy of
    exact exchange; rest: energy without the part of the functional that torch evaluates, hartree. energy: of the SCF; steps;
    rung: what it took; density_matrices: where a later SCF may start.
    """

    key: str
    rows: torch.Tensor
    weights: torch.Tensor
    D: torch.Tensor | None
    numbers: torch.Tensor
    exchange: float
    rest: float
    energy: float
    steps: int
    rung: str
    density_matrices: torch.Tensor


def energy(functional: Functional, snapshot: Snapshot) -> torch.Tensor:
    """E of a functional at a density that another one (or its older self) made, hartree; it carries gradients of parameters."""
    e = functional.energy_density(density_of(functional, snapshot.rows[variables(functional)], True))
    E = snapshot.rest + (snapshot.weights * e).sum() + fraction(functional) * snapshot.exchange
    return E if functional.nonlocal_part is None else E + functional.nonlocal_part(snapshot.D, snapshot.numbers)


def variables(functional: Functional) -> list[int]:
    """Which rows of a snapshot a functional depends on."""
    return [0, 1] + [2, 3, 4] * functional.gradient + [5, 6] * functional.kinetic


def fraction(functional: Functional):
    """Of exact exchange: a tensor where it is learned."""
    return getattr(functional, "mixing", functional.exact_exchange)


def mean_field(functional: Functional | str, system: System, level: Level):
    """PySCF's mean field of a system: of a torch functional, or of one of libxc by its name. UnknownOption: a basis or grid
    there is not, or a system PySCF cannot make of it."""
    gto = needed("pyscf.gto", "train", "Training and evaluation of a functional")
    from pyscf import dft, lib

    if not 0 <= level.grid < len(dft.gen_grid.RAD_GRIDS):
        raise UnknownOption(f"grid = {level.grid}: PySCF's levels go from 0 to {len(dft.gen_grid.RAD_GRIDS) - 1}.")
    lib.num_threads(1)
    try:
        mol = gto.M(atom=list(zip(system.symbols, system.positions, strict=True)), basis=level.basis, charge=system.charge,
                    spin=system.unpaired, symmetry=_one_electron(system), verbose=0)
    except (RuntimeError, KeyError, ValueError) as error:
        raise UnknownOption(f"PySCF makes no molecule of {system.key} ({''.join(system.symbols)}, charge {system.charge}, "
                            f"{system.unpaired} unpaired electrons) in the basis {level.basis!r}: "
                            f"{' '.join(str(error).split())}.") from None
    mf = (dft.UKS if system.unpaired or any(system.missing) else dft.RKS)(mol)
    if isinstance(functional, str):
        mf.xc = functional
    else:
        mf = attach(mf, functional)
    mf = mf.density_fit() if level.fitted else mf
    mf.grids.level, mf.conv_tol = level.grid, level.tolerance
    mf.small_rho_cutoff, mf.chkfile = 0, None        # no file at each iteration
    if any(system.missing):
        mf.get_occ = _shortened(mf.get_occ, system.missing)
    return mf


def _shortened(occupations, missing):
    """PySCF's choice of occupied orbitals, less parts of an electron in the highest of either spin."""
    def chosen(mo_energy=None, mo_coeff=None):
        found = occupations(mo_energy, mo_coeff)
        for spin, part in enumerate(missing):
            filled = np.flatnonzero(found[spin])
            if part:
                found[spin, filled[np.argmax(mo_energy[spin][filled])]] = 1 - part
        return found

    return chosen


def in_libxc(name: str) -> bool:
    """Whether libxc knows a functional of that name."""
    libxc = needed("pyscf.dft.libxc", "train", "Evaluation of a functional")
    try:
        libxc.parse_xc(name)
    except (KeyError, ValueError):
        return False
    return True


def _one_electron(system: System) -> bool:
    """Whether a molecule holds one electron: only symmetry keeps its orbital spread over equal atoms that are far apart, where
    gerade and ungerade differ by less than rounding and the iterations would jump from atom to atom."""
    return len(system.symbols) > 1 and sum(map(number, system.symbols)) - system.charge == 1


def solve(mf, start: np.ndarray | None = None):
    """(mean field, rung) at self-consistency. SCFNotConverged."""
    rung = ladder(mf, start, CYCLES)
    return mf, rung


def snapshot(functional: Functional, system: System, level: Level, projector: Projected | None = None,
             start: torch.Tensor | None = None) -> Snapshot:
    """The self-consistent density of a system. projector: whose projections are kept. SCFNotConverged."""
    return of_mean_field(functional, system, level, *converged(functional, system, level, start), projector)


def converged(functional: Functional, system: System, level: Level, start: torch.Tensor | None = None):
    """(mean field, rung) of a system. SCFNotConverged."""
    return solve(mean_field(functional, system, level), None if start is None else start.numpy())


def of_mean_field(functional: Functional, system: System, level: Level, mf, rung: str,
                  projector: Projected | None = None) -> Snapshot:
    """What is kept of a converged mean field."""
    P = spin_densities(mf.mo_coeff, mf.mo_occ)
    rows, weights = grid_density(mf, P, grids_of(mf, level))
    projector = functional.nonlocal_part if projector is None else projector
    numbers = elements(mf.mol)
    D = None if projector is None else projected(overlaps(projector, mf.mol)[0], torch.from_numpy(P))
    made = Snapshot(system.key, rows, weights, D, numbers, exchange_energy(mf, P, functional), 0.0, float(mf.e_tot),
                    int(mf.cycles or 0), rung, torch.from_numpy(np.asarray(mf.make_rdm1())))
    with torch.no_grad():
        rest = made.energy - float(energy(functional, made))
    return replace(made, rest=rest)


def grids_of(mf, level: Level):
    """The grid whose densities are kept."""
    if level.step_grid in (None, level.grid):
        return mf.grids
    from pyscf import dft

    grids = dft.Grids(mf.mol)
    grids.level = level.step_grid
    return grids.build()


def exchange_energy(mf, P: np.ndarray, functional: Functional) -> float:
    """-1/2 sum_s tr P_s K_s, hartree; 0 where the functional has no fraction of it."""
    if functional.exact_exchange == 0 and not learns_fraction(functional):
        return 0.0
    return -0.5 * float(np.einsum("sij,sji->", P, exchange_matrices(mf, P)))


def learns_fraction(functional: Functional) -> bool:
    """Whether the fraction of exact exchange is a parameter."""
    return isinstance(fraction(functional), torch.nn.Parameter)


def exchange_matrices(mf, P: np.ndarray) -> np.ndarray:
    """K of either spin, (2, orbital, orbital), hartree."""
    return np.asarray(mf.get_jk(mf.mol, P, hermi=1, with_j=False)[1])


def grid_density(mf, P: np.ndarray, grids=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Variables n, sigma, tau of both spins (7, grid) and weights, without negligible points; on the grid of the mean field,
    or another one."""
    rows, weights = on_grid(mf, P, mf.grids if grids is None else grids)
    kept = matters(rows, weights)
    rows, weights = rows[:, kept], weights[kept]
    rows[:2], rows[5:] = rows[:2].clip(0), rows[5:].clip(0)
    return torch.from_numpy(rows), torch.from_numpy(weights)


def on_grid(mf, P: np.ndarray, grids) -> tuple[np.ndarray, np.ndarray]:
    """n, sigma, tau (7, grid) of any symmetric matrices (2, orbital, orbital), and weights, of all points."""
    ni, mol, parts = mf._numint, mf.mol, []
    for ao, mask, weight, _ in ni.block_loop(mol, grids, mol.nao, 1, max_memory=500):
        rho = np.stack([ni.eval_rho(mol, ao, p, mask, "MGGA", hermi=1, with_lapl=False) for p in P])
        sigma = [np.einsum("xg,xg->g", rho[i, 1:4], rho[j, 1:4]) for i, j in PAIRS]
        parts.append((np.stack([rho[0, 0], rho[1, 0], *sigma, rho[0, -1], rho[1, -1]]), weight))
    return np.concatenate([r for r, _ in parts], 1), np.concatenate([w for _, w in parts])


def matters(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Which points hold electrons; small grids have negative weights."""
    return np.abs(weights) * (rows[0] + rows[1]) > NEGLIGIBLE
