"""Local two-centre repulsion integrals against published closed forms and explicit charges, and their rotation."""

import itertools
import math

import numpy as np
import pytest
import torch
from support.atom_records import atoms, local
from support.rotations import directions

from nddo_ml.integrals.configurations import charge_kernel
from nddo_ml.integrals.frame import COMPONENTS, axes, component_starts, decomposition, packed
from nddo_ml.integrals.repulsion import repulsion
from nddo_ml.methods import method
from nddo_ml.orbitals import packed_pairs

CPU = torch.device("cpu")
S, X, Y, Z = range(4)
SEPARATIONS = ("D1", "Q", "rho0", "rho1", "rho2")
CLASSES = [(1, 1), (4, 1), (4, 4), (9, 1), (9, 4), (9, 9)]


def table(n):
    return packed_pairs(n)[2]


def closed_forms(R, a, b, EV):
    """The 22 integrals of two sp atoms, numbered as by Dewar and Thiel (1977)."""
    D, Q, D_, Q_ = a["D1"], a["Q"], b["D1"], b["Q"]
    rho_a, rho_b = ([x[f"rho{l}"] for l in range(3)] for x in (a, b))

    def bracket(l, k):
        return lambda z, x=0.0: EV / math.sqrt(z * z + x * x + (rho_a[l] + rho_b[k])**2)

    f = bracket(0, 0)
    qq = f(R)
    f = bracket(1, 0)
    uq = f(R - D) / 2 - f(R + D) / 2
    f = bracket(0, 1)
    qu = f(R + D_) / 2 - f(R - D_) / 2
    f = bracket(2, 0)
    Zq, Xq = f(R - 2 * Q) / 4 + f(R + 2 * Q) / 4 - f(R) / 2, f(R, 2 * Q) / 2 - f(R) / 2
    f = bracket(0, 2)
    qZ, qX = f(R - 2 * Q_) / 4 + f(R + 2 * Q_) / 4 - f(R) / 2, f(R, 2 * Q_) / 2 - f(R) / 2
    f = bracket(1, 1)
    uu = (f(R - D + D_) + f(R + D - D_) - f(R - D - D_) - f(R + D + D_)) / 4
    xx = f(R, D - D_) / 2 - f(R, D + D_) / 2
    f = bracket(2, 1)
    Zu = (f(R + D_ - 2 * Q) + f(R + D_ + 2 * Q) - f(R - D_ - 2 * Q) - f(R - D_ + 2 * Q)) / 8 - f(R + D_) / 4 + f(R - D_) / 4
    Xu = (f(R + D_, 2 * Q) - f(R + D_) - f(R - D_, 2 * Q) + f(R - D_)) / 4
    xzx = (f(R - Q, Q - D_) + f(R + Q, Q + D_) - f(R + Q, Q - D_) - f(R - Q, Q + D_)) / 4
    f = bracket(1, 2)
    uZ = (f(R - D + 2 * Q_) + f(R - D - 2 * Q_) - f(R + D + 2 * Q_) - f(R + D - 2 * Q_)) / 8 - f(R - D) / 4 + f(R + D) / 4
    uX = (f(R - D, 2 * Q_) - f(R - D) - f(R + D, 2 * Q_) + f(R + D)) / 4
    xxz = (f(R + Q_, D - Q_) + f(R - Q_, D + Q_) - f(R - Q_, D - Q_) - f(R + Q_, D + Q_)) / 4
    f = bracket(2, 2)
    ZZ = ((f(R + 2 * Q + 2 * Q_) + f(R + 2 * Q - 2 * Q_) + f(R - 2 * Q + 2 * Q_) + f(R - 2 * Q - 2 * Q_)) / 16
          - (f(R + 2 * Q) + f(R - 2 * Q) + f(R + 2 * Q_) + f(R - 2 * Q_)) / 8 + f(R) / 4)
    XX = f(R, 2 * Q - 2 * Q_) / 8 + f(R, 2 * Q + 2 * Q_) / 8 - f(R, 2 * Q) / 4 - f(R, 2 * Q_) / 4 + f(R) / 4
    XY = f(R, math.hypot(2 * Q, 2 * Q_)) / 4 - f(R, 2 * Q) / 4 - f(R, 2 * Q_) / 4 + f(R) / 4
    XZ = (f(R + 2 * Q_, 2 * Q) + f(R - 2 * Q_, 2 * Q) - f(R + 2 * Q_) - f(R - 2 * Q_)) / 8 - f(R, 2 * Q) / 4 + f(R) / 4
    ZX = (f(R + 2 * Q, 2 * Q_) + f(R - 2 * Q, 2 * Q_) - f(R + 2 * Q) - f(R - 2 * Q)) / 8 - f(R, 2 * Q_) / 4 + f(R) / 4
    pipi = (f(R + Q - Q_, Q - Q_) + f(R - Q + Q_, Q - Q_) - f(R + Q + Q_, Q - Q_) - f(R - Q - Q_, Q - Q_)
            - f(R + Q - Q_, Q + Q_) - f(R - Q + Q_, Q + Q_) + f(R + Q + Q_, Q + Q_) + f(R - Q - Q_, Q + Q_)) / 8
    return [qq, uq, qq + Zq, qq + Xq, qu, uu, xx, qu + Zu, qu + Xu, xzx, qq + qZ, qq + qX, uq + uZ, uq + uX, xxz,
            qq + qZ + Zq + ZZ, qq + qZ + Xq + XZ, qq + qX + Zq + ZX, qq + qX + Xq + XX, pipi, qq + qX + Xq + XY, (XX - XY) / 2]


