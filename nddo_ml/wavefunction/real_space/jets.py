"""Jets: a quantity together with its Jacobian and its Laplacian, propagated forwards through a network in one pass.

The kinetic energy needs the Laplacian of ln|psi| by the coordinates of the electrons. Every operation below takes either plain
tensors, and is the plain operation, or jets, and applies the chain rule to value, Jacobian and Laplacian together, so that a
network is written once for both. Two kinds of jet share these rules: local ones, by the 3 coordinates of the one vector that a
feature depends on, and dense ones, by the coordinates of all electrons. `spread` and `pair_sum` lead from the first to the
second.

In the formulas below J is the Jacobian of a quantity and L its Laplacian.

R. Li et al., A computational framework for neural network-based variational Monte Carlo with Forward Laplacian,
Nat. Mach. Intell. 6, 209 (2024).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Jet:
    """A quantity with its derivatives, in one tensor, so that linear maps act on all of them at once."""

    rows: Float[Tensor, "row ..."]      # value, Laplacian, and the derivatives by each coordinate

    @property
    def value(self) -> Tensor:
        """The quantity itself."""
        return self.rows[0]

    @property
    def laplacian(self) -> Tensor:
        """Sum of its second derivatives."""
        return self.rows[1]

    @property
    def jacobian(self) -> Tensor:
        """Its first derivatives, `coordinate ...`."""
        return self.rows[2:]

    @property
    def shape(self) -> torch.Size:
        """Shape of the value."""
        return self.rows.shape[1:]

    def __add__(self, other: "Jet | Tensor | float") -> "Jet":
        if isinstance(other, Jet):
            return Jet(self.rows + other.rows)
        total = self.value + other
        return _stacked(total, self.laplacian.expand_as(total), self.jacobian.expand(-1, *total.shape))

    __radd__ = __add__

    def __sub__(self, other: "Jet | Tensor | float") -> "Jet":
        return self + (-1.0 * other)

    def __rsub__(self, other: Tensor | float) -> "Jet":
        return -1.0 * self + other

    def __mul__(self, other: "Jet | Tensor | float") -> "Jet":
        if not isinstance(other, Jet):
            return Jet(self.rows * other)
        a, b = self, other
        cross = a.value * b.laplacian + a.laplacian * b.value + 2 * (a.jacobian * b.jacobian).sum(0)
        return _stacked(a.value * b.value, cross, a.value * b.jacobian + a.jacobian * b.value)

    __rmul__ = __mul__

    def __getitem__(self, index: tuple) -> "Jet":
        """An index of trailing axes, jet[..., k], as it would be of the value."""
        return Jet(self.rows[index])


Quantity: TypeAlias = Tensor | Jet


def _stacked(value, laplacian, jacobian):
    return Jet(torch.cat([value[None], laplacian[None], jacobian]))


def mapped(x: Quantity, operation: Callable[[Tensor], Tensor]) -> Quantity:
    """The result of a linear operation that leaves the first axis alone: a reshape, a sum over trailing axes, ..."""
    return Jet(operation(x.rows)) if isinstance(x, Jet) else operation(x)


def value(x: Quantity) -> Tensor:
    """The tensor itself, or the value of a jet."""
    return x.value if isinstance(x, Jet) else x


def chain(x: Jet, f: Tensor, first: Tensor, second: Tensor) -> Jet:
    """The jet of f(x) from f and its derivatives at x: J_f = f' J, L_f = f' L + f'' sum J^2."""
    return _stacked(f, first * x.laplacian + second * x.jacobian.square().sum(0), first * x.jacobian)


def tanh(x: Quantity) -> Quantity:
    """tanh x."""
    y = torch.tanh(value(x))
    if not isinstance(x, Jet):
        return y
    first = 1 - y * y
    return chain(x, y, first, -2 * y * first)


def exp(x: Quantity) -> Quantity:
    """e^x."""
    y = torch.exp(value(x))
    return chain(x, y, y, y) if isinstance(x, Jet) else y


def log1p(x: Quantity) -> Quantity:
    """ln(1 + x)."""
    v = value(x)
    if not isinstance(x, Jet):
        return torch.log1p(v)
    slope = 1 / (1 + v)
    return chain(x, torch.log1p(v), slope, -slope * slope)


def sqrt(x: Quantity) -> Quantity:
    """Square root."""
    y = torch.sqrt(value(x))
    return chain(x, y, 0.5 / y, -0.25 / y**3) if isinstance(x, Jet) else y


def reciprocal(x: Quantity) -> Quantity:
    """1/x."""
    y = 1 / value(x)
    return chain(x, y, -y * y, 2 * y**3) if isinstance(x, Jet) else y


def linear(x: Quantity, weight: Float[Tensor, "output input"], bias: Float[Tensor, "output"] | None = None) -> Quantity:
    """W x + b along the last axis."""
    if not isinstance(x, Jet):
        return torch.nn.functional.linear(x, weight, bias)
    y = Jet(torch.nn.functional.linear(x.rows, weight))
    return y if bias is None else y + bias


def contract(equation: str, a: Quantity, b: Quantity) -> Quantity:
    """einsum of two factors; `equation` names their trailing axes, leading ones are kept. L = L_a b + a L_b + 2 sum J_a J_b."""
    left, _, rest = equation.partition(",")
    right, _, out = rest.partition("->")
    product = f"...{left},...{right}->...{out}"
    if isinstance(a, Jet) and isinstance(b, Jet):
        cross = torch.einsum(f"K...{left},K...{right}->...{out}", a.jacobian, b.jacobian)
        ab = torch.einsum(product, a.rows, b.value)                    # value and every derivative of the first factor
        ba = torch.einsum(product, a.value, b.rows[1:])
        return _stacked(ab[0], ab[1] + ba[0] + 2 * cross, ab[2:] + ba[1:])
    if isinstance(a, Jet):
        return Jet(torch.einsum(product, a.rows, b))
    return Jet(torch.einsum(product, a, b.rows)) if isinstance(b, Jet) else torch.einsum(product, a, b)


def joined(parts: Sequence[Quantity], axis: int = -1) -> Quantity:
    """Tensors, or jets, put together along a trailing axis."""
    rows = torch.cat([part.rows if isinstance(part, Jet) else part for part in parts], axis)
    return Jet(rows) if isinstance(parts[0], Jet) else rows


def softmax(x: Quantity) -> Quantity:
    """softmax along the last axis, without overflow."""
    e = exp(x - value(x).amax(-1, keepdim=True).detach())      # a constant shift: it cancels
    return e * reciprocal(mapped(e, lambda t: t.sum(-1, keepdim=True)))


def local(vectors: Float[Tensor, "... 3"]) -> Jet:
    """Vectors as local jets, by their own three components: the Jacobian is the unit matrix, the Laplacian is zero."""
    unit = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    unit = unit.reshape(3, *(1,) * (vectors.dim() - 1), 3).expand(3, *vectors.shape)
    return _stacked(vectors, torch.zeros_like(vectors), unit)


def spread(x: Quantity) -> Quantity:
    """Features `... electron feature` that depend on each electron's own position, as dense jets; tensors as they are."""
    if not isinstance(x, Jet):
        return x
    n = x.shape[-2]
    own = torch.eye(n, dtype=x.rows.dtype, device=x.rows.device)
    dense = torch.einsum("ki,c...if->kc...if", own, x.jacobian)
    return _stacked(x.value, x.laplacian, dense.flatten(0, 1))


