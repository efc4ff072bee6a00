"""What a network sees of the electrons: smooth functions of electron-nucleus and electron-electron vectors.

Smooth where two particles meet, so that the cusps are those of the Jastrow factor, exactly; growing at most logarithmically, so
that a network does not saturate far outside.
"""

from jaxtyping import Float
from torch import Tensor

from nddo_ml.wavefunction.real_space.jets import exp, joined, local, log1p, mapped, reciprocal, sqrt

NUCLEUS = 6     # features by an electron and a nucleus
PAIR = 7        # features by a pair of electrons


def nucleus_vectors(r: Float[Tensor, "... electron 3"], nuclei: Float[Tensor, "atom 3"], jets: bool):
    """r_i - R_A, `... electron atom 3`, as local jets if asked for."""
    d = r[..., :, None, :] - nuclei
    return local(d) if jets else d


def pair_vectors(r: Float[Tensor, "... electron 3"], jets: bool):
    """r_i - r_j, `... electron electron 3`, as local jets if asked for."""
    d = r[..., :, None, :] - r[..., None, :, :]
    return local(d) if jets else d


def square_length(d):
    """|d|^2, the last axis kept."""
    return mapped(d * d, lambda t: t.sum(-1, keepdim=True))


def nucleus_features(d, charges: Float[Tensor, "atom"]):
    """`... electron feature`: for each nucleus direction, two logarithms of the distance, a bump of the size of the core."""
    s = square_length(d)
    Z2 = charges[:, None].square()
    f = joined([d * reciprocal(sqrt(s + 1.0)), log1p(s), log1p(s * Z2) - log1p(s), exp(sqrt(s * Z2 + 1.0) * -1.0)])
    return mapped(f, lambda t: t.flatten(-2))


def pair_features(d, charges: Float[Tensor, "atom"]):
    """`... electron electron feature`: direction, two logarithms of the distance, bumps of a bohr and of the smallest core."""
    s = square_length(d)
    Z2 = charges.max().square()
    return joined([d * reciprocal(sqrt(s + 1.0)), log1p(s), exp(sqrt(s + 1.0) * -1.0), log1p(s * Z2) - log1p(s),
                   exp(sqrt(s * Z2 + 1.0) * -1.0)])


def pair_weights(first: int, second: int, electrons: int, up: int, like: Tensor) -> Float[Tensor, "electron electron"]:
    """w_ij that average over the electrons j != i with first <= j < second."""
    w = like.new_zeros(electrons, electrons)
    w[:, first:second] = 1.0
    w.fill_diagonal_(0.0)
    return w / max(1, second - first)
