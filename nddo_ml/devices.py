"""Where tensors live: the device a user names, if there is one of that name."""

import torch

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
