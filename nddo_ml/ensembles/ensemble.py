"""Ensembles: learned Hamiltonians trained alike from different starts; what they disagree about is what they do not know.

The mean is the prediction. The standard deviation over the members, turned into an uncertainty by a calibration on labelled
frames, says how far it may be off. The file of an ensemble is JSON beside the weights it names:

    Ensemble.load("trained")(molecules, forces=True).energy_uncertainty
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.common.json import write_json
from nddo_ml.elements import symbol
from nddo_ml.ensembles.calibration import Calibration
from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.hamiltonian.starts import HasDensity
from nddo_ml.methods import Method, learned
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.scf.options import SCFKeywords, asked

FORMAT = "nddo_ml ensemble 1"
FILE = "ensemble.json"
TRAINED = "seed-*/model.safetensors"      # where a training leaves its members


@dataclass(frozen=True, eq=False)
class EnsembleResult:
    """Means over the members, and how sure they are. Where the SCF of one member did not converge, all values are NaN.

    Spreads are standard deviations over the members (n - 1). Uncertainties are calibrated standard deviations of the error.
    Forces, and what is said of them, are None unless they were asked for.
    """

    molecules: Molecules
    energy: Float[Tensor, "molecule"]                       # mean, eV
    forces: Float[Tensor, "atom 3"] | None                  # mean, eV/angstrom
    dipole: Float[Tensor, "molecule 3"]                     # mean, e angstrom
    charges: Float[Tensor, "atom"]                          # mean, e
    energy_spread: Float[Tensor, "molecule"]                # eV
    forces_spread: Float[Tensor, "atom 3"] | None           # of each component, eV/angstrom
    dipole_spread: Float[Tensor, "molecule 3"]              # of each component, e angstrom
    energy_uncertainty: Float[Tensor, "molecule"]           # eV
    forces_uncertainty: Float[Tensor, "atom 3"] | None      # of each component, eV/angstrom
    # of a component of the force on an atom whatever its direction (root mean square over the three), unchanged by rotations
    atom_uncertainty: Float[Tensor, "atom"] | None          # eV/angstrom
    converged: Bool[Tensor, "molecule"]                     # the SCF of every member
    members: tuple[Result, ...]                             # the results of the members

    def density(self, k: int = 0) -> Float[Tensor, "spin orbital orbital"]:
        """Density matrix of molecule k of the first member: an ensemble's result serves as guess for the next."""
        return self.members[0].density(k)


