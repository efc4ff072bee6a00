"""From features of atoms to shifts of parameters: the network a Hamiltonian takes.

Four gates make the limits hold whatever the weights are: shifts of an atom vanish with the density of its neighbours, shifts
of a pair with its distance, both where an atom comes nearer than any bond, and tanh bounds them; the core charge that may move
to or from an atom is bounded in all. Resonance integrals and core-core terms of a pair come from one function of
the ordered pair, evaluated both ways: symmetric channels take the mean, s-p of (i, j) is p-s of (j, i). The last layers are
zero at the start, so that a new network is the parent method.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nddo_ml.common.extras import name_of, named
from nddo_ml.elements import covalent_radii
from nddo_ml.errors import UnknownOption
from nddo_ml.integrals.switch import END
from nddo_ml.networks.environment import (
    CLOSING,
    Environment,
    PairGeometry,
    environment,
    kinds,
    places,
    radial_functions,
    switch,
)
from nddo_ml.networks.message_passing import Features
from nddo_ml.networks.protocols import FeatureModule, lacking
from nddo_ml.networks.shifts import (
    BLOCK_BOUND,
    BOUND,
    CHANNELS,
    CHARGE_BOUND,
    CORE_BOUNDS,
    FACTOR_NAMES,
    LARGEST_MOVED,
    ORDERED,
    SYMMETRIC,
    U_BOUND,
    U_NAMES,
    Shifts,
)

HEADS = ("atom", "pair", "charge", "block", "local")
OF_ATOMS = {"U": (len(U_NAMES),), "factors": (len(FACTOR_NAMES),), "block": (9,), "local": ()}      # columns of Shifts
OF_PAIRS = {"resonance": (len(CHANNELS),), "core": (len(CORE_BOUNDS),), "charges": ()}
GATE = 2.0               # how fast the first neighbour opens the gate of an atom
RADIAL = 8               # radial functions of the pair head
MOVED = 0.3              # e, that all pairs of an atom together move to or from its core; 0.22 is the largest in the labels
BENT = 2 / 3             # of MOVED: what moves up to here is left as it is
TINY = 1e-3              # e, that rounds the corner of |q|
SMALLEST_RADIUS = 0.3    # angstrom, of species without extension


PairShifts = tuple[Float[Tensor, "near 14"], Float[Tensor, "near 2"], Float[Tensor, "near"] | None]


class ParameterNetwork(nn.Module):
    """Shifts of the parent's parameters from features of the atoms: `network(numbers, i, j, R, u)` returns Shifts.

    species: the atomic numbers it knows.
    features: a module from an Environment to Features, built in or of one's own (protocols.FeatureModule).
    heads: what the features are made into. Any of
        atom    one-centre parameters,
        pair    resonance integrals and core-core terms,
        charge  core charge that moves within the pairs (beside pair only),
        block   one-electron blocks of an atom that follow its vectors (of features that have vectors),
        local   an energy of each atom; alone, a pure correction of the frozen parent,
        and heads of one's own (protocols.HeadModule), as classes or "module:Class".
    name: of the features, where they are built in.
    closing: fractions of the sum of two covalent radii between which all that is said of two atoms goes to zero.
    moved: core charge (e) that may move to or from one atom.

    Raises:
        UnknownOption: an argument is none of these, or two of them do not go together.
    """

    table: Int[Tensor, "number"]        # atomic number -> place in species (environment.places)
    radii: Float[Tensor, "kind"]        # covalent radius of each species, angstrom

    def __init__(self, species: Sequence[int], features: nn.Module, heads: Sequence[str | type] = ("atom", "pair"),
                 name: str = "", closing: Sequence[float] = CLOSING, moved: float = MOVED):
        super().__init__()
        heads = [h if isinstance(h, str) else name_of(h) for h in heads]
        unknown = [h for h in heads if h not in HEADS and ":" not in h]
        if unknown or not heads or len(set(heads)) < len(heads):
            raise UnknownOption(f"heads={heads}: expected one or more of {', '.join(HEADS)} and \"module:Class\" of your own, "
                                "each once.")
        if not isinstance(features, FeatureModule):
            raise UnknownOption(f"The features {type(features).__name__} lack {', '.join(lacking(features, FeatureModule))}: "
                                "docs/howto/extending.md says what features have.")
        if "charge" in heads and "pair" not in heads:
            raise UnknownOption("The head 'charge' goes with the head 'pair'.")
        if "block" in heads and not features.vectors:
            raise UnknownOption("The head 'block' needs features with vectors: use message passing.")
        if len(closing) != 2 or not 0 < closing[0] < closing[1]:
            raise UnknownOption(f"closing={closing!r}: expected two growing fractions of the sum of covalent radii.")
        if not 0 < moved <= LARGEST_MOVED:
            raise UnknownOption(f"moved={moved!r}: expected a core charge of at most {LARGEST_MOVED} e.")
        self.species, self.heads, self.name = tuple(species), tuple(heads), name
        self.closing, self.moved = tuple(closing), moved
        self.register_buffer("table", places(species), persistent=False)
        self.register_buffer("radii", covalent_radii(torch.tensor(self.species)).clamp(min=SMALLEST_RADIUS), persistent=False)
        self.features: FeatureModule = features
        c = features.channels
        self.atom = Head(c, len(U_NAMES) + len(FACTOR_NAMES), len(species)) if "atom" in heads else None
        self.pair = PairHead(c, features.cutoff, "charge" in heads, moved) if "pair" in heads else None
        self.local = Head(c, 1, len(species)) if "local" in heads else None
        self.block = BlockHead(features.vectors) if "block" in heads else None
        self.own = nn.ModuleDict({_key(h): named(h, "a head")(features, self.species) for h in heads if h not in HEADS})

    @property
    def config(self) -> dict[str, Any]:
        """The settings `networks.build` makes this network from."""
        name = self.name or name_of(type(self.features))
        return {"features": name, "species": list(self.species), "heads": list(self.heads), "closing": list(self.closing),
                "moved": self.moved, **self.features.config}

    def forward(self, numbers: Int[Tensor, "atom"], i: Int[Tensor, "pair"], j: Int[Tensor, "pair"],
                R: Float[Tensor, "pair"], u: Float[Tensor, "pair 3"]) -> Shifts:
        """The shifts of a batch, from all pairs of atoms i and j at R (angstrom) along u, the unit vector from i to j.

        Raises:
            MissingParameter: the network does not know one of the elements.
        """
        env = self.environment(numbers, PairGeometry(i, j, R, u))
        features, free = self.features(env), env.free()
        gate = -torch.expm1(-GATE * env.summed(switch(env.R, self.features.cutoff))) * free
        U = factors = resonance = core = charges = block = local = None
        if self.atom is not None:
            raw = torch.tanh(self.atom(features.s, env.kind)).double() * gate[:, None]
            U, factors = U_BOUND * raw[:, :len(U_NAMES)], BOUND * raw[:, len(U_NAMES):]
        if self.pair is not None:
            resonance, core, charges = self.pair(env, features.s, free)
        if self.local is not None:
            local = self.local(features.s, env.kind)[:, 0].double() * gate
        if self.block is not None:
            block = self.block(features).double() * gate[:, None]
        shifts = Shifts(U, factors, env.pairs, resonance, core, block, local, charges)
        fade = _pair_fade(env, self.features.cutoff, free)
        for name, head in self.own.items():
            shifts = _added(shifts, head(env, features), gate, fade, name)
        return shifts

    def environment(self, numbers: Int[Tensor, "atom"], geometry: PairGeometry) -> Environment:
        """The environment that the features see, from all pairs of a batch."""
        kind = kinds(self.species, numbers, self.table)
        return environment(kind, geometry, self.features.cutoff, self.radii.index_select(0, kind), self.closing)


def _pair_fade(env: Environment, cutoff: float, free: Float[Tensor, "atom"]) -> Float[Tensor, "near"]:
    """The factor of what is said of each pair: 0 at the cutoff, and where it or one of its atoms is too near to another."""
    near = slice(len(env.pairs))
    both = free.index_select(0, env.centre[near]) * free.index_select(0, env.neighbour[near])
    return switch(env.R[near], cutoff) * env.open[near] * both


def _key(name: str) -> str:
    """A head's name as torch lets modules be called."""
    return name.replace(".", "/")


