"""What developers of methods do to a Hamiltonian: modes, threads, transforms, conversions, parameters of their own, bad ones.

Whatever it is, the answer is right or refused by name.
"""

import ast
import copy
import pickle
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from ase.build import molecule as ase_molecule
from support.differences import close, extrapolated
from support.differences import weights as random_weights
from support.networks import shaken
from support.physics_models import MOLECULES, batch, molecule
from torch.autograd import forward_ad
from typer.testing import CliRunner

import nddo_ml
from nddo_ml import NDDO, Hamiltonian, InvalidParameter, Molecules, UnknownOption, method
from nddo_ml.cli.main import app
from nddo_ml.common import compiling
from nddo_ml.errors import IncompatibleFile, MissingParameter
from nddo_ml.hamiltonian import weights
from nddo_ml.integrals.corrections import energy_and_forces
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.methods import smooth
from nddo_ml.properties.response import hessian, polarizability

PACKAGE = Path(nddo_ml.__file__).parent
PAGE = PACKAGE.parent / "docs" / "howto" / "parameters.md"


def row(model, z):
    return int(model.method.rows(torch.tensor([z]))[0])


def methane():
    return [6, 1, 1, 1, 1], [[0, 0, 0], [.63, .63, .63], [-.63, -.63, .63], [-.63, .63, -.63], [.63, -.63, -.63]]


def mixed():
    """Water, methane and hydrogen sulphide, two of which know nothing of carbon."""
    entries = [([8, 1, 1], [[0, 0, 0], [.96, 0, 0], [-.24, .93, 0]]), methane(),
               ([16, 1, 1], [[0, 0, 0], [.96, .3, .9], [-.34, 1.23, 0]])]
    return Molecules.batch(*zip(*entries, strict=True))


# --- inference mode

FIRST_IN_INFERENCE = """
import torch
from nddo_ml import NDDO, Hamiltonian, Molecules
from nddo_ml.properties.response import hessian
atoms = [8, 1, 1, 1], [[0, 0, 0], [.96, 0, .1], [-.24, .93, 0], [-.3, -.9, .1]]
with torch.inference_mode():
    models = [Hamiltonian(name) for name in ("AM1", "PM6-D3H4X", "neural")]
    inside = Molecules.single(*atoms, 1)
    found = [model(inside, forces=True) for model in models]
    found[0].orbital_energies(), hessian(models[0], inside)
    models[1].double().to("cpu")
for model, one in zip(models, found, strict=True):
    for here in (inside, Molecules.single(*atoms, 1)):
        again = model(here, forces=True)
        assert torch.equal(again.forces, one.forces) and torch.equal(again.energy, one.energy)
    model.requires_grad_(True)
    loss = model(inside, forces=True, order=2, guess=one).forces.square().sum()
    loss.backward()
    assert float(model.U_ss.grad.abs().max()) > 0
"""


def test_inference_mode_first():
    """All that a fresh process keeps is made inside torch.inference_mode; forces work there, training works afterwards."""
    subprocess.run([sys.executable, "-c", FIRST_IN_INFERENCE], check=True, cwd=PACKAGE.parent)


@pytest.mark.parametrize("which", ["thiol", "hydroxymethyl"])
def test_inference_mode_is_no_grad(which):
    model, here = Hamiltonian("PM6"), molecule(which)
    with torch.no_grad():
        outside = model(here, forces=True)
    with torch.inference_mode():
        inside = model(here, forces=True)
    assert torch.equal(inside.forces, outside.forces) and not inside.energy.requires_grad


def test_the_calculator_in_inference_mode():
    atoms = ase_molecule("H2O")
    atoms.calc = NDDO("AM1")
    expected = atoms.get_forces()
    with torch.inference_mode():
        atoms.rattle(0.0)
        atoms.calc = NDDO("AM1")
        assert abs(atoms.get_forces() - expected).max() < 1e-9
        assert atoms.calc.get_hessian().shape == (9, 9)
        inside = energy_and_forces(OMEGA_B97X_D3BJ, molecule("water"))
    assert all(torch.equal(a, b) for a, b in zip(inside, energy_and_forces(OMEGA_B97X_D3BJ, molecule("water")), strict=True))


