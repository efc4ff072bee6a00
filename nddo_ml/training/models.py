"""The model of a training: as it begins, with further heads, and as it is used."""

import torch

from nddo_ml.errors import UnknownOption
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.networks import ParameterNetwork, build
from nddo_ml.training.config import Config


def hamiltonian_of(config: Config, seed: int) -> Hamiltonian:
    """The untrained Hamiltonian of a member, without dispersion, its trainable parameters marked."""
    torch.manual_seed(seed)
    model = config.model
    if model.start is not None:
        found = finished(Hamiltonian(model.start, device=model.device), dispersion=False)
        found = with_heads(found, model.network) if model.network else found
        if found.network is None and model.trainable == "network":
            raise UnknownOption(f'model.start = {model.start!r} has no network: set trainable = "parameters" to train its '
                                "tables on.")
    else:
        network = None if model.trainable == "parameters" else build(model.network)
        found = Hamiltonian(model.parent, network=network, device=model.device)
    found.requires_grad_(model.trainable != "network")
    if found.network is not None:
        found.network.requires_grad_(model.trainable != "parameters")
    finished(found, model.dispersion)       # refuses dispersion on a parent that has its own, before any work
    return found


def with_heads(hamiltonian: Hamiltonian, settings: dict) -> Hamiltonian:
    """The Hamiltonian with the heads that `settings` names added to its network: they shift nothing yet. UnknownOption: the
    settings are not those of its network, but for further heads."""
    old = hamiltonian.network
    known = old.config if isinstance(old, ParameterNetwork) else {}      # a network of one's own has no heads to add to
    heads = list(settings.get("heads", known.get("heads", ())))
    other = [k for k, v in settings.items() if k != "heads" and known.get(k) != v]
    if not known or other or not set(known["heads"]) <= set(heads):
        raise UnknownOption(f"model.network = {settings} beside model.start, whose network is {known}: it can be given further "
                            "heads, nothing else.")
    if set(heads) == set(known["heads"]):
        return hamiltonian
    network = build({**known, "heads": heads}).to(hamiltonian.U_ss.device)
    found = Hamiltonian(hamiltonian.method, network, device=hamiltonian.U_ss.device, load=False)
    found.load_state_dict({**found.state_dict(), **hamiltonian.state_dict()})
    return found


def finished(hamiltonian: Hamiltonian, dispersion: bool) -> Hamiltonian:
    """The trained Hamiltonian as it is used: with D3(BJ) if asked for."""
    device = hamiltonian.U_ss.device
    found = Hamiltonian(hamiltonian.method, hamiltonian.network, OMEGA_B97X_D3BJ if dispersion else None, device, load=False)
    found.load_state_dict(hamiltonian.state_dict())
    return found
