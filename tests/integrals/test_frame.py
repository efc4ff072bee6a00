"""Frames, rotations and the decomposition of orbital products into charges, vectors and quadrupoles."""

import math

import numpy as np
import pytest
import torch
from support.rotations import directions, distribution_rotation, orbital_rotation

from nddo_ml.integrals.frame import D_TENSORS, component_starts, decomposition, frame, harmonics, packed, rotations
from nddo_ml.orbitals import packed_pairs

S3 = math.sqrt(3)










def test_frame_is_orthonormal_with_u_third():
    u = directions()
    E = frame(u)
    assert torch.allclose(E @ E.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand_as(E), atol=3e-15)
    assert torch.allclose(E[:, 2], u, atol=3e-16)
    assert torch.allclose(E, E.transpose(1, 2), atol=3e-16)


def test_frame_has_finite_derivatives_everywhere():
    u = directions()
    u = u[u[:, 2].abs() > 1e-3].requires_grad_()   # at the equator the frame changes hand; integrals do not see that
    assert torch.autograd.gradcheck(frame, u)
    first, = torch.autograd.grad(frame(u).square().sum() + frame(u).pow(3).sum(), u, create_graph=True)
    second, = torch.autograd.grad(first.pow(3).sum(), u)
    assert first.isfinite().all() and second.isfinite().all()


def test_d_functions_are_the_published_ones():
    x = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
    X, Y, Z = x[0].tolist()
    expected = [S3 / 2 * (X * X - Y * Y), S3 * X * Z, Z * Z - (X * X + Y * Y) / 2, S3 * Y * Z, S3 * X * Y]
    assert np.allclose(np.einsum("i,mij,j->m", x[0], D_TENSORS, x[0]), expected)
    assert np.allclose(harmonics(x, 9)[0, 5:10], expected)
    assert np.allclose(np.einsum("aij,bji->ab", D_TENSORS, D_TENSORS), 1.5 * np.eye(5))


def table_of_the_theory_sheet():
    """Products of orbitals as {(kind, name): coefficient}; z2 stands for (2/sqrt3) M_20."""
    c1, c2 = 2 / S3, 1 / S3
    M20 = S3 / 2   # in units of the component z2
    pairs = {"s s": "ss0", "s x": "sp:x", "s y": "sp:y", "s z": "sp:z",
             "s z2": "sd:z2", "s xz": "sd:xz", "s yz": "sd:yz", "s x2y2": "sd:x2y2", "s xy": "sd:xy",
             "z x": "pp:xz", "z y": "pp:yz", "x y": "pp:xy",
             "z xz": "pd:x", "z yz": "pd:y", "x xz": "pd:z", "x x2y2": "pd:x", "x xy": "pd:y", "y yz": "pd:z", "y xy": "pd:x",
             "xz yz": "dd:xy", "xz x2y2": "dd:xz", "xz xy": "dd:yz", "yz xy": "dd:xz"}
    table = {pair: {name: 1.0} for pair, name in pairs.items()}
    table |= {"z z": {"pp0": 1, "pp:z2": 4 / 3 * M20}, "x x": {"pp0": 1, "pp:z2": -2 / 3 * M20, "pp:x2y2": 1},
              "y y": {"pp0": 1, "pp:z2": -2 / 3 * M20, "pp:x2y2": -1},
              "z z2": {"pd:z": c1}, "x z2": {"pd:x": -c2}, "y z2": {"pd:y": -c2}, "y x2y2": {"pd:y": -1},
              "z2 z2": {"dd0": 1, "dd:z2": 4 / 3 * M20}, "z2 xz": {"dd:xz": c2}, "z2 yz": {"dd:yz": c2},
              "z2 x2y2": {"dd:x2y2": -c1}, "z2 xy": {"dd:xy": -c1},
              "xz xz": {"dd0": 1, "dd:z2": 2 / 3 * M20, "dd:x2y2": 1}, "yz yz": {"dd0": 1, "dd:z2": 2 / 3 * M20, "dd:x2y2": -1},
              "yz x2y2": {"dd:yz": -1}, "x2y2 x2y2": {"dd0": 1, "dd:z2": -4 / 3 * M20},
              "xy xy": {"dd0": 1, "dd:z2": -4 / 3 * M20}}
    return table


@pytest.mark.parametrize("n", [1, 4, 9])
def test_products_of_orbitals_decompose_as_published(n):
    orbitals = ["s", "x", "y", "z", "x2y2", "xz", "z2", "yz", "xy"]
    d = orbitals[4:]
    components = ["ss0", "pp0", "sp:x", "sp:y", "sp:z", *(f"pp:{k}" for k in d), "dd0", "pd:x", "pd:y", "pd:z",
                  *(f"sd:{k}" for k in d), *(f"dd:{k}" for k in d)]
    a, _, index = packed_pairs(n)
    expected = np.zeros((len(a), len(components)))
    for pair, parts in table_of_the_theory_sheet().items():
        i, j = (orbitals.index(o) for o in pair.split())
        if max(i, j) < n:
            for name, value in parts.items():
                expected[index[i, j], components.index(name)] = value
    total = component_starts(n)[1]
    assert np.allclose(decomposition(n), expected[:, :total], atol=1e-15)
    assert not expected[:, total:].any()


@pytest.mark.parametrize("n", [4, 9])
def test_rotations_agree_with_rotating_the_orbitals(n):
    u = directions()
    E = frame(u)
    T, O = rotations(E, n)
    for k in range(len(u)):
        Q = E[k].numpy().T        # takes the local axes (columns) to the laboratory; possibly a reflection
        assert np.allclose(O[k], orbital_rotation(Q, n), atol=1e-14)
        assert np.allclose(T[k], distribution_rotation(Q, n) @ decomposition(n), atol=1e-14)


@pytest.mark.parametrize("n", [4, 9])
def test_harmonics_are_the_columns_of_m_0(n):
    u = directions()
    T, _ = rotations(frame(u), n)
    starts, total = component_starts(n)
    ends = [*starts[1:], total]
    values = torch.from_numpy(np.random.default_rng(0).normal(size=len(starts)))
    spread = torch.cat([v.expand(e - s) for v, s, e in zip(values, starts, ends, strict=True)])
    middle = torch.tensor([{1: 0, 3: 2, 5: 2}[e - s] + s for s, e in zip(starts, ends, strict=True)])
    assert torch.allclose(packed(harmonics(u, n) * spread, n), T[:, :, middle] @ values, atol=1e-14)


def test_smaller_rotations_are_leading_blocks():
    E = frame(directions())
    (T9, O9), (T4, O4) = rotations(E, 9), rotations(E, 4)
    assert torch.allclose(T9[:, :10, :10], T4, atol=1e-15) and torch.allclose(O9[:, :4, :4], O4, atol=1e-15)
    assert not T9[:, :10, 10:].any()
