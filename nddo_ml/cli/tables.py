"""What the terminal shows: results as tables a chemist reads at a glance."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from nddo_ml.cli.calculate import Calculation, Entries, Spectroscopy
from nddo_ml.elements import symbol
from nddo_ml.hamiltonian.results import Result
from nddo_ml.integrals.corrections import GROUPS
from nddo_ml.interfaces.results import array
from nddo_ml.methods import Method
from nddo_ml.properties.thermochemistry import Thermochemistry
from nddo_ml.units import CODATA_2018

RIGHT = {"justify": "right"}
SHOWN_ATOMS = 40     # atoms and modes a table shows unless asked for all
SHOWN_MODES = 60
BOND = 0.2           # smallest bond order worth a line
MULTIPLICITIES = {1: "singlet", 2: "doublet", 3: "triplet", 4: "quartet", 5: "quintet"}
NAMES = {"electronic": "electronic energy", "core_core": "core-core repulsion", "dispersion": "dispersion",
         "hydrogen_bond": "hydrogen bonds", "hh_repulsion": "H-H repulsion", "peptide": "peptide bonds",
         "triple_bond": "triple bonds", "nonplanar_nitrogen": "nitrogen planarity", "si_o_h": "Si-O-H groups",
         "halogen": "halogen bonds"}


def heading(name: str, calculation: Calculation) -> Text:
    """One line: what was calculated and how."""
    r, multiplicity = calculation.result, calculation.multiplicity
    spins = "unrestricted" if len(r.density(0)) == 2 else "restricted" if multiplicity == 1 else "half-electron"
    line, named = Text(name, style="bold"), MULTIPLICITIES.get(multiplicity, f"multiplicity {multiplicity}")
    return line.append(f"   {calculation.atoms.get_chemical_formula()}, {len(calculation.atoms)} atoms, charge "
                       f"{calculation.charge:+d}, {named}   {r.method}, {spins}", style="not bold")


def energies(calculation: Calculation) -> Table:
    """Energies by term, heat of formation, frontier orbitals, dipole, and how the SCF went."""
    r = calculation.result
    table = _table("", ("", {}), ("eV", RIGHT), ("kcal/mol", RIGHT), ("", {}))
    for name, value in r.energies.items():
        e = float(value[0])
        if e or name in ("electronic", "core_core"):
            table.add_row(words(name), f"{e:.6f}", f"{e * r.constants.kcal_mol:.4f}")
    table.add_row("total energy", f"{float(r.energy[0]):.6f}", f"{float(r.energy[0]) * r.constants.kcal_mol:.4f}", style="bold")
    table.add_row(*_bond_energy(r), style="bold")
    table.add_section()
    homo, lumo = r.homo_lumo(0)
    table.add_row("HOMO", _level(homo), "", "")
    table.add_row("LUMO", _level(lumo), "", f"gap {lumo - homo:.4f} eV" if np.isfinite(lumo - homo) else "")
    if len(r.density(0)) == 2:
        table.add_row("<S²>", f"{float(r.s2[0]):.4f}", "", "")
    table.add_section()
    x, y, z = r.dipole_debye[0].tolist()
    about = ", about the centre of mass" if calculation.charge else ""
    table.add_row("dipole", f"{np.sqrt(x * x + y * y + z * z):.4f}", "debye", f"({x:.4f}, {y:.4f}, {z:.4f}){about}")
    free = "on what may move" if calculation.atoms.constraints else ""
    table.add_row("largest force", f"{calculation.largest_force:.6f}", "eV/Å", free)
    table.add_row("SCF", f"{int(r.iterations[0])}", "iterations", f"{r.route[0]}; commutator {float(r.residual[0]):.0e} eV")
    return table


def _bond_energy(r):
    """What stands for the stability of the molecule: the heat of formation, or a trained network's atomization energy."""
    heat, atomization = float(r.heat_of_formation[0]), float(r.atomization_energy[0])
    if np.isfinite(heat):
        return "heat of formation", "", f"{heat:.4f}", "at 298 K, ideal gas"
    return "atomization energy", _level(atomization), _level(atomization * r.constants.kcal_mol), "electronic, 0 K"


