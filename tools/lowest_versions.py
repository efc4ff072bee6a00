"""The lowest versions that pyproject.toml promises, as a list of constraints for pip.

    python tools/lowest_versions.py > lowest.txt && pip install -c lowest.txt -e ".[test]"

A bound >=1.12 becomes ==1.12.*, the newest repair of that release.
"""

import re
import tomllib
from pathlib import Path


def lowest(requirement: str) -> str:
    """A requirement "name[extra]>=1.2" at its bound: "name==1.2.*"."""
    name, bound = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()
    return f"{name}=={bound if '.' in bound else bound + '.0'}.*"


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    print(*(lowest(r) for r in [*project["dependencies"], *(r for rs in extras.values() for r in rs)]), sep="\n")
