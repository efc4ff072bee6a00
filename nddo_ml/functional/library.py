"""Functionals by name, and functionals in files: safetensors whose metadata say what they are and what they learned from."""

import json
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file

import nddo_ml
from nddo_ml.common import files
from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.functional.base import Functional
from nddo_ml.functional.forms.neural import NeuralGGA, NeuralMetaGGA
from nddo_ml.functional.forms.projection import ELEMENTS, Projected, Projectors
from nddo_ml.functional.forms.r2scan import R2SCAN
from nddo_ml.functional.forms.semilocal import LDA, PBE, PBE0

FORMAT = "nddo_ml functional 1"
SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parents[1] / "data" / "functionals"
PUBLISHED = {"LDA": LDA, "PBE": PBE, "R2SCAN": R2SCAN, "PBE0": PBE0}
NEWEST = {"neural-xc": "neural-xc-1", "neural-xc-projected": "neural-xc-1-projected"}      # names that stay
NETWORKS = {"NeuralGGA": NeuralGGA, "NeuralMetaGGA": NeuralMetaGGA}


def names() -> list[str]:
    """What `load` knows by name: published functionals, then shipped files, then the names of the newest ones."""
    shipped = sorted(path.stem for path in SHIPPED.glob("*" + SUFFIX))
    return [*PUBLISHED, *shipped, *(name for name, newest in NEWEST.items() if newest in shipped)]


def describe(name) -> str:
    """In a line, what a functional is: published, or learned from what at which level, with how much exact exchange."""
    if name in NEWEST:
        return f"the newest, {NEWEST[name]}"
    made = load(name)
    exact = f"{100 * made.exact_exchange:.3g} % exact exchange" if made.exact_exchange else "no exact exchange"
    if str(name) in PUBLISHED:
        kind = "meta-GGA" if made.kinetic else "GGA" if made.gradient else "local density"
        return f"published {kind}, {exact}"
    part = ", with a part of the density matrix" if made.nonlocal_part is not None else ""
    return f"{settings(made)['kind']} on {parent_of(made)}, {exact}{part}; trained in {metadata(_path(name))['level']}"


def parent_of(functional: Functional) -> str:
    """Name of the published functional that a learned one corrects; its own name where it is published."""
    said = settings(functional)
    return said.get("parent") or said["kind"]


def build(kind: str, parent: str | None = None, width: int = 16, correlation: bool = True, exact_exchange: float | None = None,
          learned_fraction: bool = False, nonlocal_part: dict | None = None, seed: int = 0) -> Functional:
    """A functional of PUBLISHED or NETWORKS, or of the class that "module:Class" names, untrained; nonlocal_part: settings of
    projection.Projected. UnknownOption."""
    if ":" in kind:
        made = own(kind)
    elif kind in PUBLISHED:
        if exact_exchange is not None or learned_fraction:
            raise UnknownOption(f"{kind} has its own fraction of exact exchange: take NeuralMetaGGA or NeuralGGA for another.")
        made = PUBLISHED[kind]()
    elif kind in NETWORKS:
        if parent is not None and parent not in PUBLISHED:
            raise UnknownOption(f"There is no parent {parent!r}; available: {', '.join(PUBLISHED)}.")
        chosen = None if parent is None else PUBLISHED[parent]()
        if chosen is not None and chosen.kinetic and not NETWORKS[kind].kinetic:
            raise UnknownOption(f"{kind} does not know tau, which its parent {parent} needs: take NeuralMetaGGA.")
        made = NETWORKS[kind](chosen, width, seed, correlation, exact_exchange, learned_fraction)
    else:
        raise UnknownOption(f"There is no functional {kind!r}; available: {', '.join((*PUBLISHED, *NETWORKS))}.")
    if nonlocal_part is not None:
        settings = dict(nonlocal_part)
        projectors = Projectors(tuple(settings.pop("s", Projectors.s)), tuple(settings.pop("p", Projectors.p)))
        settings["elements"] = tuple(settings.get("elements", ELEMENTS))
        made.nonlocal_part = Projected(**settings, projectors=projectors, seed=seed)
    return made


