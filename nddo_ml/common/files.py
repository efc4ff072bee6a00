"""Files: text and tensors, written whole or not at all and refused by name where they are something else; folders that one run
at a time writes into.
"""

import os
import pickle
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nddo_ml.common.processes import ALONE, World
from nddo_ml.errors import IncompatibleFile

try:
    import fcntl
except ImportError:      # not on Windows: two runs at once are then not noticed
    fcntl = None

LOCK = ".lock"           # in a folder that is held; it stays there, what counts is the system's lock on it


def alone(descriptor: int) -> bool:
    """Lock an open file for this process; False: another one has it. The lock ends with the process, however that ends."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:      # a file system without locks: two runs at once are not noticed there either
        return True
    return True


@contextmanager
def held(*folders: str | Path, world: World = ALONE) -> Iterator[None]:
    """Hold folders, made where they are missing, for this run while the context lasts.

    world: the processes of this run, if it has several: the first holds the folders, all are refused.

    Raises: IncompatibleFile, if another run holds one of them or it cannot be written.
    """
    descriptors, refusal = [], ""
    try:
        if world.first:
            try:
                for folder in folders:
                    descriptors.append(_claimed(Path(folder)))
            except IncompatibleFile as error:
                refusal = str(error)
        refusal = world.gathered(refusal)[0]
        if refusal:
            raise IncompatibleFile(refusal)
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _claimed(folder: Path) -> int:
    """A descriptor that holds a folder; the file behind it says which process does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise IncompatibleFile(f"{folder} cannot be written ({error.strerror}): choose another output folder.") from error
    if not alone(descriptor):
        who = os.read(descriptor, 100).decode(errors="replace").strip()
        os.close(descriptor)
        raise IncompatibleFile(f"{folder} is being written by another run{f' ({who})' if who else ''}: wait for it, stop it, "
                               "or choose another output folder.")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} of {platform.node()}\n".encode())
    return descriptor


def write_whole(path: str | Path, write: Callable[[str], object]) -> None:
    """Call write(unfinished) with a name beside `path`, then move the file there: a kill leaves the old file or the new one."""
    unfinished = f"{path}.{os.getpid()}.part"
    write(unfinished)
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(unfinished, 0o666 & ~mask)      # the writers of tensors keep files to their owner
    os.replace(unfinished, path)


def write_text(path: str | Path, text: str) -> None:
    """Write text, whole or not at all."""
    write_whole(path, lambda unfinished: Path(unfinished).write_text(text))


def write_checkpoint(path: str | Path, form: str, content: dict[str, Any]) -> None:
    """Write a checkpoint of the format `form`, whole or not at all."""
    write_whole(path, lambda unfinished: torch.save({"format": form, **content}, unfinished))


def read_checkpoint(path: str | Path, form: str, device: str = "cpu") -> dict[str, Any]:
    """What `write_checkpoint` wrote, its tensors on `device`.

    Raises: IncompatibleFile, for anything else.
    """
    try:
        content = torch.load(path, weights_only=True, map_location=device)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise IncompatibleFile(f"{path} is not a readable checkpoint ({type(error).__name__}): choose another output "
                               "folder, or --restart.") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise IncompatibleFile(f"{path} is not a checkpoint of this version: expected {form!r}. Choose another output "
                               "folder, or --restart.")
    return content


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. said: its metadata, "format" among them."""
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_whole(path, lambda unfinished: save_file(plain, unfinished, metadata=dict(said)))


def metadata(path: Path, form: str, expected: str, suffix: str) -> dict[str, str]:
    """What a safetensors file of the format `form` says about itself. expected: what it should have been, in words.

    Raises: IncompatibleFile, if there is no such file, or one of another format.
    """
    if not path.is_file():
        raise IncompatibleFile(f"There is no file {path}: expected {expected} ({suffix}).")
    try:
        with safe_open(path, "np") as archive:
            said = archive.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise IncompatibleFile(f"{path} is not a safetensors file ({error}): expected {expected}.") from None
    if said.get("format") != form:
        other = f"format {said['format']!r}" if "format" in said else "no format"
        raise IncompatibleFile(f"{path} holds other tensors ({other} in its metadata): expected {form!r}, {expected}.")
    return said
