"""Reading the stored results of MOPAC and comparing a calculation with them.

A record is one line of tests/data/reference/*.jsonl.gz. `compare` turns a record and its calculation (reference_run.evaluate)
into checks with the tolerances of TOLERANCE. What a record cannot judge (another SCF state, a gradient MOPAC itself does not
have) is not loosened: the check says `exempt`, with the reason and the number.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "data" / "reference"
KCAL = 23.06054783061903           # kcal/mol per eV of MOPAC 22
TOLERANCE = {
    "energy": 5e-5,                # eV; or 1e-6 per atom: MOPAC's truncated overlap series errs by up to 4e-5
    "heat": 2e-3,                  # kcal/mol
    "triple_bond": 1e-6,           # kcal/mol, against the formula evaluated here
    "gradient": 5e-3,              # kcal/mol/angstrom
    "dipole": 1e-4,                # debye
    "charges": 1e-5,               # e
    "spin_populations": 1e-5,
    "orbital_energies": 1e-4,      # eV
    "s2": 2e-5,                    # printed with six decimals
}
DENSITY = ("dipole", "charges", "spin_populations", "orbital_energies", "s2")    # what tells one SCF state from another
UNPRINTED_GRADIENT = 3e-4          # MOPAC prints zeros below about 2e-4
BRANCH = 5e-5                      # angstrom: MOPAC differentiates across a step of its overlap series
SAME_STATE = 1e-4                  # kcal/mol: heats of one SCF solution
WALL = 0.7                         # angstrom; below, gradients of PM6 and PM7 reach 4e6, good to 1e-6 of that in MOPAC


@dataclass(frozen=True, eq=False)
class Computed:
    """One molecule's results in the units of the records: energy and terms eV, heat kcal/mol, gradient kcal/mol/angstrom,
    dipole debye.
    """

    energy: float
    terms: dict
    heat: float
    gradient: np.ndarray
    charges: np.ndarray
    dipole: np.ndarray
    orbital_energies: list
    spin_populations: np.ndarray
    s2: float
    mopac_gradient: np.ndarray | None = None    # the gradient put together as MOPAC does, where it omits or scales a term
    series: Callable | None = None              # () -> eV by which MOPAC's overlap series changes its energy
    branch: Callable | None = None              # (i, j) -> angstrom from the nearest change of order of that series


@dataclass(frozen=True)
class Check:
    """One compared quantity. verdict: pass, fail, exempt (not judged: reason) or lower (a lower energy than MOPAC's)."""

    quantity: str
    deviation: float
    tolerance: float
    verdict: str
    reason: str = ""


@dataclass
class Report:
    """All checks of one record."""

    record: dict
    checks: list = field(default_factory=list)

    def add(self, quantity, deviation, tolerance=None, exempt="", verdict=""):
        """Judge a deviation; with a reason in `exempt` a deviation above the tolerance is set apart instead of failing."""
        tolerance = TOLERANCE[quantity] if tolerance is None else tolerance
        good = bool(abs(deviation) <= tolerance)          # a NaN is not
        verdict = verdict or ("pass" if good else "exempt" if exempt else "fail")
        self.checks.append(Check(quantity, float(deviation), tolerance, verdict, "" if verdict == "pass" else exempt))

    @property
    def failures(self):
        """Checks that failed; a lower energy than MOPAC's is no failure."""
        return [c for c in self.checks if c.verdict == "fail"]

    def __str__(self):
        r = self.record
        lines = [f"{r['id']} {r['name']} {r['method']} {r['scf']} {r.get('geometry', '')}"]
        return "\n  ".join(lines + [f"{c.quantity}: {c.deviation:.2e} (tolerance {c.tolerance:.0e}) {c.verdict} {c.reason}"
                                    for c in self.checks if c.verdict != "pass"])


@cache
def load(name="records.jsonl.gz"):
    """Records of one file of tests/data/reference; goldens get their line number as id."""
    with gzip.open(DATA / name, "rt") as lines:
        return [{"id": f"goldens:{k}"} | json.loads(line) for k, line in enumerate(lines)]


def load_group(path):
    """Records of one whole group, NN_name.jsonl."""
    with open(path) as lines:
        return [json.loads(line) | {"id": f"{path.stem}:{k}"} for k, line in enumerate(lines)]


def group(record):
    """Name of the group a record comes from."""
    return record["id"].split(":")[0]


def judged(record):
    """Whether a record belongs to the comparison: not MOZYME (another approximation), nor PM6-DH2 (not offered)."""
    return record["scf"] != "MOZYME" and record["method"] != "PM6-DH2"


def reference_energy(record):
    """eV: MOPAC's total energy plus its corrections; the triple bond sits in the energy of atoms, hence is not in it."""
    results = record["results"]
    return results["total_energy_eV"] + sum(results["corrections_kcal_mol"].values()) / KCAL


def smooth_triple_bond(record):
    """(energy in kcal/mol, gradient) of the C-C triple-bond term in MOPAC 23.2's smooth form; zero outside PM6 and PM7."""
    x = np.array(record["coordinates_angstrom"])
    gradient = np.zeros_like(x)
    carbon = [k for k, z in enumerate(record["numbers"]) if z == 6] if record["method"][:3] in ("PM6", "PM7") else []
    energy = 0.0
    for at, i in enumerate(carbon):
        for j in carbon[:at]:
            d = x[i] - x[j]
            r = np.linalg.norm(d)
            if r < 1.33:
                y = np.polynomial.Polynomial([0, 1])
                g = 1 - 10 * y**3 + 15 * y**4 - 6 * y**5 + (25 * y - 5) * (y**3 - 3 * y**4 + 3 * y**5 - y**6)
                t = max((r - 1.21) / 0.12, 0.0)
                energy += 12 * g(t)
                slope = 12 * g.deriv()(t) / 0.12 * d / r
                gradient[i] += slope
                gradient[j] -= slope
    return energy, gradient


def counted_triple_bonds(record, computed):
    """Triple bonds that MOPAC 22 counted: 12 kcal/mol each in its energy of atoms, beyond that of the same atoms here."""
    own = computed.heat - KCAL * computed.energy
    return round((record["results"]["energy_of_atoms_kcal_mol"] - own) / 12)


def gradient_excuse(record):
    """Why MOPAC's gradient is not the derivative of its energy for this record, or nothing."""
    present = record["results"]["corrections_kcal_mol"]
    if record["method"] in ("PM7", "PM6-DH+") and "hydrogen_bond" in present:
        return "MOPAC's hydrogen-bond gradient is not the derivative of its energy"
    if record["method"] == "PM6-D3H4" and "hydrogen_bond" in present:
        return "MOPAC scales its D3 gradient and its H4 gradient is approximate"
    if record["scf"] == "half-electron":
        return "MOPAC's derivative of the half-electron energy is off by up to 0.08 from differences of its heats"
    return ""


def solution_excuse(record, energy_deviation, heat_deviation):
    """(verdict of the energy, reason to set apart other properties) under the rules for several SCF solutions."""
    limit = energy_tolerance(record)
    if abs(energy_deviation) <= limit:
        if record.get("scf_solution_unique") is not False:
            return "", ""
        recorded = record["results"]["heat_of_formation_kcal_mol"]
        spread = max(abs(h - recorded) for h in record["scf_solutions_kcal_mol"].values() if abs(h - recorded) < 0.01)
        if spread > 1e-5:
            return "", f"MOPAC's own routes to this state stop {spread:.0e} kcal/mol apart"
        return "", f"several SCF solutions; heat differs by {heat_deviation:.1e}" if abs(heat_deviation) > SAME_STATE else ""
    if record.get("scf_solution_unique") is False:
        listed = record["scf_solutions_kcal_mol"]
        match = [n for n, heat in listed.items()
                 if abs(heat - record["results"]["heat_of_formation_kcal_mol"] - heat_deviation) < TOLERANCE["heat"]]
        if match:
            return "exempt", f"SCF solution {match[0]} of MOPAC, {energy_deviation:+.6f} eV"
        if energy_deviation < 0:
            return "exempt", f"lower than MOPAC's ambiguous solution by {-energy_deviation:.6f} eV"
    if energy_deviation < 0:
        return "lower", f"lower than MOPAC by {-energy_deviation:.6f} eV"
    return "fail", f"another state: {energy_deviation:+.6f} eV"


def energy_tolerance(record):
    """eV."""
    return max(TOLERANCE["energy"], 1e-6 * len(record["numbers"]))


def compare(record, computed) -> Report:
    """Every quantity of a record against a calculation."""
    report, results = Report(record), record["results"]
    if computed is None or not np.isfinite(computed.energy):
        report.add("energy", np.nan, verdict="fail", exempt="the SCF did not converge")
        return report
    smooth, slope = smooth_triple_bond(record)
    own = computed.terms.get("triple_bond", 0.0) * KCAL
    step = 12 * counted_triple_bonds(record, computed)
    report.add("triple_bond", own - smooth)
    energy = computed.energy - own / KCAL - reference_energy(record)
    heat = computed.heat - own + step - results["heat_of_formation_kcal_mol"]
    verdict, state = solution_excuse(record, energy, heat)
    report.add("energy", energy, energy_tolerance(record), state, verdict)
    report.add("heat", heat, exempt=state, verdict=verdict if verdict != "lower" else "exempt")
    compare_gradient(report, computed, slope, state)
    compare_density(report, computed, state)
    wanting = any(c.verdict in ("fail", "lower") for c in report.checks)
    return another_state(explained(report, computed, energy) if wanting and computed.series else report)


def another_state(report):
    """The report, with a lower energy as a failure where it belongs to the same state: no property of the density differs."""
    differs = any(abs(c.deviation) > c.tolerance for c in report.checks if c.quantity in DENSITY)
    if differs or not any(c.verdict == "lower" for c in report.checks):
        return report
    return Report(report.record, [replace(c, verdict="fail", reason="the same state") if c.verdict == "lower" else c
                                  for c in report.checks])


def explained(report, computed, energy):
    """The report with failures set apart that MOPAC's overlap series, a higher state of MOPAC or a degenerate partner explains.

    The series error is known (reference_series); what the energies differ beyond it is 1e-7 eV or less in the same state.
    """
    rest = energy + computed.series()
    same = abs(rest) < SAME_STATE / KCAL
    partner = same and partner_excuse(report, computed, rest)
    checks = []
    for check in report.checks:
        reason, energies = "", check.quantity in ("energy", "heat")
        if same and energies:
            reason = f"MOPAC's overlap series; without it the energy deviates by {rest:+.0e} eV"
        elif not energies and check.quantity != "triple_bond":
            reason = partner or (f"MOPAC's state lies {-rest:.1e} eV above ours" if rest < 0 and not same else "")
        apart = reason and check.verdict in ("fail", "lower")
        checks.append(replace(check, verdict="exempt", reason=reason) if apart else check)
    return Report(report.record, checks)


def partner_excuse(report, computed, rest):
    """Reason if MOPAC and we hold two degenerate states: equal energies, and equal properties but for the names of the atoms
    (a symmetric molecule with an unsymmetric density) or the direction of an open shell (orbital energies and spins differ).
    """
    failed = {c.quantity for c in report.failures}
    if failed <= {"orbital_energies", "spin_populations", "s2"}:
        return f"degenerate or soft spin state: energies agree to {rest:+.0e} eV, charges, dipole and gradient agree"
    results, numbers = report.record["results"], np.array(report.record["numbers"])
    theirs, gradient = np.array(results["charges"]), np.array(results["gradient_kcal_mol_A"])

    def sorted_by_element(values):
        return np.concatenate([np.sort(values[numbers == z]) for z in np.unique(numbers)])
    charges = np.abs(sorted_by_element(computed.charges) - sorted_by_element(theirs)).max()
    norms = np.abs(sorted_by_element(np.linalg.norm(computed.mopac_gradient, axis=1))
                   - sorted_by_element(np.linalg.norm(gradient, axis=1))).max()
    if charges < 10 * TOLERANCE["charges"] and norms < 4 * TOLERANCE["gradient"]:
        return f"degenerate partner: energies agree to {rest:+.0e} eV, sorted charges to {charges:.0e}, forces to {norms:.0e}"
    return ""


def compare_gradient(report, computed, slope, state):
    """The gradient, without the triple bond (MOPAC's is a step), the unprinted ones against their bound."""
    record, results = report.record, report.record["results"]
    printed = "gradient_kcal_mol_A"
    if record["scf"] == "half-electron" and "fd_gradient_kcal_mol_A" in results:
        printed = "fd_gradient_kcal_mol_A"      # of MOPAC's heats; its own derivative of the CI is off by up to 0.08
    expected = np.array(results[printed]).reshape(-1, 3)
    own = (computed.gradient if computed.mopac_gradient is None else computed.mopac_gradient) - slope
    if not len(expected) or (not expected.any() and results["gradient_norm_kcal_mol_A"] > 0):
        if len(expected) and results["gradient_norm_kcal_mol_A"] < UNPRINTED_GRADIENT:
            report.add("gradient", np.abs(own).max(), UNPRINTED_GRADIENT, state)
        return
    limit = TOLERANCE["gradient"]
    if record.get("r_angstrom", 1.0) < WALL and record["method"] in ("PM6", "PM7"):
        limit = max(limit, 1e-6 * np.abs(expected).max())
    deviation = own - expected
    reason = ""
    if np.abs(deviation).max() > limit and computed.branch:
        near = 2 * results["fd_step_angstrom"] if printed.startswith("fd") else BRANCH
        reason = branch_excuse(deviation, limit, computed.branch, near)
    reason = state or reason or gradient_excuse(record)
    report.add("gradient", np.abs(deviation).max(), limit, reason)
    if "fd_gradient_kcal_mol_A" in results and group(record) == "04_fd_gradients":
        fd = np.array(results["fd_gradient_kcal_mol_A"])
        rough = np.abs(fd.sum(0)).max()         # differences that do not add up to zero straddle a kink: 1e-2 at best
        report.add("fd_gradient", np.abs(computed.gradient - slope - fd).max(), 5e-3 if rough < 1e-3 else 1e-2, state)


def branch_excuse(deviation, limit, branch, near):
    """Reason if all that deviates is one pair of atoms, equally and oppositely, at a change of order of the overlap series."""
    off = np.nonzero(np.abs(deviation).max(1) > limit)[0]
    if len(off) == 2 and np.abs(deviation[off].sum(0)).max() < 0.1 * np.abs(deviation).max() and branch(*off) < near:
        return f"MOPAC differentiates across a step of its overlap series {branch(*off):.0e} A from pair {off.tolist()}"
    return ""


def compare_density(report, computed, state):
    """Charges, dipole, orbital energies, spins."""
    results = report.record["results"]
    if report.record["scf"] != "half-electron" or "dipole_D" in results:
        report.add("dipole", np.abs(computed.dipole - np.array(results["dipole_D"])).max(), exempt=state)
    report.add("charges", np.abs(computed.charges - np.array(results["charges"])).max(), exempt=state)
    expected = levels(results)
    if expected:
        pairs = list(zip(computed.orbital_energies, expected, strict=True))
        deviation = max((np.abs(a - b).max() for a, b in pairs if len(b)), default=0.0)
        if len(pairs) == 2 and report.record["multiplicity"] == 1:      # a singlet's alpha and beta may change names
            mirrored = max(np.abs(a - b).max() for a, b in zip(computed.orbital_energies, expected[::-1], strict=True))
            deviation = min(deviation, mirrored)
        report.add("orbital_energies", deviation, exempt=state)
    elif "homo_eV" in results:
        e, n = computed.orbital_energies[0], occupied(report.record)
        report.add("orbital_energies", max(abs(e[n - 1] - results["homo_eV"]), abs(e[n] - results["lumo_eV"])), exempt=state)
    if "s2" in results:
        report.add("s2", computed.s2 - results["s2"], exempt=state)
        expected = np.array(results["spin_populations"])
        deviation = np.abs(computed.spin_populations - expected).max()
        if report.record["multiplicity"] == 1:
            deviation = min(deviation, np.abs(computed.spin_populations + expected).max())
        report.add("spin_populations", deviation, exempt=state)


def levels(results):
    """Orbital energies of a record, one array per spin; empty where only HOMO and LUMO were kept."""
    names = ("orbital_energies_eV", "orbital_energies_alpha_eV", "orbital_energies_beta_eV")
    return [np.array(results[n]) for n in names if n in results]


def occupied(record):
    """Doubly occupied orbitals of a closed shell of main-group atoms."""
    valence = {1: 1, 6: 4, 7: 5, 8: 6, 16: 6}
    return (sum(valence[z] for z in record["numbers"]) - record["charge"]) // 2


def from_record(record) -> Computed:
    """The record itself as if it had been calculated, with MOPAC 23.2's triple bond: what a perfect engine returns."""
    results = record["results"]
    smooth, slope = smooth_triple_bond(record)
    step = 12 * round(smooth / 12)
    energies = levels(results)
    gradient = np.array(results.get("fd_gradient_kcal_mol_A", results["gradient_kcal_mol_A"])).reshape(-1, 3)
    if not len(gradient):
        gradient = np.zeros_like(slope)
    if not energies:
        energies = [np.full(sum(4 if z > 1 else 1 for z in record["numbers"]), results["homo_eV"])]
        energies[0][occupied(record):] = results["lumo_eV"]
    return Computed(reference_energy(record) + smooth / KCAL, {"triple_bond": smooth / KCAL},
                    results["heat_of_formation_kcal_mol"] + smooth - step, gradient + slope, np.array(results["charges"]),
                    np.array(results["dipole_D"]), energies, np.array(results.get("spin_populations", [0.0])),
                    results.get("s2", 0.0), np.array(results["gradient_kcal_mol_A"]).reshape(-1, 3) + slope if len(
                        results["gradient_kcal_mol_A"]) else None)
