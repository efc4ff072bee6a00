"""Folded records (integrals/records.py) as records of views again, field by field in the order in which they were folded."""

from nddo_ml.common.jit import spliced
from nddo_ml.integrals.records import (
    Atoms,
    Charges,
    Cores,
    Hybrids,
    Pairs,
    Scaling,
    Scratch,
    Shell,
    Slater,
    Sparse,
    Turning,
)

SHELL_INTS, SHELL_REALS = 12, 3     # fields of a Shell
SHELLS = 4


@spliced
def _ints(f, k):
    return f.ints[f.ints_at[k]:f.ints_at[k + 1]]


@spliced
def _reals(f, k):
    return f.reals[f.reals_at[k]:f.reals_at[k + 1]]


@spliced
def _table(values, columns):
    return values.reshape((len(values) // columns, columns))


@spliced
def _turning(f, k, r):
    at = _ints(f, k)
    return Turning(at.reshape((2, len(at) // 2)), _ints(f, k + 1), _reals(f, r))


@spliced
def _shell(f, place):
    k, r = place * SHELL_INTS, place * SHELL_REALS
    return Shell(_ints(f, k)[0], _ints(f, k + 1)[0], _ints(f, k + 2)[0], _ints(f, k + 3)[0], _ints(f, k + 4), _ints(f, k + 5),
                 _ints(f, k + 6), _ints(f, k + 7), _reals(f, r), _turning(f, k + 8, r + 1), _turning(f, k + 10, r + 2))


@spliced
def constants(f):
    """The Sparse constants of a method's integrals."""
    k, r = SHELLS * SHELL_INTS, SHELLS * SHELL_REALS
    charges = Charges(
        _ints(f, k), _ints(f, k + 1), _ints(f, k + 2), _ints(f, k + 3), _ints(f, k + 4), _ints(f, k + 5), _reals(f, r),
        _ints(f, k + 6), _ints(f, k + 7), _ints(f, k + 8), _reals(f, r + 1), _ints(f, k + 9), _ints(f, k + 10),
        _reals(f, r + 2), _ints(f, k + 11), _ints(f, k + 12), _ints(f, k + 13), _ints(f, k + 14), _ints(f, k + 15)[0])
    k, r = k + 16, r + 3
    rules = _table(_reals(f, r + 4), 3)
    slater = Slater(
        _table(_ints(f, k), 2), _reals(f, r), _reals(f, r + 1), _ints(f, k + 1), _table(_ints(f, k + 2), 4),
        _table(_ints(f, k + 3), 4), _table(_ints(f, k + 4), len(rules)), _reals(f, r + 2), _ints(f, k + 5), _reals(f, r + 3),
        rules, _reals(f, r + 5)[0])
    k, r = k + 6, r + 6
    hybrids = Hybrids(_ints(f, k), _ints(f, k + 1), _ints(f, k + 2), _ints(f, k + 3), _reals(f, r))
    return Sparse((_shell(f, 0), _shell(f, 1), _shell(f, 2), _shell(f, 3)), charges, slater, hybrids, _reals(f, r + 1)[0],
                  _reals(f, r + 2)[0])


@spliced
def atoms(f):
    """The Atoms of a batch."""
    core = _reals(f, 3)
    features = _reals(f, 0)
    return Atoms(_ints(f, 0), _ints(f, 1), _ints(f, 2), _ints(f, 3), _ints(f, 4),
                 features.reshape((len(core), len(features) // max(len(core), 1))), _table(_reals(f, 1), 3),
                 _table(_reals(f, 2), 3), core, _reals(f, 4), _reals(f, 5), _ints(f, 5))


@spliced
def pairs(f):
    """The Pairs of a batch."""
    return Pairs(_ints(f, 6), _ints(f, 7), _ints(f, 8), _ints(f, 9), _ints(f, 10), _ints(f, 11), _ints(f, 12), _ints(f, 13),
                 _ints(f, 14))


@spliced
def cores(f):
    """The Cores of a batch."""
    return Cores(_ints(f, 15)[0], _reals(f, 6), _table(_reals(f, 7), 7), _ints(f, 16), _table(_reals(f, 8), 3))


@spliced
def scaling(f, join, fade, factors):
    """The Scaling of a batch, with the factors at its positions."""
    return Scaling(join, fade, factors, _reals(f, 9)[0], _ints(f, 17), _table(_ints(f, 18), 2))


@spliced
def scratch(room):
    """Room for one pair, of an array of `records.ROOM` numbers."""
    return Scratch(
        room[0:3], room[3:6], room[6:46], room[46:366], room[366:766], room[766:926], room[926:1086], room[1086:1406],
        room[1406:1446], room[1446:1470], room[1470:1542].reshape((24, 3)), room[1542:1551], room[1551:1575],
        room[1575:1584].reshape((3, 3)), room[1584:1593].reshape((3, 3)), room[1593:1618].reshape((5, 5)),
        room[1618:1643].reshape((5, 5)), room[1643:1763].reshape((5, 24)), room[1763:2339].reshape((24, 24)),
        room[2339:4364].reshape((45, 45)), room[4364:4445].reshape((9, 9)), room[4445:4490], room[4490:4535],
        room[4535:4580], room[4580:4625], room[4625:4670], room[4670:4715], room[4715:4718], room[4718:4720],
        room[4720:4723], room[4723:4915].reshape((3, 64)), room[4915:5107].reshape((3, 64)), room[5107:5171],
        room[5171:5235].reshape((16, 4)))
