"""The command, run within this process."""

from typer.testing import CliRunner

from nddo_ml.cli.main import app


def nddo(*words):
    """Exit code and everything printed."""
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output
