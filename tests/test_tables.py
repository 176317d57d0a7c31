"""Tables as people and programs write them: what is read, by which columns, and what is refused."""

import gzip

import numpy as np
import pytest

from sparsegrad.tasks import Stream, table
from sparsegrad.tasks.table import open_table

ROWS = [[1.5, -2.0], [3.25, 1234.0], [0.0, 1e-3]]
WRITTEN = {
    "commas": "x,y\n1.5,-2\n3.25,1234\n0,1e-3\n",
    "no names": "1.5,-2\n3.25,1234\n0,1e-3\n",
    "semicolons": "x;y\n1.5;-2\n3.25;1234\n0;1e-3\n",
    "tabs": "x\ty\n1.5\t-2\n3.25\t1234\n0\t1e-3\n",
    "bars": "x|y\n1.5|-2\n3.25|1234\n0|1e-3\n",
    "blanks": "x y\n1.5   -2\n3.25 1234\n 0 1e-3\n",
    "quotes": '"x","y, or so"\n"1.5","-2"\n"3.25","1234"\n"0","1e-3"\n',
    "a byte order mark": "\ufeffx,y\n1.5,-2\n3.25,1234\n0,1e-3\n",
    "line ends of Windows": "x,y\r\n1.5,-2\r\n3.25,1234\r\n0,1e-3\r\n",
    "no end of the last line": "x;y\n1.5;-2\n3.25;1234\n0;1e-3",
    "a decimal comma": "x;y\n1,5;-2\n3,25;1234\n0;1e-3\n",
    "a decimal comma and thousands": "x;y\n1,5;-2\n3,25;1.234\n0,0;0,001\n",
    "thousands in quotes": 'x,y\n1.5,-2\n3.25,"1,234"\n0,0.001\n',
    "thousands in quotes and parts": 'x,y\n"1.5",-2\n3.25,"1,234.0"\n0,0.001\n',
    "thousands by a thin space": "x;y\n1,5;-2\n3,25;1\u202f234,0\n0;0,001\n",
    "thousands by an apostrophe": "x;y\n1.5;-2\n3.25;1'234\n0;0.001\n",
    "blank lines": "\nx,y\n\n1.5,-2\n\n3.25,1234\n0,1e-3\n\n",
}


def read(path, **settings):
    """All rows, by all columns of numbers."""
    path = open_table(path, **settings)
    numbers = [k for k in range(path.shape[1]) if path.words(k) is None]
    return path.rows(0, path.shape[0], numbers)


@pytest.mark.parametrize("how", WRITTEN)
def test_a_table_is_read_as_it_is_written(tmp_path, how, monkeypatch):
    path = tmp_path / "data.csv"
    path.write_bytes(WRITTEN[how].encode())
    np.testing.assert_array_equal(read(path), ROWS)
    monkeypatch.setattr(table, "ROWS", 2)  # in pieces
    np.testing.assert_array_equal(read(path), ROWS)
    with gzip.open(tmp_path / "data.csv.gz", "wb") as file:
        file.write(WRITTEN[how].encode())
    np.testing.assert_array_equal(read(tmp_path / "data.csv.gz"), ROWS)


