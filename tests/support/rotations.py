"""Directions and rotations of space, of orbitals and of their products."""

import numpy as np
import torch

from nddo_ml.integrals.frame import D_TENSORS
from nddo_ml.orbitals import packed_pairs


def directions():
    """Unit vectors in general position, on every half axis, and 1e-9 and 1e-3 off the poles."""
    g = np.random.default_rng(3)
    tilted = [[1e-9, 0, 1], [0, -1e-9, -1], [1e-3, 1e-3, 1], [1e-3, 0, -1], [1, 0, 1e-12], [1, 0, -1e-12]]
    u = np.concatenate([g.normal(size=(12, 3)), np.eye(3), -np.eye(3), tilted])
    return torch.from_numpy(u / np.linalg.norm(u, axis=1, keepdims=True))


def orbital_rotation(Q, n):
    """(n, n) matrix t with f_a(Q^-1 r) = sum_b t[b, a] f_b(r) for the orbitals f of an atom."""
    Q = Q.numpy() if isinstance(Q, torch.Tensor) else Q
    t = np.zeros((n, n))
    t[0, 0] = 1
    if n > 1:
        t[1:4, 1:4] = Q
    if n > 4:
        t[4:, 4:] = 2 / 3 * np.einsum("bxy,xi,yj,aij->ba", D_TENSORS, Q, Q, D_TENSORS)
    return t


def distribution_rotation(Q, n):
    """(m, m) matrix of the same for packed products."""
    a, b, _ = packed_pairs(n)
    t = orbital_rotation(Q, n)
    both = np.einsum("ca,db->cdab", t, t)[a, b]       # lab product (a >= b) from all ordered products
    both = both + both.swapaxes(1, 2) * (np.arange(n)[:, None] != np.arange(n))
    return both[:, a, b]


def random_rotation(seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))
