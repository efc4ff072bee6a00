"""What of a calculation carries derivatives, and where the tape is on.

Three things may ask for derivatives: a caller whose positions, surroundings or parameters require gradients, forces, and the
order to which the caller wants to differentiate. One record answers for all of them.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from nddo_ml.common.struct import tensor_map
from nddo_ml.errors import UnknownOption
from nddo_ml.molecules import Molecules, PointCharges, Surroundings
from nddo_ml.scf.orders import Order, advanced, entered

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Tape:
    """How one calculation is recorded."""

    on: bool            # whether its results stay on the tape of what it was made from
    forces: bool        # whether forces are asked for
    order: Order        # how often results may be differentiated

    def recording(self) -> AbstractContextManager[object]:
        """Where energies are made."""
        return torch.set_grad_enabled(self.on or self.forces)

    def responding(self) -> AbstractContextManager[object]:
        """Where quantities are made that are not stationary in the density: at a fixed density their derivatives would be
        wrong."""
        return torch.set_grad_enabled(self.beyond_first)

    @property
    def beyond_first(self) -> bool:
        """Whether forces, dipoles and the like can be differentiated too."""
        return self.on and self.order.order > 1

    def enter(self, tree: Tree) -> Tree:
        """The tensors of a record as the calculation uses them: derivatives that leave through them are counted."""
        def count(tensor: Tensor) -> Tensor:
            return entered(tensor, self.order)

        return tensor_map(count, tree) if self.on else tree

    def advance(self, tree: Tree) -> Tree:
        """The tensors of a record, whose first derivatives count as second ones of the energy."""
        def count(tensor: Tensor) -> Tensor:
            return advanced(tensor, self.order)

        return tensor_map(count, tree)

    def leave(self, tree: Tree) -> Tree:
        """The tensors of a record as the caller gets them."""
        return tree if self.on else tensor_map(torch.Tensor.detach, tree)


def check_order(order: int) -> None:
    """Refuse orders that no derivative has.

    Raises:
        UnknownOption: the order is not 1, 2 or 3.
    """
    if order not in (1, 2, 3):
        raise UnknownOption(f"order={order!r}: derivatives are exact to order 1, 2 or 3.")


def movable(molecules: Molecules, surroundings: Surroundings) -> tuple[Molecules, Surroundings]:
    """The same, with positions that forces can be taken by."""
    if not molecules.positions.requires_grad:
        molecules = molecules.with_positions(molecules.positions.detach().requires_grad_())
    charges = surroundings.charges
    if charges is not None and not charges.positions.requires_grad:
        surroundings = replace(surroundings, charges=charges.with_positions(charges.positions.detach().requires_grad_()))
    return molecules, surroundings


def forces(energy: Float[Tensor, "molecule"], molecules: Molecules, charges: PointCharges | None, tape: Tape
           ) -> tuple[Tensor, Tensor | None]:
    """-dE/dR on the atoms and on the point charges, eV/angstrom, of molecules together. A free atom's energy does not know its
    position."""
    moved: Sequence[Tensor] = [molecules.positions] if charges is None else [molecules.positions, charges.positions]
    total = energy.sum() + sum(0.0 * positions.sum() for positions in moved)
    gradients = torch.autograd.grad(total, moved, create_graph=tape.beyond_first, retain_graph=tape.on)
    return -gradients[0], None if charges is None else -gradients[1]