O, P, P_ = Z, X, Y
QUADRUPLES = [(S, S, S, S), (S, O, S, S), (O, O, S, S), (P, P, S, S), (S, S, O, S), (S, O, S, O), (S, P, S, P), (O, O, S, O),
              (P, P, S, O), (P, O, S, P), (S, S, O, O), (S, S, P, P), (S, O, O, O), (S, O, P, P), (S, P, O, P), (O, O, O, O),
              (P, P, O, O), (O, O, P, P), (P, P, P, P), (P, O, P, O), (P, P, P_, P_), (P_, P, P_, P)]


@pytest.mark.parametrize("R", [0.3, 2.1, 9.0, 40.0])
def test_sp_integrals_are_the_closed_forms(R):
    """All 100 packed integrals along z: the 22 of Dewar and Thiel and those x <-> y makes of them, zero elsewhere."""
    A_i, A_j = atoms("AM1", [8])[0], atoms("AM1", [6])[0]
    values = closed_forms(R, *({k: float(getattr(A, k)) for k in SEPARATIONS} for A in (A_i, A_j)), 27.2)
    index = table(4)
    expected = np.zeros((10, 10))
    for (i, j, k, l), value in zip(QUADRUPLES, values, strict=True):
        for swap in ({}, {X: Y, Y: X}):
            i, j, k, l = (swap.get(o, o) for o in (i, j, k, l))
            expected[index[i, j], index[k, l]] = value
    u = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    R = torch.tensor([R], dtype=torch.float64)
    w = repulsion((4, 4), R, axes(u, (4, 4)), A_i, A_j, 27.2)
    column = repulsion((4, 1), R, axes(u, (4, 1)), A_i, A_j, 27.2)
    assert np.abs(w[0].numpy() - expected).max() < 2e-14 * 27
    assert np.abs(column[0, :, 0].numpy() - expected[:, 0]).max() < 1e-13


def test_number_of_distinct_terms():
    """Merging equal distances leaves 69 for sp-sp, 7 for sp-s, 1 for s-s."""
    assert [charge_kernel(*c, 1.0, CPU).integrals.shape[0] for c in ((4, 4), (4, 1), (1, 1))] == [69, 7, 1]


def multipole(l, m, D):
    """Charges and positions of M_lm, as published."""
    e = np.eye(3) * D
    axis = {0: e[2], 1: e[0], -1: e[1]}
    if l == 0:
        return [(1.0, np.zeros(3))]
    if l == 1:
        return [(0.5, axis[m]), (-0.5, -axis[m])]
    if m == 0:
        return [(0.25, s * e[2]) for s in (1, -1)] + [(-0.125, s * e[k]) for s in (1, -1) for k in (0, 1)]
    if abs(m) == 1:
        return [(a * b / 4, (a * axis[m] + b * e[2]) / math.sqrt(2)) for a in (1, -1) for b in (1, -1)]
    return [(w / 4, s * e[k]) for s in (1, -1) for k, w in ((0, 1), (1, -1))]


def test_integrals_with_d_functions_are_sums_over_charges():
    """Every (ij|kl) of Cl-Cl with a d function, from the table of multipoles and explicit charges."""
    m = method("PM6")
    A = atoms("PM6", [17])[0]
    R, EV = 3.7, m.constants.hartree
    value = {k: float(v) for k, v in vars(A).items() if v.ndim == 1}
    kinds = [(0, 0, "rho0"), (0, 0, "rho0"), (1, "D1", "rho1c"), (2, "D_pp", "rho2c"),
             (0, 0, "rho_dd0"), (1, "D_pd", "rho_pd"), (2, "D_sd", "rho_sd"), (2, "D_dd", "rho_dd")]
    members = {0: [0], 1: [1, -1, 0], 2: [2, 1, 0, -1, -2]}
    components = [(l, k, value[D] if D else 0.0, value[rho]) for l, D, rho in kinds for k in members[l]]
    W = np.zeros((24, 24))
    for (a, (l, k, D, rho)), (b, (l_, k_, D_, rho_)) in itertools.product(enumerate(components), repeat=2):
        if k == k_:
            k = 2 if k == -2 else k    # M_2-2 is M_22 turned by 45 degrees
            norm = (2 / math.sqrt(3))**(((l, k) == (2, 0)) + ((l_, k) == (2, 0)))
            W[a, b] = norm * EV * sum(p * q / math.sqrt(((s + [0, 0, R] - r)**2).sum() + (rho + rho_)**2)
                                      for p, r in multipole(l, k, D) for q, s in multipole(l_, k, D_))
    C = decomposition(9)
    expected = C @ W @ C.T
    u = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    w, w94, sp = (repulsion(shells, torch.tensor([R], dtype=torch.float64), axes(u, shells), A, A, EV)[0].numpy()
                  for shells in ((9, 9), (9, 4), (4, 4)))
    assert np.abs(w[10:] - expected[10:]).max() < 1e-12 and np.abs(w[:, 10:] - expected[:, 10:]).max() < 1e-12
    assert np.abs(w94 - w[:, :10]).max() < 1e-13
    assert np.abs(w[:10, :10] - sp).max() < 1e-13


