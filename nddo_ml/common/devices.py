"""Where tensors live and of what kind they are: the device a user names, if there is one of that name; no transforms."""

from collections.abc import Callable

import torch
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from nddo_ml.errors import UnknownOption


def usable(device) -> torch.device:
    """The device of this name (None: the CPU); UnknownOption where it does not exist on this machine."""
    try:
        found = torch.device("cpu" if device is None else device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        there = "this machine has no CUDA device" if not count else f"this machine has cuda:0 to cuda:{count - 1}"
        raise UnknownOption(f"The device {str(device)!r} cannot be used; {there}: use cpu, or one that exists.") from error
    return found


def check_conversion(convert: Callable, what: str) -> None:
    """Refuse what .to(), .float(), .cuda() and the like would make of double precision on a device that exists
    (UnknownOption). what: whose tensors they are, for the message."""
    try:
        found = convert(torch.zeros(1, dtype=torch.float64))
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UnknownOption(f"{what} cannot be moved there ({str(error).splitlines()[0]}): use a device that this machine has "
                            "and that knows torch.float64.") from error
    if found.dtype != torch.float64:
        raise UnknownOption(f"{what} works in torch.float64, which its integrals and energies need; it cannot be made "
                            f"{found.dtype}. (Early iterations of large molecules run in float32 by themselves.)")
    if found.device.type == "meta":
        raise UnknownOption(f"{what} holds numbers, which the device 'meta' cannot: use cpu, or a GPU.")


def check_plain(inputs, parameters) -> None:
    """Refuse tensors inside a transform of torch.func (vmap, grad, jacrev, jvp) or with a tangent of forward-mode
    differentiation (UnknownOption): the self-consistent field cannot be traced, and is differentiated through its tape."""
    found = None
    if torch._C._functorch.peek_interpreter_stack() is not None:       # the only way to ask
        found = "a transform of torch.func (vmap, grad, jacrev, hessian, jvp)"
    elif forward_ad._current_level >= 0:
        tensors = (t for t in (*pytree.tree_leaves(inputs), *parameters) if isinstance(t, torch.Tensor))
        if any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
            found = "forward-mode differentiation"
    if found is not None:
        raise UnknownOption(f"A Hamiltonian was called inside {found}, which cannot see through its self-consistent field. Use "
                            "torch.autograd.grad with order=1, 2 or 3, a batch of molecules in place of vmap, and "
                            "nddo_ml.properties.response for Hessians and polarizabilities; torch.func.functional_call works.")
