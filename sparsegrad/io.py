"""Nets from files: lists of edges (CSV, Parquet), scipy's ``.npz``, and graphs of NetworkX.

Every reader gives a :class:`Net`, which goes into a cell by ``from_edges`` or, as a matrix, by
``from_sparse``. An edge is kept as it stands: self-loops, hubs, and weights of 0 too.
"""

import csv
import gzip
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsegrad.system.checks import flag, float_type
from sparsegrad.system.reading import parse_parquet, read_plain

Column = str | int


@dataclass(frozen=True, eq=False)
class Net:
    """Units by name, and the edges between them.

    Attributes
    ----------
    sources, targets : int64 array, (edges,)
        Each edge's units, as places in `names`.
    weights : float64 array, (edges,)
        As in the file; 1 where it has none.
    names : tuple of str
        The units.
    """

    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.names)

    def matrix(self, dtype: DTypeLike = "float32") -> Any:
        """Return the edges as a ``csr_array`` (units, units), a row per target: `weight_hh`."""
        from scipy.sparse import coo_array  # 0.2 s to import, which a reader need not wait for

        values = self.weights.astype(float_type(dtype))
        return coo_array((values, (self.targets, self.sources)), shape=[self.units] * 2).tocsr()


def read_edges(
    path: str | Path,
    source: Column,
    target: Column,
    weight: Column | None = None,
    *,
    where: Mapping[Column, str] | None = None,
    names: Sequence[str] | None = None,
    add_up: bool = False,
    delimiter: str = ",",
) -> Net:
    """Read a list of edges: Parquet, or text, ``.gz`` of it too.

    Parameters
    ----------
    path : str or Path
        ``.parquet`` or ``.pq``, else text.
    source, target, weight : str or int
        Columns by their names in the first row, or, where a text has no such row, by their
        numbers from 0. Without `weight` every edge weighs 1.
    where : dict, optional
        Words that columns must hold; other rows are left out: ``{"Type": "chemical"}``.
    names : sequence of str, optional
        The units, in their order; those without an edge too. Default: those of the edges, in the
        order in which they come. Blanks around a name do not count.
    add_up : bool
        Sum the weights of an edge that comes more than once. Default: refuse it.
    delimiter : str
        Between the cells of a text.

    Returns
    -------
    Net

    Raises
    ------
    ValueError
        If it is no plain file, a column is not there, a row is short, a name is empty or unknown,
        a weight no finite number, or an edge comes twice.
    TypeError
        If columns are given by name and by number together.
    ModuleNotFoundError
        If it is Parquet, and pyarrow is not installed.
    OSError
        If it cannot be read.
    """
    path, where = Path(path), where or {}
    columns = [source, target, *([] if weight is None else [weight]), *where]
    if {type(column) for column in columns} not in ({str}, {int}):
        found = ", ".join(repr(column) for column in columns)
        raise TypeError(f"columns must all be names, or all numbers, got {found}")
    parquet = path.suffix in (".parquet", ".pq")
    rows = _parquet_rows(path, columns) if parquet else _text_rows(path, columns, delimiter)
    return _net(str(path), _edges(path, rows, list(where.values())), names, add_up)


def read_npz(path: str | Path, *, transpose: bool = False, add_up: bool = False) -> Net:
    """Read a square matrix that ``scipy.sparse.save_npz`` wrote; units are named by their numbers.

    Parameters
    ----------
    path : str or Path
    transpose : bool
        Whether a row holds what leaves a unit. Default: what comes into it, as in `weight_hh`.
    add_up : bool
        Sum the values of a place that is stored more than once. Default: refuse it.

    Returns
    -------
    Net

    Raises
    ------
    ValueError
        If it holds no square sparse matrix of finite real numbers, or a place twice.
    OSError
        If it cannot be read.
    """
    from scipy.sparse import load_npz

    try:
        matrix = load_npz(BytesIO(read_plain(Path(path), largest=None))).tocoo()
    except (ValueError, KeyError, BadZipFile, EOFError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{path} must be a matrix written by scipy's save_npz: {text}") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "bfiu":
        raise ValueError(
            f"{path} must hold a square matrix of real numbers, got {matrix.dtype} of shape "
            f"{matrix.shape}"
        )
    flag("transpose", transpose)
    targets, sources = matrix.coords if not transpose else matrix.coords[::-1]
    values = matrix.data.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{path} must hold finite numbers, got NaN or infinity")
    units = tuple(str(unit) for unit in range(matrix.shape[0]))
    return _once(str(path), sources, targets, values, units, add_up)


def from_networkx(graph: Any, weight: str | None = "weight", *, add_up: bool = False) -> Net:
    """Take the edges of a graph of NetworkX; units are named by the text of their nodes.

    Parameters
    ----------
    graph : networkx.Graph, DiGraph, MultiGraph or MultiDiGraph
        An undirected edge goes both ways.
    weight : str, optional
        The attribute that every edge's weight is taken from; None: every edge weighs 1.
    add_up : bool
        Sum the weights of parallel edges. Default: refuse them.

    Returns
    -------
    Net

    Raises
    ------
    TypeError
        If it is no graph.
    ValueError
        If an edge has no such attribute, it is no finite number, two nodes have the same text, or
        an edge comes twice.
    """
    if not hasattr(graph, "is_directed") or not hasattr(graph, "edges"):
        raise TypeError(f"graph must be one of NetworkX, got {type(graph).__name__}")

    def edges() -> Iterator[tuple[str, str, str, float]]:
        for source, target, about in graph.edges(data=True):
            at = f"edge {source} to {target}"
            if weight is not None and weight not in about:
                raise ValueError(f"the graph: {at} must have the attribute {weight!r}, it has none")
            value = 1.0 if weight is None else _number("the graph", at, about[weight])
            yield at, str(source), str(target), value
            if not graph.is_directed() and source != target:
                yield at, str(target), str(source), value

    return _net("the graph", edges(), [str(node) for node in graph.nodes], add_up)


def _text_rows(
    path: Path, columns: Sequence[Column], delimiter: str
) -> Iterator[tuple[str, list[str]]]:
    """Give where each row is, and the cells of the columns wanted."""
    raw: Any = BytesIO(read_plain(path, largest=None))
    raw = gzip.open(raw) if path.suffix == ".gz" else raw
    with TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        try:
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            named = isinstance(columns[0], str)
            header = [cell.strip() for cell in next(rows, [])] if named else None
            places = _places(path, columns, header)
            for row in rows:
                if not row:
                    continue
                at = f"line {rows.line_num}"
                if len(row) <= max(places):
                    raise ValueError(
                        f"{path}: {at} must have at least {max(places) + 1} cells, got {len(row)}"
                    )
                yield at, [row[place].strip() for place in places]
        except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} must be Parquet or CSV: {error}") from None


