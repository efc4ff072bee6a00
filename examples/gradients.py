"""Derivatives by anything: a batch, its forces, and how heats of formation answer to the parameters of the method."""

import torch
from ase.build import molecule

from nddo_ml import Hamiltonian, Molecules

frames = [molecule(name) for name in ("H2O", "CH3OH", "CH3CH2OH", "C6H6")]
molecules = Molecules.batch([a.numbers for a in frames], [a.positions for a in frames])

model = Hamiltonian("PM6")
result = model(molecules, forces=True)
dipoles = result.dipole_debye.norm(dim=1).tolist()
for atoms, heat, dipole in zip(frames, result.heat_of_formation.tolist(), dipoles, strict=True):
    print(f"{atoms.get_chemical_formula():8} {heat:9.3f} kcal/mol {dipole:7.3f} D")
print("largest force", float(result.forces.norm(dim=1).max().detach()), "eV/A")

model.requires_grad_(True)
loss = model(molecules).heat_of_formation.square().mean()
loss.backward()
oxygen = model.method.rows(torch.tensor([8]))
print("d loss / d U_pp of oxygen:", float(model.U_pp.grad[oxygen]))
