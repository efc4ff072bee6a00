"""How often a result may be differentiated: derivatives beyond what is exact raise an error instead of being wrong.

A state knows its derivatives to a fixed order (response.py); autograd would go on beyond it and return numbers that lack the
response of the density. Everything that enters a calculation therefore passes through `entered`, which hands the derivative
that leaves it to a step of the next level. To differentiate that derivative again autograd must pass through the step, which
refuses where the level has reached the order. Quantities that are not stationary in the density (dipole, charges, levels) are
one level further already: `advanced`.
"""

from typing import Any

import torch
from torch import Tensor

from nddo_ml.errors import UnknownOption


class Order:
    """The order to which one calculation may be differentiated, and how far the backward pass now running has come."""

    def __init__(self, order: int) -> None:
        self.order, self._level = order, 0
        self._task: int | None = None

    def reached(self) -> int:
        """Highest level of the steps that the backward pass now running has gone through."""
        return self._level if self._task == _running() else 0

    def pass_through(self, level: int) -> None:
        """Note a step of this level in the backward pass now running; UnknownOption where it leads beyond the order."""
        if level >= self.order:
            more = ("derivatives beyond third are not offered" if self.order == 3 else
                    f"ask for order={self.order + 1}" + ("" if self.order == 2 else " (or 3)"))
            raise UnknownOption(
                f"This derivative is beyond order={self.order}: at that order energies can be differentiated "
                f"{('once', 'twice', 'three times')[self.order - 1]}, forces, dipoles, charges and orbital energies once less. "
                f"It would lack the response of the density and be wrong: {more}, or leave out create_graph.")
        self._level, self._task = max(self.reached(), level), _running()


def entered(tensor: Tensor, order: Order) -> Tensor:
    """The tensor, whose derivatives are counted where it is on a tape."""
    return _Entry.apply(tensor, order) if tensor.requires_grad else tensor


def advanced(tensor: Tensor, order: Order) -> Tensor:
    """The tensor, whose first derivative counts as a second one of the energy."""
    return _Step.apply(tensor, order, 1) if tensor.requires_grad else tensor


def _running() -> int:
    """Which backward pass is running, -1: none."""
    return torch._C._current_graph_task_id()        # pyright: ignore[reportPrivateUsage]: torch has no public way to ask


class _Entry(torch.autograd.Function):
    """The identity; its derivative leaves through a step."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, order: Order) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.order = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Step.apply(grad, ctx.order, 1 + ctx.order.reached()), None


class _Step(torch.autograd.Function):
    """The identity; its backward is a further differentiation."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, order: Order, level: int) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.order, ctx.level = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.order.pass_through(ctx.level)
        return grad, None, None