def _added(shifts: Shifts, said: dict[str, Tensor], gate: Tensor, fade: Tensor, name: str) -> Shifts:
    """Shifts with what a head of one's own says, times the gates of atoms and pairs.

    Raises:
        UnknownOption: it returns what is no column of Shifts, or of another shape.
    """
    for column, values in said.items():
        if column not in OF_ATOMS and column not in OF_PAIRS:
            raise UnknownOption(f"The head {name} returns {column!r}: expected any of {', '.join((*OF_ATOMS, *OF_PAIRS))}.")
        by = gate if column in OF_ATOMS else fade
        shape = (len(by), *(OF_ATOMS | OF_PAIRS)[column])
        if tuple(values.shape) != shape:
            raise UnknownOption(f"The head {name} returns {column!r} of shape {tuple(values.shape)}: expected {shape}.")
        values, before = values.double() * by.view(-1, *[1] * (len(shape) - 1)), getattr(shifts, column)
        shifts = replace(shifts, **{column: values if before is None else before + values})
    return shifts


class Head(nn.Module):
    """Numbers per atom from its scalars, with a constant per element; zero at the start."""

    def __init__(self, channels: int, outputs: int, species: int):
        super().__init__()
        first, last = nn.Linear(channels, channels), nn.Linear(channels, outputs, bias=False)
        self.layers = nn.Sequential(first, nn.SiLU(), last)
        self.constant = nn.Embedding(species, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(self.constant.weight)

    def forward(self, s: Float[Tensor, "atom channel"], kind: Int[Tensor, "atom"]) -> Float[Tensor, "atom output"]:
        """The numbers of each atom from its scalars s and the place of its element."""
        return self.layers(s) + self.constant(kind)


class PairHead(nn.Module):
    """Shifts of the resonance integrals, of the core-core terms and, if asked for, of the core charges of near pairs.

    All are zero at the start. `moved`: core charge (e) that may move to or from one atom.
    """

    def __init__(self, channels: int, cutoff: float, charge: bool = False, moved: float = MOVED):
        super().__init__()
        self.cutoff, self.moved = cutoff, moved
        self.first = nn.Linear(channels, channels)
        self.second = nn.Linear(channels, channels, bias=False)
        self.distance = nn.Linear(RADIAL, channels, bias=False)
        middle, last = nn.Linear(channels, channels), nn.Linear(channels, len(SYMMETRIC) + len(CORE_BOUNDS) + len(ORDERED))
        self.layers = nn.Sequential(nn.SiLU(), middle, nn.SiLU(), last)
        self.charge = nn.Linear(channels, 1, bias=False) if charge else None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if self.charge is not None:
            nn.init.zeros_(self.charge.weight)

    def forward(self, env: Environment, s: Float[Tensor, "atom channel"], free: Float[Tensor, "atom"]) -> PairShifts:
        """The columns `resonance`, `core` and `charges` of Shifts (charges: None where they were not asked for).

        s: scalars of the atoms; free: 0 for atoms that another comes too near, 1 for the others (Environment.free).
        """
        f = radial_functions(env.R, self.cutoff, RADIAL).to(s.dtype)
        hidden = self.layers[:-1](self.first(s).index_select(0, env.centre) + self.second(s).index_select(0, env.neighbour)
                                  + self.distance(f))
        forward, backward = self.layers[-1](hidden).double().unflatten(0, (2, len(env.pairs)))
        n = len(SYMMETRIC) + len(CORE_BOUNDS)
        raw = torch.cat(((forward + backward)[:, :n] / 2, forward[:, n:], backward[:, n:]), 1)
        near = slice(len(env.pairs))
        i, j = env.centre[near], env.neighbour[near]
        fade = _pair_fade(env, self.cutoff, free)
        raw = torch.tanh(raw) * fade[:, None]
        same, core, other = raw.split((len(SYMMETRIC), len(CORE_BOUNDS), 2 * len(ORDERED)), 1)
        charges = None
        if self.charge is not None:
            there, back = self.charge(hidden)[:, 0].double().unflatten(0, (2, len(env.pairs)))
            moving = CHARGE_BOUND * torch.tanh(there - back)
            size = torch.sqrt(moving.square() + TINY**2) * fade           # |charge| without its corner
            share = saturation(env.summed(torch.cat((size, size))), self.moved)
            charges = moving * fade * share.index_select(0, i) * share.index_select(0, j)
        return BOUND * torch.cat((same, other), 1), core * core.new_tensor(CORE_BOUNDS), charges


class BlockHead(nn.Module):
    """One-electron elements between the orbitals of one atom that follow its vectors; zero at the start.

    Those of s and p lie along a vector, those of p and p along traceless products of two; both are bounded by their norm.
    """

    def __init__(self, vectors: int):
        super().__init__()
        self.mix = nn.Linear(vectors, 2 * vectors, bias=False)
        self.weight = nn.Parameter(torch.zeros(2, vectors))

    def forward(self, features: Features) -> Float[Tensor, "atom 9"]:
        """The column `block` of Shifts, eV."""
        a, b = self.mix(features.v).chunk(2, -1)
        sp = (a * self.weight[0]).sum(-1)
        products = (a[:, :, None] * b[:, None, :] * self.weight[1]).sum(-1)
        products = products + products.mT
        trace = products.diagonal(dim1=1, dim2=2).mean(-1)
        pp = products - trace[:, None, None] * torch.eye(3, dtype=sp.dtype, device=sp.device)
        x, y = (0, 1, 1, 2, 2, 2), (0, 0, 1, 0, 1, 2)
        return BLOCK_BOUND * torch.cat((bounded(sp), bounded(pp.flatten(1)).unflatten(1, (3, 3))[:, x, y]), 1)


def saturation(total: Float[Tensor, "atom"], bound: float) -> Float[Tensor, "atom"]:
    """Factors of at most 1 that keep totals below the bound and have every derivative.

    They are 1 up to b, BENT times the bound; beyond, y = (total - b)/(bound - b) becomes y/[1 + y exp(-1/y)], which tends to 1.
    """
    b = BENT * bound
    y = ((total - b) / (bound - b)).clamp(min=END)
    flat = y * torch.exp(-1.0 / y)
    return 1.0 - (bound - b) * y * flat / (1.0 + flat) / total.clamp(min=b)


def bounded(x: Float[Tensor, "atom n"]) -> Float[Tensor, "atom n"]:
    """x / sqrt(1 + |x|^2): the same direction, shorter than 1."""
    return x * torch.rsqrt(1 + x.square().sum(-1, keepdim=True))
