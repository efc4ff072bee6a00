"""The pages say what is true: codes of tests are defined, pages that are named exist, lines are not too long."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "labels" / "README.md"]
TEXTS = [path for folder in ("nddo_ml", "tests", "tools", "examples", "benchmarks") for kind in ("*.py", "*.toml")
         for path in sorted((ROOT / folder).rglob(kind))]


def test_codes_of_criteria_are_defined():
    """S1, L6, Q13, ... of tests stand in docs/physics.md, each once."""
    defined = re.findall(r"^\| ([SLQ]\d+) \|", (ROOT / "docs" / "physics.md").read_text(), re.M)
    assert len(defined) == len(set(defined)) == 35
    code = re.compile(r"(?:def test_|holds\(f?\"|criterion |\()([SLQ]\d{1,2})(?=[ _\"),])")
    used = {name for path in sorted((ROOT / "tests").rglob("*.py")) for name in code.findall(path.read_text())}
    assert used and not used - set(defined)


@pytest.mark.parametrize("path", [*PAGES, *TEXTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_that_are_named_exist(path):
    named = set(re.findall(r"\b(docs/[\w/]+\.(?:md|json|svg))", path.read_text()))
    assert not {name for name in named if not (ROOT / name).is_file()}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_prose_is_wrapped_at_100_characters(path):
    """As tools/wrap_pages.py does it; rows of tables, code and what tools write excepted."""
    text = re.sub(r"^```.*?^```|^<!-- \w+: made by.*?^<!-- end", "", path.read_text(), flags=re.M | re.S)
    prose = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "![")) and not line.startswith("    ")]
    assert not [line for line in prose if len(line) > 100 and " " in line.strip()]


def test_there_is_one_version_number():
    """Only nddo_ml/__init__.py says it; pyproject.toml reads it there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "nddo_ml.__version__"}
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(), re.M)
