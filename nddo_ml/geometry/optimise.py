"""Geometry optimisation of one molecule or of a ragged batch, every molecule at its own pace.

Quasi-Newton steps in cartesian coordinates. Their Hessian starts as that of a model force field (stretches, bends, out-of-plane
motions and torsions with force constants that decay with distance) and then follows two things: the change of that model as the
molecule moves, exactly, and what the gradients teach about the rest (BFGS). A level shift and a trust radius bound each step; a
step that raises the energy, brings atoms together or leads where there is no energy is taken back and shortened, so no molecule
ends higher than it began. Molecules that are done leave the batch.

Published corrections have steps in their energy, where a method that looks at energies is caught: however short the way it
tries, the energy rises. There the rise exceeds the work of the forces by an amount that does not shrink with the way. Where
that is found and the forces lead over it, the molecule follows its forces alone from then on, as with ASE's BFGS: work, the
integral of the forces, stands for the change of the energy. `step` of the result is its height.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from ase.data import covalent_radii
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.common.struct import cached, record, tensor_map
from nddo_ml.molecules import Molecules

# model force constants (eV/angstrom^2, eV) at covalent distance: of the size in Lindh et al., Chem. Phys. Lett. 241, 423 (1995)
STRETCH, BEND, OUT_OF_PLANE, TORSION = 32.0, 4.0, 6.0, 0.14
BACKGROUND = 0.2            # eV/angstrom^2 on every coordinate: weak contacts, and rotations
DECAY = (1.0, 1.4, 3.6)     # angstrom^-2, pairs with no, one, two hydrogens
BONDED, FELT = 0.15, 0.002  # decay factors from which a pair carries bends and torsions, from which it carries a stretch
SHIFTED = 15                # atoms from which the level shift stops growing with the size of the molecule
FIRST_RADIUS, LARGEST_RADIUS, SMALLEST_RADIUS = 0.3, 0.5, 1e-5   # angstrom, largest displacement of an atom in one step
NOISE = 1e-7                # eV: a rise below this is no reason to refuse a step that lowers the forces
CLOSEST, HALVINGS = 0.45, 8 # sums of covalent radii: no step brings two atoms nearer; how often it is halved for that
# A step of the energy: least part of the excess over the work of the forces that is left when the trial step is shortened to
# 0.3 (a smooth energy leaves 0.03, forces that are wrong 0.3); largest one, eV, beyond which it is another state of the SCF
STEADY, LARGEST_STEP = 0.6, 0.5


@record
class Optimised:
    """Result of `optimise`, in the order of the molecules given.

    molecules at their final positions, energy `molecule` (eV), forces `atom 3` (eV/angstrom; of a molecule with fixed
    coordinates those on the free ones), converged `molecule`, failed `molecule` (no energy at the first geometry: returned as
    given, energy and forces NaN), evaluations `molecule`: how often each was calculated. stuck `molecule`: no step, however
    short, was acceptable; lost `molecule`: the last one led where there is no energy. step `molecule`: height (eV) of the first
    step of the energy that was climbed, after which a molecule may end higher than it began; 0 where there was none.
    """

    molecules: Molecules
    energy: Float[Tensor, "molecule"]
    forces: Float[Tensor, "atom 3"]
    converged: Bool[Tensor, "molecule"]
    failed: Bool[Tensor, "molecule"]
    evaluations: Int[Tensor, "molecule"]
    stuck: Bool[Tensor, "molecule"]
    lost: Bool[Tensor, "molecule"]
    step: Float[Tensor, "molecule"]


@record
class Step:
    """What a callback sees after each round: indices (of the molecules just calculated), their geometries, energy and forces,
    whether each was accepted as its molecule's new geometry, and how many molecules are not done yet.
    """

    round: int
    indices: Int[Tensor, "active"]
    molecules: Molecules
    energy: Float[Tensor, "active"]
    forces: Float[Tensor, "atom 3"]
    accepted: Bool[Tensor, "active"]
    remaining: int


@record
class _State:
    """Molecules of similar size, padded: where each stands, what is known of its Hessian, how far it may go, if it is done;
    step: height of the step of the energy it met (0: none, its energy counts); excess: by how much the energy of the trial
    refused last exceeded the work of the forces (NaN after an accepted one); free: projector on the coordinates that may change
    (None: all).
    """

    index: Int[Tensor, "molecule"]
    numbers: Int[Tensor, "molecule place"]
    real: Bool[Tensor, "molecule place"]
    positions: Float[Tensor, "molecule place 3"]
    energy: Float[Tensor, "molecule"]
    forces: Float[Tensor, "molecule place 3"]
    first: Float[Tensor, "molecule"]
    hessian: Float[Tensor, "molecule coordinate coordinate"]
    model: Float[Tensor, "molecule coordinate coordinate"]
    radius: Float[Tensor, "molecule"]
    done: Bool[Tensor, "molecule"]
    evaluations: Int[Tensor, "molecule"]
    lost: Bool[Tensor, "molecule"]
    step: Float[Tensor, "molecule"]
    excess: Float[Tensor, "molecule"]
    free: Float[Tensor, "molecule coordinate coordinate"] | None


def optimise(energy_forces: Callable[[Molecules], tuple[Tensor, Tensor]], molecules: Molecules, fmax=0.01, steps=500,
             callback: Callable[[Step], None] | None = None, fixed: Sequence[Tensor | None] | None = None) -> Optimised:
    """Molecules relaxed until the largest force on an atom is below `fmax` (eV/angstrom), each within `steps` evaluations.

    energy_forces maps Molecules to energy (molecule), eV, and forces (atom, 3), eV/angstrom; a NaN energy says that a geometry
    could not be calculated: at the first geometry the molecule is flagged as failed, later the step is shortened. It is called
    with those molecules of the batch that are not done. fixed: for each molecule orthonormal directions (direction, 3N) along
    which it may not move (None: none); forces along them do not count. Memory: two Hessians, 16 (3N)^2 bytes per molecule.
    """
    return optimise_members(lambda moved, indices: energy_forces(moved), molecules, fmax, steps, callback, fixed)


def optimise_members(energy_forces: Callable[[Molecules, list[int]], tuple[Tensor, Tensor]], molecules: Molecules, fmax=0.01,
                     steps=500, callback: Callable[[Step], None] | None = None,
                     fixed: Sequence[Tensor | None] | None = None) -> Optimised:
    """`optimise` with energy_forces that are told which members of the batch they are asked about."""
    fixed = [None] * len(molecules) if fixed is None else fixed
    energy, forces = _evaluated(energy_forces, molecules, list(range(len(molecules))))
    states = [_start(molecules, bucket, energy, forces, fmax, [fixed[k] for k in bucket])
              for bucket in _buckets(molecules.sizes)]
    finished, number = [], 0
    _report(callback, number, states, molecules, energy, forces, [state.energy.isfinite() for state in states])
    for number in range(1, steps):
        finished += [_chosen(state, state.done) for state in states]
        states = [_chosen(state, ~state.done) for state in states if not bool(state.done.all())]
        if not states:
            break
        trials = [s.positions + kept_apart(s.numbers, s.positions, s.real,
                                           bounded_step(s.hessian, s.forces, s.radius, s.real.sum(-1))) for s in states]
        flat = torch.cat([trial[state.real] for trial, state in zip(trials, states, strict=True)])
        indices = torch.cat([state.index for state in states]).tolist()
        moved = molecules.select(indices).with_positions(flat)
        energy, forces = _evaluated(energy_forces, moved, indices)
        advanced = [_advanced(state, trial, e, f, fmax)
                    for state, trial, (e, f) in zip(states, trials, _padded(states, energy, forces), strict=True)]
        states = [state for state, _ in advanced]
        _report(callback, number, states, moved, energy, forces, [accepted for _, accepted in advanced])
    return _collected(molecules, finished + states, fmax)


def bounded_step(hessian: Float[Tensor, "molecule coordinate coordinate"], forces: Float[Tensor, "molecule place 3"],
                 radius: Float[Tensor, "molecule"], atoms: Int[Tensor, "molecule"]) -> Float[Tensor, "molecule place 3"]:
    """The step (H + l)^-1 F, no atom moving beyond `radius`.

    The shift l = F . step / angstrom^2 (rational function optimisation; three repetitions) is large far from a minimum and
    vanishes with the square of the force; above SHIFTED atoms it is taken per atom, lest distant parts slow each other.
    """
    share = (SHIFTED / atoms).clamp(max=1)
    force, shift = forces.flatten(1), radius.new_zeros(radius.shape)
    for _ in range(3):
        shifted = hessian + torch.diag_embed(shift[:, None].expand(-1, hessian.shape[-1]))
        step = torch.cholesky_solve(force[..., None], torch.linalg.cholesky(shifted))[..., 0]
        shift = share * (force * step).sum(-1)
    step = step.reshape(forces.shape)
    return step * (radius / _largest(step).clamp(min=1e-300)).clamp(max=1)[:, None, None]


def kept_apart(numbers: Int[Tensor, "molecule place"], positions: Float[Tensor, "molecule place 3"],
               real: Bool[Tensor, "molecule place"], step: Float[Tensor, "molecule place 3"]
               ) -> Float[Tensor, "molecule place 3"]:
    """The step, halved for a molecule until no two of its atoms come nearer than CLOSEST allows, or nearer than they are."""
    radii = _radii().to(positions.device)[numbers.clamp(0, len(_radii()) - 1)]
    pair = real[:, :, None] & real[:, None] & ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    limit = torch.minimum(CLOSEST * (radii[:, :, None] + radii[:, None]), 0.999 * torch.cdist(positions, positions))
    for _ in range(HALVINGS):
        moved = positions + step
        close = ((torch.cdist(moved, moved) < limit) & pair).flatten(1).any(-1)
        if not bool(close.any()):
            break
        step = torch.where(close[:, None, None], 0.5 * step, step)
    return step


def _advanced(state, trial, energy, forces, fmax):
    """The state after its trial geometry was calculated, and which members accept it."""
    forces = _along_free(state.free, forces)
    step, turned = (trial - state.positions).flatten(1), (state.forces - forces).flatten(1)
    usable = energy.isfinite() & forces.isfinite().flatten(1).all(-1)
    work = -0.5 * (step * (state.forces + forces).flatten(1)).sum(-1)          # what the forces say of the energy
    excess = energy - state.energy - work
    found = usable & (work < 0) & (excess > NOISE) & (excess > STEADY * state.excess) & (excess < LARGEST_STEP)
    height = torch.where(found & (energy > state.energy) & (state.step == 0), excess, state.step)
    change = torch.where(height > 0, work, energy - state.energy)
    calmer = (change <= NOISE) & ((energy <= state.first) | (height > 0)) & (_largest(forces) < _largest(state.forces))
    accepted = usable & ((change <= 0) | calmer)
    predicted = (step * (torch.einsum("mij,mj->mi", state.hessian, step) / 2 - state.forces.flatten(1))).sum(-1)
    model = torch.where(accepted[:, None, None], _on_free(state.free, model_hessian(state.numbers, trial, state.real)),
                        state.model)
    hessian = _updated(_positive(state.hessian + model - state.model), step, torch.where(usable[:, None], turned, 0.0), usable)
    radius = _next_radius(state.radius, _largest(trial - state.positions), change / predicted, accepted)
    forces = torch.where(accepted[:, None, None], forces, state.forces)
    return replace(
        state, positions=torch.where(accepted[:, None, None], trial, state.positions),
        energy=torch.where(accepted, energy, state.energy), forces=forces, hessian=hessian,
        model=model, radius=radius, done=(_largest(forces) < fmax) | (radius < SMALLEST_RADIUS),
        evaluations=state.evaluations + 1, lost=~usable, step=height,
        excess=torch.where(accepted, torch.nan, torch.where(usable, excess, state.excess))), accepted


def _along_free(free, forces):
    """Forces along the coordinates that may change."""
    return forces if free is None else torch.einsum("mij,mj->mi", free, forces.flatten(1)).view(forces.shape)


def _on_free(free, hessian):
    """The Hessian of the coordinates that may change, the background for the others."""
    if free is None:
        return hessian
    return free @ hessian @ free + BACKGROUND * (torch.eye(free.shape[-1], dtype=free.dtype, device=free.device) - free)


def _updated(hessian, step, change, usable):
    """BFGS: H - H s s^T H / s.H s + y y^T / s.y, y mixed with H s until s.y >= 0.2 s.H s, which keeps H positive (Powell)."""
    product = torch.einsum("mij,mj->mi", hessian, step)
    expected, found = (step * product).sum(-1), (step * change).sum(-1)
    usable = usable & (expected > 1e-14)
    low = usable & (found < 0.2 * expected)
    mix = torch.where(low, 0.8 * expected / torch.where(low, expected - found, 1.0), 1.0)[:, None]
    change = mix * change + (1 - mix) * product
    found = torch.where(usable, (step * change).sum(-1), 1.0)
    gain = change[:, :, None] * change[:, None] / found[:, None, None]
    loss = product[:, :, None] * product[:, None] / torch.where(usable, expected, 1.0)[:, None, None]
    return hessian + torch.where(usable[:, None, None], gain - loss, 0.0)


def _positive(hessian):
    """The Hessian; where it has lost positive curvature, its eigenvalues raised to the background."""
    bad = torch.linalg.cholesky_ex(hessian).info > 0
    if not bool(bad.any()):
        return hessian
    values, vectors = torch.linalg.eigh(hessian[bad])
    return hessian.masked_scatter(bad[:, None, None], (vectors * values.clamp(min=BACKGROUND)[:, None]) @ vectors.mT)


def _next_radius(radius, length, ratio, accepted):
    """Trust radius: longer after a good step that used it up, shorter after one that gained under a quarter of the expected."""
    longer = torch.where((ratio > 0.75) & (length > 0.8 * radius), (1.5 * radius).clamp(max=LARGEST_RADIUS), radius)
    kept = torch.where(ratio < 0.25, (0.5 * length).clamp(min=1e-3), longer)
    return torch.where(accepted, kept, 0.3 * length)


def model_hessian(numbers: Int[Tensor, "molecule place"], positions: Float[Tensor, "molecule place 3"],
                  real: Bool[Tensor, "molecule place"]) -> Float[Tensor, "molecule coordinate coordinate"]:
    """Hessian of a model force field at rest in the given geometry, eV/angstrom^2: sum k b b^T + background, b = dq/dx.

    q runs over stretches, bends, torsions and out-of-plane heights, with force constants that are products of the decay factors
    exp(a (r0^2 - r^2)) of their pairs, r0 the sum of covalent radii. Positive definite for any geometry.
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
    radii = _radii().to(positions.device)[numbers.clamp(0, len(_radii()) - 1)]
    hydrogens = (numbers == 1).long()
    rate = positions.new_tensor(DECAY)[hydrogens[:, :, None] + hydrogens[:, None]]
    square = (positions[:, :, None] - positions[:, None]).square().sum(-1)
    pair = real[:, :, None] & real[:, None] & ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    return torch.where(pair, torch.exp(rate * ((radii[:, :, None] + radii[:, None]) ** 2 - square)).clamp(max=3.0), 0.0)


