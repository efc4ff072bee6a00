"""Functionals by name, and functionals in files: safetensors whose metadata say what they are and what they learned from."""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import nddo_ml
from nddo_ml.common import files
from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.forms.neural import NeuralFunctional, NeuralGGA, NeuralMetaGGA
from nddo_ml.functional.forms.projection import ELEMENTS, Projected
from nddo_ml.functional.forms.r2scan import R2SCAN
from nddo_ml.functional.forms.semilocal import LDA, PBE, PBE0
from nddo_ml.functional.projectors import Projectors

FORMAT = "nddo_ml functional 1"
SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parents[1] / "data" / "functionals"
PUBLISHED: dict[str, type[Functional]] = {"LDA": LDA, "PBE": PBE, "R2SCAN": R2SCAN, "PBE0": PBE0}
NEWEST = {"neural-xc": "neural-xc-1", "neural-xc-projected": "neural-xc-1-projected"}      # names that stay
NETWORKS: dict[str, type[NeuralGGA] | type[NeuralMetaGGA]] = {"NeuralGGA": NeuralGGA, "NeuralMetaGGA": NeuralMetaGGA}


@dataclass(frozen=True)
class Blueprint:
    """What an untrained functional is made of; the settings that files hold in their metadata, under these names."""

    kind: str                                       # a name of PUBLISHED or NETWORKS, or "module:Class"
    parent: str | None = None                       # a name of PUBLISHED; None: the usual parent of the network
    width: int = 16                                 # of the hidden layers
    correlation: bool = True                        # whether the correlation is corrected too
    exact_exchange: float | None = None             # the fraction at the start; None: that of the parent
    learned_fraction: bool = False                  # whether that fraction is a parameter
    nonlocal_part: dict[str, Any] | None = None     # settings of forms.projection.Projected; None: without that part


def names() -> list[str]:
    """What `load` knows by name: published functionals, then shipped files, then the names of the newest ones."""
    shipped = sorted(path.stem for path in SHIPPED.glob("*" + SUFFIX))
    return [*PUBLISHED, *shipped, *(name for name, newest in NEWEST.items() if newest in shipped)]


def describe(name: str) -> str:
    """In a line, what a functional is: published, or learned from what at which level, with how much exact exchange."""
    if name in NEWEST:
        return f"the newest, {NEWEST[name]}"
    functional = load(name)
    exact = f"{100 * functional.exact_exchange:.3g} % exact exchange" if functional.exact_exchange else "no exact exchange"
    if name in PUBLISHED:
        kind = "meta-GGA" if functional.kinetic else "GGA" if functional.gradient else "local density"
        return f"published {kind}, {exact}"
    part = ", with a part of the density matrix" if functional.nonlocal_part is not None else ""
    kind, level = settings(functional)["kind"], metadata(_path(name))["level"]
    return f"{kind} on {parent_of(functional)}, {exact}{part}; trained in {level}"


def parent_of(functional: Functional) -> str:
    """Name of the published functional that a learned one corrects; its own name where it is published."""
    said = settings(functional)
    return said.get("parent") or said["kind"]


def build(recipe: Blueprint, seed: int = 0) -> Functional:
    """The untrained functional of a recipe; seed: of its weights.

    Raises:
        UnknownOption: there is no functional of that kind, or its parent, its fraction of exact exchange or its class is none
            that it can have.
    """
    if ":" in recipe.kind:
        functional = own(recipe.kind)
    elif recipe.kind in PUBLISHED:
        if recipe.exact_exchange is not None or recipe.learned_fraction:
            raise UnknownOption(f"{recipe.kind} has its own fraction of exact exchange: take NeuralMetaGGA or NeuralGGA for "
                                "another.")
        functional = PUBLISHED[recipe.kind]()
    elif recipe.kind in NETWORKS:
        functional = _network(recipe, seed)
    else:
        raise UnknownOption(f"There is no functional {recipe.kind!r}; available: {', '.join((*PUBLISHED, *NETWORKS))}.")
    if recipe.nonlocal_part is not None:
        functional.nonlocal_part = _nonlocal_part(recipe.nonlocal_part, seed)
    return functional


def _network(recipe: Blueprint, seed: int) -> NeuralFunctional:
    """A correction of a published functional."""
    cls = NETWORKS[recipe.kind]
    if recipe.parent is not None and recipe.parent not in PUBLISHED:
        raise UnknownOption(f"There is no parent {recipe.parent!r}; available: {', '.join(PUBLISHED)}.")
    parent = None if recipe.parent is None else PUBLISHED[recipe.parent]()
    if parent is not None and parent.kinetic and not cls.kinetic:
        raise UnknownOption(f"{recipe.kind} does not know tau, which its parent {recipe.parent} needs: take NeuralMetaGGA.")
    return cls(parent, recipe.width, seed, recipe.correlation, recipe.exact_exchange, recipe.learned_fraction)


