"""The model of a training: as it begins, with further heads, and as it is used."""

from typing import Any

import torch

from nddo_ml.errors import UnknownOption
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.weights import trained_on
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.networks import ParameterNetwork, build
from nddo_ml.training.config import TrainingConfig


def hamiltonian_of(config: TrainingConfig, seed: int) -> Hamiltonian:
    """The untrained Hamiltonian of a member, without dispersion, its trainable parameters marked.

    seed: of the random weights of its network; the random numbers of the caller are not touched.

    Raises:
        UnknownOption: the model cannot be made, or would have dispersion twice.
    """
    with torch.random.fork_rng(devices=[]):             # networks are made on the CPU
        torch.default_generator.manual_seed(seed)
        hamiltonian = _started(config) if config.model.start is not None else _new(config)
    trainable = config.model.trainable
    hamiltonian.requires_grad_(trainable != "network")
    if hamiltonian.network is not None:
        hamiltonian.network.requires_grad_(trainable != "parameters")
    finished(hamiltonian, config.model.dispersion)      # refuses dispersion on a parent that has its own, before any work
    return hamiltonian


def _new(config: TrainingConfig) -> Hamiltonian:
    """The parent method, with a new network unless only its tables are trained."""
    model = config.model
    network = None if model.trainable == "parameters" else build(model.network)
    return Hamiltonian(model.parent, network=network, device=model.device)


def _started(config: TrainingConfig) -> Hamiltonian:
    """The trained Hamiltonian that a training goes on from."""
    model = config.model
    hamiltonian = finished(Hamiltonian(str(model.start), device=model.device), dispersion=False)
    if model.network:
        hamiltonian = with_heads(hamiltonian, model.network)
    if hamiltonian.network is None and model.trainable == "network":
        raise UnknownOption(f'model.start = {model.start!r} has no network: set trainable = "parameters" to train its '
                            "tables on.")
    return hamiltonian


def with_heads(hamiltonian: Hamiltonian, settings: dict[str, Any]) -> Hamiltonian:
    """The Hamiltonian with the heads that `settings` names added to its network: they shift nothing yet.

    Raises:
        UnknownOption: the settings are not those of its network, but for further heads.
    """
    old = hamiltonian.network
    known = old.config if isinstance(old, ParameterNetwork) else {}      # a network of one's own has no heads to add to
    heads = list(settings.get("heads", known.get("heads", ())))
    other = [k for k, v in settings.items() if k != "heads" and known.get(k) != v]
    if not known or other or not set(known["heads"]) <= set(heads):
        raise UnknownOption(f"model.network = {settings} beside model.start, whose network is {known}: it can be given further "
                            "heads, nothing else.")
    if set(heads) == set(known["heads"]):
        return hamiltonian
    device = device_of(hamiltonian)
    extended = Hamiltonian(hamiltonian.method, build({**known, "heads": heads}).to(device), device=device, load=False)
    extended.load_state_dict({**extended.state_dict(), **hamiltonian.state_dict()})
    return extended


def finished(hamiltonian: Hamiltonian, dispersion: bool) -> Hamiltonian:
    """The trained Hamiltonian as it is used: with D3(BJ) if asked for."""
    added = OMEGA_B97X_D3BJ if dispersion else None
    used = Hamiltonian(hamiltonian.method, hamiltonian.network, added, device_of(hamiltonian), load=False)
    used.load_state_dict(hamiltonian.state_dict())
    return used


def device_of(hamiltonian: Hamiltonian) -> torch.device:
    """Where a Hamiltonian calculates."""
    return hamiltonian.get_parameter("U_ss").device


def trained_before(hamiltonian: Hamiltonian) -> set[int] | None:
    """Keys (dataset.key) of the molecules that a Hamiltonian was trained on; None: its file does not say."""
    card = hamiltonian.method.card
    if card is None:
        return set()
    before = trained_on(card)
    return None if before is None else set(before.molecules)