def test_a_network_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        network = shaken({})
    with pytest.raises(UnknownOption, match="inference_mode"):
        Hamiltonian("AM1", network=network)


def test_caches_of_tensors_are_made_outside_of_inference_mode():
    """Functions that make tensors are kept by struct.cached, never by functools.cache."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                kept = any(ast.unparse(d) in ("cache", "functools.cache", "lru_cache") for d in node.decorator_list)
                makes_class = any(isinstance(inner, ast.ClassDef) for inner in ast.walk(node))
                if kept and not makes_class and re.search(r"\btorch\.|Tensor|tensor_map", ast.unparse(node)):
                    found.append(f"{path.name}: {node.name}")
    assert not found, found


# --- edits of parameters

def test_every_edit_of_a_parameter_is_seen():
    """By .data, through numpy, in place under no_grad and back: never a value of before."""
    model, here = Hamiltonian("AM1"), batch(("water", "formate"))
    first = model(here).energy
    model.U_pp.data[row(model, 8)] += 0.5
    second = model(here).energy
    assert (second - first).abs().min() > 0.1
    fresh = Hamiltonian("AM1")
    with torch.no_grad():
        fresh.U_pp[row(fresh, 8)] += 0.5
    assert torch.equal(fresh(here).energy, second)
    model.U_pp.data.numpy()[row(model, 8)] = float(method("AM1").parameters.U_pp[row(model, 8)])
    assert torch.equal(model(here).energy, first)
    model.alpha.data = model.alpha.data * 1.01
    assert (model(here).energy - first).abs().min() > 1e-3
    pairs = Hamiltonian("PM6")
    before = pairs(here).energy
    pairs.x_AB.data.mul_(1.1)
    assert (pairs(here).energy - before).abs().min() > 1e-3


def test_functional_call():
    """With parameters of its own, on the tape or not; the module stays what it was."""
    model, here = Hamiltonian("AM1"), batch(("water", "formate"))
    before = model(here).energy
    given = {name: p.detach().clone() for name, p in model.named_parameters()}
    given["U_pp"] = (given["U_pp"] + 0.5 * (given["U_pp"] != 0)).requires_grad_()
    energy = torch.func.functional_call(model, given, (here,)).energy
    slope, = torch.autograd.grad(energy.sum(), given["U_pp"])
    assert torch.equal(model(here).energy, before)
    other = Hamiltonian("AM1")
    other.U_pp.data.copy_(given["U_pp"].detach())
    other.requires_grad_(True)
    result = other(here)
    assert torch.equal(result.energy, energy)
    assert torch.equal(torch.autograd.grad(result.energy.sum(), other.U_pp)[0], slope)


# --- threads

THREADED = ("H2O", "NH3", "CH4", "HF")


@pytest.mark.parametrize("name", ["AM1", "PM6-D3H4X"])
def test_one_calculator_in_four_threads(name):
    """Each thread gets the energy and forces of its own molecule, every time."""
    atoms = [ase_molecule(m) for m in THREADED]
    alone = []
    for a in atoms:
        a.calc = NDDO(name)
        alone.append((a.get_potential_energy(), a.get_forces(), a.get_charges()))
    shared = NDDO(name)

    def work(k):
        a = atoms[k].copy()
        a.calc = shared
        return [(a.get_potential_energy(), a.get_forces(), a.get_charges()) for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    for (energy, forces, charges), mine in zip(alone, found, strict=True):
        for e, f, q in mine:
            assert abs(e - energy) < 1e-6 and abs(f - forces).max() < 1e-5 and abs(q - charges).max() < 1e-5


def test_one_hamiltonian_in_four_threads():
    """More molecules than topologies are remembered, so that all threads write into what is kept."""
    model, names = Hamiltonian("PM6"), ["water", "thiol", "formate", "hydroxymethyl", "ammonium"]
    alone = [float(model(molecule(n)).energy) for n in names]
    model.remembered = 2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: float(model(molecule(names[k % 5])).energy), range(20)))
    assert all(abs(e - alone[k % 5]) < 1e-9 for k, e in enumerate(found))


def test_what_has_a_lock_can_be_copied():
    model = Hamiltonian("AM1")
    energy = float(model(molecule("water")).energy)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(NDDO(model)).model):
        assert float(again(molecule("water")).energy) == energy


# --- transforms and conversions

def transforms(model, here):
    x = here.positions

    def energy(x):
        return model(here.with_positions(x), order=2).energy.sum()

    def of_parameters(p):
        return torch.func.functional_call(model, p, (here,)).energy.sum()

    def dual():
        with forward_ad.dual_level():
            return energy(forward_ad.make_dual(x, torch.ones_like(x)))

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    return {"grad": lambda: torch.func.grad(energy)(x), "jacrev": lambda: torch.func.jacrev(energy)(x),
            "hessian": lambda: torch.func.hessian(energy)(x), "jvp": lambda: torch.func.jvp(energy, (x,), (x,)),
            "vmap": lambda: torch.func.vmap(energy)(torch.stack((x, x))), "dual": dual,
            "grad by parameters": lambda: torch.func.grad(of_parameters)(parameters)}


@pytest.mark.parametrize("name", ["grad", "jacrev", "hessian", "jvp", "vmap", "dual", "grad by parameters"])
def test_transforms_are_refused_by_name(name):
    model, here = Hamiltonian("AM1"), molecule("water")
    with pytest.raises(UnknownOption, match=r"torch\.autograd\.grad"):
        transforms(model, here)[name]()
    assert torch.isfinite(model(here).energy).all()


@pytest.mark.parametrize("convert", [
    lambda m: m.float(), lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to(torch.float32),
    lambda m: m.to(torch.float16), lambda m: m.type(torch.float32), lambda m: m.to("meta"),
    lambda m: torch.nn.Sequential(m).float()])
def test_conversions_that_lose_precision_are_refused(convert):
    model = Hamiltonian("AM1", network=shaken({}))
    with pytest.raises(UnknownOption, match=r"torch\.float64|meta"):
        convert(model)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert torch.isfinite(model.double().to("cpu")(molecule("water")).energy).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("convert", [lambda m: m.cuda(), lambda m: m.to("cuda"), lambda m: m.to("cuda:1"),
                                     lambda m: m.to(torch.device("cuda"), torch.float64)])
def test_devices_that_do_not_exist_are_refused(convert):
    with pytest.raises(UnknownOption, match="AM1 cannot be moved"):
        convert(Hamiltonian("AM1"))


# --- parameters that cannot be used

BAD = [("AM1", "U_pp", float("nan"), "U_pp of C"), ("AM1", "zeta_p", -1.8, "zeta_p of C"),
       ("PM3", "zeta_s", 0.0, "zeta_s of C"), ("PM6", "beta_s", float("inf"), "beta_s of C"),
       ("PM6", "g_ss", -3.0, "g_ss of C"), ("MNDO/d", "h_sp", 1e9, "h_sp of C"),
       ("PM7", "alpha_AB", float("nan"), "alpha_AB of C-H"), ("PM6", "x_AB", -float("inf"), "x_AB of C-H"),
       ("AM1", "L", float("nan"), "L1 of C"), ("RM1", "K", float("nan"), "K1 of C")]


def spoil(model, name, value):
    """Put the value where carbon has that parameter."""
    carbon = row(model, 6)
    place = int(model.method.pairs.index[carbon, row(model, 1)]) if name.endswith("_AB") else carbon
    with torch.no_grad():
        getattr(model, name)[place] = value


@pytest.mark.parametrize(("parent", "name", "value", "said"), BAD)
def test_a_bad_parameter_stays_with_its_molecule(parent, name, value, said):
    """NaN and named, alone and in a batch; the others to the last bit, their gradients too; put right, all is as before."""
    model, here = Hamiltonian(parent), mixed()
    before = model(here)
    with compiling.off():       # to the last bit where the same hands calculate both; kernels never see a bad parameter
        good = model(here, forces=True)
    spoil(model, name, value)
    with compiling.off(), pytest.warns(RuntimeWarning, match=said):
        found = model(here, forces=True)
    others = torch.tensor([True, False, True])
    with pytest.warns(RuntimeWarning, match=said):
        again = model(here)
    assert torch.allclose(again.energy[others], before.energy[others], rtol=0, atol=1e-9) and torch.isnan(again.energy[1])
    assert torch.equal(found.converged, others) and torch.isnan(found.energy[1]) and said in found.route[1]
    assert torch.equal(found.energy[others], good.energy[others])
    atoms = others[here.molecule]
    assert torch.equal(found.forces[atoms], good.forces[atoms]) and torch.isnan(found.forces[~atoms]).all()
    assert all(torch.isnan(getattr(found, q)[1]).all() for q in ("dipole", "heat_of_formation", "s2"))
    assert all(torch.isnan(part[1]) for part in found.energies.values())
    with pytest.raises(InvalidParameter, match=said):
        model(Molecules.single(*methane()))
    with pytest.raises(InvalidParameter, match=r"1 of 3 molecules \(molecule 1: "):
        model(here, raise_unconverged=True)
    with torch.no_grad():
        getattr(model, name).copy_(model.method.columns[name])
    assert torch.equal(model(here).energy, before.energy)


@pytest.mark.parametrize(("name", "value"), [("U_pp", float("nan")), ("zeta_p", -1.0), ("alpha_AB", float("nan"))])
def test_a_bad_parameter_leaves_the_gradients_of_others(name, value):
    """Of a loss on forces, as a training has: finite, and what the batch without that molecule gives."""
    def gradients(model, here):
        found = model.requires_grad_(True)(here, forces=True, order=2, tolerance=1e-9)
        kept = found.converged[here.molecule]
        return torch.autograd.grad(found.forces[kept].square().sum() + found.energy[found.converged].sum(),
                                   (model.U_pp, model.zeta_s, model.alpha_AB))

    expected = gradients(Hamiltonian("PM6"), mixed().select([0, 2]))
    model = Hamiltonian("PM6")
    spoil(model, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for found, right in zip(gradients(model, mixed()), expected, strict=True):
            close(found, right, 1e-8)


@pytest.mark.parametrize("value", [float("nan"), 1e300])
def test_bad_weights_of_one_element_stay_with_its_molecules(value):
    network = shaken({})
    model, here = Hamiltonian("PM6-smooth", network=network), mixed()
    good = model(here).energy
    network.features.element.weight.data[network.species.index(6)] = value
    with pytest.warns(RuntimeWarning, match="the network's shifts"):
        found = model(here)
    assert torch.isnan(found.energy[1]) and "shifts" in found.route[1]
    assert (found.energy - good)[[0, 2]].abs().max() < 1e-9


class Overflowing(torch.nn.Module):
    """Shifts that overflow for short distances: what a network without bounds can do."""

    def __init__(self):
        super().__init__()
        self.inner, self.strength = shaken({}), torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.config, self.species = self.inner.config, self.inner.species

    def forward(self, numbers, i, j, R, u):
        found = self.inner(numbers, i, j, R, u)
        near = R.index_select(0, found.pairs)
        growth = (self.strength * torch.exp(8000 * (1.05 - near))).clamp_min(1.0)[:, None]
        return type(found)(**{**vars(found), "resonance": found.resonance * growth})


def test_an_overflow_leaves_the_gradients_of_the_weights():
    """The member that overflows (its distances are short) is masked; the gradient by the weights stays finite, and right."""
    model = Hamiltonian("AM1-smooth", network=Overflowing().requires_grad_(True))
    good = Molecules.single([8, 1, 1], [[0, 0, 0], [1.1, 0, 0], [-.3, 1.06, 0]])
    here = Molecules.batch([[8, 1, 1]] * 2, [good.positions, 0.85 * good.positions])
    with pytest.warns(RuntimeWarning, match="resonance"):
        found = model(here, forces=True, order=2, tolerance=1e-9)
    assert found.converged.tolist() == [True, False]
    parameters = [p for p in model.network.inner.parameters() if p.requires_grad]
    mine = torch.autograd.grad(found.energy[0], parameters, allow_unused=True)
    alone = torch.autograd.grad(model(good, order=2, tolerance=1e-9).energy.sum(), parameters, allow_unused=True)
    assert sum(float(g.abs().sum()) for g in alone if g is not None) > 0
    for a, b in zip(mine, alone, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a - b).abs().max() < 1e-7


def test_a_method_with_a_bad_parameter_of_its_own():
    model = Hamiltonian(method("AM1").changed("mine", {"zeta_p": {"C": -1.0}, "U_ss": {"C": float("nan")}}))
    with compiling.off(), pytest.warns(RuntimeWarning, match="mine cannot calculate 1 of 3 molecules"):
        found = model(mixed())
    assert "zeta_p of C is -1" in found.route[1] and "U_ss of C is nan" in found.route[1]
    with compiling.off():
        good = Hamiltonian("AM1")(mixed())
    assert torch.equal(found.energy[[0, 2]], good.energy[[0, 2]])


def test_offsets_that_are_not_numbers_are_named():
    model = Hamiltonian("AM1")
    model.atom_offsets[row(model, 6)] = torch.nan
    with pytest.warns(RuntimeWarning, match="not finite: the energy's part atoms"):
        found = model(mixed())
    assert found.converged.tolist() == [True, False, True]


# --- methods and files

def test_a_method_of_ones_own(tmp_path):
    """Its name and citation wherever a method has them, its parameters in a file; the parent's corrections go on."""
    mine = method("AM1").changed("AM1-mine", {"U_pp": {"C": -38.7}, "alpha": {"C": 2.6, "H": 2.9}}, "this work")
    here = molecule("formamide water")
    by_hand = Hamiltonian("AM1")
    with torch.no_grad():
        by_hand.U_pp[row(by_hand, 6)] = -38.7
        by_hand.alpha[row(by_hand, 6)], by_hand.alpha[row(by_hand, 1)] = 2.6, 2.9
    expected = by_hand(here)
    found = Hamiltonian(mine)(here)
    assert found.method == "AM1-mine" and torch.equal(found.energy, expected.energy)
    assert torch.equal(found.heat_of_formation, expected.heat_of_formation) and "peptide" in found.energies
    assert mine.citation.startswith("this work; parent M.J.S. Dewar")
    assert float(method("AM1").parameters.U_pp[row(by_hand, 6)]) != -38.7, "the published table is shared"
    path = str(tmp_path / "am1-mine.safetensors")
    weights.save(Hamiltonian(mine), path)
    again = Hamiltonian(path)
    result = again(here)
    assert result.method == "AM1-mine" == method(path).name and again.method.citation == mine.citation
    assert torch.equal(result.energy, expected.energy) and torch.equal(result.heat_of_formation, expected.heat_of_formation)
    atoms = ase_molecule("CH3OH")
    atoms.calc = NDDO(mine)
    energy = atoms.get_potential_energy()
    other = atoms.copy()
    other.calc = NDDO(method("AM1").changed("AM1-mine", {"U_pp": {"C": -39.7}}))       # of the same name, but another method
    assert abs(other.get_potential_energy() - energy) > 0.1
    atoms.calc = NDDO(path)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    weights.save(again, str(tmp_path / "again.safetensors"), name="another")
    assert Hamiltonian(str(tmp_path / "again.safetensors")).method.name == "another"


