"""What the terminal shows: results as tables a chemist reads at a glance."""

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from nddo_ml.cli.calculate import Calculation
from nddo_ml.elements import symbol
from nddo_ml.integrals.corrections import GROUPS
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


def heading(name: str, found: Calculation) -> Text:
    """One line: what was calculated and how."""
    m, r = found.molecules, found.result
    multiplicity = int(m.unpaired[0]) + 1
    spins = "unrestricted" if len(r.density(0)) == 2 else "restricted" if multiplicity == 1 else "half-electron"
    line = Text(name, style="bold")
    return line.append(f"   {found.atoms.get_chemical_formula()}, {len(found.atoms)} atoms, charge {int(m.charge[0]):+d}, "
                       f"{MULTIPLICITIES.get(multiplicity, f'multiplicity {multiplicity}')}   {r.method}, {spins}",
                       style="not bold")


def energies(found: Calculation) -> Table:
    """Energies by term, heat of formation, frontier orbitals, dipole, and how the SCF went."""
    r = found.result
    table = _table("", ("", {}), ("eV", RIGHT), ("kcal/mol", RIGHT), ("", {}))
    for name, value in r.energies.items():
        e = float(value[0])
        if e or name in ("electronic", "core_core"):
            table.add_row(NAMES.get(name, name.replace("_", " ")), f"{e:.6f}", f"{e * r.constants.kcal_mol:.4f}")
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
    about = ", about the centre of mass" if int(found.molecules.charge[0]) else ""
    table.add_row("dipole", f"{np.sqrt(x * x + y * y + z * z):.4f}", "debye", f"({x:.4f}, {y:.4f}, {z:.4f}){about}")
    table.add_row("largest force", f"{found.largest_force:.6f}", "eV/Å", "on what may move" if found.atoms.constraints else "")
    table.add_row("SCF", f"{int(r.iterations[0])}", "iterations", f"{r.route[0]}; commutator {float(r.residual[0]):.0e} eV")
    return table


def _bond_energy(r):
    """What stands for the stability of the molecule: the heat of formation, or a trained network's atomization energy."""
    heat, atomization = float(r.heat_of_formation[0]), float(r.atomization_energy[0])
    if np.isfinite(heat):
        return "heat of formation", "", f"{heat:.4f}", "at 298 K, ideal gas"
    return "atomization energy", _level(atomization), _level(atomization * r.constants.kcal_mol), "electronic, 0 K"


def atoms(found: Calculation, every: bool) -> Table:
    """Positions, charges and (of open shells) spin populations of the atoms."""
    r, m = found.result, found.molecules
    spin = len(r.density(0)) == 2
    names = ["x / Å", "y / Å", "z / Å", "charge / e", *(["spin"] if spin else []), *(["force / eV/Å"] if every else [])]
    table = _table("", ("atom", RIGHT), ("", {}), *((name, RIGHT) for name in names))
    shown = len(found.atoms) if every else min(len(found.atoms), SHOWN_ATOMS)
    for k in range(shown):
        row = [str(k + 1), symbol(int(m.numbers[k])), *(f"{x:.4f}" for x in m.positions[k].tolist())]
        row += [f"{float(r.charges[k]):+.4f}"]
        row += [f"{float(r.spin_populations[k]):+.4f}"] if spin else []
        table.add_row(*row, *([f"{float(r.forces[k].norm()):.5f}"] if every else []))
    if shown < len(found.atoms):
        table.caption = f"{len(found.atoms) - shown} more atoms: -v shows all"
    return table


def orbitals(found: Calculation) -> Table:
    """Orbital energies and occupations."""
    r = found.result
    eps, f = r.orbital_energies(0).tolist(), r.occupations(0).tolist()
    names = ("",) if len(eps) == 1 else ("alpha ", "beta ")
    columns = [(f"{s}{what}", RIGHT) for s in names for what in ("energy / eV", "occupation")]
    table = _table("orbitals", ("", RIGHT), *columns)
    for level in range(len(eps[0])):
        table.add_row(str(level + 1), *(cell for s in range(len(eps)) for cell in (f"{eps[s][level]:.4f}", f"{f[s][level]:g}")))
    return table


def bonds(found: Calculation) -> Table:
    """Bond orders worth naming."""
    orders, m = found.result.bond_orders(0).cpu().numpy(), found.molecules
    label = [f"{symbol(z)}{k + 1}" for k, z in enumerate(m.numbers.tolist())]
    table = _table("bond orders (Mayer)", ("bond", {}), ("order", RIGHT))
    for i, j in zip(*np.nonzero(np.triu(orders, 1) > BOND), strict=True):
        table.add_row(f"{label[i]}–{label[j]}", f"{orders[i, j]:.3f}")
    return table


