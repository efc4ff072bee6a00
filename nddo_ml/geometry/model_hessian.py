"""Hessian of a model force field: what a quasi-Newton optimisation knows of a molecule before the first step.

Stretches, bends, out-of-plane motions and torsions are springs at rest in the given geometry. Their force constants are
products of decay factors exp(a (r0^2 - r^2)) of the pairs of atoms that take part, r0 the sum of two covalent radii: no bonds
need be known, and the model changes smoothly as bonds break and form.

Form of the model and size of its constants: Lindh, Bernhardsson, Karlstrom and Malmqvist, Chem. Phys. Lett. 241, 423 (1995).
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.elements import ELEMENTS, covalent_radii

# force constants at covalent distance: eV/angstrom^2 of a stretch and of a height, eV of a bend and of a torsion
STRETCH, BEND, OUT_OF_PLANE, TORSION = 32.0, 4.0, 6.0, 0.14
BACKGROUND = 0.2            # eV/angstrom^2 on every coordinate: weak contacts, and rotations
DECAY = (1.0, 1.4, 3.6)     # angstrom^-2, pairs with no, one, two hydrogens
BONDED, FELT = 0.15, 0.002  # decay factors from which a pair carries bends and torsions, from which it carries a stretch

# atoms (term, 4), dq/dx of each of them (term, 4, 3), force constant (term); unused atoms have zero rows
Terms = tuple[Int[Tensor, "term 4"], Float[Tensor, "term 4 3"], Float[Tensor, "term"]]


def model_hessian(numbers: Int[Tensor, "molecule place"], positions: Float[Tensor, "molecule place 3"],
                  real: Bool[Tensor, "molecule place"]) -> Float[Tensor, "molecule coordinate coordinate"]:
    """The Hessian, eV/angstrom^2: sum k b b^T + background, b = dq/dx, q over all stretches, bends, torsions and heights.

    Positive definite for any geometry. Padded places (`real` False) have the background alone.
    """
    count, places = numbers.shape
    x = positions.reshape(-1, 3)
    decay = _decay(numbers, positions, real)
    atoms, rows, constants = (torch.cat(part) for part in zip(*_terms(x, decay), strict=True))
    blocks = (constants[:, None, None] * rows.flatten(1)[:, :, None] * rows.flatten(1)[:, None]).reshape(-1, 4, 3, 4, 3)
    target = (atoms[:, :, None] * places + atoms[:, None] % places).flatten()
    hessian = x.new_zeros(count * places * places, 9).index_add(0, target, blocks.permute(0, 1, 3, 2, 4).reshape(-1, 9))
    hessian = hessian.reshape(count, places, places, 3, 3).transpose(2, 3).reshape(count, 3 * places, 3 * places)
    return hessian + BACKGROUND * torch.eye(3 * places, dtype=x.dtype, device=x.device)


def _decay(numbers, positions, real):
    """exp(a (r0^2 - r^2)) of all pairs of one molecule, at most 3: molecule, place, place."""
    radii = radii_of(numbers)
    hydrogens = (numbers == 1).long()
    rate = positions.new_tensor(DECAY)[hydrogens[:, :, None] + hydrogens[:, None]]
    square = (positions[:, :, None] - positions[:, None]).square().sum(-1)
    pair = real[:, :, None] & real[:, None] & ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    return torch.where(pair, torch.exp(rate * ((radii[:, :, None] + radii[:, None]) ** 2 - square)).clamp(max=3.0), 0.0)


def radii_of(numbers: Int[Tensor, "molecule place"]) -> Float[Tensor, "molecule place"]:
    """Covalent radii, angstrom; species that are no elements count as 1 angstrom."""
    radii = covalent_radii(numbers.flatten()).view_as(numbers)
    return torch.where(numbers > ELEMENTS, 1.0, radii)


def _terms(x: Float[Tensor, "site 3"], decay: Float[Tensor, "molecule place place"]) -> Iterator[Terms]:
    """The terms of each kind of coordinate; x: positions of all places of all molecules, end to end."""
    place = decay.shape[1]
    m, i, j = torch.nonzero(decay > FELT, as_tuple=True)
    one_way = i < j
    i, j, w = (m * place + i), (m * place + j), decay[m, i, j]
    bonds = w > BONDED
    yield _stretches(x, i[one_way], j[one_way], w[one_way])
    i, j, w = i[bonds], j[bonds], w[bonds]           # every bond in both directions, sorted by i
    degree = torch.bincount(i, minlength=len(x))
    start = degree.cumsum(0) - degree
    first, second = _expanded(torch.arange(len(i), device=x.device), degree[i], start[i])
    upper = j[first] < j[second]
    first, second = first[upper], second[upper]
    yield from _bends(x, j[first], i[first], j[second], (w[first] * w[second]).clamp(max=1.5))
    yield _heights(x, torch.nonzero(degree == 3)[:, 0], start, j, w)
    forward = torch.nonzero(i < j)[:, 0]
    centre, left = _expanded(forward, degree[i[forward]], start[i[forward]])
    repeated, right = _expanded(torch.arange(len(centre), device=x.device), degree[j[centre]], start[j[centre]])
    centre, left = centre[repeated], left[repeated]
    proper = (j[left] != j[centre]) & (j[right] != i[centre]) & (j[left] != j[right])
    centre, left, right = centre[proper], left[proper], right[proper]
    yield _torsions(x, j[left], i[centre], j[centre], j[right], (w[left] * w[centre] * w[right]).clamp(max=1.5))


def _expanded(items, counts, starts):
    """Each item repeated `counts` times, beside the running positions start, start + 1, ... of its partners."""
    repeated = items.repeat_interleave(counts)
    running = torch.arange(len(repeated), device=items.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return repeated, starts.repeat_interleave(counts) + running


def _stretches(x, i, j, w):
    """r_ij."""
    u = torch.nn.functional.normalize(x[i] - x[j], dim=-1)
    zero = torch.zeros_like(u)
    return torch.stack([i, j, j, j], 1), torch.stack([u, -u, zero, zero], 1), STRETCH * w


def _bends(x, i, j, k, w):
    """The angle i-j-k; near 180 degrees, where it has no derivative, the two displacements of j off the line instead."""
    a, b = (x[i] - x[j]), (x[k] - x[j])
    ra, rb = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = a / ra, b / rb
    cosine = (u * v).sum(-1, keepdim=True)
    straight = cosine < -0.985
    sine = (1 - cosine**2).clamp(min=1e-3).sqrt()
    line = torch.nn.functional.normalize(u - v, dim=-1)
    helper = torch.nn.functional.one_hot(line.abs().argmin(-1), 3).to(u)
    across = torch.nn.functional.normalize(torch.linalg.cross(line, helper), dim=-1)
    upright = torch.linalg.cross(line, across)
    bent_i, bent_k = (torch.where(straight, across, t / sine) for t in (cosine * u - v, cosine * v - u))
    atoms, zero = torch.stack([i, j, k, k], 1), torch.zeros_like(u)
    for end_i, end_k, weight in ((bent_i / ra, bent_k / rb, w), (upright / ra, upright / rb, w * straight[:, 0])):
        yield atoms, torch.stack([end_i, -end_i - end_k, end_k, zero], 1), BEND * weight


def _heights(x, centre, start, j, w):
    """Height of an atom with three bonds above the plane of its neighbours, fading out where it is no longer nearly planar."""
    bond = start[centre][:, None] + torch.arange(3, device=x.device)
    a, b, c = (x[j[bond[:, k]]] for k in range(3))
    normal = torch.linalg.cross(b - a, c - a)
    area = normal.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    normal, d = normal / area, x[centre] - a
    share_c = (torch.linalg.cross(b - a, d) * normal).sum(-1, keepdim=True) / area
    share_b = (torch.linalg.cross(d, c - a) * normal).sum(-1, keepdim=True) / area
    planar = (1 - ((d * normal).sum(-1) / 0.35) ** 2).clamp(min=0) * (area[:, 0] > 0.5)
    rows = torch.stack([normal, -(1 - share_b - share_c) * normal, -share_b * normal, -share_c * normal], 1)
    return torch.cat([centre[:, None], j[bond]], 1), rows, OUT_OF_PLANE * planar * w[bond].clamp(max=1).prod(1)


def _torsions(x, i, j, k, l, w):
    """The dihedral angle i-j-k-l, left out where i-j-k or j-k-l is nearly straight."""
    a, b, c = x[j] - x[i], x[k] - x[j], x[l] - x[k]
    m, n = torch.linalg.cross(a, b), torch.linalg.cross(b, c)
    mm, nn, bb = (t.square().sum(-1, keepdim=True) for t in (m, n, b))
    bent = (mm > 0.03 * a.square().sum(-1, keepdim=True) * bb) & (nn > 0.03 * c.square().sum(-1, keepdim=True) * bb)
    end_i, end_l = -bb.sqrt() * m / mm.clamp(min=1e-6), bb.sqrt() * n / nn.clamp(min=1e-6)
    p, q = (a * b).sum(-1, keepdim=True) / bb, (c * b).sum(-1, keepdim=True) / bb
    rows = torch.stack([end_i, -(1 + p) * end_i + q * end_l, p * end_i - (1 + q) * end_l, end_l], 1)
    return torch.stack([i, j, k, l], 1), rows, TORSION * w * bent[:, 0]
