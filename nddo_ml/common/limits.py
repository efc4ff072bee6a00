"""Numbers of a configuration, and between which bounds they mean something.

A configuration is a frozen record of records; its limits are a table from the dotted name of a number to its lowest and highest
value, both allowed. Every number has them, so that none is taken over that only fails, or does nothing, hours later.
"""

from collections.abc import Iterator, Mapping

from nddo_ml.errors import UnknownOption

Limits = Mapping[str, tuple[float, float]]

COUNT = (1, 10**9)              # of things that there must be
NUMBER = (0, 10**9)             # of things that need not be
SEED = (0, 2**63 - 1)
POSITIVE = (1e-12, 1e12)        # sizes, rates, tolerances
WEIGHT = (0.0, 1e12)            # what may be left out
FRACTION = (0.0, 1.0)
MEMORY = (0.0, 0.99999)         # of averages and momenta: at 1 nothing new enters


def check_limits(config, limits: Limits, where: str) -> None:
    """UnknownOption names the first number of a configuration outside its limits, what it may be and `where` it stands.

    `stage.epochs` stands for that number in each of the records `stage`; of a list of numbers each is checked; None passes.
    """
    for key, (low, high) in limits.items():
        for name, value in _values(config, key.split(".")):
            if value is not None and not low <= value <= high:       # false for NaN too
                raise UnknownOption(f"{name} = {value} in {where}: it must be at least {low:g} and at most {high:g}.")


def check_seeds(seeds, where: str) -> None:
    """UnknownOption: no seed, or one twice."""
    if not seeds:
        raise UnknownOption(f"seeds = [] in {where}: give at least one integer.")
    if len(set(seeds)) < len(seeds):
        raise UnknownOption(f"seeds = {list(seeds)} in {where}: each makes a member of its own, give none twice.")


def _values(record, path, before="") -> Iterator[tuple[str, float | None]]:
    """The numbers a dotted name stands for, each under a name that says of which record it is."""
    value, name, rest = getattr(record, path[0]), before + path[0], path[1:]
    if not isinstance(value, tuple):
        yield from _values(value, rest, name + ".") if rest else [(name, value)]
        return
    for k, entry in enumerate(value, 1):
        yield from _values(entry, rest, f"{name} {k}: ") if rest else [(name, entry)]
