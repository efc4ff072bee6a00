"""Networks: from the geometry of a molecule to shifts of the parameters of its atoms and pairs.

A network sees elements, distances and directions, nothing else. `build` makes one from plain settings, `network.config` gives
them back: {"features": "message passing" or "symmetry functions", "species": atomic numbers, "heads": any of atom, pair,
charge, block, local}, "closing" and "moved" (heads.ParameterNetwork) and the arguments of the features.
"""

from nddo_ml.errors import UnknownOption
from nddo_ml.networks.heads import ParameterNetwork
from nddo_ml.networks.message_passing import MessagePassing
from nddo_ml.networks.symmetry_functions import SymmetryFunctions

FEATURES = {"message passing": MessagePassing, "symmetry functions": SymmetryFunctions}
ORGANIC = (1, 6, 7, 8, 9, 15, 16, 17)


def build(config: dict) -> ParameterNetwork:
    """A new network (zero shifts, random features) from its settings; UnknownOption for one that does not exist."""
    settings = {"features": "message passing", "species": ORGANIC, "heads": ("atom", "pair"), **config}
    name, species, heads = (settings.pop(key) for key in ("features", "species", "heads"))
    limits = {key: settings.pop(key) for key in ("closing", "moved") if key in settings}
    if name not in FEATURES:
        raise UnknownOption(f"features={name!r}: expected {' or '.join(FEATURES)}.")
    try:
        features = FEATURES[name](species, **settings)
    except TypeError as error:
        raise UnknownOption(f"Settings of {name} that do not exist: {error}.") from None
    return ParameterNetwork(species, features, heads, name, **limits).double()


__all__ = ["FEATURES", "MessagePassing", "ParameterNetwork", "SymmetryFunctions", "build"]
