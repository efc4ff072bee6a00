"""What is imported by name: optional packages, missed by the name of the extra that brings them, and classes of a user's own,
which configurations and files of weights name as "module:Class"."""

from difflib import get_close_matches
from importlib import import_module
from operator import attrgetter
from typing import Any

from nddo_ml.errors import MissingExtra, UnknownOption


def needed(module: str, extra: str, purpose: str) -> Any:
    """The module of that name. extra: of this package, that installs it. purpose: what needs it, for the message.

    Raises: MissingExtra, if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{purpose} needs {module.split('.')[0]} ({error}): pip install 'nddo_ml[{extra}]'") from error


def named(name: str, what: str) -> Any:
    """The class or function that "module:Name" names, imported. what: that which is to be made of it, for the message.

    Raises: UnknownOption, if the module, a module that it needs, or the name in it is missing.
    """
    module, _, inside = name.partition(":")
    if not (module and inside):
        raise UnknownOption(f'{what} = {name!r}: expected "module:Name".')
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module == missing or module.startswith(f"{missing}."):
            raise UnknownOption(f"{what} = {name!r}: there is no module {missing!r}. Install it, or put the folder that holds "
                                f"{missing}.py on PYTHONPATH; the command also finds it in the current folder, and beside a "
                                "configuration.") from None
        raise UnknownOption(f"{what} = {name!r}: its module {module!r} imports {missing!r}, which is not installed.") from error
    except Exception as error:       # whatever the code of a user's module raises
        raise UnknownOption(f"{what} = {name!r}: the module {module!r} cannot be imported ({type(error).__name__}: "
                            f"{error}).") from error
    try:
        return attrgetter(inside)(imported)
    except AttributeError:
        near = get_close_matches(inside, vars(imported), 1, 0.5)
        raise UnknownOption(f"{what} = {name!r}: the module {module!r} ({getattr(imported, '__file__', 'no file')}) has no "
                            f"{inside!r}{f'; did you mean {near[0]!r}?' if near else '.'}") from None


def name_of(cls: type) -> str:
    """The "module:Class" by which `named` finds a class.

    Raises: UnknownOption, if the class stands inside a function, where nothing is found.
    """
    if "<locals>" in cls.__qualname__:
        raise UnknownOption(f"{cls.__qualname__} is defined inside a function: files name classes by their module, so define "
                            "it at the top level of one.")
    return f"{cls.__module__}:{cls.__qualname__}"
