"""Calibration: from the spread of several predictions to the size of their error.

    uncertainty = sqrt((scale spread)^2 + floor^2)

scale and floor make labelled errors, each divided by its uncertainty, have unit variance. A handful of predictions gives a
rough spread, so the reduced errors keep longer tails than a normal distribution: how long, is measured and kept as two factors.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import norm, spearmanr
from torch import Tensor

from nddo_ml.common.json import finite
from nddo_ml.errors import IncompatibleFile, UnknownOption

LEVELS = np.linspace(0.01, 0.99, 99)      # of confidence, at which coverage is compared
# per cent of a normal distribution -> standard deviations within which they lie
NORMAL = {68: float(norm.ppf(0.5 + 0.68 / 2)), 95: float(norm.ppf(0.5 + 0.95 / 2))}
LEAST = 8              # errors to fit a scale to; below, there is none
STARTS = ((1.0, 0.01), (0.5, 0.5), (0.01, 1.0))      # of the fit: squares of scale and floor, in units of the data

Values = TypeVar("Values", Tensor, np.ndarray)


@dataclass(frozen=True)
class Scale:
    """From a spread to an uncertainty: sqrt((scale spread)^2 + floor^2)."""

    scale: float = 1.0
    floor: float = 0.0                  # in the unit of the spread
    within_68: float = NORMAL[68]       # multiple of the uncertainty that held 68 % of the labelled errors
    within_95: float = NORMAL[95]       # and 95 % of them; these are the values of a normal distribution

    def __call__(self, spread: Values) -> Values:
        """The uncertainty (one standard deviation) of a spread, in its unit."""
        return (self.scale**2 * spread**2 + self.floor**2) ** 0.5


@dataclass(frozen=True)
class Reliability:
    """How well uncertainties say what errors are."""

    errors: int             # number of them
    error: float            # root mean square, in the unit of the errors
    uncertainty: float      # root mean square, in the same unit
    reduced: float          # root mean square of error / uncertainty, 1 if calibrated
    coverage_68: float      # fraction of the errors within 0.994 uncertainties
    coverage_95: float      # fraction of the errors within 1.960 uncertainties
    area: float             # between the curve of coverage against confidence and the diagonal, 0 to 0.5
    rank: float             # Spearman's correlation of uncertainty and size of the error, NaN where either is constant


@dataclass(frozen=True)
class Calibration:
    """From the spreads of an ensemble to its uncertainties."""

    energy: Scale = Scale()                             # eV
    forces: Scale = Scale()                             # eV/angstrom, per component
    frames: int = 0                                     # labelled frames that the scales were fitted to
    # what the uncertainties were worth on frames that did not take part in the fit; None: unknown
    energy_reliability: Reliability | None = None
    forces_reliability: Reliability | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file; what is not finite becomes None."""
        return finite(asdict(self))

    @staticmethod
    def from_dict(values: dict[str, Any], where: str = "the calibration") -> "Calibration":
        """The calibration that `as_dict` gave; `where` it stands is named in errors.

        Raises:
            IncompatibleFile: `as_dict` gave something else.
        """
        try:
            return Calibration(Scale(**values["energy"]), Scale(**values["forces"]), int(values["frames"]),
                               _reliability(values["energy_reliability"]), _reliability(values["forces_reliability"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise IncompatibleFile(f"{where} holds no calibration of this version ({type(error).__name__}: {error}): calibrate "
                                   "the ensemble again.") from None


def fit(spread: Float[np.ndarray, "n"], error: Float[np.ndarray, "n *components"]) -> Scale:
    """The scale of largest likelihood for normal errors of variance (scale spread)^2 + floor^2.

    At this maximum the reduced errors have unit variance. The floor stays 0 unless it improves the likelihood by more than a
    parameter must (G. Schwarz, Ann. Stat. 6, 461 (1978)). Several components of the error may share a spread; rows with values
    that are not finite are left out.

    Raises:
        UnknownOption: fewer than 8 rows are left.
    """
    s, e = _finite(spread, error)
    if len(s) < LEAST:
        raise UnknownOption(f"{len(s)} labelled errors to calibrate with: {LEAST} or more are needed; hold more frames out.")
    unit_s, unit_e = max(np.sqrt((s**2).mean()), 1e-12), max(np.sqrt((e**2).mean()), 1e-12)
    x, y = (s / unit_s) ** 2, (e / unit_e) ** 2
    a, b = _likeliest(x, y)
    reduced = float((y / (a * x + b)[:, None]).mean())       # 1 at the exact maximum
    a, b = a * reduced, b * reduced
    likeliest = Scale(float(np.sqrt(a) * unit_e / unit_s), float(np.sqrt(b) * unit_e))
    z = np.abs(e) / likeliest(s)[:, None]
    return Scale(likeliest.scale, likeliest.floor, *(float(np.quantile(z, per_cent / 100)) for per_cent in NORMAL))


def _likeliest(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n components"]) -> tuple[float, float]:
    """Squares of scale and floor, for squares of spread and error."""
    n = y.size

    def cost(theta: Sequence[float] | np.ndarray) -> float:
        variance = theta[0] * x + theta[1]
        return 0.5 * float((np.log(variance)[:, None] + y / variance[:, None]).sum()) / n

    limits = [(1e-10, None), (1e-10, None)]
    best = min((minimize(cost, start, method="L-BFGS-B", bounds=limits) for start in STARTS), key=lambda minimum: minimum.fun)
    if (x > 1e-12).all():
        a = float((y / x[:, None]).mean())
        if (cost((a, 0.0)) - best.fun) * n < 0.5 * np.log(n):
            return a, 0.0
    return float(best.x[0]), float(best.x[1])


def reliability(uncertainty: Float[np.ndarray, "n"], error: Float[np.ndarray, "n *components"]) -> Reliability:
    """What uncertainties were worth, given the errors. Values that are not finite are left out."""
    u, e = _finite(uncertainty, error)
    if len(u) == 0:
        return Reliability(0, *[float("nan")] * 7)
    z = np.abs(e) / np.maximum(u, 1e-300)[:, None]
    size = np.sqrt((e**2).mean(1))
    ranked = len(u) > 2 and np.ptp(u) > 0 and np.ptp(size) > 0
    return Reliability(
        errors=e.size, error=_rms(e), uncertainty=_rms(u), reduced=_rms(z),
        coverage_68=float((z <= NORMAL[68]).mean()), coverage_95=float((z <= NORMAL[95]).mean()),
        area=float(np.abs(coverage(u, e) - LEVELS).mean()),
        rank=float(cast(Any, spearmanr(u, size)).statistic) if ranked else float("nan"))      # scipy leaves its result untyped


def coverage(uncertainty: Float[np.ndarray, "n"], error: Float[np.ndarray, "n components"]) -> Float[np.ndarray, "level"]:
    """Fraction of the errors within the central interval that each confidence of LEVELS would have, were they normal."""
    z = np.sort((np.abs(error) / np.maximum(uncertainty, 1e-300)[:, None]).ravel())
    return np.searchsorted(z, norm.ppf(0.5 + LEVELS / 2), side="right") / max(len(z), 1)


def _rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt((values**2).mean()))


def _reliability(given: dict[str, Any] | None) -> Reliability | None:
    """The reliability that a file holds, where NaN is null."""
    if given is None:
        return None
    values: dict[str, Any] = {name: float("nan") if value is None else value for name, value in given.items()}
    return Reliability(**values)


def _finite(spread: np.ndarray,
            error: np.ndarray) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n components"]]:
    """Spreads and errors without rows that are not finite."""
    s = np.asarray(spread, dtype=np.float64)
    e = np.asarray(error, dtype=np.float64).reshape(len(s), -1)
    kept = np.isfinite(s) & np.isfinite(e).all(1)
    return s[kept], e[kept]
