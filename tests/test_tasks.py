"""Tasks: what they ask, where they stand, and the files they refuse."""

import copy
import gc
import json
import math
import os
import pickle

import numpy as np
import pytest

from sparsegrad.tasks import Chars, Copy, Stream
from sparsegrad.tasks.chars import default_text

TEXT = "The quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n" * 60


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_text(TEXT)
    return path


# copy


def symbols(xs):
    """One row of a draw as the paper writes it."""
    return "".join("01#$"[step.argmax()] if step.any() else "-" for step in xs)


def test_copy_asks_for_its_own_bits_back():
    task = Copy(batch=40, seed=3)
    task.length = 8
    xs, targets, weights, resets = task.draw()
    seen = set()
    for b in range(40):
        line, scored = symbols(xs[:, b]), np.flatnonzero(weights[:, b])
        start, rest = line.split("#")
        string, blanks = rest.split("$")
        assert start == ""
        assert set(string) <= {"0", "1"}
        assert set(blanks) == {"-"}
        assert list(scored) == list(range(len(string) + 2, 2 * len(string) + 2))
        assert "".join(str(int(bit)) for bit in targets[scored, b, 0]) == string
        seen.add(len(string))
    assert seen == {3, 4, 5, 6, 7, 8}  # [max(L - 5, 1), L]
    assert len(xs) == 2 * 8 + 2
    assert resets[0].all()
    assert not resets[1:].any()


def test_copy_grows_when_a_mini_batch_is_learned():
    task = Copy(batch=4)
    assert {int(task.draw().weights.sum()) for _ in range(5)} == {4}  # L = 1
    task.hear(0.1501 * math.log(2))
    assert task.length == 1
    task.hear(0.1499 * math.log(2))
    assert task.length == 2
    assert task.report(0.5 * math.log(2)) == {"length": 2, "bits_per_bit": pytest.approx(0.5)}


def test_copy_goes_on_from_its_position():
    one, two = Copy(batch=3, seed=1), Copy(batch=3, seed=2)
    one.hear(0.0)
    one.draw()
    two.go_to(json.loads(json.dumps(one.position())))
    assert two.length == 2
    assert_same(one.draw(), two.draw())


# characters


def decode(task, codes):
    alphabet = np.flatnonzero(task._code >= 0)
    return bytes(alphabet[codes].astype(np.uint8))