def atoms(calculation: Calculation, every: bool) -> Table:
    """Positions, charges and (of open shells) spin populations of the atoms."""
    r, m, forces = calculation.result, calculation.molecules, calculation.forces
    spin = len(r.density(0)) == 2
    names = ["x / Å", "y / Å", "z / Å", "charge / e", *(["spin"] if spin else []), *(["force / eV/Å"] if every else [])]
    table = _table("", ("atom", RIGHT), ("", {}), *((name, RIGHT) for name in names))
    shown = len(calculation.atoms) if every else min(len(calculation.atoms), SHOWN_ATOMS)
    for k in range(shown):
        row = [str(k + 1), symbol(int(m.numbers[k])), *(f"{x:.4f}" for x in m.positions[k].tolist())]
        row += [f"{float(r.charges[k]):+.4f}"]
        row += [f"{float(r.spin_populations[k]):+.4f}"] if spin else []
        table.add_row(*row, *([f"{float(forces[k].norm()):.5f}"] if every else []))
    if shown < len(calculation.atoms):
        table.caption = f"{len(calculation.atoms) - shown} more atoms: -v shows all"
    return table


def orbitals(calculation: Calculation) -> Table:
    """Orbital energies and occupations."""
    r = calculation.result
    eps, f = r.orbital_energies(0).tolist(), r.occupations(0).tolist()
    names = ("",) if len(eps) == 1 else ("alpha ", "beta ")
    columns = [(f"{s}{what}", RIGHT) for s in names for what in ("energy / eV", "occupation")]
    table = _table("orbitals", ("", RIGHT), *columns)
    for level in range(len(eps[0])):
        table.add_row(str(level + 1), *(cell for s in range(len(eps)) for cell in (f"{eps[s][level]:.4f}", f"{f[s][level]:g}")))
    return table


def bonds(calculation: Calculation) -> Table:
    """Bond orders worth naming."""
    orders, m = array(calculation.result.bond_orders(0)), calculation.molecules
    label = [f"{symbol(z)}{k + 1}" for k, z in enumerate(m.numbers.tolist())]
    table = _table("bond orders (Mayer)", ("bond", {}), ("order", RIGHT))
    for i, j in zip(*np.nonzero(np.triu(orders, 1) > BOND), strict=True):
        table.add_row(f"{label[i]}–{label[j]}", f"{orders[i, j]:.3f}")
    return table


def frequencies(spectroscopy: Spectroscopy, every: bool) -> Table:
    """Normal modes: frequency, infrared intensity, reduced mass, Raman activity."""
    vibrations, raman, intensities = spectroscopy.vibrations, spectroscopy.raman, spectroscopy.intensities
    names = ["mode", "frequency / cm⁻¹", "IR / km/mol", "reduced mass / u"]
    names += ["Raman / Å⁴/u", "depolarisation"] if raman is not None else []
    table = _table("harmonic vibrations", *((name, RIGHT) for name in names))
    nu = vibrations.frequencies.tolist()
    shown = len(nu) if every else SHOWN_MODES
    strongest = np.sort(np.argsort(-intensities.numpy())[:shown])
    for k in strongest:
        row = [str(k + 1), f"{nu[k]:.1f}" if nu[k] >= 0 else f"{-nu[k]:.1f} i", f"{float(intensities[k]):.2f}",
               f"{float(vibrations.reduced_masses[k]):.3f}"]
        row += [f"{float(raman.activities[k]):.2f}", f"{float(raman.depolarisation[k]):.3f}"] if raman is not None else []
        table.add_row(*row, style="red" if nu[k] < 0 else None)
    if len(strongest) < len(nu):
        table.caption = f"the {len(strongest)} strongest of {len(nu)}: -v shows all"
    return table


