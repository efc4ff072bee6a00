"""Structure files written by hand."""

from pathlib import Path

DATA = Path(__file__).parents[1] / "data" / "structures"

WATER = "O 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"

NH4 = "N 0 0 0\nH .59 .59 .59\nH -.59 -.59 .59\nH -.59 .59 -.59\nH .59 -.59 -.59\n"


def xyz(comment, body=WATER):
    return f"{len(body.splitlines())}\n{comment}\n{body}"

LINE = "HETATM{:5d} {:4} LIG A   1    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00          {}\n"

PLACES = [[0, 0, 0], [0.59, 0.59, 0.59], [-0.59, -0.59, 0.59], [-0.59, 0.59, -0.59], [0.59, -0.59, -0.59]]

NAMES = [" N  ", " H1 ", " H2 ", " H3 ", " H4 "]


def pdb(first=" N1+", others=" H", names=NAMES):
    tails = [first] + 4 * [others]
    atoms = zip(names, PLACES, tails, strict=True)
    return "".join(LINE.format(k, name, *place, tail) for k, (name, place, tail) in enumerate(atoms, 1))
