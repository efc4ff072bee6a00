"""From features of atoms to shifts of parameters: the network a Hamiltonian takes.

Three gates make the limits hold whatever the weights are: shifts of an atom vanish with the density of its neighbours, shifts
of a pair with its distance, and tanh bounds both. Resonance integrals and core-core terms of a pair come from one function of
the ordered pair, evaluated both ways: symmetric channels take the mean, s-p of (i, j) is p-s of (j, i). The last layers are
zero at the start, so that a new network is the parent method.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nddo_ml.errors import UnknownOption
from nddo_ml.extras import name_of, named
from nddo_ml.networks.environment import Environment, environment, kinds, places, radial_functions, switch
from nddo_ml.networks.message_passing import Features
from nddo_ml.networks.protocols import FeatureModule, lacking
from nddo_ml.networks.shifts import (
    BLOCK_BOUND,
    BOUND,
    CHANNELS,
    CHARGE_BOUND,
    CORE_BOUNDS,
    FACTOR_NAMES,
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


class ParameterNetwork(nn.Module):
    """Shifts of the parent's parameters from features of the atoms: `network(numbers, i, j, R, u)` returns Shifts.

    features: a module from an Environment to Features. heads: any of atom (one-centre parameters), pair (resonance integrals
    and core-core terms), charge (core charge that moves within the pairs; beside pair), block (equivariant one-centre blocks;
    needs vectors), local (an energy of each atom). Alone, `local` is a pure correction of the frozen parent. Features and heads
    may be of one's own (protocols.py), heads as classes or "module:Class". name: of the features, where they are built in.
    """

    def __init__(self, species: Sequence[int], features: nn.Module, heads: Sequence[str | type] = ("atom", "pair"),
                 name: str = ""):
        super().__init__()
        heads = [h if isinstance(h, str) else name_of(h) for h in heads]
        unknown = [h for h in heads if h not in HEADS and ":" not in h]
        if unknown or not heads or len(set(heads)) < len(heads):
            raise UnknownOption(f"heads={heads}: expected one or more of {', '.join(HEADS)} and \"module:Class\" of your own, "
                                "each once.")
        missing = lacking(features, FeatureModule)
        if missing:
            raise UnknownOption(f"The features {type(features).__name__} lack {', '.join(missing)}: docs/extending.md says "
                                "what features have.")
        if "charge" in heads and "pair" not in heads:
            raise UnknownOption("The head 'charge' goes with the head 'pair'.")
        if "block" in heads and not features.vectors:
            raise UnknownOption("The head 'block' needs features with vectors: use message passing.")
        self.species, self.heads, self.name = tuple(species), tuple(heads), name
        self.register_buffer("table", places(species), persistent=False)
        self.features = features
        c = features.channels
        self.atom = Head(c, len(U_NAMES) + len(FACTOR_NAMES), len(species)) if "atom" in heads else None
        self.pair = PairHead(c, features.cutoff, "charge" in heads) if "pair" in heads else None
        self.local = Head(c, 1, len(species)) if "local" in heads else None
        self.block = BlockHead(features.vectors) if "block" in heads else None
        self.own = nn.ModuleDict({_key(h): named(h, "a head")(features, self.species) for h in heads if h not in HEADS})

    @property
    def config(self) -> dict:
        """The settings `networks.build` makes this network from."""
        name = self.name or name_of(type(self.features))
        return {"features": name, "species": list(self.species), "heads": list(self.heads), **self.features.config}

    def forward(self, numbers: Int[Tensor, "atom"], i, j, R: Float[Tensor, "pair"], u: Float[Tensor, "pair 3"]) -> Shifts:
        """The shifts of a batch, from all pairs i, j at R (angstrom) along u. MissingParameter for an unknown element."""
        env = self.environment(numbers, i, j, R, u)
        found = self.features(env)
        gate = -torch.expm1(-GATE * env.summed(switch(env.R, self.features.cutoff)))
        U = factors = resonance = core = charges = block = local = None
        if self.atom is not None:
            raw = torch.tanh(self.atom(found.s, env.kind)).double() * gate[:, None]
            U, factors = U_BOUND * raw[:, :len(U_NAMES)], BOUND * raw[:, len(U_NAMES):]
        if self.pair is not None:
            resonance, core, charges = self.pair(env, found.s)
        if self.local is not None:
            local = self.local(found.s, env.kind)[:, 0].double() * gate
        if self.block is not None:
            block = self.block(found).double() * gate[:, None]
        shifts = Shifts(U, factors, env.pairs, resonance, core, block, local, charges)
        for name, head in self.own.items():
            fade = switch(env.R[:len(env.pairs)], self.features.cutoff)
            shifts = _added(shifts, head(env, found), gate, fade, name)
        return shifts

    def environment(self, numbers, i, j, R, u) -> Environment:
        """The environment the features see."""
        return environment(kinds(self.species, numbers, self.table), i, j, R, u, self.features.cutoff)


def _key(name):
    """A head's name as torch lets modules be called."""
    return name.replace(".", "/")


