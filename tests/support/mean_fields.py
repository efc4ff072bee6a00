"""Mean fields of PySCF for small molecules; tests that import it are skipped where there is no PySCF."""

import pytest

gto, dft = (pytest.importorskip(f"pyscf.{name}") for name in ("gto", "dft"))

GEOMETRIES = {
    "H2O": ("O 0 0 0.1; H 0 0.757 -0.47; H 0 -0.757 -0.47", 0),
    "NH2": ("N 0 0 .14; H 0 .8 -.5; H 0 -.8 -.5", 1),
    # a little distorted: degenerate starting vectors lead PySCF's Davidson iterations astray
    "C2H4": ("C 0 0 .667; C 0 .02 -.667; H .05 .923 1.237; H 0 -.95 1.237; H 0 .90 -1.25; H -.06 -.923 -1.20", 0),
    "HF": ("F 0 0 0; H .1 .2 .9", 0),
    "NH": ("N 0 0 0; H .1 .2 1.0", 2),
    "H3": ("H 0 0 0; H 0 .9 .2; H .3 -.4 1.1", 1),
}


def mean_field(name, xc="pbe", basis="6-31g", fitted=False, level=0):
    geometry, spin = GEOMETRIES[name]
    mol = gto.M(atom=geometry, spin=spin, basis=basis, verbose=0)
    mf = (dft.UKS if spin else dft.RKS)(mol, xc=xc)
    mf.grids.level, mf.conv_tol, mf.chkfile = level, 1e-12, None
    return mf.density_fit(auxbasis="weigend") if fitted else mf


def solved(mf):
    mf.kernel()
    assert mf.converged
    return mf
