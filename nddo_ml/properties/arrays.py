"""Numbers as users have them: tensors, arrays, lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

Numbers = Tensor | np.ndarray | Sequence[Any]


def plain(values: Numbers) -> np.ndarray:
    """Numbers as an array of floats, off the tape and on the CPU."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=float)
