"""Many structures, bounded memory: results one by one, in the order of the input.

A batch is fastest when its molecules are alike, and a data set does not fit into one batch. So a window of structures is read
ahead, sorted by size, cut into batches below a budget of atoms and of memory, and handed on in the order it came in. Only
numbers leave a batch, no matrices and no tape. A structure that is refused, or does not converge, becomes a record with NaN and
the error; the others do not notice.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[reportPrivateImportUsage]  # documented, missing in its list of exports

from nddo_ml.errors import InvalidMolecule, NDDOError, SCFNotConverged
from nddo_ml.hamiltonian.merging import implausible_state
from nddo_ml.hamiltonian.model import Hamiltonian
from nddo_ml.hamiltonian.results import Result
from nddo_ml.interfaces.atoms import molecule
from nddo_ml.interfaces.results import array
from nddo_ml.molecules import Molecules
from nddo_ml.orbitals import DISTRIBUTIONS
from nddo_ml.properties.model import ModelKeywords

WINDOW = 4              # batches read ahead and sorted together
PAIR_COPIES, MATRIX_COPIES = 12, 40     # arrays as large as the two-centre integrals, and as a Fock matrix, alive at once


@dataclass(frozen=True, eq=False)
class StreamRecord:
    """One molecule's results. Where there is an error they are NaN or None."""

    energy: float = np.nan                                              # eV
    energies: dict[str, float] | None = None                            # its parts by name, eV
    heat_of_formation: float = np.nan                                   # kcal/mol
    forces: Float[np.ndarray, "atom 3"] | None = None                   # eV/angstrom; None unless asked for
    charges: Float[np.ndarray, "atom"] | None = None                    # e
    dipole: Float[np.ndarray, "3"] | None = None                        # e angstrom
    spin_populations: Float[np.ndarray, "atom"] | None = None           # e
    s2: float = np.nan                                                  # <S^2>
    residual: float = np.nan                                            # commutator of the SCF, eV
    iterations: int = 0                                                 # of the SCF
    route: str = ""                                                     # how it converged, in words
    error: Exception | None = None

    @property
    def converged(self) -> bool:
        """Whether there is a result."""
        return self.error is None


class StreamKeywords(ModelKeywords, total=False):
    """Keywords of a model's call that concern every molecule alike."""

    forces: bool


def stream(model: Hamiltonian, structures: Iterable[Any], *, batch_atoms: int = 2000, batch_memory: float = 1e9,
           progress: Callable[[int, int], object] | None = None, **options: Unpack[StreamKeywords]
           ) -> Iterator[tuple[int, StreamRecord]]:
    """(index, StreamRecord) of every structure, in the order of the input.

    structures: ase.Atoms (charge and multiplicity as in interfaces/atoms.py) or Molecules (a batch of several counts as
    several), from any iterable; read as needed, so it may be endless. batch_atoms, batch_memory (bytes, estimated): what one
    batch may hold; a larger molecule goes alone. progress: called with the numbers of structures done and failed after each
    batch. options: those of the model's call that concern every molecule alike.

    Raises: InvalidMolecule, if a batch may hold nothing. What is wrong with a single structure is not raised, but stands in its
    record as `error` (InvalidMolecule, MissingParameter, SCFNotConverged).
    """
    if batch_atoms < 1 or not batch_memory > 0:
        raise InvalidMolecule(f"A batch of {batch_atoms} atoms and {batch_memory} bytes was asked for: both must be positive.")
    asked: StreamKeywords = {"raise_unconverged": False, **options}
    done = failed = 0
    for window in _windows(_molecules(model, structures), WINDOW * batch_atoms, WINDOW * batch_memory):
        records = {}
        for batch in _batches(window, batch_atoms, batch_memory):
            new = dict(_evaluated(model, batch, asked))
            records |= new
            done, failed = done + len(new), failed + sum(r.error is not None for r in new.values())
            if progress is not None:
                progress(done, failed)
        yield from sorted(records.items())


@dataclass(frozen=True, eq=False)
class _Queued:
    """A structure on its way: place in the input, the molecule or why there is none, what it is sorted by and its bytes."""

    index: int
    molecule: Molecules | None
    error: NDDOError | None = None
    key: tuple = ()
    atoms: int = 1
    memory: float = 0.0


def _molecules(model, structures):
    """Every structure as an entry."""
    index = 0
    for given in structures:
        for each in _singles(model, given):
            try:
                yield _entry(model, index, each)
            except NDDOError as error:
                yield _Queued(index, None, error)
            index += 1


