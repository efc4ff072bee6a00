"""Error bars of averages over correlated samples, by reblocking: means of ever longer blocks, until those are independent.

H. Flyvbjerg, H. G. Petersen, J. Chem. Phys. 91, 461 (1989); the block is chosen as in R. M. Lee et al., Phys. Rev. E 83, 066706
(2011).
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """An average with its error bar."""

    mean: float
    error: float            # standard error of the mean
    variance: float         # of single values
    correlation: float      # steps after which values are independent


def reblocked(values: Float[Tensor, "step walker"]) -> Estimate:
    """The mean of the series of all walkers, with the standard error from blocks that are long enough to be independent.

    The walkers are independent of each other, so the variance of block means is taken over walkers and blocks together. Block
    lengths are 2^k; the smallest one with 8^k > 2 n (s_k/s_0)^4 is taken, n being the number of steps and s_k^2 the variance of
    the mean that blocks of length 2^k give.
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
    square = next((s for k, s in enumerate(levels) if 8**k > 2 * steps * (s / levels[0]) ** 2), max(levels))
    return Estimate(float(values.mean()), square**0.5, variance, max(1.0, square / levels[0]))
