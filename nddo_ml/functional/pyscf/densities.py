"""Self-consistent densities: SCF of a functional in PySCF, and what of it is enough to know the energy of any other functional.

At a self-consistent density E is stationary, so dE/dtheta by a parameter of the functional is that of E_xc at constant density;
the density itself, on the grid and projected, is all a training needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.elements import number
from nddo_ml.errors import UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.derivatives import density_of
from nddo_ml.functional.projectors import NonlocalPart, projected
from nddo_ml.functional.pyscf.attach import attach
from nddo_ml.functional.pyscf.host import PySCFGrids, PySCFMeanField, pyscf
from nddo_ml.functional.pyscf.ladder import Matrices, ladder
from nddo_ml.functional.pyscf.nonlocal_part import SpinMatrices, atomic_numbers, overlaps, spin_densities
from nddo_ml.functional.reactions import ChemicalSystem

PAIRS = ((0, 0), (0, 1), (1, 1))      # of spins, in sigma
CYCLES = 60              # of DIIS alone
NEGLIGIBLE = 1e-10      # electrons at a point: below it the point does not matter


@dataclass(frozen=True)
class KohnShamLevel:
    """How a mean field is calculated, but for its functional."""

    basis: str = "def2-tzvpp"
    grid: int = 2                   # PySCF's level, from 0 (coarse) to 9
    fitted: bool = True             # whether with density fitting
    tolerance: float = 1e-8         # of the energy, hartree
    step_grid: int | None = None    # level of the grid whose densities are kept for the steps of a training; the rest of the
                                    # energy makes up for the difference; None: the grid of the SCF

    @property
    def name(self) -> str:
        """What metadata say of it."""
        return f"{self.basis}{' df' if self.fitted else ''} grid{self.grid}"


@dataclass(frozen=True)
class SolvedSystem:
    """A system at self-consistency."""

    system: ChemicalSystem
    level: KohnShamLevel
    mean_field: PySCFMeanField
    rung: str                       # of the ladder, that did it


@dataclass(frozen=True)
class Snapshot:
    """A self-consistent density, and the energy of all that a functional does not change. Files of a training hold the fields
    under these names."""

    key: str                                                            # of the system
    rows: Float[Tensor, "7 grid"]                                       # variables of both spins on the grid, derivatives.py
    weights: Float[Tensor, "grid"]                                      # of the points, bohr^3
    D: Float[Tensor, "2 atom projector projector"] | None               # projections, where they were asked for
    numbers: Int[Tensor, "atom"]                                        # atomic numbers
    exchange: float                                                     # energy of exact exchange, hartree
    rest: float                                                         # energy without what torch evaluates, hartree
    energy: float                                                       # of the SCF, hartree
    steps: int                                                          # of the SCF
    rung: str                                                           # of the ladder, that solved it
    density_matrices: Float[Tensor, "*spin orbital orbital"]            # where a later SCF may start


def energy(functional: Functional, snapshot: Snapshot) -> Float[Tensor, ""]:
    """E of a functional at a density that another one (or its older self) made, hartree; it carries gradients of parameters."""
    e = functional.energy_density(density_of(functional, snapshot.rows[variables(functional)], True))
    E = snapshot.rest + (snapshot.weights * e).sum() + fraction(functional) * snapshot.exchange
    if functional.nonlocal_part is None:
        return E
    return E + functional.nonlocal_part(projections(snapshot), snapshot.numbers)


def projections(snapshot: Snapshot) -> Float[Tensor, "2 atom projector projector"]:
    """Those of a snapshot.

    Raises:
        UnknownOption: it was made without them.
    """
    if snapshot.D is None:
        raise UnknownOption(f"The density of {snapshot.key} was kept without projections: the functional that made it has no "
                            "part of the density matrix; make it with that part's projectors.")
    return snapshot.D


def variables(functional: Functional) -> list[int]:
    """Which rows of a snapshot a functional depends on."""
    return [0, 1] + [2, 3, 4] * functional.gradient + [5, 6] * functional.kinetic


def fraction(functional: Functional) -> Float[Tensor, ""] | float:
    """The fraction of exact exchange; of learned functionals a tensor, which carries gradients where it is a parameter."""
    return getattr(functional, "mixing", functional.exact_exchange)


def mean_field(functional: Functional | str, system: ChemicalSystem, level: KohnShamLevel) -> PySCFMeanField:
    """PySCF's mean field of a system: of a torch functional, or of one of libxc by its name; not solved.

    Raises:
        UnknownOption: PySCF has no such basis or grid, or can make no such system.
        MissingExtra: PySCF is not installed.
    """
    gto = pyscf("gto", "Training and evaluation of a functional")
    dft, lib = pyscf("dft"), pyscf("lib")
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


def _shortened(occupations: Callable[[Any, Any], Any], missing: Sequence[float]) -> Callable[..., Any]:
    """PySCF's choice of occupied orbitals, less parts of an electron in the highest of either spin."""
    def chosen(mo_energy: Any = None, mo_coeff: Any = None) -> Any:
        occupied = occupations(mo_energy, mo_coeff)
        for spin, part in enumerate(missing):
            filled = np.flatnonzero(occupied[spin])
            if part:
                occupied[spin, filled[np.argmax(mo_energy[spin][filled])]] = 1 - part
        return occupied

    return chosen


