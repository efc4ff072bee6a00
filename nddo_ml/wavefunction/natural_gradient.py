"""Optimisers of variational energies, which turn samples into a change of the parameters: SPRING and Adam.

SPRING is a natural gradient with momentum. With n samples it solves n equations, however many parameters there are:

    phi_t = mu phi_{t-1} + O^T (O O^T + lambda 1)^-1 (eps - mu O phi_{t-1})

O (`sample parameter`) are the centred derivatives of ln|psi| over sqrt(n), eps (`sample`) the centred local energies over
-sqrt(n); the step is phi times the rate.   G. Goldshlager, N. Abrahamsen, L. Lin, J. Comput. Phys. 516, 113351 (2024)

With many more parameters than samples and little damping, each step fits the local energies of its own samples exactly. Most
of that is noise, and it hides the slopes towards states of small gaps. The damping therefore grows with the steps t:
lambda_t = lambda (1 + t/growth)^2, up to 0.1.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

DAMPED = 0.1        # the damping grows no further: of the size of the larger eigenvalues of O O^T
LONGEST = 5.0       # rows of derivatives, in units of the median length

Memory: TypeAlias = dict[str, Tensor]       # what an optimiser keeps from one step to the next; stored in checkpoints


def limited(O: Float[Tensor, "walker parameter"]) -> Float[Tensor, "walker parameter"]:
    """The derivatives of ln|psi| with long rows shortened to five times the median length; rows that are not finite become 0.

    Near a node the derivatives diverge like 1/psi and their variance is infinite: a single walker there would decide a step and
    stay in the momentum.                                      S. Pathak, L. K. Wagner, AIP Advances 10, 085213 (2020)
    """
    O = torch.where(torch.isfinite(O).all(1, keepdim=True), O, 0.0)
    length = O.norm(dim=1, keepdim=True)
    return O * (LONGEST * length.median() / length.clamp(min=1e-30)).clamp(max=1.0)


def stable_rate(Z: int) -> float:
    """The rate of SPRING for molecules whose heaviest nucleus has the charge Z: min(0.5, 2/Z^2).

    A step of the parameters is a step in imaginary time. It overshoots when it is longer than about 2 over the largest
    excitation energy, and core electrons have excitation energies up to Z^2/2 hartree.
    """
    return min(0.5, 2 / Z**2)


@dataclass(frozen=True)
class Spring:
    """The natural gradient with momentum; the formula and its source stand at the top of this file."""

    rate: float = 0.3           # length of a step at t = 0; afterwards rate/(1 + t/decay)
    decay: float = 500.0        # steps after which the rate has halved
    momentum: float = 0.95      # mu: share of the last direction that is kept
    damping: float = 1e-3       # lambda at t = 0; afterwards lambda (1 + t/growth)^2, up to 0.1
    norm: float = 1e-2          # largest |step|^2 at t = 0; the largest |step| falls like the rate
    growth: float = 1000.0      # steps after which the damping has quadrupled

    def start(self, parameters: int, like: Tensor) -> Memory:
        """The memory before the first step, for so many parameters, on the device of `like`."""
        return {"phi": like.new_zeros(parameters, dtype=torch.float64)}

    def step(self, O: Float[Tensor, "walker parameter"], energies: Float[Tensor, "walker"], memory: Memory,
             t: int) -> tuple[Float[Tensor, "parameter"], Memory]:
        """(change of the parameters, new memory) of step t, from d ln|psi|/d theta and local energies of all walkers."""
        scale, O = len(O) ** -0.5, limited(O)
        return self.solve((O - O.mean(0)) * scale, (energies.mean() - energies) * scale, memory, t)

    def solve(self, O: Float[Tensor, "sample parameter"], eps: Float[Tensor, "sample"], memory: Memory,
              t: int) -> tuple[Float[Tensor, "parameter"], Memory]:
        """The same from O and eps that are centred and weighted already, as sums over all determinants give them."""
        phi = memory["phi"]
        O, eps, kept = O.to(phi), eps.to(phi), self.momentum * phi      # float64: rows near a node dwarf the damping in single
        metric = O @ O.T                                 # the damping makes the null vector of the centring regular
        metric.diagonal().add_(max(self.damping, min(DAMPED, self.damping * (1 + t / self.growth) ** 2)))
        phi = kept + O.T @ torch.cholesky_solve((eps - O @ kept)[:, None], torch.linalg.cholesky(metric))[:, 0]
        longest = self.norm**0.5 / self.rate             # of phi: what it exceeds is mostly noise the momentum has gathered
        step = phi * (self.rate / (1 + t / self.decay)) * torch.clamp(longest / phi.norm(), max=1.0)
        return step, {"phi": phi}


@dataclass(frozen=True)
class Adam:
    """Adam on the gradient of the energy, 2 <(E_L - <E_L>) d ln|psi|/d theta>.   D. P. Kingma, J. Ba, arXiv:1412.6980"""

    rate: float = 3e-3          # length of a step at t = 0; afterwards rate/(1 + t/decay)
    decay: float = 1000.0       # steps after which the rate has halved
    first: float = 0.9          # share of the mean gradient that is kept in each step
    second: float = 0.999       # share of the mean square of the gradient that is kept

    def start(self, parameters: int, like: Tensor) -> Memory:
        """The memory before the first step, for so many parameters, of the precision and on the device of `like`."""
        return {"mean": like.new_zeros(parameters), "square": like.new_zeros(parameters)}

    def step(self, O: Float[Tensor, "walker parameter"], energies: Float[Tensor, "walker"], memory: Memory,
             t: int) -> tuple[Float[Tensor, "parameter"], Memory]:
        """(change of the parameters, new memory) of step t, from d ln|psi|/d theta and local energies of all walkers."""
        O = limited(O)
        gradient = 2 * (energies - energies.mean()) @ (O - O.mean(0)) / len(O)
        mean = self.first * memory["mean"] + (1 - self.first) * gradient
        square = self.second * memory["square"] + (1 - self.second) * gradient.square()
        unbiased = mean / (1 - self.first ** (t + 1)), square / (1 - self.second ** (t + 1))
        step = -self.rate / (1 + t / self.decay) * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        return step, {"mean": mean, "square": square}
