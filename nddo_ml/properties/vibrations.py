"""Harmonic vibrations: frequencies, normal modes, infrared intensities and Raman activities from second derivatives.

Pure functions of a Hessian and of first derivatives of dipole and polarizability. Translations and rotations are removed
exactly: the Hessian is diagonalised in the space orthogonal to them, so 3N - 6 (linear: 3N - 5) modes come out, whatever the
noise of the Hessian; what it does to the removed motions is reported as `residual`. With fixed atoms it is diagonalised in the
space of what may move instead.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy import constants as si
from torch import Tensor

from nddo_ml.common.struct import record
from nddo_ml.errors import InvalidMolecule
from nddo_ml.properties.arrays import Numbers
from nddo_ml.properties.symmetry import TOLERANCE, molecular_shape

_ANGULAR_SQUARED = si.e / si.angstrom**2 / si.atomic_mass           # rad^2 s^-2 per eV angstrom^-2 amu^-1
WAVENUMBER = np.sqrt(_ANGULAR_SQUARED) / (2 * np.pi * si.c * 100)   # cm^-1 per sqrt(eV angstrom^-2 amu^-1)
WAVENUMBER_ENERGY = 100 * si.h * si.c / si.e                        # eV per cm^-1
# N_A |dmu/dQ|^2 / (12 eps0 c^2): km mol^-1 per e^2 amu^-1
INFRARED = si.N_A * si.e**2 / si.atomic_mass / (12 * si.epsilon_0 * si.c**2) / 1000

SOFT = 10.0   # cm^-1: imaginary frequencies up to here are the noise of a geometry, not the curvature of a saddle point


@record
class Vibrations:
    """Normal modes in ascending order of frequency."""

    frequencies: Float[Tensor, "mode"]      # cm^-1, an imaginary one as a negative number
    # dx/dQ in amu^-1/2: cartesian displacements per mass-weighted normal coordinate, sum m |dx/dQ|^2 = 1
    modes: Float[Tensor, "mode atom 3"]
    reduced_masses: Float[Tensor, "mode"]   # amu, 1 / sum |dx/dQ|^2
    residual: Float[Tensor, "external"]     # cm^-1 of the six (linear five, atom three) translations and rotations; 0 at rest

    @property
    def imaginary(self) -> int:
        """How many frequencies are imaginary."""
        return int((self.frequencies < 0).sum())

    @property
    def unstable(self) -> int:
        """How many frequencies are imaginary beyond SOFT: directions in which the energy falls."""
        return int((self.frequencies < -SOFT).sum())

    @property
    def zero_point_energy(self) -> float:
        """Half the sum of the real frequencies, eV; imaginary ones (see `imaginary`) do not count."""
        return float(self.frequencies.clamp(min=0).sum()) * WAVENUMBER_ENERGY / 2


@record
class Raman:
    """Raman scattering of normal modes."""

    activities: Float[Tensor, "mode"]       # angstrom^4/amu
    depolarisation: Float[Tensor, "mode"]   # ratio for plane-polarised light, at most 3/4


# orthonormal bases of the external and of the internal motions
Bases = tuple[Float[Tensor, "coordinate external"], Float[Tensor, "coordinate internal"]]


def normal_modes(hessian: Numbers, masses: Numbers, positions: Numbers, tolerance: float = TOLERANCE,
                 fixed: Float[Tensor, "direction coordinate"] | None = None) -> Vibrations:
    """Harmonic frequencies and normal modes.

    B^T M^-1/2 H M^-1/2 B q = omega^2 q, B an orthonormal basis of the motions without translation and rotation.
    hessian (3N, 3N) in eV/angstrom^2 (its symmetric part is used), masses (N) in amu, positions (N, 3) in angstrom; atoms
    within `tolerance` of one line make a linear molecule. fixed (direction, 3N): directions along which nothing may move; then
    B is a basis of the motions without these, and translations and rotations are not removed (`residual` is empty).

    Raises: InvalidMolecule, if shapes do not fit or values are not finite.
    """
    H = torch.as_tensor(hessian, dtype=torch.float64)
    x, m = (torch.as_tensor(t, dtype=torch.float64, device=H.device) for t in (positions, masses))
    count = len(x)
    if H.shape != (3 * count, 3 * count) or m.shape != (count,):
        raise InvalidMolecule(f"Hessian {tuple(H.shape)} and masses {tuple(m.shape)} do not fit {count} atoms: "
                              f"expected ({3 * count}, {3 * count}) and ({count},).")
    if not (torch.isfinite(H).all() and bool((m > 0).all())):
        raise InvalidMolecule("The Hessian has entries that are not finite, or a mass is not positive: no frequencies exist.")
    root = m.sqrt().repeat_interleave(3)
    weighted = (H + H.T) / 2 / (root[:, None] * root)
    external, internal = rigid_motions(m, x, tolerance) if fixed is None else free_motions(m, fixed)
    squares, vectors = torch.linalg.eigh(internal.T @ weighted @ internal)
    modes = (internal @ vectors).T / root
    return Vibrations(_wavenumber(squares), modes.reshape(-1, count, 3), 1 / modes.square().sum(-1),
                      _wavenumber(torch.linalg.eigvalsh(external.T @ weighted @ external)))


def rigid_motions(masses: Float[Tensor, "atom"], positions: Float[Tensor, "atom 3"], tolerance: float = TOLERANCE) -> Bases:
    """Orthonormal bases (3N, k), (3N, 3N - k) of the mass-weighted rigid motions and of all others; k = 6, linear 5, atom 3."""
    rank = {"monatomic": 3, "linear": 5, "nonlinear": 6}[molecular_shape(positions, tolerance)]
    x = positions - (masses[:, None] * positions).sum(0) / masses.sum()
    unit = torch.eye(3, dtype=x.dtype, device=x.device)
    translations = unit.expand(len(x), 3, 3)                                        # atom, motion, xyz
    rotations = torch.linalg.cross(unit.expand(len(x), 3, 3), x[:, None].expand(len(x), 3, 3))
    motions = torch.cat([translations, rotations / (1 + x.square().sum().sqrt())], 1) * masses.sqrt()[:, None, None]
    basis = torch.linalg.svd(motions.permute(0, 2, 1).reshape(-1, 6))[0]
    return basis[:, :rank], basis[:, rank:]


def free_motions(masses: Float[Tensor, "atom"], fixed: Float[Tensor, "direction coordinate"]) -> Bases:
    """An empty basis (3N, 0) and an orthonormal one (3N, 3N - k) of the mass-weighted motions without k fixed directions."""
    weighted = fixed.to(masses) / masses.sqrt().repeat_interleave(3)
    return masses.new_zeros(3 * len(masses), 0), torch.linalg.svd(weighted)[2][len(fixed):].T


def ir_intensities(dipole_derivatives: Numbers, modes: Float[Tensor, "mode atom 3"]) -> Float[Tensor, "mode"]:
    """Integrated infrared absorption of the fundamentals, km/mol.

    I = N_A / (12 eps0 c^2) |dmu/dQ|^2, dmu/dQ = sum (dmu/dx) (dx/dQ)     double harmonic approximation
    dipole_derivatives (3N, 3): d mu_b / d x_a in e; modes as in `Vibrations`.
    """
    return INFRARED * _along(dipole_derivatives, modes).square().sum(-1)


def raman_activities(polarizability_derivatives: Numbers, modes: Float[Tensor, "mode atom 3"]) -> Raman:
    """Raman activities S = 45 a'^2 + 7 g'^2 and depolarisation ratios 3 g'^2 / (45 a'^2 + 4 g'^2) of the fundamentals.

    a' = trace(alpha')/3, g'^2 = (3 |alpha'|^2 - trace(alpha')^2)/2, alpha' = d alpha/dQ     Long, The Raman Effect (2002)
    polarizability_derivatives (3N, 3, 3) in angstrom^3 / angstrom (polarizability volumes); modes as in `Vibrations`.
    """
    derivative = _along(polarizability_derivatives, modes)
    trace = derivative.diagonal(dim1=-2, dim2=-1).sum(-1)
    isotropic = trace.square() / 9
    anisotropic = (3 * derivative.square().sum((-2, -1)) - trace.square()) / 2
    total = 45 * isotropic + 4 * anisotropic
    active = total > 1e-12 * max(1.0, float(total.detach().max() if len(total) else 0.0))
    ratio = 3 * anisotropic / torch.where(active, total, 1.0)
    return Raman(45 * isotropic + 7 * anisotropic, torch.where(active, ratio, 0.0))


def _along(derivatives, modes):
    """Cartesian derivatives (3N, ...) taken along each mode."""
    derivatives = torch.as_tensor(derivatives, dtype=modes.dtype, device=modes.device)
    return torch.tensordot(modes.flatten(1), derivatives, dims=1)


def _wavenumber(squares):
    """Wavenumbers, cm^-1, of squared frequencies in eV angstrom^-2 amu^-1; negative for negative squares."""
    return WAVENUMBER * squares.sign() * squares.abs().sqrt()