def own(kind: str) -> Functional:
    """An object of the class that "module:Class" names, made without arguments. UnknownOption: there is none, or it is no
    functional."""
    module, _, name = kind.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownOption(f"{kind!r}: {error}; expected \"module:Class\", the module beside the configuration, in this "
                            "folder or installed.") from None
    if not (isinstance(found, type) and issubclass(found, Functional)):
        raise UnknownOption(f"{kind!r} is no class made from nddo_ml.functional.Functional.")
    try:
        return found()
    except TypeError as error:
        raise UnknownOption(f"{kind!r} is not made without arguments ({error}): give them defaults.") from None


def _class_name(functional):
    """What `build` finds the class by: its name if it is one of ours, else "module:Class"; a class inside a function has no
    such name."""
    found = type(functional)
    ours = found in (*PUBLISHED.values(), *NETWORKS.values()) or "." in found.__qualname__
    return found.__name__ if ours else f"{found.__module__}:{found.__name__}"


def settings(functional: Functional) -> dict:
    """The arguments of `build` that make it again, but for the seed."""
    plain = getattr(functional, "config", {"kind": _class_name(functional)})
    part = functional.nonlocal_part
    return {**plain, "nonlocal_part": None if part is None else part.config}


def save(functional: Functional, path, name: str, level: str = "", data: str = "", notes: str = "") -> None:
    """Write a functional to `path` (.safetensors), whole or not at all. level: basis and grid it was trained with; data:
    hash of the training data. UnknownOption: the path ends otherwise."""
    path = str(path)
    if not path.endswith(SUFFIX):
        raise UnknownOption(f"Functionals are saved as {SUFFIX} files: {path!r} ends otherwise.")
    said = {"format": FORMAT, "name": name, "settings": json.dumps(settings(functional)), "level": level, "data": data,
            "exact_exchange": repr(functional.exact_exchange), "code": nddo_ml.__version__, "notes": notes}
    files.write_tensors(path, functional.state_dict() or {"empty": torch.zeros(1)}, said)


def metadata(path) -> dict:
    """What a file says about itself. IncompatibleFile: it is no functional of this version."""
    return files.metadata(Path(path), FORMAT, "a functional written by nddo_ml.functional.save", SUFFIX)


def load(name, device: str = "cpu", into: Functional | None = None) -> Functional:
    """A functional by name, from a file, or untrained of the class that "module:Class" names; float64, without gradients. A
    file of a class of your own imports it by the name it was saved under; into: an object of the class to fill instead.

    UnknownOption: no such name; IncompatibleFile: a file of another kind or version, or damaged.
    """
    if str(name) in PUBLISHED:
        return PUBLISHED[str(name)]().to(device)
    if is_class(name):
        return own(str(name)).double().requires_grad_(False).to(device)
    path = _path(name)
    said = metadata(path)
    try:
        made = build(**json.loads(said["settings"])) if into is None else into
        state = {key: value for key, value in load_file(path).items() if key != "empty"}
        made.load_state_dict(state)
    except (UnknownOption, TypeError, KeyError, ValueError, RuntimeError) as error:
        raise IncompatibleFile(f"{path} was written by nddo_ml {said.get('code')} as {said.get('settings')}, which cannot be "
                               f"made here ({str(error).splitlines()[0]}); a class of your own must be importable by that "
                               "name, or give load(..., into=YourFunctional()).") from None
    made.name = said["name"]
    return made.double().requires_grad_(False).to(device)


def is_class(name) -> bool:
    """Whether a name is a "module:Class"."""
    return ":" in str(name) and not str(name).endswith(SUFFIX)


def _path(name) -> Path:
    """The file of a name."""
    shipped = SHIPPED / f"{NEWEST.get(str(name), name)}{SUFFIX}"
    if shipped.is_file():
        return shipped
    if not str(name).endswith(SUFFIX):
        raise UnknownOption(f"There is no functional {str(name)!r}; available: {', '.join(names())}, or a file ({SUFFIX}).")
    return Path(name)