def test_methods_of_ones_own_of_other_kinds(tmp_path):
    """Pairs, Gaussians, corrections with dispersion, smooth parents beneath a network; a change of a change."""
    pm6 = method("PM6-D3H4").changed("mine", {"x_AB": {("C", "H"): 0.3}}).changed("mine-2", {"K": {"C": [0.01, 0, 0, 0]}})
    assert "dispersion" in Hamiltonian(pm6)(molecule("formate")).energies
    assert float(pm6.pairs.x[pm6.pairs.index[row(Hamiltonian(pm6), 6), row(Hamiltonian(pm6), 1)]]) == 0.3
    base = smooth(method("PM6").changed("mine", {"U_ss": {"C": -51.5}}))
    model = Hamiltonian(base, network=shaken({}), dispersion=OMEGA_B97X_D3BJ)
    weights.save(model, tmp_path / "both.safetensors")
    again = Hamiltonian(str(tmp_path / "both.safetensors"))
    assert again.method.name == "mine-smooth" and again.method.published.name == "PM6-smooth"
    assert float(again.U_ss[row(again, 6)]) == -51.5
    assert torch.equal(again(molecule("formate")).energy, model(molecule("formate")).energy)
    for wrong, message in (({"U_pq": {"C": 1.0}}, "did you mean U_p"), ({"x_AB": {"C": 1.0}}, "pairs"),
                           ({"K": {"C": 1.0}}, "takes 4 numbers"), ({"U_ss": {("C", "H"): 1.0}}, "elements"),
                           ({"U_ss": {"C": None}}, "takes 1"), ({"U_ss": {"C": "x"}}, "takes 1")):
        with pytest.raises(UnknownOption, match=message):
            method("PM6").changed("x", wrong)
    with pytest.raises(MissingParameter):
        method("RM1").changed("x", {"U_ss": {"Fe": 1.0}})
    with pytest.raises(UnknownOption, match="learned method"):
        again.method.changed("x", {})


