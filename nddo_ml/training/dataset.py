"""Reference structures: labelled frames read from extended XYZ files, and the parts they fall into.

A frame is one structure with its reference energy, forces and whatever else its file holds. Frames are split by molecule, never
by structure: the hash of a molecule's name decides, so that the same molecule falls into the same part whatever file it comes
from, and a part never changes when data are added.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    """Point charges around a frame: positions (site, 3) in angstrom, charges (site) in e, forces on them (site, 3) in eV/A."""

    positions: np.ndarray
    charges: np.ndarray
    forces: np.ndarray


@dataclass(frozen=True, eq=False)
class Frame:
    """One labelled structure. numbers (atom), positions (atom, 3) in angstrom, energy in eV, forces (atom, 3) in eV/angstrom,
    NaN where the level has none; None where the file does not say: dipole (3), e angstrom, of an ion about its centre of mass
    as in Result; charges (atom), e; gap, eV; s2; dispersion_energy and dispersion_forces, kept apart from energy and forces
    unless `dispersion_included`. molecule: what the split goes by; source: file and index.
    """

    source: str
    molecule: str
    group: str
    how: str
    numbers: np.ndarray
    positions: np.ndarray
    charge: int
    multiplicity: int
    energy: float
    forces: np.ndarray
    dipole: np.ndarray | None = None
    charges: np.ndarray | None = None
    gap: float | None = None
    s2: float | None = None
    dispersion_energy: float | None = None
    dispersion_forces: np.ndarray | None = None
    dispersion_included: bool = False
    external: External | None = None
    parts_of: str | None = None         # name shared by a complex and its fragments at the same geometry
    fragment: str | None = None         # "AB" for the complex, "A" and "B" for its fragments
    differences_only: bool = False      # only its part in an interaction energy is trained on
    energy_error: float = 0.0           # standard error of the label, eV: of a Monte Carlo energy
    forces_error: np.ndarray | None = None      # the same of each component, eV/angstrom

    def __len__(self):
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
    def species(self) -> tuple:
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


def load(files: Iterable[str | Path]) -> list[Frame]:
    """The frames of all files, in order, each once. IncompatibleFile names the file and the frame that is unusable."""
    found, seen = [], set()
    for file in files:
        for frame in read_frames(file):
            if frame.digest not in seen:
                seen.add(frame.digest)
                found.append(frame)
    if not found:
        raise IncompatibleFile("No reference structures given: name at least one extxyz file under `files`.")
    return found


def read_frames(file: str | Path) -> list[Frame]:
    """The frames of one extended XYZ file (.extxyz, .xyz, or either with .gz). Keys: docs/training.md."""
    path = Path(file)
    if not path.is_file():
        raise IncompatibleFile(f"There is no data file {path}: check `files`.")
    try:
        structures = atoms_of(read(path, results=True))
    except NDDOError as error:
        raise IncompatibleFile(f"{path} is not a readable extended XYZ file: {error}") from error
    return [_frame(path, k, atoms) for k, atoms in enumerate(structures)]


def content_hash(frames: Sequence[Frame]) -> str:
    """Hash of the frames, whatever their order and files."""
    return hashlib.sha256("".join(sorted(f.digest for f in frames)).encode()).hexdigest()


def key(name: str) -> int:
    """A number of 52 bits that a name always gets: what files of weights keep of the molecules they were trained on."""
    return int(hashlib.sha1(name.encode()).hexdigest()[:13], 16)


def share(name: str) -> float:
    """A number in [0, 1) that a name always gets: what deterministic splits compare with their fractions."""
    return key(name) / 16**13


def part(frame: Frame, validation: float, large: int) -> str:
    """The part (of PARTS) a frame belongs to: `validation` is the fraction of molecules held out, `large` the number of heavy
    atoms from which on molecules are kept for tests. Complexes are never large; a fragment goes with its complex."""
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


def split(frames: Sequence[Frame], validation: float = 0.1, large: int = 10) -> dict[str, list[Frame]]:
    """The frames by part; parts without frames are left out."""
    parts = {name: [] for name in PARTS}
    for frame in frames:
        parts[part(frame, validation, large)].append(frame)
    return {name: found for name, found in parts.items() if found}


def split_by(trained: TrainedOn, frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    """The frames by part as a model sees them: `train` are those of molecules it was trained on, all others are held out and
    lie in the part of their kind. Dissociation curves and free atoms stay parts of their own."""
    parts = {name: [] for name in PARTS}
    for frame in frames:
        kind = part(frame, 1.0, trained.large)
        seen = kind not in ("dissociation", "atoms") and key(frame.molecule) in trained.molecules
        parts["train" if seen else kind].append(frame)
    return {name: found for name, found in parts.items() if found}


def limited(frames: Sequence[Frame], count: int | None) -> list[Frame]:
    """The first `count` frames in an order by molecule that never changes: nested subsets for learning curves."""
    if count is None or count >= len(frames):
        return list(frames)
    order = sorted(range(len(frames)), key=lambda k: (share("limit " + frames[k].molecule), k))
    return [frames[k] for k in sorted(order[:count])]


def summary(parts: dict[str, list[Frame]]) -> list[dict]:
    """Counts of each part: frames, molecules, atoms, elements, ions, radicals."""
    rows = []
    for name, frames in parts.items():
        elements = Counter(int(z) for f in frames for z in set(f.numbers.tolist()))
        rows.append({"part": name, "frames": len(frames), "molecules": len({f.molecule for f in frames}),
                     "atoms": sum(map(len, frames)), "charged": sum(f.charge != 0 for f in frames),
                     "open_shell": sum(f.multiplicity > 1 for f in frames), "elements": sorted(elements)})
    return rows


def _frame(path, k, atoms) -> Frame:
    source = f"{path.name}:{k}"
    info, arrays = atoms.info, atoms.arrays
    if atoms.calc is not None:      # ASE moves keys named energy, forces, charges, dipole there; ours carry ref_
        info = {**atoms.calc.results, **info}
    without = "ref_forces_missing" in info                   # the level has none, and says so
    for key, where in (("ref_energy", info), ("ref_forces", arrays)):
        if key not in where and not (without and key == "ref_forces"):
            raise IncompatibleFile(f"Frame {k} of {path} has no `{key}`: expected an extxyz file of reference labels, as "
                                   "`nddo-ml label` writes them.")
    charge, multiplicity = int(info.get("charge", 0)), int(info.get("multiplicity", 1))
    numbers, positions = atoms.numbers.astype(np.int64), atoms.positions.astype(np.float64)
    energy = float(info["ref_energy"])
    forces = np.full(positions.shape, np.nan) if without else np.asarray(arrays["ref_forces"], dtype=np.float64)
    dipole = _array(info, "ref_dipole", (3,), path, k)
    energy_error, forces_error = float(info.get("ref_energy_error", 0.0)), _column(arrays, "ref_forces_error")
    if not (np.isfinite(energy) and (without or np.isfinite(forces).all()) and np.isfinite(positions).all()):
        raise IncompatibleFile(f"Frame {k} of {path} has values that are not finite: remove it or label it again.")
    if not 0 <= energy_error < np.inf or (forces_error is not None and not (forces_error >= 0).all()):
        raise IncompatibleFile(f"Frame {k} of {path} has an error bar that is none (`ref_energy_error`, `ref_forces_error`): "
                               "expected numbers of at least 0.")
    if len(numbers) > 1 and _nearest(positions) < NEAREST:
        raise IncompatibleFile(f"Frame {k} of {path} has atoms {_nearest(positions):.3f} angstrom apart: remove it.")
    return Frame(source=source, molecule=_molecule(info, atoms, charge), group=_text(info.get("group", "")),
                 how=_text(info.get("how", "")), numbers=numbers, positions=positions, charge=charge, multiplicity=multiplicity,
                 energy=energy, forces=forces, dipole=_about_centre_of_mass(dipole, numbers, positions, charge),
                 charges=_column(arrays, "ref_charges"), gap=_number(info, "ref_gap"), s2=_number(info, "ref_s2"),
                 dispersion_energy=_number(info, "ref_energy_d3"), dispersion_forces=_column(arrays, "ref_forces_d3"),
                 dispersion_included=_text(info.get("ref_dispersion", "")) == "included", external=_external(info, path, k),
                 parts_of=_name(info, "complex"), fragment=_name(info, "fragment"), energy_error=energy_error,
                 forces_error=forces_error)


def _text(value) -> str:
    """A string that ASE may have taken for a truth value: fluorine's SMILES is F."""
    return {True: "T", False: "F"}[bool(value)] if isinstance(value, bool | np.bool_) else str(value)


