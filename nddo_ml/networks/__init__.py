"""Networks: from the geometry of a molecule to shifts of the parameters of its atoms and pairs.

A network sees elements, distances and directions, nothing else. `build` makes one from plain settings, and `settings` gives
them back. The settings of a built-in network, all of them with defaults, are

    {"features": "message passing",     # or "symmetry functions", or a class of one's own
     "species": [1, 6, 7, 8],           # atomic numbers
     "heads": ["atom", "pair"],         # any of atom, pair, charge, block, local, and classes of one's own
     "closing": [0.45, 0.7],            # this and `moved`: heads.ParameterNetwork
     "moved": 0.3,
     "channels": 32}                    # and the other arguments of the features

and those of a whole network of one's own {"network": "module:Class"} and its arguments. Classes of one's own are named
"module:Class" (docs/howto/extending.md).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from nddo_ml.common.extras import name_of, named
from nddo_ml.errors import UnknownOption
from nddo_ml.networks.heads import ParameterNetwork
from nddo_ml.networks.message_passing import MessagePassing
from nddo_ml.networks.protocols import FeatureModule, HeadModule, Network, lacking
from nddo_ml.networks.shifts import Shifts
from nddo_ml.networks.symmetry_functions import SymmetryFunctions

FEATURES = {"message passing": MessagePassing, "symmetry functions": SymmetryFunctions}
ORGANIC = (1, 6, 7, 8, 9, 15, 16, 17)


def build(config: Mapping[str, Any]) -> nn.Module:
    """A new network from its settings, in float64: random features, and zero shifts of the built-in heads.

    Raises:
        UnknownOption: a setting, a class or a module does not exist.
    """
    if "network" in config:
        own = dict(config)
        name = own.pop("network")
        return _made(named(name, "network"), name, (), own).double()
    settings = {"features": "message passing", "species": ORGANIC, "heads": ("atom", "pair"), **config}
    name, species, heads = (settings.pop(key) for key in ("features", "species", "heads"))
    limits = {key: settings.pop(key) for key in ("closing", "moved") if key in settings}
    if name not in FEATURES and ":" not in str(name):
        raise UnknownOption(f'features={name!r}: expected {" or ".join(FEATURES)}, or "module:Class" of your own.')
    features = _made(FEATURES[name] if name in FEATURES else named(name, "features"), name, (_species(species),), settings)
    return ParameterNetwork(species, features, heads, name, **limits).double()


def settings(network: nn.Module) -> dict[str, Any]:
    """The plain settings from which `build` makes a network again.

    Raises:
        UnknownOption: it could not be made again, because it lacks something of the protocol, its class cannot be imported, or
            what is made from its `config` is another network.
    """
    if not isinstance(network, Network):
        raise UnknownOption(f"{type(network).__name__} lacks {', '.join(lacking(network, Network))}, which networks have that "
                            "can be saved: docs/howto/extending.md.")
    plain = network.config
    if not isinstance(network, ParameterNetwork):
        plain = {"network": name_of(type(network)), **plain}
    try:
        plain = json.loads(json.dumps(plain))
    except TypeError as error:
        raise UnknownOption(f"The config of {type(network).__name__} holds more than numbers, strings and lists of them "
                            f"({error}): it could not be saved.") from None
    _refuse_another(network, plain)
    return plain


def _refuse_another(network: nn.Module, settings: dict[str, Any]) -> None:
    """Raises UnknownOption where the settings make a network with other tensors, or one that says something else with them."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():      # a training's random numbers are not touched
        own = deepcopy(network).cpu().double().eval()
        again = build(settings).eval()
        try:
            again.load_state_dict(own.state_dict())
        except RuntimeError as error:
            raise UnknownOption(f"The config of {type(network).__name__} makes other tensors than it has ({error}): let it "
                                f"hold everything that decides them; it is {settings}.") from None
        a, b = _probed(own), _probed(again)
    if a.keys() != b.keys() or not all(torch.allclose(x, b[name], rtol=1e-9, atol=1e-12) for name, x in a.items()):
        raise UnknownOption(f"The config of {type(network).__name__} makes a network that says something else: let it hold "
                            f"everything that decides its shifts; it is {settings}.")


def _probed(network: Any) -> dict[str, torch.Tensor]:
    """The columns of Shifts that a network returns for three atoms that are near each other, by name."""
    x = torch.tensor([[0.0, 0.0, 0.0], [1.6, 0.3, 0.0], [-0.4, 1.5, 0.6]], dtype=torch.float64)
    i, j = torch.tensor([[0, 0, 1], [1, 2, 2]])
    numbers = torch.tensor([network.species[k] for k in (0, -1, len(network.species) // 2)])
    R = (x[j] - x[i]).norm(dim=1)
    shifts = network(numbers, i, j, R, (x[j] - x[i]) / R[:, None])
    if not isinstance(shifts, Shifts):
        raise UnknownOption(f"{type(network).__name__} returns {type(shifts).__name__}: expected Shifts, "
                            "docs/howto/extending.md.")
    return {name: value for name, value in vars(shifts).items() if value is not None}


def _made(cls: Callable[..., Any], name: str, arguments: Sequence[Any], settings: Mapping[str, Any]) -> Any:
    """An object of a class; raises UnknownOption for settings that it does not take."""
    try:
        return cls(*arguments, **settings)
    except TypeError as error:
        raise UnknownOption(f"Settings of {name} that do not exist: {error}.") from None


def _species(species: Any) -> Sequence[int]:
    """The atomic numbers of a network; raises UnknownOption where they are none, or one is given twice."""
    known = isinstance(species, list | tuple) and all(type(z) is int and 1 <= z <= 118 for z in species)
    if not known or not species or len(set(species)) < len(species):
        raise UnknownOption(f"species = {species!r}: expected atomic numbers, each once.")
    return species


__all__ = ["FEATURES", "FeatureModule", "HeadModule", "MessagePassing", "Network", "ParameterNetwork", "SymmetryFunctions",
           "build", "settings"]
