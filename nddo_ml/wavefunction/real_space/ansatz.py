"""The real-space ansatz: psi = exp(J) sum_k det Phi_k, with orbitals that see all electrons.

Phi_k[i, m] = (w_km . h_i + c_km) sum_A pi_kmA exp(-zeta_kmA rho_iA), h from a backbone, rho a distance that is smooth at the
nucleus; full determinants: the electrons of both spins share one, with orbital weights of their own. Antisymmetric under
exchange of equal spins by construction, for any numbers of electrons.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.errors import InvalidMolecule, UnknownOption
from nddo_ml.wavefunction.real_space.backbones import Dense, FermiNet, Psiformer
from nddo_ml.wavefunction.real_space.features import nucleus_vectors, pair_vectors, square_length
from nddo_ml.wavefunction.real_space.jastrow import Jastrow
from nddo_ml.wavefunction.real_space.jets import Jet, contract, exp, joined, log_sum, mapped, reordered, slogdet, spread, sqrt
from nddo_ml.wavefunction.real_space.systems import System, owners

OTHER_SPIN = 0.1
START = 0.3         # of the usual spread: weights that mix the network into the orbitals
BACKBONES = {"ferminet": FermiNet, "psiformer": Psiformer}


class Wavefunction(nn.Module):
    """log|psi| and its sign at positions `... electron 3` (bohr; spin-up electrons first).

    system: nuclei and electrons. backbone: a module of electron-nucleus and electron-electron vectors, with .width.
    singlet: every determinant plus itself with the spins exchanged, so that no triplet mixes in (nor any other odd spin).
    InvalidMolecule: that with unequal spins.
    """

    def __init__(self, system: System, backbone: nn.Module, determinants: int = 4, singlet: bool = False):
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

    def forward(self, r: Float[Tensor, "... electron 3"]) -> tuple[Tensor, Tensor]:
        """(sign, log|psi|)."""
        return self._evaluate(r, False)

    def jets(self, r: Float[Tensor, "walker electron 3"]) -> tuple[Tensor, Jet]:
        """(sign, jet of log|psi|): with its gradient by the electrons' coordinates and its Laplacian."""
        return self._evaluate(r, True)

    def matrices(self, r: Float[Tensor, "... electron 3"]) -> Float[Tensor, "... determinant electron orbital"]:
        """Phi_k[i, m], columns of spin-up orbitals first."""
        return self._matrices(nucleus_vectors(r, self.nuclei, False), pair_vectors(r, False))

    def _evaluate(self, r, jets):
        nucleus, pair = nucleus_vectors(r, self.nuclei, jets), pair_vectors(r, jets)
        sign, log = slogdet(self._matrices(nucleus, pair))
        if self.singlet:
            order = [*range(self.up, 2 * self.up), *range(self.up)]
            x = r[..., order, :]
            other, log_other = slogdet(self._matrices(nucleus_vectors(x, self.nuclei, jets), pair_vectors(x, jets)))
            sign, log = torch.cat([sign, other], -1), joined([log, reordered(log_other, order)])
        sign, log = log_sum(sign, log)
        return sign, log + self.jastrow(nucleus, pair)

    def _matrices(self, nucleus, pair):
        h = self.backbone(nucleus, pair)
        products = self._by_spin(h, lambda x, k: self.orbitals[k](x)) * spread(self._envelopes(nucleus))
        return mapped(products, lambda t: t.unflatten(-1, (self.determinants, -1)).movedim(-2, -3))

    def _envelopes(self, nucleus):
        """sum_A pi exp(-zeta rho), rho = sqrt(r^2 + 1/Z^2) - 1/Z: smooth, the Jastrow factor has the cusp."""
        rho = sqrt(square_length(nucleus) + self.core**2) - self.core
        return self._by_spin(rho, lambda x, k: mapped(exp(contract("iax,aoy->iao", x, -self.exponents[k][..., None]))
                                                      * self.amplitudes[k], lambda t: t.sum(-2)), -3)

    def _by_spin(self, x, function, axis=-2):
        """A function with weights of its own for the electrons of each spin."""
        after = (slice(None),) * (-axis - 1)
        parts = [slice(0, self.up), slice(self.up, None)] if self.up and self.down else [slice(None)]
        made = [function(mapped(x, lambda t, p=p: t[(..., p, *after)]), k) for k, p in enumerate(parts)]
        if len(made) == 1:
            return made[0]
        return Jet(torch.cat([m.rows for m in made], -2)) if isinstance(x, Jet) else torch.cat(made, -2)


def _nearly_constant(layer):
    """1 + a little: the orbitals begin as envelopes of Slater's exponents, and training as a mean field, not as noise."""
    with torch.no_grad():
        layer.weight.mul_(START)
        layer.bias.add_(1.0)
    return layer


def _own_spin(system):
    """`spin orbital`: 1 for the orbitals of a spin's own electrons; little for the others, so that no two columns are alike."""
    own = torch.arange(system.electrons) < system.up
    return torch.where(torch.stack([own, ~own]), 1.0, OTHER_SPIN).double()


def _envelopes(system):
    """Slater's exponents and amplitudes to start from, both `atom orbital`, orbitals of spin up first.

    Each orbital has an atom; the first of each spin on an atom beyond helium is its core and stays there, valence orbitals
    reach over to the other atoms with half the amplitude.
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


def wavefunction(system: System, kind: str = "ferminet", determinants: int = 4, seed: int = 0, singlet: bool = False,
                 **sizes) -> Wavefunction:
    """A Wavefunction with the named backbone and random weights. sizes: those of the backbone. UnknownOption: the kind."""
    if kind not in BACKBONES:
        raise UnknownOption(f"ansatz = {kind!r}: expected {', '.join(BACKBONES)}.")
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        return Wavefunction(system, BACKBONES[kind](system.charges, system.up, system.down, **sizes), determinants,
                            singlet)
    finally:
        torch.random.set_rng_state(generator)