@cached
def _radii():
    """Covalent radii by species number, angstrom; species that are no elements, beyond the table, count as 1 angstrom."""
    return torch.cat([torch.as_tensor(covalent_radii, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])


def _terms(x, decay):
    """(atoms (term, 4), dq/dx (term, 4, 3), force constant) of each kind of coordinate; unused atoms have zero rows."""
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


def _buckets(sizes):
    """Indices of molecules grouped by size, the largest of a group at most a third (and two atoms) above the smallest."""
    groups = []
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        if groups and sizes[index] <= sizes[groups[-1][0]] * 4 // 3 + 2:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _start(molecules, bucket, energy, forces, fmax, fixed):
    """The state of the molecules of a bucket at their first geometry."""
    chosen, device = molecules.select(bucket), molecules.positions.device
    sizes = torch.as_tensor(chosen.sizes, device=device)
    real = torch.arange(int(sizes.max()), device=device) < sizes[:, None]
    index = torch.as_tensor(bucket, device=device)
    ours = molecules.with_positions(forces).select(bucket).positions
    pad = functools.partial(_pad, real)
    numbers, positions, energy = pad(chosen.numbers), pad(chosen.positions.detach()), energy[index]
    free = None if all(f is None for f in fixed) else _projectors(fixed, positions.flatten(1))
    forces = _along_free(free, pad(ours))
    model = _on_free(free, model_hessian(numbers, positions, real))
    lost = ~energy.isfinite()
    return _State(index, numbers, real, positions, energy, forces, energy, model, model, torch.full_like(energy, FIRST_RADIUS),
                  (_largest(forces) < fmax) | lost, torch.ones_like(index), lost, torch.zeros_like(energy),
                  torch.full_like(energy, torch.nan), free)


def _projectors(fixed, like):
    """1 - sum d d^T over the fixed directions of each molecule; padded coordinates have no forces and stay as they are."""
    free = torch.diag_embed(torch.ones_like(like))
    for k, directions in enumerate(fixed):
        if directions is not None:
            d = torch.as_tensor(directions, dtype=like.dtype, device=like.device)
            free[k, :d.shape[1], :d.shape[1]] -= d.mT @ d
    return free


def _pad(real, flat):
    """Values of the atoms of a bucket, end to end, at their padded places; zero elsewhere."""
    return flat.new_zeros(*real.shape, *flat.shape[1:]).masked_scatter(real[(..., *[None] * (flat.dim() - 1))], flat)


def _padded(states, energy, forces):
    """Energies and padded forces of each state from those of all its molecules end to end."""
    counts, atoms = [len(state.index) for state in states], [int(state.real.sum()) for state in states]
    return [(e, _pad(state.real, f)) for state, e, f in zip(states, energy.split(counts), forces.split(atoms), strict=True)]


def _chosen(state, mask):
    return tensor_map(lambda t: t[mask], state)


def _largest(vectors):
    """Length of the longest vector of each molecule; NaN counts as infinite."""
    return vectors.norm(dim=-1).nan_to_num(torch.inf).amax(-1)


def _evaluated(energy_forces, molecules, indices):
    """Energy and forces without a tape, forces of a molecule without energy zero."""
    energy, forces = (t.detach() for t in energy_forces(molecules, indices))
    return energy, torch.where((energy.isfinite()[molecules.molecule])[:, None], forces, 0.0)


def _report(callback, number, states, molecules, energy, forces, accepted):
    """Tell the callback about a round."""
    if callback is not None:
        indices = torch.cat([state.index for state in states])
        order = indices.argsort() if number == 0 else torch.arange(len(indices), device=indices.device)
        callback(Step(number, indices[order], molecules, energy, forces, torch.cat(accepted)[order],
                      sum(int((~state.done).sum()) for state in states)))


def _collected(molecules, states, fmax):
    """The final states of all molecules in the order they were given."""
    index = torch.cat([state.index for state in states])
    owner = torch.cat([state.index[:, None].expand_as(state.real)[state.real] for state in states])
    atoms, order = owner.argsort(stable=True), index.argsort()
    positions = torch.cat([state.positions[state.real] for state in states])[atoms]
    forces = torch.cat([state.forces[state.real] for state in states])[atoms]
    names = ("energy", "evaluations", "radius", "lost", "step")
    energy, evaluations, radius, lost, step = (
        torch.cat([getattr(state, name) for state in states])[order] for name in names)
    largest = torch.cat([_largest(state.forces) for state in states])[order]
    failed = ~energy.isfinite()
    converged = (largest < fmax) & ~failed
    forces = torch.where(failed[molecules.molecule][:, None], torch.nan, forces)
    return Optimised(molecules.with_positions(positions), energy, forces, converged, failed, evaluations,
                     (radius < SMALLEST_RADIUS) & ~converged, lost, step)
