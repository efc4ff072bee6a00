"""What a calculation returns: one typed record for a whole batch.

Per-molecule and per-atom quantities are tensors in the order of the input. Matrices (density, orbitals, bond orders) differ
in size from molecule to molecule and are made on request, for one molecule at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nddo_ml.hamiltonian.state import State
from nddo_ml.molecules import Molecules
from nddo_ml.properties import gaps
from nddo_ml.units import Constants


@dataclass(frozen=True, eq=False)
class Result:
    """Energies and properties of a batch, in the order of its molecules. What did not converge is NaN."""

    molecules: Molecules
    method: str                                     # its name
    constants: Constants                            # it was calculated with
    energy: Float[Tensor, "molecule"]               # total energy with every correction and the interaction with charges, eV
    # its parts by name, eV: electronic, core_core, the corrections of the method; with a network the offsets `atoms` and its
    # `local` energy
    energies: Mapping[str, Float[Tensor, "molecule"]]
    # what the energy is compared with: the heats of the free atoms less their energies, kcal/mol, or of a learned method the
    # energies of the free atoms of its reference, eV
    free_atoms: Float[Tensor, "molecule"]
    learned: bool                                   # whether the energy is that of a reference, with a network or offsets
    forces: Float[Tensor, "atom 3"] | None                  # -dE/dR, eV/angstrom; None unless asked for
    point_charge_forces: Float[Tensor, "site 3"] | None     # the same on the point charges
    charges: Float[Tensor, "atom"]                  # Coulson, e
    dipole: Float[Tensor, "molecule 3"]             # e angstrom, of an ion about its centre of mass
    spin_populations: Float[Tensor, "atom"]
    s2: Float[Tensor, "molecule"]                   # <S^2>
    converged: Bool[Tensor, "molecule"]
    residual: Float[Tensor, "molecule"]             # largest element of the commutator, eV
    iterations: Int[Tensor, "molecule"]
    route: list[str]                                # how each molecule converged, in words
    states: list[State] = field(repr=False)
    # what a learned method found that no molecule is like (plausibility.py), "" for nothing; such members are not converged
    implausible: list[str] = field(default_factory=list, repr=False)

    @property
    def heat_of_formation(self) -> Float[Tensor, "molecule"]:
        """Of a published method, kcal/mol at 298 K; NaN of a learned one, whose energy holds no thermal motion."""
        if self.learned:
            return torch.full_like(self.energy, torch.nan, requires_grad=False)
        return torch.add(self.free_atoms, self.energy, alpha=self.constants.kcal_mol)

    @property
    def atomization_energy(self) -> Float[Tensor, "molecule"]:
        """Electronic, from the free atoms of the reference of a trained network, eV; NaN for published methods."""
        if not self.learned:
            return torch.full_like(self.energy, torch.nan, requires_grad=False)
        return self.free_atoms - self.energy

    @property
    def dipole_debye(self) -> Float[Tensor, "molecule 3"]:
        """The dipole in debye."""
        return self.dipole * self.constants.debye

    def density(self, k: int = 0) -> Float[Tensor, "spin orbital orbital"]:
        """Density matrix of molecule k per spin channel: alpha and beta, or one that holds both alike (half the total
        density)."""
        state, place, n = self.find(k)
        return state.solution.D[place, :, :n, :n]

    def fock(self, k: int = 0) -> Float[Tensor, "spin orbital orbital"]:
        """Fock matrix of molecule k, eV."""
        state, place, n = self.find(k)
        return state.solution.F[place, :, :n, :n]

    def orbital_energies(self, k: int = 0) -> Float[Tensor, "spin orbital"]:
        """Orbital energies of molecule k, eV, ascending in each channel."""
        state, place, n = self.find(k)
        return state.levels()[place, :, :n].gather(-1, self._ascending(k))

    def gap(self, k: int = 0) -> Float[Tensor, ""]:
        """Lowest empty less highest occupied level over both spins, eV; on the tape where the result is."""
        return gaps.gap(self.orbital_energies(k), self.occupations(k))

    def occupations(self, k: int = 0) -> Float[Tensor, "spin orbital"]:
        """Occupations of the orbitals: 0 to 2 in a restricted state, 0 or 1 per spin in an unrestricted one."""
        state, place, n = self.find(k)
        f = state.orbitals.f[place, :, :n].gather(-1, self._ascending(k))
        return 2 * f if len(f) == 1 else f

    def coefficients(self, k: int = 0) -> Float[Tensor, "spin orbital level"]:
        """Orbital coefficients of molecule k; columns are orbitals."""
        state, place, n = self.find(k)
        C = state.orbitals.C[place, :, :n, :n]
        return C.gather(-1, self._ascending(k)[:, None].expand_as(C))

    def homo_lumo(self, k: int = 0) -> tuple[float, float]:
        """Highest occupied and lowest empty level over both spins, eV; infinite where there is none."""
        return gaps.homo_lumo(self.orbital_energies(k), self.occupations(k))

    def bond_orders(self, k: int = 0) -> Float[Tensor, "atom atom"]:
        """Mayer bond orders of molecule k, 2 sum_spin D_ij^2 summed over the orbitals of two atoms (the overlap is the unit
        matrix, so a closed shell gives Wiberg's). Diagonal: the valence of each atom.  Wiberg, Tetrahedron 24, 1083 (1968);
        Mayer, CPL 97, 270 (1983)
        """
        state, place, n = self.find(k)
        D = self.density(k)
        layout = state.problem.layout
        owner = layout.owner[place, :n] - int((layout.molecule < place).sum())
        atoms = self.molecules.sizes[k]
        member = (owner[:, None] == torch.arange(atoms, device=owner.device)).to(D.dtype)
        orders = member.T @ (4.0 / len(D) * D.square().sum(0)) @ member
        return orders - torch.diag(orders.diagonal()) + torch.diag((orders - torch.diag(orders.diagonal())).sum(1))

    @property
    def gaps(self) -> Float[Tensor, "molecule"]:
        """Lowest empty less highest occupied level of each molecule over both spins, eV, infinite where there is none of them;
        on the tape where the result is."""
        unordered = torch.cat([state.gaps() for state in self.states])
        order = torch.tensor([k for state in self.states for k in state.index]).argsort()
        return unordered[order.to(unordered.device)]

    @property
    def drift(self) -> Float[Tensor, ""] | None:
        """Mean square shift of the parameters relative to their bounds, over the molecules of the batch; None where no network
        is on the tape."""
        drifts = [(len(state.index), state.shifts.drift()) for state in self.states if state.shifts is not None]
        if not drifts:
            return None
        return torch.stack([count * drift for count, drift in drifts]).sum() / sum(count for count, _ in drifts)

    @property
    def local_energies(self) -> Float[Tensor, "atom"] | None:
        """Energies that a network adds to each atom, eV, in the order of `states`; None where none is on the tape."""
        energies = [state.shifts.local for state in self.states if state.shifts is not None and state.shifts.local is not None]
        return torch.cat(energies) if energies else None

    def _ascending(self, k: int) -> Int[Tensor, "spin level"]:
        """Order of the levels by energy: the orbitals of an excited state are made occupied before empty."""
        state, place, n = self.find(k)
        return state.orbitals.eps[place, :, :n].argsort(dim=-1, stable=True)

    def find(self, k: int) -> tuple[State, int, int]:
        """The state that holds molecule k, its place there and its number of orbitals."""
        for state in self.states:
            if k in state.index:
                place = state.index.index(k)
                return state, place, int(state.problem.layout.orbitals[place])
        raise IndexError(f"There is no molecule {k}: the batch has {len(self.molecules)}.")
