"""Extrapolation of Fock matrices: DIIS and its energy-based start.

Both write the next Fock matrix as a combination, with coefficients that add up to one, of those already seen. DIIS minimises
the commutator [F, D] (Pulay, J. Comput. Chem. 3, 556 (1982)); energy-DIIS minimises a quadratic model of the energy under
non-negative coefficients and cannot climb (Kudin, Scuseria, Cances, J. Chem. Phys. 116, 8255 (2002)). A history holds every
molecule of a batch; each gets its own coefficients.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.scf.density import Matrices

RIDGE = 1e-10   # relative to the largest error: keeps nearly dependent histories solvable


class History:
    """The last `length` Fock matrices, densities, errors and energies of a batch."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.F: list[Tensor] = []
        self.D: list[Tensor] = []
        self.errors: list[Tensor] = []
        self.energies: list[Tensor] = []

    def add(self, F: Matrices, D: Matrices, error: Matrices, energy: Float[Tensor, "molecule"]) -> None:
        """Keep these and forget the oldest beyond `length`; F, error and energy in eV."""
        for store, value in ((self.F, F), (self.D, D), (self.errors, error), (self.energies, energy)):
            store.append(value)
            if len(store) > self.length:
                store.pop(0)

    def combine(self, coefficients: Float[Tensor, "molecule entry"]) -> Matrices:
        """The Fock matrix with these coefficients."""
        return torch.einsum("mk,kmsij->msij", coefficients, torch.stack(self.F))


def diis(history: History) -> Float[Tensor, "molecule entry"]:
    """Coefficients that minimise the norm of the combined commutator."""
    errors = torch.stack(history.errors, 1).flatten(2)
    overlap = errors @ errors.mT
    count = overlap.shape[-1]
    scale = overlap.diagonal(dim1=1, dim2=2).amax(1).clamp(min=torch.finfo(overlap.dtype).tiny)
    overlap = overlap / scale[:, None, None] + RIDGE * torch.eye(count, dtype=overlap.dtype, device=overlap.device)
    weights = torch.linalg.solve_ex(overlap, overlap.new_ones(len(overlap), count))[0]
    return weights / weights.sum(1, keepdim=True)


def energy_diis(history: History, steps: int = 200) -> Float[Tensor, "molecule entry"]:
    """Coefficients on the simplex that minimise the energy model sum_k c_k E_k - 1/4 sum_kl c_k c_l tr(F_k - F_l)(D_k - D_l).

    Projected gradient steps with a fixed, safe length; the problem has at most a handful of unknowns.
    """
    F, D = (torch.stack(x, 1).flatten(2) for x in (history.F, history.D))
    FD = F @ D.mT * (2.0 / history.D[0].shape[1])
    diagonal = FD.diagonal(dim1=1, dim2=2)
    B = diagonal[:, :, None] + diagonal[:, None, :] - FD - FD.mT
    E = torch.stack(history.energies, 1)
    E = E - E.amin(1, keepdim=True)
    step = 1.0 / (B.abs().sum(2).amax(1).clamp(min=1e-6))[:, None]
    c = torch.zeros_like(E)
    c[torch.arange(len(E)), E.argmin(1)] = 1.0
    for _ in range(steps):
        gradient = E - 0.5 * (B @ c[..., None])[..., 0]
        c = _simplex(c - step * gradient)
    return c


def _simplex(v: Float[Tensor, "molecule entry"]) -> Float[Tensor, "molecule entry"]:
    """Euclidean projection onto non-negative vectors of sum one."""
    u = v.sort(1, descending=True).values
    excess = u.cumsum(1) - 1.0
    k = torch.arange(1, v.shape[1] + 1, device=v.device, dtype=v.dtype)
    last = ((u - excess / k) > 0).sum(1, keepdim=True) - 1
    return (v - excess.gather(1, last) / (last + 1)).clamp(min=0.0)
