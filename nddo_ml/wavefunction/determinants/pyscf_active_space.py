"""Active spaces of PySCF as Hamiltonians in second quantisation, and the exact answer in them; hartree."""

import numpy as np
import torch

from nddo_ml.common.extras import needed
from nddo_ml.elements import symbol
from nddo_ml.errors import InvalidMolecule
from nddo_ml.wavefunction.determinants.second_quantisation import Hamiltonian, size

LARGEST = 20_000_000        # determinants of a full configuration interaction: 0.16 GB a vector, and some twenty of them


def active_space(numbers, positions, basis: str = "sto-3g", frozen: int = 0, orbitals: int | None = None, charge: int = 0,
                 multiplicity: int = 1, localised: bool = False) -> Hamiltonian:
    """The Hamiltonian of a molecule (positions in angstrom) in its Hartree-Fock orbitals, the `frozen` first doubly occupied.

    orbitals: active ones above the frozen ones, all by default. localised: symmetrically orthonormalised atomic orbitals
    instead, which are smooth in the geometry; then nothing can be frozen. MissingExtra, InvalidMolecule.
    """
    needed("pyscf", "train", "An active space")
    from pyscf import ao2mo, gto, mcscf, scf

    molecule = gto.M(atom=[(symbol(z), x) for z, x in zip(numbers, np.asarray(positions).tolist(), strict=True)], basis=basis,
                     charge=charge, spin=multiplicity - 1, verbose=0)
    up, down = molecule.nelec
    if localised:
        if frozen or orbitals is not None:
            raise InvalidMolecule("Localised orbitals span the whole basis: frozen=0 and no number of active orbitals.")
        eps, V = np.linalg.eigh(molecule.intor("int1e_ovlp"))
        C, core = V / np.sqrt(eps) @ V.T, molecule.energy_nuc()
        h = C.T @ (molecule.intor("int1e_kin") + molecule.intor("int1e_nuc")) @ C
        eri = ao2mo.restore(1, ao2mo.kernel(molecule, C), C.shape[1])
        return Hamiltonian(torch.from_numpy(h), torch.from_numpy(eri), float(core), up, down)
    mean_field = (scf.RHF if up == down else scf.ROHF)(molecule).run(conv_tol=1e-11)
    active = mean_field.mo_coeff.shape[1] - frozen if orbitals is None else orbitals
    if frozen > down or active < up - frozen or active + frozen > mean_field.mo_coeff.shape[1]:
        raise InvalidMolecule(f"{frozen} frozen and {active} active orbitals do not hold {up} and {down} electrons in "
                              f"{mean_field.mo_coeff.shape[1]} orbitals: choose others.")
    space = mcscf.CASCI(mean_field, active, (up - frozen, down - frozen))
    h, core = space.get_h1eff()
    eri = ao2mo.restore(1, space.get_h2eff(), active)
    h = torch.from_numpy(np.ascontiguousarray(h))
    return Hamiltonian(h, torch.from_numpy(eri), float(core), up - frozen, down - frozen)


def exact_energy(H: Hamiltonian) -> float:
    """The lowest energy in the whole space, in the Hamiltonian's unit, by pyscf.fci. MissingExtra. InvalidMolecule: the space
    is too large."""
    if size(H) > LARGEST:
        raise InvalidMolecule(f"{float(size(H)):.3g} determinants of {H.up} + {H.down} electrons in {H.orbitals} orbitals: the "
                              f"limit of full configuration interaction is {float(LARGEST):.0e}; take a smaller active space.")
    fci = needed("pyscf.fci", "train", "The exact energy")
    solver = fci.direct_spin1.FCI()
    solver.conv_tol, solver.max_cycle, solver.verbose = 1e-12, 300, 0
    energy, _ = solver.kernel(H.h.numpy(), H.eri.numpy(), H.orbitals, (H.up, H.down), ecore=H.core)
    return float(energy)
