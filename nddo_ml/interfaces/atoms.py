"""ASE's Atoms as molecules of this package.

Charge and multiplicity come from the arguments, from `atoms.info` ("charge"; "multiplicity", or "spin", which is read as the
multiplicity 2S + 1 too; nddo_ml.structures.said lists other names of both) or from the sums of the initial charges and magnetic
moments; sources that disagree are refused, never overruled. Where nothing is said a molecule is neutral and has the lowest
multiplicity of its electron count. Sparkles and pseudo-atoms are named in `atoms.arrays["species"]`
(names of nddo_ml.elements; the atomic number of a pseudo-atom is 0, ASE's "X").
"""

from typing import Any

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float, Int

from nddo_ml.elements import SPARKLE, is_sparkle, number, symbol
from nddo_ml.errors import InvalidMolecule
from nddo_ml.methods import Method
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.structures import said
from nddo_ml.structures.said import agreed

# arrays with names of species; the second survives extended XYZ, whose own column is called species
NAMES = ("species", "nddo_species")


def snapshot(atoms: Atoms) -> dict[str, Any]:
    """What of an Atoms object decides its results, under ASE's names of changes, and under "info" what else it says of species,
    charge and multiplicity. A change of any of it changes what is returned, to the last bit."""
    arrays = atoms.arrays
    held = {name: arrays[name].tobytes() if name in arrays else None
            for name in ("positions", "numbers", "initial_charges", "initial_magmoms")}
    listed = [(name, arrays[name].tolist()) for name in (*NAMES, said.FORMAL) if name in arrays]
    words = [(key, repr(value)) for key, value in atoms.info.items() if said.meaning(key)]
    return {**held, "cell": atoms.cell.array.tobytes(), "pbc": atoms.pbc.tobytes(), "info": (listed, words)}


def molecule(atoms: Atoms, method: Method, charge: int | None = None, multiplicity: int | None = None) -> Molecules:
    """The molecule an Atoms object stands for; charge and multiplicity as in the head of this file.

    Raises: InvalidMolecule, for periodic or no atoms, contradicting sources, names of species that do not exist;
    MissingParameter.
    """
    if np.any(atoms.pbc):
        raise InvalidMolecule(f"The structure is periodic (pbc = {atoms.pbc.tolist()}): this is a method for molecules. To "
                              "take one cell as an isolated molecule (the boundary must not cut it) set atoms.pbc = False, or "
                              "give --isolated on the command line.")
    if len(atoms) == 0:
        raise InvalidMolecule("The structure has no atoms: give at least one.")
    numbers = species(atoms)
    total = total_charge(atoms, charge)
    return Molecules.single(numbers, atoms.positions, total, spin_multiplicity(atoms, method, numbers, total, multiplicity))


def species(atoms: Atoms) -> Int[np.ndarray, "atom"]:
    """Species numbers: the atomic numbers, or what the array of names says.

    Raises: InvalidMolecule, where the two contradict each other.
    """
    names = next((atoms.arrays[key] for key in NAMES if key in atoms.arrays), None)
    if names is None:
        return atoms.numbers
    named = np.array([number(str(name)) for name in names])
    for k, (wanted, z) in enumerate(zip(named.tolist(), atoms.numbers.tolist(), strict=True)):
        element = wanted - SPARKLE if is_sparkle(wanted) else wanted
        if z not in (0, element):
            raise InvalidMolecule(f"Atom {k} is {symbol(z)} by its atomic number and {names[k]} by its name in "
                                  "atoms.arrays['species']: make them agree, or remove the array.")
    return named


def total_charge(atoms: Atoms, argument: int | None = None) -> int:
    """The charge (e) that the argument, atoms.info and the initial charges agree on; 0 where none is given.

    Raises: InvalidMolecule, if they do not agree or it is no whole number.
    """
    return agreed("charge", {"the argument": argument} | said.charges(atoms), 0) or 0


def spin_multiplicity(atoms: Atoms, method: Method, numbers: Int[np.ndarray, "atom"], charge: int, argument: int | None = None
                      ) -> int:
    """The multiplicity that the argument, atoms.info and the initial magnetic moments agree on; where none is given, the lowest
    there is.

    Raises: InvalidMolecule, as above.
    """
    given = agreed("multiplicity", {"the argument": argument} | said.multiplicities(atoms))
    if given is not None:
        return given
    cores = method.elements.core[method.rows(torch.as_tensor(np.asarray(numbers, dtype=np.int64)))].sum()
    return 1 + (round(float(cores)) - charge) % 2


def charge_table(given: Any) -> Float[np.ndarray, "site 4"]:
    """Point charges as one array of x y z (angstrom) q (e), from that or from (positions, charges).

    Raises: InvalidMolecule, if they are neither.
    """
    try:
        table = np.array(given, dtype=float)
    except (TypeError, ValueError):   # positions and charges differ in shape
        table = np.zeros((0, 0))
    if table.ndim == 2 and table.shape[1] == 4:
        return table
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InvalidMolecule("point_charges must be (positions, charges) in angstrom and e, or an array of x y z q, one row "
                              "for each charge.")
    charges = PointCharges.single(*given)
    return np.column_stack((charges.positions.detach().cpu().numpy(), charges.charges.detach().cpu().numpy()))
