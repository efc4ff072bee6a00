"""Files of trained weights: what goes in comes out, and nothing else is let in."""

import json

import pytest
import torch
from ase.build import molecule as ase_molecule
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.networks import shaken
from support.physics_models import MOLECULES, molecule

from nddo_ml import NDDO, Hamiltonian
from nddo_ml.errors import IncompatibleFile, MissingParameter, UnknownOption
from nddo_ml.hamiltonian import weights
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.methods import learned


@pytest.fixture
def trained(tmp_path):
    """A Hamiltonian that has learned something, and its file."""
    H = Hamiltonian("PM6-smooth", network=shaken({}), dispersion=OMEGA_B97X_D3BJ)
    H.atom_offsets[H.method.rows(torch.tensor([1, 8]))] = torch.tensor([-2.5, -1600.0], dtype=torch.float64)
    H.atom_energies[H.method.rows(torch.tensor([1, 8]))] = torch.tensor([-13.6, -2040.0], dtype=torch.float64)
    with torch.no_grad():
        H.U_ss += 0.1
    path = tmp_path / "mine.safetensors"
    weights.save(H, path, "mine-1", weights.Origin("a level", "0123", notes="of a test"))
    return H, path


def test_round_trip(trained):
    H, path = trained
    again = Hamiltonian(str(path))
    for name in MOLECULES:
        a, b = H(molecule(name), forces=True), again(molecule(name), forces=True)
        assert float(a.energy) == float(b.energy)
        assert torch.equal(a.forces, b.forces)
    water = again(molecule("water"))
    assert float(water.atomization_energy) == pytest.approx(-2 * 13.6 - 2040.0 - float(water.energy), abs=1e-9)
    assert torch.isnan(again(molecule("formate")).atomization_energy).all()      # no energy of the free carbon atom
    assert torch.isnan(water.heat_of_formation).all()
    assert again.method.name == "mine-1" and again.method.key == str(path)
    assert not any(p.requires_grad for p in again.parameters())


def test_another_network_is_left_alone(trained):
    """A network in training keeps its weights when it is put on the method it started from."""
    path = str(trained[1])
    method, network = Hamiltonian(path).method, shaken({}, seed=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    other = Hamiltonian(method, network=network, load=False)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert float(other(molecule("water")).energy) != float(Hamiltonian(path)(molecule("water")).energy)


def test_metadata_can_be_read(trained):
    with safe_open(trained[1], "np") as archive:
        said = archive.metadata()
    assert said["parent"] == "PM6-smooth" and said["level"] == "a level" and said["elements"] == "H C N O F P S Cl"
    assert json.loads(said["network"])["features"] == "message passing"
    assert json.loads(said["dispersion"])["a2"] == OMEGA_B97X_D3BJ.a2


def test_calculator_takes_a_file(trained):
    atoms = ase_molecule("H2O")
    atoms.calc = NDDO(str(trained[1]))
    assert atoms.get_potential_energy() == pytest.approx(float(atoms.calc.result.energy), abs=1e-12)
    atoms.calc.set(method=str(trained[1]))
    assert atoms.get_forces().shape == (3, 3)
    silane = ase_molecule("SiH4")
    silane.calc = NDDO(str(trained[1]))
    with pytest.raises(MissingParameter, match="mine-1 was trained on H C N O F P S Cl and knows nothing of Si"):
        silane.get_potential_energy()


def test_foreign_files_are_refused_by_name(trained, tmp_path):
    path = trained[1]
    with pytest.raises(IncompatibleFile, match="no file"):
        Hamiltonian(str(tmp_path / "none.safetensors"))
    (tmp_path / "text.safetensors").write_text("not tensors at all")
    with pytest.raises(IncompatibleFile, match=r"text\.safetensors is not a safetensors file"):
        Hamiltonian(str(tmp_path / "text.safetensors"))
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(IncompatibleFile, match=r"other.safetensors holds other tensors \(no format"):
        Hamiltonian(str(tmp_path / "other.safetensors"))
    tensors = load_file(path)
    with safe_open(path, "np") as archive:
        said = archive.metadata()
    save_file(tensors, tmp_path / "bare.safetensors", {k: v for k, v in said.items() if k != "level"})
    with pytest.raises(IncompatibleFile, match="lacks level"):
        Hamiltonian(str(tmp_path / "bare.safetensors"))
    save_file(dict(list(tensors.items())[3:]), tmp_path / "cut.safetensors", said)
    with pytest.raises(IncompatibleFile, match="do not fit"):
        Hamiltonian(str(tmp_path / "cut.safetensors"))
    later = said | {"network": json.dumps({**json.loads(said["network"]), "attention": 4})}
    save_file(tensors, tmp_path / "later.safetensors", later)
    with pytest.raises(IncompatibleFile, match="attention"):
        Hamiltonian(str(tmp_path / "later.safetensors"))


def test_nothing_learned_is_not_saved(tmp_path):
    with pytest.raises(UnknownOption, match="no network"):
        weights.save(Hamiltonian("PM6"), tmp_path / "x.safetensors", "x", weights.Origin("level", "hash"))
    with pytest.raises(UnknownOption, match=r"\.safetensors"):
        weights.save(Hamiltonian("PM6", network=shaken({})), tmp_path / "x.pt", "x", weights.Origin("level", "hash"))
    assert not list(tmp_path.iterdir())


def test_shipped_files_have_cards():
    for name, card in learned.shipped().items():
        assert card.name.lower() == name or name == learned.NEWEST
        assert card.level and card.data and card.elements
