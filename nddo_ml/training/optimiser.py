"""Muon for matrices, AdamW for everything else; warm-up and cosine; moving averages of the weights.

Muon steps along the orthogonal factor of the momentum of a matrix, so that all its directions move alike.
K. Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024), https://kellerjordan.github.io/posts/muon
AdamW: I. Loshchilov, F. Hutter, arXiv:1711.05101
"""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from math import cos, pi

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)    # of Jordan et al.: fast growth of small singular values, result within 0.7 to 1.2
ITERATIONS = 5


def orthogonal(G: Tensor) -> Tensor:
    """Nearly the orthogonal factor U V^T of matrices G = U S V^T (the last two axes), by a quintic Newton-Schulz iteration."""
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
    """Those that Muon steps: two axes or more, none of the last two of length 1, and no table of embeddings, whose rows are
    independent of each other."""
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    return [p for p in trainable(module) if p.dim() >= 2 and min(p.shape[-2:]) > 1 and id(p) not in tables]


class Optimiser:
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

    def _decay(self, rate):
        """Weights move towards zero or their anchors; as in AdamW, apart from the step."""
        if not self.weight_decay:
            return
        rates = [rate] * len(self.matrices) + [rate * self.ratio] * len(self.rest)
        for k, (p, r) in enumerate(zip((*self.matrices, *self.rest), rates, strict=True)):
            if self.anchors:
                p.lerp_(self.anchors[k], r * self.weight_decay)
            else:
                p.mul_(1 - r * self.weight_decay)

    def state(self) -> dict:
        """Everything, for a checkpoint."""
        return {"velocity": self.velocity, "adam": self.adam.state_dict() if self.adam else None, "anchors": self.anchors}

    def restore(self, state: dict) -> None:
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
    """Norm of all gradients together, which are scaled down to `largest` where it exceeds that; not finite: left as it is."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt() if gradients else torch.zeros(())
    if bool(torch.isfinite(norm)) and float(norm) > largest:
        for g in gradients:
            g.mul_(largest / float(norm))
    return float(norm)


class Average:
    """Exponential moving average of parameters: a <- d a + (1 - d) w, d rising from 0.1 to `decay` over the first steps."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters, self.decay, self.steps = list(parameters), decay, 0
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are now."""
        d = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for a, p in zip(self.values, self.parameters, strict=True):
            a.mul_(d).add_(p, alpha=1 - d)

    @contextmanager
    def applied(self):
        """The averages in the place of the parameters, for as long as the context lasts."""
        own = [p.detach().clone() for p in self.parameters]
        self._set(self.values)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values):
        for p, v in zip(self.parameters, values, strict=True):
            p.copy_(v)

    def state(self) -> dict:
        """Everything, for a checkpoint."""
        return {"values": self.values, "steps": self.steps}

    def restore(self, state: dict) -> None:
        """Take the state of a checkpoint."""
        self.steps = state["steps"]
        for mine, kept in zip(self.values, state["values"], strict=True):
            mine.copy_(kept)
