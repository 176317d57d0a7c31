"""Nets from files: the same edges from every kind of file, and what is refused.

The files look like those of connectomes: names with blanks, self-loops, edges that come twice, a
hub, a kind of synapse in a column of words.
"""

import gzip
import os

import numpy as np
import pytest
from scipy import sparse

import sparsegrad
from sparsegrad.io import Net, from_networkx, read_edges, read_npz

NAMES = ("AVAL", "I1L", "I2L", "hub")
EDGES = [("AVAL", "I1L", 2), ("I1L", "I1L", 3), ("I2L", "hub", -1.5), ("AVAL", "hub", 0),
         ("hub", "hub", 1), ("I1L", "hub", 7), ("hub", "AVAL", 4)]  # fmt: skip
MATRIX = np.zeros((4, 4))
for a, b, size in EDGES:
    MATRIX[NAMES.index(b), NAMES.index(a)] = size
TWICE = [*EDGES, ("AVAL", "I1L", 5)]


def words(edges, header="Source,Target,Weight,Type", kind="chemical"):
    rows = [f"{a}  , {b} ,{size},{kind}" for a, b, size in edges]
    return "\n".join([*([header] if header else []), *rows]) + "\n"


def written(path, text):
    if path.suffix == ".gz":
        with gzip.open(path, "wt") as file:
            file.write(text)
    else:
        path.write_text(text)
    return path


def by_name(path, **settings):
    return read_edges(path, "Source", "Target", "Weight", **settings)


def check(net, matrix=MATRIX):
    """All edges are there, those of weight 0 too."""
    order = [net.names.index(name) for name in NAMES]
    found = net.matrix("float64")
    assert found.nnz == len(EDGES)
    np.testing.assert_array_equal(found.toarray()[np.ix_(order, order)], matrix)


@pytest.mark.parametrize("name", ["net.csv", "net.csv.gz"])
def test_a_list_of_edges_is_read_by_name_and_by_number(tmp_path, name):
    mixed = words(EDGES) + words(TWICE, header="", kind="electrical")
    check(by_name(written(tmp_path / name, mixed), where={"Type": "chemical"}))
    check(read_edges(written(tmp_path / name, words(EDGES, header="")), 0, 1, 2))
    net = by_name(written(tmp_path / name, "\ufeff" + words(EDGES)), names=(*NAMES[::-1], "idle"))
    assert net.names == (*NAMES[::-1], "idle")
    assert net.units == 5
    assert read_edges(tmp_path / name, "Source", "Target").weights.tolist() == [1.0] * len(EDGES)


