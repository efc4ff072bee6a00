"""Levels of theory in PySCF: density functionals and Hartree-Fock, and wave functions on top of Hartree-Fock.

The default is the functional form of omegaB97X-V without its non-local correlation (VV10), def2-TZVP, density fitted;
dispersion is added apart as D3(BJ) with the parameters of omegaB97X-D3(BJ), so that a model can keep it apart too.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from nddo_ml.common.extras import needed
from nddo_ml.common.struct import cached
from nddo_ml.errors import SCFNotConverged, UnknownOption
from nddo_ml.functional import Functional, attach, library
from nddo_ml.labels.levels.pyscf_gradient import PySCF, coarse_density, gradient, nimble
from nddo_ml.labels.levels.theory import Label, Level, frontier_gap, refuse_point_charges
from nddo_ml.labels.structures import Structure
from nddo_ml.units import CODATA_2018

EV, ANGSTROM = CODATA_2018.hartree, CODATA_2018.bohr
WAVE_FUNCTIONS = ("mp2", "cisd", "ccsd", "ccsd(t)", "fci")
D3_NAMES = {"wb97x-v": "wb97x", "wb97m-v": "wb97m", "b97m-v": "b97m"}     # VV10 functionals refitted with D3(BJ) in its place
REFITTED = {f"{name}-d3bj": functional for functional, name in D3_NAMES.items()}
AMPLITUDES = 1e-9, 1e-7       # convergence of coupled cluster: energy (hartree), norm of the amplitudes
VV10, NONE = "vv10", "none"
LEARNED = "functional:"       # before the name or file of a functional of nddo_ml.functional

Setting = str | int | float | bool | None     # a value of a field of the levels below


def pyscf_level(theory: str, basis: str, settings: Mapping[str, Setting]) -> Level:
    """The level of a functional, of a learned one ("functional:NAME") or of a wave function in a basis, checked: what does not
    exist is refused here and not at each structure. settings: values of its other fields.

    Raises:
        UnknownOption: there is no such functional, basis, wave function, dispersion or setting.
        MissingExtra: PySCF is not installed.
    """
    needed("pyscf", "train", "A level of PySCF")
    kind = LearnedFunctional if theory.startswith(LEARNED) else WaveFunction if theory.lower() in WAVE_FUNCTIONS else KohnSham
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise UnknownOption(f"{theory} has no setting {unknown[0]!r}; it has: {', '.join(sorted(known))}.")
    values: dict[str, Any] = dict(settings)
    if kind is LearnedFunctional:
        _check_basis(basis)
        theory = theory.removeprefix(LEARNED)
        _functional(theory)
        values = {"dispersion_model": NONE} | values
        _check_dispersion(theory, False, values["dispersion_model"])
        return LearnedFunctional(theory, basis.lower(), **values)
    if kind is KohnSham:
        values = {"dispersion_model": _dispersion(theory.lower())} | values
        theory = REFITTED.get(theory.lower(), theory.lower().removesuffix("-d3bj"))
        _check_functional(theory, values["dispersion_model"])
    _check_basis(basis)
    return kind(theory.lower(), basis.lower(), **values)


@dataclass(frozen=True)
class KohnSham:
    """A density functional (or "hf") in a basis: restricted for singlets, unrestricted otherwise."""

    functional: str = "wb97x-v"         # its name in PySCF
    basis: str = "def2-tzvp"            # its name in PySCF
    dispersion_model: str = "wb97x"     # functional whose D3(BJ) parameters are used, kept apart; "vv10": included; "none"
    grid: int = 1                       # PySCF's level
    convergence: float = 1e-9           # of the energy, hartree
    fitted: bool = True                 # density fitting
    memory: int = 3000                  # MB
    grid_response = False       # whether forces hold the motion of the grid: libxc's GGAs do without

    @property
    def name(self) -> str:
        """All that decides the numbers."""
        d3 = {VV10: "vv10", NONE: "no dispersion"}.get(self.dispersion_model, f"d3bj({self.dispersion_model})")
        grid = "" if self.functional == "hf" else f" grid{self.grid}"
        return f"{self.functional}/{self.basis}{' df' if self.fitted else ''}{grid} conv{self.convergence:g} {d3}"

    @property
    def dispersion(self) -> str:
        """"apart" (D3), "included" (VV10) or "none"."""
        return {VV10: "included", NONE: "none"}.get(self.dispersion_model, "apart")

    def __call__(self, structure: Structure) -> Label:
        """The label of a structure.

        Raises:
            SCFNotConverged: neither DIIS nor Newton steps converge.
        """
        mol = molecule(structure, self.basis, self.memory)
        mf = converged(nimble(self.mean_field(mol, structure)), structure)
        forces = -gradient(mf, self.grid_response) * EV / ANGSTROM
        dispersion = dispersion_d3(mol, self.dispersion_model) if self.dispersion == "apart" else (None, None)
        on_charges = None if structure.point_charges is None else _point_charge_forces(mf)
        return Label(float(mf.e_tot) * EV, forces, dipole_of(mf), None, gap_of(mf), spin_of(mf), *dispersion,
                     point_charge_forces=on_charges, iterations=int(mf.cycles))

    def mean_field(self, mol: PySCF, structure: Structure) -> PySCF:
        """PySCF's mean field of a molecule, with the settings of the level, not yet converged."""
        from pyscf import dft, qmmm, scf

        open_shell = mol.spin > 0 or structure.unrestricted
        if self.functional == "hf":
            mf: PySCF = (scf.UHF if open_shell else scf.RHF)(mol)
        else:
            mf = self._kohn_sham(dft.UKS if open_shell else dft.RKS, mol)
        mf = mf.density_fit() if self.fitted else mf
        if self.functional != "hf":
            mf.grids.level = self.grid
        mf.conv_tol = self.convergence
        if structure.point_charges is not None:
            mf = qmmm.add_mm_charges(mf, structure.point_charges[:, :3], structure.point_charges[:, 3], unit="Angstrom")
        return mf

    def _kohn_sham(self, kind: PySCF, mol: PySCF) -> PySCF:
        mf = kind(mol, xc=self.functional)
        mf.nlc = "" if self.dispersion_model == VV10 else False
        return mf


