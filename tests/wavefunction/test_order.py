"""The parts of the room build on each other in one direction: orbitals, then determinants, then real space."""

import ast
from pathlib import Path

import pytest

import nddo_ml

ROOM = Path(nddo_ml.__file__).parent / "wavefunction"
PARTS = ("natural_gradient", "orbitals", "determinants", "real_space")      # from the ground up


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOM)))
def test_parts_import_downwards(path):
    own = path.relative_to(ROOM).with_suffix("").parts[0]
    if own == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nddo_ml.wavefunction."):
            other = str(node.module).split(".")[2]
            assert PARTS.index(other) <= PARTS.index(own), f"{path.name} imports {node.module}"


def test_files_do_not_import_in_circles():
    """Each file names those that it imports; taken away layer by layer, none is left."""
    below = {}
    for path in ROOM.rglob("*.py"):
        name = ".".join(("nddo_ml.wavefunction", *path.relative_to(ROOM).with_suffix("").parts))
        below[name] = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    while free := {name for name, imported in below.items() if not imported & set(below)}:
        below = {name: imported for name, imported in below.items() if name not in free}
    assert not below, sorted(below)
