"""The files of nddo_ml.functional stand in layers, and lower ones never import higher ones."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "nddo_ml" / "functional"
LAYERS = (("density", "projectors", "reactions"), ("base",), ("derivatives",), ("forms",), ("library", "constraints"),
          ("pyscf",), ("training",), ("plots",))
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
INSIDE = {"forms": ("uniform", "semilocal", "r2scan", "neural", "projection"),
          "pyscf": ("host", "ladder", "nonlocal_part", "numint", "attach", "densities", "response"),
          "training": ("config", "thermochemistry", "delocalisation", "losses", "fit", "evaluation", "preparation", "trainer")}


def imported(path):
    """Parts of the names, after nddo_ml.functional, of all that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nddo_ml.functional"):
            yield from ([*node.module.split(".")[2:], alias.name] for alias in node.names)


def test_lower_files_never_import_higher_ones():
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").parts
        if own[-1] == "__init__":
            continue
        for other in imported(path):
            if own[0] == other[0] and len(own) > 1:
                order = INSIDE[own[0]]
                assert order.index(other[1]) < order.index(own[1]), f"{path} imports {'.'.join(other)}"
            else:
                assert LEVEL[other[0]] < LEVEL[own[0]], f"{path} imports {'.'.join(other)}"
