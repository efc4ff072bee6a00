"""Networks: from the geometry of a molecule to shifts of the parameters of its atoms and pairs.

A network sees elements, distances and directions, nothing else. `build` makes one from plain settings, `settings` gives them
back: {"features": "message passing", "symmetry functions" or a class of one's own, "species": atomic numbers, "heads": any of
atom, pair, charge, block, local and classes of one's own}, "closing" and "moved" (heads.ParameterNetwork) and the arguments of
the features; or {"network": a class of one's own} and its arguments. Own classes are named "module:Class" (docs/extending.md).
"""

import json
from copy import deepcopy

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


def build(config: dict) -> nn.Module:
    """A new network (built-in heads: zero shifts, random features) from its settings; UnknownOption for what does not exist."""
    if "network" in config:
        own = dict(config)
        name = own.pop("network")
        return _made(named(name, "network"), name, **own).double()
    settings = {"features": "message passing", "species": ORGANIC, "heads": ("atom", "pair"), **config}
    name, species, heads = (settings.pop(key) for key in ("features", "species", "heads"))
    limits = {key: settings.pop(key) for key in ("closing", "moved") if key in settings}
    if name not in FEATURES and ":" not in str(name):
        raise UnknownOption(f'features={name!r}: expected {" or ".join(FEATURES)}, or "module:Class" of your own.')
    features = _made(FEATURES[name] if name in FEATURES else named(name, "features"), name, _species(species), **settings)
    return ParameterNetwork(species, features, heads, name, **limits).double()


def settings(network: nn.Module) -> dict:
    """The plain settings from which `build` makes a network again. UnknownOption says why it could not: it lacks something of
    the protocol, its class cannot be imported, or what is made from its `config` is another network."""
    if isinstance(network, ParameterNetwork):
        found = network.config
    else:
        missing = lacking(network, Network)
        if missing:
            raise UnknownOption(f"{type(network).__name__} lacks {', '.join(missing)}, which networks have that can be saved: "
                                "docs/extending.md.")
        found = {"network": name_of(type(network)), **network.config}
    try:
        found = json.loads(json.dumps(found))
    except TypeError as error:
        raise UnknownOption(f"The config of {type(network).__name__} holds more than numbers, strings and lists of them "
                            f"({error}): it could not be saved.") from None
    _refuse_another(network, found)
    return found


def _refuse_another(network, settings):
    """UnknownOption: the settings make a network with other tensors, or one that says something else with the same."""
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


def _probed(network):
    """What a network says of three atoms that are near each other, by name."""
    x = torch.tensor([[0.0, 0.0, 0.0], [1.6, 0.3, 0.0], [-0.4, 1.5, 0.6]], dtype=torch.float64)
    i, j = torch.tensor([[0, 0, 1], [1, 2, 2]])
    numbers = torch.tensor([network.species[k] for k in (0, -1, len(network.species) // 2)])
    R = (x[j] - x[i]).norm(dim=1)
    found = network(numbers, i, j, R, (x[j] - x[i]) / R[:, None])
    if not isinstance(found, Shifts):
        raise UnknownOption(f"{type(network).__name__} returns {type(found).__name__}: expected Shifts, docs/extending.md.")
    return {name: value for name, value in vars(found).items() if value is not None}


def _made(cls, name, *arguments, **settings):
    """An object of a class; UnknownOption for settings that it does not take."""
    try:
        return cls(*arguments, **settings)
    except TypeError as error:
        raise UnknownOption(f"Settings of {name} that do not exist: {error}.") from None


def _species(species):
    """Atomic numbers of a network; UnknownOption: they are none, or one is given twice."""
    known = isinstance(species, list | tuple) and all(type(z) is int and 1 <= z <= 118 for z in species)
    if not known or not species or len(set(species)) < len(species):
        raise UnknownOption(f"species = {species!r}: expected atomic numbers, each once.")
    return species


__all__ = ["FEATURES", "FeatureModule", "HeadModule", "MessagePassing", "Network", "ParameterNetwork", "SymmetryFunctions",
           "build", "settings"]
