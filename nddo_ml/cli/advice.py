"""What a user should know before trusting the numbers of a calculation."""

from nddo_ml.cli.calculate import Calculation, Spectroscopy
from nddo_ml.geometry.constraints import described
from nddo_ml.geometry.optimise import Optimised
from nddo_ml.properties.vibrations import SOFT


def warnings(calculation: Calculation) -> list[str]:
    """All warnings about a calculation."""
    lines = []
    if calculation.optimisation is not None:
        lines += of_optimisation(calculation.optimisation.optimised, calculation.largest_force)
    if calculation.spectroscopy is not None:
        lines += of_vibrations(calculation, calculation.spectroscopy)
    return lines


def of_optimisation(optimised: Optimised, largest: float) -> list[str]:
    """What stopped an optimisation that did not converge, and the steps of the energy that it climbed. largest: the largest
    force on an atom at its end, eV/angstrom."""
    lines = []
    if not bool(optimised.converged[0]):
        if bool(optimised.stuck[0]) and bool(optimised.lost[0]):
            why = ("no step, however short, led to a geometry that can be calculated (the SCF fails or atoms meet): look at "
                   "the structure, raise --max-steps")
        elif bool(optimised.stuck[0]):
            why = ("no step, however short, was acceptable, because the energy has a step or a kink here (nddo-ml methods NAME "
                   "tells where a method has them) or the SCF changes its state: look at the structure, start from another one")
        elif bool(optimised.lost[0]):
            why = "the last geometries could not be calculated: look at the structure"
        else:
            why = "raise --steps"
        lines.append(f"The optimisation stopped after {int(optimised.evaluations[0])} evaluations with a largest force of "
                     f"{largest:.4f} eV/Å: {why}.")
    if float(optimised.step[0]):
        lines.append(f"The energy has a step of {float(optimised.step[0]):.4f} eV on the way (nddo-ml methods NAME tells where "
                     "a method has them): from there on the forces were followed, whatever the energy.")
    return lines


def of_vibrations(calculation: Calculation, spectroscopy: Spectroscopy) -> list[str]:
    """What is to be known of frequencies."""
    vibrations, gas, lines = spectroscopy.vibrations, spectroscopy.thermochemistry, []
    if calculation.largest_force > 0.05:
        lines.append(f"This is no stationary point (largest force {calculation.largest_force:.3f} eV/Å), so its frequencies "
                     "mean little: use --opt.")
    if gas is None:
        lines.append(f"Frequencies of what may move ({described(calculation.atoms)}), translations and rotations "
                     "included; no thermochemistry. Remove the constraints for those of the whole molecule.")
    if vibrations.unstable:
        left = "" if gas is None else "; they are left out of the thermochemistry"
        lines.append(f"{vibrations.unstable} imaginary frequencies: not a minimum{left}.")
    elif vibrations.imaginary and gas is not None:
        lines.append(f"{vibrations.imaginary} imaginary frequencies below {SOFT:g}i cm⁻¹, as soft modes have in geometries of "
                     "finite accuracy (--fmax): left out of the thermochemistry.")
    return lines
