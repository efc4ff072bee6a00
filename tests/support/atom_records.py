"""Records of atoms for tests of the integrals: those of a method, or made up column by column."""

from dataclasses import fields

import torch
from torch import Tensor

from nddo_ml.integrals.configurations import charge_kernel
from nddo_ml.integrals.multipole import AtomIntegrals, atom_integrals
from nddo_ml.integrals.pair_species import has_own_core, pair_species
from nddo_ml.integrals.parameters import Elements, gather
from nddo_ml.integrals.repulsion import features, local_integrals
from nddo_ml.integrals.two_centre import PairIntegrals, two_centre
from nddo_ml.methods import Method, method


def atoms(name: str, numbers: list[int]) -> tuple[AtomIntegrals, Elements]:
    """AtomIntegrals and Elements of atoms in a method."""
    m = method(name)
    rows = m.rows(torch.tensor(numbers))
    return gather(atom_integrals(m.parameters, m.elements, m.constants), rows), gather(m.elements, rows)


def made_up(record: type, rows: int = 1, **columns: Tensor):
    """A record with these columns and zeros (12 of them for `slater`) in all others."""
    integer = record is Elements
    values = {f.name: torch.zeros(rows, 12) if f.name == "slater" else torch.zeros(rows) for f in fields(record)}
    kept_float = ("core", "occ_s", "occ_p", "occ_d", "EHEAT")
    return record(**{**{k: v.long() if integer and k not in kept_float else v.double() for k, v in values.items()}, **columns})


def core_interaction(m: Method, i: AtomIntegrals, j: AtomIntegrals, elements: tuple[Elements, Elements], r: Tensor) -> Tensor:
    """gamma (pair) of the cores of atoms i and j at distances r (angstrom), eV: what the package takes for bare cores."""
    u = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(len(r), 3)
    return two_centre(pair_species((0, 0), *elements, True), r, u, (i, j), m.recipe).gamma


def pair_integrals(
    m: Method, shells: tuple[int, int], vectors: Tensor, atoms: tuple[AtomIntegrals, AtomIntegrals],
    elements: tuple[Elements, Elements], separate_core: bool | None = None,
) -> PairIntegrals:
    """The integrals of atoms i and j at each of the vectors (pair, 3), angstrom; None: cores of their own where there are."""
    R = vectors.square().sum(1).sqrt()
    if separate_core is None:
        rho_core = m.parameters.rho_core[m.rows(torch.cat([E.number for E in elements]))]
        first, second = rho_core.split([len(E.number) for E in elements])
        separate_core = bool(has_own_core(first, elements[0]).any() | has_own_core(second, elements[1]).any())
    return two_centre(pair_species(shells, *elements, separate_core), R, vectors / R[:, None], atoms, m.recipe)


def local(n_i: int, n_j: int, R: Tensor, i: AtomIntegrals, j: AtomIntegrals, hartree: float) -> Tensor:
    """The repulsion integrals of atoms i and j in the frame of the pair, at distances R (bohr); hartree in eV."""
    kernel = charge_kernel(n_i, n_j, hartree, R.device)
    return local_integrals(kernel, R, features(i, kernel.features_i), features(j, kernel.features_j))