def thermodynamics(gas: Thermochemistry, polarizability: Float[Tensor, "3 3"], result: Result) -> Table:
    """Ideal-gas thermochemistry and the polarizability (angstrom^3); result: what the thermochemistry rests on."""
    table = _table(f"ideal gas at {gas.temperature:g} K, {gas.pressure:g} Pa   point group {gas.point_group}, symmetry number "
                   f"{gas.symmetry_number}", ("", {}), ("eV", RIGHT), ("kcal/mol", RIGHT))

    def row(name: str, value: float, style: str | None = None) -> None:
        table.add_row(name, f"{value:.6f}", f"{value * CODATA_2018.kcal_mol:.3f}", style=style)

    row("zero-point energy", gas.zero_point_energy)
    row("H − total energy", gas.enthalpy_correction)
    row("G − total energy", gas.free_energy_correction)
    row("H", gas.enthalpy)
    row("T S", gas.temperature * gas.entropy)
    row("G", gas.free_energy, style="bold")
    table.add_section()
    table.add_row("S", "", f"{gas.entropy_cal_mol_K:.3f} cal/mol/K")
    table.add_row("Cp", "", f"{gas.heat_capacity_pressure_cal_mol_K:.3f} cal/mol/K")
    table.add_row("polarizability", "", f"{float(polarizability.diagonal().mean()):.3f} Å³")
    heat = "The heat of formation above is at 298 K already: do not add zero-point or thermal energy to it.\n"
    table.caption = ((heat if np.isfinite(float(result.heat_of_formation[0])) else "")
                     + "H and G above rest on the total energy.")
    return table


def frames(entries: Entries) -> Table:
    """One line per structure."""
    names = ("charge", "mult.", "energy / eV", "ΔHf / kcal/mol", "dipole / D", "gap / eV", "SCF", "largest force")
    table = _table("", ("frame", RIGHT), ("formula", {}), *((name, RIGHT) for name in names))
    for k, (_, entry) in enumerate(entries, 1):
        if isinstance(entry, Exception):
            table.add_row(str(k), Text(f"{type(entry).__name__}", style="red"))
            continue
        r = entry.result
        homo, lumo = r.homo_lumo(0)
        table.add_row(str(k), entry.atoms.get_chemical_formula(), f"{entry.charge:+d}", str(entry.multiplicity),
                      f"{float(r.energy[0]):.6f}", _level(float(r.heat_of_formation[0])),
                      f"{float(r.dipole_debye[0].norm()):.4f}", _level(lumo - homo), str(int(r.iterations[0])),
                      f"{entry.largest_force:.4f}")
    return table


def words(part: str) -> str:
    """What a part of the energy is called in a table."""
    return NAMES.get(part, part.replace("_", " "))


def methods(entries: Iterable[Method]) -> Table:
    """Methods: name, elements, corrections, citation."""
    table = _table("", ("method", {"style": "bold", "no_wrap": True}), ("elements", {}), ("corrections", {}), ("citation", {}))
    table.show_lines = True
    for m in entries:
        elements = [n for n in m.species if n <= 118]
        corrections = ", ".join(words(GROUPS[c]) for c in m.corrections) or ("a network" if m.card else "none")
        table.add_row(m.name, f"{len(elements)}: {ranges(elements)}", corrections, m.citation)
    return table


def ranges(numbers: list[int]) -> str:
    """Atomic numbers as symbols, runs of three and more as "H-Ca"."""
    runs = []
    for z in sorted(numbers):
        if runs and z == runs[-1][1] + 1:
            runs[-1][1] = z
        else:
            runs.append([z, z])
    return ", ".join(symbol(a) if a == b else f"{symbol(a)}{', ' if b == a + 1 else '–'}{symbol(b)}" for a, b in runs)


def _level(value):
    return f"{value:.4f}" if np.isfinite(value) else "none"


def _table(title, *columns):
    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False,
                  caption_justify="left", min_width=len(title))
    for name, style in columns:
        table.add_column(name, **style)
    return table
