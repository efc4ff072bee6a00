"""nddo_ml: differentiable NDDO semi-empirical quantum chemistry, MNDO to PM7, in PyTorch."""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "Hamiltonian": "nddo_ml.hamiltonian.model",
    "Molecules": "nddo_ml.molecules",
    "PointCharges": "nddo_ml.molecules",
    "Result": "nddo_ml.hamiltonian.results",
    "NDDO": "nddo_ml.interfaces.ase",
    "method": "nddo_ml.methods",
    "relax": "nddo_ml.geometry.relax",
    "methods": "nddo_ml.methods",
    "NDDOError": "nddo_ml.errors",
    "InvalidMolecule": "nddo_ml.errors",
    "InvalidParameter": "nddo_ml.errors",
    "MissingParameter": "nddo_ml.errors",
    "SCFNotConverged": "nddo_ml.errors",
    "ImplausibleState": "nddo_ml.errors",
    "UnknownOption": "nddo_ml.errors",
}
_MODULES = {"weights": "nddo_ml.hamiltonian.weights"}
__all__ = ["__version__", *sorted({**_PUBLIC, **_MODULES})]


def __getattr__(name: str) -> object:
    """Public names are imported when first used, so that `import nddo_ml` and the command's help stay fast."""
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nddo_ml' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
