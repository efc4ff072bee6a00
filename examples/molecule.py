"""Aspirin as a chemist would study it: relax it, then its infrared spectrum and free energy.

    python examples/molecule.py        writes aspirin-ir.png
"""

from pathlib import Path

from ase.io import read
from ase.optimize import BFGS

from nddo_ml import NDDO
from nddo_ml.elements import masses
from nddo_ml.properties.response import dipole_derivatives, hessian
from nddo_ml.properties.spectra import ir_spectrum, plot
from nddo_ml.properties.thermochemistry import IdealGas, thermochemistry
from nddo_ml.properties.vibrations import ir_intensities, normal_modes

atoms = read(Path(__file__).parent / "aspirin.xyz")
atoms.info = {}
atoms.calc = NDDO("PM6-D3H4")
BFGS(atoms, logfile=None).run(fmax=0.002)
result, model = atoms.calc.result, atoms.calc.model
print(f"heat of formation  {float(result.heat_of_formation[0]):9.3f} kcal/mol")
print(f"dipole             {float(result.dipole_debye[0].norm()):9.3f} D")
print("HOMO, LUMO         {:9.3f} {:9.3f} eV".format(*result.homo_lumo()))

molecules = result.molecules
vibrations = normal_modes(hessian(model, molecules)[0], masses(molecules.numbers), molecules.positions)
intensities = ir_intensities(dipole_derivatives(model, molecules)[0], vibrations.modes)
gas = thermochemistry(vibrations.frequencies, molecules.numbers, molecules.positions, masses(molecules.numbers),
                      IdealGas(energy=float(result.energy[0])))
print(f"zero-point energy  {gas.zero_point_energy_kcal_mol:9.3f} kcal/mol")
print(f"entropy            {gas.entropy_cal_mol_K:9.3f} cal/mol/K")
print("spectrum:", plot(ir_spectrum(vibrations.frequencies, intensities), "aspirin-ir.png", "aspirin, PM6-D3H4"))
