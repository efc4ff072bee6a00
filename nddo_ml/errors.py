"""Everything this package refuses, by name. Each message says what was found, what was expected and what to do."""


class NDDOError(Exception):
    """Base of every error the package raises on purpose."""


class InvalidMolecule(NDDOError, ValueError):
    """The structure itself cannot be calculated: coordinates, elements, charge or spin."""


class MissingParameter(NDDOError, ValueError):
    """The method has no parameters for an element of the molecule."""


class InvalidParameter(NDDOError, ValueError):
    """A parameter of a Hamiltonian, or what its network made of one, is not finite or out of all bounds."""


class SCFNotConverged(NDDOError, RuntimeError):
    """The self-consistent field did not reach its tolerance."""


class ImplausibleState(NDDOError, RuntimeError):
    """A learned Hamiltonian found a state that no molecule is in."""


class UnknownOption(NDDOError, ValueError):
    """A method, property or option of that name does not exist."""


class IncompatibleFile(NDDOError, ValueError):
    """A file is unreadable, or of another kind or version than expected."""


class MissingExtra(NDDOError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""
