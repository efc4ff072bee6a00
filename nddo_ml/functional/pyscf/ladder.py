"""How an SCF that oscillates is brought to an end, rung by rung: DIIS; DIIS from the density of r2SCAN; DIIS with level shift
and damping; second-order steps; or an error.

Iterations that begin with superposed atoms may come near a state that is not the lowest and go round it; another functional's
density lies on the right side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nddo_ml.errors import SCFNotConverged
from nddo_ml.functional.pyscf.host import PySCFMeanField, pyscf

SHIFT, DAMPING = 0.3, 0.4       # hartree between occupied and empty levels; share of the old Fock matrix
OTHER = "r2scan"                # whose density another functional begins with
SETTINGS = ("max_cycle", "level_shift", "damp")
RESULTS = ("converged", "mo_coeff", "mo_energy", "mo_occ", "e_tot", "cycles")

Matrices = Float[np.ndarray, "*spin orbital orbital"]       # of a closed shell one, else one for either spin


@dataclass(frozen=True)
class KohnShamRung:
    """A way to solve a mean field that goes on from where the rungs before it have left it."""

    name: str
    solve: Callable[[PySCFMeanField], None]     # works in place
    cycles: int                                 # how many each of its SCFs may take


def ladder(mf: PySCFMeanField, start: Matrices | None = None, cycles: int | None = None,
           rungs: Sequence[KohnShamRung] | None = None) -> str:
    """Solve a mean field of PySCF in place, and say which rung did it: "diis", or the name of one of `rungs`.

    Settings of `mf` are as before afterwards; energy and orbitals are those of its own equations, without shift.

    Args:
        mf: an RKS or UKS object.
        start: density matrices to begin with.
        cycles: of DIIS, which comes first; by default mf.max_cycle.
        rungs: what is tried after it, in this order; by default RUNGS.

    Raises:
        SCFNotConverged: no rung did it, and `mf` holds no energy that could be taken for one.
    """
    kept = {name: getattr(mf, name) for name in SETTINGS}
    try:
        mf.max_cycle = cycles or mf.max_cycle
        mf.kernel(dm0=start)
        if mf.converged:
            return "diis"
        for rung in RUNGS if rungs is None else rungs:
            mf.max_cycle = rung.cycles
            rung.solve(mf)
            if mf.converged:
                return rung.name
    finally:
        for name, value in kept.items():
            setattr(mf, name, value)
    mf.e_tot = float("nan")
    raise SCFNotConverged(f"The SCF of {''.join(mf.mol.elements)} (charge {mf.mol.charge}, {mf.mol.spin} unpaired) did not "
                          f"converge by DIIS, also from the density of {OTHER}, level shift or Newton steps: try another spin "
                          "or geometry, or start from density matrices of your own.")


def _borrowed(mf: PySCFMeanField) -> None:
    """DIIS from the density of another functional, on the same grid and with the same integrals."""
    dft = pyscf("dft")
    other = (dft.UKS if np.ndim(mf.mo_occ) == 2 else dft.RKS)(mf.mol, xc=OTHER)
    if getattr(mf, "with_df", None) is not None:
        other = other.density_fit(with_df=mf.with_df)
    other.grids, other.conv_tol, other.max_cycle, other.chkfile = mf.grids, mf.conv_tol, mf.max_cycle, None
    other.small_rho_cutoff = 0
    if "get_occ" in vars(mf):           # parts of an electron
        other.get_occ = mf.get_occ
    other.kernel()
    if other.converged:
        mf.kernel(dm0=other.make_rdm1())


def _shifted(mf: PySCFMeanField) -> None:
    """DIIS with a level shift, then without it."""
    kept = mf.level_shift, mf.damp
    mf.level_shift, mf.damp = SHIFT, DAMPING
    mf.kernel(dm0=mf.make_rdm1())
    mf.level_shift, mf.damp = kept
    if mf.converged:
        mf.kernel(dm0=mf.make_rdm1())


def _newton(mf: PySCFMeanField) -> None:
    """PySCF's second-order solver; its results become those of the mean field."""
    second = mf.newton()
    second.kernel(mf.mo_coeff, mf.mo_occ)
    for name in RESULTS:
        setattr(mf, name, getattr(second, name, None))


# where a level shift is slow, second-order steps are quicker
RUNGS = (KohnShamRung("another density", _borrowed, 60), KohnShamRung("level shift", _shifted, 60),
         KohnShamRung("newton", _newton, 150))
