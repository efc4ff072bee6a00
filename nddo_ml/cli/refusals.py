"""How the command says no: exit codes and messages."""

from contextlib import contextmanager

import typer

from nddo_ml.errors import NDDOError

REFUSED = 2        # exit code: the input was refused, or the SCF failed
INCOMPLETE = 1     # exit code: finished, but an optimisation did not converge


def refuse(error, where=""):
    """The message of an error, on standard error."""
    message = str(error) if isinstance(error, NDDOError) else f"{type(error).__name__}: {error}"
    typer.echo(f"Error{where}: {message}", err=True)


@contextmanager
def refusals():
    """Errors the package raises on purpose end the command with one message and exit code 2."""
    try:
        yield
    except (NDDOError, OSError) as error:
        refuse(error)
        raise typer.Exit(REFUSED) from None
