"""The compiled walk of molecules that are solved together: integrals, self-consistent field and gradients in machine code.

It serves whatever is differentiated once at most: published methods, learned ones, their trainings. What it does not serve
(`serves` is False, or `swept` returns None) the walk of torch calculates, and whatever is wrong with the input: the errors are
those of one path.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import reduce
from math import isfinite
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.common import compiling
from nddo_ml.hamiltonian import accounts, compiled, shifted, starts, walk
from nddo_ml.hamiltonian.buckets import Bucket
from nddo_ml.hamiltonian.compiled import Planned
from nddo_ml.hamiltonian.faults import Tables
from nddo_ml.hamiltonian.memory import Memory
from nddo_ml.hamiltonian.merging import Part
from nddo_ml.hamiltonian.shifted import Parent
from nddo_ml.hamiltonian.tape import Tape, forces, movable
from nddo_ml.integrals.corrections import GROUPS, Term, concerning, corrections
from nddo_ml.integrals.placed import Parameters
from nddo_ml.integrals.topology import Topology
from nddo_ml.methods import Method
from nddo_ml.molecules import Molecules
from nddo_ml.networks.shifts import Shifts
from nddo_ml.pairs import Distances

CALL, PAIR = 6e-3, 1e-5     # seconds that torch needs for a call, and for a pair of atoms in it, about


@runtime_checkable
class Sweepable(Protocol):
    """What is asked of a Hamiltonian here."""

    method: Method
    memory: Memory
    terms: dict[str, Term]
    remembered: int
    U_ss: nn.Parameter

    @property
    def network(self) -> nn.Module | None: ...

    @property
    def judges(self) -> bool: ...

    def version(self) -> Tables: ...

    def table_taped(self) -> bool: ...

    def gathered(self, molecules: Molecules, version: Tables) -> tuple[Topology, Parameters | Parent]: ...

    def shifts(self, topology: Topology, molecules: Molecules, distances: Distances
               ) -> tuple[Shifts | None, dict[int, str]]: ...

    def refused(self, topology: Topology, version: Tables) -> dict[int, str]: ...

    def reference_parts(self, topology: Topology, molecules: Molecules, shifts: Shifts | None) -> dict[str, Tensor]: ...

    def free_atoms(self, topology: Topology, parameters: Parameters, learned: bool) -> Float[Tensor, "molecule"]: ...


def serves(model: Sweepable, bucket: Bucket, tape: Tape, live: bool) -> bool:
    """Whether the compiled walk may serve molecules. live: whether the parameters are others at every call."""
    scf, around = bucket.scf, bucket.surroundings
    if scf.ladder is not None or scf.density is not None or (scf.unrestricted is False and bucket.channels == 1 and any(
            bucket.molecules.unpaired.tolist())):
        return False
    if (around.field is not None and (tape.on or live)) or (around.charges is not None and tape.on and any(
            tensor.requires_grad for tensor in (around.charges.charges, around.charges.rho))):
        return False        # their derivatives are not among those of the sweep
    atoms, members = len(bucket.molecules.numbers), len(bucket.molecules)
    return model.U_ss.is_cpu and compiling.due(CALL + PAIR * atoms**2 / members)


def swept(model: Sweepable, bucket: Bucket, tape: Tape, live: bool) -> Part | None:
    """The compiled walk of molecules that are solved together; None where it does not serve them, or a kernel failed. live:
    whether the parameters are others at every call."""
    try:
        return _swept(model, bucket, tape, live)
    except Exception as error:
        if not compiling.failed(error):
            raise
        compiling.broken(error)
        return None


def _swept(model: Sweepable, bucket: Bucket, tape: Tape, live: bool) -> Part | None:
    scf, index, version = bucket.scf, bucket.index, model.version()
    kept = model.memory.topology(bucket.molecules, model.remembered, lambda: walk.topology(model.method, bucket.molecules))
    topology = kept.topology

    def plan() -> Planned | None:
        gathered = model.gathered(bucket.molecules, version)[1]
        base = gathered if isinstance(gathered, Parameters) else shifted.shifted(topology, gathered, None)
        return compiled.planned(topology, base)

    planned = model.memory.kept(kept, version, "planned", plan)
    if planned is None or not (live or planned.repels):
        return None
    learned, recorded = model.network is not None or version.offset, tape.on or (live and tape.forces)
    leaf, leaf_around = movable(bucket.molecules, bucket.surroundings) if tape.forces and recorded else (
        bucket.molecules, bucket.surroundings)
    with torch.set_grad_enabled(recorded):
        molecules, around = tape.enter(leaf), tape.enter(leaf_around)
        refused, shifts, R = model.refused(topology, version), None, None
        if live:
            distances = walk.distances(topology, molecules.positions, bucket.names)
            shifts, unusable = model.shifts(topology, molecules, distances)
            refused, R = unusable | refused, distances.R
            gathered = model.gathered(molecules, version)[1]
            made = shifted.shifted(topology, gathered, shifts, 1) if isinstance(gathered, Parent) else gathered
            planned = planned.with_parameters(tape.enter(made))
        parameters = planned.parameters
        with torch.set_grad_enabled(False) if recorded else nullcontext():
            here = compiled.placement(planned, molecules, around)
            if here is None:
                return None
            filling = planned.filling(molecules, bucket.channels, scf.biradical, index)
            if filling.filled is None:
                return None
            start = starts.earlier(topology, bucket.channels, bucket.guess, index, filling.occupations) or filling.start
            state = walk.state(topology, molecules, here.problem(filling), scf, start)
            if state.index != index:
                state = replace(state, index=index)
            state = state.without(refused)
            D = state.solution.D
            held = compiled.populations(here, molecules, D, filling)
        parts = {"electronic": state.solution.energy, "core_core": torch.from_numpy(here.blocks.core)}
        by_gamma = None
        if R is not None:
            repulsion, by_gamma = compiled.repulsion(here, parameters, R)
            parts["core_core"] = parts["core_core"] + repulsion
        slopes = None
        if tape.forces or tape.on:
            slopes = compiled.slopes(here, molecules, D, held["charges"], by_gamma)
        if recorded and slopes is not None:
            parts["electronic"] = parts["electronic"] + compiled.on_tape(here, parameters, molecules, around.charges, D,
                                                                        slopes)
        if tape.on:
            state = replace(state, shifts=shifts)
        added, by_positions = _corrections(model.terms, topology, molecules, R if recorded else None, recorded, tape.forces)
        parts |= added
        if learned:
            parts |= model.reference_parts(topology, molecules, shifts)
        if model.judges:
            R = walk.distances(topology, molecules.positions).R if R is None else R
            state = accounts.judged(state, molecules, topology, R, (parameters.atoms.core, held["charges"]), bucket.names)
        energy = accounts.total([*parts.values()])
        sound = all(state.solution.converged.tolist()) and isfinite(sum(energy.detach().tolist()))
        if not sound:
            state = state.without(accounts.not_finite(parts, state.solution.converged))
        converged, on_atoms, on_charges = state.solution.converged, None, None
        if tape.forces and recorded:
            on_atoms, on_charges = forces(torch.where(converged, energy, 0.0), leaf, leaf_around.charges, tape)
        elif tape.forces and slopes is not None:
            by_atoms = slopes.on_atoms if by_positions is None else slopes.on_atoms + by_positions
            on_atoms, on_charges = (None if by is None else torch.from_numpy(-by.numpy()) for by in (by_atoms, slopes.on_sites))
        energy = energy if sound else torch.where(converged, energy, torch.nan)
        if live and model.table_taped():
            free = model.free_atoms(topology, parameters, learned)
        else:
            free = model.memory.kept(kept, version, "free atoms of a reference" if learned else "free atoms",
                                     lambda: model.free_atoms(topology, parameters, learned))
    quantities = {"energy": energy, "forces": on_atoms, "point_charge_forces": on_charges, "free_atoms": free,
                  **(tape.advance(held) if tape.on else held)}
    part = Part(index, state, *(tape.leave((quantities, parts)) if recorded else (quantities, parts)), learned)
    return part if sound else part.valid(molecules, around)


def _corrections(terms: Mapping[str, Term], topology: Topology, molecules: Molecules, R: Float[Tensor, "pair"] | None,
                 recorded: bool, sloped: bool) -> tuple[dict[str, Tensor], Tensor | None]:
    """The energies of the correction terms by name, eV, on the tape of the positions if that is `recorded`; and the
    derivative of their sum by the positions, eV/angstrom, where it is not and is asked for (None: zero). R: the distances of
    the pairs (angstrom), if they are on that tape already."""
    composition, constants = topology.composition, topology.recipe.constants
    if not concerning(terms, composition):
        return {GROUPS[name]: torch.from_numpy(np.zeros(len(molecules))) for name in terms}, None
    if recorded:
        return corrections(terms, composition, molecules.positions, R, constants), None
    with torch.set_grad_enabled(sloped):
        leaf = molecules.positions.detach().requires_grad_(sloped)
        energies = corrections(terms, composition, leaf, None, constants)
        taped = [energy for energy in energies.values() if energy.requires_grad]
        slopes = torch.autograd.grad(reduce(torch.add, taped).sum(), leaf)[0] if taped else None
    return {name: energy.detach() for name, energy in energies.items()}, slopes
