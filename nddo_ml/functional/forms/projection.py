"""A part of the functional that sees the density matrix: a network of its projections onto Gaussians on the atoms.

Traces of the blocks of D (see projectors.py) and of their squares do not change when the molecule turns. Semilocal functionals
cannot know whether half an electron on an atom is half of one orbital or a whole one of half the density; n - n^2 does.
DeePKS: Chen, Zhang, Wang & E, J. Chem. Theory Comput. 17, 170 (2021).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nddo_ml.functional.projectors import NonlocalPart, Projectors

LARGEST_Z = 118
ELEMENTS = (1, 6, 7, 8, 9, 14, 15, 16, 17)


class Projected(NonlocalPart):
    """E = sum_A [g(A) - g(A without electrons)], hartree: g is a network of the traces t1 = tr D and t1 - tr D D of the blocks
    of either spin and of the element, the mean over both orders of the spins. A network of zero gives zero.

    With `alone` > 0, E is a sum over atoms and spins of exp[-(q/alone)^2] [g(A, own spin) - g(A without electrons)], where q is
    the population of the other spin (the sum of its traces on the atom). That corrects one electron, and leaves pairs of
    electrons, that is nearly all of a molecule, to the semilocal part.

    Args:
        elements: atomic numbers that it tells apart; all others share one entry.
        width: of the hidden layers.
        scale: hartree per unit of the output.
        seed: of the weights at the start.
        projectors: the Gaussians on every atom.
        alone: 0, or the population of the other spin at which what is said of a spin has fallen to 1/e, electrons.
    """

    entry: Int[Tensor, "number"]        # row of the table of elements, by atomic number

    def __init__(self, elements: tuple[int, ...] = ELEMENTS, width: int = 16, scale: float = 0.1, seed: int = 0,
                 projectors: Projectors | None = None, alone: float = 0.0) -> None:
        super().__init__()
        projectors = Projectors() if projectors is None else projectors
        self.projectors, self.scale, self.alone = projectors, scale, alone
        self.config = {"elements": list(elements), "width": width, "scale": scale, "s": list(projectors.s),
                       "p": list(projectors.p), "alone": alone}
        entry = torch.zeros(LARGEST_Z + 1, dtype=torch.long)
        entry[list(elements)] = torch.arange(1, len(elements) + 1)
        self.register_buffer("entry", entry, persistent=False)
        generator = torch.Generator().manual_seed(seed)
        self.element = nn.Embedding(len(elements) + 1, width, dtype=torch.float64)
        self.spin = nn.Linear(2 * len(projectors.shells), width, bias=False, dtype=torch.float64)
        self.other = nn.Linear(2 * len(projectors.shells), width, bias=False, dtype=torch.float64)
        self.hidden = nn.Linear(width, width, dtype=torch.float64)
        self.last = nn.Linear(width, 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            for weight in self.parameters():
                uniform = 2 * torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 1
                weight.copy_(uniform / weight.shape[-1] ** 0.5)
            self.last.weight.zero_()

    def descriptors(self, D: Float[Tensor, "spin atom projector projector"]) -> Float[Tensor, "spin atom descriptor"]:
        """tr D and tr D - tr D D of the block of each shell, electrons."""
        D = (D + D.mT) / 2
        columns, begin = [], 0
        for l, _ in self.projectors.shells:
            block = D[..., begin:begin + 2 * l + 1, begin:begin + 2 * l + 1]
            begin += 2 * l + 1
            trace = block.diagonal(dim1=-2, dim2=-1).sum(-1)
            columns += [trace, trace - block.square().sum((-2, -1))]
        return torch.stack(columns, -1)

    def forward(self, D: Float[Tensor, "spin atom projector projector"], numbers: Int[Tensor, "atom"]) -> Float[Tensor, ""]:
        """E, hartree."""
        x = self.descriptors(D)
        own, other = self.spin(x), self.other(x)
        element = self.element(self.entry[numbers]).expand_as(own)
        if self.alone:
            q = x[..., 0::2].sum(-1).flip(0)
            g = torch.exp(-((q / self.alone) ** 2))[..., None] * (self._network(own + element) - self._network(element))
            return self.scale * g.sum()
        g = self._network(own + other.flip(0) + element) - self._network(element)
        return self.scale * g.sum() / 2

    def _network(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.hidden(torch.tanh(x))))
