"""A stream of structures: what each gives alone, in the order of the input, in bounded memory, whatever is wrong with some."""

import gc
import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from nddo_ml import Hamiltonian, InvalidMolecule, MissingParameter, Molecules, SCFNotConverged
from nddo_ml.interfaces.stream import StreamRecord, stream

NAMES = ("CH3CH2OH", "H2O", "C6H6", "CH3", "CO", "NH3", "O2", "CH4")


def structures(count, seed=0):
    """Molecules and radicals of 2 to 12 atoms, shaken a little."""
    generator = np.random.default_rng(seed)
    for k in range(count):
        atoms = molecule(NAMES[k % len(NAMES)])
        atoms.positions += generator.normal(scale=0.02, size=atoms.positions.shape)
        yield atoms


@pytest.fixture(scope="module")
def AM1():
    return Hamiltonian("AM1")


@pytest.mark.parametrize("batch_atoms", [1, 25, 2000])
def test_equals_one_by_one(AM1, batch_atoms):
    """Any budget gives the results of single molecules, in the order they came in."""
    given = list(structures(17))
    found = list(stream(AM1, given, batch_atoms=batch_atoms, forces=True, tolerance=1e-10))
    assert [k for k, _ in found] == list(range(17))
    for atoms, (_, record) in zip(given, found, strict=True):
        spin = int(abs(atoms.get_initial_magnetic_moments().sum())) + 1
        alone = AM1(Molecules.single(atoms.numbers, atoms.positions, 0, spin), forces=True, tolerance=1e-10)
        assert record.error is None and record.converged
        assert abs(record.energy - float(alone.energy)) < 1e-10
        assert abs(record.heat_of_formation - float(alone.heat_of_formation)) < 1e-8
        assert abs(sum(record.energies.values()) - record.energy) < 1e-9
        for name in ("forces", "charges", "spin_populations"):
            assert np.abs(getattr(record, name) - getattr(alone, name).detach().numpy()).max() < 1e-8
        assert np.abs(record.dipole - alone.dipole[0].detach().numpy()).max() < 1e-8 and abs(record.s2 - float(alone.s2)) < 1e-8
        assert record.iterations > 1 and record.residual < 1e-10 and "DIIS" in record.route


def test_forces_only_when_asked_for(AM1):
    (_, record), = stream(AM1, [molecule("H2O")])
    assert record.forces is None and record.charges.shape == (3,)


def test_a_bad_structure_fails_alone(AM1):
    """Every kind of fault is an error in its own record; the neighbours' numbers do not change."""
    good = list(structures(6, seed=3))
    clean = [r.energy for _, r in stream(AM1, good)]
    coinciding = Atoms("H2", positions=np.zeros((2, 3)))
    nan = Atoms("H2", positions=[[0, 0, 0], [0, 0, np.nan]])
    doublet, periodic = molecule("H2O"), molecule("H2O", vacuum=3.0, pbc=True)
    doublet.info["multiplicity"] = 2
    bad = {1: (coinciding, InvalidMolecule), 3: (Atoms("Fe"), MissingParameter), 4: (nan, InvalidMolecule),
           6: (Atoms(), InvalidMolecule), 7: (doublet, InvalidMolecule), 8: (periodic, InvalidMolecule),
           11: ("not a structure", InvalidMolecule), 12: (None, InvalidMolecule)}
    rest = iter(good)
    mixed = [bad[k][0] if k in bad else next(rest) for k in range(len(good) + len(bad))]
    found = dict(stream(AM1, mixed, forces=True))
    assert sorted(found) == list(range(len(mixed)))
    for k, (_, error) in bad.items():
        assert type(found[k].error) is error and not found[k].converged, k
        assert np.isnan(found[k].energy) and found[k].forces is None
    energies = [found[k].energy for k in sorted(set(found) - set(bad))]
    assert np.abs(np.array(energies) - clean).max() < 1e-9


