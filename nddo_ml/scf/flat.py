"""Integrals in flat arrays as torch's solvers see them, and matrices on their way between torch and the kernels.

A `FlatKernel` stands where `fock.Kernel` does, off the tape: the integrals are there once in each precision, and no copy is
arranged for exchange.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nddo_ml.common.threads import blas_threads
from nddo_ml.scf.records import Flat, Plan


@dataclass(frozen=True, eq=False)
class FlatKernel:
    """Two-electron integrals of a batch for Fock builds by kernels, in one precision."""

    flat: Flat
    dtype: torch.dtype

    @cached_property
    def blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """The one-centre and the two-centre integrals, eV."""
        kind = np.float32 if self.dtype is torch.float32 else np.float64
        return self.flat.one.astype(kind, copy=False), self.flat.two.astype(kind, copy=False)

    def two_electron(self, D: Float[Tensor, "molecule vector spin orbital orbital"]
                     ) -> Float[Tensor, "molecule vector spin orbital orbital"]:
        """J(P) - K(D) of symmetric densities, eV; see fock.two_electron."""
        from nddo_ml.scf.kernels.induced import induced

        vectors, spins = D.shape[1:3]
        given = taken(self.flat.plan, D)
        made = np.empty_like(given)
        with blas_threads():
            induced(self.flat.plan.indices, vectors, spins, given, *self.blocks, made)
        return padded(self.flat.plan, made, vectors * spins).view(D.shape)


def taken(plan: Plan, matrices: Float[Tensor, "molecule *matrix orbital orbital"]) -> Float[np.ndarray, "element"]:
    """Padded matrices as one molecule after the other; they may share memory."""
    flat = matrices.numpy().reshape(-1)
    if plan.inside is None:
        return flat
    count = matrices.shape[1:-2].numel()
    return flat[plan.inside if count == 1 else _of_several(plan, count)]


def padded(plan: Plan, matrices: Float[np.ndarray, "element"], count: int) -> Float[Tensor, "molecule matrix orbital orbital"]:
    """The padded matrices of one molecule after the other, `count` of each; they may share memory."""
    shape = len(plan.orbitals), count, plan.size, plan.size
    if plan.inside is None:
        return torch.from_numpy(matrices.reshape(shape))
    wide = np.zeros(shape, matrices.dtype)
    wide.reshape(-1)[plan.inside if count == 1 else _of_several(plan, count)] = matrices
    return torch.from_numpy(wide)


def _of_several(plan: Plan, count: int) -> Int[np.ndarray, "element"]:
    """The places of matrix elements among padded ones of so many matrices of each molecule."""
    square = plan.size**2
    real = np.arange(plan.size)[None] < plan.orbitals[:, None]
    one = (real[:, :, None] & real[:, None, :]).reshape(len(real), 1, square)
    return np.flatnonzero(np.broadcast_to(one, (len(real), count, square)))
