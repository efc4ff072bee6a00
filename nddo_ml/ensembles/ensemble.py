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

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.common.json import write_json
from nddo_ml.elements import symbol
from nddo_ml.ensembles.calibration import Calibration
from nddo_ml.errors import IncompatibleFile, UnknownOption
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.methods import learned
from nddo_ml.molecules import Molecules, PointCharges
from nddo_ml.scf.options import SCF

FORMAT = "nddo_ml ensemble 1"
FILE = "ensemble.json"
TRAINED = "seed-*/model.safetensors"      # where a training leaves its members


@dataclass(frozen=True, eq=False)
class EnsembleResult:
    """Means over the members and how sure they are; eV, angstrom, e.

    energy `molecule`, forces `atom 3` (None unless asked for), dipole `molecule 3`, charges `atom`: means. energy_spread,
    forces_spread, dipole_spread: standard deviations over the members (n - 1). energy_uncertainty `molecule`: calibrated
    standard deviation. forces_uncertainty `atom 3`: of each component of the forces; atom_uncertainty `atom`: of a component of
    the force on each atom whatever its direction (root mean square over the three), unchanged by rotations. converged
    `molecule`: every member's SCF; where one's did not, all values are NaN. members: their Results.
    """

    molecules: Molecules
    energy: Float[Tensor, "molecule"]
    forces: Float[Tensor, "atom 3"] | None
    dipole: Float[Tensor, "molecule 3"]
    charges: Float[Tensor, "atom"]
    energy_spread: Float[Tensor, "molecule"]
    forces_spread: Float[Tensor, "atom 3"] | None
    dipole_spread: Float[Tensor, "molecule 3"]
    energy_uncertainty: Float[Tensor, "molecule"]
    forces_uncertainty: Float[Tensor, "atom 3"] | None
    atom_uncertainty: Float[Tensor, "atom"] | None
    converged: Bool[Tensor, "molecule"]
    members: tuple[Result, ...]

    def density(self, k: int = 0) -> Tensor:
        """Density matrix of molecule k of the first member: an ensemble's result serves as guess for the next."""
        return self.members[0].density(k)


