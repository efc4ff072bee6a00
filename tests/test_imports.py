"""The house keeps its order: imports run downwards, optional packages stay where they are needed, nothing prints, nothing
points at one machine.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nddo_ml
from nddo_ml.common import code_cache

PACKAGE = Path(__file__).parents[1] / "nddo_ml"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up; a room may import what lies below it, and itself. Rooms of one line never import each other.
LAYERS = (
    ("units", "errors"), ("common",),
    ("elements",),
    ("structures",), ("molecules",), ("pairs",), ("orbitals",),
    ("integrals",), ("methods",), ("networks", "scf"),
    ("properties",),
    ("hamiltonian",),
    ("ensembles", "functional", "geometry", "testing"),
    ("labels", "dynamics"), ("training", "wavefunction"), ("active",),
    ("interfaces",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

STANDARD = set(sys.stdlib_module_names)
REQUIRED = {"torch", "numpy", "scipy", "ase", "jaxtyping", "safetensors"}
CONFINED = {"typer": "cli", "rich": "cli", "click": "cli",
            "matplotlib": ("properties/spectra.py", "functional/plots.py", "training/plots.py", "active/plots.py",
                           "wavefunction/real_space/plots.py"),
            "ase": ("elements.py", "structures", "interfaces", "cli", "geometry", "properties", "labels", "dynamics",
                    "training", "active"),
            "pyscf": ("labels/levels/pyscf", "functional/pyscf/", "wavefunction/orbitals/pyscf_",
                      "wavefunction/determinants/pyscf_"),
            "tblite": "labels/levels/tight_binding.py", "rdkit": ("labels/structures.py", "structures/mdl.py"),
            "gemmi": "structures/pdb.py", "distributed": "labels/queue.py",
            "numba": "common/jit.py", "threadpoolctl": "common/threads.py"}
# imported inside a function: an optional package may be missing, and rdkit and gemmi take long to load
LAZY = {"matplotlib", "pyscf", "tblite", "rdkit", "gemmi", "distributed", "threadpoolctl"}
KERNELS = [f for f in FILES if f.parent.name == "kernels"]
COMPILED = [*KERNELS, PACKAGE / "common" / "jit.py"]        # what needs numba


def group(path):
    """The layer a file belongs to: its subpackage, or its own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def module(path):
    """The name a file is imported by."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """(module, whether at the top level) of every import of a file; relative ones made absolute."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    package = ("nddo_ml", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[:len(package) - node.level + 1]) if node.level else ""
            module = ".".join(x for x in (base, node.module) if x)
            yield module, id(node) in top
            if module == "nddo_ml":
                yield from ((f"nddo_ml.{alias.name}", id(node) in top) for alias in node.names)


def test_every_part_has_its_layer():
    """A new file or subpackage must be given a place."""
    unknown = {group(f) for f in FILES} - set(LEVEL) - {"__init__", "__main__"}
    assert not unknown, f"no layer for: {', '.join(sorted(unknown))}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    own = group(path)
    if own in ("__init__", "__main__"):
        return
    for module, _ in imports(path):
        if not module.startswith("nddo_ml."):
            continue
        other = module.split(".")[1]
        if other not in LEVEL:
            continue                    # a public name of the package itself
        below = LEVEL[other] < LEVEL[own] or other == own
        assert below, f"{path.relative_to(PACKAGE)} ({own}) imports {module}, which does not lie below it"


def test_nothing_imports_through_the_top_level():
    """`from nddo_ml import Hamiltonian` inside the package would hide which layer it reaches into; the version has none."""
    for path in FILES:
        for module, _ in imports(path):
            assert module.removeprefix("nddo_ml.") not in set(nddo_ml.__all__) - {"__version__", "methods"}, f"{path}: {module}"


def test_integrals_know_no_network():
    assert not [m for f in FILES if group(f) == "integrals" for m, _ in imports(f) if "networks" in m or "training" in m]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_third_parties_stay_where_they_are_needed(path):
    inside = path.relative_to(PACKAGE).as_posix()
    for module, at_top in imports(path):
        name = module.split(".")[0]
        if name in STANDARD or name == "nddo_ml":
            continue
        places = CONFINED.get(name)
        assert places or name in REQUIRED, f"{inside} imports {module}: neither required nor an extra"
        if places:
            places = (places,) if isinstance(places, str) else places
            assert inside.startswith(places), f"{inside} imports {module}, which belongs to {', '.join(places)}"
        assert not (name in LAZY and at_top), f"{inside} imports {module} at its top: import it inside a function"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_kernels_are_imported_when_they_are_called(path):
    """numba may be missing, and takes a while to load."""
    needs_numba = {module(f) for f in COMPILED}
    if path not in COMPILED:
        assert not [m for m, at_top in imports(path) if at_top and m in needs_numba | {m.rpartition(".")[0] for m in needs_numba
                                                                                       if ".kernels." in m}]


def test_the_fingerprint_knows_what_kernels_import():
    """Machine code is made from nothing whose change would go unnoticed."""
    known = {module(path) for pattern in code_cache.SOURCES for path in PACKAGE.glob(pattern)}
    assert {module(f) for f in KERNELS} <= known
    for path in KERNELS:
        for name, _ in imports(path):
            own = name.startswith("nddo_ml")
            assert not own or name in known or name.endswith(".kernels"), f"{path} imports {name}: name it in SOURCES, or not"


def test_no_print_and_no_exit():
    """Only the command speaks to the terminal, and only it ends the process."""
    for path in FILES:
        if group(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("print", "exit", "quit", "sys.exit", "os._exit"), f"{path}:{node.lineno}: {name}"


def test_postponed_annotations_are_not_used():
    """They would switch off the checks of shapes."""
    assert not [f for f in FILES if ("__future__", True) in set(imports(f))]


def test_no_paths_of_a_machine():
    for path in [*FILES, *sorted((PACKAGE.parent / "examples").glob("*.py"))]:
        text = path.read_text()
        found = re.findall(r"(?<![\w.])/(?:work|root|home|tmp|usr|opt|mnt|Users)/[\w./-]*", text)
        found += re.findall(r"[A-Z]:\\\\\w+|\bshared/(?:reference|theory|parameters|design)\b", text)
        assert not found, f"{path}: {found}"


def loaded(statement, modules):
    """Which of the modules a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*[m for m in {modules!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    return found.stdout.split()


def test_the_top_level_is_light():
    """`import nddo_ml` loads neither torch nor ase nor numpy; its public names are there when asked for."""
    assert loaded("import nddo_ml", ("torch", "numpy", "ase", "scipy", "rich", "matplotlib", "numba")) == []


def test_the_model_needs_no_command_line_and_no_plots():
    assert loaded("import nddo_ml; nddo_ml.Hamiltonian", ("typer", "rich", "matplotlib", "numba")) == []


def test_public_names_exist():
    for name in nddo_ml.__all__:
        assert getattr(nddo_ml, name) is not None and name in dir(nddo_ml)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nddo_ml.nothing