def test_parquet_is_read(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pq = pytest.importorskip("pyarrow.parquet")
    at = np.array(["2024-05-31T06:00", "2024-05-31T12:00", "NaT"], "datetime64[s]")
    columns = {"at": at, "x": [1, 2, None], "y": [0.5, None, 2.5], "b": [True, False, True],
               "word": ["a", "b", None]}  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    found = open_table(tmp_path / "data.parquet")
    assert found.names == tuple(columns)
    assert [found.words(k) is None for k in range(5)] == [False, True, True, True, False]
    np.testing.assert_array_equal(
        found.rows(0, 3, [1, 2, 3]), [[1, 0.5, 1], [2, np.nan, 0], [np.nan, 2.5, 1]]
    )
    assert found.width(0) == 6
    day = found.rows(0, 3, [0])[:, :2]
    np.testing.assert_allclose(day, [[1, 0], [0, -1], [np.nan, np.nan]], atol=1e-12)
    (tmp_path / "data.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(ValueError, match="must be Parquet") as raised:
        open_table(tmp_path / "data.parquet")
    assert "\n" not in str(raised.value)


def test_without_pyarrow_parquet_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sparsegrad-rtrl\[tables\]'"):
        open_table(tmp_path / "data.parquet")


REFUSED = {
    "": "must not be empty",
    "\n\n": "must hold rows of numbers",
    "x,y\n": "must hold rows of numbers",
    "1,2\n3,4\n5\n6,7\n": "row of numbers 2 must have 2 cells as those before, got 1",
    "1,2\n3,4\n5,6,7\n": "row of numbers 2 must have 2 cells as those before, got 3",
    "1,2\n3,4\n5": "the file ends in mid-row",
    "x,y\n1,2\nx,y\n3,4\n": "got 'x' in row of numbers 1, column 0",
    '1,2\n3,"4\n5,6\n': "must be a table of numbers",
    "1;2\n3;1,234\n": "say which by --decimal",
    "10 200\n11 300\n": "may part two columns or thousands",
    "1;2\n3;1,23,4\n": "cells as those before",
    "1,2\n3,inf\n": "must be finite in float32, got inf in row 1, column 1",
    "1,2\n3,1e39\n": "must be finite in float32",
    "1,2\n3,\n": "got nan in row 1, column 1; --missing hold or mask",
    "x;y\n1,5;2\n2.5;3\n": "got '2.5' in row of numbers 1, column 0",
    "x,y\n1,\n2,NA\n": "must have values of its targets, got none in column 'y'",
    "day,word\nmon,a\ntue,b\n": "must be a table of numbers",
}


@pytest.mark.parametrize("text", REFUSED, ids=repr)
def test_what_is_no_table_of_numbers_is_refused_in_a_line(tmp_path, text):
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=str(path)) as raised:
        Stream(path, steps=99).draw()
    assert REFUSED[text] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_gzip_that_is_cut_short_or_damaged_is_refused(tmp_path):
    path = tmp_path / "data.csv.gz"
    whole = gzip.compress(b"1,2\n3,4\n" * 500)
    for content, words in (
        (whole[:-20], "cut short"),
        (whole[:15] + b"\xff" * 8 + whole[23:], "gzip"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            open_table(path)


def test_a_decimal_mark_is_taken_on_word(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("x;y\n1;1,234\n2;2,345\n")
    np.testing.assert_array_equal(read(path, decimal="point")[:, 1], [1234, 2345])
    np.testing.assert_array_equal(read(path, decimal="comma")[:, 1], [1.234, 2.345])


DATED = "at;x;y;z\n2024-01-01 06:00;1;2;3\n2024-01-01 12:00;4;5;6\n2024-01-01 18:00;7;8;9\n"
CHOSEN = [  # inputs, targets, horizon, and the columns of numbers that they mean
    (None, "1", None, [0, 1], [2]),
    (None, "2", None, [0], [1, 2]),
    (None, "0", None, [0, 1, 2], [0, 1, 2]),
    (None, "z", None, [0, 1], [2]),
    ("x", "z", None, [0], [2]),
    ("y,x", "z", None, [1, 0], [2]),
    ("1,2", "3,", None, [0, 1], [2]),
    (None, "x", "1", [0, 1, 2], [0]),
    ("y", "x,z", "1,2", [1], [0, 2]),
    (None, "1", "1", [0, 1, 2], [2]),
]


@pytest.mark.parametrize(("inputs", "targets", "horizon", "sources", "aims"), CHOSEN)
def test_columns_have_names_and_numbers(tmp_path, inputs, targets, horizon, sources, aims):
    path = tmp_path / "data.csv"
    path.write_text(DATED)
    task = Stream(path, targets, steps=9, inputs=inputs, horizon=horizon)
    drawn = task.draw()
    numbers = np.arange(1, 10).reshape(3, 3)
    ahead = task.forecast.horizons
    steps = 3 - max(ahead)
    np.testing.assert_array_equal(drawn.xs[:, 0], numbers[:steps, sources])
    wanted = np.concatenate([numbers[h : h + steps, aims] for h in ahead], axis=1)
    np.testing.assert_array_equal(drawn.targets[:, 0], wanted)
    assert task.left_out == ["column 'at'"]


def test_a_date_that_is_named_becomes_its_place_in_day_week_and_year(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(DATED)
    xs = Stream(path, "z", inputs="at,x", steps=9).draw().xs[:, 0]
    assert xs.shape == (3, 7)
    day = np.array([1, 2, 3]) / 4  # a Monday, the first of January
    for k, turn in enumerate((day, day / 7, day / 365.2425)):
        np.testing.assert_allclose(xs[:, 2 * k], np.sin(2 * np.pi * turn), atol=1e-6)
        np.testing.assert_allclose(xs[:, 2 * k + 1], np.cos(2 * np.pi * turn), atol=1e-6)
    assert Stream(path, "z", inputs="at,x").left_out == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"targets": "w"}, "--targets must name .*which has 'at', 'x', 'y', 'z', got 'w'"),
        ({"inputs": "x,temp"}, "--inputs must name columns .* got 'temp'"),
        ({"inputs": "9"}, "got '9'"),
        ({"inputs": "x,x"}, "each once"),
        ({"inputs": ""}, "must name columns"),
        ({"targets": "at"}, "must have numbers in a target column, got '2024-01-01 06:00'"),
        ({"targets": "z", "inputs": "x,z"}, "targets of the same row, got column 'z'"),
        ({"targets": "3"}, r"target columns must lie in \[0, 2\]"),
        ({"targets": "x", "horizon": "x"}, "horizon must be numbers of rows"),
        ({"targets": "x", "horizon": "1,1"}, "each once"),
        ({"targets": "x", "horizon": "9"}, "must have a row for each of 1 parts and 9 ahead"),
        ({"targets": "1", "inputs": "x,word"}, "got 'word'"),
    ],
)  # fmt: skip
def test_columns_that_are_not_there_are_refused(tmp_path, settings, words):
    path = tmp_path / "data.csv"
    path.write_text(DATED)
    with pytest.raises(ValueError, match=words) as raised:
        Stream(path, **settings)
    assert "\n" not in str(raised.value)


def test_words_that_are_no_dates_are_no_inputs(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("place,x,y\nhere,1,2\nthere,3,4\n")
    with pytest.raises(ValueError, match=r"dates as 2024-05-31 13:00, got 'here' in row 0"):
        Stream(path, inputs="place,x")


def test_a_name_that_two_columns_have_needs_a_number(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("x,x,y\n1,2,3\n4,5,6\n")
    with pytest.raises(ValueError, match="two of that name: give its number"):
        Stream(path, inputs="x")
    assert Stream(path, inputs="1").draw().xs.ravel().tolist() == [2, 5]
