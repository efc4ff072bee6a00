"""The Hamiltonians and molecules of test_physics.py, and the criteria a published method itself breaks.

A learned Hamiltonian takes the same tests: add a factory to MODELS. `holds` compares with the tolerance of the criterion; where
EXCEPTIONS lists the criterion for a model, the stated number replaces it, and a listed break that is gone fails too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from nddo_ml import Hamiltonian, Molecules

TIGHT = 1e-10   # eV, the commutator to which the criteria are stated


def published(name: str) -> Callable[[], Hamiltonian]:
    """Factory of a published method."""
    return lambda: Hamiltonian(name)


BASES = ("MNDO", "AM1", "PM3", "RM1", "MNDO/d", "PM6", "PM7")
CORRECTED = ("PM6-DH+", "PM6-D3", "PM6-D3(H4)", "PM6-D3H4", "PM6-D3H4X")
MODELS: dict[str, Callable[[], Hamiltonian]] = {name: published(name) for name in BASES + CORRECTED}
ELECTRONIC = [name for name in MODELS if name not in CORRECTED]     # the corrected methods share the integrals of PM6


@cache
def model(name: str) -> Hamiltonian:
    """The model of that name, made once."""
    return MODELS[name]()


@dataclass(frozen=True)
class Breaks:
    """Why a published method does not meet a criterion, and the number it reaches instead."""

    reason: str
    number: float


_JOIN = "integrals are joined to a bare 1/R at 7 A, where the joining function is only C1: its second derivative jumps by 0.44"
_CUT = "D3 ends at 15 A, as in MOPAC"
EXCEPTIONS: dict[tuple[str, str], Breaks] = {
    ("L6 dipoles", "PM7"): Breaks("the hybrid moments of atoms do not interact beyond 7 A: " + _JOIN, 50.0),
    ("Q5 curvature join", "PM7"): Breaks(_JOIN, 2e-3),
    **{("L7", name): Breaks(_CUT, float("inf")) for name in CORRECTED if "D3" in name},
    **{("Q5 energy overlap", name): Breaks(_CUT, 3e-6) for name in CORRECTED if "D3" in name},
    **{("Q5 force overlap", name): Breaks(_CUT, 1e-5) for name in CORRECTED if "D3" in name},
}


def holds(criterion: str, name: str, value: float, tolerance: float, about: str = "") -> None:
    """Assert |value| <= tolerance, or the number of the exception listed for this model."""
    value = abs(float(value))
    listed = EXCEPTIONS.get((criterion, name))
    text = f"{criterion} {name} {about}: {value:.3e}, tolerance {tolerance:.1e}"
    if listed is None:
        assert value <= tolerance, text
    else:
        assert value <= listed.number, f"{text}, listed {listed.number:.1e} ({listed.reason})"


# --- molecules: numbers, positions (angstrom), charge, multiplicity; asymmetric unless the name says otherwise

MOLECULES = {
    "water": ([8, 1, 1], [[0.013, -0.021, 0.117], [0.031, 0.763, -0.472], [-0.042, -0.741, -0.489]], 0, 1),
    "thiol": ([6, 17, 16, 1, 1, 1], [[0.0, 0.0, 0.0], [1.70, 0.30, 0.0], [-0.9, 1.4, 0.4], [-0.3, -0.9, 0.5],
                                     [-0.2, -0.3, -1.1], [-2.1, 1.1, 0.1]], 0, 1),
    "formamide water": ([6, 8, 7, 1, 1, 1, 8, 1, 1],
                        [[0.02, 0.01, 0.03], [1.21, 0.14, -0.02], [-0.71, 1.16, 0.11], [-0.51, -0.97, -0.09], [-1.69, 1.02, 0.31],
                         [-0.28, 2.06, -0.19], [2.31, 2.63, 0.22], [2.06, 1.71, 0.13], [3.18, 2.72, -0.13]], 0, 1),
    "ammonium": ([7, 1, 1, 1, 1], [[0.0, 0.0, 0.0], [0.62, 0.58, 0.59], [-0.60, -0.59, 0.57], [-0.58, 0.61, -0.60],
                                   [0.59, -0.60, -0.57]], 1, 1),
    "formate": ([6, 8, 8, 1], [[0.0, 0.02, 0.0], [1.13, 0.51, 0.03], [-1.14, 0.53, -0.04], [0.03, -1.13, 0.05]], -1, 1),
    "hydroxymethyl": ([6, 8, 1, 1, 1], [[0.0, 0.0, 0.02], [1.34, 0.05, -0.04], [-0.55, 0.93, 0.12], [-0.60, -0.91, 0.19],
                                        [1.71, -0.82, 0.21]], 0, 2),
    "oxygen": ([8, 8], [[0.0, 0.1, 0.0], [0.4, 0.9, 0.7]], 0, 3),
}
METHANE = ([6, 1, 1, 1, 1], (0.63 * torch.tensor([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)).tolist(), 0, 1)
_ring = torch.arange(6, dtype=torch.float64) * (torch.pi / 3)
_flat = torch.stack([_ring.cos(), _ring.sin(), 0 * _ring], 1)
BENZENE = ([6] * 6 + [1] * 6, torch.cat([1.395 * _flat, 2.485 * _flat]).tolist(), 0, 1)
CLOSED = ("water", "thiol", "formamide water", "ammonium", "formate")
IONS = ("ammonium", "formate")


def molecule(name: str | tuple) -> Molecules:
    """A molecule of MOLECULES, or of a tuple like its entries."""
    numbers, positions, charge, multiplicity = MOLECULES[name] if isinstance(name, str) else name
    return Molecules.single(numbers, torch.tensor(positions, dtype=torch.float64), charge, multiplicity)


def batch(names) -> Molecules:
    """Several of them."""
    entries = [MOLECULES[n] if isinstance(n, str) else n for n in names]
    return Molecules.batch(*map(list, zip(*[(n, torch.tensor(x, dtype=torch.float64), q, m) for n, x, q, m in entries], strict=True)))


def run(name: str, molecules: Molecules, **options):
    """Result of a model at the accuracy of the criteria."""
    return model(name)(molecules, **({"tolerance": TIGHT} | options))


def rotation(seed: int) -> torch.Tensor:
    """A random proper rotation."""
    generator = torch.Generator().manual_seed(seed)
    Q, R = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    Q = Q * R.diagonal().sign()
    return Q * torch.linalg.det(Q)
