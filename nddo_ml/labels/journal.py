"""What a label run has written: frames, sampled structures, errors; and how a run that was killed goes on.

Each record is appended by one write and brought to the disk before the next task counts as done, so a kill at any moment leaves
complete records and at most one torn one at the end, which the next run cuts. A frame is known by the id of its structure and
is never written twice. The three files stand side by side: OUT.extxyz, OUT.structures.extxyz (sampled, not yet labelled),
OUT.errors.jsonl.
"""

import io
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ase import Atoms
from ase.io import iread, write
from ase.io.extxyz import key_val_str_to_dict

from nddo_ml.common.files import alone
from nddo_ml.errors import IncompatibleFile
from nddo_ml.labels.structures import Structure, from_atoms


class Journal:
    """The files of a run at one level; a context manager that holds them for itself.

    Raises:
        IncompatibleFile: the frames are of another level, not of `nddo-ml label`, or broken; or another run writes them.
    """

    def __init__(self, path: Path | str, level: str):
        self.path, self.level = Path(path), level
        stem = self.path.with_suffix("")
        self.structures_path = stem.with_name(f"{stem.name}.structures.extxyz")
        self.errors_path = stem.with_name(f"{stem.name}.errors.jsonl")
        self.labelled: set[str] = set()                     # ids of the frames there are
        self.sampled: dict[str, list[Structure]] = {}       # key of a source -> its structures
        self.failed: dict[str, str] = {}                    # id of a structure, or key of a source -> reason
        self._files: dict[Path, int] = {}                   # -> descriptor, while they are held

    def __enter__(self) -> "Journal":
        try:
            for path in (self.path, self.structures_path, self.errors_path):
                self._files[path] = _opened(path)
            self._read_labels()
            self._read_structures()
            self._read_errors()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}

    def add(self, atoms: Atoms) -> None:
        """Append a labelled frame."""
        self._append(self.path, text(atoms))
        self.labelled.add(atoms.info["id"])

    def add_structures(self, key: str, structures: list[Structure]) -> None:
        """Append all structures of a source, known by its key (Sampling.key), at once."""
        parts = []
        for k, structure in enumerate(structures, 1):
            atoms = structure.atoms
            atoms.info |= {"key": f"k{key}", "part": f"{k} of {len(structures)}"}
            parts.append(text(atoms))
        self._append(self.structures_path, "".join(parts))
        self.sampled[key] = structures

    def add_error(self, key: str, what: Mapping[str, Any], reason: str) -> None:
        """Append why something has no label: the id of a structure or the key of a source, and in words `what` it is."""
        self._append(self.errors_path, json.dumps({"id": key, **what, "reason": reason}) + "\n")
        self.failed[key] = reason

    def _append(self, path: Path, record: str) -> None:
        data = record.encode()
        if os.write(self._files[path], data) != len(data):
            raise OSError(f"{path}: the record was not written whole (is the disk full?). The torn end is cut by the next run.")
        os.fsync(self._files[path])

    def _cut(self, path: Path, length: int) -> None:
        os.ftruncate(self._files[path], length)

    def _read_labels(self) -> None:
        frames, length = whole_frames(self.path)
        for number, written in enumerate(frames, 1):
            info = key_val_str_to_dict(written.header)
            if "level" not in info or "id" not in info:
                raise IncompatibleFile(f"{self.path}, frame {number}, was not made by nddo-ml label (no level, no id): choose "
                                       "another output.")
            if info["level"] != self.level:
                raise IncompatibleFile(f"{self.path} holds labels of the level {info['level']!r}, and {self.level!r} is asked "
                                       "for: levels are not mixed; choose another output, or the same level.")
            self.labelled.add(str(info["id"]))
        self._cut(self.path, length)

    def _read_structures(self) -> None:
        frames, length = whole_frames(self.structures_path)
        sources: dict[str, dict[int, Structure]] = defaultdict(dict)        # key -> number of a part -> structure
        counts, starts = {}, {}                                             # key -> how many parts, place of the first
        for written in frames:
            atoms = next(iread(io.StringIO(written.text), format="extxyz"))
            key, (k, _, count) = str(atoms.info.get("key", "")), str(atoms.info.get("part", "")).partition(" of ")
            if not (key.startswith("k") and k.isdigit() and count.isdigit()):
                raise IncompatibleFile(f"{self.structures_path} was not made by nddo-ml label ({written.header[:60]!r}): move "
                                       "it away.")
            starts.setdefault(key, written.offset)
            counts.setdefault(key, int(count))
            sources[key][int(k)] = from_atoms(atoms)
        for key, parts in sources.items():
            if len(parts) == counts[key]:
                self.sampled[key[1:]] = [structure for _, structure in sorted(parts.items())]
            else:
                length = min(length, starts[key])      # torn: only the last source can be
        self._cut(self.structures_path, length)

    def _read_errors(self) -> None:
        length = 0
        for line in self.errors_path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            length += len(line)
            try:
                entry = json.loads(line)
                self.failed[entry["id"]] = entry["reason"]
            except (ValueError, KeyError, TypeError) as error:
                raise IncompatibleFile(f"{self.errors_path} was not made by nddo-ml label ({line[:60]!r}): move it "
                                       "away.") from error
        self._cut(self.errors_path, length)


class WrittenFrame(NamedTuple):
    """A frame of an extended XYZ file, as text."""

    offset: int         # byte at which it begins
    header: str         # its second line
    text: str           # all of it


def whole_frames(path: Path) -> tuple[list[WrittenFrame], int]:
    """The complete frames of an extended XYZ file, and the length of the file up to the end of the last one, in bytes.

    Raises:
        IncompatibleFile: something else than a torn end follows.
    """
    data = path.read_bytes()
    frames, begin = [], 0
    while begin < len(data):
        stop = data.find(b"\n", begin)
        if stop < 0 or not data[begin:].strip(b"\0"):
            break                                    # torn in its first line, or blocks the disk never filled
        try:
            count = int(data[begin:stop])
        except ValueError:
            raise IncompatibleFile(f"{path} is broken at byte {begin} ({data[begin:stop][:40]!r}, no number of atoms): "
                                   "it was changed by something else; restore it, or choose another output.") from None
        end = stop
        for _ in range(count + 1):
            end = data.find(b"\n", end + 1)
            if end < 0:
                break
        if end < 0:
            break
        header = data[stop + 1:data.find(b"\n", stop + 1)].decode()
        frames.append(WrittenFrame(begin, header, data[begin:end + 1].decode()))
        begin = end + 1
    return frames, begin


def text(atoms: Atoms) -> str:
    """The Atoms as a frame of an extended XYZ file. Texts survive the reader: its escapes are escaped."""
    atoms = atoms.copy()
    atoms.info = {key: value.replace("\\", "\\\\") if isinstance(value, str) else value for key, value in atoms.info.items()}
    stream = io.StringIO()
    write(stream, atoms, format="extxyz")
    return stream.getvalue()


def _opened(path: Path) -> int:
    """A descriptor to append to, held for this process alone; IncompatibleFile where another run holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise IncompatibleFile(f"{path} cannot be written ({error.strerror}): choose another output.") from error
    if not alone(descriptor):
        os.close(descriptor)
        raise IncompatibleFile(f"{path} is being written by another run: wait for it, or choose another output.")
    return descriptor