def frame_free(u, local):
    """Laboratory (ij|kl) of sp atoms from u and the projector P = 1 - u u^T alone."""
    (ss_ss, so_ss, oo_ss, pp_ss, ss_os, so_so, sp_sp, oo_so, pp_so, po_sp, ss_oo, ss_pp, so_oo, so_pp, sp_op,
     oo_oo, pp_oo, oo_pp, pp_pp, po_po, pp_qq, _) = local
    P = np.eye(3) - np.outer(u, u)
    full = np.zeros((4, 4, 4, 4))
    e = np.einsum
    p = slice(1, 4)
    full[0, 0, 0, 0] = ss_ss
    full[0, p, 0, 0] = full[p, 0, 0, 0] = u * so_ss
    full[0, 0, 0, p] = full[0, 0, p, 0] = u * ss_os
    full[p, p, 0, 0] = np.outer(u, u) * oo_ss + P * pp_ss
    full[0, 0, p, p] = np.outer(u, u) * ss_oo + P * ss_pp
    both = np.outer(u, u) * so_so + P * sp_sp
    full[0, p, 0, p] = full[p, 0, 0, p] = full[0, p, p, 0] = full[p, 0, p, 0] = both
    three = e("i,j,k->ijk", u, u, u)
    cross = e("ij,k->ijk", P, u) + e("ik,j->ijk", P, u)
    full[0, p, p, p] = full[p, 0, p, p] = three * so_oo + e("i,jk->ijk", u, P) * so_pp + cross * sp_op
    reverse = three * oo_so + e("i,jk->ijk", u, P) * pp_so + cross * po_sp       # (jk|s i), i first
    full[p, p, 0, p] = full[p, p, p, 0] = reverse.transpose(1, 2, 0)
    uu = np.outer(u, u)
    full[p, p, p, p] = (
        e("ij,kl->ijkl", uu, uu) * oo_oo + e("ij,kl->ijkl", P, uu) * pp_oo
        + e("ij,kl->ijkl", uu, P) * oo_pp + e("ij,kl->ijkl", P, P) * pp_qq
        + (e("ik,jl->ijkl", P, P) + e("il,jk->ijkl", P, P)) * (pp_pp - pp_qq) / 2
        + (e("ik,jl->ijkl", uu, P) + e("il,jk->ijkl", uu, P) + e("jk,il->ijkl", uu, P) + e("jl,ik->ijkl", uu, P)) * po_po)
    a, b, _ = packed_pairs(4)
    return full[a, b][:, a, b]


def test_rotation_agrees_with_the_frame_free_form():
    A_i, A_j = atoms("AM1", [8])[0], atoms("AM1", [6])[0]
    local = closed_forms(2.7, *({k: float(getattr(A, k)) for k in SEPARATIONS} for A in (A_i, A_j)), 27.2)
    u = directions()
    A_i, A_j = atoms("AM1", [8] * len(u))[0], atoms("AM1", [6] * len(u))[0]
    w = repulsion((4, 4), torch.full((len(u),), 2.7, dtype=torch.float64), axes(u, (4, 4)), A_i, A_j, 27.2)
    for k in range(len(u)):
        assert np.abs(w[k].numpy() - frame_free(u[k].numpy(), local)).max() < 1e-13


def test_configurations_cover_all_components():
    """The diagonal of every kernel is positive: no component was forgotten."""
    for n_i, n_j in CLASSES:
        if n_i == n_j:
            A = atoms("PM6", [1 if n_i == 1 else 17])[0]
            total = component_starts(n_i)[1]
            W = local(n_i, n_j, torch.tensor([1e-3], dtype=torch.float64), A, A, 27.2).view(total, total)
            assert (W.diagonal() > 0).all() and total == sum(2 * l + 1 for l in COMPONENTS[n_i])
            assert packed(torch.ones(1, total, dtype=torch.float64), n_i).shape[1] == n_i * (n_i + 1) // 2
