"""Geometry optimisation of one molecule or of a ragged batch, every molecule at its own pace.

Quasi-Newton steps in cartesian coordinates. Their Hessian starts as that of a model force field (model_hessian.py) and then
follows two things: the change of that model as the molecule moves, exactly, and what the gradients teach about the rest (BFGS).
A level shift and a trust radius bound each step. A step that raises the energy, brings atoms together or leads where there is
no energy is taken back and shortened, so no molecule ends higher than it began. Molecules that are done leave the batch.

Published corrections have steps in their energy, where a method that looks at energies is caught: however short the way it
tries, the energy rises. There the rise exceeds the work of the forces by an amount that does not shrink with the way. Where
that is seen and the forces lead over it, the molecule follows its forces alone from then on, as with ASE's BFGS: work, the
integral of the forces, stands for the change of the energy. `step` of the result is its height.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.common.struct import record, tensor_map
from nddo_ml.errors import UnknownOption
from nddo_ml.geometry.model_hessian import BACKGROUND, model_hessian, radii_of
from nddo_ml.molecules import Molecules

SHIFTED = 15                # atoms from which the level shift stops growing with the size of the molecule
FIRST_RADIUS, LARGEST_RADIUS, SMALLEST_RADIUS = 0.3, 0.5, 1e-5   # angstrom, largest displacement of an atom in one step
NOISE = 1e-7                # eV: a rise below this is no reason to refuse a step that lowers the forces
CLOSEST, HALVINGS = 0.45, 8 # sums of covalent radii: no step brings two atoms nearer; how often it is halved for that
# A step of the energy: least part of the excess over the work of the forces that is left when the trial step is shortened to
# 0.3 (a smooth energy leaves 0.03, forces that are wrong 0.3); largest one, eV, beyond which it is another state of the SCF
STEADY, LARGEST_STEP = 0.6, 0.5


@record
class Optimised:
    """Result of `optimise`, in the order of the molecules given."""

    molecules: Molecules                    # at their final positions
    energy: Float[Tensor, "molecule"]       # eV; NaN where `failed`
    forces: Float[Tensor, "atom 3"]         # eV/angstrom, of fixed coordinates 0; NaN where `failed`
    converged: Bool[Tensor, "molecule"]     # the largest force on an atom is below the limit
    failed: Bool[Tensor, "molecule"]        # no energy at the first geometry: the molecule is returned as given
    evaluations: Int[Tensor, "molecule"]    # how often each was calculated
    stuck: Bool[Tensor, "molecule"]         # no step, however short, was acceptable
    lost: Bool[Tensor, "molecule"]          # the last step led where there is no energy
    # eV, height of the first step of the energy that was climbed, after which a molecule may end higher than it began; 0: none
    step: Float[Tensor, "molecule"]


@record
class OptimisationStep:
    """What a callback sees after each round, of the molecules that were calculated in it."""

    round: int
    indices: Int[Tensor, "active"]          # their places among the molecules given
    molecules: Molecules                    # the geometries tried
    energy: Float[Tensor, "active"]         # eV
    forces: Float[Tensor, "atom 3"]         # eV/angstrom
    accepted: Bool[Tensor, "active"]        # whether each geometry became its molecule's new one
    remaining: int                          # how many molecules are not done yet


# energy `molecule` (eV) and forces `atom 3` (eV/angstrom) of molecules, and the same told which members of a batch they are
EnergyForces = Callable[[Molecules], tuple[Tensor, Tensor]]
MemberEnergyForces = Callable[[Molecules, list[int]], tuple[Tensor, Tensor]]
Callback = Callable[[OptimisationStep], object]
# orthonormal directions for each molecule, None: none; their numbers differ from molecule to molecule
Fixed = Sequence[Float[Tensor, "_direction _coordinate"] | None]


@record
class _Group:
    """Molecules of similar size, padded, on their way."""

    index: Int[Tensor, "molecule"]                              # their places among the molecules given
    numbers: Int[Tensor, "molecule place"]                      # species
    real: Bool[Tensor, "molecule place"]                        # whether there is an atom
    positions: Float[Tensor, "molecule place 3"]                # where each stands, angstrom
    energy: Float[Tensor, "molecule"]                           # there, eV
    forces: Float[Tensor, "molecule place 3"]                   # there, along the free coordinates, eV/angstrom
    first: Float[Tensor, "molecule"]                            # energy at the first geometry, eV
    hessian: Float[Tensor, "molecule coordinate coordinate"]    # what is known of it, eV/angstrom^2
    model: Float[Tensor, "molecule coordinate coordinate"]      # that of the model force field
    radius: Float[Tensor, "molecule"]                           # how far an atom may go in the next step, angstrom
    done: Bool[Tensor, "molecule"]
    evaluations: Int[Tensor, "molecule"]
    lost: Bool[Tensor, "molecule"]                              # whether the last geometry tried had no energy
    step: Float[Tensor, "molecule"]             # height of the step of the energy it met, eV; 0: none, its energy counts
    excess: Float[Tensor, "molecule"]           # eV by which the trial refused last exceeded the work; NaN: none since a step
    free: Float[Tensor, "molecule coordinate coordinate"] | None    # projector on the coordinates that may change; None: all


@record
class _Evaluated:
    """Molecules with their energies (eV) and forces (eV/angstrom)."""

    molecules: Molecules
    energy: Float[Tensor, "molecule"]
    forces: Float[Tensor, "atom 3"]


def optimise(energy_forces: EnergyForces, molecules: Molecules, fmax: float = 0.01, steps: int = 500,
             callback: Callback | None = None, fixed: Fixed | None = None) -> Optimised:
    """Molecules relaxed until the largest force on an atom is below `fmax` (eV/angstrom), each within `steps` evaluations.

    energy_forces maps Molecules to energy (molecule), eV, and forces (atom, 3), eV/angstrom; a NaN energy says that a geometry
    could not be calculated: at the first geometry the molecule is flagged as failed, later the step is shortened. It is called
    with those molecules of the batch that are not done. fixed: for each molecule orthonormal directions (direction, 3N) along
    which it may not move (None: none); forces along them do not count. Memory: two Hessians, 16 (3N)^2 bytes per molecule.

    Raises:
        UnknownOption: `fmax` or `steps` is not positive.
    """
    return optimise_members(lambda moved, indices: energy_forces(moved), molecules, fmax, steps, callback, fixed)


def optimise_members(energy_forces: MemberEnergyForces, molecules: Molecules, fmax: float = 0.01, steps: int = 500,
                     callback: Callback | None = None, fixed: Fixed | None = None) -> Optimised:
    """`optimise` with energy_forces that are told which members of the batch they are asked about."""
    if not fmax > 0 or steps < 1:
        raise UnknownOption(f"fmax={fmax!r}, steps={steps!r}: an optimisation needs a largest force above 0 eV/angstrom and at "
                            "least one evaluation.")
    fixed = [None] * len(molecules) if fixed is None else fixed
    first = _evaluated(energy_forces, molecules, list(range(len(molecules))))
    groups = [_start(first, bucket, fmax, [fixed[k] for k in bucket]) for bucket in _buckets(molecules.sizes)]
    finished, number = [], 0
    _report(callback, number, groups, first, [group.energy.isfinite() for group in groups])
    for number in range(1, steps):
        finished += [_chosen(group, group.done) for group in groups]
        groups = [_chosen(group, ~group.done) for group in groups if not bool(group.done.all())]
        if not groups:
            break
        trials = [g.positions + kept_apart(g.numbers, g.positions, g.real,
                                           bounded_step(g.hessian, g.forces, g.radius, g.real.sum(-1))) for g in groups]
        flat = torch.cat([trial[group.real] for trial, group in zip(trials, groups, strict=True)])
        indices = torch.cat([group.index for group in groups]).tolist()
        tried = _evaluated(energy_forces, molecules.select(indices).with_positions(flat), indices)
        advanced = [_advanced(group, trial, energy, forces, fmax)
                    for group, trial, (energy, forces) in zip(groups, trials, _padded(groups, tried), strict=True)]
        groups = [group for group, _ in advanced]
        _report(callback, number, groups, tried, [accepted for _, accepted in advanced])
    return _collected(molecules, finished + groups, fmax)


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
    radii = radii_of(numbers)
    pair = real[:, :, None] & real[:, None] & ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    limit = torch.minimum(CLOSEST * (radii[:, :, None] + radii[:, None]), 0.999 * torch.cdist(positions, positions))
    for _ in range(HALVINGS):
        moved = positions + step
        close = ((torch.cdist(moved, moved) < limit) & pair).flatten(1).any(-1)
        if not bool(close.any()):
            break
        step = torch.where(close[:, None, None], 0.5 * step, step)
    return step


def _advanced(group, trial, energy, forces, fmax):
    """The group after its trial geometries were calculated, and which members accept theirs."""
    forces = _along_free(group.free, forces)
    step, turned = (trial - group.positions).flatten(1), (group.forces - forces).flatten(1)
    usable = energy.isfinite() & forces.isfinite().flatten(1).all(-1)
    work = -0.5 * (step * (group.forces + forces).flatten(1)).sum(-1)          # what the forces say of the energy
    excess = energy - group.energy - work
    is_step = usable & (work < 0) & (excess > NOISE) & (excess > STEADY * group.excess) & (excess < LARGEST_STEP)
    height = torch.where(is_step & (energy > group.energy) & (group.step == 0), excess, group.step)
    change = torch.where(height > 0, work, energy - group.energy)
    calmer = (change <= NOISE) & ((energy <= group.first) | (height > 0)) & (_largest(forces) < _largest(group.forces))
    accepted = usable & ((change <= 0) | calmer)
    predicted = (step * (torch.einsum("mij,mj->mi", group.hessian, step) / 2 - group.forces.flatten(1))).sum(-1)
    model = torch.where(accepted[:, None, None], _on_free(group.free, model_hessian(group.numbers, trial, group.real)),
                        group.model)
    hessian = _updated(_positive(group.hessian + model - group.model), step, torch.where(usable[:, None], turned, 0.0), usable)
    radius = _next_radius(group.radius, _largest(trial - group.positions), change / predicted, accepted)
    forces = torch.where(accepted[:, None, None], forces, group.forces)
    return replace(
        group, positions=torch.where(accepted[:, None, None], trial, group.positions),
        energy=torch.where(accepted, energy, group.energy), forces=forces, hessian=hessian,
        model=model, radius=radius, done=(_largest(forces) < fmax) | (radius < SMALLEST_RADIUS),
        evaluations=group.evaluations + 1, lost=~usable, step=height,
        excess=torch.where(accepted, torch.nan, torch.where(usable, excess, group.excess))), accepted


def _along_free(free, forces):
    """Forces along the coordinates that may change."""
    return forces if free is None else torch.einsum("mij,mj->mi", free, forces.flatten(1)).view(forces.shape)


def _on_free(free, hessian):
    """The Hessian of the coordinates that may change, the background for the others."""
    if free is None:
        return hessian
    return free @ hessian @ free + BACKGROUND * (torch.eye(free.shape[-1], dtype=free.dtype, device=free.device) - free)


def _updated(hessian, step, change, usable):
    """BFGS: H - H s s^T H / s.H s + y y^T / s.y, y mixed with H s until s.y >= 0.2 s.H s, which keeps H positive.

    step: s; change: y, that of the gradient. Mixing: Powell, in Numerical Analysis (Dundee 1977), p. 144.
    """
    product = torch.einsum("mij,mj->mi", hessian, step)
    expected, seen = (step * product).sum(-1), (step * change).sum(-1)         # curvatures along the step
    usable = usable & (expected > 1e-14)
    low = usable & (seen < 0.2 * expected)
    mix = torch.where(low, 0.8 * expected / torch.where(low, expected - seen, 1.0), 1.0)[:, None]
    change = mix * change + (1 - mix) * product
    mixed = torch.where(usable, (step * change).sum(-1), 1.0)
    gain = change[:, :, None] * change[:, None] / mixed[:, None, None]
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


def _buckets(sizes):
    """Indices of molecules grouped by size, the largest of a group at most a third (and two atoms) above the smallest."""
    groups = []
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        if groups and sizes[index] <= sizes[groups[-1][0]] * 4 // 3 + 2:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _start(first, bucket, fmax, fixed):
    """The group of the molecules `bucket` at their first geometry."""
    molecules, device = first.molecules, first.energy.device
    chosen = molecules.select(bucket)
    sizes = torch.as_tensor(chosen.sizes, device=device)
    real = torch.arange(int(sizes.max()), device=device) < sizes[:, None]
    index = torch.as_tensor(bucket, device=device)
    pad = functools.partial(_pad, real)
    numbers, positions, energy = pad(chosen.numbers), pad(chosen.positions.detach()), first.energy[index]
    free = None if all(f is None for f in fixed) else _projectors(fixed, positions.flatten(1))
    forces = _along_free(free, pad(molecules.with_positions(first.forces).select(bucket).positions))
    model = _on_free(free, model_hessian(numbers, positions, real))
    lost = ~energy.isfinite()
    return _Group(index, numbers, real, positions, energy, forces, energy, model, model, torch.full_like(energy, FIRST_RADIUS),
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


def _padded(groups, tried):
    """Energies and padded forces of each group from those of all its molecules end to end."""
    energies = tried.energy.split([len(group.index) for group in groups])
    forces = tried.forces.split([int(group.real.sum()) for group in groups])
    return [(e, _pad(group.real, f)) for group, e, f in zip(groups, energies, forces, strict=True)]


def _chosen(group, mask):
    return tensor_map(lambda t: t[mask], group)


def _largest(vectors):
    """Length of the longest vector of each molecule; NaN counts as infinite."""
    return vectors.norm(dim=-1).nan_to_num(torch.inf).amax(-1)


def _evaluated(energy_forces, molecules, indices):
    """Molecules evaluated without a tape; forces of a molecule without energy are zero."""
    energy, forces = (t.detach() for t in energy_forces(molecules, indices))
    return _Evaluated(molecules, energy, torch.where((energy.isfinite()[molecules.molecule])[:, None], forces, 0.0))


def _report(callback, number, groups, tried, accepted):
    """Tell the callback about a round."""
    if callback is not None:
        indices = torch.cat([group.index for group in groups])
        order = indices.argsort() if number == 0 else torch.arange(len(indices), device=indices.device)
        callback(OptimisationStep(number, indices[order], tried.molecules, tried.energy, tried.forces,
                                  torch.cat(accepted)[order], sum(int((~group.done).sum()) for group in groups)))


def _collected(molecules, groups, fmax):
    """The final geometries of all molecules in the order they were given."""
    index = torch.cat([group.index for group in groups])
    owner = torch.cat([group.index[:, None].expand_as(group.real)[group.real] for group in groups])
    atoms, order = owner.argsort(stable=True), index.argsort()
    positions = torch.cat([group.positions[group.real] for group in groups])[atoms]
    forces = torch.cat([group.forces[group.real] for group in groups])[atoms]
    names = ("energy", "evaluations", "radius", "lost", "step")
    energy, evaluations, radius, lost, step = (
        torch.cat([getattr(group, name) for group in groups])[order] for name in names)
    largest = torch.cat([_largest(group.forces) for group in groups])[order]
    failed = ~energy.isfinite()
    converged = (largest < fmax) & ~failed
    forces = torch.where(failed[molecules.molecule][:, None], torch.nan, forces)
    return Optimised(molecules.with_positions(positions), energy, forces, converged, failed, evaluations,
                     (radius < SMALLEST_RADIUS) & ~converged, lost, step)