def _name(info, key):
    return _text(info[key]) if key in info else None


def _molecule(info, atoms, charge) -> str:
    if "complex" in info:
        return _text(info["complex"]).split("@")[0]
    return _text(info["smiles"]) if "smiles" in info else f"{atoms.get_chemical_formula('hill')} {charge:+d}"


def _number(info, key):
    return float(info[key]) if key in info else None


def _column(arrays, key):
    return np.asarray(arrays[key], dtype=np.float64) if key in arrays else None


def _array(info, key, shape, path, k):
    if key not in info:
        return None
    found = np.asarray(info[key], dtype=np.float64).reshape(-1)
    if found.size != np.prod(shape) or not np.isfinite(found).all():
        raise IncompatibleFile(f"Frame {k} of {path} has a `{key}` of {found.size} numbers: expected {shape}, finite.")
    return found.reshape(shape)


def _external(info, path, k):
    if "pc_charges" not in info:
        return None
    charges = np.asarray(info["pc_charges"], dtype=np.float64).reshape(-1)
    shape = (len(charges), 3)
    positions, forces = (_array(info, key, shape, path, k) for key in ("pc_positions", "ref_pc_forces"))
    if positions is None or forces is None:
        raise IncompatibleFile(f"Frame {k} of {path} has `pc_charges` without `pc_positions` or `ref_pc_forces`.")
    return External(positions, charges, forces)


def _nearest(positions) -> float:
    d = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return float(d[np.triu_indices(len(d), 1)].min())


def _about_centre_of_mass(dipole, numbers, positions, charge):
    """The dipole of an ion, given about the origin, about its centre of mass."""
    if dipole is None or charge == 0:
        return dipole
    return dipole - charge * centres_of_mass(Molecules.single(numbers, positions, charge))[0].numpy()
