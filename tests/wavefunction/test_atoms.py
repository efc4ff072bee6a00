"""Atoms start from Slater functions of their own: energies, terms, and what is done where PM6 does not hold a state."""

import pytest
import torch

from nddo_ml.errors import InvalidMolecule, MissingParameter
from nddo_ml.wavefunction.determinants.second_quantisation import (
    diagonal,
    ground_state,
    matrix,
    reference_determinant,
    singles_and_doubles,
)
from nddo_ml.wavefunction.real_space.atomic_start import (
    SlaterShell,
    Term,
    atomic_field,
    atomic_hamiltonian,
    slater_shells,
    term,
)
from nddo_ml.wavefunction.real_space.config import RealSpaceAnsatz, RealSpaceConfig, RealSpaceEvaluation
from nddo_ml.wavefunction.real_space.mean_field_start import mean_field
from nddo_ml.wavefunction.real_space.run import calculate, prepared
from nddo_ml.wavefunction.real_space.starting_orbitals import lacking_s, starting_orbitals
from nddo_ml.wavefunction.real_space.systems import from_text

ATOMS = ("H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne")
# electrons -> multiplicity, L, parity of the ground state (NIST Atomic Spectra Database; the same along a series of ions)
GROUND = {1: (2, 0, 1), 2: (1, 0, 1), 3: (2, 0, 1), 4: (1, 0, 1), 5: (2, 1, -1), 6: (3, 1, 1), 7: (4, 0, -1), 8: (3, 1, 1),
          9: (2, 1, -1), 10: (1, 0, 1)}
ANIONS = ("H", "Li", "B", "C", "O", "F")         # that are bound
SPECIES = [(atom, charge) for Z, atom in enumerate(ATOMS, 1) for charge in (0, 1, 2, -1)
           if Z - charge in GROUND and (charge >= 0 or atom in ANIONS)]
# first states of other multiplicities: He 1s2s, Be 2s2p, Li+ 1s2s, Li 1s2s2p, B 2s2p2, C 2s2p3, Ne 2p5 3s
EXCITED = [("He", 0, 3, 0, 1), ("Be", 0, 3, 1, -1), ("Li", 1, 3, 0, 1), ("Li", 0, 4, 1, -1), ("B", 0, 4, 1, 1),
           ("C", 0, 5, 0, -1), ("Ne", 0, 3, 1, -1)]
CASES = [(atom, charge, *GROUND[1 + ATOMS.index(atom) - charge]) for atom, charge in SPECIES] + EXCITED


@pytest.mark.parametrize(("Z", "up", "down", "shells", "exact"), [
    (10, 5, 5, ((1, 0, 9.6421), (2, 0, 2.8792), (2, 1, 2.8792)), -127.81218),
    (4, 2, 2, ((1, 0, 3.6848), (2, 0, 0.9560)), -14.556740),
    (6, 4, 2, ((1, 0, 5.6727), (2, 0, 1.6083), (2, 1, 1.5679)), -37.622389),
    (2, 1, 1, ((1, 0, 1.6875),), -2.8476563)])
def test_energies_of_a_minimal_basis(Z, up, down, shells, exact):
    """Those of E. Clementi, D. L. Raimondi, J. Chem. Phys. 38, 2686 (1963), which give exponents to four digits."""
    H, C = atomic_hamiltonian(Z, tuple(SlaterShell(0, *s) for s in shells), up, down)
    assert float(diagonal(H, reference_determinant(H)[None])) == pytest.approx(exact, abs=1e-5)       # of digits printed
    assert torch.linalg.det(C) > 0


@pytest.mark.parametrize(("atom", "charge", "multiplicity", "L", "parity"), CASES)
def test_every_atom_starts_in_its_own_term(atom, charge, multiplicity, L, parity):
    start = starting_orbitals(from_text(f"{atom} 0 0 0", charge, multiplicity), "auto", 4)
    assert term(start.field).same(Term(float(L * (L + 1)), parity))
    assert f"{multiplicity}{'SP'[L]} {'even' if parity > 0 else 'odd'}" in start.said


