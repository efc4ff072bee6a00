"""The Hamiltonians and molecules of test_physics.py, and the criteria a published method itself breaks.

A learned Hamiltonian takes the same tests: add a factory to MODELS. `holds` compares with the tolerance of the criterion; where
EXCEPTIONS lists the criterion for a model, the stated number replaces it, with the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from nddo_ml import Hamiltonian, Molecules
from nddo_ml.integrals.corrections.d3 import OMEGA_B97X_D3BJ
from nddo_ml.methods import learned
from nddo_ml.networks import build

TIGHT = 1e-10   # eV, the commutator to which the criteria are stated


def published(name: str) -> Callable[[], Hamiltonian]:
    """Factory of a published method."""
    return lambda: Hamiltonian(name)


def untrained(parent: str, config: dict) -> Callable[[], Hamiltonian]:
    """Factory of a network with random weights on a smooth parent, and D3(BJ): what holds here holds for any weights."""
    def make():
        torch.manual_seed(0)
        network = build(config)
        with torch.no_grad():
            for p in network.parameters():
                p.add_(0.02 * torch.randn_like(p))
        return Hamiltonian(parent, network=network.requires_grad_(False), dispersion=OMEGA_B97X_D3BJ)
    return make


BASES = ("MNDO", "AM1", "PM3", "RM1", "MNDO/d", "PM6", "PM7")
CORRECTED = ("PM6-DH+", "PM6-D3", "PM6-D3(H4)", "PM6-D3H4", "PM6-D3H4X")
SMOOTH = ("PM7-smooth",)     # parents of learned models; those of the other methods differ from them beyond 12 angstrom only
MODELS: dict[str, Callable[[], Hamiltonian]] = {name: published(name) for name in BASES + CORRECTED + SMOOTH}
ELECTRONIC = [name for name in MODELS if name not in CORRECTED]     # the corrected methods share the integrals of their base
LEARNED: dict[str, Callable[[], Hamiltonian]] = {
    "random network": untrained("RM1-smooth", {"heads": ["atom", "pair", "charge", "block", "local"], "degree": 2}),
    "random symmetry functions": untrained("AM1-smooth", {"features": "symmetry functions"}),
    **{card.name: published(name) for name, card in learned.shipped().items() if name != learned.NEWEST},
}
MODELS |= LEARNED      # the integrals of their free atoms and far pairs are those of their parents


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
_DIFFUSE = "Slater exponents below 1 / bohr and overlaps up to 15 A"
_SOFT = "pair exponents alpha_AB or the alpha of Al, Si, I below 2 / A"
_TRACE = "the linear quadrupoles of a full p shell have a trace: R^-7"
_DCHARGE = "rho_dd0 of the d electrons, rho0 and rho_core differ: -(sum q rho)^2/R^3"
EXCEPTIONS: dict[tuple[str, str], Breaks] = {
    ("L1", "PM3"): Breaks("zeta_s(H) 0.97: H-H", 3.1e-7),
    ("L1", "RM1"): Breaks("zeta_s(H) 1.08: H-H", 2.9e-8),
    ("L1", "MNDO/d"): Breaks(_DIFFUSE + ": Al-Zn; S-Cl 1.7e-6", 2.7e-4),
    ("L1", "PM6"): Breaks(_DIFFUSE + ": Fe-Ni; S-Cl 4.3e-8", 7.4e-6),
    ("L1", "PM7"): Breaks(_DIFFUSE + ": S-Cl", 6.6e-6),
    ("L2 leading", "PM6"): Breaks("Fe-Ni at 20 A: the next power, 3/8 (rho_A + rho_B)^4/R^4", 0.0132),
    ("L2 leading", "PM7"): Breaks(_JOIN, 1.0 + 1e-9),
    ("L3 dipoles", "PM3"): Breaks("R^-5 of the additive terms at 20 A, for O-C", 0.0056),
    ("L3 quadrupole", "PM3"): Breaks("R^-5 of the additive terms at 20 A, for O-C", 0.0056),
    **{(f"L3 {kind}", "PM7"): Breaks(_JOIN, 1.0 + 1e-9) for kind in ("dipole", "dipoles", "quadrupole")},
    ("L4 others", "MNDO"): Breaks(_TRACE + ", Bi", 2.3e-3),
    ("L4 others", "AM1"): Breaks(_TRACE + ", Bi", 1.8e-3),
    ("L4 others", "PM3"): Breaks(_TRACE + ", Te; F 1.1e-6", 5.6e-4),
    ("L4 others", "RM1"): Breaks(_TRACE + ", I", 8.7e-5),
    ("L4 others", "MNDO/d"): Breaks("rho_core differs from rho0, Na and Mg; others 6e-5", 0.0503),
    ("L4 others", "PM6"): Breaks(_TRACE + ", Xe; S 1.3e-5", 4.6e-4),
    ("L4 d electrons", "AM1"): Breaks(_DCHARGE + ", Mo", 6.8e-3),
    ("L4 d electrons", "RM1"): Breaks(_DCHARGE + ", Sm", 1.757),
    ("L4 d electrons", "PM6"): Breaks(_DCHARGE + ", Ag", 0.5081),
    ("L5", "MNDO"): Breaks(_SOFT, 3.7e-8),
    ("L5", "AM1"): Breaks(_SOFT, 1.5e-8),
    ("L5", "PM3"): Breaks(_SOFT, 3.2e-7),
    ("L5", "RM1"): Breaks(_SOFT, 3.7e-7),
    ("L5", "MNDO/d"): Breaks(_SOFT, 7.4e-7),
    ("L5", "PM7"): Breaks(_SOFT, 8.5e-8),
    ("L6 dipoles", "PM7"): Breaks("the hybrid moments of atoms do not interact beyond 7 A: " + _JOIN, 50.0),
    **{(f"L8 {kind}", "PM7"): Breaks("bare 1/R keeps a weight of exp(-10.78) at R = 0: 300 eV at 1e-6 A", number)
       for kind, number in (("g_ss", 300.0), ("h_sp", 2e-4), ("h_pp", 3e-5), ("hetero", 300.0))},
    **{("L9", name): Breaks("the repulsion of cores is capped at 1e5 eV, as in MOPAC: O-H is flat below 0.24 A", 1)
       for name in ("PM6", "PM7")},
    ("Q5 curvature join", "PM7"): Breaks(_JOIN, 2e-3),
    **{("L7", name): Breaks(_CUT, float("inf")) for name in CORRECTED if "D3" in name},
    **{("Q5 energy overlap", name): Breaks(_CUT, 3e-6) for name in CORRECTED if "D3" in name},
    **{("Q5 force overlap", name): Breaks(_CUT, 1e-5) for name in CORRECTED if "D3" in name},
}


_MENDED = ("L8", "Q5")      # by the smooth join; it keeps the bare 1/R beyond 7 A and everything else
EXCEPTIONS |= {(criterion, "PM7-smooth"): listed for (criterion, name), listed in EXCEPTIONS.items()
               if name == "PM7" and criterion[:2] not in _MENDED}


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
                        [[0.02, 0.01, 0.03], [1.21, 0.14, -0.02], [-0.71, 1.16, 0.11], [-0.51, -0.97, -0.09],
                         [-1.69, 1.02, 0.31], [-0.28, 2.06, -0.19], [2.31, 2.63, 0.22], [2.06, 1.71, 0.13],
                         [3.18, 2.72, -0.13]], 0, 1),
    "ammonium": ([7, 1, 1, 1, 1], [[0.0, 0.0, 0.0], [0.62, 0.58, 0.59], [-0.60, -0.59, 0.57], [-0.58, 0.61, -0.60],
                                   [0.59, -0.60, -0.57]], 1, 1),
    "formate": ([6, 8, 8, 1], [[0.0, 0.02, 0.0], [1.13, 0.51, 0.03], [-1.14, 0.53, -0.04], [0.03, -1.13, 0.05]], -1, 1),
    "hydroxymethyl": ([6, 8, 1, 1, 1], [[0.0, 0.0, 0.02], [1.34, 0.05, -0.04], [-0.55, 0.93, 0.12], [-0.60, -0.91, 0.19],
                                        [1.71, -0.82, 0.21]], 0, 2),
    "oxygen": ([8, 8], [[0.0, 0.1, 0.0], [0.4, 0.9, 0.7]], 0, 3),
}
_c = 0.63
METHANE = ([6, 1, 1, 1, 1], [[0.0] * 3, *([_c * a, _c * b, _c * a * b] for a in (1, -1) for b in (1, -1))], 0, 1)
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
    return Molecules.batch(*map(list, zip(*entries, strict=True)))


def run(name: str, molecules: Molecules, **options):
    """Result of a model at the accuracy of the criteria."""
    return model(name)(molecules, **({"tolerance": TIGHT} | options))


def rotation(seed: int) -> torch.Tensor:
    """A random proper rotation."""
    generator = torch.Generator().manual_seed(seed)
    Q, R = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    Q = Q * R.diagonal().sign()
    return Q * torch.linalg.det(Q)
