"""Muon for matrices, AdamW for everything else; warm-up and cosine; moving averages of the weights.

Muon steps along the orthogonal factor of the momentum of a matrix, so that all its directions move alike.
K. Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024), https://kellerjordan.github.io/posts/muon
AdamW: I. Loshchilov, F. Hutter, arXiv:1711.05101
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import cos, pi
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)    # of Jordan et al.: fast growth of small singular values, result within 0.7 to 1.2
ITERATIONS = 5


# torch.optim.Muon (torch 2.9 and later) has the same coefficients, iterations and scaling by shape, but iterates in bfloat16:
# its directions differ by 1 to 2 % for random matrices, by 5 to 16 % for those whose singular values span three decades. It
# also refuses stacks of matrices, and the package promises torch 2.6.
def orthogonal(G: Float[Tensor, "*stack row column"]) -> Float[Tensor, "*stack row column"]:
    """Nearly the orthogonal factor U V^T of matrices G = U S V^T, by a quintic Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    tall = G.shape[-2] > G.shape[-1]
    X = G.mT if tall else G
    X = X / X.flatten(-2).norm(dim=-1).clamp(min=1e-30)[..., None, None]
    for _ in range(ITERATIONS):
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    return X.mT if tall else X


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that ask for gradients."""
    return [p for p in module.parameters() if p.requires_grad]


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters that Muon steps: those of two axes or more, none of the last two of length 1, but no table of
    embeddings, whose rows are independent of each other."""
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    return [p for p in trainable(module) if p.dim() >= 2 and min(p.shape[-2:]) > 1 and id(p) not in tables]


class MuonAdamW:
    """Muon on the matrices of a module, AdamW on its other parameters, one step at a time with the rate it is given.

    ratio: rate of AdamW relative to Muon's. A matrix step has root mean square sqrt(max(1, rows/columns)) rate / sqrt(columns).
    weight_decay: pull of the weights, per step and unit of rate, towards zero; towards what they are now if `anchored`, which
    keeps a fine-tuned network near the one it started from (X. Li, Y. Grandvalet, F. Davoine, ICML 2018).
    """

    def __init__(self, module: nn.Module, ratio: float = 1.0, momentum: float = 0.95, weight_decay: float = 0.0,
                 anchored: bool = False, betas: tuple[float, float] = (0.9, 0.99)):
        self.matrices = matrices(module)
        by_muon = {id(p) for p in self.matrices}
        self.ratio, self.momentum, self.weight_decay = ratio, momentum, weight_decay
        self.velocity = [torch.zeros_like(p) for p in self.matrices]
        self.rest = [p for p in trainable(module) if id(p) not in by_muon]
        # the decay of AdamW is made here (`_decay`), for both kinds and towards anchors
        self.adam = torch.optim.Adam(self.rest, lr=0.0, betas=betas) if self.rest else None
        self.anchors = [p.detach().clone() for p in (*self.matrices, *self.rest)] if anchored and weight_decay else []

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step against the gradients."""
        self._decay(rate)
        for p, v in zip(self.matrices, self.velocity, strict=True):
            if p.grad is None:
                continue
            v.mul_(self.momentum).add_(p.grad)
            direction = orthogonal(p.grad + self.momentum * v)
            p.add_(direction, alpha=-rate * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5)
        if self.adam is not None:
            for group in self.adam.param_groups:
                group["lr"] = rate * self.ratio
            self.adam.step()

    def _decay(self, rate: float) -> None:
        """Move the weights towards zero or their anchors; as in AdamW, apart from the step."""
        if not self.weight_decay:
            return
        rates = [rate] * len(self.matrices) + [rate * self.ratio] * len(self.rest)
        for k, (p, r) in enumerate(zip((*self.matrices, *self.rest), rates, strict=True)):
            if self.anchors:
                p.lerp_(self.anchors[k], r * self.weight_decay)
            else:
                p.mul_(1 - r * self.weight_decay)

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"velocity": self.velocity, "adam": self.adam.state_dict() if self.adam else None, "anchors": self.anchors}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the state of a checkpoint."""
        for mine, kept in zip((*self.velocity, *self.anchors), (*state["velocity"], *state["anchors"]), strict=True):
            mine.copy_(kept)
        if self.adam is not None:
            self.adam.load_state_dict(state["adam"])


def schedule(step: int, steps: int, warm_up: float, final: float) -> float:
    """Factor of the rate at `step` of `steps`: linear up over the fraction `warm_up`, then a half cosine down to `final`."""
    rise = max(1, round(warm_up * steps))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return final + (1 - final) * 0.5 * (1 + cos(pi * min(done, 1.0)))


def clipped(parameters: Sequence[nn.Parameter], largest: float) -> float:
    """Norm of all gradients together, which are scaled down to the norm `largest` where theirs exceeds it.

    Where the norm is not finite, the gradients are of no use afterwards.
    """
    return float(torch.nn.utils.clip_grad_norm_(parameters, largest))


class Average:
    """Exponential moving average of parameters: a <- d a + (1 - d) w, d rising from 0.1 to `decay` over the first steps."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters = nn.ParameterList(parameters)
        self.averaged = AveragedModel(self.parameters, multi_avg_fn=_rising(decay))
        self.averaged.n_averaged.fill_(1)      # at 0 the first update would forget what the parameters are now

    @property
    def values(self) -> list[Tensor]:
        """The averages, in the order of the parameters."""
        return [a.detach() for a in self.averaged.parameters()]

    def update(self) -> None:
        """Take the parameters as they are now into the averages."""
        self.averaged.update_parameters(self.parameters)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages in the place of the parameters, for as long as the context lasts."""
        own = [p.detach().clone() for p in self.parameters]
        put(self.parameters, self.values)
        try:
            yield
        finally:
            put(self.parameters, own)

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"values": self.values, "steps": int(self.averaged.n_averaged) - 1}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the state of a checkpoint."""
        self.averaged.n_averaged.fill_(state["steps"] + 1)
        put(self.averaged.parameters(), state["values"])


@torch.no_grad()
def put(parameters: Iterable[nn.Parameter], values: Iterable[Tensor]) -> None:
    """Give parameters these values."""
    for p, value in zip(parameters, values, strict=True):
        p.copy_(value)


def _rising(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """The update of AveragedModel whose decay rises with the number n of models averaged before, n/(9 + n), up to `decay`."""
    def update(averages: Any, parameters: Any, count: Tensor | int) -> None:
        get_ema_multi_avg_fn(min(decay, int(count) / (9 + int(count))))(averages, parameters, count)

    return update