@dataclass(frozen=True)
class LearnedFunctional(KohnSham):
    """A functional of nddo_ml.functional, by name or file; without dispersion where no parameters of D3(BJ) are named. The name
    of the level holds a hash of what was learned: two files never pass for one level.
    """

    dispersion_model: str = NONE
    grid_response = True        # without it forces of a trained meta-GGA are off by several kcal/mol/A on a coarse grid

    @property
    def name(self) -> str:
        """All that decides the numbers."""
        functional = _functional(self.functional)
        return f"{LEARNED}{functional.label}-{fingerprint(functional)}{super().name.removeprefix(self.functional)}"

    def _kohn_sham(self, kind: PySCF, mol: PySCF) -> PySCF:
        return attach(kind(mol), _functional(self.functional))


@cached
def _functional(name: str) -> Functional:
    """A functional of nddo_ml.functional by name or file."""
    return library.load(name)


def fingerprint(functional: Functional) -> str:
    """A short hash of a functional's form and weights."""
    digest = hashlib.sha256(repr(library.settings(functional)).encode())
    for key, value in sorted(functional.state_dict().items()):
        digest.update(key.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


@dataclass(frozen=True)
class WaveFunction:
    """A correlated wave function on Hartree-Fock, dispersion included.

    MP2, CISD, CCSD and CCSD(T) of singlets have forces; CCSD(T) of open shells and FCI have none, for PySCF has no right
    gradient of them.
    """

    theory: str                     # one of WAVE_FUNCTIONS
    basis: str = "def2-tzvp"        # its name in PySCF
    convergence: float = 1e-10      # of Hartree-Fock, hartree
    frozen: int | None = None       # the lowest orbitals, whose electrons are not correlated
    memory: int = 3000              # MB
    dispersion = "included"

    @property
    def name(self) -> str:
        """All that decides the numbers."""
        return f"{self.theory}/{self.basis}{f' frozen{self.frozen}' if self.frozen else ''} conv{self.convergence:g}"

    def __call__(self, structure: Structure) -> Label:
        """The label of a structure; its dipole lacks the response of the orbitals and is `unrelaxed_dipole`.

        Raises:
            SCFNotConverged: Hartree-Fock or the wave function does not converge.
            UnknownOption: there are point charges.
        """
        from pyscf import scf

        refuse_point_charges(self, structure)
        mol = molecule(structure, self.basis, self.memory)
        mf: PySCF = (scf.UHF if mol.spin or structure.unrestricted else scf.RHF)(mol)
        mf.conv_tol = self.convergence
        mf = converged(mf, structure)
        energy, forces, density = _correlated(self, mf, structure)
        dipole = None if density is None else mf.dip_moment(mol, density, unit="AU", verbose=0) * ANGSTROM
        return Label(energy * EV, None if forces is None else forces * EV / ANGSTROM, gap=gap_of(mf), s2=spin_of(mf),
                     unrelaxed_dipole=dipole, iterations=int(mf.cycles))


def molecule(structure: Structure, basis: str, memory: int) -> PySCF:
    """PySCF's molecule (gto.Mole); PySCF is limited to one thread, for tasks run side by side. memory: MB."""
    from pyscf import gto, lib

    lib.num_threads(1)
    symbols = structure.atoms.get_chemical_symbols()
    return gto.M(atom=list(zip(symbols, structure.positions, strict=True)), basis=basis, charge=structure.charge,
                 spin=structure.multiplicity - 1, verbose=0, max_memory=memory)


def converged(mf: PySCF, structure: Structure) -> PySCF:
    """The mean field at self-consistency, by Newton steps where DIIS fails; a singlet that may break its spin symmetry starts
    from orbitals that do.

    Raises:
        SCFNotConverged: neither of them converges.
    """
    broken = structure.unrestricted and mf.mol.spin == 0
    mf.kernel(dm0=coarse_density(mf, _broken_symmetry(mf) if broken else None))
    if not mf.converged:
        cycles, mf = mf.cycles, mf.newton()
        mf.max_cycle = 30
        mf.kernel()
        mf.cycles = cycles + (mf.cycles or 0)
    if not mf.converged:
        raise SCFNotConverged(f"PySCF's SCF of {structure.formula} did not converge: check geometry, charge and multiplicity.")
    return mf


def _broken_symmetry(mf: PySCF) -> Float[np.ndarray, "2 orbital orbital"]:
    """Alpha and beta densities of the restricted solution with HOMO and LUMO mixed, by opposite angles for the two spins."""
    restricted = mf.to_rhf() if not hasattr(mf, "xc") else mf.to_rks()
    restricted.kernel()
    C, occupied = restricted.mo_coeff, restricted.mo_occ > 0
    k = int(occupied.sum())
    densities = []
    for sign in (1, -1):
        rotated = C.copy()
        rotated[:, k - 1] = (C[:, k - 1] + sign * C[:, k]) / np.sqrt(2)
        densities.append(rotated[:, :k] @ rotated[:, :k].T)
    return np.array(densities)


def dipole_of(mf: PySCF) -> Float[np.ndarray, "3"]:
    """The dipole of a mean field, e angstrom, about the origin."""
    return np.asarray(mf.dip_moment(unit="AU", verbose=0)) * ANGSTROM


def gap_of(mf: PySCF) -> float:
    """Lowest empty less highest occupied level of a mean field, eV."""
    return frontier_gap(np.ravel(mf.mo_energy), np.ravel(mf.mo_occ)) * EV


def spin_of(mf: PySCF) -> float | None:
    """<S^2> of an unrestricted solution, None of a restricted one."""
    return float(mf.spin_square()[0]) if np.ndim(mf.mo_occ) == 2 else None


def dispersion_d3(mol: PySCF, functional: str) -> tuple[float, Float[np.ndarray, "atom 3"]]:
    """D3(BJ) energy (eV) and forces (eV/angstrom) with the parameters of a functional.

    Raises:
        RuntimeError: there are no parameters of that functional.
    """
    dftd3 = needed("pyscf.dispersion.dftd3", "train", "D3(BJ)")
    values = dftd3.DFTD3Dispersion(mol, xc=functional, version="d3bj").get_dispersion(grad=True)
    return float(values["energy"]) * EV, -np.asarray(values["gradient"]) * EV / ANGSTROM


def _point_charge_forces(mf: PySCF) -> Float[np.ndarray, "site 3"]:
    """Forces of the nuclei and of the density on the point charges, eV/angstrom."""
    g, density = mf.nuc_grad_method(), mf.make_rdm1()
    density = density.sum(0) if np.ndim(density) == 3 else density
    return -(g.grad_nuc_mm() + g.grad_hcore_mm(density)) * EV / ANGSTROM


def _correlated(level: WaveFunction, mf: PySCF,
                structure: Structure) -> tuple[float, Float[np.ndarray, "atom 3"] | None, np.ndarray | tuple | None]:
    """Energy (hartree), forces (hartree/bohr) and density matrix in the basis (of an open shell one per spin); forces are None
    where PySCF has no gradient, the density where it is too dear.
    """
    from pyscf import cc, ci, fci, mp

    if len(structure.numbers) == 1 and int(structure.numbers[0]) == 1:      # one electron: nothing to correlate
        return float(mf.e_tot), np.zeros((1, 3)), mf.make_rdm1()
    if level.theory == "fci":
        solver: PySCF = fci.FCI(mf)
        energy = solver.kernel()[0]
        return _finished(solver, level, structure, energy), None, None
    make: PySCF = {"mp2": mp.MP2, "cisd": ci.CISD, "ccsd": cc.CCSD, "ccsd(t)": cc.CCSD}[level.theory]
    method = make(mf, frozen=level.frozen)
    method.conv_tol, method.conv_tol_normt = AMPLITUDES
    method.kernel()
    energy = _finished(method, level, structure, method.e_tot)
    if level.theory != "ccsd(t)":
        return energy, -method.nuc_grad_method().kernel(), method.make_rdm1(ao_repr=True)
    energy += float(method.ccsd_t())
    return energy, None if np.ndim(mf.mo_occ) == 2 else _forces_triples(method), None


def _forces_triples(method: PySCF) -> Float[np.ndarray, "atom 3"]:
    """-dE/dR (hartree/bohr) of restricted CCSD(T).

    With the lambda equations of CCSD(T): left to itself PySCF takes those of CCSD, and the gradient is wrong by thousandths of
    eV/angstrom. (The unrestricted one is wrong in any case, PySCF issue 3305.)
    """
    from pyscf.cc import ccsd_t_lambda
    from pyscf.grad import ccsd_t

    eris = method.ao2mo(method.mo_coeff)
    solved, l1, l2 = ccsd_t_lambda.kernel(method, eris, method.t1, method.t2, tol=AMPLITUDES[1], verbose=0)
    if not solved:
        raise SCFNotConverged("The lambda equations of CCSD(T) did not converge.")
    return -ccsd_t.Gradients(method).kernel(method.t1, method.t2, l1, l2, eris=eris)


def _finished(method: PySCF, level: WaveFunction, structure: Structure, energy: float) -> float:
    """The energy of a wave function that has converged."""
    if not np.all(getattr(method, "converged", True)):
        raise SCFNotConverged(f"{level.theory} of {structure.formula} did not converge.")
    return float(energy)


def _dispersion(functional: str) -> str:
    """The functional whose D3(BJ) parameters a functional is used with, or NONE."""
    plain = REFITTED.get(functional, functional.removesuffix("-d3bj"))
    return NONE if plain == "hf" else D3_NAMES.get(plain, plain)


def _check_functional(functional: str, dispersion: str) -> None:
    """Raise UnknownOption where libxc has no such functional, or that no such dispersion."""
    from pyscf import dft

    if functional != "hf":
        try:
            dft.libxc.parse_xc(functional)
        except (KeyError, ValueError) as error:
            raise UnknownOption(f"PySCF knows no functional or wave function {functional!r}; wave functions here: hf, "
                                f"{', '.join(WAVE_FUNCTIONS)}.") from error
    _check_dispersion(functional, functional != "hf" and bool(dft.libxc.is_nlc(functional)), dispersion)


def _check_dispersion(functional: str, has_vv10: bool, dispersion: str) -> None:
    """Raise UnknownOption where there is no such dispersion."""
    from pyscf import gto

    if dispersion == VV10 and not has_vv10:
        raise UnknownOption(f"{functional} has no VV10: give --dispersion none, or the name of D3(BJ) parameters.")
    if dispersion not in (VV10, NONE):
        try:
            dispersion_d3(gto.M(atom="H 0 0 0; H 0 0 0.7", verbose=0), dispersion)
        except RuntimeError as error:
            raise UnknownOption(f"There are no D3(BJ) parameters of {dispersion!r}: name the functional whose parameters fit "
                                "(--dispersion pbe0), or --dispersion none.") from error


def _check_basis(basis: str) -> None:
    """Raise UnknownOption where there is no such basis."""
    from pyscf import gto

    try:
        gto.basis.load(basis, "H")
    except Exception as error:       # PySCF raises errors of several kinds
        raise UnknownOption(f"PySCF knows no basis set {basis!r} (for hydrogen): {error}.") from error
