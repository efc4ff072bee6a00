"""The real-space ansatz: psi = exp(J) sum_k det Phi_k, with orbitals that see all electrons.

Phi_k[i, m] = (w_km . h_i + c_km) sum_A pi_kmA exp(-zeta_kmA rho_iA), h from a backbone, rho a distance that is smooth at the
nucleus; full determinants: the electrons of both spins share one, with orbital weights of their own. Antisymmetric under
exchange of equal spins by construction, for any numbers of electrons.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nddo_ml.errors import UnknownOption
from nddo_ml.wavefunction.backbones import Dense, FermiNet, Psiformer
from nddo_ml.wavefunction.features import nucleus_vectors, pair_vectors, square_length
from nddo_ml.wavefunction.jastrow import Jastrow
from nddo_ml.wavefunction.jets import Jet, contract, exp, log_sum, mapped, slogdet, spread, sqrt
from nddo_ml.wavefunction.systems import System

BACKBONES = {"ferminet": FermiNet, "psiformer": Psiformer}


class Wavefunction(nn.Module):
    """log|psi| and its sign at positions `... electron 3` (bohr; spin-up electrons first).

    system: nuclei and electrons. backbone: a module of electron-nucleus and electron-electron vectors, with .width.
    """

    def __init__(self, system: System, backbone: nn.Module, determinants: int = 4):
        super().__init__()
        self.up, self.down, self.determinants = system.up, system.down, determinants
        charges, n, count = system.charges, system.electrons, determinants * system.electrons
        self.register_buffer("nuclei", system.nuclei)
        self.register_buffer("charges", charges)
        self.register_buffer("core", 1 / charges[:, None])
        self.register_buffer("diagonal", torch.eye(n, dtype=charges.dtype)[..., None])
        self.backbone = backbone
        self.jastrow = Jastrow(charges, system.up, system.down)
        self.orbitals = nn.ModuleList(Dense(backbone.width, count) for spin in (system.up, system.down) if spin)
        self.exponents = nn.Parameter(_exponents(charges, n).repeat(1, determinants).repeat(len(self.orbitals), 1, 1))
        self.amplitudes = nn.Parameter(torch.ones_like(self.exponents))

    def forward(self, r: Float[Tensor, "... electron 3"]) -> tuple[Tensor, Tensor]:
        """(sign, log|psi|)."""
        return self._evaluate(r, False)

    def jets(self, r: Float[Tensor, "walker electron 3"]) -> tuple[Tensor, Jet]:
        """(sign, jet of log|psi|): with its gradient by the electrons' coordinates and its Laplacian."""
        return self._evaluate(r, True)

    def _evaluate(self, r, jets):
        nucleus, pair = nucleus_vectors(r, self.nuclei, jets), pair_vectors(r, jets)
        h = self.backbone(nucleus, pair)
        envelopes = self._envelopes(nucleus)
        matrices = self._by_spin(h, lambda x, k: self.orbitals[k](x)) * spread(envelopes)
        n = r.shape[-2]
        matrices = mapped(matrices, lambda t: t.unflatten(-1, (self.determinants, n)).movedim(-2, -3))
        sign, log = log_sum(*slogdet(matrices))
        return sign, log + self.jastrow(nucleus, pair)

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


def _exponents(charges, orbitals):
    """Slater's exponents to start from `atom orbital`: as many core orbitals as the molecule has, the others of valence size.

    The orbitals of both spins follow each other, each spin from the core outwards.
    """
    half = (orbitals + 1) // 2
    cores = charges[charges > 2]
    rank = torch.arange(orbitals) % half
    valence = torch.where(charges > 2, 0.65 + 0.3 * (charges - 3).clamp(min=0), charges.clamp(max=1.7)).clamp(max=2.5)
    is_core = rank < len(cores)
    core = torch.where(charges > 2, charges - 0.3, valence)
    return torch.where(is_core[None, :], core[:, None], valence[:, None])


def wavefunction(system: System, kind: str = "ferminet", determinants: int = 4, seed: int = 0, **sizes) -> Wavefunction:
    """A Wavefunction with the named backbone and random weights. sizes: those of the backbone. UnknownOption: the kind."""
    if kind not in BACKBONES:
        raise UnknownOption(f"ansatz = {kind!r}: expected {', '.join(BACKBONES)}.")
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        return Wavefunction(system, BACKBONES[kind](system.charges, system.up, system.down, **sizes), determinants)
    finally:
        torch.random.set_rng_state(generator)
