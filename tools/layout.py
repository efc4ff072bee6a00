"""The layout of the package: a picture of its rooms with their imports, and the counts that tell how well the house is kept.

    python tools/layout.py                                 prints the counts of this repository
    python tools/layout.py --draw docs/layout.svg          and draws the picture of docs/design.md
    python tools/layout.py --root ANOTHER_COPY             the same of another copy, for a comparison

A room is a folder of `nddo_ml/`, or a file that stands beside the folders. The layers are those of tests/test_imports.py. An
import counts wherever it stands, inside functions too.
"""

import argparse
import ast
import io
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_PARAMETERS = 6
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    room: str               # its folder, or its own name
    name: str               # dotted, without the package: integrals.corrections.d3
    tree: ast.Module
    lines: int
    found: int              # how often the variable name `found` stands in it


def modules(root: Path) -> list[Module]:
    """Every file of the package."""
    package = root / "nddo_ml"
    return [_module(path, path.relative_to(package).with_suffix("").parts) for path in sorted(package.rglob("*.py"))]


def _module(path: Path, parts: tuple[str, ...]) -> Module:
    text = path.read_text()
    names = (t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.NAME)
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return Module(parts[0] if parts else "__init__", ".".join(parts), ast.parse(text), len(text.splitlines()),
                  sum(name == "found" for name in names))


