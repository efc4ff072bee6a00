"""Selection of determinants: those that a Hamiltonian couples most strongly to a state, without building the whole space.

A determinant is packed into a row of 64-bit words, one bit per spin orbital. The single and double excitations of each
determinant of the state are made one after another, and couplings to the same determinant are summed. No more than a fixed
number of determinants is held at a time.
B. Huron, J. P. Malrieu, P. Rancurel, J. Chem. Phys. 58, 5745 (1973)
"""

from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nddo_ml.wavefunction.determinants.second_quantisation import PART, SecondQuantisedHamiltonian, Space, diagonal

HELD = 4_000_000        # determinants outside the state; beyond that the lighter half is let go
BUFFER = 1_000_000      # couplings between two sums
NOTHING = 1e-12         # of a coupling times an amplitude: zero by symmetry
SHIFT = 1e-9            # keeps a denominator from vanishing


def first_order(H: SecondQuantisedHamiltonian, space: Space, psi: Float[Tensor, "determinant"], energy: float,
                count: int) -> tuple[Bool[Tensor, "other spin_orbital"], Float[Tensor, "other"]]:
    """(occupations, amplitudes) of the `count` heaviest determinants outside the space of psi; fewer if H couples fewer.

    The amplitude of a determinant D is |<D|H|psi> / (E - <D|H|D>)|, the first order of perturbation theory, E being the energy
    of psi.
    """
    inside = words(space.numpy())
    keys, sums = inside[:0], np.empty(0)
    waiting, held = [], 0
    for n in psi.abs().argsort(descending=True).tolist():
        waiting.append(excitations(H, space[n].numpy(), inside[n], float(psi[n])))
        held += len(waiting[-1][1])
        if held > BUFFER:
            keys, sums = _lighter_left_out(*_summed([(keys, sums), *waiting]))
            waiting, held = [], 0
    # a determinant of the space itself meets its NaN here, and is left out below
    keys, sums = _summed([(keys, sums), *waiting, (inside, np.full(len(inside), np.nan))])
    outside = ~np.isnan(sums)
    keys, sums = keys[outside], torch.from_numpy(sums[outside])
    weights = torch.empty(len(sums), dtype=torch.float64)
    for part in (slice(k, k + PART) for k in range(0, len(sums), PART)):
        rows = torch.from_numpy(occupations(keys[part], space.shape[1]))
        weights[part] = (sums[part] / (energy - diagonal(H, rows) - SHIFT)).abs()
    weights, chosen = weights.topk(min(count, len(weights)))
    return torch.from_numpy(occupations(keys[chosen.numpy()], space.shape[1])), weights


def words(occupation: np.ndarray) -> np.ndarray:
    """The occupations of determinants `determinant spin_orbital` packed into 64-bit words, `determinant word`."""
    places = np.zeros((len(occupation), -(-occupation.shape[1] // 64) * 64), dtype=bool)
    places[:, :occupation.shape[1]] = occupation
    return np.packbits(places, axis=1, bitorder="little").view(np.uint64)


def occupations(keys: np.ndarray, spin_orbitals: int) -> np.ndarray:
    """The occupations `determinant spin_orbital` that `words` has packed."""
    return np.unpackbits(np.ascontiguousarray(keys).view(np.uint8), axis=1, bitorder="little", count=spin_orbitals).astype(bool)


def excitations(H: SecondQuantisedHamiltonian, occupation: np.ndarray, key: np.ndarray,
                amplitude: float) -> tuple[np.ndarray, np.ndarray]:
    """(words, amplitude times <D'|H|D>) of the single and double excitations D' of a determinant D, zeros left out.

    `occupation` and `key` are the occupations of D and its words, `amplitude` is the weight of D in the state.
    """
    n, h, eri = H.orbitals, H.h.numpy(), H.eri.numpy()
    bits = words(np.eye(2 * n, dtype=bool))
    spins = occupation.reshape(2, n)
    filled, empty = ([np.flatnonzero(x) for x in y] for y in (spins, ~spins))
    below = np.cumsum(spins, 1) - spins                     # electrons of the same spin before a place
    both, J, K = spins.sum(0), np.einsum("aiqq->aiq", eri), np.einsum("aqqi->aiq", eri)
    parts, singles = [], []
    for s in range(2):
        i, a = (x.ravel() for x in np.meshgrid(filled[s], empty[s], indexing="ij"))
        sign = _parity(below[s][a] - below[s][i] - (i < a))
        change = bits[s * n + i] ^ bits[s * n + a]
        parts.append((change, sign * (h[a, i] + J[a, i] @ both - K[a, i] @ spins[s])))
        singles.append((i, a, sign, change))
        parts.append(_same_spin(eri, filled[s], empty[s], below[s], bits[s * n:(s + 1) * n]))
    (i, a, sign, up), (j, b, other, down) = singles
    values = sign[:, None] * other * eri[a[:, None], i[:, None], b, j]
    parts.append(((up[:, None] ^ down).reshape(-1, bits.shape[1]), values.ravel()))
    keys, values = np.concatenate([k for k, _ in parts]), amplitude * np.concatenate([v for _, v in parts])
    kept = np.abs(values) > NOTHING
    return keys[kept] ^ key, values[kept]


def _same_spin(eri, filled, empty, below, bits):
    """(words of the change, coupling) of all ways to move two electrons of one spin from i < j to a < b."""
    holes, particles = (np.array(list(combinations(x, 2)), dtype=int).reshape(-1, 2) for x in (filled, empty))
    (i, j), (a, b) = holes.T[:, :, None], particles.T[:, None]
    # a+_a a+_b a_j a_i, one operator after another: each counts the electrons that are there when its turn comes
    passed = below[i] + below[j] - 1 + below[b] - (i < b) - (j < b) + below[a] - (i < a) - (j < a)
    values = _parity(passed) * (eri[a, i, b, j] - eri[a, j, b, i])
    keys = (bits[holes[:, 0]] ^ bits[holes[:, 1]])[:, None] ^ (bits[particles[:, 0]] ^ bits[particles[:, 1]])
    return keys.reshape(-1, bits.shape[1]), values.ravel()


def _parity(count):
    """(-1)^count."""
    return 1.0 - 2.0 * (count % 2)


def _summed(parts):
    """Every word once, with the sum of its values."""
    keys, values = np.concatenate([k for k, _ in parts]), np.concatenate([v for _, v in parts])
    if not len(keys):
        return keys, values
    order = np.lexsort(keys.T)
    keys, values = keys[order], values[order]
    first = np.flatnonzero(np.concatenate([[True], (keys[1:] != keys[:-1]).any(1)]))
    return keys[first], np.add.reduceat(values, first)


def _lighter_left_out(keys, sums):
    """The heavier half of what is held, if that is too much."""
    if len(sums) <= HELD:
        return keys, sums
    kept = np.argpartition(np.abs(sums), -(HELD // 2))[-(HELD // 2):]
    return keys[kept], sums[kept]
