"""How the command says no: exit codes and messages."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from nddo_ml.errors import NDDOError

REFUSED = 2        # exit code: the input was refused, or the SCF failed
INCOMPLETE = 1     # exit code: finished, but an optimisation did not converge


def refuse(error: Exception, where: str = "") -> None:
    """Print the message of an error on standard error; where: of which frame it is."""
    message = str(error) if isinstance(error, NDDOError) else f"{type(error).__name__}: {error}"
    typer.echo(f"Error{where}: {message}", err=True)


@contextmanager
def refusals() -> Iterator[None]:
    """While the context lasts, errors that the package raises on purpose end the command with one message and REFUSED."""
    try:
        yield
    except (NDDOError, OSError) as error:
        refuse(error)
        raise typer.Exit(REFUSED) from None
