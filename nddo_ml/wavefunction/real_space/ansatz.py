"""The real-space ansatz: psi = exp(J) sum_k det Phi_k, with orbitals that see all electrons.

    Phi_k[i, m] = (w_km . h_i + c_km) sum_A pi_kmA exp(-zeta_kmA rho_iA)

h_i is the feature vector of electron i from a backbone, rho a distance that is smooth at the nucleus, J the Jastrow factor; w,
c, pi and zeta are learned. The determinants are full: the electrons of both spins share one, and each spin has its own weights.
The wavefunction is antisymmetric under exchange of equal spins by construction, for any numbers of electrons.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.wavefunction.real_space.backbones import Dense, FermiNet, Psiformer
from nddo_ml.wavefunction.real_space.features import nucleus_vectors, pair_vectors, square_length
from nddo_ml.wavefunction.real_space.jastrow import Jastrow
from nddo_ml.wavefunction.real_space.jets import (
    Jet,
    Quantity,
    contract,
    exp,
    joined,
    log_sum,
    mapped,
    reordered,
    slogdet,
    spread,
    sqrt,
    value,
)
from nddo_ml.wavefunction.real_space.protocols import DifferentiableAmplitude, MolecularAmplitude
from nddo_ml.wavefunction.real_space.systems import ElectronSystem, owners

OTHER_SPIN = 0.1    # first amplitudes of the orbitals of one spin for electrons of the other
START = 0.3         # of the usual spread: weights that mix the network into the orbitals
BACKBONES = {"ferminet": FermiNet, "psiformer": Psiformer}
NO_SIZES: Mapping[str, int] = MappingProxyType({})


class Wavefunction(nn.Module, MolecularAmplitude, DifferentiableAmplitude):
    """The ansatz for the electrons of a system, with a backbone that has `width` features per electron.

    singlet: every determinant is added to itself with the spins exchanged, so that no triplet mixes in, nor any other odd spin.

    Raises:
        InvalidMolecule: `singlet` with unequal numbers of electrons up and down.
    """

    nuclei: Tensor
    charges: Tensor
    core: Tensor
    jastrow: Jastrow

    def __init__(self, system: ElectronSystem, backbone: FermiNet | Psiformer, determinants: int = 4, singlet: bool = False):
        super().__init__()
        if singlet and system.up != system.down:
            raise InvalidMolecule(f"A singlet has as many electrons of either spin, not {system.up} up and {system.down} down: "
                                  "leave `singlet` out.")
        self.up, self.down, self.determinants, self.singlet = system.up, system.down, determinants, singlet
        charges, count = system.charges, determinants * system.electrons
        self.register_buffer("nuclei", system.nuclei)
        self.register_buffer("charges", charges)
        self.register_buffer("core", 1 / charges[:, None])
        self.backbone = backbone
        self.jastrow = Jastrow(charges, system.up, system.down)
        spins = 1 + bool(system.down)
        self.orbitals = nn.ModuleList(_nearly_constant(Dense(backbone.width, count)) for _ in range(spins))
        exponents, amplitudes = (x.repeat(1, determinants).repeat(spins, 1, 1) for x in _envelopes(system))
        self.exponents = nn.Parameter(exponents)
        self.amplitudes = nn.Parameter(amplitudes * _own_spin(system)[:spins].repeat(1, determinants)[:, None, :])

    def forward(self, r: Float[Tensor, "... electron 3"]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """(sign, ln|psi|) at positions of the electrons in bohr, those of spin up first."""
        sign, log = self._evaluate(r, False)
        return sign, value(log)

    def jets(self, r: Float[Tensor, "walker electron 3"]) -> tuple[Float[Tensor, "walker"], Jet]:
        """(sign, jet of ln|psi|): value, gradient by the coordinates of the electrons, and Laplacian."""
        sign, log = self._evaluate(r, True)
        assert isinstance(log, Jet)
        return sign, log

    def matrices(self, r: Float[Tensor, "... electron 3"]) -> Float[Tensor, "... determinant electron orbital"]:
        """Phi_k[i, m], with the columns of spin-up orbitals first."""
        return value(self._matrices(nucleus_vectors(r, self.nuclei, False), pair_vectors(r, False)))

    def _evaluate(self, r: Tensor, jets: bool) -> tuple[Tensor, Quantity]:
        nucleus, pair = nucleus_vectors(r, self.nuclei, jets), pair_vectors(r, jets)
        sign, log = slogdet(self._matrices(nucleus, pair))
        if self.singlet:
            order = [*range(self.up, 2 * self.up), *range(self.up)]
            x = r[..., order, :]
            other, log_other = slogdet(self._matrices(nucleus_vectors(x, self.nuclei, jets), pair_vectors(x, jets)))
            sign, log = torch.cat([sign, other], -1), joined([log, reordered(log_other, order)])
        sign, log = log_sum(sign, log)
        return sign, log + self.jastrow(nucleus, pair)

    def _matrices(self, nucleus: Quantity, pair: Quantity) -> Quantity:
        h = self.backbone(nucleus, pair)
        products = self._by_spin(h, lambda x, k: self.orbitals[k](x)) * spread(self._envelopes(nucleus))
        return mapped(products, lambda t: t.unflatten(-1, (self.determinants, -1)).movedim(-2, -3))

    def _envelopes(self, nucleus: Quantity) -> Quantity:
        """sum_A pi exp(-zeta rho), rho = sqrt(r^2 + 1/Z^2) - 1/Z: smooth, the Jastrow factor has the cusp."""
        rho = sqrt(square_length(nucleus) + self.core**2) - self.core
        return self._by_spin(rho, self._envelopes_of_spin, -3)

    def _envelopes_of_spin(self, rho: Quantity, k: int) -> Quantity:
        decay = exp(contract("iax,aoy->iao", rho, -self.exponents[k][..., None]))
        return mapped(decay * self.amplitudes[k], lambda t: t.sum(-2))

    def _by_spin(self, x: Quantity, function: Callable[[Quantity, int], Quantity], axis: int = -2) -> Quantity:
        """function(x of one spin, its weights) for the electrons of each spin, which stand along `axis`, put together again."""
        after = (slice(None),) * (-axis - 1)
        parts = [slice(0, self.up), slice(self.up, None)] if self.up and self.down else [slice(None)]
        values = [function(mapped(x, lambda t, part=part: t[(..., part, *after)]), k) for k, part in enumerate(parts)]
        return values[0] if len(values) == 1 else joined(values, -2)


def _nearly_constant(layer):
    """The layer with an output near 1: orbitals begin as their envelopes, and training as a mean field instead of noise."""
    with torch.no_grad():
        layer.weight.mul_(START)
        layer.bias.add_(1.0)
    return layer


def _own_spin(system):
    """1 for the orbitals of a spin's own electrons, little for others, so that no two columns are alike; `spin orbital`."""
    own = torch.arange(system.electrons) < system.up
    return torch.where(torch.stack([own, ~own]), 1.0, OTHER_SPIN).double()


