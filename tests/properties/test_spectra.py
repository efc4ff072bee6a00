"""Broadened spectra keep their area, the drawing has what chemists expect, and a missing matplotlib is named."""

import sys

import numpy as np
import pytest
import torch

from nddo_ml.errors import InvalidMolecule, MissingExtra
from nddo_ml.properties.spectra import (
    ABSORPTION,
    Stokes,
    gaussian,
    ir_spectrum,
    labelled_peaks,
    lorentzian,
    plot,
    raman_spectrum,
)

NU = [1595.0, 3657.0, 3756.0]
INTENSITIES = [68.0, 4.0, 55.0]


@pytest.mark.parametrize("shape", [gaussian, lorentzian])
def test_lines_have_unit_area_and_the_stated_width(shape):
    """Lorentzian tails beyond 1e4 half widths hold 2/pi 1e-4 of the area."""
    x = np.arange(-1e5, 1e5, 0.5)
    assert shape(x, 20.0).sum() * 0.5 == pytest.approx(1, abs=1e-4)
    half, top = shape(np.array([10.0, 0.0]), 20.0)
    assert half == pytest.approx(top / 2)


@pytest.mark.parametrize("shape", [gaussian, lorentzian])
def test_area_of_the_ir_spectrum_is_the_sum_of_intensities(shape):
    grid = np.arange(-40000, 40000, 1.0)
    s = ir_spectrum(torch.tensor(NU), torch.tensor(INTENSITIES), grid, shape=shape)
    assert s.curve.sum() == pytest.approx(ABSORPTION * sum(INTENSITIES), rel=1e-3)
    assert ABSORPTION == pytest.approx(43.429, abs=1e-3)


def test_peaks_scale_and_imaginary_modes():
    s = ir_spectrum([-300.0, *NU], [9.0, *INTENSITIES], scale=0.96, width=8.0)
    assert s.imaginary == 1 and len(s.positions) == 3
    assert labelled_peaks(s)[0][0] == pytest.approx(0.96 * 1595, abs=1)
    assert s.wavenumbers[0] == 400 and s.wavenumbers[-1] >= 4000
    assert len(labelled_peaks(s, 1)) == 1


def test_raman_is_normalised_and_finite_at_low_wavenumbers():
    s = raman_spectrum([0.001, 400.0, 3000.0], [1.0, 10.0, 100.0], stokes=Stokes(18797.0))
    assert s.curve.max() == pytest.approx(1) and np.isfinite(s.curve).all()


def test_raman_intensities_weight_low_wavenumbers_more_than_activities():
    plain = raman_spectrum([500.0, 3000.0], [1.0, 1.0], np.arange(4000.0))
    assert plain.curve[500] == pytest.approx(plain.curve[3000], rel=1e-3)
    s = raman_spectrum([500.0, 3000.0], [1.0, 1.0], np.arange(4000.0), stokes=Stokes(18797.0))
    assert s.curve[500] > 3 * s.curve[3000]


def test_silent_molecules_give_empty_spectra(tmp_path):
    for frequencies in ([], NU):
        s = ir_spectrum(frequencies, [0.0] * len(frequencies))
        assert not s.curve.any()
        assert plot(s, tmp_path / "empty.png").stat().st_size > 1000


def test_plot_writes_a_png(tmp_path):
    path = plot(ir_spectrum(NU, INTENSITIES), tmp_path / "water.png", "Water")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_missing_matplotlib_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nddo_ml\[plot\]'"):
        plot(ir_spectrum(NU, INTENSITIES), tmp_path / "x.png")


def test_lengths_must_agree():
    with pytest.raises(InvalidMolecule, match="equal length"):
        ir_spectrum([1.0, 2.0], [1.0])
