"""Error bars of correlated averages: reblocking.

H. Flyvbjerg, H. G. Petersen, J. Chem. Phys. 91, 461 (1989); the block is chosen as in R. M. Lee et al., Phys. Rev. E 83, 066706
(2011).
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error, the variance of single values and the steps after which they are independent."""

    mean: float
    error: float
    variance: float
    correlation: float


def reblocked(values: Float[Tensor, "step walker"]) -> Estimate:
    """The mean of series of many walkers, with the standard error of blocks long enough to be independent.

    The walkers are independent of each other, so the variance of block means is taken over walkers and blocks together. Of all
    block lengths 2^k the smallest with 8^k > 2 n (s_k/s_0)^4 is taken, n steps and s_k^2 the variance of the mean at level k.
    """
    values = values.double()
    steps = len(values)
    variance = float(values.var()) if values.numel() > 1 else 0.0
    levels, blocks = [], values
    while len(blocks) >= 1 and blocks.numel() > 1:
        levels.append(float(blocks.var()) / blocks.numel())
        if len(blocks) < 2:
            break
        even = len(blocks) // 2 * 2
        blocks = 0.5 * (blocks[0:even:2] + blocks[1:even:2])
    if not levels or levels[0] <= 0:
        return Estimate(float(values.mean()), 0.0, variance, 1.0)
    chosen = next((s for k, s in enumerate(levels) if 8**k > 2 * steps * (s / levels[0]) ** 2), max(levels))
    return Estimate(float(values.mean()), chosen**0.5, variance, max(1.0, chosen / levels[0]))