def test_the_page_runs(tmp_path, monkeypatch):
    """The code of docs/howto/parameters.md, and its command."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        exec(compile(block, "parameters.md", "exec"), names)
    assert names["result"].method == "AM1-mine"
    ase_molecule("CH3OH").write("methanol.xyz")
    found = CliRunner().invoke(app, ["run", "methanol.xyz", "--method", "am1-mine.safetensors"])
    assert found.exit_code == 0 and "AM1-mine" in found.output, found.output


def test_tables_with_offsets(tmp_path):
    """They are on the zero of their reference: offsets add up, free atoms count, no heat of formation."""
    model = Hamiltonian("PM3")
    model.U_ss.data[row(model, 8)] -= 0.1
    model.atom_offsets[[row(model, 1), row(model, 8)]] = torch.tensor([-2.5, -1600.0], dtype=torch.float64)
    model.atom_energies[[row(model, 1), row(model, 8)]] = torch.tensor([-13.6, -2040.0], dtype=torch.float64)
    bare = Hamiltonian("PM3")
    bare.U_ss.data[row(model, 8)] -= 0.1
    weights.save(model, tmp_path / "t.safetensors", origin=weights.Origin(level="a level", data="0"))
    again, here = Hamiltonian(str(tmp_path / "t.safetensors")), molecule("water")
    found = again(here)
    assert float(found.energy) == pytest.approx(float(bare(here).energy) - 1605.0, abs=1e-9)
    assert float(found.atomization_energy) == pytest.approx(-2067.2 - float(found.energy), abs=1e-9)
    assert torch.isnan(found.heat_of_formation).all() and again.method.card.elements == (1, 8)
    with pytest.raises(MissingParameter, match="knows nothing of C"):
        again(molecule("formate"))


def test_a_file_with_a_network_of_the_users(tmp_path):
    """It takes the file's weights, with offsets, tables and dispersion; another kind is refused and keeps its own."""
    model = Hamiltonian("PM6-smooth", network=shaken({}), dispersion=OMEGA_B97X_D3BJ)
    model.atom_offsets[row(model, 8)] = -1700.0
    model.U_ss.data += 0.1
    path = str(tmp_path / "mine.safetensors")
    weights.save(model, path)
    expected, network = model(molecule("water")).energy, shaken({}, seed=3)
    for given in (path, method(path)):
        found = Hamiltonian(given, network=network)
        assert found.network is network and torch.equal(found(molecule("water")).energy, expected)
    other = shaken({"channels": 16})
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(IncompatibleFile, match="The network given does not fit"):
        Hamiltonian(path, network=other)
    with pytest.raises(IncompatibleFile, match="no such tensor in it"):
        Hamiltonian(path, network=shaken({"heads": ["atom"]}))
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    weights.save(Hamiltonian(method("AM1").changed("mine", {"U_pp": {"C": -38.7}})), tmp_path / "tables.safetensors")
    with pytest.raises(IncompatibleFile, match="no such tensor there"):
        Hamiltonian(str(tmp_path / "tables.safetensors"), network=other)
    with pytest.raises(UnknownOption, match="load=False"):
        Hamiltonian(path, dispersion=type(OMEGA_B97X_D3BJ)(**{**vars(OMEGA_B97X_D3BJ), "s8": 0.0}))
    assert Hamiltonian(path, dispersion=OMEGA_B97X_D3BJ).dispersion == OMEGA_B97X_D3BJ


