"""The house: which room may import which, how high it stands, how long its functions are.

Imports inside functions count; those under TYPE_CHECKING do not, nothing runs them. Each check is
shown a planted fault too, so that none can pass by looking at nothing.
"""

import ast
import functools
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

import conftest
import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = "sparsegrad"
CELLAR = "sparsegrad.kernels"
MOST_FLOORS = 9
MOST_LINES = 60
MOST_PARAMETERS = 12

# From below: a room imports from lower lines alone. One rule beside it: the kernels of a room of
# the library stand in the room of the same name.
ORDER = (
    ("kernels/compiler",),
    ("kernels/vectors",),
    ("kernels/cells", "kernels/influence", "kernels/symbolic", "kernels/profiling"),
    ("kernels/learning",),
    ("kernels/methods", "kernels/interop"),
    ("system",),
    ("tasks", "io"),
    ("cells", "symbolic"),
    ("influence",),
    ("methods", "profiling"),
    ("learning", "figures"),
    ("runs", "interop"),
    ("cli",),
)

# What stands in no room: the names that each tree hands out, its entry, and its lists of names.
DOORS = {HOUSE, CELLAR, f"{HOUSE}.__main__", f"{HOUSE}.registry"}

# What C, XLA and users' own loops call takes flat arrays, one by one; these two it is made of.
FLAT = ("panels_range", "panels_threads")

# A module that takes the place of one of torch's takes torch's arguments under torch's names. Their
# number is not ours to choose: in interop.torch they are not counted.
TORCHS = {
    "input_size", "hidden_size", "bias", "nonlinearity", "batch_first", "device", "dtype",
}  # fmt: skip

Sources = Mapping[str, str]
Graph = Mapping[str, set[str]]


@functools.cache
def sources() -> dict[str, str]:
    """Every file of both trees by the name it is imported by."""
    found = {}
    for package, folder in ((HOUSE, "sparsegrad"), (CELLAR, "kernels")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *(part for part in parts if part != "__init__")))
            found[name] = path.read_text()
    return found


@functools.cache
def statements(text: str) -> tuple[ast.stmt, ...]:
    """Every statement of a file, but those that only type checkers read."""
    found, ahead = [], [*ast.parse(text).body]
    while ahead:
        node = ahead.pop()
        if isinstance(node, ast.stmt):
            found.append(node)
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            ahead += (k for k in ast.iter_child_nodes(node) if not isinstance(k, ast.expr))
    return tuple(found)


def graph(files: Sources) -> dict[str, set[str]]:
    """Which files each file imports, a package by its __init__ where a name is taken from it."""
    packages = {name.rpartition(".")[0] for name in files}

    def imported(name: str) -> Iterator[str]:
        for node in statements(files[name]):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                home = name.split(".") if name in packages else name.split(".")[:-1]
                above = home[: len(home) + 1 - node.level] if node.level else []
                base = ".".join([*above, *(node.module or "").split(".")]).rstrip(".")
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield inner if inner in files else base

    return {name: {to for to in imported(name) if to in files and to != name} for name in files}


def room(name: str) -> str:
    """The room of a file: kernels/methods, learning …; none for the doors of the house itself."""
    folders = name.removeprefix(HOUSE).strip(".").replace("kernels.", "kernels/").split(".")
    return "" if name in DOORS else folders[0]


def rooms(files: Graph) -> dict[str, set[str]]:
    """Which rooms each room imports."""
    found: dict[str, set[str]] = {room(name): set() for name in files if name not in DOORS}
    for name in files.keys() - DOORS:
        found[room(name)] |= {room(other) for other in files[name]} - {room(name), ""}
    return found


