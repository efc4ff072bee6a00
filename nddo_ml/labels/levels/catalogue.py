"""Levels of theory by name: density functionals and wave functions of PySCF (pyscf.py), GFN-xTB (tight_binding.py), and the
Hamiltonians of this package (own.py). What a level is says theory.py.
"""

from nddo_ml.common.extras import needed
from nddo_ml.errors import UnknownOption
from nddo_ml.labels.levels import tight_binding
from nddo_ml.labels.levels.own import OwnMethod
from nddo_ml.labels.levels.pyscf import LEARNED, Setting, pyscf_level
from nddo_ml.labels.levels.theory import Level
from nddo_ml.labels.levels.tight_binding import TightBinding
from nddo_ml.methods import method as find_method
from nddo_ml.methods import methods

DEFAULT = "wb97x-v/def2-tzvp"


def level(name: str | None = None, functional: str | None = None, basis: str | None = None, **settings: Setting) -> Level:
    """The level of that name.

    name: "FUNCTIONAL/BASIS" or "WAVE FUNCTION/BASIS" in PySCF ("wb97x-v/def2-tzvp", "b3lyp/def2-svp", "hf/...", "mp2/...",
    "ccsd(t)/cc-pvdz", "fci/..."), "functional:NAME/BASIS" of a functional of nddo_ml.functional by name or file, "GFN2-xTB", or
    one of our own methods ("PM6-D3H4"). functional, basis: replace those of the name. settings: fields of KohnSham or
    WaveFunction (None: their default).

    Raises:
        UnknownOption: there is no such functional, basis, wave function or setting.
        MissingExtra: PySCF or tblite is not installed.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    cheap = None if name is None else _cheap(name)
    if cheap is not None:
        unused = [*given, *(["functional"] if functional else []), *(["basis"] if basis else [])]
        if unused:
            raise UnknownOption(f"{cheap.name} has no {unused[0]}: leave it out, or choose a level of PySCF such as {DEFAULT}.")
        return cheap
    theory, own_basis = _theory_and_basis(name or DEFAULT)
    return pyscf_level(functional or theory, basis or own_basis or DEFAULT.partition("/")[2], given)


def _theory_and_basis(name: str) -> tuple[str, str]:
    """What stands before the basis, and the basis; the file of a functional may stand in a folder."""
    if not name.startswith(LEARNED):
        theory, _, basis = name.partition("/")
        return theory, basis
    theory, _, basis = name.rpartition("/")
    return (name, "") if basis.endswith(".safetensors") or not theory else (theory, basis)


def _cheap(name: str) -> Level | None:
    """The level of tblite or of our own with that name; None: there is none."""
    if name.startswith(LEARNED):
        return None
    if name.lower() in tight_binding.METHODS:
        needed("tblite", "train", "GFN-xTB")
        return TightBinding(tight_binding.METHODS[name.lower()])
    if name.lower() in {m.lower() for m in methods()} or name.endswith(".safetensors"):
        return OwnMethod(find_method(name).key)
    return None
