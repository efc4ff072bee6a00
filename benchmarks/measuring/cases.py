"""The rows of the table, in its order."""

from measuring.rounds import Case
from measuring.structures import TITLES
from measuring.targets import NETWORK, PARENT, PLAIN

OTHERS = ("PM6", "PM6-D3H4", "PM7")
ALL = (
    *(Case(name) for name in TITLES),
    *(Case(name, method) for method in OTHERS for name in ("ethanol", "aspirin", "ala_4", "ala_10", "batch")),
    *(Case(name, NETWORK, programs=("here",)) for name in ("ethanol", "aspirin", "ala_10")),
    *(Case("ala_4", method, programs=("here",)) for method in (NETWORK, PARENT, PLAIN)),
    *(Case(name, threads=2, programs=("here", "MOPAC") if name == "crambin" else ("here", "MOPAC", "tblite"))
      for name in ("ethanol", "aspirin", "ala_10", "h2o_64", "ala_20", "crambin", "batch")),
)
