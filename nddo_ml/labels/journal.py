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
from pathlib import Path

from ase import Atoms
from ase.io import read, write
from ase.io.extxyz import key_val_str_to_dict

from nddo_ml.common.files import alone
from nddo_ml.errors import IncompatibleFile
from nddo_ml.labels.structures import Structure, from_atoms


class Journal:
    """The files of a run at one level; a context manager that holds them for itself.

    labelled: ids of the frames there are. sampled: key of a source -> its structures. failed: id or key -> reason.
    Raises IncompatibleFile: the frames are of another level, not of `nddo-ml label` or broken; another run writes them.
    """

    def __init__(self, path: Path | str, level: str):
        self.path, self.level = Path(path), level
        stem = self.path.with_suffix("")
        self.structures_path, self.errors_path = (stem.with_name(stem.name + end) for end in
                                                  (".structures.extxyz", ".errors.jsonl"))
        self.labelled: set[str] = set()
        self.sampled: dict[str, list[Structure]] = {}
        self.failed: dict[str, str] = {}
        self._files = {}

    def __enter__(self):
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

    def __exit__(self, *error):
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}

    def add(self, atoms: Atoms) -> None:
        """Append a labelled frame."""
        self._append(self.path, text(atoms))
        self.labelled.add(atoms.info["id"])

    def add_structures(self, key: str, structures: list[Structure]) -> None:
        """Append all structures of a source at once."""
        parts = []
        for k, structure in enumerate(structures, 1):
            atoms = structure.atoms
            atoms.info |= {"key": f"k{key}", "part": f"{k} of {len(structures)}"}
            parts.append(text(atoms))
        self._append(self.structures_path, "".join(parts))
        self.sampled[key] = structures

    def add_error(self, key: str, what: dict, reason: str) -> None:
        """Append why something has no label; `what` describes it."""
        self._append(self.errors_path, json.dumps({"id": key, **what, "reason": reason}) + "\n")
        self.failed[key] = reason

    def _append(self, path, record):
        data = record.encode()
        if os.write(self._files[path], data) != len(data):
            raise OSError(f"{path}: the record was not written whole (is the disk full?). The torn end is cut by the next run.")
        os.fsync(self._files[path])

    def _cut(self, path, length):
        os.ftruncate(self._files[path], length)

    def _read_labels(self):
        frames, length = whole_frames(self.path)
        for number, (_, header, _) in enumerate(frames, 1):
            info = key_val_str_to_dict(header)
            if "level" not in info or "id" not in info:
                raise IncompatibleFile(f"{self.path}, frame {number}, was not made by nddo-ml label (no level, no id): choose "
                                       "another output.")
            if info["level"] != self.level:
                raise IncompatibleFile(f"{self.path} holds labels of the level {info['level']!r}, and {self.level!r} is asked "
                                       "for: levels are not mixed; choose another output, or the same level.")
            self.labelled.add(str(info["id"]))
        self._cut(self.path, length)

    def _read_structures(self):
        frames, length = whole_frames(self.structures_path)
        found, starts = defaultdict(dict), {}
        for begin, header, lines in frames:
            atoms = read(io.StringIO(lines), format="extxyz")
            key, (k, _, count) = str(atoms.info.get("key", "")), str(atoms.info.get("part", "")).partition(" of ")
            if not (key.startswith("k") and k.isdigit() and count.isdigit()):
                raise IncompatibleFile(f"{self.structures_path} was not made by nddo-ml label ({header[:60]!r}): move it away.")
            starts.setdefault(key, begin)
            found[key][int(k)] = (int(count), from_atoms(atoms))
        for key, parts in found.items():
            if len(parts) == next(iter(parts.values()))[0]:
                self.sampled[key[1:]] = [structure for _, (_, structure) in sorted(parts.items())]
            else:
                length = min(length, starts[key])      # torn: only the last source can be
        self._cut(self.structures_path, length)

    def _read_errors(self):
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


def whole_frames(path: Path) -> tuple[list[tuple[int, str, str]], int]:
    """(offset, header, text) of the complete frames of an extended XYZ file, and the length of the file up to the end of the
    last one. IncompatibleFile: something else than a torn end follows.
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
        frames.append((begin, header, data[begin:end + 1].decode()))
        begin = end + 1
    return frames, begin


def text(atoms: Atoms) -> str:
    """An extended XYZ frame. Texts survive the reader: its escapes are escaped."""
    atoms = atoms.copy()
    atoms.info = {key: value.replace("\\", "\\\\") if isinstance(value, str) else value for key, value in atoms.info.items()}
    stream = io.StringIO()
    write(stream, atoms, format="extxyz")
    return stream.getvalue()


def _opened(path):
    """A descriptor to append to, held for this process alone. IncompatibleFile: another run holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise IncompatibleFile(f"{path} cannot be written ({error.strerror}): choose another output.") from error
    if not alone(descriptor):
        os.close(descriptor)
        raise IncompatibleFile(f"{path} is being written by another run: wait for it, or choose another output.")
    return descriptor
