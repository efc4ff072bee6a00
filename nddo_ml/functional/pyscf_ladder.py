"""How an SCF that oscillates is brought to an end: DIIS; DIIS with level shift and damping; second-order steps; or an error."""

from nddo_ml.errors import SCFNotConverged

SHIFT, DAMPING = 0.3, 0.4       # hartree between occupied and empty levels; share of the old Fock matrix
LATER = 150                     # cycles of the rungs after the first
SETTINGS = ("max_cycle", "level_shift", "damp")
RESULTS = ("converged", "mo_coeff", "mo_energy", "mo_occ", "e_tot", "cycles")


def ladder(mf, start=None, cycles: int | None = None) -> str:
    """Solve a mean field of PySCF in place, rung by rung, and say which one did it: "diis", "level shift" or "newton".

    start: density matrices to begin with. cycles: of the first rung, mf.max_cycle by default. Settings of `mf` are as before
    afterwards; energy and orbitals are those of its own equations, without shift. SCFNotConverged: no rung did it, and `mf`
    holds no energy that could be taken for one.
    """
    kept = {name: getattr(mf, name) for name in SETTINGS}
    try:
        mf.max_cycle = cycles or mf.max_cycle
        mf.kernel(dm0=start)
        if mf.converged:
            return "diis"
        mf.max_cycle = max(LATER, mf.max_cycle)
        for name, rung in RUNGS.items():
            rung(mf)
            if mf.converged:
                return name
    finally:
        for name, value in kept.items():
            setattr(mf, name, value)
    mf.e_tot = float("nan")
    raise SCFNotConverged(f"The SCF of {''.join(mf.mol.elements)} (charge {mf.mol.charge}, {mf.mol.spin} unpaired) did not "
                          "converge by DIIS, level shift or Newton steps: try another spin or geometry, or start from the "
                          "density matrices of another functional.")


def _shifted(mf):
    """DIIS with a level shift, then without it."""
    kept = mf.level_shift, mf.damp
    mf.level_shift, mf.damp = SHIFT, DAMPING
    mf.kernel(dm0=mf.make_rdm1())
    mf.level_shift, mf.damp = kept
    if mf.converged:
        mf.kernel(dm0=mf.make_rdm1())


def _newton(mf):
    """PySCF's second-order solver; its results become those of the mean field."""
    second = mf.newton()
    second.kernel(mf.mo_coeff, mf.mo_occ)
    for name in RESULTS:
        setattr(mf, name, getattr(second, name, None))


RUNGS = {"level shift": _shifted, "newton": _newton}
