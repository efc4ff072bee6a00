"""Where tensors live and of what kind they are: the device a user names, if there is one of that name; no transforms."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from nddo_ml.errors import UnknownOption


def usable(device: str | torch.device | None) -> torch.device:
    """The device of this name (None: the CPU).

    Raises: UnknownOption, if this machine has none of that name.
    """
    try:
        chosen = torch.device("cpu" if device is None else device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        others = f", or one of cuda:0 to cuda:{torch.cuda.device_count() - 1}" if torch.cuda.is_available() else (
            " (cuda needs a GPU and a CUDA build of torch)")
        raise UnknownOption(f"There is no device {str(device)!r} here ({str(error).splitlines()[0]}): use cpu{others}."
                            ) from error
    return chosen


def check_conversion(convert: Callable[[Tensor], Tensor], what: str) -> None:
    """Refuse what .to(), .float(), .cuda() and the like would make of tensors in double precision. what: whose tensors they
    are, for the message.

    Raises: UnknownOption, if the device does not exist or holds no numbers, or the result is not torch.float64.
    """
    try:
        converted = convert(torch.zeros(1, dtype=torch.float64))
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UnknownOption(f"{what} cannot be moved there ({str(error).splitlines()[0]}): use a device that this machine has "
                            "and that knows torch.float64.") from error
    if converted.dtype != torch.float64:
        raise UnknownOption(f"{what} works in torch.float64, which its integrals and energies need; it cannot be made "
                            f"{converted.dtype}. (Early iterations of large molecules run in float32 by themselves.)")
    if converted.device.type == "meta":
        raise UnknownOption(f"{what} holds numbers, which the device 'meta' cannot: use cpu, or a GPU.")


def check_plain(inputs: object, parameters: Iterable[Tensor]) -> None:
    """Refuse tensors inside a transform of torch.func (vmap, grad, jacrev, jvp) or with a tangent of forward-mode
    differentiation: the self-consistent field cannot be traced, and is differentiated through its tape.

    inputs: any nesting of tensors.

    Raises: UnknownOption, which names the transform.
    """
    transform = None
    if torch._C._functorch.peek_interpreter_stack() is not None:       # type: ignore[attr-defined]  # the only way to ask
        transform = "a transform of torch.func (vmap, grad, jacrev, hessian, jvp)"
    elif forward_ad._current_level >= 0:
        tensors = (t for t in (*pytree.tree_leaves(inputs), *parameters) if isinstance(t, Tensor))
        if any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
            transform = "forward-mode differentiation"
    if transform is not None:
        raise UnknownOption(f"A Hamiltonian was called inside {transform}, which cannot see through its self-consistent field. "
                            "Use torch.autograd.grad with order=1, 2 or 3, a batch of molecules in place of vmap, and "
                            "nddo_ml.properties.response for Hessians and polarizabilities; torch.func.functional_call works.")