def frequencies(found: Calculation, every: bool) -> Table:
    """Normal modes: frequency, infrared intensity, reduced mass, Raman activity."""
    s = found.spectroscopy
    names = ["mode", "frequency / cm⁻¹", "IR / km/mol", "reduced mass / u"]
    names += ["Raman / Å⁴/u", "depolarisation"] if s.raman is not None else []
    table = _table("harmonic vibrations", *((name, RIGHT) for name in names))
    nu = s.vibrations.frequencies.tolist()
    shown = len(nu) if every else SHOWN_MODES
    strongest = np.sort(np.argsort(-s.intensities.numpy())[:shown])
    for k in strongest:
        row = [str(k + 1), f"{nu[k]:.1f}" if nu[k] >= 0 else f"{-nu[k]:.1f} i", f"{float(s.intensities[k]):.2f}",
               f"{float(s.vibrations.reduced_masses[k]):.3f}"]
        row += [f"{float(s.raman.activities[k]):.2f}", f"{float(s.raman.depolarisation[k]):.3f}"] if s.raman is not None else []
        table.add_row(*row, style="red" if nu[k] < 0 else None)
    if len(strongest) < len(nu):
        table.caption = f"the {len(strongest)} strongest of {len(nu)}: -v shows all"
    return table


def thermodynamics(found: Calculation) -> Table:
    """Ideal-gas thermochemistry and the polarizability."""
    t = found.spectroscopy.thermochemistry
    table = _table(f"ideal gas at {t.temperature:g} K, {t.pressure:g} Pa   point group {t.point_group}, symmetry number "
                   f"{t.symmetry_number}", ("", {}), ("eV", RIGHT), ("kcal/mol", RIGHT))

    def row(name, value, **style):
        table.add_row(name, f"{value:.6f}", f"{value * CODATA_2018.kcal_mol:.3f}", **style)

    row("zero-point energy", t.zero_point_energy)
    row("H − total energy", t.enthalpy_correction)
    row("G − total energy", t.free_energy_correction)
    row("H", t.enthalpy)
    row("T S", t.temperature * t.entropy)
    row("G", t.free_energy, style="bold")
    table.add_section()
    table.add_row("S", "", f"{t.entropy_cal_mol_K:.3f} cal/mol/K")
    table.add_row("Cp", "", f"{t.heat_capacity_pressure_cal_mol_K:.3f} cal/mol/K")
    alpha = found.spectroscopy.polarizability
    table.add_row("polarizability", "", f"{float(alpha.diagonal().mean()):.3f} Å³")
    heat = "The heat of formation above is at 298 K already: do not add zero-point or thermal energy to it.\n"
    table.caption = ((heat if np.isfinite(float(found.result.heat_of_formation[0])) else "")
                     + "H and G above rest on the total energy.")
    return table


def frames(entries: list) -> Table:
    """One line per structure: (name, Calculation or the error)."""
    names = ("charge", "mult.", "energy / eV", "ΔHf / kcal/mol", "dipole / D", "gap / eV", "SCF", "largest force")
    table = _table("", ("frame", RIGHT), ("formula", {}), *((name, RIGHT) for name in names))
    for k, (_, found) in enumerate(entries, 1):
        if isinstance(found, Exception):
            table.add_row(str(k), Text(f"{type(found).__name__}", style="red"))
            continue
        r, m = found.result, found.molecules
        homo, lumo = r.homo_lumo(0)
        table.add_row(str(k), found.atoms.get_chemical_formula(), f"{int(m.charge[0]):+d}", str(int(m.unpaired[0]) + 1),
                      f"{float(r.energy[0]):.6f}", _level(float(r.heat_of_formation[0])),
                      f"{float(r.dipole_debye[0].norm()):.4f}", _level(lumo - homo), str(int(r.iterations[0])),
                      f"{found.largest_force:.4f}")
    return table


def methods(entries) -> Table:
    """Methods: name, elements, corrections, citation."""
    table = _table("", ("method", {"style": "bold", "no_wrap": True}), ("elements", {}), ("corrections", {}), ("citation", {}))
    table.show_lines = True
    for m in entries:
        elements = [n for n in m.species if n <= 118]
        corrections = ", ".join(NAMES[GROUPS[c]] for c in m.corrections) or ("a network" if m.card else "none")
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
