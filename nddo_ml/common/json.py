"""JSON that every reader understands: it has no word for NaN and infinity, which become null."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nddo_ml.common.files import write_text


def finite(tree: Any) -> Any:
    """Plain data (dictionaries, lists, numbers, strings) with every number that is not finite as None; tuples become lists."""
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def write_json(path: str | Path, values: Any) -> None:
    """Write plain data as indented JSON, whole or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(finite(values), indent=1) + "\n")
