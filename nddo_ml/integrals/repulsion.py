"""Two-centre two-electron integrals (ij|kl), i and j on one atom, k and l on the other.

In the frame of the pair they are sums of inverse distances between point charges (configurations.py); rotated to the
laboratory (frame.py) they are the blocks w over packed distributions. R -> infinity: (ij|kl) -> delta_ij delta_kl EV/R.
PM7 joins them to that limit at 7 angstrom and equalises the averages of transition metals.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.struct import cached
from nddo_ml.integrals.configurations import ChargeKernel, charge_kernel
from nddo_ml.integrals.frame import Axes, orbital_starts, packed
from nddo_ml.integrals.multipole import AtomIntegrals
from nddo_ml.integrals.pair_species import HELIUM, PairSpecies
from nddo_ml.integrals.parameters import Elements
from nddo_ml.integrals.recipe import OfDistance
from nddo_ml.integrals.switch import step
from nddo_ml.orbitals import packed_pairs
from nddo_ml.units import Constants

JOIN_RANGE, JOIN_EXPONENT = 7.0, 0.22   # angstrom, 1/angstrom^2
JOIN_WIDTH, JOIN_CORE = 1.0, 0.5   # angstrom: over the last of it, and below, the smooth join leaves the published one


def local_integrals(
    kernel: ChargeKernel, R: Float[Tensor, "pair"], features_i: list[Tensor], features_j: list[Tensor]
) -> Float[Tensor, "pair integral"]:
    """Interaction of every component of atom i with every component of atom j in the frame of the pair, eV; R in bohr.

    features: separations and additive terms (bohr) of each atom, in the order of the `kernel`; see `features`.
    """
    g = torch.stack([R, *features_i, *features_j], 1)
    return ((g @ kernel.coordinates).square() @ kernel.distances).rsqrt() @ kernel.integrals


def features(atoms: AtomIntegrals, names: tuple[str, ...]) -> list[Float[Tensor, "row"]]:
    """The columns of these names, as `local_integrals` takes them."""
    return [getattr(atoms, name) for name in names]


def repulsion(
    shells: tuple[int, int], R: Float[Tensor, "pair"], axes: Axes, atoms_i: AtomIntegrals, atoms_j: AtomIntegrals,
    hartree: float,
) -> Float[Tensor, "pair m_i m_j"]:
    """(ij|kl) in the laboratory frame, eV; R in bohr, axes of these shells, the hartree in eV."""
    n_i, n_j = shells
    if n_j == 0:
        return R.new_zeros(len(R), n_i * (n_i + 1) // 2, 0)
    kernel = charge_kernel(n_i, n_j, hartree, R.device)
    local = local_integrals(kernel, R, features(atoms_i, kernel.features_i), features(atoms_j, kernel.features_j))
    if axes.rotations is not None:
        T_i, T_j = axes.rotations.T_i, axes.rotations.T_j
        return T_i @ local.reshape(len(R), T_i.shape[2], T_j.shape[2]) @ T_j.transpose(1, 2)
    if axes.along is not None:
        return packed(local * axes.along, n_i)[:, :, None]
    return local[:, :, None]


def published_join(R: Float[Tensor, "*pair"]) -> Float[Tensor, "*pair"]:
    """PM7's weight of the multipole integrals, w = 1 - exp[-0.22 (R - 7)^2], 0 from 7 on; R in angstrom.

    Continuous with the first derivative; the second jumps by 0.44.         Stewart, J. Mol. Model. 19, 1 (2013)
    """
    return -torch.expm1(-JOIN_EXPONENT * (JOIN_RANGE - R).clamp_min(0).square())


def smooth_join(R: Float[Tensor, "*pair"]) -> Float[Tensor, "*pair"]:
    """`published_join` with all its derivatives; R in angstrom.

    The published weight from 0.5 to 6. From there steps take it to 0 at 7, and to 1 at R = 0, where the published one leaves
    2e-5 of 1/R.
    """
    weight = published_join(R) * step((JOIN_RANGE - R) / JOIN_WIDTH)
    return weight + (1 - weight) * (1 - step(R / JOIN_CORE))


def point_charge(
    join: OfDistance, R: Float[Tensor, "pair"], constants: Constants
) -> tuple[Float[Tensor, "pair"], Float[Tensor, "pair"]]:
    """The weight w = join(R) of the multipole integrals, and (1 - w) e^2/R, eV, of the point charges; R in angstrom."""
    weight = join(R)
    return weight, (1 - weight) * constants.coulomb / R


def joined(
    w: Float[Tensor, "pair m_i m_j"], shells: tuple[int, int], weight: Float[Tensor, "pair"], limit: Float[Tensor, "pair"]
) -> Float[Tensor, "pair m_i m_j"]:
    """weight (ij|kl) + limit delta_ij delta_kl, eV; weight and limit = (1 - weight) e^2/R from `point_charge`."""
    unit = diagonal(shells[0], w.device)[:, None] * diagonal(shells[1], w.device)
    return w * weight[:, None, None] + limit[:, None, None] * unit


def equalised(w: Float[Tensor, "pair m_i m_j"], species: PairSpecies) -> Float[Tensor, "pair m_i m_j"]:
    """PM7 repulsion of atoms with d electrons: the mean of (ii|kk) over shells a of i and b of j becomes (ss|ss).

    Changes (d|s) and (d|p) where i has d electrons, (s|d) and (p|d) where j has, (d|d) where both have.
    """
    (unit_i, mean_i), (unit_j, mean_j) = (shell_traces(n, w.device) for n in species.shells)
    first, second = species.elements_i, species.elements_j
    d_i, d_j, p_i, p_j = first.occ_d > 0, second.occ_d > 0, first.n_ao >= 4, second.n_ao >= 4
    none = torch.zeros_like(d_i)
    where = ((none, none, d_j), (none, none, p_i & d_j), (d_i, d_i & p_j, d_i & d_j))   # [shell of i][shell of j]
    where = torch.stack([torch.stack(row[:len(unit_j)], 1) for row in where[:len(unit_i)]], 1)
    change = torch.where(where, w[:, :1, :1] - mean_i @ w @ mean_j.T, 0.0)
    return w + unit_i.T @ change @ unit_j


def helium_without_d(w: Float[Tensor, "pair m_i m_j"], elements_j: Elements) -> Float[Tensor, "pair m_i m_j"]:
    """w of atoms i with d functions, where helium is an s-only atom in all integrals with a d function."""
    i, j = (torch.arange(m, device=w.device) for m in w.shape[1:])
    kept = (i[:, None] < 10) | (j == 0)
    return torch.where(kept | (elements_j.number != HELIUM)[:, None, None], w, 0.0)


def with_charges(w: Float[Tensor, "pair m_i m_j"]) -> tuple[Float[Tensor, "pair m_i"], Float[Tensor, "pair m_j"]]:
    """(ij|ss) (pair, m_i) and (ss|kl) (pair, m_j): the first column and the first row of each block, read at once."""
    pairs, m_i, m_j = w.shape
    column, row = torch.split(w.view(pairs, -1).index_select(1, _border(m_i, m_j, w.device)), [m_i, m_j], 1)
    return column, row


@cached
def _border(m_i: int, m_j: int, device: torch.device) -> Int[Tensor, "border"]:
    """Flat places of the first column and of the first row of a block."""
    return torch.cat((torch.arange(m_i) * m_j, torch.arange(m_j))).to(device)


@cached
def diagonal(n: int, device: torch.device) -> Float[Tensor, "m"]:
    """1 for the distributions i = j of an atom with n orbitals."""
    a, b, _ = packed_pairs(n)
    return torch.from_numpy((a == b).astype(float)).to(device)


@cached
def shell_traces(n: int, device: torch.device) -> tuple[Float[Tensor, "shell m"], Float[Tensor, "shell m"]]:
    """(shell, m): 1 for the distributions i = j of each shell; the same divided by their number."""
    a, _, table = packed_pairs(n)
    unit = torch.zeros(len(orbital_starts(n)), len(a), dtype=torch.float64)
    for l, start in orbital_starts(n):
        for orbital in range(start, start + 2 * l + 1):
            unit[l, table[orbital, orbital]] = 1
    return unit.to(device), (unit / unit.sum(1, keepdim=True)).to(device)
