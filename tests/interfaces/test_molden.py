"""Molden files: the basis is the method's, the orbitals are orthonormal in it."""

from math import gamma

import numpy as np
import pytest
from ase.build import molecule

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.interfaces.molden import CARTESIAN, D_MONOMIALS, gaussian_expansion, molden


@pytest.mark.parametrize(("n", "l"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (5, 2), (6, 0), (6, 1)])
def test_gaussians_reproduce_the_slater_function(n, l):
    exponents, c, overlap = gaussian_expansion(n, l)
    assert overlap > 0.99999
    a, b = exponents[:, None], exponents[None]
    overlaps = (2 * np.sqrt(a * b) / (a + b)) ** (l + 1.5)   # of normalised Gaussians
    assert c @ overlaps @ c == pytest.approx(1, abs=1e-6)


def test_cartesian_d_functions_are_orthonormal():
    """Angular integrals of x^a y^b z^c over the unit sphere, by gamma functions."""
    def sphere(p):
        return 0.0 if any(k % 2 for k in p) else 2 * np.prod([gamma((k + 1) / 2) for k in p]) / gamma((sum(p) + 3) / 2)

    for l in (0, 1, 2):
        S = np.array([[na * nb * sphere(np.add(pa, pb)) for pb, nb in CARTESIAN[l]] for pa, na in CARTESIAN[l]])
        transformed = D_MONOMIALS.T @ S @ D_MONOMIALS if l == 2 else S
        np.testing.assert_allclose(transformed, np.eye(2 * l + 1), atol=1e-12)


@pytest.mark.parametrize("slater", [False, True])
def test_file(slater):
    atoms = molecule("SO2")
    model = Hamiltonian("PM6")
    result = model(Molecules.single(atoms.numbers, atoms.positions))
    text = "\n".join(molden(model, result, slater=slater))
    assert text.startswith("[Molden Format]")
    head, orbitals = text.split("[MO]\n")
    blocks = orbitals.split(" Sym=")[1:]
    count = 9 + 4 + 4
    functions = count + (1 if slater else 0)          # six cartesian d functions for five
    assert len(blocks) == count
    lines = [block.splitlines() for block in blocks]
    energies = [float(b[1].split("=")[1]) for b in lines]
    np.testing.assert_allclose(energies, result.orbital_energies(0)[0].numpy() / 27.211386245988, atol=1e-9)
    assert sum(float(b[3].split("=")[1]) for b in lines) == 18
    C = np.array([[float(row.split()[1]) for row in b[4:]] for b in lines])
    assert C.shape == (count, functions)
    if slater:
        assert len(head.split("[STO]\n")[1].splitlines()) == functions
    else:
        np.testing.assert_allclose(C @ C.T, np.eye(count), atol=1e-8)
        assert head.rstrip().endswith("[5D]")


def test_order_of_p_and_d_functions():
    """The pi orbitals of a diatomic along z have no coefficient on z functions, and its sigma orbitals only those."""
    model = Hamiltonian("PM6")
    result = model(Molecules.single([17, 17], [[0, 0, 0], [0, 0, 2.0]]))
    text = "\n".join(molden(model, result))
    C = np.array([[float(row.split()[1]) for row in b.splitlines()[4:]] for b in text.split("[MO]\n")[1].split(" Sym=")[1:]])
    m = np.abs([0, 1, 1, 0, 0, 1, 1, 2, 2])           # s, px, py, pz, d0, d+1, d-1, d+2, d-2
    for c in C:
        weights = [sum(c[k] ** 2 for k in range(18) if m[k % 9] == value) for value in (0, 1, 2)]
        assert max(weights) == pytest.approx(1, abs=1e-8)
