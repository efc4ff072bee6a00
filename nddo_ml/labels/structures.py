"""Structures to be labelled: a geometry with its charge, its multiplicity and where it came from.

A structure is known by a hash of what decides its label, so that it is labelled once whatever list it stands in. Positions are
rounded to what an extended XYZ file holds: the label belongs to the written coordinates, not to some nearby ones.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, ground_state_magnetic_moments
from jaxtyping import Float, Int

from nddo_ml.errors import IncompatibleFile, InvalidMolecule
from nddo_ml.structures import said

DECIMALS = 8            # of the coordinates in an extended XYZ file
COINCIDENT = 0.45       # angstrom; no two nuclei of a reference structure are nearer
MAIN_GROUP = (*range(1, 21), *range(31, 39), *range(49, 57), *range(81, 87))
READ_AS_TRUTH = {"F": "[H]F"}    # SMILES that a reader of extended XYZ takes for "false", and the same molecule in other words
TRIPLETS = ("O=O", "[O][O]", "S=S", "[O]=[O]")   # Lewis structures that hide two unpaired electrons
KEYS = ("smiles", "group", "how", "source", "complex", "fragment")      # of the origin, copied from and to atoms.info


@dataclass(frozen=True, eq=False)
class Structure:
    """What a level labels, and where it comes from ("" where that is unknown).

    Raises:
        InvalidMolecule: it cannot be labelled (shapes, coinciding atoms, more or fewer electrons than the multiplicity allows).
    """

    numbers: Int[np.ndarray, "atom"]                            # atomic numbers
    positions: Float[np.ndarray, "atom 3"]                      # angstrom
    charge: int = 0                                             # e
    multiplicity: int = 1                                       # 2S + 1
    unrestricted: bool = False                                  # a singlet with broken spin symmetry is wanted
    point_charges: Float[np.ndarray, "site 4"] | None = None    # around it: x, y, z in angstrom, charge in e
    smiles: str = ""
    group: str = ""                                             # what kind it is, see `kind`; or any name that a list gave
    how: str = ""                                               # it was made
    source: str = ""                                            # file and frame
    complex: str = ""                                           # name shared by a complex and its two fragments
    fragment: str = ""                                          # "AB": the complex; "A", "B": its fragments

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", np.asarray(self.numbers, dtype=np.int64))
        object.__setattr__(self, "positions", _written(self.positions))
        if self.point_charges is not None:
            object.__setattr__(self, "point_charges", _written(self.point_charges))
        _check(self)

    @property
    def id(self) -> str:
        """Hash of all that decides the label (a letter in front: no reader takes it for a number)."""
        words = [" ".join(map(str, self.numbers)), _digits(self.positions), f"{self.charge} {self.multiplicity}"]
        words += ["unrestricted"] if self.unrestricted else []
        words += [_digits(self.point_charges)] if self.point_charges is not None else []
        return "s" + hashlib.sha256("|".join(words).encode()).hexdigest()[:16]

    @property
    def formula(self) -> str:
        """Its elements and how many atoms of each there are."""
        return Atoms(self.numbers).get_chemical_formula()

    @property
    def atoms(self) -> Atoms:
        """The structure as ASE knows it; charge, multiplicity, origin and point charges stand in `info`."""
        info: dict[str, Any] = {"charge": self.charge, "multiplicity": self.multiplicity}
        info |= {"unrestricted": True} if self.unrestricted else {}
        info |= {key: getattr(self, key) for key in KEYS if getattr(self, key)}
        if self.smiles in READ_AS_TRUTH:
            info["smiles"] = READ_AS_TRUTH[self.smiles]
        if self.point_charges is not None:
            info |= {"pc_positions": self.point_charges[:, :3].ravel(), "pc_charges": self.point_charges[:, 3]}
        return Atoms(self.numbers, self.positions, info=info)


def from_atoms(atoms: Atoms, charge: int | None = None, multiplicity: int | None = None, source: str = "") -> Structure:
    """The structure of an Atoms object. Charge and multiplicity come from the arguments, atoms.info, or the sums of initial
    charges and magnetic moments; where nothing is said it is neutral with its lowest multiplicity. source: file and frame.

    Raises:
        InvalidMolecule: it is periodic or cannot be labelled, or what is said of charge and multiplicity contradicts itself.
    """
    info = atoms.info
    if atoms.pbc.any():
        raise InvalidMolecule("The structure is periodic: labels are made of molecules. Set pbc to false, or give --isolated.")
    total = said.agreed("charge", {"the argument": charge} | said.charges(atoms), 0) or 0
    spin = said.agreed("multiplicity", {"the argument": multiplicity} | said.multiplicities(atoms))
    spin = lowest_multiplicity(atoms.numbers, total) if spin is None else spin
    around = None
    if "pc_charges" in info:
        around = np.column_stack([np.reshape(info["pc_positions"], (-1, 3)), np.atleast_1d(info["pc_charges"])])
    origin = {key: str(info[key]) for key in KEYS if key in info} | ({"source": source} if source else {})
    structure = Structure(atoms.numbers, atoms.positions, total, spin, bool(info.get("unrestricted", False)), around, **origin)
    return structure if structure.group else replace(structure, group=kind(structure))


def lowest_multiplicity(numbers: Sequence[int] | Int[np.ndarray, "atom"], charge: int) -> int:
    """2S + 1 of the lowest spin; of a free atom, that of its ground state (Hund's first rule).

    Raises:
        InvalidMolecule: an ion of a transition metal, whose ground state has to be given.
    """
    electrons = int(np.sum(numbers)) - charge
    if len(numbers) > 1 or electrons < 1:
        return 1 + electrons % 2
    if charge and not (int(numbers[0]) in MAIN_GROUP and electrons in MAIN_GROUP):
        raise InvalidMolecule(f"The multiplicity of {chemical_symbols[int(numbers[0])]} with charge {charge:+d} is not "
                              "tabulated: give multiplicity=.")
    return 1 + round(float(ground_state_magnetic_moments[electrons]))


def kind(structure: Structure) -> str:
    """What kind of structure it is: complex, radical, ion or molecule."""
    if "." in structure.smiles:
        return "complex"
    return "radical" if structure.multiplicity > 1 else "ion" if structure.charge else "molecule"


def from_smiles(smiles: str, seed: int, group: str = "") -> Structure:
    """A geometry of one molecule by distance geometry, at random by `seed` (RDKit's ETKDG); charge and unpaired electrons are
    those of the SMILES.

    Raises:
        InvalidMolecule: it is no SMILES, or RDKit finds no geometry.
    """
    from rdkit import Chem
    from rdkit.Chem.rdDistGeom import EmbedMolecule

    molecule = Chem.AddHs(parsed(smiles))
    small = molecule.GetNumAtoms() < 4
    if all(EmbedMolecule(molecule, randomSeed=(seed + k) % 2**31, useRandomCoords=small or k > 0) for k in range(3)):
        raise InvalidMolecule(f"RDKit finds no geometry of the SMILES {smiles!r}: give a structure file instead.")
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    charge = Chem.GetFormalCharge(molecule)
    unpaired = 2 if smiles in TRIPLETS else sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    multiplicity = lowest_multiplicity(numbers, charge) if len(numbers) == 1 else unpaired + 1
    structure = Structure(numbers, molecule.GetConformer().GetPositions(), charge, multiplicity, smiles=smiles, how="embedded")
    return replace(structure, group=group or kind(structure))


def parsed(smiles: str) -> Any:
    """RDKit's molecule (Chem.Mol) of a SMILES, without hydrogens.

    Raises:
        InvalidMolecule: it is no SMILES.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise InvalidMolecule(f"{smiles!r} is not a SMILES that RDKit understands: check brackets, ring numbers and valences.")
    return molecule


def read_smiles(path: Path) -> list[tuple[str, str]]:
    """(SMILES, group) of a list: .smi (one a line, then an optional group or name; # starts a comment) or .json (strings, or
    records with "smiles" and perhaps "group").

    Raises:
        IncompatibleFile: it is no such list, or empty.
    """
    text = Path(path).read_text(encoding="utf-8")
    if Path(path).suffix.lower() == ".json":
        try:
            entries = json.loads(text)
            if not isinstance(entries, list):
                raise TypeError(f"a {type(entries).__name__}")
            listed = [(e, "") if isinstance(e, str) else (e["smiles"], e.get("group", "")) for e in entries]
        except (ValueError, KeyError, TypeError) as error:
            raise IncompatibleFile(f"{path} is no list of SMILES ({type(error).__name__}: {error}): expected a JSON list of "
                                   'strings, or of records with "smiles" and perhaps "group".') from error
    else:
        words = [line.split() for line in text.splitlines()]
        listed = [(w[0], w[1] if len(w) > 1 else "") for w in words if w and not w[0].startswith("#")]
    if not listed:
        raise IncompatibleFile(f"{path} holds no SMILES: expected at least one.")
    return listed


def _written(values: Any) -> np.ndarray:
    """Numbers, rounded to what a file holds."""
    return np.round(np.asarray(values, dtype=float), DECIMALS) + 0.0     # + 0.0: no negative zero


def _digits(values: np.ndarray) -> str:
    """Numbers as text, for the hash."""
    return " ".join(f"{x:.{DECIMALS}f}" for x in values.ravel())


def _check(structure: Structure) -> None:
    """Raise InvalidMolecule for what cannot be labelled."""
    numbers, positions, around = structure.numbers, structure.positions, structure.point_charges
    if len(numbers) == 0 or positions.shape != (len(numbers), 3) or not np.isfinite(positions).all():
        raise InvalidMolecule(f"{len(numbers)} atoms with positions of shape {positions.shape}: expected at least one atom and "
                              "a finite position for each.")
    if around is not None and (around.ndim != 2 or around.shape[1] != 4 or not np.isfinite(around).all()):
        raise InvalidMolecule(f"Point charges of shape {around.shape}: expected (site, 4), finite: x, y, z, charge.")
    electrons = int(numbers.sum()) - structure.charge
    if structure.multiplicity < 1 or (electrons - structure.multiplicity + 1) % 2 or electrons < structure.multiplicity - 1:
        raise InvalidMolecule(f"{structure.formula} with charge {structure.charge:+d} has {electrons} electrons, which cannot "
                              f"have multiplicity {structure.multiplicity}.")
    if len(numbers) > 1:
        d = np.linalg.norm(positions[:, None] - positions[None], axis=-1)[np.triu_indices(len(numbers), 1)].min()
        if d < COINCIDENT:
            raise InvalidMolecule(f"Two atoms of {structure.formula} are {d:.3f} angstrom apart: below {COINCIDENT} there is "
                                  "no chemistry to learn.")