class Ensemble:
    """Learned Hamiltonians as one model: `Ensemble(["a.safetensors", "b.safetensors"])(molecules)`.

    members: files of weights, names of shipped models, or Hamiltonians that learned something; two or more, of the same parent,
    elements, level of theory and dispersion. calibration: None: uncertainties are bare standard deviations. device: of members
    that are read from files.

    Raises:
        UnknownOption: there are fewer than two members, one has learned nothing, or they are on several devices.
        IncompatibleFile: a file is unusable, or the members differ in what they must share.
    """

    def __init__(self, members: Sequence[str | Path | Hamiltonian], calibration: Calibration | None = None,
                 device: torch.device | str | None = None):
        if isinstance(members, str | Path):
            raise UnknownOption(f"One name was given ({members}): an ensemble has two members or more; Ensemble.load reads the "
                                "file of an ensemble.")
        self.members = tuple(m if isinstance(m, Hamiltonian) else Hamiltonian(str(m), device=device) for m in members)
        self.calibration = calibration or Calibration()
        _alike(self.members)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def method(self) -> Method:
        """The method of the first member: elements, parent, orbitals."""
        return self.members[0].method

    @property
    def level(self) -> str:
        """The level of theory the members learned; "unknown" where they do not say."""
        return _level(self.members[0]) or "unknown"

    @property
    def device(self) -> torch.device:
        """Where the members calculate."""
        return _device(self.members[0])

    @torch.no_grad()
    def __call__(self, molecules: Molecules, *, forces: bool = False, guess: HasDensity | None = None,
                 field: Float[Tensor, "molecule 3"] | None = None, point_charges: PointCharges | None = None,
                 **scf: Unpack[SCFKeywords]) -> EnsembleResult:
        """Means and uncertainties of molecules; arguments as for a Hamiltonian.

        The first member starts from the guess, the others from its density, which halves their iterations. Nothing is on a
        tape.

        Raises:
            TypeError: an ensemble has no such option.
            InvalidMolecule, MissingParameter, SCFNotConverged, UnknownOption: as a Hamiltonian does.
        """
        asked(scf)
        results: list[Result] = []
        for member in self.members:
            results.append(member(molecules, forces=forces, guess=results[0] if results else guess, field=field,
                                  point_charges=point_charges, **scf))
        return combined(results, self.calibration)

    @staticmethod
    def load(source: str | Path, device: torch.device | str | None = None) -> "Ensemble":
        """The ensemble of a folder or of its JSON file. Of a folder without ensemble.json: the members that a training left
        there, not calibrated.

        Raises:
            IncompatibleFile: there is none, or a member is not the file that was calibrated.
        """
        path = Path(source)
        if path.is_dir() and not (path / FILE).exists():
            members = sorted(path.glob(TRAINED))
            if len(members) < 2:
                raise IncompatibleFile(f"{path} holds no {FILE} and {len(members)} of two or more {TRAINED}: give the output "
                                       "folder of a training with several seeds, or the file of an ensemble.")
            return Ensemble(members, device=device)
        path = path / FILE if path.is_dir() else path
        said = _read(path)
        members = [_member(path, name, digest) for name, digest in zip(said["members"], said["sha256"], strict=True)]
        return Ensemble(members, Calibration.from_dict(said["calibration"], str(path)), device)

    def save(self, path: str | Path) -> Path:
        """Write the file of the ensemble, and return its path; of a folder: its ensemble.json.

        It is JSON, written whole or not at all, names the members' files, relative to itself, and holds the calibration.

        Raises:
            UnknownOption: a member was never saved.
        """
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        cards = [m.method.card for m in self.members if m.method.card is not None]
        if len(cards) < len(self.members):
            raise UnknownOption("A member of the ensemble has no file: nddo_ml.weights.save writes it, then make the ensemble "
                                "from the files.")
        shipped = set(learned.names())
        names = [c.name if c.name in shipped else Path(os.path.relpath(c.path, path.parent)).as_posix() for c in cards]
        elements = " ".join(symbol(z) for z in cards[0].elements)
        said = {"format": FORMAT, "level": self.level, "elements": elements, "members": names,
                "sha256": [_digest(c.path) for c in cards], "calibration": self.calibration.as_dict()}
        write_json(path, said)
        return path


def combined(results: Sequence[Result], calibration: Calibration) -> EnsembleResult:
    """Means, standard deviations and calibrated uncertainties of the members' results."""
    first = results[0]
    converged = torch.stack([r.converged for r in results]).all(0)
    of_atoms = converged.index_select(0, first.molecules.molecule)

    energy, energy_spread = _moments([r.energy for r in results], converged)
    dipole, dipole_spread = _moments([r.dipole for r in results], converged)
    charges, _ = _moments([r.charges for r in results], of_atoms)
    forces = forces_spread = forces_uncertainty = atom_uncertainty = None
    asked = [r.forces for r in results if r.forces is not None]
    if asked:
        forces, forces_spread = _moments(asked, of_atoms)
        forces_uncertainty = calibration.forces(forces_spread)
        atom_uncertainty = calibration.forces(atom_spread(forces_spread))
    return EnsembleResult(
        molecules=first.molecules, energy=energy, forces=forces, dipole=dipole, charges=charges, energy_spread=energy_spread,
        forces_spread=forces_spread, dipole_spread=dipole_spread, energy_uncertainty=calibration.energy(energy_spread),
        forces_uncertainty=forces_uncertainty, atom_uncertainty=atom_uncertainty, converged=converged, members=tuple(results))


