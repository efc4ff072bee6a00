"""Backbones: networks that turn the positions of all electrons into one feature vector per electron.

When two electrons of one spin change places, so do their feature vectors, and all others stay. FermiNet has a stream of
electrons and a stream of pairs, mixed by means over the electrons of each spin; Psiformer has self-attention between electrons.
D. Pfau et al., Phys. Rev. Research 2, 033429 (2020); I. von Glehn et al., ICLR 2023, arXiv:2211.13672.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.wavefunction.real_space.features import NUCLEUS, PAIR, nucleus_features, pair_features, pair_weights
from nddo_ml.wavefunction.real_space.jets import Quantity, contract, joined, linear, mapped, pair_sum, softmax, spread, tanh


class Dense(nn.Module):
    """W x + b of tensors and jets; at first the elements of W have the variance 1/inputs."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, dtype=torch.float64) / inputs**0.5)
        self.bias = nn.Parameter(0.1 * torch.randn(outputs, dtype=torch.float64)) if bias else None

    def forward(self, x: Quantity) -> Quantity:
        """W x + b along the last axis."""
        return linear(x, self.weight, self.bias)


class FermiNet(nn.Module):
    """A stream of electrons (`width` features each) and a stream of pairs (`pair_width`), mixed `layers` times."""

    charges: Tensor
    means: Tensor

    def __init__(self, charges: Float[Tensor, "atom"], up: int, down: int, width: int = 32, pair_width: int = 8,
                 layers: int = 3):
        super().__init__()
        n, self.width = up + down, width
        self.register_buffer("charges", charges.clone())
        self.register_buffer("means", torch.stack([pair_weights(0, up, n, charges), pair_weights(up, n, n, charges)]))
        self.spins = [s for s, count in enumerate((up, down)) if count]
        self.bounds = {0: slice(0, up), 1: slice(up, n)}
        singles = [NUCLEUS * len(charges)] + [width] * (layers - 1)
        pairs = [PAIR] + [pair_width] * (layers - 1)
        self.own = nn.ModuleList(Dense(s, width) for s in singles)
        self.mean = nn.ModuleList(Dense(len(self.spins) * s, width, bias=False) for s in singles)
        self.between = nn.ModuleList(Dense(len(self.spins) * p, width, bias=False) for p in pairs)
        self.pair = nn.ModuleList(Dense(p, pair_width) for p in pairs[:-1])

    def forward(self, nucleus: Quantity, pair: Quantity) -> Quantity:
        """Features `... electron width` of the vectors `... electron atom 3` and `... electron electron 3`."""
        h, g = spread(nucleus_features(nucleus, self.charges)), pair_features(pair, self.charges)
        for k, own in enumerate(self.own):
            averages = joined([mapped(h, lambda t, s=s: t[..., self.bounds[s], :].mean(-2, keepdim=True)) for s in self.spins])
            others = joined([pair_sum(g, self.means[s]) for s in self.spins])
            new = tanh(own(h) + self.between[k](others) + mapped(self.mean[k](averages), lambda t: t.expand(
                *t.shape[:-2], len(self.means[0]), t.shape[-1])))
            h = new if k == 0 else h + new
            if k < len(self.pair):
                step = tanh(self.pair[k](g))
                g = step if k == 0 else g + step
        return h


class Psiformer(nn.Module):
    """`layers` times self-attention with so many heads, then a tanh layer; both add to the features."""

    charges: Tensor
    spin: Tensor

    def __init__(self, charges: Float[Tensor, "atom"], up: int, down: int, width: int = 32, heads: int = 4, layers: int = 2):
        super().__init__()
        self.width, self.heads = width, heads
        self.register_buffer("charges", charges.clone())
        self.register_buffer("spin", (2.0 * (torch.arange(up + down) < up) - 1.0).to(charges)[:, None])
        self.embed = Dense(NUCLEUS * len(charges), width)
        self.of_spin = nn.Parameter(0.3 * torch.randn(width, dtype=torch.float64))
        self.query, self.key, self.content, self.out = (
            nn.ModuleList(Dense(width, width, bias=False) for _ in range(layers)) for _ in range(4))
        self.inner = nn.ModuleList(Dense(width, width) for _ in range(layers))

    def forward(self, nucleus: Quantity, pair: Quantity) -> Quantity:
        """Features `... electron width` of the vectors `... electron atom 3`; `pair` is not used."""
        h = tanh(self.embed(spread(nucleus_features(nucleus, self.charges))) + self.spin * self.of_spin)
        for q, k, v, out, inner in zip(self.query, self.key, self.content, self.out, self.inner, strict=True):
            scores = contract("ihd,jhd->hij", self._split(q(h)), self._split(k(h))) * (self.heads / self.width) ** 0.5
            mixed = contract("hij,jhd->ihd", softmax(scores), self._split(v(h)))
            h = h + out(mapped(mixed, lambda t: t.flatten(-2)))
            h = h + tanh(inner(h))
        return h

    def _split(self, x):
        return mapped(x, lambda t: t.unflatten(-1, (self.heads, -1)))
