"""The walk of molecules that are solved together, compiled: the steps of `walk` where nothing is on a tape.

    topology, parameters        -> plan          once for molecules that move
    plan, positions             -> blocks        integrals and the energy of the cores
    blocks, electrons           -> problem       of the self-consistent field; its torch blocks are made if something asks
    plan, density               -> gradient, populations

Corrections stay with torch, and what `planned` and `placement` return None for is torch's too. `sweep` puts the steps together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.hamiltonian import starts
from nddo_ml.hamiltonian.starts import Start
from nddo_ml.integrals import compiled
from nddo_ml.integrals.compiled import Blocks, IntegralPlan, Placed
from nddo_ml.integrals.placed import Parameters
from nddo_ml.integrals.records import Adjoint
from nddo_ml.integrals.sparse import PACKED
from nddo_ml.integrals.topology import Topology
from nddo_ml.molecules import COINCIDENT, Molecules, PointCharges, Surroundings
from nddo_ml.properties.populations import about_centre_of_mass
from nddo_ml.scf.compiled import arranged
from nddo_ml.scf.density import aufbau
from nddo_ml.scf.fock import one_centre_energy
from nddo_ml.scf.problem import Electrons, Problem
from nddo_ml.scf.records import Flat, Plan

# charges and unpaired electrons of the molecules, spin channels, biradicals
Spins = tuple[tuple[int, ...], tuple[int, ...], int, bool]


@dataclass(frozen=True, eq=False)
class Filling:
    """How the orbitals of molecules are filled, and where their self-consistent field begins."""

    electrons: Electrons
    occupations: Float[Tensor, "molecule spin level"]
    start: Start                    # neutral atoms
    filled: Int[np.ndarray, "molecule spin"] | None     # electrons of each spin; None: a half-electron state
    s2: Float[np.ndarray, "molecule"]       # S_z (S_z + 1)
    charged: bool                           # whether any molecule is an ion


@dataclass(frozen=True, eq=False)
class Planned:
    """What the compiled walk keeps of molecules that move."""

    topology: Topology
    plan: IntegralPlan
    places: Plan                    # of the two-electron integrals, for the self-consistent field
    parameters: Parameters
    filled: dict[Spins, Filling] = field(default_factory=dict)

    def filling(self, molecules: Molecules, channels: int, biradical: bool, names: list[int] | None) -> Filling:
        """The electrons of molecules of these species; see starts.electrons."""
        key = tuple(molecules.charge.tolist()), tuple(molecules.unpaired.tolist()), channels, biradical
        known = self.filled.get(key)
        if known is None:
            electrons = starts.electrons(self.topology, molecules, channels, biradical, names)
            occupations = aufbau(electrons.alpha, electrons.beta, channels, self.topology.layout.size)
            numbers = np.stack([electrons.alpha.numpy(), electrons.beta.numpy()], 1)[:, :channels]
            filled = np.ascontiguousarray(numbers) if channels == 2 or bool((electrons.alpha == electrons.beta).all()) else None
            start = starts.neutral_atoms(self.topology, electrons)
            s_z = molecules.unpaired.numpy() / 2
            known = Filling(electrons, occupations, start, filled, s_z * (s_z + 1), bool(molecules.charge.any()))
            self.filled[key] = known
        return known

    @property
    def repels(self) -> bool:
        """Whether the plan has the repulsion of the cores."""
        return len(self.plan.cores.charge) == len(self.plan.pairs.i)

    def with_parameters(self, parameters: Parameters) -> "Planned":
        """The same with other parameters and without the repulsion of the cores."""
        return replace(self, plan=compiled.with_parameters(self.plan, parameters), parameters=parameters)


def planned(topology: Topology, parameters: Parameters) -> Planned | None:
    """What is kept of molecules of these species; None: this path does not serve them."""
    if not topology.layout.atoms:
        return None
    plan = compiled.plan(topology, parameters)
    pairs, atoms = plan.pairs, plan.atoms
    inside = np.flatnonzero(atoms.n_ao[pairs.j] > 0)
    columns = pairs.i[inside], pairs.j[inside], pairs.two_at[inside], PACKED[pairs.shell_j[inside]]
    places = arranged(atoms.n_ao, atoms.molecule, (plan.one_at, plan.one_stride), columns, plan.size)
    return Planned(topology, plan, places, parameters)


@dataclass(frozen=True, eq=False)
class Placement:
    """Molecules at their positions: what the walk makes of them before it knows their density."""

    planned: Planned
    x: Float[np.ndarray, "atom 3"]      # angstrom
    around: Placed | None
    blocks: Blocks

    def problem(self, filling: Filling) -> Problem:
        """The self-consistent field of so many electrons."""
        planned, blocks = self.planned, self.blocks

        def groups() -> Any:
            return compiled.blocks_of_groups(planned.plan, planned.topology, blocks)

        flat = Flat(planned.places, planned.plan.one, blocks.two)
        return Problem(planned.topology.layout, groups, torch.from_numpy(blocks.h), filling.occupations, flat,
                       filling.filled)


def placement(planned: Planned, molecules: Molecules, surroundings: Surroundings) -> Placement | None:
    """The molecules at their positions; None where atoms, or an atom and a charge, lie on one spot."""
    x = np.ascontiguousarray(molecules.positions.detach().numpy())
    around = compiled.placed(surroundings, len(molecules))
    blocks = compiled.integrals(planned.plan, x, around)
    apart = blocks.closest >= COINCIDENT and blocks.near >= COINCIDENT
    return Placement(planned, x, around, blocks) if apart else None


def populations(here: Placement, molecules: Molecules, D: Float[Tensor, "molecule spin orbital orbital"], filling: Filling
                ) -> Mapping[str, Tensor]:
    """`properties.populations`, by name."""
    made = compiled.populations(here.planned.plan, here.x, D.numpy(), filling.s2)
    charges, dipole, spin_populations, s2 = map(torch.from_numpy, made)
    if filling.charged:
        dipole = about_centre_of_mass(dipole, molecules)
    return {"charges": charges, "dipole": dipole, "spin_populations": spin_populations, "s2": s2}


@dataclass(frozen=True, eq=False)
class Slopes:
    """Derivatives of an energy at a fixed density, eV/angstrom; by the parameters of the atoms where they are asked for."""

    on_atoms: Float[Tensor, "atom 3"]
    on_sites: Float[Tensor, "site 3"] | None    # point charges
    parameters: Adjoint | None


def slopes(here: Placement, molecules: Molecules, D: Float[Tensor, "molecule spin orbital orbital"],
           charges: Float[Tensor, "atom"], repulsion: Float[Tensor, "pair"] | None = None) -> Slopes:
    """The derivatives of the electronic energy and of that of the cores, if the plan has it. charges (e): of the atoms.

    repulsion: the derivative by the interaction of unit cores (eV) of an energy of the cores that the plan does not have; the
    derivatives by the parameters are asked for then.
    """
    adjoint = None if repulsion is None else compiled.adjoint(here.planned.plan)
    weights = compiled.NOT_ANY if repulsion is None else repulsion.numpy()
    on_atoms, on_sites = compiled.gradient(here.planned.plan, here.x, D.numpy(), here.blocks, here.around, weights, adjoint)
    by_atoms = torch.from_numpy(on_atoms)
    if here.around is not None and here.around.field is not None:
        field = torch.from_numpy(here.around.field).index_select(0, molecules.molecule)
        by_atoms = by_atoms - charges[:, None] * field
    return Slopes(by_atoms, None if on_sites is None else torch.from_numpy(on_sites), adjoint)


def on_tape(here: Placement, parameters: Parameters, molecules: Molecules, charges: PointCharges | None,
            D: Float[Tensor, "molecule spin orbital orbital"], slopes: Slopes) -> Float[Tensor, "molecule"]:
    """Zeros, whose first derivatives by everything that is on a tape are those of the electronic energy: its linear part, each
    integral's derivatives times what the integral is made from.

    Half a square that is zero goes with it: the first derivatives are on the tape too, so that a second one is refused
    (scf.orders) instead of nothing.
    """
    layout, adjoint = here.planned.topology.layout, slopes.parameters
    energy = one_centre_energy(layout, parameters.U, parameters.one, D)
    energy = energy - energy.detach()
    change = _change(molecules.positions)
    per_atom, squared = (change * slopes.on_atoms).sum(1), change.sum(1)
    if adjoint is not None:
        change = _change(torch.stack([getattr(parameters.atoms, name) for name in compiled.BROUGHT], 1))
        weights = np.concatenate([adjoint.features, adjoint.zeta, adjoint.beta, adjoint.core[:, None]], 1)
        per_atom, squared = per_atom + (change * torch.from_numpy(weights)).sum(1), squared + change.sum(1)
    squared = torch.zeros_like(energy).index_add(0, molecules.molecule, squared)
    if adjoint is not None and parameters.resonance:        # empty: no pairs
        sizes = [block.numel() for block in parameters.resonance]
        parts, changes = torch.from_numpy(adjoint.factors).split(sizes), [_change(block) for block in parameters.resonance]
        per_pair = torch.cat([(block * part.view(block.shape)).sum(1) for block, part in zip(changes, parts, strict=True)])
        energy = energy.index_add(0, here.planned.topology.molecule, per_pair)
        squared = squared.index_add(0, here.planned.topology.molecule, torch.cat([block.sum(1) for block in changes]))
    energy = energy.index_add(0, molecules.molecule, per_atom)
    if charges is not None and slopes.on_sites is not None:
        change = _change(charges.positions)
        energy = energy.index_add(0, charges.molecule, (change * slopes.on_sites).sum(1))
        squared = squared.index_add(0, charges.molecule, change.sum(1))
    return energy + 0.5 * squared.square()


def _change(values: Tensor) -> Tensor:
    """Zeros on the tape of the values."""
    return values - values.detach()


def repulsion(here: Placement, parameters: Parameters, R: Float[Tensor, "pair"]
              ) -> tuple[Float[Tensor, "molecule"], Float[Tensor, "pair"]]:
    """The repulsion of the cores (eV) on the tape of the distances R (angstrom) and the parameters, but for that of the
    interaction of unit cores; and its derivative by that."""
    topology = here.planned.topology
    gamma = torch.from_numpy(here.blocks.gamma).requires_grad_()
    sides = parameters.core_i, parameters.core_j
    with torch.enable_grad():
        energy = topology.recipe.core_energy(topology.rules, R, gamma, *sides, parameters.pairs)
        if parameters.moved is not None:
            energy = energy + parameters.moved * gamma
        slope, = torch.autograd.grad(energy.sum(), gamma, retain_graph=True)
    return R.new_zeros(len(here.blocks.core)).index_add(0, topology.molecule, energy), slope
