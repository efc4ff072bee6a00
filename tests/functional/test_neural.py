"""Learned functionals obey their constraints whatever their weights; the table of constraints finds those who do not; files."""

import pytest
import torch
from safetensors.torch import save_file
from support.functionals import randomised

from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.functional import (
    LDA,
    PBE,
    PBE0,
    R2SCAN,
    Functional,
    NeuralGGA,
    NeuralMetaGGA,
    Projected,
    constraints,
    load,
    names,
    save,
)
from nddo_ml.functional.constraints import samples
from nddo_ml.functional.library import SUFFIX, metadata

ONE_ELECTRON = "no correlation of one electron (hartree)"


@pytest.mark.parametrize("functional, parent", [(NeuralGGA(), PBE()), (NeuralMetaGGA(), R2SCAN()), (NeuralGGA(PBE0()), PBE0())])
def test_a_network_of_zero_is_the_parent(functional, parent):
    d = samples(functional, 2)
    assert torch.equal(functional.energy_density(d), parent.energy_density(d))
    assert functional.exact_exchange == parent.exact_exchange
    assert not torch.allclose(randomised(functional).energy_density(d), parent.energy_density(d), rtol=1e-3)


def test_any_fraction_of_exact_exchange():
    """Semilocal exchange makes up the rest; a learned fraction is a parameter, any other is not; files remember both."""
    d, parent = samples(NeuralMetaGGA(), 2), R2SCAN()
    for learned in (False, True):
        made = NeuralMetaGGA(width=4, exact_exchange=0.3, learned_fraction=learned)
        assert made.exact_exchange == 0.3 and ("mixing" in dict(made.named_parameters())) == learned
        expected = 0.7 * d.over_channels(parent.exchange) + parent.correlation(d)
        assert torch.allclose(made.energy_density(d), expected, rtol=1e-14, atol=0)
        randomised(made, 0.1)
        assert (made.exact_exchange != 0.3) == learned
    for wrong in (-0.1, 1.0):
        with pytest.raises(UnknownOption, match="fraction"):
            NeuralGGA(exact_exchange=wrong)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cls, parent, fraction", [(NeuralGGA, PBE, 0), (NeuralMetaGGA, R2SCAN, 0.3), (NeuralGGA, PBE0, 0.25)])
def test_constraints_hold_for_any_weights(cls, parent, fraction, seed):
    """And any fraction of exact exchange. A GGA cannot know a single electron; everything else is exact."""
    rows = constraints(randomised(cls(parent(), exact_exchange=fraction), 1.5, seed))
    assert {row.name for row in rows if not row.holds} == (set() if cls.kinetic else {ONE_ELECTRON})


def test_published_functionals_obey_what_they_were_made_to_obey():
    assert {row.name for row in constraints(LDA()) if not row.holds} == {ONE_ELECTRON}
    assert all(row.holds for row in constraints(R2SCAN()))


def test_violations_are_found():
    class Wrong(PBE):
        def exchange(self, n, sigma, tau):
            return super().exchange(n, sigma, tau) * (1.05 + sigma / n**3)

        def correlation(self, d):
            return 0.01 * d.n[0] - super().correlation(d)

    broken = {row.name for row in constraints(Wrong()) if not row.holds}
    assert {"uniform gas: exchange", "uniform gas: correlation (hartree per electron)", "spin symmetry",
            "uniform coordinate scaling of exchange", "local Lieb-Oxford bound, F_x <= 1.804",
            "correlation is not positive (hartree per electron)"} <= broken


@pytest.mark.parametrize("made", [NeuralGGA(width=8), NeuralMetaGGA(width=5, correlation=False), NeuralGGA(PBE0())])
def test_a_saved_functional_comes_back(tmp_path, made):
    made.nonlocal_part = Projected(elements=(1, 8), width=4)
    if made.exact_exchange == 0:
        made.mixing.fill_(0.125)              # as a training leaves it
    path = tmp_path / f"mine{SUFFIX}"
    save(randomised(made), path, "mine", level="def2-svp", data="abc", notes="for a test")
    back = load(path)
    d = samples(made, 0)
    assert torch.equal(back.energy_density(d), made.energy_density(d)) and back.label == "mine"
    assert back.exact_exchange == made.exact_exchange
    for key, value in made.state_dict().items():
        assert torch.equal(back.state_dict()[key], value) and value.dtype == torch.float64
    assert metadata(path)["level"] == "def2-svp" and not any(p.requires_grad for p in back.parameters())


def test_a_class_of_ones_own_is_filled(tmp_path):
    class Mine(Functional):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def exchange(self, n, sigma, tau):
            return -self.factor * n ** (4 / 3)

    path = tmp_path / f"own{SUFFIX}"
    made = Mine()
    with torch.no_grad():
        made.factor.fill_(0.9)
    save(made, path, "own")
    with pytest.raises(IncompatibleFile, match="into="):
        load(path)
    assert float(load(path, into=Mine()).factor) == 0.9


def test_files_that_are_no_functionals_are_refused(tmp_path):
    path = tmp_path / f"other{SUFFIX}"
    with pytest.raises(IncompatibleFile, match="no file"):
        load(path)
    path.write_text("no archive")
    with pytest.raises(IncompatibleFile, match="not a safetensors"):
        load(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"format": "nddo_ml weights 1"})
    with pytest.raises(IncompatibleFile, match="weights 1"):
        load(path)
    save(NeuralGGA(width=8), path, "x")
    from safetensors.torch import load_file

    said = metadata(path)
    save_file({k: v for k, v in load_file(path).items() if "layers.1" not in k}, path, metadata=said)
    with pytest.raises(IncompatibleFile, match="state_dict"):
        load(path)
    with pytest.raises(UnknownOption, match="PBE0"):
        load("nothing")
    with pytest.raises(UnknownOption, match="safetensors"):
        save(PBE(), tmp_path / "x.pt", "x")
    assert {"LDA", "PBE", "R2SCAN", "PBE0"} <= set(names()) and isinstance(load("PBE0"), PBE0)
