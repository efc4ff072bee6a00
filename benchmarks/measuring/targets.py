"""What is asked of the times and the memory, and what was found: ratios to the faster peer of the same run, on one thread."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from measuring.rounds import Record
from measuring.structures import TITLES

NETWORK, PARENT, PLAIN = "neural", "RM1-smooth + dispersion of neural", "RM1-smooth"
MOST = {            # structure -> kind -> largest ratio to the faster peer
    **{name: {"cold": 0.5, "warm": 0.35} for name in ("ethanol", "aspirin")},
    **{name: {"cold": 0.55, "warm": 0.55} for name in ("ala_4", "ala_10", "ala_20", "h2o_64")},
    "crambin": {"cold": 0.5}, "batch": {"cold": 0.4},
}
MEMORY = 800.0      # MB above the imports, of crambin
CHECKED = 1.2       # times its SCF alone: crambin with the default search for a lower state
OVERHEAD = 0.2      # ms of the calculator
SHIFTED = 2.0       # times the parent: a network on 50 atoms


@dataclass(frozen=True)
class Target:
    """A number that is to be at most so much."""

    what: str
    value: float
    most: float

    @property
    def met(self) -> bool:
        """Whether it is; a number that is not finite is not."""
        return self.value <= self.most


def peer(record: Record, kind: str, least: bool = False) -> float | None:
    """The time of the faster peer, s. Through ASE, of tblite's calculator and of MOPAC's library, which has none."""
    of = record.least if least else record.middle
    kinds = {"tblite": kind, "MOPAC": "warm" if kind == "ASE" else kind}
    return min((t for program, its in kinds.items() if (t := of(program, its)) is not None), default=None)


def ratio(record: Record, kind: str, least: bool = False) -> float | None:
    """The time of this project over that of the faster peer; least: of the shortest times instead of the medians."""
    here, other = (record.least if least else record.middle)("here", kind), peer(record, kind, least)
    return None if here is None or other is None else here / other


def targets(records: Sequence[Record]) -> Iterator[Target]:
    """Every target that these records can be held against."""
    single = [r for r in records if r.case.threads == 1]
    for record in single:
        name = f"{TITLES[record.case.structure].removesuffix(', each')}, {record.case.method}"
        for kind, most in MOST.get(record.case.structure, {}).items():
            value = ratio(record, kind)
            if value is not None:
                yield Target(f"{name}, {kind}: time over that of the faster peer", value, most)
        if record.case.structure == "crambin":
            yield Target(f"{name}: peak memory above the imports, MB", record.memory["here"], MEMORY)
            checked, alone = record.middle("here", "cold"), record.middle("here", "unchecked")
            if checked and alone:
                yield Target(f"{name}: default over stability=False", checked / alone, CHECKED)
        overhead = calculator(record)
        if overhead is not None and record.case.structure in ("water", "ethanol", "aspirin"):
            yield Target(f"{name}: what the ASE calculator adds to a call, ms", overhead, OVERHEAD)
    yield from _network(single)


def _network(single: Sequence[Record]) -> Iterator[Target]:
    """A network beside its parent, with and without the dispersion that was trained with it."""
    held = {r.case.method: r for r in single if r.case.structure == "ala_4"}
    if NETWORK not in held:
        return
    for parent, name in ((PARENT, "its parent with the same dispersion"), (PLAIN, "its parent alone")):
        for kind in ("cold", "warm"):
            if parent in held:
                value = held[NETWORK].middle("here", kind) / held[parent].middle("here", kind)
                yield Target(f"(Ala)4, neural, {kind}: time over that of {name}", value, SHIFTED)


def calculator(record: Record) -> float | None:
    """What a step through ASE costs above the same call of the Hamiltonian, ms."""
    through, call = record.middle("here", "ASE"), record.middle("here", "warm")
    return None if through is None or call is None else 1e3 * (through - call)
