"""Reference structures: labelled frames read from extended XYZ files, and the parts they fall into.

A frame is one structure with its reference energy, forces and whatever else its file holds. Frames are split by molecule, never
by structure: the hash of a molecule's name decides, so that the same molecule falls into the same part whatever file it comes
from, and a part never changes when data are added.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from jaxtyping import Float, Int

from nddo_ml.errors import IncompatibleFile, NDDOError
from nddo_ml.methods.learned import TrainedOn
from nddo_ml.molecules import Molecules
from nddo_ml.properties.centres import centres_of_mass
from nddo_ml.structures.reading import atoms_of, read

PARTS = ("train", "validation", "ions", "radicals", "complexes", "embedded", "large", "dissociation", "atoms")
HELD_OUT = PARTS[1:-1]                                  # never trained on
SAME_KIND = ("validation", "ions", "radicals", "complexes")   # held out by hash alone: what the best weights are chosen by
NEAREST = 0.3            # angstrom: atoms nearer than this are a broken file


@dataclass(frozen=True, eq=False)
class External:
    """Point charges around a frame."""

    positions: Float[np.ndarray, "site 3"]              # angstrom
    charges: Float[np.ndarray, "site"]                  # e
    forces: Float[np.ndarray, "site 3"]                 # on the charges, eV/angstrom


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """One structure with its reference labels; None for a label that its file does not have."""

    source: str                                         # name of the file and index in it
    molecule: str                                       # name that decides the part
    group: str                                          # what the file says of its kind: "core", "complex", "dissociation", ...
    how: str                                            # and of how the structure was made
    numbers: Int[np.ndarray, "atom"]
    positions: Float[np.ndarray, "atom 3"]              # angstrom
    charge: int                                         # e
    multiplicity: int
    energy: float                                       # eV
    forces: Float[np.ndarray, "atom 3"]                 # eV/angstrom, NaN where the level of theory has none
    dipole: Float[np.ndarray, "3"] | None = None        # e angstrom; of an ion about its centre of mass, as in Result
    charges: Float[np.ndarray, "atom"] | None = None    # e
    gap: float | None = None                            # eV
    s2: float | None = None                             # <S^2>
    dispersion_energy: float | None = None              # eV
    dispersion_forces: Float[np.ndarray, "atom 3"] | None = None    # eV/angstrom
    dispersion_included: bool = False                   # whether energy and forces hold the dispersion
    external: External | None = None
    parts_of: str | None = None                         # name shared by a complex and its fragments at the same geometry
    fragment: str | None = None                         # "AB" for the complex, "A" and "B" for its fragments
    differences_only: bool = False                      # only its part in an interaction energy is trained on
    energy_error: float = 0.0                           # standard error of the label, eV: of a Monte Carlo energy
    forces_error: Float[np.ndarray, "atom 3"] | None = None         # the same of each component, eV/angstrom

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def largest_force(self) -> float:
        """Largest component of the labelled forces, 0 where there are none."""
        return float(np.abs(np.nan_to_num(self.forces)).max())

    @property
    def heavy(self) -> int:
        """Atoms other than hydrogen."""
        return int((self.numbers > 1).sum())

    @property
    def species(self) -> tuple[str, str | None, int, int]:
        """What frames that may be compared share: molecule (a fragment is none of its complex), charge, multiplicity."""
        return self.molecule, self.fragment if self.fragment != "AB" else None, self.charge, self.multiplicity

    @property
    def digest(self) -> str:
        """Hash of structure and labels, insensitive to the last digits."""
        h = hashlib.sha256()
        for array in (self.numbers, np.rint(self.positions * 1e5), np.rint(np.nan_to_num(self.forces) * 1e4)):
            h.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        h.update(f"{self.charge} {self.multiplicity} {self.energy:.5f}".encode())
        if self.parts_of is not None:
            h.update(f"{self.parts_of} {self.fragment}".encode())
        if self.external is not None:
            h.update(np.rint(self.external.positions * 1e5).astype(np.int64).tobytes())
        return h.hexdigest()


def load(files: Iterable[str | Path]) -> list[LabelledFrame]:
    """The frames of all files, in order, each once.

    Raises:
        IncompatibleFile: a file, or a frame of it, is unusable, or there are none.
    """
    frames: dict[str, LabelledFrame] = {}
    for file in files:
        for frame in read_frames(file):
            frames.setdefault(frame.digest, frame)
    if not frames:
        raise IncompatibleFile("No reference structures given: name at least one extxyz file under `files`.")
    return list(frames.values())


def read_frames(file: str | Path) -> list[LabelledFrame]:
    """The frames of one extended XYZ file (.extxyz, .xyz, or either with .gz); docs/howto/training.md lists its keys.

    Raises:
        IncompatibleFile: the file, or a frame of it, is unusable.
    """
    path = Path(file)
    if not path.is_file():
        raise IncompatibleFile(f"There is no data file {path}: check `files`.")
    try:
        structures = atoms_of(read(path, results=True))
    except NDDOError as error:
        raise IncompatibleFile(f"{path} is not a readable extended XYZ file: {error}") from error
    return [_frame(path, k, atoms) for k, atoms in enumerate(structures)]


def content_hash(frames: Sequence[LabelledFrame]) -> str:
    """Hash of the frames, whatever their order and files."""
    return hashlib.sha256("".join(sorted(f.digest for f in frames)).encode()).hexdigest()


def key(name: str) -> int:
    """A number of 52 bits that a name always gets: what files of weights keep of the molecules they were trained on."""
    return int(hashlib.sha1(name.encode()).hexdigest()[:13], 16)


def share(name: str) -> float:
    """A number in [0, 1) that a name always gets: what deterministic splits compare with their fractions."""
    return key(name) / 16**13


def part(frame: LabelledFrame, validation: float, large: int) -> str:
    """The part (of PARTS) that a frame belongs to.

    validation: fraction of the molecules that are held out. large: number of heavy atoms from which on molecules are kept for
    tests. Complexes are never large; a fragment goes with its complex.
    """
    if frame.group.startswith("dissociation") or frame.how.startswith("dissociation"):
        return "dissociation"
    if len(frame) == 1 and frame.external is None:
        return "atoms"
    is_complex = frame.group == "complex" or "." in frame.molecule
    if frame.heavy >= large and not is_complex:
        return "large"
    if share(frame.molecule) >= validation:
        return "train"
    if frame.external is not None:
        return "embedded"
    if is_complex:
        return "complexes"
    if frame.multiplicity > 1:
        return "radicals"
    return "ions" if frame.charge else "validation"


def split(frames: Sequence[LabelledFrame], validation: float = 0.1, large: int = 10) -> dict[str, list[LabelledFrame]]:
    """The frames by part; parts without frames are left out."""
    return _by_part((part(frame, validation, large), frame) for frame in frames)


def split_by(trained: TrainedOn, frames: Sequence[LabelledFrame]) -> dict[str, list[LabelledFrame]]:
    """The frames by part as a model sees them; parts without frames are left out.

    `train` are those of molecules it was trained on; all others are held out and lie in the part of their kind. Dissociation
    curves and free atoms stay parts of their own.
    """
    def seen(kind: str, frame: LabelledFrame) -> bool:
        return kind not in ("dissociation", "atoms") and key(frame.molecule) in trained.molecules

    kinds = [part(frame, 1.0, trained.large) for frame in frames]
    return _by_part(("train" if seen(kind, frame) else kind, frame) for kind, frame in zip(kinds, frames, strict=True))


def _by_part(named: Iterable[tuple[str, LabelledFrame]]) -> dict[str, list[LabelledFrame]]:
    """Frames by the part that each goes with, in the order of PARTS."""
    parts: dict[str, list[LabelledFrame]] = {name: [] for name in PARTS}
    for name, frame in named:
        parts[name].append(frame)
    return {name: frames for name, frames in parts.items() if frames}


def limited(frames: Sequence[LabelledFrame], count: int | None) -> list[LabelledFrame]:
    """The first `count` frames in an order by molecule that never changes: nested subsets for learning curves."""
    if count is None or count >= len(frames):
        return list(frames)
    order = sorted(range(len(frames)), key=lambda k: (share("limit " + frames[k].molecule), k))
    return [frames[k] for k in sorted(order[:count])]


def summary(parts: Mapping[str, Sequence[LabelledFrame]]) -> list[dict[str, Any]]:
    """Counts of each part: frames, molecules, atoms, elements, ions, radicals."""
    rows = []
    for name, frames in parts.items():
        elements = Counter(int(z) for f in frames for z in set(f.numbers.tolist()))
        rows.append({"part": name, "frames": len(frames), "molecules": len({f.molecule for f in frames}),
                     "atoms": sum(map(len, frames)), "charged": sum(f.charge != 0 for f in frames),
                     "open_shell": sum(f.multiplicity > 1 for f in frames), "elements": sorted(elements)})
    return rows


def _frame(path: Path, k: int, atoms: Atoms) -> LabelledFrame:
    """Frame k of a file from what ASE read."""
    frame = f"Frame {k} of {path}"
    info, arrays = atoms.info, atoms.arrays
    if atoms.calc is not None:      # ASE moves keys named energy, forces, charges, dipole there; ours carry ref_
        info = {**atoms.calc.results, **info}
    without = "ref_forces_missing" in info                   # the level has none, and says so
    for key, where in (("ref_energy", info), ("ref_forces", arrays)):
        if key not in where and not (without and key == "ref_forces"):
            raise IncompatibleFile(f"{frame} has no `{key}`: expected an extxyz file of reference labels, as "
                                   "`nddo-ml label` writes them.")
    charge, multiplicity = int(info.get("charge", 0)), int(info.get("multiplicity", 1))
    numbers, positions = atoms.numbers.astype(np.int64), atoms.positions.astype(np.float64)
    energy = float(info["ref_energy"])
    forces = np.full(positions.shape, np.nan) if without else np.asarray(arrays["ref_forces"], dtype=np.float64)
    dipole = _array(info, "ref_dipole", (3,), frame)
    energy_error, forces_error = float(info.get("ref_energy_error", 0.0)), _column(arrays, "ref_forces_error")
    if not (np.isfinite(energy) and (without or np.isfinite(forces).all()) and np.isfinite(positions).all()):
        raise IncompatibleFile(f"{frame} has values that are not finite: remove it or label it again.")
    if not 0 <= energy_error < np.inf or (forces_error is not None and not (forces_error >= 0).all()):
        raise IncompatibleFile(f"{frame} has an error bar that is none (`ref_energy_error`, `ref_forces_error`): "
                               "expected numbers of at least 0.")
    if len(numbers) > 1 and _nearest(positions) < NEAREST:
        raise IncompatibleFile(f"{frame} has atoms {_nearest(positions):.3f} angstrom apart: remove it.")
    return LabelledFrame(
        source=f"{path.name}:{k}", molecule=_molecule(info, atoms, charge), group=_text(info.get("group", "")),
        how=_text(info.get("how", "")), numbers=numbers, positions=positions, charge=charge, multiplicity=multiplicity,
        energy=energy, forces=forces, dipole=_about_centre_of_mass(dipole, numbers, positions, charge),
        charges=_column(arrays, "ref_charges"), gap=_number(info, "ref_gap"), s2=_number(info, "ref_s2"),
        dispersion_energy=_number(info, "ref_energy_d3"), dispersion_forces=_column(arrays, "ref_forces_d3"),
        dispersion_included=_text(info.get("ref_dispersion", "")) == "included", external=_external(info, frame),
        parts_of=_name(info, "complex"), fragment=_name(info, "fragment"), energy_error=energy_error,
        forces_error=forces_error)


def _text(value: object) -> str:
    """A string that ASE may have taken for a truth value: fluorine's SMILES is F."""
    return {True: "T", False: "F"}[bool(value)] if isinstance(value, bool | np.bool_) else str(value)


