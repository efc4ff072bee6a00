"""Equivariant message passing in Cartesian tensors: the default features.

Every atom carries scalars s, vectors v and, for degree 2, symmetric traceless matrices t. A layer sends messages along the
edges (radial functions times the neighbour's scalars, times 1, u or u u - 1/3) and then mixes the channels of each atom;
tensors act on scalars only through their invariants. Scalars are therefore invariant under rotation and reflection, vectors and
matrices turn with the molecule, and a permutation of atoms permutes them. In the manner of PaiNN (Schuett, Unke, Gastegger,
ICML 2021) and TensorNet (Simeon, De Fabritiis, NeurIPS 2023).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.common.struct import record
from nddo_ml.errors import UnknownOption
from nddo_ml.networks.environment import Environment, check_sizes, radial_functions

Tensors = tuple[Float[Tensor, "atom channel"], Float[Tensor, "atom 3 vector"], Float[Tensor, "atom 9 vector"]]


@record
class Features:
    """What is known of each atom."""

    s: Float[Tensor, "atom channel"]        # scalars
    v: Float[Tensor, "atom 3 vector"]       # vectors, by component; none (vector = 0) where the features know no directions


class MessagePassing(nn.Module):
    """Features of atoms from `layers` rounds of messages.

    An atom has `channels` scalars, `vectors` vectors and, for degree 2, as many matrices; a message sees a distance through
    `radial` functions of it. cutoff is in angstrom: the features of an atom depend on atoms up to layers x cutoff away. The
    parameters are the settings of the features in configurations and files of weights.

    Raises:
        UnknownOption: a size is out of its range, or degree is neither 1 nor 2.
    """

    def __init__(self, species: Sequence[int], channels: int = 32, vectors: int = 16, layers: int = 2, degree: int = 1,
                 cutoff: float = 5.0, radial: int = 12):
        super().__init__()
        check_sizes(cutoff, 0.5, channels=channels, vectors=vectors, layers=layers, radial=radial)
        if degree not in (1, 2):
            raise UnknownOption(f"degree={degree!r}: messages carry vectors (1), or vectors and matrices (2).")
        self.config = dict(channels=channels, vectors=vectors, layers=layers, degree=degree, cutoff=cutoff, radial=radial)
        self.channels, self.vectors, self.cutoff, self.radial = channels, vectors, cutoff, radial
        self.element = nn.Embedding(len(species), channels)
        self.layers = nn.ModuleList(Layer(channels, vectors, degree, radial, first=k == 0) for k in range(layers))

    def forward(self, env: Environment) -> Features:
        s = self.element(env.kind)
        f = (radial_functions(env.R, self.cutoff, self.radial) * env.open[:, None]).to(s.dtype)
        v = s.new_zeros(len(s), 3, self.vectors)
        t = s.new_zeros(len(s), 9, self.vectors)
        for layer in self.layers:
            s, v, t = layer(env, f, s, v, t)
        return Features(s, v)


class Layer(nn.Module):
    """One round: messages from the neighbours, then an update of each atom by itself.

    In the `first` round the atoms have no vectors and matrices yet, so that no message carries any.
    """

    def __init__(self, channels: int, vectors: int, degree: int, radial: int, first: bool):
        super().__init__()
        self.degree, self.first, self.vectors = degree, first, vectors
        width = channels + vectors * (degree if first else 2 * degree)
        self.widths = [channels] + [vectors] * ((width - channels) // vectors)
        self.source = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, width))
        self.receiver = nn.Linear(channels, width)
        self.filter = nn.Linear(radial, width, bias=False)
        self.mix = nn.ModuleList(nn.Linear(vectors, 2 * vectors, bias=False) for _ in range(degree))
        self.update = nn.Sequential(nn.Linear(channels + degree * vectors, channels), nn.SiLU(),
                                    nn.Linear(channels, channels + degree * vectors))

    def forward(self, env: Environment, f: Float[Tensor, "edge function"], s: Float[Tensor, "atom channel"],
                v: Float[Tensor, "atom 3 vector"], t: Float[Tensor, "atom 9 vector"]) -> Tensors:
        """s, v and t (matrices, row by row) after the round; f: radial functions of the edges."""
        of_pair = self.source(s).index_select(0, env.neighbour) + self.receiver(s).index_select(0, env.centre)
        weights = (self.filter(f) * of_pair).split(self.widths, 1)
        s = s + env.summed(weights[0])
        u = env.u.to(s.dtype)
        message = u[:, :, None] * weights[1][:, None]
        if not self.first:
            message = message + v.index_select(0, env.neighbour) * weights[2][:, None]
        v = v + env.summed(message)
        if self.degree == 2:
            message = traceless(u)[:, :, None] * weights[-1 if self.first else 3][:, None]
            if not self.first:
                message = message + t.index_select(0, env.neighbour) * weights[4][:, None]
            t = t + env.summed(message)
        return self._updated(s, v, t)

    def _updated(self, s: Tensor, v: Tensor, t: Tensor) -> Tensors:
        """s, v and t after the channels of each atom are mixed."""
        tensors = (v, t)[:self.degree]
        pairs = [mix(x).split(self.vectors, -1) for mix, x in zip(self.mix, tensors, strict=True)]
        invariants = [(a * b).sum(1) for a, b in pairs]
        out = self.update(torch.cat((s, *invariants), 1)).split([s.shape[1]] + [self.vectors] * self.degree, 1)
        s = s + out[0]
        v = v + out[1][:, None] * pairs[0][0]
        return s, v, t if self.degree == 1 else t + out[2][:, None] * pairs[1][0]


def traceless(u: Float[Tensor, "edge 3"]) -> Float[Tensor, "edge 9"]:
    """u u^T - 1/3 of unit vectors u, row by row."""
    square = u[:, :, None] * u[:, None, :]
    return (square - torch.eye(3, dtype=u.dtype, device=u.device) / 3).flatten(1)
