"""Running the engine on stored records of MOPAC: batches by method and spin treatment, results in the units of the records."""

import json
from dataclasses import replace

import numpy as np
import torch
from support import reference_series
from support.reference import DATA, KCAL, Computed, group

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.elements import dipole_masses, number, symbol
from nddo_ml.integrals.corrections import Composition, corrections, terms
from nddo_ml.methods import method as find_method

OMITTED = ("nonplanar_nitrogen",)               # MOPAC adds the energy, not the gradient
SCALED = {"PM6-D3": ("dispersion_d3", "hydrogen_bond_d3"), "PM6-D3H4": ("dispersion_d3",)}   # gradient times 2 bohr/angstrom


MASSES = json.loads((DATA / "mopac_masses.json").read_text())      # amu, MOPAC 22: they set the origin of an ion's dipole


def species(record):
    """Species numbers of the package: a record of a sparkle or pseudo-atom gives symbols."""
    if record.get("kind") == "sparkle":
        return [number(f"{s}:sparkle" if s in ("La", "Eu", "Gd", "Tb", "Lu") else s) for s in record["symbols"]]
    if record.get("kind") in ("pseudo", "theory"):
        return [number(s) for s in record["symbols"]]
    return record["numbers"]


def evaluate(records, chunk=256, **options):
    """Computed of every record, None where the SCF failed; records of equal method and spin treatment share batches.

    `mopac_gradient` is the gradient put together as MOPAC does: without the non-planar nitrogen, D3 times 2 bohr/angstrom.
    """
    found = [None] * len(records)
    tasks = {}
    for k, record in enumerate(records):
        tasks.setdefault((record["method"], "NOMM" in record["keywords"], *treatment(record).items()), []).append(k)
    for members in tasks.values():
        members = sorted(members, key=lambda k: len(records[k]["numbers"]))
        for at in range(0, len(members), chunk):
            part = members[at:at + chunk]
            values = run([records[k] for k in part], **options)
            for k, value in zip(part, values, strict=True):
                found[k] = value
    return found


def treatment(record):
    """Options of the model for a record: restricted or not, and the lowest state where bonds are broken or metals bare."""
    return {"unrestricted": record["scf"] == "UHF", "stability": group(record)[:2] in ("05", "th"),
            "biradical": record["scf"] == "half-electron"}


def batch(records):
    """Records as molecules."""
    return Molecules.batch([species(r) for r in records], [r["coordinates_angstrom"] for r in records],
                           [r["charge"] for r in records], [r["multiplicity"] for r in records])


def other_states(record, starts=24, seed=0):
    """Computed of a record from densities turned away by random rotations, wide and narrow: several minima of an SCF may lie
    within a few meV, and which of them is found first depends on the last digits of the processor.
    """
    molecules, generator = batch([record]), torch.Generator().manual_seed(seed)
    first = Hamiltonian(record["method"])(molecules, raise_unconverged=False, **treatment(record) | {"stability": False})
    state, orbitals = first.states[0], first.states[0].orbitals
    for k in range(starts):
        A = torch.randn(orbitals.C.shape, dtype=torch.float64, generator=generator) * (0.1, 0.3, 1.0)[k % 3]
        C = orbitals.C @ torch.linalg.matrix_exp(A - A.mT)
        turned = replace(state.solution, D=(C * orbitals.f[..., None, :]) @ C.mT, C=None)
        guess = replace(first, states=[replace(state, solution=turned)])
        yield run([record], guess=guess)[0]


def run(records, **options):
    """Computed of records that share a method, a treatment and whether they say NOMM: then without the peptide term."""
    method, nomm = records[0]["method"], "NOMM" in records[0]["keywords"]
    molecules = batch(records)
    result = Hamiltonian(method)(molecules, forces=True, raise_unconverged=False, **treatment(records[0]) | options)
    peptide, peptide_gradient = term(method, ("peptide",) if nomm else (), molecules)
    _, omitted = term(method, OMITTED, molecules)
    _, scaled = term(method, SCALED.get(method, ()), molecules)
    gradient = -result.forces - peptide_gradient
    printed = gradient - omitted + (2 * result.constants.bohr - 1) * scaled
    start = np.concatenate([[0], np.cumsum(molecules.sizes)])
    dipole = result.dipole_debye + result.constants.debye * molecules.charge[:, None] * origin_shift(molecules)
    energy = result.energy - peptide
    heat = result.heat_of_formation - result.constants.kcal_mol * peptide
    return [one(result, k, slice(start[k], start[k + 1]), energy, heat, dipole, gradient, printed) if good else None
            for k, good in enumerate(result.converged.tolist())]


def one(result, k, atoms, energy, heat, dipole, gradient, printed):
    """Computed of molecule k of a batch."""
    def array(tensor):
        return tensor.detach().numpy()
    x, method = array(result.molecules.positions[atoms]), find_method(result.method)
    rows = method.rows(result.molecules.numbers[atoms]).tolist()

    def series():
        D = array(result.density(k))
        return reference_series.energy_error(method, rows, x, D.sum(0) * (2 / len(D)))

    def branch(i, j):
        return reference_series.nearest_branch(method, rows[i], rows[j], np.linalg.norm(x[i] - x[j]))
    return Computed(
        energy[k].item(), {name: e[k].item() for name, e in result.energies.items()}, heat[k].item(),
        KCAL * array(gradient[atoms]), array(result.charges[atoms]), array(dipole[k]),
        list(array(result.orbital_energies(k))), array(result.spin_populations[atoms]), result.s2[k].item(),
        KCAL * array(printed[atoms]), series, branch)


def origin_shift(molecules):
    """Centre of mass with the masses of the package less that with those of MOPAC (molecule, 3), angstrom."""
    theirs = torch.tensor([MASSES.get(symbol(n), 0.0) for n in molecules.numbers.tolist()], dtype=torch.float64)

    def centre(m):
        x = torch.zeros(len(molecules), 4, dtype=torch.float64)
        x = x.index_add(0, molecules.molecule, torch.cat([m[:, None] * molecules.positions, m[:, None]], 1))
        return x[:, :3] / x[:, 3:].clamp(min=1e-3)
    ours = dipole_masses(molecules.numbers)
    return centre(ours) - centre(torch.where(theirs > 0, theirs, ours))


def term(method, names, molecules):
    """(energy eV `molecule`, gradient eV/angstrom `atom 3`) of some corrections of a method."""
    x = molecules.positions.clone().requires_grad_()
    chosen = {name: t for name, t in terms(method).items() if name in names}
    energy = sum(corrections(chosen, Composition.of(molecules), x).values())
    if not isinstance(energy, torch.Tensor) or not energy.requires_grad:
        return torch.zeros(len(molecules), dtype=x.dtype), torch.zeros_like(x)
    return energy.detach(), torch.autograd.grad(energy.sum(), x)[0]