def _name(info: dict, key: str) -> str | None:
    return _text(info[key]) if key in info else None


def _molecule(info: dict, atoms: Atoms, charge: int) -> str:
    """The name of a molecule: its complex's, its SMILES or, for want of these, formula and charge."""
    if "complex" in info:
        return _text(info["complex"]).split("@")[0]
    return _text(info["smiles"]) if "smiles" in info else f"{atoms.get_chemical_formula('hill')} {charge:+d}"


def _number(info: dict, key: str) -> float | None:
    return float(info[key]) if key in info else None


def _column(arrays: dict, key: str) -> np.ndarray | None:
    return np.asarray(arrays[key], dtype=np.float64) if key in arrays else None


def _array(info: dict, key: str, shape: tuple[int, ...], frame: str) -> np.ndarray | None:
    """The array of this shape under a key, None without it; IncompatibleFile names the frame where it is another."""
    if key not in info:
        return None
    values = np.asarray(info[key], dtype=np.float64).reshape(-1)
    if values.size != np.prod(shape) or not np.isfinite(values).all():
        raise IncompatibleFile(f"{frame} has a `{key}` of {values.size} numbers: expected {shape}, finite.")
    return values.reshape(shape)


def _external(info: dict, frame: str) -> External | None:
    """The point charges around a frame."""
    if "pc_charges" not in info:
        return None
    charges = np.asarray(info["pc_charges"], dtype=np.float64).reshape(-1)
    positions, forces = (_array(info, key, (len(charges), 3), frame) for key in ("pc_positions", "ref_pc_forces"))
    if positions is None or forces is None:
        raise IncompatibleFile(f"{frame} has `pc_charges` without `pc_positions` or `ref_pc_forces`.")
    return External(positions, charges, forces)


def _nearest(positions: np.ndarray) -> float:
    """The smallest distance between two atoms, angstrom."""
    d = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return float(d[np.triu_indices(len(d), 1)].min())


def _about_centre_of_mass(dipole: np.ndarray | None, numbers: np.ndarray, positions: np.ndarray,
                          charge: int) -> np.ndarray | None:
    """The dipole of an ion, given about the origin, about its centre of mass."""
    if dipole is None or charge == 0:
        return dipole
    return dipole - charge * centres_of_mass(Molecules.single(numbers, positions, charge))[0].numpy()