def _envelopes(system):
    """(exponents, amplitudes) of the envelopes to start from, both `atom orbital`, orbitals of spin up first.

    Each orbital belongs to an atom and has Slater's exponent there. The first one of each spin on an atom beyond helium is its
    core orbital and stays there; valence orbitals reach over to the other atoms with half the amplitude.
    """
    charges, home = system.charges, owners(system)
    light = charges <= 2
    valence = torch.where(light, charges.clamp(max=1.7), 0.65 + 0.3 * (charges - 3)).clamp(max=2.5)
    exponents, amplitudes = [], []
    for k, atom in enumerate(home):
        spin = home[:k] if k < system.up else home[system.up:k]
        own = torch.arange(len(charges)) == atom
        core = not light[atom] and atom not in spin
        exponents.append(torch.where(own & core, charges - 0.3, valence))
        amplitudes.append(torch.where(own, 1.0, 0.0 if core else 0.5).to(charges))
    return torch.stack(exponents, 1), torch.stack(amplitudes, 1)


def wavefunction(system: ElectronSystem, kind: str = "ferminet", determinants: int = 4, seed: int = 0, singlet: bool = False,
                 sizes: Mapping[str, int] = NO_SIZES) -> Wavefunction:
    """A Wavefunction with the named backbone and random weights; sizes: arguments of the backbone, such as {"width": 32}.

    Raises:
        UnknownOption: there is no backbone of that name.
        InvalidMolecule: `singlet` with unequal numbers of electrons up and down.
    """
    if kind not in BACKBONES:
        raise UnknownOption(f"ansatz = {kind!r}: expected {', '.join(BACKBONES)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = BACKBONES[kind](system.charges, system.up, system.down, **sizes)
        return Wavefunction(system, backbone, determinants, singlet)