def test_unconverged_members_are_nan(AM1):
    """A step limit that some cannot meet: flagged with their residual, the others as without the limit."""
    given = [molecule("H2O"), Atoms("He"), molecule("CH3CH2OH"), molecule("H2")]
    found = [r for _, r in stream(AM1, given, max_steps=2, forces=True)]
    assert [r.converged for r in found] == [False, True, False, True]
    for record in found:
        if not record.converged:
            assert isinstance(record.error, SCFNotConverged) and "max_steps" in str(record.error)
            assert np.isnan(record.energy) and record.residual > 1e-3 and record.forces is None
    free = [r.energy for _, r in stream(AM1, given)]
    assert abs(found[1].energy - free[1]) < 1e-9 and abs(found[3].energy - free[3]) < 1e-9


def test_charges_and_spins_from_info():
    """As the calculator reads them; Molecules say it themselves, and a batch counts as its members."""
    model = Hamiltonian("PM6")
    ammonium, oxide = molecule("CH4"), Atoms("O2", positions=[[0, 0, 0], [0, 0, 1.2]], info={"charge": -1})
    ammonium.numbers[0] = 7
    ammonium.info["charge"] = 1
    batch = Molecules.batch([[1], [1, 1]], [[[0, 0, 0]], [[0, 0, 0], [0, 0, 1.0]]], [0, 1], [2, 2])
    records = [r for _, r in stream(model, [ammonium, oxide, batch, Atoms("N", magmoms=[3])])]
    assert [round(float(r.charges.sum()), 6) for r in records] == [1, -1, 0, 1, 0]
    assert [round(float(r.spin_populations.sum()), 6) for r in records] == [0, 1, 1, 1, 3]
    assert all(r.error is None for r in records)


def test_reads_as_it_goes(AM1):
    """An endless input is no obstacle, and little of it is read ahead."""
    read = []

    def endless():
        for atoms in itertools.cycle([molecule("H2O")]):
            read.append(1)
            yield atoms

    first = list(itertools.islice(stream(AM1, endless(), batch_atoms=9), 5))
    assert [k for k, _ in first] == list(range(5))
    assert len(read) <= 30
    assert list(stream(AM1, [])) == []


def test_progress(AM1):
    """Called after each batch with what is done and what failed."""
    steps = []
    given = [*structures(12), Atoms("Fe")]
    list(stream(AM1, given, batch_atoms=20, progress=lambda done, failed: steps.append((done, failed))))
    assert steps[-1] == (13, 1) and len(steps) > 3
    assert all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(steps))


@pytest.mark.parametrize("options", [{"batch_atoms": 0}, {"batch_memory": 0.0}, {"batch_memory": float("nan")}])
def test_budgets_must_be_positive(AM1, options):
    with pytest.raises(InvalidMolecule, match="positive"):
        next(stream(AM1, [molecule("H2O")], **options))


def test_a_molecule_above_the_budget_goes_alone(AM1):
    """A tiny budget of memory still calculates everything."""
    records = [r for _, r in stream(AM1, structures(5), batch_memory=1.0)]
    assert len(records) == 5 and all(r.converged for r in records)


def test_options_that_do_not_exist_are_raised(AM1):
    """A mistake in the call concerns all structures: it is raised, not recorded."""
    with pytest.raises(TypeError):
        list(stream(AM1, [molecule("H2O")], temperature=300))


def test_memory_stays_flat(AM1):
    """Python's objects and torch's tensors: no growth from the first third of a stream to the last."""
    def held():
        gc.collect()
        tensors = sum(t.numel() * t.element_size() for t in gc.get_objects() if type(t) is torch.Tensor)
        return tensors + tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        marks = []
        for k, record in stream(AM1, structures(600), batch_atoms=120, forces=True):
            assert record.converged
            if k in (300, 599):
                marks.append(held())
    finally:
        tracemalloc.stop()
    assert marks[1] < 1.15 * marks[0] + 2e5, marks


def test_records_are_plain_and_small(AM1):
    (_, record), = stream(AM1, [molecule("H2O")], forces=True)
    assert isinstance(record, StreamRecord) and isinstance(record.energy, float) and isinstance(record.iterations, int)
    for name in ("forces", "charges", "dipole", "spin_populations"):
        array = getattr(record, name)
        assert isinstance(array, np.ndarray) and array.base is None      # no view that keeps a whole batch alive