def _parquet_rows(path: Path, columns: Sequence[Column]) -> Iterator[tuple[str, list[str]]]:
    """Give where each row is, and the cells of the columns wanted, as text."""
    table = parse_parquet(str(path), read_plain(path, largest=None))
    cells = [
        table.column(place).to_pylist() for place in _places(path, columns, table.column_names)
    ]
    for at, row in enumerate(zip(*cells, strict=True)):
        yield f"row {at}", ["" if cell is None else str(cell).strip() for cell in row]


def _edges(
    path: Path, rows: Iterable[tuple[str, list[str]]], words: list[str]
) -> Iterator[tuple[str, str, str, float]]:
    """Give where each edge is, its ends and its weight, of the rows that end with these words."""
    for at, cells in rows:
        ends, rest = cells[: len(cells) - len(words)], cells[len(cells) - len(words) :]
        if rest == words:
            weight = _number(path, at, ends[2]) if len(ends) == 3 else 1.0
            yield at, ends[0], ends[1], weight


def _places(path: Path, columns: Sequence[Column], header: list[str] | None) -> list[int]:
    """Return where the columns are."""
    if isinstance(columns[0], str):
        header = header or []
        for column in columns:
            if header.count(str(column)) != 1:
                raise ValueError(
                    f"{path} must have one column {column!r}, it has {header.count(str(column))} "
                    f"among {', '.join(header)}"
                )
        return [header.index(str(column)) for column in columns]
    places = [int(column) for column in columns]
    if min(places) < 0 or (header is not None and max(places) >= len(header)):
        raise ValueError(f"columns of {path} must be numbers from 0 on, got {places}")
    return places


def _number(where: str | Path, at: str, cell: Any) -> float:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{where}: the weight of {at} must be a finite number, got {cell!r}")
    return value


def _net(
    where: str,
    edges: Iterable[tuple[str, str, str, float]],
    names: Sequence[str] | None,
    add_up: bool,
) -> Net:
    """Make a net of edges: of each, where it is, the names of its ends, and its weight."""
    known = {str(name).strip(): k for k, name in enumerate(names or ())}
    if names is not None and len(known) != len(names):
        raise ValueError(f"{where}: names must differ, got {len(names)}, {len(known)} of them new")
    sources, targets, weights = [], [], []
    for at, *ends, weight in edges:
        for end in ends:
            if end == "":
                raise ValueError(f"{where}: {at} must name both units, got an empty name")
            if names is not None and end not in known:
                raise ValueError(f"{where}: {at} must join units of names, got {end!r}")
            known.setdefault(end, len(known))
        sources.append(known[ends[0]])
        targets.append(known[ends[1]])
        weights.append(weight)
    if not sources:
        raise ValueError(f"{where} must have an edge, it has none; does `where` name its words?")
    return _once(
        where, np.array(sources), np.array(targets), np.array(weights), tuple(known), add_up
    )


def _once(
    where: str,
    sources: NDArray[Any],
    targets: NDArray[Any],
    weights: NDArray[np.float64],
    names: tuple[str, ...],
    add_up: bool,
) -> Net:
    """Make a net of edges by target and source, each of them once."""
    flag("add_up", add_up)
    place = targets.astype(np.int64) * len(names) + sources
    once, first, count = np.unique(place, return_inverse=True, return_counts=True)
    if once.size < place.size and not add_up:
        at = int(count.argmax())
        target, source = divmod(int(once[at]), len(names))
        raise ValueError(
            f"{where}: an edge must come once, got {names[source]} to {names[target]} "
            f"{count[at]} times: add_up=True sums them"
        )
    targets, sources = np.divmod(once, len(names))
    sums = np.bincount(first, weights, once.size).astype(np.float64)
    return Net(sources, targets, sums, names)
