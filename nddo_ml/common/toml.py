"""Configurations: the tables of a TOML file read into frozen dataclasses, and checks of what they say.

A configuration is a dataclass of dataclasses, one for each table. Names and types of its keys are checked while it is filled
(`from_table`). Its numbers are checked against limits: a table from the dotted name of a number to the lowest and the highest
value that it may have, so that none is accepted that only fails, or does nothing, hours later.
"""

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from nddo_ml.errors import IncompatibleFile, UnknownOption

Configuration = TypeVar("Configuration")

Limits = Mapping[str, tuple[int | float, int | float]]     # dotted name of a number -> (lowest, highest)

COUNT = (1, 10**9)              # of things that there must be
NUMBER = (0, 10**9)             # of things that need not be
SEED = (0, 2**63 - 1)
POSITIVE = (1e-12, 1e12)        # sizes, rates, tolerances
WEIGHT = (0.0, 1e12)            # what may be left out
FRACTION = (0.0, 1.0)
MEMORY = (0.0, 0.99999)         # of averages and momenta: at 1 nothing new enters


def read_toml(file: str | Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises: IncompatibleFile, if there is no such file or it is not TOML.
    """
    path = Path(file)
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise IncompatibleFile(f"There is no configuration file {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IncompatibleFile(f"{path} is not a TOML file: {error}.") from None


def from_table(cls: type[Configuration], values: object, where: str) -> Configuration:
    """The dataclass `cls` filled from a table; `where` names the file in messages.

    Raises: UnknownOption, if a key does not exist (the nearest one is suggested) or is missing, or a value has another type.
    """
    return _filled(cls, values, where, "")


def check_limits(config: object, limits: Limits, where: str) -> None:
    """Check the numbers of a configuration; `where` names the file in messages. None, "not given", passes.

    `stage.epochs` stands for that number in each entry of the list `stage`; of a list of numbers each is checked.

    Raises: UnknownOption, for the first number outside its limits.
    """
    for key, (low, high) in limits.items():
        for name, value in _numbers(config, key.split(".")):
            if value is not None and not low <= value <= high:       # false for NaN too
                raise UnknownOption(f"{name} = {value} in {where}: it must be at least {low:g} and at most {high:g}.")


def check_seeds(seeds: Sequence[int], where: str) -> None:
    """Check seeds, one for each member of an ensemble.

    Raises: UnknownOption, if there is none, or one twice.
    """
    if not seeds:
        raise UnknownOption(f"seeds = [] in {where}: give at least one integer.")
    if len(set(seeds)) < len(seeds):
        raise UnknownOption(f"seeds = {list(seeds)} in {where}: each makes a member of its own, give none twice.")


def check_choice(value: str, allowed: Collection[str], name: str, where: str) -> None:
    """Check a word that chooses among others.

    Raises: UnknownOption, if it is none of those allowed.
    """
    if value not in allowed:
        raise UnknownOption(f"{name} = {value!r} in {where}: expected {', '.join(allowed)}.")


def _filled(cls, values, where, prefix):
    """`from_table` for the table whose dotted name is `prefix`."""
    if not isinstance(values, dict):
        raise UnknownOption(f"{prefix or 'the top level'} in {where} must be a table.")
    known: dict[str, Field] = {f.name: f for f in fields(cls)}
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}."
            raise UnknownOption(f"{prefix}{key} in {where} does not exist: {hint}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise UnknownOption(f"{where} lacks {prefix}{name}.")
    return cls(**{key: _value(known[key].type, value, where, prefix + key) for key, value in values.items()})


def _value(kind, value, where, name):
    """A value of the type that its dataclass declares."""
    if is_dataclass(kind):
        return _filled(kind, value, where, name + ".")
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise UnknownOption(f"{name} = {value!r} in {where}: expected a list.")
        entry = get_args(kind)[0]
        return tuple(_value(entry, x, where, f"{name}[{k}]" if is_dataclass(entry) else name) for k, x in enumerate(value))
    if isinstance(kind, UnionType):      # X | None: None stands for "not given", and TOML cannot say it
        kind = get_args(kind)[0]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UnknownOption(f"{name} = {value!r} in {where}: expected {kind.__name__}.")
    return value


def _numbers(config, path, before="") -> Iterator[tuple[str, float | None]]:
    """The numbers that a dotted name stands for, each with a name that says in which table it stands."""
    value, name, rest = getattr(config, path[0]), before + path[0], path[1:]
    if not isinstance(value, tuple):
        yield from _numbers(value, rest, name + ".") if rest else [(name, value)]
        return
    for k, entry in enumerate(value, 1):
        yield from _numbers(entry, rest, f"{name} {k}: ") if rest else [(name, entry)]
