"""How many threads torch works with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nddo_ml.errors import UnknownOption


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Torch with so many threads while the context lasts; None leaves it as it is.

    Raises: UnknownOption, if there are none.
    """
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    if count < 1:
        raise UnknownOption(f"{count} threads asked for: give 1 or more.")
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
