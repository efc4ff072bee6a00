"""The commands of `nddo-ml functional`, and what they refuse."""

import sys

import pytest
from typer.testing import CliRunner

from nddo_ml.cli.main import app
from nddo_ml.errors import MissingExtra
from nddo_ml.functional import LDA, NeuralGGA, names, save

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, ["functional", *map(str, arguments)])


def test_list_names_everything_that_loads():
    found = run("list")
    assert found.exit_code == 0
    assert [line.split()[0] for line in found.output.splitlines()] == names()
    assert "25 % exact exchange" in found.output


def test_constraints_of_a_file(tmp_path):
    save(NeuralGGA(width=4, exact_exchange=0.1), tmp_path / "mine.safetensors", "mine", level="def2-svp")
    found = run("constraints", tmp_path / "mine.safetensors")
    assert found.exit_code == 0 and found.output.count("yes ") == len(found.output.splitlines()) - 1 > 8
    assert "no " in run("constraints", "LDA").output


def test_refusals(tmp_path):
    (tmp_path / "x.safetensors").write_text("?")
    (tmp_path / "x.toml").write_text('output = "o"\n[functional]\nkin = "NeuralGGA"')
    (tmp_path / "y.toml").write_text('output = "o"\n[functional]\nfrozen = true')
    (tmp_path / "z.toml").write_text('output = "o"\n[functional]\nkind = "PBE"\nstart = "nothing"')
    for arguments, said in ((("constraints", "nothing"), "PBE0"), (("constraints", tmp_path / "x.safetensors"), "safetensors"),
                            (("evaluate", "nothing"), "libxc"), (("evaluate", "pbe", "--only", "some"), "validation"),
                            (("evaluate", "pbe", "--basis", "none"), "basis 'none'"),
                            (("evaluate", "pbe", "--grid", 12), "0 to 9"),
                            (("train", tmp_path / "x.toml"), "did you mean kind?"),
                            (("train", tmp_path / "y.toml"), "frozen"), (("train", tmp_path / "z.toml"), "nothing"),
                            (("train", tmp_path / "none.toml"), "no configuration file")):
        if arguments[0] == "evaluate":
            pytest.importorskip("pyscf")
        found = run(*arguments)
        assert found.exit_code == 2 and said in found.stderr, (arguments, found.stderr)


def test_missing_pyscf_is_named(monkeypatch):
    """Whatever is installed: PySCF hidden."""
    for name in [m for m in sys.modules if m == "pyscf" or m.startswith("pyscf.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(MissingExtra, match=r"nddo_ml\[train\]"):
        LDA().attach(object())
    with pytest.raises(MissingExtra, match="pyscf"):
        NeuralGGA(width=4).attach(object())
    found = run("evaluate", "PBE")
    assert found.exit_code == 2 and "pip install" in found.stderr
