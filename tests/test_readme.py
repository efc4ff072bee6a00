"""The README is true: its Python prints what stands there, its first run gives its numbers, its test command is found."""

import re
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from nddo_ml.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_code_prints_what_stands_there(capsys):
    shown = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", README, re.M | re.S)
    assert len(shown) == 2 == README.count("```python")
    for code, output in shown:
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
        assert capsys.readouterr().out == output


def test_the_run_prints_what_stands_there():
    """But for seconds, blanks at the ends of lines, and the last digits of what iterations leave."""
    shown = re.search(r"nddo-ml run aspirin\n```\n\n```text\n(.*?)^```", README, re.M | re.S)[1]
    done = CliRunner().invoke(app, ["run", "aspirin"], env={"COLUMNS": "100"})
    printed = "\n".join(line.rstrip() for line in done.output.splitlines())
    assert done.exit_code == 0
    for line in shown.splitlines():
        if not line.startswith(" SCF"):
            assert line in printed


def test_the_gradient_takes_eight_lines():
    code = re.search(r"eight lines\n\n```python\n(.*?)^```", README, re.M | re.S)[1]
    assert len(code.splitlines()) == 8


def test_the_command_of_the_tests_is_found():
    """As .ci/run finds it."""
    script = "sed -n '/^<!-- tests -->$/,/^<!-- end -->$/p' README.md | grep -v -e '^<!--' -e '^```'"
    command = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert command == ('python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ".[test]" && .venv/bin/pytest')
    assert script in (ROOT / ".ci" / "run").read_text()