def _added(shifts, said, gate, fade, name):
    """Shifts with what a head of one's own says, times the gates of atoms and pairs. UnknownOption: it says something else."""
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
        self.layers = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, outputs, bias=False))
        self.constant = nn.Embedding(species, outputs)
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.constant.weight)

    def forward(self, s: Float[Tensor, "atom channel"], kind: Int[Tensor, "atom"]) -> Float[Tensor, "atom output"]:
        return self.layers(s) + self.constant(kind)


class PairHead(nn.Module):
    """Shifts of the resonance integrals (near, CHANNELS) and of the core-core terms (near, 2) of pairs and, if asked for, the
    core charge that moves between them (near; else None); zero at the start."""

    def __init__(self, channels: int, cutoff: float, charge: bool = False):
        super().__init__()
        self.cutoff = cutoff
        self.first = nn.Linear(channels, channels)
        self.second = nn.Linear(channels, channels, bias=False)
        self.distance = nn.Linear(RADIAL, channels, bias=False)
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(channels, channels), nn.SiLU(),
                                    nn.Linear(channels, len(SYMMETRIC) + len(CORE_BOUNDS) + len(ORDERED)))
        self.charge = nn.Linear(channels, 1, bias=False) if charge else None
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)
        if charge:
            nn.init.zeros_(self.charge.weight)

    def forward(self, env: Environment, s: Float[Tensor, "atom channel"]):
        f = radial_functions(env.R, self.cutoff, RADIAL).to(s.dtype)
        hidden = self.layers[:-1](self.first(s).index_select(0, env.centre) + self.second(s).index_select(0, env.neighbour)
                                  + self.distance(f))
        forward, backward = self.layers[-1](hidden).double().unflatten(0, (2, len(env.pairs)))
        n = len(SYMMETRIC) + len(CORE_BOUNDS)
        raw = torch.cat(((forward + backward)[:, :n] / 2, forward[:, n:], backward[:, n:]), 1)
        fade = switch(env.R[:len(env.pairs)], self.cutoff)
        raw = torch.tanh(raw) * fade[:, None]
        same, core, other = raw.split((len(SYMMETRIC), len(CORE_BOUNDS), 2 * len(ORDERED)), 1)
        charges = None
        if self.charge is not None:
            there, back = self.charge(hidden)[:, 0].double().unflatten(0, (2, len(env.pairs)))
            charges = CHARGE_BOUND * torch.tanh(there - back) * fade
        return BOUND * torch.cat((same, other), 1), core * core.new_tensor(CORE_BOUNDS), charges


class BlockHead(nn.Module):
    """One-electron elements between the orbitals of one atom that follow its vectors: s-p along a vector, p-p along the
    traceless products of two; bounded by their norm. Zero at the start."""

    def __init__(self, vectors: int):
        super().__init__()
        self.mix = nn.Linear(vectors, 2 * vectors, bias=False)
        self.weight = nn.Parameter(torch.zeros(2, vectors))

    def forward(self, found: Features) -> Float[Tensor, "atom 9"]:
        a, b = self.mix(found.v).chunk(2, -1)
        sp = (a * self.weight[0]).sum(-1)
        products = (a[:, :, None] * b[:, None, :] * self.weight[1]).sum(-1)
        products = products + products.mT
        trace = products.diagonal(dim1=1, dim2=2).mean(-1)
        pp = products - trace[:, None, None] * torch.eye(3, dtype=sp.dtype, device=sp.device)
        x, y = (0, 1, 1, 2, 2, 2), (0, 0, 1, 0, 1, 2)
        return BLOCK_BOUND * torch.cat((bounded(sp), bounded(pp.flatten(1)).unflatten(1, (3, 3))[:, x, y]), 1)


def bounded(x: Float[Tensor, "atom n"]) -> Float[Tensor, "atom n"]:
    """x / sqrt(1 + |x|^2): the same direction, shorter than 1."""
    return x * torch.rsqrt(1 + x.square().sum(-1, keepdim=True))
