"""Optional packages: imported where they are used, and missed by the name of the extra that brings them."""

from importlib import import_module

from nddo_ml.errors import MissingExtra


def needed(module: str, extra: str, purpose: str):
    """The module of that name. MissingExtra: it is not installed; the message names the extra that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{purpose} needs {module.split('.')[0]} ({error}): pip install 'nddo_ml[{extra}]'") from error
