"""Checkpoints: bit for bit, whole or not at all, and nothing else taken for one."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sparsegrad import (
    GRU,
    MLP,
    RFLO,
    RNN,
    SGD,
    Adam,
    AdamW,
    Linear,
    RMSprop,
    SnAp,
)
from sparsegrad import OnlineLearner as Learner
from sparsegrad.cells import CellKind, Map
from sparsegrad.kernels.cells.elementwise import rnn_tanh
from sparsegrad.learning.checkpoint import read_checkpoint, write_checkpoint
from sparsegrad.learning.optimizers import cosine
from sparsegrad.registry import CELLS, METHOD_WORDS, parse_method
from sparsegrad.runs.folder import CHECKPOINT, Folder
from sparsegrad.system import tensorfile

WORDS = ["snap:1", *(word.replace(":N", ":2").replace(":T", ":4") for word in METHOD_WORDS)]
WORDS += ["snap:1@4", "rtrl@4", "uoro@4"]
SHIFT = 7  # not a multiple of the window of 4, nor of 3 steps per update


def data(steps, dtype="float32", batch=2):
    rng = np.random.default_rng(5)
    xs = rng.standard_normal((steps, batch, 3)).astype(dtype)
    resets = rng.random((steps, batch)) < 0.1
    return xs, rng.integers(0, 4, (steps, batch)), None, resets


def part(chunk, start, stop):
    return tuple(None if a is None else a[start:stop] for a in chunk)


def everything(learner):
    return learner.checkpoint().tensors() | {
        "steps": np.array(learner.steps),
        "updates": learner._memory.updates,
        "since": learner._streams.since,
    }


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def a_cell(name, **options):
    return CELLS[name].load()(3, 6, sparsity=0.5, seed=1, **options)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("word", WORDS)
def test_a_resumed_learner_goes_on_bit_for_bit(tmp_path, cell, word):
    method = parse_method(word, 3)
    every = None if word.startswith("bptt") or "@" in word else 3  # a window decides itself
    learner = Learner(a_cell(cell), Linear(4, "cross_entropy"), method, Adam(0.01), 2, every)
    chunk = data(20)
    learner.run(*part(chunk, 0, SHIFT))
    learner.reset(1)
    learner.save(tmp_path / "one")
    resumed = Learner.load(tmp_path / "one", threads=1)
    assert_same(everything(resumed), everything(learner))
    losses = learner.run(*part(chunk, SHIFT, 20))
    np.testing.assert_array_equal(resumed.run(*part(chunk, SHIFT, 20)), losses)
    assert_same(everything(resumed), everything(learner))


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1, momentum=0.5, clip=1.0),
        AdamW(0.01, weight_decay=0.1, schedule=cosine(9, 2)),
        RMSprop(0.01, momentum=0.5),
    ],
    ids=["sgd", "adamw", "rmsprop"],
)
def test_settings_of_optimiser_and_readout_come_back(tmp_path, optimizer):
    cell = a_cell("gru", dtype="float64")
    learner = Learner(cell, MLP(5, 4, "cross_entropy", seed=2), SnAp(1), optimizer, 2)
    chunk = data(20, "float64")
    learner.run(*part(chunk, 0, SHIFT))
    write_checkpoint(tmp_path / "one", learner.checkpoint({"word": [1, 2.5]}))
    saved = read_checkpoint(tmp_path / "one")
    resumed = Learner.from_checkpoint(saved)
    assert saved.extra == {"word": [1, 2.5]}
    assert repr(resumed.cell) == repr(cell)
    losses = learner.run(*part(chunk, SHIFT, 20))
    np.testing.assert_array_equal(resumed.run(*part(chunk, SHIFT, 20)), losses)
    assert_same(everything(resumed), everything(learner))


def saved(tmp_path, method=SnAp(2)):  # noqa: B008 - frozen
    learner = Learner(GRU(3, 4, sparsity=0.5), Linear(4, "cross_entropy"), method, Adam(0.01), 2)
    learner.run(*data(5))
    learner.save(tmp_path / "one")
    return learner, tmp_path / "one"


def test_any_safetensors_reader_reads_it(tmp_path):
    learner, path = saved(tmp_path)
    with_library = load_file(path)
    assert_same(with_library, learner.checkpoint().tensors())


OLD = Path(__file__).parent / "checkpoints"  # as version 0.1.0 wrote them, seven steps in
LOSSES = {  # of the five steps after them, by the same version
    "gru-snap2": [1.664198, 1.417667, 1.26457, 1.366739, 1.324326],
    "rnn-uoro": [1.826343, 1.407285, 1.962723, 1.482351, 1.351393],
    "lstm-bptt4": [1.12712, 1.551276, 1.540052, 1.414442, 1.511952],
    "gru-rflo": [1.155186, 1.488006, 1.433741, 1.675801, 1.413034],
}


@pytest.mark.parametrize("name", LOSSES)
def test_old_checkpoints_still_go_on(name):
    path = OLD / f"{name}.safetensors"
    learner = Learner.load(path)
    assert_same(learner.checkpoint().tensors(), load_file(path))
    rng = np.random.default_rng(5)
    xs, targets = rng.standard_normal((12, 2, 3)).astype("f4"), rng.integers(0, 4, (12, 2))
    np.testing.assert_allclose(learner.run(xs[7:], targets[7:]), LOSSES[name], rtol=1e-5)


class Own(RNN):
    kind = CellKind(update=rnn_tanh, maps=(Map(bias_hh=True),), state_partials=())


def test_a_cell_of_ones_own_is_given_back_to_load(tmp_path):
    learner = Learner(Own(3, 4, seed=1), Linear(4, "cross_entropy"), SnAp(2), Adam(0.01), 2)
    learner.run(*data(5))
    learner.save(tmp_path / "one")
    with pytest.raises(ValueError, match=r"holds a Own, a cell of your own: pass one"):
        Learner.load(tmp_path / "one")
    with pytest.raises(ValueError, match="must have the structure"):
        Learner.load(tmp_path / "one", cell=Own(3, 4, sparsity=0.5))
    resumed = Learner.load(tmp_path / "one", cell=Own(3, 4, seed=9))
    assert_same(everything(resumed), everything(learner))


def test_every_flipped_bit_is_noticed(tmp_path):
    _, path = saved(tmp_path, RFLO())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    for at in [*range(0, header, 3), *rng.integers(header, len(whole), 300)]:
        broken = bytearray(whole)
        broken[at] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=str(path)):
            Learner.load(path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    _, path = saved(tmp_path, RFLO())
    whole = path.read_bytes()
    for length in [0, 5, 8, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut short"):
            Learner.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        Learner.load(path)


def test_foreign_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign"
    for content in (
        b"hello, world, this is text",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"\2" + bytes(7) + b"[]",
    ):
        foreign.write_bytes(content)
        with pytest.raises(ValueError, match="another kind of file"):
            Learner.load(foreign)
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": np.ones(3)}, foreign, metadata)
        with pytest.raises(ValueError, match=r"got another program's file|got pt"):
            Learner.load(foreign)
    tensorfile.write_tensors(foreign, {"indices": np.arange(3)}, {}, kind="pattern")
    with pytest.raises(ValueError, match="must be a checkpoint of sparsegrad, got sparsegrad patt"):
        Learner.load(foreign)
    with pytest.raises(FileNotFoundError):
        Learner.load(tmp_path / "absent")


def test_another_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorfile, "VERSION", tensorfile.VERSION + 1)
    _, path = saved(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="must be of checkpoint version 4, got version 5"):
        Learner.load(path)


def test_numbers_that_are_not_finite_replace_nothing(tmp_path):
    learner, path = saved(tmp_path)
    before = path.read_bytes()
    learner.cell.weights[0] = np.nan
    with pytest.raises(FloatingPointError, match=r"cell\.weight_hh must be finite"):
        learner.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["one"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    learner, path = saved(tmp_path)
    before = path.read_bytes()
    learner.run(*data(5))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    quiet = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            learner.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, quiet)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["one"]


def test_without_safetensors_one_line_says_what_to_install(tmp_path, monkeypatch):
    learner, path = saved(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for wanted in (
        lambda: learner.save(tmp_path / "two"),
        lambda: Learner.load(path),
        lambda: Folder(tmp_path / "run"),  # not only after half a minute, at its first checkpoint
    ):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'sparsegrad-rtrl\[files\]'"):
            wanted()
    assert os.listdir(tmp_path) == ["one"]


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import numpy as np
from sparsegrad.system import tensorfile
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
tensorfile.write_tensors(Path(sys.argv[1]), {"a": np.ones(100)}, {})
"""


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    tensorfile.write_tensors(tmp_path / CHECKPOINT, {"a": np.zeros(100)}, {"n": 1})
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, tmp_path / CHECKPOINT])
    assert done.returncode == -signal.SIGKILL
    arrays, about = tensorfile.read_tensors(tmp_path / CHECKPOINT)
    assert about == {"n": 1}
    assert not arrays["a"].any()
    (half,) = tmp_path.glob(".sparsegrad-*")  # of it, which the next run clears
    assert os.listdir(half) == [CHECKPOINT]
    (tmp_path / "config.json").write_text('{"sparsegrad": "0.1.0"}')
    Folder(tmp_path)
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]