def layers(root: Path) -> list[tuple[str, ...]]:
    """The rooms from the ground up, as tests/test_imports.py has them."""
    for node in ast.parse((root / "tests" / "test_imports.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            return [tuple(names) for names in ast.literal_eval(node.value)]
    raise SystemExit("tests/test_imports.py has no LAYERS")


def imports(module: Module, names: set[str]) -> set[str]:
    """The files of the package that a file imports, by their dotted names."""
    targets: list[str] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            targets += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            targets += [f"{node.module}.{alias.name}" for alias in node.names]
    return {file for target in targets if target.startswith("nddo_ml.")
            if (file := _file(target.removeprefix("nddo_ml."), names)) and file != module.name}


def _file(target: str, names: set[str]) -> str | None:
    """The longest beginning of a dotted name that is a file."""
    while target and target not in names:
        target = target.rpartition(".")[0]
    return target or None


def file_graph(files: list[Module]) -> dict[str, set[str]]:
    """File -> files it imports."""
    names = {m.name for m in files if m.name}
    return {m.name: imports(m, names) for m in files if m.name}


def room_graph(files: list[Module]) -> dict[str, set[str]]:
    """Room -> other rooms it imports."""
    graph: dict[str, set[str]] = {m.room: set() for m in files if m.name}
    for name, others in file_graph(files).items():
        room = name.partition(".")[0]
        graph[room] |= {other.partition(".")[0] for other in others} - {room}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups that reach one another along the arrows of a graph, alphabetically."""
    reach = {node: _reached(node, graph) for node in graph}
    groups = {frozenset(other for other in graph if other in reach[node] and node in reach[other]) for node in graph}
    return sorted(sorted(group) for group in groups if group)


def _reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    reached, waiting = set(), list(graph.get(start, ()))
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += graph.get(node, ())
    return reached


def upward(graph: dict[str, set[str]], order: list[tuple[str, ...]]) -> list[str]:
    """Imports of rooms that do not lie below the room that imports them."""
    level = {name: k for k, names in enumerate(order) for name in names}
    return sorted(f"{room} -> {other}" for room, others in graph.items() for other in others
                  if room in level and other in level and level[other] >= level[room])


def functions(node: ast.AST, prefix: str = "", public: bool = True) -> Iterator[tuple[str, Function, bool]]:
    """(qualified name, function, whether users may call it) of every function; what is inside a function is private."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | Function):
            name = f"{prefix}{child.name}"
            open_ = public and (not child.name.startswith("_") or child.name.endswith("__"))
            if isinstance(child, Function):
                yield name, child, open_
            yield from functions(child, f"{name}.", open_ and isinstance(child, ast.ClassDef))
        else:
            yield from functions(child, prefix, public)


def parameters(function: Function) -> list[ast.arg]:
    """The parameters of a function, all kinds of them, but for self and cls."""
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [x for x in every if x.arg not in ("self", "cls")]


def is_command(function: Function) -> bool:
    """Whether a function is a command of the terminal, whose parameters are the command's options."""
    return any(isinstance(d, ast.Call) and ast.unparse(d.func).endswith((".command", ".callback"))
               for d in function.decorator_list)


def crowded(files: list[Module]) -> list[str]:
    """Functions of more than six parameters, the worst first; commands of the terminal excepted."""
    over = [(len(parameters(f)), f"{m.name}:{name}") for m in files for name, f, _ in functions(m.tree)
            if len(parameters(f)) > MOST_PARAMETERS and not is_command(f)]
    return [f"{name} ({count})" for count, name in sorted(over, key=lambda x: (-x[0], x[1]))]


def duplicated(files: list[Module]) -> list[str]:
    """Class names that stand for more than one class."""
    places = defaultdict(list)
    for m in files:
        for node in ast.walk(m.tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(m.name)
    return [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]


def untyped(files: list[Module]) -> tuple[list[str], int]:
    """Parameters of public functions and methods without an annotation, and how many parameters there are."""
    every = [(f"{m.name}:{name}({x.arg})", x.annotation) for m in files for name, f, public in functions(m.tree) if public
             for x in parameters(f)]
    return [place for place, annotation in every if annotation is None], len(every)


def counts(root: Path) -> list[tuple[str, str, list[str]]]:
    """(what, how many, which) of everything that is counted."""
    files = modules(root)
    rooms, between_files = room_graph(files), file_graph(files)
    lines = Counter()
    for m in files:
        lines[m.room] += m.lines
    longest, most = lines.most_common(1)[0]
    bare, typed = untyped(files)
    long = [f"{m.name} ({m.lines})" for m in sorted(files, key=lambda m: -m.lines) if m.lines > 400]
    found = [f"{m.name} ({m.found})" for m in sorted(files, key=lambda m: -m.found) if m.found]
    chains = [" <-> ".join(c) for c in circles(rooms)], [" <-> ".join(c) for c in circles(between_files)]
    arrows, over, twice = upward(rooms, layers(root)), crowded(files), duplicated(files)
    return [
        ("functions", str(sum(1 for m in files for _ in functions(m.tree))), []),
        ("functions with more than six parameters", str(len(over)), over),
        ("class names with two meanings", str(len(twice)), twice),
        ("untyped parameters of public functions", f"{len(bare)} of {typed}", bare),
        ("the name `found`", str(sum(m.found for m in files)), found),
        ("lines of the longest room", f"{most} of {sum(lines.values())} ({longest}, {most / sum(lines.values()):.0%})", []),
        ("files above 400 lines", str(len(long)), long),
        ("circles of imports between rooms", str(len(chains[0])), chains[0]),
        ("circles of imports between files", str(len(chains[1])), chains[1]),
        ("imports that do not run downwards", str(len(arrows)), arrows),
    ]


def draw(root: Path, picture: Path) -> None:
    """Rooms in their layers, each as wide as its lines are many; an arrow from a room to every room that it imports.

    Arrows that follow from others (A -> C beside A -> B -> C) are faint.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "layout", "svg.fonttype": "none", "font.family": "sans-serif"}
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    files, order = modules(root), layers(root)
    graph, lines = room_graph(files), Counter()
    for m in files:
        lines[m.room] += m.lines
    places, width = _places(order, lines)
    figure = Figure(figsize=(9.5, 0.78 * len(order) + 0.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.5 * width, 0.5 * width)
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.axis("off")
    for room, others in graph.items():
        for other in others:
            if room in places and other in places:
                (x, y, w), (x2, y2, w2) = places[room], places[other]
                follows = any(other in _reached(between, graph) for between in others - {other})
                # arrows leave and arrive spread over the boxes, so that they can be told apart
                start, end = x + 0.35 * w * _sign(x2 - x, width), x2 + 0.35 * w2 * _sign(x - x2, width)
                axes.add_patch(FancyArrowPatch(
                    (start, y - 0.27), (end, y2 + 0.27), arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0,
                    lw=0.5 if follows else 1.1, color="0.80" if follows else "#3c5a78", zorder=1 if follows else 2,
                    connectionstyle=f"arc3,rad={0.10 * _sign(end - start, width):.3f}"))
    for room, (x, y, w) in places.items():
        axes.add_patch(FancyBboxPatch((x - w / 2, y - 0.25), w, 0.5, boxstyle="round,pad=0,rounding_size=0.08", fc="#e8eef4",
                                      ec="#3c5a78", lw=1, zorder=3, mutation_aspect=1))
        axes.text(x, y + 0.06, room, ha="center", va="center", fontsize=9, zorder=4)
        axes.text(x, y - 0.14, f"{lines[room]} lines", ha="center", va="center", fontsize=6.5, color="0.35", zorder=4)
    figure.savefig(picture, metadata={"Date": None})


def _sign(x: float, width: float) -> float:
    """-1 to 1: on which side something lies, and how far."""
    return max(-1.0, min(1.0, 3.0 * x / width))


def _places(order: list[tuple[str, ...]], lines: Counter) -> tuple[dict[str, tuple[float, float, float]], float]:
    """Room -> x, y and width of its box; and the width of the widest layer."""
    gap = 0.45
    size = {room: 1.15 + lines[room] / 1400 for names in order for room in names if lines[room]}
    places: dict[str, tuple[float, float, float]] = {}
    widest = max(sum(size.get(room, 0.0) for room in names) + gap * len(names) for names in order)
    for y, names in enumerate(order):
        here = [room for room in names if room in size]
        x = -0.5 * (sum(size[room] for room in here) + gap * (len(here) - 1)) + 0.9 * (-1) ** y * (len(here) == 1)
        for room in here:
            places[room] = x + size[room] / 2, float(y), size[room]
            x += size[room] + gap
    return places, widest + 2.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="copy of the repository [this one]")
    parser.add_argument("--draw", type=Path, metavar="PICTURE", help="SVG or PNG to draw the layout into")
    parser.add_argument("--list", action="store_true", help="name everything that is counted")
    options = parser.parse_args()
    for what, many, which in counts(options.root):
        print(f"{what:42} {many}")
        if options.list:
            print(*(f"    {name}" for name in which), sep="\n")
    if options.draw:
        draw(options.root, options.draw)


if __name__ == "__main__":
    main()
