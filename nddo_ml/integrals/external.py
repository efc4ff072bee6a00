"""External point charges: their potential at the electrons and the cores of the molecules.

    V_ij = -sum_s q_s (ij|s),    E = sum_A Z_A sum_s q_s (core_A|s)

A charge is seen through the multipoles of each charge distribution and the additive term of each core, exactly like the core
of an atom without short-range terms; its own additive term is zero unless it is screened. Electrons and core share one gamma,
so that a neutral spherical atom feels it no more than it would feel that core (docs/howto/point_charges.md). Far away the
multipoles are point charges and point dipoles: two opposite distant charges are a uniform field. Nothing is cut off. PM7's
change to a bare 1/R at 7 angstrom, which takes the hybrid moments of an atom away, concerns pairs of atoms and is not made
here; nor is the rule that p functions of helium feel no core.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nddo_ml.common.struct import record
from nddo_ml.errors import InvalidMolecule
from nddo_ml.integrals.attraction import equalised_attraction
from nddo_ml.integrals.configurations import CORE, charge_kernel
from nddo_ml.integrals.frame import harmonics, packed
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.parameters import Elements, gather
from nddo_ml.integrals.repulsion import features, local_integrals
from nddo_ml.molecules import COINCIDENT, PointCharges, named
from nddo_ml.orbitals import Layout
from nddo_ml.units import Constants

CHUNK = 250_000     # pairs of an atom and a charge evaluated at once; of more, each part is evaluated again for its derivatives


@record
class PlacedAtoms:
    """The atoms of a batch, where they are."""

    layout: Layout
    elements: Elements                          # of each atom
    integrals: AtomIntegrals                    # of each atom
    positions: Float[Tensor, "atom 3"]          # angstrom
    names: Sequence[int] | None = None         # of the molecules in an error; None for a single one


@record
class Encounters:
    """Pairs of an atom and a charge of the same molecule."""

    rows: int                           # of the group of atoms
    row: Int[Tensor, "pair"]            # the row of each atom in its group
    atom: Int[Tensor, "pair"]           # the atom in the batch
    site: Int[Tensor, "pair"]           # the charge in the batch


def external(
    atoms: PlacedAtoms, charges: PointCharges, constants: Constants, equalise: bool = False
) -> tuple[list[Float[Tensor, "_ _"]], Float[Tensor, "molecule"]]:
    """(V, E): V_ij (k, m) of the electrons for each atom group of the layout, and the energy E (molecule) of the cores, eV.

    equalise: as in attraction.equalised_attraction, for the d electrons of metals in PM7, so that all monopoles of an atom are
    alike.

    Raises:
        InvalidMolecule: a charge lies on top of an atom.
    """
    layout = atoms.layout
    energy = atoms.positions.new_zeros(layout.molecules)
    blocks: list[Tensor] = []
    bare = (layout.treated == 0).nonzero()[:, 0]
    groups: list[tuple[int, Tensor]] = [(g.orbitals, g.atoms) for g in layout.atoms] + ([(0, bare)] if len(bare) else [])
    for n, group in groups:
        at_electrons, at_core = potential(n, group, atoms, charges, constants)
        if equalise and n == 9:
            without_p = torch.zeros_like(group, dtype=torch.bool)
            at_electrons = equalised_attraction(at_electrons, n, gather(atoms.elements, group), without_p)
        blocks.append(-at_electrons)
        Z = atoms.integrals.core.index_select(0, group)
        energy = energy.index_add(0, layout.molecule.index_select(0, group), Z * at_core)
    return blocks[:len(layout.atoms)], energy


def potential(
    n: int, group: Int[Tensor, "k"], atoms: PlacedAtoms, charges: PointCharges, constants: Constants
) -> tuple[Float[Tensor, "k m"], Float[Tensor, "k"]]:
    """sum_s q_s (ij|s) over the packed distributions (k, m) of a `group` of atoms with n orbitals, and sum_s q_s (core|s) (k),
    eV. An atom sees the charges s of its own molecule.

    Raises:
        InvalidMolecule: a charge lies on top of an atom.
    """
    positions, molecule = atoms.positions, atoms.layout.molecule
    owner = molecule.index_select(0, group)
    present = torch.bincount(charges.molecule, minlength=int(molecule.max()) + 1)
    first = present.cumsum(0) - present
    ends = present.index_select(0, owner).cumsum(0)           # pairs are numbered atom by atom
    before = first.index_select(0, owner) - ends + present.index_select(0, owner)
    total = int(ends[-1])
    components = 0 if n == 0 else charge_kernel(n, CORE, constants.hartree, positions.device).integrals.shape[1]
    values = positions.new_zeros(len(group), components + 1)
    for start in range(0, total, CHUNK):
        pair = torch.arange(start, min(start + CHUNK, total), device=positions.device)
        row = torch.searchsorted(ends, pair, right=True)
        encounters = Encounters(len(group), row, group.index_select(0, row), pair + before.index_select(0, row))
        part = partial(_components, n, encounters, atoms, charges, constants)
        again = total > CHUNK and torch.is_grad_enabled()
        values = values + (checkpoint(part, use_reentrant=False, preserve_rng_state=False) if again else part())
    return (packed(values[:, :-1], n) if n else values[:, :0]), values[:, -1]


def _components(
    n: int, encounters: Encounters, atoms: PlacedAtoms, charges: PointCharges, constants: Constants
) -> Float[Tensor, "k component"]:
    """Potential of the charges summed over the atoms that meet them: components in the laboratory frame, then that at the core
    (k, component + 1)."""
    atom, site = encounters.atom, encounters.site
    d = charges.positions.index_select(0, site) - atoms.positions.index_select(0, atom)
    R = d.square().sum(1).sqrt()
    if not float(R.detach().min()) >= COINCIDENT:
        k = int(R.detach().argmin())
        raise _on_top(atoms, charges, int(atom[k]), int(site[k]), float(R.detach()[k]))
    r, hartree = R / constants.bohr, constants.hartree
    rho = charges.rho.index_select(0, site)
    values = hartree * torch.rsqrt(r.square() + (atoms.integrals.rho_core.index_select(0, atom) + rho).square())[:, None]
    if n:
        kernel = charge_kernel(n, CORE, hartree, r.device)
        own = [x.index_select(0, atom) for x in features(atoms.integrals, kernel.features_i)]
        local = local_integrals(kernel, r, own, [rho])
        values = torch.cat((local * harmonics(d / R[:, None], n), values), 1)
    q = charges.charges.index_select(0, site)
    return values.new_zeros(encounters.rows, values.shape[1]).index_add(0, encounters.row, q[:, None] * values)


def _on_top(atoms: PlacedAtoms, charges: PointCharges, atom: int, site: int, distance: float) -> InvalidMolecule:
    """The error for a charge on top of an atom."""
    molecule = atoms.layout.molecule
    local = site - int((charges.molecule < molecule[atom]).sum())
    return InvalidMolecule(f"Point charge {local} (counting from 0) is {distance:.4f} angstrom from atom "
                           f"{named(molecule, atoms.names, atom)}: distances below {COINCIDENT} are taken as a mistake in the "
                           "coordinates (leave out the charges of atoms that are treated quantum-mechanically).")
