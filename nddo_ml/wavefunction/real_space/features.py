"""What a network sees of the electrons: features that are functions of electron-nucleus and electron-electron vectors.

They are smooth where two particles meet, so that the cusps of the wavefunction are exactly those of the Jastrow factor. They
grow at most logarithmically, so that a network does not saturate far from the nuclei.
"""

from jaxtyping import Float
from torch import Tensor

from nddo_ml.wavefunction.real_space.jets import Quantity, exp, joined, local, log1p, mapped, reciprocal, sqrt

NUCLEUS = 6     # features of an electron and a nucleus
PAIR = 7        # features of a pair of electrons


def nucleus_vectors(r: Float[Tensor, "... electron 3"], nuclei: Float[Tensor, "... atom 3"], jets: bool) -> Quantity:
    """r_i - R_A, `... electron atom 3`, as local jets if asked for."""
    d = r[..., :, None, :] - nuclei
    return local(d) if jets else d


def pair_vectors(r: Float[Tensor, "... electron 3"], jets: bool) -> Quantity:
    """r_i - r_j, `... electron electron 3`, as local jets if asked for."""
    d = r[..., :, None, :] - r[..., None, :, :]
    return local(d) if jets else d


def square_length(d: Quantity) -> Quantity:
    """|d|^2 of vectors `... 3`, as `... 1`."""
    return mapped(d * d, lambda t: t.sum(-1, keepdim=True))


def nucleus_features(d: Quantity, charges: Float[Tensor, "atom"]) -> Quantity:
    """Features `... electron feature` of vectors `... electron atom 3`; of each nucleus: direction, two logarithms of the
    distance, and a bump of the size of its core."""
    s = square_length(d)
    Z2 = charges[:, None].square()
    f = joined([d * reciprocal(sqrt(s + 1.0)), log1p(s), log1p(s * Z2) - log1p(s), exp(sqrt(s * Z2 + 1.0) * -1.0)])
    return mapped(f, lambda t: t.flatten(-2))


def pair_features(d: Quantity, charges: Float[Tensor, "atom"]) -> Quantity:
    """Features `... electron electron feature` of vectors `... electron electron 3`: direction, two logarithms of the distance,
    and bumps of the size of a bohr and of the smallest core."""
    s = square_length(d)
    Z2 = charges.max().square()
    return joined([d * reciprocal(sqrt(s + 1.0)), log1p(s), exp(sqrt(s + 1.0) * -1.0), log1p(s * Z2) - log1p(s),
                   exp(sqrt(s * Z2 + 1.0) * -1.0)])


def pair_weights(first: int, last: int, electrons: int, like: Tensor) -> Float[Tensor, "electron electron"]:
    """Weights w_ij that average over the electrons j != i with first <= j < last, of the type of `like`."""
    w = like.new_zeros(electrons, electrons)
    w[:, first:last] = 1.0
    w.fill_diagonal_(0.0)
    return w / max(1, last - first)
