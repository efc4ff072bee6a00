"""How the command says no: exit codes and messages."""

import typer

from nddo_ml.errors import NDDOError

REFUSED = 2        # exit code: the input was refused, or the SCF failed
INCOMPLETE = 1     # exit code: finished, but an optimisation did not converge


def refuse(error, where=""):
    """The message of an error, on standard error."""
    message = str(error) if isinstance(error, NDDOError) else f"{type(error).__name__}: {error}"
    typer.echo(f"Error{where}: {message}", err=True)
