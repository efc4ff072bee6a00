"""Calibration: from the spread of several predictions to the size of their error.

    uncertainty = sqrt((scale spread)^2 + floor^2)

scale and floor make labelled errors, each divided by its uncertainty, have unit variance. A handful of predictions gives a
rough spread, so the reduced errors keep longer tails than a normal distribution: how long, is measured and kept as two factors.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import norm, spearmanr

from nddo_ml.common.json import finite
from nddo_ml.errors import IncompatibleFile, UnknownOption

LEVELS = np.linspace(0.01, 0.99, 99)      # of confidence, at which coverage is compared
NORMAL = {68: norm.ppf(0.5 + 0.68 / 2), 95: norm.ppf(0.5 + 0.95 / 2)}
LEAST = 8              # errors to fit a scale to; below, there is none
STARTS = ((1.0, 0.01), (0.5, 0.5), (0.01, 1.0))      # of the fit: squares of scale and floor, in units of the data


@dataclass(frozen=True)
class Scale:
    """uncertainty = sqrt((scale spread)^2 + floor^2), in the unit of the floor; within_68, within_95: multiples of the
    uncertainty that held so many per cent of the labelled errors (0.994 and 1.960 for a normal distribution)."""

    scale: float = 1.0
    floor: float = 0.0
    within_68: float = NORMAL[68]
    within_95: float = NORMAL[95]

    def __call__(self, spread):
        """The uncertainty (one standard deviation) of a spread, a tensor or an array."""
        return (self.scale**2 * spread**2 + self.floor**2) ** 0.5


@dataclass(frozen=True)
class Reliability:
    """How well uncertainties say what errors are. errors: how many. error, uncertainty: root mean squares, in their unit.
    reduced: root mean square of error / uncertainty, 1 if calibrated. coverage_68, coverage_95: fraction of the errors within
    0.994 and 1.960 uncertainties. area: between the curve of coverage against confidence and the diagonal, 0 to 0.5. rank:
    Spearman's correlation of uncertainty and size of the error, NaN where either is constant."""

    errors: int
    error: float
    uncertainty: float
    reduced: float
    coverage_68: float
    coverage_95: float
    area: float
    rank: float


@dataclass(frozen=True)
class Calibration:
    """Scales of energies (eV) and of forces (eV/angstrom); frames: labelled frames they were fitted to, 0: none; what the
    uncertainties were worth on frames that did not take part (None: unknown)."""

    energy: Scale = field(default_factory=Scale)
    forces: Scale = field(default_factory=Scale)
    frames: int = 0
    energy_reliability: Reliability | None = None
    forces_reliability: Reliability | None = None

    def as_dict(self) -> dict:
        """Plain values, for a file; what is not finite becomes None."""
        return finite(asdict(self))

    @staticmethod
    def from_dict(values: dict, where: str = "the calibration") -> "Calibration":
        """The calibration that `as_dict` gave. IncompatibleFile: it did not."""
        def reliability(given):
            return None if given is None else Reliability(**{k: float("nan") if v is None else v for k, v in given.items()})

        try:
            return Calibration(Scale(**values["energy"]), Scale(**values["forces"]), int(values["frames"]),
                               reliability(values["energy_reliability"]), reliability(values["forces_reliability"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise IncompatibleFile(f"{where} holds no calibration of this version ({type(error).__name__}: {error}): calibrate "
                                   "the ensemble again.") from None


def fit(spread: Float[np.ndarray, "n"], error: Float[np.ndarray, "n components"]) -> Scale:
    """The scale of largest likelihood for normal errors of variance (scale spread)^2 + floor^2; at this maximum the reduced
    errors have unit variance. The floor stays 0 unless it improves the likelihood by more than a parameter must (Schwarz,
    Ann. Stat. 6, 461 (1978)).

    error: several components may share a spread. Values that are not finite are left out. UnknownOption: fewer than 8 are left.
    """
    s, e = _finite(spread, error)
    if len(s) < LEAST:
        raise UnknownOption(f"{len(s)} labelled errors to calibrate with: {LEAST} or more are needed; hold more frames out.")
    unit_s, unit_e = max(np.sqrt((s**2).mean()), 1e-12), max(np.sqrt((e**2).mean()), 1e-12)
    x, y = (s / unit_s) ** 2, (e / unit_e) ** 2
    a, b = _likeliest(x, y)
    reduced = float((y / (a * x + b)[:, None]).mean())       # 1 at the exact maximum
    a, b = a * reduced, b * reduced
    found = Scale(float(np.sqrt(a) * unit_e / unit_s), float(np.sqrt(b) * unit_e))
    z = np.abs(e) / found(s)[:, None]
    return Scale(found.scale, found.floor, *(float(np.quantile(z, p / 100)) for p in NORMAL))


def _likeliest(x, y):
    """Squares of scale and floor, for squares of spread and error."""
    n = y.size

    def cost(theta):
        variance = theta[0] * x + theta[1]
        return 0.5 * float((np.log(variance)[:, None] + y / variance[:, None]).sum()) / n

    limits = [(1e-10, None), (1e-10, None)]
    best = min((minimize(cost, start, method="L-BFGS-B", bounds=limits) for start in STARTS), key=lambda found: found.fun)
    if (x > 1e-12).all():
        a = float((y / x[:, None]).mean())
        if (cost((a, 0.0)) - best.fun) * n < 0.5 * np.log(n):
            return a, 0.0
    return tuple(best.x)


def reliability(uncertainty: Float[np.ndarray, "n"], error: Float[np.ndarray, "n components"]) -> Reliability:
    """What uncertainties were worth, given the errors. Values that are not finite are left out."""
    u, e = _finite(uncertainty, error)
    nan = float("nan")
    if len(u) == 0:
        return Reliability(0, nan, nan, nan, nan, nan, nan, nan)
    z = np.abs(e) / np.maximum(u, 1e-300)[:, None]
    size = np.sqrt((e**2).mean(1))
    ranked = len(u) > 2 and np.ptp(u) > 0 and np.ptp(size) > 0
    return Reliability(
        e.size, float(np.sqrt((e**2).mean())), float(np.sqrt((u**2).mean())), float(np.sqrt((z**2).mean())),
        float((z <= NORMAL[68]).mean()), float((z <= NORMAL[95]).mean()), float(np.abs(coverage(u, e) - LEVELS).mean()),
        float(spearmanr(u, size).statistic) if ranked else nan)


def coverage(uncertainty, error) -> Float[np.ndarray, "level"]:
    """Fraction of the errors within the central interval of each confidence of LEVELS, if they were normal."""
    z = np.sort((np.abs(error) / np.maximum(uncertainty, 1e-300)[:, None]).ravel())
    return np.searchsorted(z, norm.ppf(0.5 + LEVELS / 2), side="right") / max(len(z), 1)


def _finite(spread, error):
    """Arrays (n) and (n, components) without rows that are not finite."""
    s = np.asarray(spread, dtype=np.float64)
    e = np.asarray(error, dtype=np.float64).reshape(len(s), -1)
    kept = np.isfinite(s) & np.isfinite(e).all(1)
    return s[kept], e[kept]
