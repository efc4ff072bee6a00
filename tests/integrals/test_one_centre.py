"""One-centre two-electron integrals: their number, symmetry, invariance to rotation, and definiteness."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nddo_ml.integrals.multipole import atom_integrals
from nddo_ml.integrals.one_centre import angular_integrals, combinations, one_centre
from nddo_ml.integrals.parameters import gather
from nddo_ml.integrals.slater_condon import G_NAMES, SLATER_NAMES
from nddo_ml.methods import method
from nddo_ml.orbitals import packed_pairs

CPU = torch.device("cpu")


def integrals(name, numbers):
    m = method(name)
    rows = m.rows(torch.tensor(numbers))
    return atom_integrals(gather(m.parameters, rows), gather(m.elements, rows), m.constants)


def full(packed, n):
    """(i j, k l) over packed distributions as (i, j, k, l)."""
    table = packed_pairs(n)[2]
    return packed[np.ix_(table.ravel(), table.ravel())].reshape(n, n, n, n)


def angular_functions(x):
    """Real angular parts of s, p, d at unit vectors x (point, 3), in the order of the package."""
    x, y, z = x.T
    s3, s5 = np.sqrt(3), np.sqrt(5)
    d = [s3 / 2 * (x**2 - y**2), s3 * x * z, z**2 - (x**2 + y**2) / 2, s3 * y * z, s3 * x * y]
    return np.stack([np.ones_like(x), s3 * x, s3 * y, s3 * z, *(s5 * f for f in d)])


def rotation(n):
    """A random rotation of the orbitals, from the values of rotated functions at random points."""
    rng = np.random.default_rng(7)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    x = rng.normal(size=(60, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.linalg.lstsq(angular_functions(x)[:n].T, angular_functions(x @ (q * np.linalg.det(q)))[:n].T, rcond=None)[0]


def test_243_integrals_with_d_functions():
    """The published count, and none of them between s and p functions alone."""
    c = combinations(9, CPU).view(-1, 45, 45)
    assert c.shape[0] == len(G_NAMES) + len(SLATER_NAMES)
    with_d = c[len(G_NAMES):].abs().sum(0) > 0
    assert with_d.sum() == 243 and not with_d[:10, :10].any()
    assert not (with_d & (c[:len(G_NAMES)].abs().sum(0) > 0)).any()


def test_combinations_are_the_textbook_ones():
    """A few closed forms: (ss|dd) = F0sd, (sd|sd) = G2sd/5, (dd|dd) = F0dd + 4/49 F2dd + 36/441 F4dd."""
    c, table = combinations(9, CPU).view(-1, 45, 45), packed_pairs(9)[2]

    def coefficients(i, j, k, l):
        values = c[:, table[i, j], table[k, l]]
        return {name: v for name, v in zip(G_NAMES + SLATER_NAMES, values.tolist(), strict=True) if v != 0}

    for d in range(4, 9):
        assert coefficients(0, 0, d, d) == pytest.approx({"F0sd": 1})
        assert coefficients(0, d, 0, d) == pytest.approx({"G2sd": 1 / 5})
        assert coefficients(d, d, d, d) == pytest.approx({"F0dd": 1, "F2dd": 4 / 49, "F4dd": 36 / 441})
    assert coefficients(1, 2, 1, 2) == {"g_pp": 0.5, "g_p2": -0.5}
    assert coefficients(0, 3, 6, 3) == pytest.approx({"R1sppd": 2 / np.sqrt(45)})


def test_angular_part_of_the_sp_integrals():
    """h_sp = R1/3 and g_pp = R0 + 4/25 R2, g_p2 = R0 - 2/25 R2 follow from the same angular integrals."""
    angular, table = angular_integrals(), packed_pairs(9)[2]
    assert angular[1, table[0, 1], table[0, 1]] == pytest.approx(1 / 3, abs=1e-14)
    assert angular[[0, 2], table[1, 1], table[1, 1]] == pytest.approx([1, 4 / 25], abs=1e-14)
    assert angular[[0, 2], table[1, 1], table[2, 2]] == pytest.approx([1, -2 / 25], abs=1e-14)


@pytest.mark.parametrize(("n", "numbers"), [(4, (6, 8)), (9, (16, 26, 79))])
def test_rotation_invariance(n, numbers):
    R = rotation(n)
    np.testing.assert_allclose(R @ R.T, np.eye(n), atol=1e-13)
    for w in one_centre(integrals("PM6", numbers), n).numpy():
        v = full(w, n)
        rotated = np.einsum("ai,bj,ck,dl,ijkl->abcd", R, R, R, R, v, optimize=True)
        np.testing.assert_allclose(rotated, v, atol=1e-12 * np.abs(v).max())
        np.testing.assert_array_equal(w, w.T)


def test_rotation_invariance_of_each_parameter():
    """Each Slater-Condon parameter multiplies an invariant of its own; so do the g integrals, but for g_pp and g_p2."""
    R = rotation(9)
    c = combinations(9, CPU).view(-1, 45, 45).numpy()
    groups = [c[0], c[1], c[2], 3.0 * c[3] + 2.0 * c[4], *c[5:]]
    for w in groups:
        v = full(w, 9)
        np.testing.assert_allclose(np.einsum("ai,bj,ck,dl,ijkl->abcd", R, R, R, R, v, optimize=True), v, atol=1e-13)


def test_smaller_atoms_inside_larger_blocks():
    """An s or sp atom treated with more orbitals has zeros there; the sp block is the same in every size."""
    A = integrals("PM6", (1, 6, 16, 26))
    w1, w4, w9 = (one_centre(A, n) for n in (1, 4, 9))
    assert torch.equal(w1[:, 0, 0], A.g_ss) and torch.equal(w4[:, 0, 0], A.g_ss)
    assert torch.equal(w9[:, :10, :10], w4)
    assert w4[0].count_nonzero() == 1 and w9[0].count_nonzero() == 1
    assert w9[1, 10:].count_nonzero() == 0 and w9[1, :, 10:].count_nonzero() == 0


@pytest.mark.parametrize("name", ["MNDO", "AM1", "PM3", "RM1", "MNDO/d", "PM6", "PM7"])
def test_spectrum_of_the_sp_block(name):
    """h_sp (3 times), h_pp (3), g_pp - g_p2 (2) and the eigenvalues of [[g_ss, sqrt3 g_sp], [sqrt3 g_sp, g_pp + 2 g_p2]].

    So the block is positive only where g_pp > g_p2 and g_ss (g_pp + 2 g_p2) > 3 g_sp^2. Published parameters break the second
    condition already for carbon: lowest eigenvalue -0.43 eV in MNDO.
    """
    A = integrals(name, (6, 7, 8, 9, 17))
    h_pp, middle = (A.g_pp - A.g_p2) / 2, (A.g_ss + A.g_pp + 2 * A.g_p2) / 2
    spread = torch.sqrt((A.g_ss - middle) ** 2 + 3 * A.g_sp**2)
    expected = torch.stack((*[A.h_sp] * 3, *[h_pp] * 3, *[2 * h_pp] * 2, middle - spread, middle + spread), 1).sort(1).values
    torch.testing.assert_close(torch.linalg.eigvalsh(one_centre(A, 4)), expected, rtol=0, atol=1e-12)


def test_positive_where_the_parameters_are_those_of_slater_functions():
    """Integrals of real charge distributions are positive semidefinite: iron of PM6, all from exponents but F0SD and G2SD."""
    m = method("PM6")
    rows = m.rows(torch.tensor([26]))
    parameters = replace(gather(m.parameters, rows), F0SD=torch.zeros(1).double(), G2SD=torch.zeros(1).double())
    w = one_centre(atom_integrals(parameters, gather(m.elements, rows), m.constants), 9)
    assert torch.linalg.eigvalsh(w).min() > -1e-10


def test_derivatives():
    """A random combination of all integrals against finite differences, first and second order."""
    m = method("PM6")
    rows = m.rows(torch.tensor([16, 26]))
    elements, parameters = gather(m.elements, rows), gather(m.parameters, rows)
    names = ("g_ss", "g_sp", "g_pp", "g_p2", "h_sp", "zsn", "zpn", "zdn")

    weights = torch.rand(2, 45, 45, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def total(*values):
        changed = replace(parameters, **dict(zip(names, values, strict=True)))
        return (weights * one_centre(atom_integrals(changed, elements, m.constants), 9)).sum((1, 2))

    values = [getattr(parameters, f).clone().requires_grad_() for f in names]
    assert torch.autograd.gradcheck(total, values)
    assert torch.autograd.gradgradcheck(total, values, rtol=1e-2)   # second differences of about 1e3 eV
