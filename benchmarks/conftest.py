"""The options of test_speed.py and what it prints at the end: the table of all programs, and where it was written."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "results" / "performance.md", ROOT / "docs" / "performance.svg"
RECORDS: pytest.StashKey[list] = pytest.StashKey()


def pytest_addoption(parser):
    group = parser.getgroup("benchmarks of nddo_ml")
    group.addoption("--tables", type=Path, default=Path(".benchmarks"), metavar="FOLDER",
                    help="folder for the table of all programs: speed.md, speed.json, speed.svg")
    group.addoption("--write-page", action="store_true", help=f"put table and picture into {PAGE.relative_to(ROOT)} too")


def pytest_configure(config):
    config.stash[RECORDS] = []


@pytest.fixture
def records(request):
    """What was measured so far."""
    return request.config.stash[RECORDS]


def pytest_terminal_summary(terminalreporter, config):
    """Table, targets and files; the page only where every row was measured."""
    records = config.stash.get(RECORDS, [])
    if not records:
        return
    from measuring import cases, picture, report

    terminalreporter.section("energy and forces beside other programs")
    terminalreporter.write_line(report.plain(records))
    folder = config.getoption("tables")
    report.write(records, folder)
    picture.draw(records, folder / "speed.svg")
    terminalreporter.write_line(f"\nWritten: {folder}/speed.md, speed.json and speed.svg.")
    if config.getoption("write_page"):
        missing = [str(case) for case in cases.ALL if case not in [r.case for r in records]]
        if missing:
            terminalreporter.write_line(f"The page is as it was: {len(missing)} of its rows were not measured, {missing[0]} "
                                        "first.", red=True)
            return
        PAGE.write_text(report.renewed(PAGE.read_text(), report.markdown(records)))
        picture.draw(records, PICTURE)
        terminalreporter.write_line(f"Renewed: {PAGE} and {PICTURE}.")
