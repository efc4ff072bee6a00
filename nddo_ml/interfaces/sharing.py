"""Hamiltonians that calculators made from a name share: one for each method and device, as long as one of them lives."""

from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from nddo_ml.common.struct import Lock, ordinary
from nddo_ml.errors import UnknownOption
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.methods import Method
from nddo_ml.methods import method as find_method

TOPOLOGIES = 256     # that a shared Hamiltonian keeps, being used by many molecules


class SharedHamiltonians:
    """Hamiltonians by method and device. One that somebody changed is not handed on: the next who asks gets a new one. Files of
    weights are read anew each time."""

    def __init__(self) -> None:
        self._models: WeakValueDictionary[tuple[str, str], Hamiltonian] = WeakValueDictionary()
        self._as_made: WeakKeyDictionary[Hamiltonian, tuple[Any, Any]] = WeakKeyDictionary()
        self._making = Lock()

    def of(self, name: str | Method, device: str | torch.device | None = None) -> Hamiltonian:
        """The Hamiltonian of that method on that device, shared if the method is the one that its name stands for. For methods
        of one's own (`Method.changed`, `dataclasses.replace`) and those in files it is made anew.

        Raises: UnknownOption, if there is no such method.
        """
        method = find_method(name)
        key, shared = (method.name, str(device)), _is_known(method)
        with self._making, ordinary():
            model = self._models.get(key) if shared else None
            if model is None or not self.unchanged(model):
                model = Hamiltonian(method, device=device)
                model.remembered = TOPOLOGIES
                self._as_made[model] = model.version(), _made_like(model)
                if shared:
                    self._models[key] = model
            return model

    def unchanged(self, model: Hamiltonian) -> bool:
        """Whether a Hamiltonian is as `of` made it."""
        tables, like = self._as_made.get(model, (None, None))
        with ordinary():     # edits of `.data` change the tables, not the versions of the parameters
            return model.version() is tables and like == _made_like(model)


def _is_known(method: Method) -> bool:
    """Whether the name of a method stands for this very method: a published, smooth or shipped one."""
    if method.own is not None or method.key != method.name:
        return False
    try:
        return find_method(method.name) == method
    except UnknownOption:
        return False


def _made_like(model: Hamiltonian) -> tuple:
    """Changes with the parameters of a model: which they are, how often they were written to, whether they ask for
    gradients."""
    own = model._parameters.values() if model.network is None else model.parameters()
    return tuple([(id(p), p._version, p.requires_grad, p.dtype, p.device) for p in own if p is not None])
