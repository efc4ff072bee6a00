"""Active spaces of PySCF as Hamiltonians in second quantisation, and the exact answer in them; hartree."""

import numpy as np
import torch

from nddo_ml.common.extras import needed
from nddo_ml.elements import symbol
from nddo_ml.errors import InvalidMolecule
from nddo_ml.molecules import Molecules
from nddo_ml.wavefunction.determinants.second_quantisation import SecondQuantisedHamiltonian, size

LARGEST = 20_000_000        # determinants of a full configuration interaction: 0.16 GB a vector, and some twenty of them


def active_space(molecule: Molecules, basis: str = "sto-3g", frozen: int = 0, orbitals: int | None = None,
                 localised: bool = False) -> SecondQuantisedHamiltonian:
    """The Hamiltonian of one molecule in its Hartree-Fock orbitals, of which the first `frozen` stay doubly occupied; hartree.

    orbitals: how many above the frozen ones are active, by default all. localised: symmetrically orthonormalised atomic
    orbitals instead of Hartree-Fock ones; they are smooth functions of the geometry, and none of them can be frozen.

    Raises:
        MissingExtra: PySCF is not installed.
        InvalidMolecule: there are several molecules, or the active orbitals do not hold the electrons.
    """
    needed("pyscf", "train", "An active space")
    from pyscf import gto

    if len(molecule) != 1:
        raise InvalidMolecule(f"{len(molecule)} molecules: an active space is of one.")
    atoms = [(symbol(z), x) for z, x in zip(molecule.numbers.tolist(), molecule.positions.tolist(), strict=True)]
    mol = gto.M(atom=atoms, basis=basis, charge=int(molecule.charge[0]), spin=int(molecule.unpaired[0]), verbose=0)
    if not localised:
        return _canonical(mol, frozen, orbitals)
    if frozen or orbitals is not None:
        raise InvalidMolecule("Localised orbitals span the whole basis: frozen=0 and no number of active orbitals.")
    return _localised(mol)


def _localised(mol):
    """The Hamiltonian in symmetrically orthonormalised atomic orbitals."""
    from pyscf import ao2mo

    eps, V = np.linalg.eigh(mol.intor("int1e_ovlp"))
    C = V / np.sqrt(eps) @ V.T
    h = C.T @ (mol.intor("int1e_kin") + mol.intor("int1e_nuc")) @ C
    eri = ao2mo.restore(1, ao2mo.kernel(mol, C), C.shape[1])
    return SecondQuantisedHamiltonian(torch.from_numpy(h), torch.from_numpy(eri), float(mol.energy_nuc()), *mol.nelec)


def _canonical(mol, frozen, orbitals):
    """The Hamiltonian in Hartree-Fock orbitals above the frozen ones."""
    from pyscf import ao2mo, scf
    from pyscf.mcscf.casci import CASCI

    up, down = mol.nelec
    mean_field = (scf.RHF if up == down else scf.ROHF)(mol).run(conv_tol=1e-11)
    count = mean_field.mol.nao_nr()
    active = count - frozen if orbitals is None else orbitals
    if frozen > down or active < up - frozen or active + frozen > count:
        raise InvalidMolecule(f"{frozen} frozen and {active} active orbitals do not hold {up} and {down} electrons in "
                              f"{count} orbitals: choose others.")
    electrons = (up - frozen, down - frozen)
    space = CASCI(mean_field, active, electrons)     # pyright: ignore[reportArgumentType]  PySCF forgets (alpha, beta)
    h, core = space.get_h1eff()
    eri = ao2mo.restore(1, space.get_h2eff(), active)
    h = torch.from_numpy(np.ascontiguousarray(h))
    return SecondQuantisedHamiltonian(h, torch.from_numpy(eri), float(core), *electrons)


def exact_energy(H: SecondQuantisedHamiltonian) -> float:
    """The lowest energy in the whole space by pyscf.fci, in the Hamiltonian's unit.

    Raises:
        InvalidMolecule: the space has more than 20 million determinants.
        MissingExtra: PySCF is not installed.
    """
    if size(H) > LARGEST:
        raise InvalidMolecule(f"{float(size(H)):.3g} determinants of {H.up} + {H.down} electrons in {H.orbitals} orbitals: the "
                              f"limit of full configuration interaction is {float(LARGEST):.0e}; take a smaller active space.")
    fci = needed("pyscf.fci", "train", "The exact energy")
    solver = fci.direct_spin1.FCI()
    solver.conv_tol, solver.max_cycle, solver.verbose = 1e-12, 300, 0
    energy, _ = solver.kernel(H.h.numpy(), H.eri.numpy(), H.orbitals, (H.up, H.down), ecore=H.core)
    return float(energy)
