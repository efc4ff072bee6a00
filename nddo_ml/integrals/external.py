"""External point charges: their potential at the electrons and the cores of the molecules.

    V_ij = -sum_s q_s (ij|s),    E = sum_A Z_A sum_s q_s (core_A|s)

A charge is seen through the multipoles of each charge distribution and the additive term of each core, exactly like the core
of an atom without short-range terms; its own additive term is zero unless it is screened. Electrons and core share one gamma,
so that a neutral spherical atom feels it no more than it would feel that core (docs/point_charges.md). Far away the multipoles
are point charges and point dipoles: two opposite distant charges are a uniform field. Nothing is cut off. PM7's change to a
bare 1/R at 7 angstrom, which takes the hybrid moments of an atom away, concerns pairs of atoms and is not made here; nor is
the rule that p functions of helium feel no core.
"""

from functools import partial
from types import SimpleNamespace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nddo_ml.errors import InvalidMolecule
from nddo_ml.integrals.attraction import equalised_attraction
from nddo_ml.integrals.configurations import CORE, kernel
from nddo_ml.integrals.frame import harmonics, packed
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.parameters import Elements, gather
from nddo_ml.integrals.repulsion import local_integrals
from nddo_ml.molecules import COINCIDENT, PointCharges, named
from nddo_ml.orbitals import Layout
from nddo_ml.units import Constants

CHUNK = 250_000     # pairs of an atom and a charge evaluated at once; of more, each part is evaluated again for its derivatives


def external(layout: Layout, elements: Elements, A: AtomIntegrals, positions: Float[Tensor, "atom 3"], charges: PointCharges,
             constants: Constants, equalise: bool = False, names=None):
    """(V, E): V_ij (k, m) of the electrons for each atom group of the layout, and the energy E (molecule) of the cores, eV.

    A, elements: of each atom. equalise: as in attraction.equalised_attraction, for the d electrons of metals in PM7, so that
    all monopoles of an atom are alike. A charge on top of an atom raises InvalidMolecule, which calls the molecules by their
    `names` if there are several.
    """
    energy = positions.new_zeros(layout.molecules)
    blocks = []
    bare = (layout.treated == 0).nonzero()[:, 0]
    groups = [(g.orbitals, g.atoms) for g in layout.atoms] + ([(0, bare)] if len(bare) else [])
    for n, atoms in groups:
        at_electrons, at_core = potential(n, atoms, layout.molecule, A, positions, charges, constants, names)
        if equalise and n == 9:
            no_functions = SimpleNamespace(n_ao=torch.zeros_like(atoms))
            at_electrons = equalised_attraction(at_electrons, n, gather(elements, atoms), no_functions)
        blocks.append(-at_electrons)
        Z = A.core.index_select(0, atoms)
        energy = energy.index_add(0, layout.molecule.index_select(0, atoms), Z * at_core)
    return blocks[:len(layout.atoms)], energy


def potential(n: int, atoms: Int[Tensor, "k"], molecule: Int[Tensor, "atom"], A: AtomIntegrals,
              positions: Float[Tensor, "atom 3"], charges: PointCharges, constants: Constants, names=None):
    """sum_s q_s (ij|s) over the packed distributions (k, m) of `atoms` with n orbitals, and sum_s q_s (core|s) (k), eV.

    molecule: of every atom; an atom sees the charges of its own molecule.
    """
    owner = molecule.index_select(0, atoms)
    present = torch.bincount(charges.molecule, minlength=int(molecule.max()) + 1)
    first = present.cumsum(0) - present
    ends = present.index_select(0, owner).cumsum(0)           # pairs are numbered atom by atom
    before = first.index_select(0, owner) - ends + present.index_select(0, owner)
    total = int(ends[-1])
    components = 0 if n == 0 else kernel(n, CORE, constants.hartree, positions.device).integrals.shape[1]
    found = positions.new_zeros(len(atoms), components + 1)
    for start in range(0, total, CHUNK):
        pair = torch.arange(start, min(start + CHUNK, total), device=positions.device)
        row = torch.searchsorted(ends, pair, right=True)
        part = partial(_components, n, row, atoms, pair + before.index_select(0, row), molecule, A, positions, charges,
                       constants, names)
        several = total > CHUNK and torch.is_grad_enabled()
        found = found + (checkpoint(part, use_reentrant=False, preserve_rng_state=False) if several else part())
    return (packed(found[:, :-1], n) if n else found[:, :0]), found[:, -1]


def _components(n, row, atoms, site, molecule, A, positions, charges, constants, names):
    """Potential of the charges `site` summed over the atoms in the rows `row` of `atoms`: components in the laboratory frame,
    then that at the core (k, component + 1)."""
    atom = atoms.index_select(0, row)
    d = charges.positions.index_select(0, site) - positions.index_select(0, atom)
    R = d.square().sum(1).sqrt()
    if not float(R.detach().min()) >= COINCIDENT:
        k = int(R.detach().argmin())
        raise _on_top(molecule, names, charges, int(atom[k]), int(site[k]), float(R.detach()[k]))
    r, hartree = R / constants.bohr, constants.hartree
    rho = charges.rho.index_select(0, site)
    values = hartree * torch.rsqrt(r.square() + (A.rho_core.index_select(0, atom) + rho).square())[:, None]
    if n:
        used = kernel(n, CORE, hartree, r.device).features_i
        A = SimpleNamespace(**{name: getattr(A, name).index_select(0, atom) for name in used})
        local = local_integrals(n, CORE, r, A, SimpleNamespace(rho_core=rho), hartree)
        values = torch.cat((local * harmonics(d / R[:, None], n), values), 1)
    q = charges.charges.index_select(0, site)
    return values.new_zeros(len(atoms), values.shape[1]).index_add(0, row, q[:, None] * values)


def _on_top(molecule, names, charges, atom, site, distance) -> InvalidMolecule:
    """The error for a charge on top of an atom."""
    k = int(molecule[atom])
    local = site - int((charges.molecule < k).sum())
    return InvalidMolecule(f"Point charge {local} (counting from 0) is {distance:.4f} angstrom from atom "
                           f"{named(molecule, names, atom)}: distances below {COINCIDENT} are taken as a mistake in the "
                           "coordinates (leave out the charges of atoms that are treated quantum-mechanically).")
