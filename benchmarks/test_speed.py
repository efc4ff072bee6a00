"""Energy and forces beside MOPAC's library and tblite, one table of all in one run.

    OMP_NUM_THREADS=1 pytest benchmarks/test_speed.py --benchmark-enable

prints it with the targets and writes it as Markdown, JSON and a picture (--tables FOLDER [.benchmarks]); --write-page puts it
into docs/results/performance.md. Rows are chosen with -k, as in -k "aspirin and PM6". A row's time in the list of
pytest-benchmark is that of all its programs together; its numbers are in the extra information. Ratios within one run are what
counts. The kernels must be there before (nddo-ml warm-up): nothing compiles while this runs.
"""

from dataclasses import replace
from importlib.util import find_spec

import pytest
from measuring.cases import ALL
from measuring.rounds import Process, measured

MODULES = {"here": "nddo_ml", "MOPAC": "mopactools", "tblite": "tblite"}


@pytest.mark.parametrize("case", ALL, ids=str)
def test_row(benchmark, records, case):
    """A row of the table, of those programs that are installed."""
    present = replace(case, programs=tuple(name for name in case.programs if find_spec(MODULES[name])))
    record = benchmark.pedantic(lambda: measured(present, once=not benchmark.enabled), rounds=1)
    benchmark.group = "rows of the table"
    benchmark.extra_info.update(record.as_json())
    record.case = case
    assert record.middle("here", "cold") > 0
    if benchmark.enabled:
        records.append(record)


def test_steps_through_ase_hold_no_memory(benchmark):
    """A trajectory of ethanol: after a hundred steps another two hundred leave the resident memory where it is, within 1 MB."""
    with Process("here", 1) as process:
        process("load", structure="ethanol", method="AM1")
        process("time", kind="ASE", calls=100)
        before = process("memory")["now"]
        benchmark.pedantic(lambda: process("time", kind="ASE", calls=200), rounds=1)
        benchmark.extra_info["grown_mb"] = grown = process("memory")["now"] - before
    assert grown < 1.0
