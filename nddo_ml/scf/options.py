"""How a self-consistent state is looked for: the one place of the defaults that the library, the ASE calculator, QCSchema and
the command share.
"""

from dataclasses import dataclass

from nddo_ml.errors import UnknownOption


@dataclass(frozen=True)
class SCF:
    """What may be asked of a self-consistent state, with its defaults; see Hamiltonian.forward.

    Raises UnknownOption for what means nothing.
    """

    unrestricted: bool | None = None
    tolerance: float = 1e-7
    max_steps: int = 500
    stability: bool | None = None
    biradical: bool = False

    def __post_init__(self):
        for name in ("tolerance", "max_steps"):
            if not getattr(self, name) > 0:
                raise UnknownOption(f"{name}={getattr(self, name)!r}: it must be positive.")
        if self.biradical and self.unrestricted:
            raise UnknownOption("biradical=True asks for half-electron singlets, unrestricted=True for two sets of orbitals: "
                                "choose one.")
