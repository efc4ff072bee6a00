"""Vibrational spectra: stick spectra broadened to what an instrument records, and drawn as chemists draw them.

`plot` needs matplotlib, the extra `plot`; the arrays need nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import find_peaks

from nddo_ml.common.extras import needed
from nddo_ml.common.struct import record
from nddo_ml.errors import InvalidMolecule
from nddo_ml.properties.arrays import Numbers, plain

# decadic molar absorption, L mol^-1 cm^-1 x cm^-1, per km/mol: 1e5 cm/km / (1000 cm^3/L ln 10)
ABSORPTION = 100 / np.log(10)
SECOND_RADIATION = 1.438776877   # h c / k, cm K
INK, LINE, STICK = "#22262b", "#1f5fa8", "#c0442c"


def lorentzian(offset: np.ndarray, width: float) -> np.ndarray:
    """Line of area 1: (w/2) / pi / (x^2 + (w/2)^2), w the full width at half maximum."""
    return (width / 2) / np.pi / (offset**2 + (width / 2) ** 2)


def gaussian(offset: np.ndarray, width: float) -> np.ndarray:
    """Line of area 1: 2 sqrt(ln 2 / pi) / w exp(-4 ln 2 (x/w)^2), w the full width at half maximum."""
    return 2 * np.sqrt(np.log(2) / np.pi) / width * np.exp(-4 * np.log(2) * (offset / width) ** 2)


Shape = Callable[[np.ndarray, float], np.ndarray]     # of a line: (distance from its centre, full width) -> height


@record
class Spectrum:
    """A broadened spectrum, and the sticks it was made of."""

    wavenumbers: np.ndarray     # cm^-1, of `curve`
    curve: np.ndarray
    unit: str                   # of `curve`
    positions: np.ndarray       # of the sticks, cm^-1
    heights: np.ndarray         # of the sticks: the intensities
    stick_unit: str             # of `heights`
    imaginary: int              # modes left out because their frequencies are imaginary


@dataclass(frozen=True)
class Stokes:
    """How Raman scattering is excited: what turns activities into the intensities of Stokes lines."""

    laser: float                    # wavenumber of the light, cm^-1; 18797 for 532 nm
    temperature: float = 298.15     # K

    def weight(self, nu: np.ndarray) -> np.ndarray:
        """Intensity per activity of modes nu_k (cm^-1), (nu_0 - nu_k)^4 / nu_k / (1 - exp(-h c nu_k / k T)).

        Polavarapu, J. Phys. Chem. 94, 8106 (1990). It diverges as nu_k -> 0: modes below 10 cm^-1 get the weight of 10, and
        soft modes dominate as they do in experiment.
        """
        low = np.maximum(nu, 10.0)
        return (self.laser - low) ** 4 / low / -np.expm1(-SECOND_RADIATION * low / self.temperature)


def ir_spectrum(frequencies: Numbers, intensities: Numbers, wavenumbers: Numbers | None = None, width: float = 20.0,
                shape: Shape = lorentzian, scale: float = 1.0) -> Spectrum:
    """Infrared absorption: molar absorptivity in L mol^-1 cm^-1 from frequencies in cm^-1 and intensities in km/mol.

    epsilon(nu) = 100/ln(10) sum I_k L(nu - scale nu_k)      its integral over nu returns the intensities, 43.43 per km/mol

    wavenumbers: where, cm^-1 (None: every 1 cm^-1 up to beyond the highest mode). width: full width at half maximum, cm^-1.
    scale: factor on the frequencies for anharmonicity.

    Raises: InvalidMolecule, if there are not as many intensities as frequencies.
    """
    nu, heights, imaginary = _sticks(frequencies, intensities, scale)
    grid = _grid(nu, wavenumbers)
    curve = ABSORPTION * (shape(grid[:, None] - nu, width) * heights).sum(-1)
    return Spectrum(grid, curve, "molar absorptivity / L mol$^{-1}$ cm$^{-1}$", nu, heights, "intensity / km mol$^{-1}$",
                    imaginary)


def raman_spectrum(frequencies: Numbers, activities: Numbers, wavenumbers: Numbers | None = None, width: float = 10.0,
                   shape: Shape = lorentzian, stokes: Stokes | None = None) -> Spectrum:
    """Raman spectrum in arbitrary units (highest point 1), from frequencies in cm^-1, scaled if at all, and activities in
    angstrom^4/amu.

    Without `stokes` the activities are broadened as they are. Other arguments and errors as for `ir_spectrum`.
    """
    nu, heights, imaginary = _sticks(frequencies, activities, 1.0)
    grid = _grid(nu, wavenumbers)
    weight = 1.0 if stokes is None else stokes.weight(nu)
    curve = (shape(grid[:, None] - nu, width) * (heights * weight)).sum(-1)
    curve = curve / curve.max() if curve.size and curve.max() > 0 else curve
    return Spectrum(grid, curve, "Raman intensity / arb. units", nu, heights, "activity / Å$^4$ amu$^{-1}$", imaginary)


def plot(spectrum: Spectrum, path: str | Path, title: str = "", labels: int = 8) -> Path:
    """The file written: the spectrum as PNG (or what the suffix of `path` says), wavenumbers falling to the right.

    The curve on the left axis, the calculated sticks on the right one; the `labels` strongest peaks carry their wavenumber.

    Raises: MissingExtra, if matplotlib is not installed.
    """
    needed("matplotlib", "plot", "A picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, spectrum, labels)
    axes.set_title(title, loc="left", color=INK, fontsize=12)
    path = Path(path)
    figure.savefig(path, dpi=200)
    return path


def _draw(axes, spectrum, labels):
    """The curve, the sticks on a second axis, and the labels of the strongest peaks."""
    x, y = spectrum.wavenumbers, spectrum.curve
    axes.fill_between(x, y, color=LINE, alpha=0.12, linewidth=0)
    axes.plot(x, y, color=LINE, linewidth=1.4)
    sticks = axes.twinx()
    sticks.vlines(spectrum.positions, 0, spectrum.heights, color=STICK, linewidth=1.2, alpha=0.85)
    for each, values, unit, colour, room in ((axes, y, spectrum.unit, LINE, 1.2),
                                             (sticks, spectrum.heights, spectrum.stick_unit, STICK, 3.0)):
        each.set_ylim(0, room * (values.max(initial=0.0) or 1.0))   # sticks fill the lower third, under the curve
        each.set_ylabel(unit, color=colour, fontsize=10)
        each.tick_params(axis="y", colors=colour, labelsize=9, length=3)
        each.spines["top"].set_visible(False)
    axes.set_xlim(x.max(), x.min())
    axes.set_xlabel("wavenumber / cm$^{-1}$", color=INK, fontsize=10)
    axes.tick_params(axis="x", colors=INK, labelsize=9, length=3)
    axes.set_zorder(sticks.get_zorder() + 1)
    axes.patch.set_visible(False)
    for peak, height in labelled_peaks(spectrum, labels):
        axes.annotate(f"{peak:.0f}", (peak, height), xytext=(0, 4), textcoords="offset points", ha="center", va="bottom",
                      rotation=90, fontsize=8.5,
                      color=INK, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8})


def labelled_peaks(spectrum: Spectrum, count: int = 8) -> list[tuple[float, float]]:
    """Wavenumber and height of the `count` highest maxima that rise by 1 % of the highest and do not crowd a higher one."""
    x, y = spectrum.wavenumbers, spectrum.curve
    if not y.any():
        return []
    maxima = find_peaks(y, prominence=0.01 * y.max(), distance=max(1, len(x) // 60))[0]
    return [(float(x[k]), float(y[k])) for k in np.sort(maxima[np.argsort(-y[maxima])][:count])]


def _sticks(frequencies, intensities, scale):
    """Real, scaled wavenumbers and their intensities as arrays, and the number of imaginary modes left out."""
    nu, heights = plain(frequencies), plain(intensities)
    if nu.shape != heights.shape or nu.ndim != 1:
        raise InvalidMolecule(f"{nu.shape} frequencies and {heights.shape} intensities: expected two lists of equal length.")
    return scale * nu[nu > 0], heights[nu > 0], int((nu < 0).sum())


def _grid(nu, wavenumbers):
    """The given wavenumbers, or every 1 cm^-1 from 0 (from 400 if nothing lies below 500) to beyond the highest mode."""
    if wavenumbers is not None:
        return plain(wavenumbers)
    top = max(4000.0, 200 * np.ceil(nu.max(initial=0.0) / 200 + 0.5))
    return np.arange(0.0 if (nu < 500).any() else 400.0, top + 1)
