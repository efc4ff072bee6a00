"""Parameters that no calculation can use: found, named, and kept from the rest of a batch.

A NaN, an exponent below zero or a shift that a network's overflow made would end in every molecule that is solved beside it. So
published values and unshifted parameters stand in for them; the molecules that should have used them get no result, but a
sentence that says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from nddo_ml.elements import symbol
from nddo_ml.integrals.topology import Topology
from nddo_ml.methods import Method
from nddo_ml.networks.shifts import Shifts

LARGEST = 1e4           # in the units of its column: fifty times the largest published parameter
# where the published value of these is positive, theirs must be: exponents, and integrals that are
POSITIVE = ("zeta_s", "zeta_p", "zeta_d", "zsn", "zpn", "zdn", "g_ss", "g_sp", "g_pp", "g_p2", "h_sp", "F0SD", "G2SD",
            "rho_core", "alpha", "L", "alpha_AB")
# largest shifts: eV; logarithms, of a factor of 20,000; e. Networks of this package stay far below.
LIMITS = {"U": LARGEST, "block": LARGEST, "local": 1e6, "factors": 10.0, "resonance": 10.0, "core": 10.0, "charges": 100.0}
OF_PAIRS = ("resonance", "core", "charges")
FAR = 1e3               # angstrom: beyond the reach of any network


@dataclass(frozen=True, eq=False)
class Tables:
    """The values of all columns of a Hamiltonian's tables and buffers at one time, one after another, and where those of a
    column cannot be used: name -> mask, only of columns with such values."""

    values: bytes                           # a NaN equals itself
    bad: Mapping[str, Tensor]
    offset: bool                            # whether any offset differs from zero
    places: list[int]                       # where the columns lay in memory; empty: not where they could be looked at again
    views: list[np.ndarray]                 # of the same memory, which it keeps from being used for anything else

    def holds(self, columns: Sequence[Tensor]) -> bool:
        """Whether not a bit of the columns has changed. Values are compared, not their histories, so that edits of `.data` are
        seen too."""
        return [column.data_ptr() for column in columns] == self.places and _bytes(self.views) == self.values


def _bytes(arrays: Sequence[np.ndarray]) -> bytes:
    return b"".join(cast(Sequence[memoryview], arrays))


def tables(columns: Sequence[Tensor], names: Sequence[str], method: Method, earlier: Tables | None) -> Tables:
    """The tables as they are now: `earlier` itself if not a bit has changed. columns: those of the parameters `names`, then the
    offsets of the atoms and their free energies."""
    with torch.no_grad():
        flat = [column.detach().flatten() for column in columns]
        on_cpu = [values.cpu().numpy() for values in flat]
        values = _bytes(on_cpu)
        if earlier is not None and values == earlier.values:
            return earlier
        published, bad = method.published.columns, {}
        for name, value in zip(names, columns, strict=False):
            mask = ~(value.abs() <= LARGEST)
            if name in POSITIVE:
                mask = mask | ((published[name].to(value.device) > 0) & ~(value > 0))
            if bool(mask.any()):
                bad[name] = mask
        seen = all(column.device.type == "cpu" and column.is_contiguous() for column in columns)
        offset = bool(columns[len(names)].any())
        return Tables(values, bad, offset, [column.data_ptr() for column in columns] if seen else [], on_cpu)


def sound(columns: Mapping[str, Tensor], method: Method, bad: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns with published values where their own cannot be used."""
    if not bad:
        return dict(columns)
    published = method.published.columns
    stand_in = {name: torch.where(mask, published[name].to(mask.device), columns[name]) for name, mask in bad.items()}
    return {**columns, **stand_in}


def of_tables(method: Method, topology: Topology, columns: Mapping[str, Tensor], bad: Mapping[str, Tensor]) -> dict[int, str]:
    """Which molecules need values that cannot be used (by their place among those of the topology), and which values."""
    if not bad:
        return {}
    reasons: dict[int, list[str]] = {}
    names = [symbol(int(n)) for n in topology.elements.number]

    def note(k: Tensor, name: str, where: str, value: Tensor, published: Tensor) -> None:
        text = f"{name} of {where} is {float(value):g} (published: {float(published):g})"
        if text not in reasons.setdefault(int(k), []):
            reasons[int(k)].append(text)

    for name, mask in bad.items():
        published, values = method.published.columns[name], columns[name].detach()
        if name in ("alpha_AB", "x_AB"):
            source = topology.rules.source
            for pair, term in (mask[source.entry] & (source.weight != 0)).nonzero().tolist():
                entry = int(source.entry[pair, term])
                pair_of = sorted((int(topology.i[pair]), int(topology.j[pair])))
                note(topology.molecule[pair], name, "-".join(names[a] for a in pair_of), values[entry], published[entry])
            continue
        for atom, *column in mask[topology.rows].nonzero().tolist():
            place = (int(topology.rows[atom]), *column)
            label = name + "".join(str(c + 1) for c in column)        # K1 to K4
            note(topology.layout.molecule[atom], label, names[atom], values[place], published[place])
    return {k: _joined(texts) for k, texts in reasons.items()}


def of_shifts(topology: Topology, shifts: Shifts) -> dict[int, str]:
    """The molecules whose shifts are not finite or beyond all bounds, and which shifts those are."""
    given = {name: value.detach() for name in LIMITS if (value := getattr(shifts, name)) is not None and value.numel()}
    if not given or bool((torch.cat([(x / LIMITS[name]).reshape(-1) for name, x in given.items()]).abs() <= 1).all()):
        return {}
    reasons: dict[int, list[str]] = {}
    for name, value in given.items():
        bad = ~((value / LIMITS[name]).abs() <= 1)
        owner = topology.molecule.index_select(0, shifts.pairs) if name in OF_PAIRS else topology.layout.molecule
        for k in owner[bad.view(len(owner), -1).any(1)].unique().tolist():
            reasons.setdefault(k, []).append(f"the network's shifts `{name}` are not finite or beyond {LIMITS[name]:g}")
    return {k: _joined(texts) for k, texts in reasons.items()}


def without(shifts: Shifts, topology: Topology, molecules: Bool[Tensor, "molecule"]) -> Shifts:
    """The shifts with zeros for the atoms and pairs of these molecules."""
    atoms, pairs = molecules[topology.layout.molecule], molecules[topology.molecule.index_select(0, shifts.pairs)]

    def cleared(name: str) -> Tensor | None:
        value = getattr(shifts, name)
        if value is None:
            return None
        mask = pairs if name in OF_PAIRS else atoms
        return torch.where(mask.view(-1, *[1] * (value.dim() - 1)), 0.0, value)

    return replace(shifts, **{name: cleared(name) for name in LIMITS})


def _joined(texts: list[str]) -> str:
    return "; ".join(texts[:3]) + (f"; and {len(texts) - 3} more" if len(texts) > 3 else "")