def test_rows_read_on_through_the_text_and_around_its_end(text):
    content = TEXT.encode()
    train = int(len(content) * 0.9)
    task = Chars(text, batch=2, steps=100)
    starts = [0, train // 2]
    for draw in range(train // 100 + 3):
        xs, targets, weights, resets = task.draw()
        assert weights.all()
        for b in range(2):
            fresh = draw == 0
            if starts[b] + 101 > train:
                starts[b], fresh = 0, True
            part = content[starts[b] : starts[b] + 101]
            assert decode(task, xs[:, b].argmax(1)) == part[:-1]
            assert decode(task, targets[:, b]) == part[1:]
            assert list(np.flatnonzero(resets[:, b])) == ([0] if fresh else [])
            starts[b] += 100


def test_crops_start_anywhere_in_the_training_part(text):
    task = Chars(text, batch=8, steps=20, crop=True, seed=1)
    train = TEXT[: int(len(TEXT) * 0.9)]
    drawn = [task.draw() for _ in range(50)]
    crops = {decode(task, d.xs[:, b].argmax(1)).decode() for d in drawn for b in range(8)}
    assert all(crop in train for crop in crops)
    assert len({crop[0] for crop in crops}) > 20
    assert all(d.resets[0].all() and not d.resets[1:].any() for d in drawn)


def test_held_out_characters_are_the_last_tenth(text):
    task = Chars(text, batch=2, steps=50)
    held = task.held_out()
    end = TEXT[int(len(TEXT) * 0.9) :]
    part = len(end) // 2
    for b in range(2):
        assert decode(task, held.targets[:, b]).decode() == end[b * part + 1 : (b + 1) * part]
    assert held.resets[0].all()
    path = text.with_name("long")
    path.write_text(TEXT * (100_000 // len(TEXT)))
    for batch in (1, 4):
        assert Chars(path, batch, steps=50).held_out().targets.size == 4096


@pytest.mark.parametrize("crop", [False, True])
def test_chars_go_on_from_their_position(text, crop):
    one, two = (Chars(text, batch=3, steps=30, crop=crop, seed=seed) for seed in (1, 2))
    one.draw()
    two.go_to(json.loads(json.dumps(one.position())))
    assert_same(one.draw(), two.draw())


def test_chars_count_bits(text):
    assert Chars(text, 2, 50).report(math.log(2))["bits_per_character"] == pytest.approx(1)


def test_python_brings_a_text():
    task = Chars(default_text(), batch=4, steps=16)
    assert task.inputs > 50
    assert task.draw().xs.shape == (16, 4, task.inputs)


def test_only_text_is_a_text(tmp_path):
    path = tmp_path / "text"
    with pytest.raises(FileNotFoundError):
        Chars(path, 2, 50)
    os.mkfifo(tmp_path / "pipe")  # which nobody writes to
    for no_file in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="must be a file, got a folder, a pipe or a device"):
            Chars(no_file, 2, 50)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="must not be empty"):
        Chars(path, 2, 50)
    path.write_text("tiny")
    with pytest.raises(ValueError, match=r"must have at least 1024 bytes .* got 4"):
        Chars(path, 2, 50)
    path.write_text(TEXT)
    with pytest.raises(ValueError, match="must have at least 40000 bytes"):
        Chars(path, 1000, 50)
    path.write_bytes(TEXT.encode() + b"a\0b")
    with pytest.raises(ValueError, match=f"must be text, got a NUL byte at {len(TEXT) + 1}"):
        Chars(path, 2, 50)


@pytest.mark.parametrize("change", ["cut", "append", "overwrite"])
def test_a_text_that_changes_while_it_is_read_is_noticed(text, change):
    task = Chars(text, 2, 50)
    task.draw()
    if change == "cut":
        text.write_text(TEXT[:100])
    elif change == "append":
        text.write_text(TEXT + "more")
    else:
        text.write_text(TEXT.swapcase())
    with pytest.raises(ValueError, match="must not change while it is read"):
        [task.draw() for _ in range(100)]


def test_another_text_is_not_gone_on_with(text, tmp_path):
    other = tmp_path / "other"
    other.write_text(TEXT.replace("fox", "cat"))
    with pytest.raises(ValueError, match="must be the text of the run, got other content"):
        Chars(other, 2, 50).go_to(Chars(text, 2, 50).position())


# streams of numbers


def table(tmp_path, kind, rows=25, dtype="float32"):
    values = np.arange(rows * 3).reshape(rows, 3).astype(dtype)
    path = tmp_path / f"data.{kind}"
    if kind == "npy":
        np.save(path, values)
    else:
        np.savetxt(path, values, delimiter=",", header="a,b,c", comments="")
    return path, values


@pytest.mark.parametrize("kind", ["npy", "csv"])
def test_a_stream_is_its_rows_in_order(tmp_path, kind):
    path, values = table(tmp_path, kind)
    task = Stream(path, targets=1, steps=10)
    assert task.tokens == 25
    drawn = [task.draw() for _ in range(4)]
    assert [len(d.xs) for d in drawn] == [10, 10, 5, 10]
    xs = np.concatenate([d.xs for d in drawn])[:, 0]
    targets = np.concatenate([d.targets for d in drawn])[:, 0]
    np.testing.assert_array_equal(xs, np.concatenate([values, values[:10]])[:, :2])
    np.testing.assert_array_equal(targets, np.concatenate([values, values[:10]])[:, 2:])
    resets = np.concatenate([d.resets for d in drawn])[:, 0]
    assert list(np.flatnonzero(resets)) == [0, 25]


def test_without_target_columns_the_next_row_is_the_target(tmp_path):
    path, values = table(tmp_path, "npy", dtype="float64")
    task = Stream(path, targets=0, batch=2, steps=7)
    drawn = [task.draw(), task.draw()]
    for b in range(2):
        xs = np.concatenate([d.xs for d in drawn])[:, b]
        targets = np.concatenate([d.targets for d in drawn])[:, b]
        np.testing.assert_array_equal(xs, values[12 * b : 12 * b + 12])
        np.testing.assert_array_equal(targets, values[12 * b + 1 : 12 * b + 13])
    assert task.report(1.5)["rmse"] == 1  # three targets, half squares


def test_a_stream_goes_on_from_its_position(tmp_path):
    path, _ = table(tmp_path, "npy")
    one, two = Stream(path, steps=4), Stream(path, steps=4)
    one.draw()
    two.go_to(json.loads(json.dumps(one.position())))
    assert_same(one.draw(), two.draw())
    np.save(path, np.ones((25, 3), "float32"))
    with pytest.raises(ValueError, match="must be the file of the run"):
        Stream(path).go_to(one.position())


def test_streams_that_are_no_tables_of_numbers_are_refused(tmp_path):
    npy, text = tmp_path / "data.npy", tmp_path / "data.csv"
    refused = [
        (npy, b"not numpy at all", "got another kind of file"),
        (npy, b"", "must not be empty"),
        (text, b"a,b\n", "must hold rows of numbers, got none"),
        (text, b"1,2\n3,x\n", "must be a table of numbers"),
        (text, b"1,2\n3\n", "must be a table of numbers"),
        (text, b"\xff\xfe\x00", "got a binary file"),
        (text, b"1\n2\n", r"target columns must lie in \[0, 0\]"),
    ]
    for path, content, message in refused:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            Stream(path)
    np.save(npy, np.zeros(5))
    with pytest.raises(ValueError, match=r"got float64 of shape \(5,\)"):
        Stream(npy)
    np.save(npy, np.zeros((5, 2), int))
    with pytest.raises(ValueError, match="got int64"):
        Stream(npy)
    np.save(npy, np.zeros((5, 2)))
    npy.write_bytes(npy.read_bytes()[:-8])
    with pytest.raises(ValueError, match="cut short"):
        Stream(npy)
    text.write_text("1,2\n3,nan\n")
    with pytest.raises(ValueError, match="must be finite in float32, got nan in row 1, column 1"):
        Stream(text).draw()
    text.write_text("1,2\n3,4\n")
    with pytest.raises(ValueError, match="a row for each of 3 parts, got 2 rows"):
        Stream(text, batch=3)


FIRST_ROWS = {
    "1,2": [[1, 2]],
    "\ufeff1,2": [[1, 2]],
    '"1","2"': [[1, 2]],
    " 1 , 2 ": [[1, 2]],
    "1e0,+2.0": [[1, 2]],
    "\n\n1,2": [[1, 2]],
    "a,b": [],
    "\ufeffa,b": [],
    '"a, or so","b"': [],
    "a,b,": [],
    "NA,NA": [],  # no cell is a number: names, by the one rule
    "\na,b": [],
    "1,": None,
    ",2": None,
    "NA,2": None,
    "1,2,": None,
    "1x,2": None,
    '"1,2': None,
    '1,2"': None,
    "1;2,3": None,
    "a,2": None,
    "1,b": None,
    "1_0,2": None,
    "1 2,3": None,
    "\ufeff\ufeff1,2": None,
    "nan,2": None,
    "1,inf": None,
    "1,1e999": None,
}
"""A first row, and the rows of numbers that it is: none where it is names, None where refused."""


@pytest.mark.parametrize("row", FIRST_ROWS, ids=repr)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
def test_a_first_row_is_never_lost(tmp_path, row, end):
    path = tmp_path / "data.csv"
    path.write_bytes(f"{row}\n3,4\n5,6\n".replace("\n", end).encode())
    if FIRST_ROWS[row] is None:
        with pytest.raises(ValueError, match=str(path)) as raised:
            Stream(path, 0, steps=9).draw()
        assert "\n" not in str(raised.value)
        return
    drawn = Stream(path, 1, steps=9).draw()
    rows = np.concatenate([drawn.xs, drawn.targets], axis=2)[:, 0].tolist()
    assert rows == [*FIRST_ROWS[row], [3, 4], [5, 6]]


@pytest.mark.parametrize("row", [row for row, rows in FIRST_ROWS.items() if rows is None], ids=repr)
def test_a_row_is_judged_alike_wherever_it_stands(tmp_path, row):
    path = tmp_path / "data.csv"
    for rows in ((row, "3,4", "5,6"), ("3,4", row, "5,6"), ("3,4", "5,6", row)):
        path.write_text("\n".join(rows) + "\n")
        with pytest.raises(ValueError, match=str(path)):
            Stream(path, 0, steps=9).draw()


def test_a_header_of_npy_with_any_bit_flipped_is_refused_or_a_table(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, np.arange(40, dtype="float32").reshape(10, 4))
    whole = path.read_bytes()
    refused = 0
    for at in range(128):
        for bit in range(8):
            broken = bytearray(whole)
            broken[at] ^= 1 << bit
            path.write_bytes(broken)
            try:
                Stream(path).draw()
            except ValueError as error:
                said = str(error)
            else:
                continue
            refused += 1
            assert str(path) in said
            assert "\n" not in said
    assert refused > 500


@pytest.mark.parametrize(
    "shape", ["(-1, 4)", "(10.0, 4)", "(True, 4)", "(10**30, 4)", "'ab'", "10"]
)
def test_a_shape_that_cannot_be_is_refused(tmp_path, shape):
    path = tmp_path / "data.npy"
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
                     + bytes(160))  # fmt: skip
    with pytest.raises(ValueError, match=str(path)):
        Stream(path)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("kind", ["copy", "chars", "npy", "csv"])
def test_a_copied_task_goes_on_by_itself(kind, how, tmp_path):
    rng = np.random.default_rng(0)
    table = rng.standard_normal((400, 3)).astype("f4")
    (tmp_path / "text").write_bytes(rng.integers(97, 123, 20_000, np.uint8).tobytes())
    np.save(tmp_path / "table.npy", table)
    np.savetxt(tmp_path / "table.csv", table, delimiter=",")
    task = {
        "copy": lambda: Copy(3, seed=1),
        "chars": lambda: Chars(tmp_path / "text", 2, 16, crop=True, seed=1),
        "npy": lambda: Stream(tmp_path / "table.npy", steps=16),
        "csv": lambda: Stream(tmp_path / "table.csv", steps=16),
    }[kind]()
    task.draw()
    other = copy.deepcopy(task) if how == "deepcopy" else pickle.loads(pickle.dumps(task))
    expected = [other.draw() for _ in range(3)]
    for parts in expected:  # the copy's draws have not moved the task
        for one, two in zip(parts, task.draw(), strict=True):
            np.testing.assert_array_equal(one, two)
    del task
    gc.collect()  # which closes its file, not the copy's
    other.draw()
