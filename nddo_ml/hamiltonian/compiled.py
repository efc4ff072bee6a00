"""The walk of molecules that are solved together, compiled: the steps of `walk` where nothing is on a tape.

    topology, parameters        -> plan          once for molecules that move
    plan, positions             -> blocks        integrals and the energy of the cores
    blocks, electrons           -> problem       of the self-consistent field; its torch blocks are made if something asks
    plan, density               -> gradient, populations

Corrections stay with torch. What this path does not serve (`plan_of` and `calculated` return None) torch calculates, and so
does whatever is wrong with the input: the errors are those of one path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.hamiltonian import starts
from nddo_ml.hamiltonian.starts import Start
from nddo_ml.integrals import compiled
from nddo_ml.integrals.compiled import Blocks, Placed, Plan
from nddo_ml.integrals.placed import Parameters
from nddo_ml.integrals.topology import Topology
from nddo_ml.molecules import COINCIDENT, Molecules, Surroundings
from nddo_ml.properties.populations import about_centre_of_mass
from nddo_ml.scf.density import aufbau
from nddo_ml.scf.problem import Electrons, Problem

Spins = tuple[bytes, bytes, int, bool]      # charges and unpaired electrons of the molecules, spin channels, biradicals


@dataclass(frozen=True, eq=False)
class Filling:
    """How the orbitals of molecules are filled, and where their self-consistent field begins."""

    electrons: Electrons
    occupations: Float[Tensor, "molecule spin level"]
    start: Start                    # neutral atoms
    whole: bool                     # no half-electron state


@dataclass(frozen=True, eq=False)
class Planned:
    """What the compiled walk keeps of molecules that move."""

    topology: Topology
    plan: Plan
    parameters: Parameters
    filled: dict[Spins, Filling] = field(default_factory=dict)

    def filling(self, molecules: Molecules, channels: int, biradical: bool, names: list[int] | None) -> Filling:
        """The electrons of molecules of these species; see starts.electrons."""
        key = molecules.charge.numpy().tobytes(), molecules.unpaired.numpy().tobytes(), channels, biradical
        if key not in self.filled:
            electrons = starts.electrons(self.topology, molecules, channels, biradical, names)
            occupations = aufbau(electrons.alpha, electrons.beta, channels, self.topology.layout.size)
            whole = not bool((occupations * (1 - occupations)).any())
            self.filled[key] = Filling(electrons, occupations, starts.neutral_atoms(self.topology, electrons), whole)
        return self.filled[key]


def planned(topology: Topology, parameters: Parameters) -> Planned | None:
    """What is kept of molecules of these species; None: this path does not serve them."""
    if not topology.layout.atoms:
        return None
    plan = compiled.plan(topology, parameters)
    served = len(plan.cores.charge) == len(plan.pairs.i)
    return Planned(topology, plan, parameters) if served else None


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

        return Problem(planned.topology.layout, groups, torch.from_numpy(blocks.h), filling.occupations)


def placement(planned: Planned, molecules: Molecules, surroundings: Surroundings) -> Placement | None:
    """The molecules at their positions; None where atoms, or an atom and a charge, lie on one spot."""
    x = np.ascontiguousarray(molecules.positions.detach().numpy())
    around = compiled.placed(surroundings, len(molecules))
    blocks = compiled.integrals(planned.plan, x, around)
    apart = blocks.closest >= COINCIDENT and blocks.near >= COINCIDENT
    return Placement(planned, x, around, blocks) if apart else None


def populations(here: Placement, molecules: Molecules, D: Float[Tensor, "molecule spin orbital orbital"]
                ) -> Mapping[str, Tensor]:
    """`properties.populations`, by name."""
    made = compiled.populations(here.planned.plan, here.x, D.numpy(), molecules.unpaired.numpy())
    values = {name: torch.from_numpy(value) for name, value in made._asdict().items()}
    return values | {"dipole": about_centre_of_mass(values["dipole"], molecules)}


def gradient(here: Placement, molecules: Molecules, D: Float[Tensor, "molecule spin orbital orbital"],
             charges: Float[Tensor, "atom"]) -> tuple[Tensor, Tensor | None]:
    """dE/dx on the atoms and on the point charges, eV/angstrom, without that of the corrections; charges (e): of the atoms."""
    on_atoms, on_sites = compiled.gradient(here.planned.plan, here.x, D.numpy(), here.blocks, here.around)
    slopes = torch.from_numpy(on_atoms)
    if here.around is not None and here.around.field is not None:
        field = torch.from_numpy(here.around.field).index_select(0, molecules.molecule)
        slopes = slopes - charges[:, None] * field
    return slopes, None if on_sites is None else torch.from_numpy(on_sites)