# --- losses on second derivatives

@pytest.mark.parametrize(("what", "name", "which"), [
    ("hessian", "AM1", "water"), ("hessian", "PM6", "oxygen"), ("polarizability", "PM6", "hydroxymethyl")])
def test_second_derivatives_on_the_tape(what, name, which):
    """Their gradients by positions and by a parameter, against differences of what is off the tape."""
    model, here = Hamiltonian(name), molecule(which)

    def loss(molecules, **options):
        if what == "hessian":
            found = hessian(model, molecules, tolerance=1e-10, **options)[0]
        else:
            found = polarizability(model, molecules, tolerance=1e-10, **options)
        return (found * random_weights(found.detach(), 5)).sum()

    x, v, z = here.positions.clone().requires_grad_(), random_weights(here.positions, 6), row(model, int(here.numbers[0]))
    model.zeta_p.requires_grad_(True)
    by_x, by_zeta = torch.autograd.grad(loss(here.with_positions(x), differentiable=True), (x, model.zeta_p))
    assert not loss(here).requires_grad
    model.zeta_p.requires_grad_(False)
    close((by_x * v).sum(), extrapolated(lambda s: loss(here.with_positions(here.positions + s * v)), 2e-3), 1e-5)

    def changed(s):
        model.zeta_p[z] += s
        found = loss(here)
        model.zeta_p[z] -= s
        return found

    close(by_zeta[z], extrapolated(changed, 2e-3), 1e-5)


