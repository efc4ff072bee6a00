"""Levenberg-Marquardt: a few dozen energies of a few hundred parameters, some of which the energies hardly feel and some of
which move all of them at once. Gradient descent needs hundreds of steps for what takes ten here.

Minimises sum_i w_i Huber(r_i(theta)) + prior/2 |theta - theta_0|^2; theta_0 is the parent functional, so that what the data do
not ask for stays as it is.                                      Marquardt, J. Soc. Ind. Appl. Math. 11, 431 (1963)
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.functional.training.losses import Residuals

LARGEST = 1e8            # damping with which no step is worth trying
GROW, SHRINK = 4.0, 3.0


class LevenbergMarquardt:
    """Parameters on their way from where they stood, `origin`; damping: of the next step, which adapts itself."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], prior: float, damping: float = 1.0) -> None:
        self.parameters, self.prior, self.damping = list(parameters), prior, damping
        self.origin = self.position()

    def position(self) -> Float[Tensor, "parameter"]:
        """All parameters in a row."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters]).clone()     # they will move

    def place(self, position: Float[Tensor, "parameter"]) -> None:
        """Set the parameters."""
        with torch.no_grad():
            for p, values in zip(self.parameters, position.split([p.numel() for p in self.parameters]), strict=True):
                p.copy_(values.reshape(p.shape))

    def loss(self, residuals: Residuals) -> float:
        """The loss of the residuals where the parameters stand, with the prior."""
        return residuals.loss + 0.5 * self.prior * float((self.position() - self.origin).square().sum())

    def step(self, residuals: Residuals, again: Callable[[], Residuals]) -> tuple[Residuals, bool]:
        """(residuals after a step that lowers the loss, True), or (`residuals`, False) where none does; again: what makes
        them anew."""
        before, loss = self.position(), self.loss(residuals)
        while self.damping < LARGEST:
            self.place(before + self.direction(residuals, before))
            after = again()
            if self.loss(after) < loss:
                self.damping /= SHRINK
                return after, True
            self.damping *= GROW
        self.place(before)
        self.damping = 1.0
        return residuals, False

    def direction(self, residuals: Residuals, position: Float[Tensor, "parameter"]) -> Float[Tensor, "parameter"]:
        """-(J' h J + l)^-1 g with l = prior + damping, by a system of the size of the residuals:
        (J' h J + l)^-1 = [1 - J' (J J' + l / h)^-1 J] / l."""
        J, h, l = residuals.jacobian, residuals.curvature, self.prior + self.damping
        g = J.T @ (h * residuals.values) + self.prior * (position - self.origin)
        inner = torch.linalg.solve(J @ J.T + torch.diag(l / h), J @ g)
        return -(g - J.T @ inner) / l
