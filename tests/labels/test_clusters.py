"""Molecules beside each other."""

import numpy as np
import pytest
from ase.build import molecule
from ase.data import vdw_radii
from support.labels import water

from nddo_ml.labels import clusters
from nddo_ml.labels.structures import from_atoms


@pytest.mark.parametrize("scale", [0.85, 1.0, 1.5])
def test_dimers_touch_at_their_distance(scale):
    a, b = clusters.placed(water(), from_atoms(molecule("CH4")), scale, np.random.default_rng(3))
    d = np.linalg.norm(a.positions[:, None] - b.positions[None], axis=-1)
    radii = [np.minimum(vdw_radii[s.numbers], clusters.CONTACT) for s in (a, b)]
    assert (d / (radii[0][:, None] + radii[1][None])).min() == pytest.approx(scale, abs=1e-6)
    for s, reference in ((a, water()), (b, from_atoms(molecule("CH4")))):      # rigid, not mirrored
        np.testing.assert_allclose(s.atoms.get_all_distances(), reference.atoms.get_all_distances(), atol=1e-7)