def test_second_derivatives_of_a_batch_on_the_tape():
    """Blocks of a ragged batch are those of its members, and so are their gradients."""
    model, names = Hamiltonian("AM1"), ("water", "oxygen")
    x = batch(names).positions.clone().requires_grad_()
    together = hessian(model, batch(names).with_positions(x), differentiable=True, tolerance=1e-10)
    slope, = torch.autograd.grad(sum(h.square().sum() for h in together), x)
    parts = []
    for k, name in enumerate(names):
        y = molecule(name).positions.requires_grad_()
        alone, = hessian(model, molecule(name).with_positions(y), differentiable=True, tolerance=1e-10)
        close(together[k].detach(), alone.detach(), 1e-8)
        parts.append(torch.autograd.grad(alone.square().sum(), y)[0])
    close(slope, torch.cat(parts), 1e-6)
    assert len(MOLECULES["water"][0]) * 3 == len(together[0])


def test_polarizability_is_a_volume():
    """From the dipole in a field: e angstrom per V/angstrom times 14.39964 is angstrom^3."""
    model, here = Hamiltonian("PM6"), molecule("thiol")

    def dipole(s):
        field = torch.tensor([[0.0, 0.0, s]], dtype=torch.float64)
        return model(here, field=field, tolerance=1e-10).dipole[0]

    close(polarizability(model, here)[0, 2], extrapolated(dipole, 1e-2) * 14.399645, 1e-6)
