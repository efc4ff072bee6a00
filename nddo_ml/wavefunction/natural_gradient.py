"""Steps of the parameters that lower the energy: SPRING, a natural gradient with momentum, and Adam.

SPRING solves in the space of samples, n by n, however many parameters there are:
phi_t = mu phi_{t-1} + O^T (O O^T + lambda 1)^-1 (eps - mu O phi_{t-1}), O the centred derivatives of ln|psi| over sqrt(n),
eps the centred local energies over -sqrt(n).   G. Goldshlager, N. Abrahamsen, L. Lin, J. Comput. Phys. 516, 113351 (2024)

With many more parameters than samples and little damping each step fits the local energies of its samples exactly, mostly
their noise, and the slopes towards states of small gaps drown in it. A larger damping leaves out what few samples show, so it
grows: lambda_t = lambda (1 + t/growth)^2, up to 0.1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

DAMPED = 0.1        # the damping grows no further: of the size of the larger eigenvalues of O O^T
LONGEST = 5.0       # rows of derivatives, in units of the median length


def limited(O: Float[Tensor, "walker parameter"]) -> Float[Tensor, "walker parameter"]:
    """Derivatives of ln|psi| with those of walkers near a node shortened to five times the median length.

    They diverge like 1/psi there, their variance is infinite, and one of them would decide a step and stay in the momentum.
    Rows that are not finite become 0.   S. Pathak, L. K. Wagner, AIP Advances 10, 085213 (2020)
    """
    O = torch.where(torch.isfinite(O).all(1, keepdim=True), O, 0.0)
    length = O.norm(dim=1, keepdim=True)
    return O * (LONGEST * length.median() / length.clamp(min=1e-30)).clamp(max=1.0)


def stable_rate(Z: int) -> float:
    """The rate of SPRING for molecules whose heaviest nucleus is Z: min(0.5, 2/Z^2).

    A step is a piece of imaginary time: beyond 2/energy, the excitation energy of core electrons being up to Z^2/2, steps
    overshoot.
    """
    return min(0.5, 2 / Z**2)


@dataclass(frozen=True)
class Spring:
    """rate/(1 + t/decay); momentum mu; damping lambda (1 + t/growth)^2; norm: largest |step|^2 at the start; its root
    falls like the rate."""

    rate: float = 0.3
    decay: float = 500.0
    momentum: float = 0.95
    damping: float = 1e-3
    norm: float = 1e-2
    growth: float = 1000.0

    def start(self, parameters: int, like: Tensor) -> dict:
        """The memory before the first step."""
        return {"phi": like.new_zeros(parameters, dtype=torch.float64)}

    def step(self, O: Float[Tensor, "walker parameter"], energies: Float[Tensor, "walker"], memory: dict,
             t: int) -> tuple[Float[Tensor, "parameter"], dict]:
        """Change of the parameters and the new memory."""
        scale, O = len(O) ** -0.5, limited(O)
        return self.solve((O - O.mean(0)) * scale, (energies.mean() - energies) * scale, memory, t)

    def solve(self, O: Float[Tensor, "sample parameter"], eps: Float[Tensor, "sample"], memory: dict,
              t: int) -> tuple[Float[Tensor, "parameter"], dict]:
        """The same from centred and weighted O and eps: also for sums over all determinants."""
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
    """rate/(1 + t/decay); the gradient is 2 <(E_L - <E_L>) d ln|psi|>.   D. P. Kingma, J. Ba, arXiv:1412.6980"""

    rate: float = 3e-3
    decay: float = 1000.0
    first: float = 0.9
    second: float = 0.999

    def start(self, parameters: int, like: Tensor) -> dict:
        """The memory before the first step."""
        return {"mean": like.new_zeros(parameters), "square": like.new_zeros(parameters)}

    def step(self, O: Float[Tensor, "walker parameter"], energies: Float[Tensor, "walker"], memory: dict,
             t: int) -> tuple[Float[Tensor, "parameter"], dict]:
        """Change of the parameters and the new memory."""
        O = limited(O)
        gradient = 2 * (energies - energies.mean()) @ (O - O.mean(0)) / len(O)
        mean = self.first * memory["mean"] + (1 - self.first) * gradient
        square = self.second * memory["square"] + (1 - self.second) * gradient.square()
        unbiased = mean / (1 - self.first ** (t + 1)), square / (1 - self.second ** (t + 1))
        step = -self.rate / (1 + t / self.decay) * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        return step, {"mean": mean, "square": square}