def _nonlocal_part(said: dict[str, Any], seed: int) -> Projected:
    """The part of the density matrix of its settings, as a file holds them."""
    projectors = Projectors(tuple(said.get("s", Projectors.s)), tuple(said.get("p", Projectors.p)))
    others = {key: value for key, value in said.items() if key not in ("s", "p", "elements")}
    return Projected(tuple(said.get("elements", ELEMENTS)), projectors=projectors, seed=seed, **others)


def own(kind: str) -> Functional:
    """An object of the class that "module:Class" names, made without arguments.

    Raises:
        UnknownOption: there is no such class, it is no functional, or it needs arguments.
    """
    module, _, name = kind.partition(":")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownOption(f"{kind!r}: {error}; expected \"module:Class\", the module beside the configuration, in this "
                            "folder or installed.") from None
    if not (isinstance(cls, type) and issubclass(cls, Functional)):
        raise UnknownOption(f"{kind!r} is no class made from nddo_ml.functional.Functional.")
    try:
        return cls()
    except TypeError as error:
        raise UnknownOption(f"{kind!r} is not made without arguments ({error}): give them defaults.") from None


def _class_name(functional: Functional) -> str:
    """What `build` finds the class by: its name if it is one of ours, else "module:Class"; a class inside a function has no
    such name."""
    cls = type(functional)
    ours = cls in (*PUBLISHED.values(), *NETWORKS.values()) or "." in cls.__qualname__
    return cls.__name__ if ours else f"{cls.__module__}:{cls.__name__}"


def settings(functional: Functional) -> dict[str, Any]:
    """The fields of the Blueprint that makes a functional again, as plain values in the order in which files hold them."""
    plain = getattr(functional, "config", {"kind": _class_name(functional)})
    part = functional.nonlocal_part
    return {**plain, "nonlocal_part": None if part is None else part.config}


def save(functional: Functional, path: str | Path, name: str, level: str = "", data: str = "", notes: str = "") -> None:
    """Write a functional to a file, whole or not at all.

    Args:
        functional: the functional.
        path: of the file, .safetensors.
        name: what it will be called.
        level: basis and grid that it was trained with.
        data: a hash of the training data.
        notes: anything else.

    Raises:
        UnknownOption: the path ends otherwise.
    """
    path = str(path)
    if not path.endswith(SUFFIX):
        raise UnknownOption(f"Functionals are saved as {SUFFIX} files: {path!r} ends otherwise.")
    said = {"format": FORMAT, "name": name, "settings": json.dumps(settings(functional)), "level": level, "data": data,
            "exact_exchange": repr(functional.exact_exchange), "code": nddo_ml.__version__, "notes": notes}
    files.write_tensors(path, functional.state_dict() or {"empty": torch.zeros(1)}, said)


def metadata(path: str | Path) -> dict[str, str]:
    """What a file says about itself.

    Raises:
        IncompatibleFile: it holds no functional of this version.
    """
    return files.metadata(Path(path), FORMAT, "a functional written by nddo_ml.functional.save", SUFFIX)


def load(name: str | Path, device: str | torch.device = "cpu", into: Functional | None = None) -> Functional:
    """A functional by name, from a file, or untrained of the class that "module:Class" names; float64, without gradients.

    A file of a class of your own imports it by the name it was saved under; into: an object of the class to fill instead.

    Raises:
        UnknownOption: there is no functional of that name.
        IncompatibleFile: the file is of another kind or version, or damaged.
    """
    if str(name) in PUBLISHED:
        return PUBLISHED[str(name)]().to(device)
    if is_class(name):
        return own(str(name)).double().requires_grad_(False).to(device)
    path = _path(name)
    said = metadata(path)
    try:
        functional = build(Blueprint(**json.loads(said["settings"]))) if into is None else into
        state = {key: value for key, value in load_file(path).items() if key != "empty"}
        functional.load_state_dict(state)
    except (UnknownOption, TypeError, KeyError, ValueError, RuntimeError) as error:
        raise IncompatibleFile(f"{path} was written by nddo_ml {said.get('code')} as {said.get('settings')}, which cannot be "
                               f"made here ({str(error).splitlines()[0]}); a class of your own must be importable by that "
                               "name, or give load(..., into=YourFunctional()).") from None
    functional.name = said["name"]
    return functional.double().requires_grad_(False).to(device)


def is_class(name: str | Path) -> bool:
    """Whether a name is a "module:Class"."""
    return ":" in str(name) and not str(name).endswith(SUFFIX)


def _path(name: str | Path) -> Path:
    """The file of a name."""
    shipped = SHIPPED / f"{NEWEST.get(str(name), name)}{SUFFIX}"
    if shipped.is_file():
        return shipped
    if not str(name).endswith(SUFFIX):
        raise UnknownOption(f"There is no functional {str(name)!r}; available: {', '.join(names())}, or a file ({SUFFIX}).")
    return Path(name)