def pair_sum(x: Quantity, weights: Float[Tensor, "electron electron"]) -> Quantity:
    """sum_j w_ij x_ij of features `... electron electron feature` that depend on r_i - r_j, as dense jets; w_ii must be 0.

    d/dr_k = delta_ik sum_j w_ij J_ij - w_ik J_ik, and the Laplacian by both ends is 2 sum_j w_ij L_ij.
    """
    total = torch.einsum("ij,...ijf->...if", weights, x.rows if isinstance(x, Jet) else x)
    if not isinstance(x, Jet):
        return total
    own = torch.eye(len(weights), dtype=weights.dtype, device=weights.device)
    dense = (torch.einsum("ki,c...if->kc...if", own, total[2:])
             - torch.einsum("ik,c...ikf->kc...if", weights, x.jacobian))
    return _stacked(total[0], 2 * total[1], dense.flatten(0, 1))


def reordered(x: Quantity, order: list[int]) -> Quantity:
    """The jet by r of a function of r[order], from its jet by r[order]; `order` must be its own inverse."""
    if not isinstance(x, Jet):
        return x
    return _stacked(x.value, x.laplacian, x.jacobian.unflatten(0, (-1, 3))[order].flatten(0, 1))


def slogdet(A: Quantity) -> tuple[Tensor, Quantity]:
    """(sign, ln|det|) of the matrices in the last two axes; (0, -inf) of a singular one, whose derivatives are 0.

    J = tr(A^-1 dA), L = tr(A^-1 L_A) - sum tr(A^-1 dA A^-1 dA).
    """
    if not isinstance(A, Jet):
        sign, log = _Slogdet.apply(A) if torch.is_grad_enabled() else torch.linalg.slogdet(A)
        return sign, log
    sign, log = torch.linalg.slogdet(A.value)
    M = _inverse(A.value) @ A.rows[1:]
    first = M.diagonal(dim1=-2, dim2=-1).sum(-1)
    squares = (M[1:] * M[1:].mT).sum((0, -2, -1))
    return sign, _stacked(log, first[0] - squares, first[1:])


class _Slogdet(torch.autograd.Function):
    """torch.linalg.slogdet, whose own derivative raises where one matrix of a batch is singular."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor]:
        sign, log = torch.linalg.slogdet(A)
        return sign, log

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, _: Tensor | None, slope: Tensor) -> Tensor:
        return slope[..., None, None] * _inverse(ctx.saved_tensors[0]).mT

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> tuple[Tensor, Tensor]:
        trace = (_inverse(ctx.saved_tensors[0]) * tangent.mT).sum((-2, -1))
        return torch.zeros_like(trace), trace


def _inverse(A):
    """The inverse of each matrix; 0 of a singular one."""
    inverse, singular = torch.linalg.inv_ex(A)
    return torch.where(singular[..., None, None] > 0, 0.0, inverse)


def log_sum(signs: Tensor, logs: Quantity) -> tuple[Tensor, Quantity]:
    """(sign, ln|sum|) of the sum along the last axis of numbers s e^l, given by their signs s and logarithms l.

    With the shares w = s e^l / sum: J = sum w J_l, L = sum w (L_l + |J_l|^2) - |J|^2.
    """
    v = value(logs)
    largest = v.amax(-1, keepdim=True).detach()
    terms = signs * torch.exp(v - largest)
    total = terms.sum(-1)
    sign, log = torch.sign(total), torch.log(total.abs()) + largest[..., 0]
    if not isinstance(logs, Jet):
        return sign, log
    w = terms / total[..., None]
    J = (w * logs.jacobian).sum(-1)
    L = (w * (logs.laplacian + logs.jacobian.square().sum(0))).sum(-1) - J.square().sum(0)
    return sign, _stacked(log, L, J)