def _singles(model, given):
    """A structure as it is, several molecules one by one."""
    if isinstance(given, Molecules) and len(given) > 1:
        return [given.select([k]) for k in range(len(given))]
    return [given]


def _entry(model, index, given):
    if isinstance(given, Molecules):
        single = given
    elif hasattr(given, "positions") and hasattr(given, "info"):
        single = molecule(given, model.method)
    else:
        raise InvalidMolecule(f"Structure {index} is a {type(given).__name__}: expected ase.Atoms or nddo_ml.Molecules.")
    n_ao = model.method.elements.n_ao[model.method.rows(single.numbers.cpu())].long()
    orbitals, spins = int(n_ao.sum()), 2 if int(single.unpaired[0]) else 1
    distributions = sum(DISTRIBUTIONS[max(4, n) if n else 0] for n in n_ao.tolist())
    memory = 8.0 * (PAIR_COPIES * distributions**2 / 2 + MATRIX_COPIES * spins * orbitals**2)
    return _Queued(index, single, None, (spins, orbitals, index), len(n_ao), memory)


def _windows(entries, atoms, memory):
    """Lists of entries of so many atoms, or bytes, at most; one entry at least."""
    window, held, used = [], 0, 0.0
    for entry in entries:
        if window and (held + entry.atoms > atoms or used + entry.memory > memory):
            yield window
            window, held, used = [], 0, 0.0
        window.append(entry)
        held, used = held + entry.atoms, used + entry.memory
    if window:
        yield window


def _batches(window, atoms, memory):
    """The window's entries in batches of similar molecules; those already refused first."""
    refused = [e for e in window if e.error is not None]
    if refused:
        yield refused
    yield from _windows(sorted((e for e in window if e.error is None), key=lambda e: e.key), atoms, memory)


def _evaluated(model, batch, options):
    """(index, StreamRecord) of each entry; a batch that is refused is halved until the structure at fault is alone."""
    if batch[0].error is not None:
        return [(e.index, StreamRecord(error=e.error)) for e in batch]
    try:
        with torch.no_grad():
            result = model(_together([e.molecule for e in batch]), **options)
    except (NDDOError, LinAlgError) as error:
        if len(batch) == 1:
            return [(batch[0].index, StreamRecord(error=error))]
        half = len(batch) // 2
        return _evaluated(model, batch[:half], options) + _evaluated(model, batch[half:], options)
    return list(zip((e.index for e in batch), records(result), strict=True))


def _together(molecules) -> Molecules:
    """One batch of single molecules."""
    owner = torch.repeat_interleave(torch.arange(len(molecules)), torch.tensor([len(m.numbers) for m in molecules]))
    joined = {name: torch.cat([getattr(m, name) for m in molecules]) for name in ("numbers", "positions", "charge", "unpaired")}
    return Molecules(molecule=owner.to(joined["numbers"].device), **joined)


def records(result: Result) -> list[StreamRecord]:
    """The molecules of a result as records of plain numbers."""
    def per_atom(tensor: Tensor | None) -> list[Any]:
        return [None] * count if tensor is None else [part.copy() for part in np.split(array(tensor), ends)]

    count, ends = len(result.molecules), np.cumsum(result.molecules.sizes)[:-1]
    forces, charges, spins = (per_atom(x) for x in (result.forces, result.charges, result.spin_populations))
    energy, heat, dipole, s2 = (array(x) for x in (result.energy, result.heat_of_formation, result.dipole, result.s2))
    residual, iterations, converged = (array(x).tolist() for x in (result.residual, result.iterations, result.converged))
    parts = {name: array(value) for name, value in result.energies.items()}
    made = []
    for k, route in enumerate(result.route):
        scf = {"residual": residual[k], "iterations": iterations[k], "route": route}
        if not converged[k]:
            error = implausible_state(result, k) if result.implausible[k] else _unconverged(residual[k], iterations[k])
            made.append(StreamRecord(error=error, **scf))
            continue
        made.append(StreamRecord(float(energy[k]), {name: float(v[k]) for name, v in parts.items()}, float(heat[k]), forces[k],
                                 charges[k], dipole[k].copy(), spins[k], float(s2[k]), **scf))
    return made


def _unconverged(residual, iterations):
    return SCFNotConverged(f"The SCF did not converge: it stopped after {iterations} iterations at a commutator of "
                           f"{residual:.1e} eV. Check geometry, charge and multiplicity, raise max_steps, or try "
                           "unrestricted=True.")
