"""Symmetry numbers and point groups of molecules of every family, under rotation, permutation and noise."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from nddo_ml.properties.symmetry import molecular_shape, point_group, symmetry_number


def ring(n, radius, height=0.0, turn=0.0):
    """n points on a circle about z."""
    angle = 2 * np.pi * np.arange(n) / n + turn
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(n, height)], -1)


def metallocene(n, turn):
    """Fe between two rings of n CH groups; turn 0: eclipsed."""
    x = [np.zeros((1, 3))]
    for side, angle in ((1, 0.0), (-1, turn)):
        x += [ring(n, 1.2, 1.65 * side, angle), ring(n, 2.3, 1.65 * side, angle)]
    return [26] + ([6] * n + [1] * n) * 2, np.concatenate(x)


def bipyramid(n):
    return [15] + [9] * (n + 2), np.concatenate([np.zeros((1, 3)), ring(n, 1.53), [[0, 0, 1.6], [0, 0, -1.6]]])


def buckminsterfullerene():
    a = molecule("C60")
    return a.numbers, a.positions


def built(name):
    a = molecule(name)
    return a.numbers, a.positions


OCTAHEDRON = np.concatenate([np.zeros((1, 3)), 1.56 * np.eye(3), -1.56 * np.eye(3)])
H2O2 = ([8, 8, 1, 1], [[0, 0.7, 0], [0, -0.7, 0], [0.8, 0.9, 0.5], [-0.8, -0.9, 0.5]])
TRANS_C2H2F2 = ([6, 9, 1, 6, 9, 1], [[0.67, 0, 0], [1.4, 1.1, 0], [1.2, -1, 0], [-0.67, 0, 0], [-1.4, -1.1, 0], [-1.2, 1, 0]])
C4_ROTOR = ([9] * 4 + [1] * 4, np.concatenate([ring(4, 1.0, 0.3), ring(4, 1.7, 0.9, 0.35)]))   # C4
S4_ROTOR = ([6] + [7] * 4 + [1] * 4, np.concatenate([np.zeros((1, 3)), ring(2, 1.2, 0.5), ring(2, 1.2, -0.5, np.pi / 2),
                                                     ring(2, 1.9, 1.1, 0.5), ring(2, 1.9, -1.1, np.pi / 2 + 0.5)]))

CASES = {
    "H2O": (built("H2O"), 2, "C2v"), "NH3": (built("NH3"), 3, "C3v"), "CH4": (built("CH4"), 12, "Td"),
    "C6H6": (built("C6H6"), 12, "D6h"), "C2H6": (built("C2H6"), 6, "D3d"), "CO2": (built("CO2"), 2, "D*h"),
    "HCl": (built("HCl"), 1, "C*v"), "C60": (buckminsterfullerene(), 60, "Ih"), "C2H4": (built("C2H4"), 4, "D2h"),
    "allene": (built("C3H4_D2d"), 4, "D2d"), "BF3": (built("BF3"), 6, "D3h"), "SF6": (([16] + [9] * 6, OCTAHEDRON), 24, "Oh"),
    "PF5": (bipyramid(3), 6, "D3h"), "IF7": (bipyramid(5), 10, "D5h"), "ferrocene eclipsed": (metallocene(5, 0.0), 10, "D5h"),
    "ferrocene staggered": (metallocene(5, np.pi / 5), 10, "D5d"), "ferrocene twisted": (metallocene(5, 0.3), 10, "D5"),
    "H2O2": (H2O2, 2, "C2"), "trans-C2H2F2": (TRANS_C2H2F2, 2, "C2h"), "C4 rotor": (C4_ROTOR, 4, "C4"),
    "S4": (S4_ROTOR, 2, "S4"), "CHFClBr": (([6, 1, 9, 17, 35], built("CH4")[1]), 1, "C1"), "CH3OH": (built("CH3OH"), 1, "Cs"),
    "atom": (([18], [[1.0, 2, 3]]), 1, "K"), "C2H2": (built("C2H2"), 2, "D*h"), "HCN": (built("HCN"), 1, "C*v"),
    "cyclobutene": (built("cyclobutene"), 2, "C2v"), "CH3Cl": (built("CH3Cl"), 3, "C3v"), "SiH4": (built("SiH4"), 12, "Td"),
    "bicyclobutane": (built("bicyclobutane"), 2, "C2v"), "isobutane": (built("isobutane"), 3, "C3v"),
}


@pytest.mark.parametrize("name", CASES)
def test_point_group(name):
    (numbers, positions), number, symbol = CASES[name]
    found = point_group(numbers, np.asarray(positions, float))
    assert (found.number, found.name) == (number, symbol)
    assert symmetry_number(numbers, np.asarray(positions, float)) == number


@pytest.mark.parametrize("name", CASES)
def test_turned_permuted_and_noisy(name):
    (numbers, positions), number, symbol = CASES[name]
    noise = np.random.default_rng(7)
    turn = np.linalg.qr(noise.normal(size=(3, 3)))[0]
    order = noise.permutation(len(numbers))
    x = (np.asarray(positions, float) @ turn.T + 5)[order] + noise.normal(scale=0.004, size=(len(numbers), 3))
    found = point_group(np.asarray(numbers)[order], x)
    assert (found.number, found.name) == (number, symbol)
    assert found.deviation < 0.05


def test_operations_map_the_molecule_onto_itself():
    numbers, positions = CASES["C60"][0]
    found = point_group(numbers, positions)
    x = positions - positions.mean(0)
    for operation in found.operations:
        assert np.abs(operation @ operation.T - np.eye(3)).max() < 1e-12
        assert np.linalg.norm((x @ operation.T)[:, None] - x, axis=-1).min(1).max() <= found.deviation + 1e-9


def test_real_distortions_are_not_symmetry():
    """A rectangle of 1.34 x 1.57 angstrom, cyclobutadiene, is no square; nor is a rotated methyl group staggered."""
    rectangle = [[0.67, 0.785, 0], [-0.67, 0.785, 0], [0.67, -0.785, 0], [-0.67, -0.785, 0]]
    assert point_group([6] * 4, rectangle).name == "D2h"
    ethane = molecule("C2H6")
    top = ethane.positions[:, 2] > 0 if np.ptp(ethane.positions[:2, 2]) > 1 else ethane.positions[:, 0] > 0
    c, s = np.cos(0.2), np.sin(0.2)
    ethane.positions[top] = ethane.positions[top] @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    assert point_group(ethane.numbers, ethane.positions).name == "D3"


def test_isotopes_break_symmetry():
    water = molecule("H2O")
    assert symmetry_number([8, 1, 1], water.positions) == 2
    assert symmetry_number([8, 1, -2], water.positions) == 1


def test_shape():
    assert molecular_shape([[0.0, 0, 0]]) == "monatomic"
    assert molecular_shape(Atoms("HCN", [[0, 0, 0], [0, 0.005, 1.06], [0, 0, 2.2]]).positions) == "linear"
    assert molecular_shape([[0, 0, 0], [0, 0.1, 1.16], [0, 0, 2.32]]) == "nonlinear"