def test_parquet_is_read_as_text_is(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pq = pytest.importorskip("pyarrow.parquet")
    source, target, size = (list(column) for column in zip(*EDGES, strict=True))
    columns = {"Source": source, "Target": target, "Weight": [float(one) for one in size]}
    pq.write_table(pa.table(columns), tmp_path / "net.parquet")
    check(by_name(tmp_path / "net.parquet"))
    big = 2**53 + np.arange(3)  # identifiers that float64 would round together
    pq.write_table(pa.table({"a": big, "b": big[::-1].copy()}), tmp_path / "net.pq")
    assert read_edges(tmp_path / "net.pq", "a", "b").units == 3


def test_a_matrix_of_scipy_is_read_either_way_round(tmp_path):
    stored = by_name(written(tmp_path / "net.csv", words(EDGES)), names=NAMES).matrix()
    sparse.save_npz(tmp_path / "net.npz", stored)
    np.testing.assert_array_equal(read_npz(tmp_path / "net.npz").matrix().toarray(), MATRIX)
    turned = read_npz(tmp_path / "net.npz", transpose=True)
    np.testing.assert_array_equal(turned.matrix().toarray(), MATRIX.T)
    assert turned.names == ("0", "1", "2", "3")
    assert turned.matrix().nnz == len(EDGES)


def test_a_graph_of_networkx_is_taken(tmp_path):
    nx = pytest.importorskip("networkx", reason="networkx is not installed")
    graph = nx.DiGraph()
    graph.add_weighted_edges_from(EDGES)
    check(from_networkx(graph))
    both = from_networkx(nx.Graph([("a", "b"), ("b", "b")]), None)
    np.testing.assert_array_equal(both.matrix().toarray(), [[0, 1], [1, 1]])
    several = nx.MultiDiGraph()
    several.add_weighted_edges_from(TWICE)
    with pytest.raises(ValueError, match=r"got AVAL to I1L 2 times: add_up=True"):
        from_networkx(several)
    assert from_networkx(several, add_up=True).weights.sum() == MATRIX.sum() + 5
    for graph, message in (
        (nx.DiGraph([("a", "b")]), "must have the attribute 'weight'"),
        (nx.DiGraph([("1", 1)]), "names must differ"),
    ):
        with pytest.raises(ValueError, match=message):
            from_networkx(graph)
    with pytest.raises(TypeError, match="one of NetworkX, got list"):
        from_networkx([("a", "b")])


def test_an_edge_that_comes_twice_is_refused_or_summed(tmp_path):
    path = written(tmp_path / "net.csv", words(TWICE))
    with pytest.raises(ValueError, match=r"got AVAL to I1L 2 times: add_up=True sums them"):
        by_name(path)
    summed = MATRIX.copy()
    summed[NAMES.index("I1L"), NAMES.index("AVAL")] = 7
    check(by_name(path, add_up=True), summed)


def test_a_net_with_hubs_and_loops_is_learned_on(tmp_path):
    rng = np.random.default_rng(0)
    ends = rng.zipf(1.6, (400, 2)) % 40  # a few units take most of the edges
    rows = [f"n{a},n{b},{rng.normal():.3f}" for a, b in ends]
    net = read_edges(written(tmp_path / "net.csv", "\n".join(rows)), 0, 1, 2, add_up=True)
    assert np.bincount(net.targets).max() > net.units / 2
    assert (net.sources == net.targets).any()
    weights = np.tile(net.weights.astype(np.float32) / 8, (3, 1))
    into = np.ones((3 * net.units, 1), np.float32)
    cell = sparsegrad.GRU.from_edges(net.sources, net.targets, weights, net.units, into)
    assert cell.masks()["weight_hh"].sum() == 3 * net.sources.size
    learner = sparsegrad.OnlineLearner(
        cell, sparsegrad.Linear(1), sparsegrad.SnAp(1), sparsegrad.Adam(1e-2)
    )
    xs = np.sin(np.arange(300, dtype=np.float32))[:, None]
    losses = learner.run(xs, np.roll(xs, -1))
    assert losses[-50:].mean() < 0.5 * losses[:50].mean()


REFUSED = {
    "no such column": ("a,b\nx,y\n", ("a", "c"), {}, r"one column 'c', it has 0 among a, b"),
    "a column twice": ("a,a\nx,y\n", ("a", "a"), {}, r"it has 2"),
    "a short row": ("a,b\nx,y\nx\n", ("a", "b"), {}, r"line 3 must have at least 2 cells, got 1"),
    "no name": ("a,b\nx, \n", ("a", "b"), {}, r"line 2 must name both units"),
    "no number": ("a,b,w\nx,y,much\n", ("a", "b", "w"), {}, r"line 2 must be a finite number, got"),
    "no finite number": ("a,b,w\nx,y,inf\n", ("a", "b", "w"), {}, r"must be a finite number"),
    "an unknown name": ("a,b\nx,y\n", ("a", "b"), {"names": ["x"]}, r"of names, got 'y'"),
    "names twice": ("a,b\nx,y\n", ("a", "b"), {"names": ["x", "x "]}, r"names must differ"),
    "no edges": ("a,b\n", ("a", "b"), {}, r"must have an edge, it has none"),
    "no rows of a word": ("a,b\nx,y\n", ("a", "b"), {"where": {"b": "z"}}, r"does `where` name"),
    "a negative column": ("x,y\n", (0, -1), {}, r"numbers from 0 on, got \[0, -1\]"),
    "an empty file": ("", ("a", "b"), {}, r"one column 'a'"),
    "names and numbers": ("a,b\nx,y\n", ("a", 1), {}, r"all be names, or all numbers, got 'a', 1"),
    "an open quote": ('a,b\n"x,y\n', ("a", "b"), {}, r"must be Parquet or CSV"),
    "no flag": ("a,b\nx,y\n", ("a", "b"), {"add_up": 1}, r"add_up must be True or False"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_no_list_of_edges_is_refused(tmp_path, how):
    text, columns, settings, message = REFUSED[how]
    with pytest.raises((ValueError, TypeError), match=message):
        read_edges(written(tmp_path / "net.csv", text), *columns, **settings)


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "net.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "net.csv.gz").write_bytes(b"no gzip")
    for name in ("net.csv", "net.csv.gz"):
        with pytest.raises(ValueError, match=f"{name} must be Parquet or CSV"):
            by_name(tmp_path / name)
    (tmp_path / "net.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"net\.npz must be a matrix written by scipy"):
        read_npz(tmp_path / "net.npz")
    for matrix, message in (
        (np.ones((2, 3)), "a square matrix"),
        (np.full((2, 2), np.nan), "finite numbers"),
        (np.ones((2, 2), complex), "of real numbers"),
    ):
        sparse.save_npz(tmp_path / "net.npz", sparse.coo_array(matrix))
        with pytest.raises(ValueError, match=message):
            read_npz(tmp_path / "net.npz")
    sparse.save_npz(tmp_path / "net.npz", sparse.coo_array(([1, 2], ([0, 0], [1, 1])), (2, 2)))
    with pytest.raises(ValueError, match="got 1 to 0 2 times"):
        read_npz(tmp_path / "net.npz")
    assert isinstance(read_npz(tmp_path / "net.npz", add_up=True), Net)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are made otherwise here")
@pytest.mark.parametrize("name", ["net.csv", "net.csv.gz", "net.parquet", "net.npz"])
def test_nobody_waits_for_a_pipe(tmp_path, name):
    os.mkfifo(tmp_path / name)
    (tmp_path / "folder" / name).mkdir(parents=True)
    for path in (tmp_path / name, tmp_path / "folder" / name):
        with pytest.raises(ValueError, match="must be a file, got a folder, a pipe or a device"):
            read_npz(path) if path.suffix == ".npz" else by_name(path)
