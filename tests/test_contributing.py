"""CONTRIBUTING.md, followed literally in a copy of the repository: its files are written, its lines added, its commands run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = re.findall(r"^### an? (\w+)$", PAGE, re.M)


def blocks(section):
    """(kind, text) of the code blocks under a heading."""
    text = re.search(rf"^### an? {section}$(.*?)(?=^##|\Z)", PAGE, re.M | re.S)[1]
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


def changed(text, hunk):
    """A text with the lines of one hunk; those without + must stand in it, once and together."""
    lines = hunk.splitlines()
    old, new = ("\n".join(line[1:] for line in lines if line[:1] in kinds) for kinds in (" -", " +"))
    assert text.count(old) == 1, f"stands there {text.count(old)} times: {old}"
    return text.replace(old, new)


def run(command, folder):
    """What a command prints in a folder, with the programs of this environment and the package of the folder."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False,
                          env=os.environ | {"PATH": path, "PYTHONPATH": str(folder)})
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def follow(kind, block, folder):
    """Carry out one block."""
    name = re.match(r" ?# ([\w./]+)\n", block)
    if kind == "python":
        (folder / name[1]).write_text(block.partition("\n")[2])
    elif kind == "diff":
        text = (folder / name[1]).read_text()
        for hunk in re.split(r"^@@\n", block.partition("\n")[2], flags=re.M):
            text = changed(text, hunk.rstrip("\n"))
        (folder / name[1]).write_text(text)
    else:
        assert kind == "bash"
        run(["bash", "-ec", block], folder)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository, in which one example follows another."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("nddo_ml", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    assert str(folder) in run(["python", "-c", "import nddo_ml; print(nddo_ml.__file__)"], folder)
    return folder


def test_there_is_an_example_of_each():
    assert EXAMPLES == ["correction", "method", "network", "interface"]
    assert all({"python", "bash"} <= {kind for kind, _ in blocks(section)} for section in EXAMPLES)


@pytest.mark.parametrize("section", EXAMPLES)
def test_an_example_can_be_followed(section, copy):
    for kind, block in blocks(section):
        follow(kind, block, copy)


def test_what_was_written_keeps_the_house_rules(copy):
    """After all examples: style, and layers."""
    run(["ruff", "check", "."], copy)
    run(["pytest", "tests/test_imports.py"], copy)
