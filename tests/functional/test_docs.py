"""The code of docs/howto/functional.md runs as it stands there, block after block."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "howto" / "functional.md"


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    """In an empty folder, in one namespace; it trains a functional, which gets better, and draws its pictures."""
    pytest.importorskip("pyscf")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {"__name__": "tutorial"}
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.M | re.S)
    assert len(blocks) >= 5
    for k, block in enumerate(blocks):
        exec(compile(block, f"functional.md, block {k + 1}", "exec"), names)
    assert names["after"] < names["before"]
    for picture in ("parity.png", "enhancement.png"):
        assert (tmp_path / picture).stat().st_size > 5000


def test_pictures_of_the_docs_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", DOCS.read_text()):
        assert (DOCS.parent / path).is_file(), path