def circle(edges: Graph) -> list[str]:
    """A circle of imports, or nothing."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(edges[name]):
            if found := walk(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := walk(name, []))), [])


def floors(edges: Graph) -> int:
    """How many stand above each other at most; there must be no circle."""
    height: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in height:
            height[name] = 1 + max((of(other) for other in edges[name]), default=0)
        return height[name]

    return max(map(of, edges))


def upward(edges: Graph) -> list[str]:
    """Imports from one room into another that does not lie below it, and rooms of no line."""
    line = {name: k for k, names in enumerate(ORDER) for name in names}
    unknown = [f"{name} has no line" for name in sorted(edges) if name not in line]
    return unknown or [
        f"{name} imports {other}"
        for name in sorted(edges)
        for other in sorted(edges[name])
        if line[other] >= line[name]
    ]


def functions(files: Sources) -> Iterator[tuple[str, ast.FunctionDef]]:
    for name, text in files.items():
        for node in statements(text):
            if isinstance(node, ast.FunctionDef):
                yield f"{name.removeprefix(HOUSE + '.')}.{node.name}", node


def too_long(files: Sources) -> set[str]:
    return {name for name, f in functions(files) if (f.end_lineno or 0) - f.lineno >= MOST_LINES}


def too_wide(files: Sources) -> set[str]:
    def count(name: str, a: ast.arguments) -> int:
        others = TORCHS if name.startswith("interop.torch.") else set()
        named = {p.arg for p in a.posonlyargs + a.args + a.kwonlyargs} - others
        return len(named) + (a.vararg is not None) + (a.kwarg is not None)

    return {name for name, f in functions(files) if count(name, f.args) > MOST_PARAMETERS}


def public_kernels() -> set[str]:
    """The kernels that `sparsegrad.kernels` hands out, each by the file that it comes from."""
    return {
        f"{node.module.removeprefix(HOUSE + '.')}.{alias.name}"
        for node in statements(sources()[CELLAR])
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }


@functools.cache
def house() -> dict[str, set[str]]:
    return graph(sources())


def test_no_circle_of_imports():
    assert circle(house()) == []


def test_rooms_stand_on_few_floors():
    assert floors(rooms(house())) <= MOST_FLOORS


def test_rooms_import_from_below_alone():
    assert upward(rooms(house())) == []


def test_no_function_is_too_long():
    assert too_long(sources()) == set()


def test_no_signature_is_too_wide():
    flat = {f"kernels.influence.panels.{name}" for name in FLAT} | public_kernels()
    assert too_wide(sources()) <= flat


def test_what_is_not_counted_of_a_signature_is_torchs():
    nn = pytest.importorskip("torch.nn", reason="torch is not installed: it says what its own are")
    theirs = [set(inspect.signature(kind).parameters) for kind in (nn.RNNCell, nn.RNNBase)]
    assert set.union(*theirs) >= TORCHS


BODY = "".join(f"        x = {k}\n" for k in range(MOST_LINES))
PARAMETERS = ", ".join(f"p{k}" for k in range(MOST_PARAMETERS + 1))
FAULTS = {
    "a circle": (
        lambda files: circle(graph(files)),
        {"sparsegrad.a": "from sparsegrad.b import x", "sparsegrad.b": "import sparsegrad.a"},
    ),
    "a circle through a function": (
        lambda files: circle(graph(files)),
        {"sparsegrad.a": "from . import b", "sparsegrad.b": "def f():\n    from .a import x"},
    ),
    "a circle through a package": (
        lambda files: circle(graph(files)),
        {"sparsegrad.a": "from .b import x", "sparsegrad.a.b": "from ..a import y"},
    ),
    "an import upwards": (
        lambda files: upward(rooms(graph(files))),
        {"sparsegrad.cells.a": "import sparsegrad.cli.b", "sparsegrad.cli.b": ""},
    ),
    "an import of kernels upwards": (
        lambda files: upward(rooms(graph(files))),
        {
            "sparsegrad.kernels.vectors.a": "from ..methods.b import x",
            "sparsegrad.kernels.methods.b": "",
        },
    ),
    "an import sideways": (
        lambda files: upward(rooms(graph(files))),
        {"sparsegrad.cells.a": "import sparsegrad.symbolic.b", "sparsegrad.symbolic.b": ""},
    ),
    "a room of no line": (
        lambda files: upward(rooms(graph(files))),
        {"sparsegrad.utils.a": ""},
    ),
    "too many floors": (
        lambda files: floors(rooms(graph(files))) > MOST_FLOORS,
        {f"sparsegrad.r{k}.a": f"import sparsegrad.r{k + 1}.a" for k in range(MOST_FLOORS + 1)},
    ),
    "a long function": (too_long, {"sparsegrad.a": f"class A:\n    def f():\n{BODY}"}),
    "a wide signature": (too_wide, {"sparsegrad.a": f"def f({PARAMETERS}): ..."}),
    "a wide signature for torch": (
        too_wide,
        {"sparsegrad.interop.torch.a": f"def f({PARAMETERS}, bias, dtype): ..."},
    ),
    "torch's arguments elsewhere": (
        too_wide,
        {"sparsegrad.a": f"def f({PARAMETERS.partition(', ')[2]}, bias): ..."},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    check, files = FAULTS[fault]
    assert check(files)


def test_what_only_type_checkers_read_makes_no_circle():
    only_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sparsegrad.b"
    assert circle(graph({"sparsegrad.a": only_types, "sparsegrad.b": "import sparsegrad.a"})) == []


def test_the_key_of_the_tests_cache_sees_a_kernel_in_a_room(tmp_path):
    """Else a test would run the machine code of yesterday's kernel."""
    kernel = tmp_path / "methods" / "snap.py"
    kernel.parent.mkdir()
    kernel.write_text("rate = 1")
    before = conftest.cache_folder({tmp_path})
    kernel.write_text("rate = 2")
    assert conftest.cache_folder({tmp_path}) != before
    assert ROOT / "kernels" in conftest.kernel_folders()
