"""Learned Hamiltonians in files: safetensors with metadata a user can read.

`save` writes what a Hamiltonian has learned: the network if it has one, the offsets of the atoms and those columns of the
published table that differ from it. The metadata (methods.learned) say of what parent, on which elements, from which labels.
`Hamiltonian(path)` reads it back, and so does whatever takes the name of a method.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import nddo_ml
from nddo_ml.common.files import write_tensors
from nddo_ml.elements import symbol
from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.integrals.corrections.d3 import DispersionD3BJ
from nddo_ml.methods import Method
from nddo_ml.methods import method as find_method
from nddo_ml.methods.learned import FORMAT, SUFFIX, Card, TrainedOn
from nddo_ml.networks import build, settings

TRAINED = "trained.molecules"
NETWORK, TABLE, ATOMS = "network.", "table.", ("atom_offsets", "atom_energies")


@runtime_checkable
class Learned(Protocol):
    """What of a Hamiltonian is written to a file and read from it."""

    method: Method
    network: nn.Module | None
    dispersion: DispersionD3BJ | None
    atom_offsets: Tensor

    @property
    def has_offsets(self) -> bool: ...

    def get_parameter(self, target: str) -> nn.Parameter: ...

    def get_buffer(self, target: str) -> Tensor: ...


@dataclass(frozen=True)
class Origin:
    """Where what a file holds was learned."""

    level: str = "unknown"              # level of theory of the labels
    data: str = "unknown"               # their hash
    notes: str = ""                     # anything else to know
    trained: TrainedOn | None = None    # which molecules it was trained on; None: the file does not say


def save(hamiltonian: Learned, path: str | Path, name: str | None = None, origin: Origin = Origin()) -> None:
    """Write what a Hamiltonian has learned to `path` (.safetensors), whole or not at all.

    name: what it is called (None: as its method, if that has a name of its own, else as the file). Without a network it knows
    the elements of its method or, with offsets, those that have one.

    Raises:
        UnknownOption: nothing differs from the published method, or the network could not be made again (`networks.settings`).
    """
    path = str(path)
    if not path.endswith(SUFFIX):
        raise UnknownOption(f"Weights are saved as {SUFFIX} files: {path!r} ends otherwise.")
    method, dispersion, network = hamiltonian.method, hamiltonian.dispersion, hamiltonian.network
    _refuse_own_form(method)
    tensors = {} if network is None else {NETWORK + key: value for key, value in network.state_dict().items()}
    for key, published in method.published.columns.items():
        value = hamiltonian.get_parameter(key)
        if not torch.equal(value.detach().cpu(), published):
            tensors[TABLE + key] = value
    if network is None and not tensors and dispersion is None and not hamiltonian.has_offsets:
        raise UnknownOption(f"This Hamiltonian has no network and the parameters of {method.published.name}: there is nothing "
                            "learned to save.")
    tensors |= {key: hamiltonian.get_buffer(key) for key in ATOMS}
    said = {
        "format": FORMAT, "name": name or (method.name if method.own else Path(path).stem),
        "parent": method.published.name, "network": json.dumps(None if network is None else settings(network)),
        "dispersion": json.dumps(None if dispersion is None else asdict(dispersion)),
        "elements": " ".join(symbol(z) for z in _elements(hamiltonian)), "level": origin.level, "data": origin.data,
        "code": nddo_ml.__version__, "notes": origin.notes, "calibration": "{}",
        "citation": method.citation if method.own else "" if method.card is None else method.card.citation,
    }
    if origin.trained is not None:
        trained = origin.trained
        said["split"] = json.dumps({"validation": trained.validation, "large": trained.large})
        tensors[TRAINED] = torch.tensor(sorted(trained.molecules), dtype=torch.int64)
    write_tensors(path, tensors, said)


def _elements(hamiltonian: Learned) -> list[int]:
    """Species that what a Hamiltonian has learned is good for."""
    if hamiltonian.network is not None:
        return list(cast(Any, hamiltonian.network).species)
    known = hamiltonian.method.species
    if not hamiltonian.has_offsets:
        return known
    rows = hamiltonian.method.rows(torch.tensor(known))
    return [z for z, offset in zip(known, hamiltonian.atom_offsets.cpu()[rows].tolist(), strict=True) if offset]


def parts(card: Card) -> tuple[nn.Module | None, DispersionD3BJ | None]:
    """The network of a file, untrained yet, and its dispersion. IncompatibleFile if this version cannot make them."""
    try:
        network = None if card.network is None else build(card.network).requires_grad_(False)
        return network, None if card.dispersion is None else DispersionD3BJ(**card.dispersion)
    except (UnknownOption, TypeError) as error:
        raise IncompatibleFile(f"{card.path}, written by nddo_ml {card.code}, holds what cannot be made here (nddo_ml "
                               f"{nddo_ml.__version__}): {error}") from None


def fill(hamiltonian: Learned, card: Card, given: bool = False) -> None:
    """Put the tensors of a file into a Hamiltonian, nothing of them if they do not all fit (IncompatibleFile). given: its
    network is not the one the file describes, but one of the user's."""
    tensors = load_file(card.path)
    network = {key.removeprefix(NETWORK): value for key, value in tensors.items() if key.startswith(NETWORK)}
    mine = {} if hamiltonian.network is None else hamiltonian.network.state_dict()
    wrong = [key for key in sorted({*mine, *network}) if key not in mine or key not in network
             or mine[key].shape != network[key].shape]
    if wrong and given:
        there, here = (tuple(tensors_of[wrong[0]].shape) if wrong[0] in tensors_of else "no such tensor"
                       for tensors_of in (network, mine))
        raise IncompatibleFile(f"The network given does not fit the weights of {card.path}: {wrong[0]} is {there} there, "
                               f"{here} in it. The file's settings are {card.network}; leave `network` out to have it made "
                               f"from them, or give yours with the parent method {card.parent}.")
    try:
        if wrong:
            raise KeyError(wrong[0])
        if hamiltonian.network is not None:
            hamiltonian.network.load_state_dict(network)
        for key in ATOMS:
            hamiltonian.get_buffer(key).copy_(tensors[key])
        with torch.no_grad():
            for key in (key for key in tensors if key.startswith(TABLE)):
                hamiltonian.get_parameter(key.removeprefix(TABLE)).copy_(tensors[key])
    except (RuntimeError, KeyError, AttributeError) as error:
        raise IncompatibleFile(f"The tensors of {card.path} do not fit its own metadata ({str(error).splitlines()[0]}): the "
                               "file is damaged or was edited; train again.") from None


def _refuse_own_form(method: Method) -> None:
    """UnknownOption: the parent of a method is none that `method` finds, or it has another form than that."""
    try:
        known = find_method(method.published.name)
    except UnknownOption:
        known = None
    form = ("table", "core_core", "constants", "join", "fade", "corrected")
    if known is None or any(getattr(known, name) != getattr(method, name) for name in form):
        raise UnknownOption(f"{method.name} is a method of your own form, which no file could name: files hold parameters and "
                            "networks of the published methods and their smooth parents.")


def trained_on(card: Card) -> TrainedOn | None:
    """Which molecules a model was trained on, and how its data were split; None: its file does not say."""
    if card.split is None:
        return None
    with safe_open(card.path, "pt") as archive:
        return TrainedOn(card.split["validation"], card.split["large"], frozenset(archive.get_tensor(TRAINED).tolist()))
