"""Trained weights in files: safetensors with metadata a user can read.

`save` writes what a Hamiltonian has learned: the network, the offsets of the atoms and those columns of the parent's table that
differ from it. The metadata (methods.learned) say of what parent, on which elements, from which labels. `Hamiltonian(path)`
reads it back.
"""

import json
from dataclasses import asdict

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nddo_ml
from nddo_ml.elements import symbol
from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.files import write_whole
from nddo_ml.integrals.corrections.d3 import DispersionD3BJ
from nddo_ml.methods.learned import FORMAT, SUFFIX, Card
from nddo_ml.networks import build

NETWORK, TABLE, ATOMS = "network.", "table.", ("atom_offsets", "atom_energies")


def save(hamiltonian: nn.Module, path, name: str, level: str, data: str, notes: str = "",
         calibration: dict | None = None) -> None:
    """Write what a Hamiltonian with a network has learned to `path` (.safetensors), whole or not at all.

    name: what it is called; level: the level of theory of the labels; data: their hash; notes: anything else to know;
    calibration: of its uncertainty. UnknownOption without a network.
    """
    path = str(path)
    if hamiltonian.network is None:
        raise UnknownOption("This Hamiltonian has no network: there is nothing learned to save.")
    if not path.endswith(SUFFIX):
        raise UnknownOption(f"Weights are saved as {SUFFIX} files: {path!r} ends otherwise.")
    method, dispersion = hamiltonian.method, hamiltonian.dispersion
    said = {
        "format": FORMAT, "name": name, "parent": method.card.parent if method.card else method.name,
        "network": json.dumps(hamiltonian.network.config),
        "dispersion": json.dumps(None if dispersion is None else asdict(dispersion)),
        "elements": " ".join(symbol(z) for z in hamiltonian.network.species), "level": level, "data": data,
        "code": nddo_ml.__version__, "notes": notes, "calibration": json.dumps(calibration or {}),
    }
    tensors = {NETWORK + key: value for key, value in hamiltonian.network.state_dict().items()}
    tensors |= {key: hamiltonian.get_buffer(key) for key in ATOMS}
    for key, published in _table(hamiltonian).items():
        value = hamiltonian.get_parameter(key)
        if not torch.equal(value.detach().cpu(), published):
            tensors[TABLE + key] = value
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_whole(path, lambda unfinished: save_file(tensors, unfinished, metadata=said))


def parts(card: Card) -> tuple[nn.Module, DispersionD3BJ | None]:
    """The network of a file, untrained yet, and its dispersion. IncompatibleFile if this version cannot make them."""
    try:
        return build(card.network).requires_grad_(False), None if card.dispersion is None else DispersionD3BJ(**card.dispersion)
    except (UnknownOption, TypeError) as error:
        raise IncompatibleFile(f"{card.path} was written by nddo_ml {card.code} with settings that version "
                               f"{nddo_ml.__version__} does not have: {error}") from None


def fill(hamiltonian: nn.Module, card: Card) -> None:
    """Put the tensors of a file into the Hamiltonian they belong to. IncompatibleFile if they do not fit."""
    tensors = load_file(card.path)
    network = {key.removeprefix(NETWORK): value for key, value in tensors.items() if key.startswith(NETWORK)}
    try:
        hamiltonian.network.load_state_dict(network)
        for key in ATOMS:
            hamiltonian.get_buffer(key).copy_(tensors[key])
        with torch.no_grad():
            for key in (key for key in tensors if key.startswith(TABLE)):
                hamiltonian.get_parameter(key.removeprefix(TABLE)).copy_(tensors[key])
    except (RuntimeError, KeyError, AttributeError) as error:
        raise IncompatibleFile(f"The tensors of {card.path} do not fit its own metadata ({str(error).splitlines()[0]}): the "
                               "file is damaged or was edited; train again.") from None


def _table(hamiltonian):
    """The columns of the published tables by the names they have in a Hamiltonian."""
    parameters, pairs = hamiltonian.method.parameters, hamiltonian.method.pairs
    return {**vars(parameters), "alpha_AB": pairs.alpha, "x_AB": pairs.x}