def test_a_term_is_told_from_rotations_in_space():
    """The states that the start of nitrogen's cation goes over into when turned are three, those of P; a few determinants of an
    unsplit degenerate set are nearly so."""
    system = from_text("N 0 0 0", 1, 3)
    field = atomic_field(system, 4)
    g = torch.Generator().manual_seed(0)
    r = torch.randn(20, 6, 3, generator=g, dtype=torch.float64)
    R = torch.linalg.qr(torch.randn(20, 3, 3, generator=g, dtype=torch.float64))[0]
    sign, log = field(torch.einsum("gxy,iey->giex", R, r))
    values = torch.linalg.svdvals(sign * torch.exp(log - field(r)[1]))
    assert values[3] < 1e-12 < 1e-3 < values[2] / values[0]
    assert str(term(field)) == "P even" and str(Term(4.0, -1)) == "<L^2> = 4.0, odd"


def test_triplet_helium_starts_with_a_2s_orbital():
    """The lowest of 1s2s within 4 mHa of exact; PM6 would start it in 1s2p, and says so where it is asked for by name."""
    system = from_text("He 0 0 0", multiplicity=3)
    shells = slater_shells(2, 2, 0)
    assert [(s.n, s.l, round(s.zeta, 3)) for s in shells] == [(1, 0, 2.0), (2, 0, 0.575), (2, 1, 0.575)]
    H, _ = atomic_hamiltonian(2, shells, 2, 0)
    assert 0 < ground_state(matrix(H, singles_and_doubles(H)))[0] + 2.1752294 < 4e-3
    assert term(mean_field(system)).same(Term(2.0, -1))
    with pytest.raises(MissingParameter, match="P odd instead of the lowest one of its spin, S even"):
        prepared(RealSpaceConfig("He 0 0 0", multiplicity=3, ansatz=RealSpaceAnsatz(start="PM6")))
    run = prepared(RealSpaceConfig("He 0 0 0", multiplicity=3))
    assert run.start.field is not None and run.start.said.endswith("3S even")


@pytest.mark.parametrize(("text", "charge", "multiplicity", "said"), [
    ("He 0 0 0; He 0 0 2", 0, 3, "no s orbital of the same shell"),        # sigma_g^2 sigma_u and one more
    ("He 0 0 0; H 0 0 5", 0, 4, "p orbitals of He"),
    ("Li 0 0 0; H 0 0 3", 0, 5, "fills 1 core orbitals twice"),            # one electron of the core unpaired
    ("H 0 0 0; H 0 0 1.4", -3, 2, "has 2 above them"),                     # five electrons in two orbitals
    ("Ar 0 0 0; H 0 0 3", 1, 1, "other electrons of Ar")])
def test_molecules_that_pm6_does_not_hold_start_from_exponents(text, charge, multiplicity, said):
    start = starting_orbitals(from_text(text, charge, multiplicity), "auto", 4)
    assert start.field is None and said in start.said and start.said.startswith("Slater's exponents, since: ")
    with pytest.raises(MissingParameter):
        starting_orbitals(from_text(text, charge, multiplicity), "PM6", 4)


@pytest.mark.parametrize(("text", "multiplicity"), [("He 0 0 0; H 0 0 1.5", 2), ("H 0 0 0; H 0 0 1.4", 3),
                                                    ("Li 0 0 0; H 0 0 3", 3)])
def test_molecules_that_pm6_holds_start_from_it(text, multiplicity):
    start = starting_orbitals(from_text(text, 0, multiplicity), "auto", 4)
    assert start.said == "the determinants of PM6" and not lacking_s(start.field)


def test_what_an_atom_cannot_have():
    with pytest.raises(InvalidMolecule, match="one atom alone"):
        atomic_field(from_text("H 0 0 0; H 0 0 1"))
    with pytest.raises(InvalidMolecule, match="hold 13"):
        slater_shells(18, 14, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "charge", "exact", "goal"), [("He 0 0 0", 0, -2.1752294, 2e-4),
                                                               ("Li 0 0 0", 1, -5.1107274, 3e-4)])
def test_energies_of_first_triplets(text, charge, exact, goal, tmp_path):
    """Exact to the goal and three standard errors, and not below. G. W. F. Drake, Handbook of Atomic, Molecular and Optical
    Physics (2006), 2 3S of helium; the nonrelativistic energy of the same state of Li+."""
    run = prepared(RealSpaceConfig(text, str(tmp_path / "x"), charge=charge, multiplicity=3, iterations=500,
                                   evaluation=RealSpaceEvaluation(300)))
    energy = calculate(run).energy
    assert -3 * energy.error < energy.mean - exact < goal + 3 * energy.error