def _moments(values: Sequence[Tensor], known: Bool[Tensor, "row"]) -> tuple[Float[Tensor, "row ..."], Float[Tensor, "row ..."]]:
    """Mean and standard deviation over the members, NaN in the rows that are not known."""
    stack = torch.stack([v.detach() for v in values])
    mask = known.view(-1, *[1] * (stack.dim() - 2))
    return torch.where(mask, stack.mean(0), torch.nan), torch.where(mask, stack.std(0), torch.nan)


def atom_spread(forces_spread: Float[Tensor, "atom 3"]) -> Float[Tensor, "atom"]:
    """Root mean square over the components of the spread of forces."""
    return forces_spread.square().mean(-1).sqrt()


def _alike(members: Sequence[Hamiltonian]) -> None:
    """Refuse members that do not belong together."""
    if len(members) < 2:
        raise UnknownOption(f"An ensemble of {len(members)}: two members or more are needed to disagree.")
    for k, member in enumerate(members):
        if member.network is None and member.method.card is None:
            raise UnknownOption(f"Member {k} of the ensemble, {member.method.name}, has no network: published methods have no "
                                "spread; give files of trained weights.")
    first = members[0]
    for k, member in enumerate(members[1:], 1):
        for what, of in (("parent", _parent), ("elements", _elements), ("level of theory", _level),
                         ("dispersion", lambda m: m.dispersion)):
            one, other = of(first), of(member)
            if one != other and not (what == "level of theory" and None in (one, other)):
                raise IncompatibleFile(f"Members of an ensemble must share their {what}: {_named(first, 0)} has {one}, "
                                       f"{_named(member, k)} has {other}. Train them alike.")
        if _device(member) != _device(first):
            raise UnknownOption(f"Members of an ensemble must be on one device: {_named(first, 0)} is on {_device(first)}, "
                                f"{_named(member, k)} on {_device(member)}.")


def _device(member: Hamiltonian) -> torch.device:
    return member.get_parameter("U_ss").device


def _parent(member: Hamiltonian) -> str:
    return member.method.published.name


def _elements(member: Hamiltonian) -> str:
    species: Sequence[int] = getattr(member.network, "species", member.method.species)
    return " ".join(symbol(z) for z in sorted(species))


def _level(member: Hamiltonian) -> str | None:
    return None if member.method.card is None else member.method.card.level


def _named(member: Hamiltonian, k: int) -> str:
    """What errors call a member."""
    return f"member {k}" if member.method.card is None else member.method.card.path.as_posix()


def _read(path: Path) -> dict[str, Any]:
    """What the file of an ensemble says; IncompatibleFile where it is none."""
    try:
        said = json.loads(path.read_text())
    except FileNotFoundError:
        raise IncompatibleFile(f"There is no ensemble {path}: give the folder or the file that Ensemble.save wrote.") from None
    except (ValueError, OSError) as error:
        raise IncompatibleFile(f"{path} is not the JSON file of an ensemble ({type(error).__name__}).") from None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise IncompatibleFile(f"{path} is not the file of an ensemble: expected the format {FORMAT!r} of Ensemble.save.")
    missing = [key for key in ("members", "sha256", "calibration") if key not in said]
    if missing or len(said["members"]) != len(said["sha256"]):
        raise IncompatibleFile(f"{path} lacks {', '.join(missing) or 'a hash of each member'}: it was edited; save it again.")
    return said


def _member(path: Path, name: str, digest: str) -> str | Path:
    """The file or the name of a member; IncompatibleFile where it is not the one that the ensemble `path` was made of."""
    card = learned.shipped().get(name.lower())
    file = path.parent / name if card is None else card.path
    if not file.is_file():
        raise IncompatibleFile(f"{path} names the member {name}, which is not there: keep the weights beside it.")
    if _digest(file) != digest:
        raise IncompatibleFile(f"{file} is not the file that {path} was calibrated with: calibrate again, or restore it.")
    return file if card is None else name


def _digest(path: Path) -> str:
    """Hash of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