def in_libxc(name: str) -> bool:
    """Whether libxc knows a functional of that name.

    Raises:
        MissingExtra: PySCF is not installed.
    """
    libxc = pyscf("dft.libxc", "Evaluation of a functional")
    try:
        libxc.parse_xc(name)
    except (KeyError, ValueError):
        return False
    return True


def _one_electron(system: ChemicalSystem) -> bool:
    """Whether a molecule holds one electron: only symmetry keeps its orbital spread over equal atoms that are far apart, where
    gerade and ungerade differ by less than rounding and the iterations would jump from atom to atom."""
    return len(system.symbols) > 1 and sum(map(number, system.symbols)) - system.charge == 1


def solve(mf: PySCFMeanField, start: Matrices | None = None) -> str:
    """Solve a mean field in place by the ladder; the rung that did it. start: density matrices to begin with.

    Raises:
        SCFNotConverged: none did.
    """
    return ladder(mf, start, CYCLES)


def solved_system(functional: Functional, system: ChemicalSystem, level: KohnShamLevel,
                  start: Float[Tensor, "*spin orbital orbital"] | None = None) -> SolvedSystem:
    """A system at self-consistency; start: density matrices to begin with.

    Raises:
        SCFNotConverged: no rung of the ladder solved it.
    """
    mf = mean_field(functional, system, level)
    return SolvedSystem(system, level, mf, solve(mf, None if start is None else start.numpy()))


def snapshot(functional: Functional, solved: SolvedSystem, part: NonlocalPart | None = None) -> Snapshot:
    """What is kept of a solved system; part: whose projections are kept, by default those of the functional's own part."""
    mf = solved.mean_field
    P = spin_densities(mf.mo_coeff, mf.mo_occ)
    rows, weights = grid_density(mf, P, grids_of(mf, solved.level))
    part = functional.nonlocal_part if part is None else part
    D = None if part is None else projected(overlaps(part, mf.mol)[0], torch.from_numpy(P))
    made = Snapshot(solved.system.key, rows, weights, D, atomic_numbers(mf.mol), exchange_energy(mf, P, functional), 0.0,
                    float(mf.e_tot), int(mf.cycles or 0), solved.rung, torch.from_numpy(np.asarray(mf.make_rdm1())))
    with torch.no_grad():
        rest = made.energy - float(energy(functional, made))
    return replace(made, rest=rest)


def grids_of(mf: PySCFMeanField, level: KohnShamLevel) -> PySCFGrids:
    """The grid whose densities are kept."""
    if level.step_grid in (None, level.grid):
        return mf.grids
    grids = pyscf("dft").Grids(mf.mol)
    grids.level = level.step_grid
    return grids.build()


def exchange_energy(mf: PySCFMeanField, P: SpinMatrices, functional: Functional) -> float:
    """-1/2 sum_s tr P_s K_s, hartree; 0 where the functional has no fraction of it."""
    if functional.exact_exchange == 0 and not learns_fraction(functional):
        return 0.0
    return -0.5 * float(np.einsum("sij,sji->", P, exchange_matrices(mf, P)))


def learns_fraction(functional: Functional) -> bool:
    """Whether the fraction of exact exchange is a parameter."""
    return isinstance(fraction(functional), torch.nn.Parameter)


def exchange_matrices(mf: PySCFMeanField, P: SpinMatrices) -> SpinMatrices:
    """K of either spin, hartree."""
    return np.asarray(mf.get_jk(mf.mol, P, hermi=1, with_j=False)[1])


def grid_density(mf: PySCFMeanField, P: SpinMatrices,
                 grids: PySCFGrids = None) -> tuple[Float[Tensor, "7 grid"], Float[Tensor, "grid"]]:
    """Variables n, sigma, tau of both spins and weights (bohr^3), without negligible points; by default on the grid of the
    mean field."""
    rows, weights = on_grid(mf, P, mf.grids if grids is None else grids)
    kept = matters(rows, weights)
    rows, weights = rows[:, kept], weights[kept]
    rows[:2], rows[5:] = rows[:2].clip(0), rows[5:].clip(0)
    return torch.from_numpy(rows), torch.from_numpy(weights)


def on_grid(mf: PySCFMeanField, P: SpinMatrices,
            grids: PySCFGrids) -> tuple[Float[np.ndarray, "7 grid"], Float[np.ndarray, "grid"]]:
    """n, sigma, tau of any symmetric matrices, and weights (bohr^3), of all points."""
    ni, mol, blocks = mf._numint, mf.mol, []
    for ao, mask, weight, _ in ni.block_loop(mol, grids, mol.nao, 1, max_memory=500):
        rho = np.stack([ni.eval_rho(mol, ao, p, mask, "MGGA", hermi=1, with_lapl=False) for p in P])
        sigma = [np.einsum("xg,xg->g", rho[i, 1:4], rho[j, 1:4]) for i, j in PAIRS]
        blocks.append((np.stack([rho[0, 0], rho[1, 0], *sigma, rho[0, -1], rho[1, -1]]), weight))
    return np.concatenate([rows for rows, _ in blocks], 1), np.concatenate([weight for _, weight in blocks])


def matters(rows: Float[np.ndarray, "7 grid"], weights: Float[np.ndarray, "grid"]) -> Bool[np.ndarray, "grid"]:
    """Which points hold electrons; small grids have negative weights."""
    return np.abs(weights) * (rows[0] + rows[1]) > NEGLIGIBLE