class Ensemble:
    """Learned Hamiltonians as one model: `Ensemble(["a.safetensors", "b.safetensors"])(molecules)`.

    members: files of weights, names of shipped models, or Hamiltonians with a network; two or more, of the same parent,
    elements, level of theory and dispersion; files of tables without a network count too. UnknownOption, IncompatibleFile: they
    are not. calibration: None: uncertainties are bare standard deviations.
    """

    def __init__(self, members: Sequence[str | Path | Hamiltonian], calibration: Calibration | None = None, device=None):
        if isinstance(members, str | Path):
            raise UnknownOption(f"One name was given ({members}): an ensemble has two members or more; Ensemble.load reads the "
                                "file of an ensemble.")
        self.members = tuple(m if isinstance(m, Hamiltonian) else Hamiltonian(str(m), device=device) for m in members)
        self.calibration = calibration or Calibration()
        _alike(self.members)

    def __len__(self):
        return len(self.members)

    @property
    def method(self):
        """The method of the first member: elements, parent, orbitals."""
        return self.members[0].method

    @property
    def level(self) -> str:
        """The level of theory the members learned; "unknown" where they do not say."""
        return _said(self.members[0], "level") or "unknown"

    @property
    def device(self) -> torch.device:
        """Where the members calculate."""
        return self.members[0].U_ss.device

    @torch.no_grad()
    def __call__(self, molecules: Molecules, *, forces: bool = False, guess: "Result | EnsembleResult | None" = None,
                 unrestricted: bool | None = SCF.unrestricted, field: Float[Tensor, "molecule 3"] | None = None,
                 point_charges: PointCharges | None = None, tolerance: float = SCF.tolerance,
                 max_steps: int = SCF.max_steps, stability: bool | None = SCF.stability,
                 raise_unconverged: bool | None = None) -> EnsembleResult:
        """Means and uncertainties of molecules; arguments as for a Hamiltonian. The first member starts from the guess, the
        others from its density, which halves their iterations. Raises what a Hamiltonian raises."""
        found = []
        for member in self.members:
            found.append(member(molecules, forces=forces, guess=found[0] if found else guess, unrestricted=unrestricted,
                                field=field, point_charges=point_charges, tolerance=tolerance, max_steps=max_steps,
                                stability=stability, raise_unconverged=raise_unconverged))
        return combined(found, self.calibration)

    @staticmethod
    def load(source: str | Path, device=None) -> "Ensemble":
        """The ensemble of a folder or of its JSON file. A folder without ensemble.json: the members that a training left
        there, not calibrated. IncompatibleFile: there is none, or a member is not the file that was calibrated."""
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
        """Write the file of the ensemble (JSON, whole or not at all; a folder: its ensemble.json); it names the members'
        files, relative to itself, and holds the calibration. UnknownOption: a member was never saved."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        cards = [m.method.card for m in self.members]
        if any(card is None for card in cards):
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

    def moments(name, known):
        values = [getattr(r, name) for r in results]
        if values[0] is None:
            return None, None
        stack = torch.stack([v.detach() for v in values])
        mask = known.view(-1, *[1] * (stack.dim() - 2))
        return (torch.where(mask, x, torch.nan) for x in (stack.mean(0), stack.std(0)))

    energy, energy_spread = moments("energy", converged)
    forces, forces_spread = moments("forces", of_atoms)
    dipole, dipole_spread = moments("dipole", converged)
    charges, _ = moments("charges", of_atoms)
    on_forces = calibration.forces
    return EnsembleResult(
        first.molecules, energy, forces, dipole, charges, energy_spread, forces_spread, dipole_spread,
        calibration.energy(energy_spread), None if forces is None else on_forces(forces_spread),
        None if forces is None else on_forces(atom_spread(forces_spread)), converged, tuple(results))


def atom_spread(forces_spread: Float[Tensor, "atom 3"]) -> Float[Tensor, "atom"]:
    """Root mean square over the components of the spread of forces."""
    return forces_spread.square().mean(-1).sqrt()


def _alike(members):
    """Refuse members that do not belong together."""
    if len(members) < 2:
        raise UnknownOption(f"An ensemble of {len(members)}: two members or more are needed to disagree.")
    for k, member in enumerate(members):
        if member.network is None and member.method.card is None:
            raise UnknownOption(f"Member {k} of the ensemble, {member.method.name}, has no network: published methods have no "
                                "spread; give files of trained weights.")
    first = members[0]
    for k, member in enumerate(members[1:], 1):
        for what, of in (("parent", _parent), ("elements", _elements), ("level of theory", lambda m: _said(m, "level")),
                         ("dispersion", lambda m: m.dispersion)):
            a, b = of(first), of(member)
            if a != b and not (what == "level of theory" and None in (a, b)):
                raise IncompatibleFile(f"Members of an ensemble must share their {what}: {_named(first, 0)} has {a}, "
                                       f"{_named(member, k)} has {b}. Train them alike.")
        if member.U_ss.device != first.U_ss.device:
            raise UnknownOption(f"Members of an ensemble must be on one device: {_named(first, 0)} is on {first.U_ss.device}, "
                                f"{_named(member, k)} on {member.U_ss.device}.")


def _parent(member):
    return member.method.published.name


def _elements(member):
    species = member.method.species if member.network is None else member.network.species
    return " ".join(symbol(z) for z in sorted(species))


def _said(member, key):
    return None if member.method.card is None else getattr(member.method.card, key)


def _named(member, k):
    return f"member {k}" if member.method.card is None else member.method.card.path.as_posix()


def _read(path):
    """What the file of an ensemble says. IncompatibleFile: it is none."""
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


def _member(path, name, digest):
    """The file or name of a member, if it is the one that was calibrated."""
    card = learned.shipped().get(name.lower())
    file = path.parent / name if card is None else card.path
    if not file.is_file():
        raise IncompatibleFile(f"{path} names the member {name}, which is not there: keep the weights beside it.")
    if _digest(file) != digest:
        raise IncompatibleFile(f"{file} is not the file that {path} was calibrated with: calibrate again, or restore it.")
    return file if card is None else name


def _digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
