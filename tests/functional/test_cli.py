"""The commands of `nddo-ml functional`, and what they refuse."""

import json
import sys

import pytest
from typer.testing import CliRunner

from nddo_ml.cli.main import app
from nddo_ml.errors import MissingExtra
from nddo_ml.functional import LDA, NeuralGGA, attach, load, names, save

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, ["functional", *map(str, arguments)])


def test_list_names_everything_that_loads():
    result = run("list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == names()
    assert "25 % exact exchange" in result.output


def test_constraints_of_a_file(tmp_path):
    save(NeuralGGA(width=4, exact_exchange=0.1), tmp_path / "mine.safetensors", "mine", level="def2-svp")
    result = run("constraints", tmp_path / "mine.safetensors")
    assert result.exit_code == 0 and result.output.count("yes ") == len(result.output.splitlines()) - 1 > 8
    assert "no " in run("constraints", "LDA").output


@pytest.mark.filterwarnings("ignore:Basis may be available")       # PySCF, of a basis set that it does not know
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
        result = run(*arguments)
        assert result.exit_code == 2 and said in result.stderr, (arguments, result.stderr)


def test_missing_pyscf_is_named(monkeypatch):
    """Whatever is installed: PySCF hidden."""
    for name in [m for m in sys.modules if m == "pyscf" or m.startswith("pyscf.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(MissingExtra, match=r"nddo_ml\[train\]"):
        attach(object(), LDA())
    with pytest.raises(MissingExtra, match="pyscf"):
        attach(object(), NeuralGGA(width=4))
    result = run("evaluate", "PBE")
    assert result.exit_code == 2 and "pip install" in result.stderr


OWN = '''
import torch
from nddo_ml.functional import Functional
from nddo_ml.functional.forms.uniform import slater

class Scaled(Functional):
    def __init__(self):
        super().__init__()
        self.c = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def exchange(self, n, sigma, tau):
        return self.c * slater(n)

class Needs(Functional):
    def __init__(self, x):
        super().__init__()
'''
H2 = {"systems": {"h": {"symbols": ["H"], "positions": [[0, 0, 0]], "charge": 0, "unpaired": 1},
                  "h2": {"symbols": ["H", "H"], "positions": [[0, 0, 0], [0, 0, 0.74]], "charge": 0, "unpaired": 0}},
      "reactions": [{"kind": "atomisation", "name": "h2", "systems": ["h2", "h"], "coefficients": [-1, 2], "reference": 109.5}]}


def test_a_class_of_ones_own_is_evaluated(tmp_path, monkeypatch):
    """By "module:Class" from this folder, and from its file, which remembers the class; exchange alone is that of libxc."""
    pytest.importorskip("pyscf")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scaled_functional.py").write_text(OWN)
    (tmp_path / "h2.json").write_text(json.dumps(H2))
    options = ("--file", "h2.json", "--basis", "sto-3g", "--grid", 0, "--no-fitted", "--json", "out.json")
    result = run("evaluate", "scaled_functional:Scaled", "lda,", *options)
    assert result.exit_code == 0 and "scaled_functional:Scaled" in result.output, result.output
    ours, libxc = json.loads((tmp_path / "out.json").read_text())
    assert ours["errors"][0][-1] == pytest.approx(libxc["errors"][0][-1], abs=1e-6) and not ours["unconverged"]
    made = load("scaled_functional:Scaled")
    made.c.fill_(1.1)
    (tmp_path / "kept").mkdir()
    save(made, tmp_path / "kept" / "mine.safetensors", "mine")
    assert float(load(tmp_path / "kept" / "mine.safetensors").c) == 1.1
    result = run("evaluate", "kept/mine.safetensors", *options)
    assert result.exit_code == 0
    (scaled,) = json.loads((tmp_path / "out.json").read_text())
    assert abs(scaled["errors"][0][-1] - ours["errors"][0][-1]) > 1
    assert "yes uniform gas: exchange" in run("constraints", "scaled_functional:Scaled").output
    for name, said in (("scaled_functional:Needs", "without arguments"), ("scaled_functional:No", "no attribute 'No'"),
                       ("no_such_module:X", "No module named"), ("json:dumps", "no class made from")):
        result = run("evaluate", name, *options)
        assert result.exit_code == 2 and said in result.stderr, (name, result.stderr)
