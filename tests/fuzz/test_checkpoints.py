"""Checkpoints and patterns that lie, with checksums that fit: refused in a line, or right."""

import copy
import itertools

import numpy as np
import pytest
from strange import cases, strange_array, strange_json

from sparsegrad import (
    BPTT,
    GRU,
    LSTM,
    MLP,
    RFLO,
    RNN,
    RTRL,
    SGD,
    UORO,
    Adam,
    AdamW,
    Influence,
    Linear,
    OnlineLearner,
    ReachPattern,
    SnAp,
)
from sparsegrad.learning.optimizers import cosine
from sparsegrad.system.tensorfile import read_tensors, write_tensors

LEARNERS = {
    "snap-1": lambda: (GRU(3, 6, sparsity=0.5, seed=1), Linear(4, "cross_entropy"), SnAp(1),
                       Adam(0.01), 2, 3),
    "snap-2": lambda: (RNN(3, 6, sparsity=0.5, seed=1), MLP(5, 4, "cross_entropy"), SnAp(2),
                       SGD(0.1, momentum=0.5, clip=1.0), 2, 1),
    "rtrl": lambda: (LSTM(3, 4, sparsity=0.5, seed=1, dtype="float64"), Linear(4, "cross_entropy"),
                     RTRL(), AdamW(0.01, schedule=cosine(9, 2)), 1, 1),
    "bptt": lambda: (GRU(3, 6, sparsity=0.5), Linear(4, "cross_entropy"), BPTT(), Adam(), 2),
    "bptt-4": lambda: (GRU(3, 6, sparsity=0.5), Linear(4, "cross_entropy"), BPTT(4), Adam(), 5),
    "uoro": lambda: (GRU(3, 6, sparsity=0.5), Linear(4, "cross_entropy"), UORO(3), Adam(), 2, 2),
    "rflo": lambda: (LSTM(3, 6, sparsity=0.5), Linear(4, "cross_entropy"), RFLO(), Adam(), 4, 7),
}  # fmt: skip


def data(steps, batch, dtype):
    rng = np.random.default_rng(5)
    xs = rng.standard_normal((steps, batch, 3)).astype(dtype)
    return xs, rng.integers(0, 4, (steps, batch)), None, rng.random((steps, batch)) < 0.1


def refused(path, load):
    """Load a file: return what it gives, or None where it is refused as it must be."""
    try:
        return load(path)
    except (ValueError, MemoryError) as error:
        text = str(error)
    assert text.startswith(str(path)) or f" {path}" in text, text
    assert "\n" not in text
    assert len(text) < 1000, text
    return None


@pytest.mark.parametrize("name", LEARNERS)
def test_a_checkpoint_that_lies_is_refused_or_right(tmp_path, name):
    path = tmp_path / "one"
    learner = OnlineLearner(*LEARNERS[name](), threads=1)
    chunk = data(7, learner.batch, learner.cell.dtype)
    learner.run(*chunk)
    learner.save(path)
    tensors, about = read_tensors(path)
    counts = {"refused": 0, "taken": 0}
    for seed in cases(60):
        rng = np.random.default_rng([seed, len(name)])
        arrays, said = dict(tensors), copy.deepcopy(about)
        for _ in range(rng.integers(1, 3)):
            if rng.random() < 0.5:
                said = strange_json(rng, said)
            else:
                one = list(arrays)[rng.integers(len(arrays))]
                if rng.random() < 0.1:
                    del arrays[one]
                else:
                    arrays[one] = strange_array(rng, arrays[one])
        write_tensors(path, arrays, said)
        loaded = refused(path, lambda path: OnlineLearner.load(path, threads=1))
        counts["refused" if loaded is None else "taken"] += 1
        if loaded is None or loaded.batch != learner.batch or loaded.cell.inputs != 3:
            continue
        try:  # what is taken works, whatever its numbers are
            with np.errstate(all="ignore"):
                loaded.run(*data(9, loaded.batch, loaded.cell.dtype))
        except FloatingPointError:
            continue
        assert np.isfinite(loaded.state).all()
        loaded.reset()
    assert counts["refused"] > counts["taken"] > 0, counts


def lies(tensors, about):
    """Yield what once made kernels leave their arrays, and its kind."""
    for name, array in tensors.items():
        for wrong in (
            array[:0], array[..., None], np.zeros(array.shape, "f2"), array.reshape(-1)[:-1],
        ):  # fmt: skip
            if wrong.shape != array.shape or wrong.dtype != array.dtype:
                yield name, tensors | {name: wrong}, about
        yield name, {k: v for k, v in tensors.items() if k != name}, about
    for name in ("method.filled", "cell.weight_hh.place", "cell.bias_ih.place"):
        if name in tensors:
            for number in (10**9, 2**62, 4, -1, -(2**62)):
                wrong = tensors[name].copy()
                wrong[0] = wrong[1] if number == 4 and wrong.size > 1 else number
                yield name, tensors | {name: wrong}, about
    for name in ("pending_reset", "method.resets"):
        if name in tensors and tensors[name].size:
            wrong = tensors[name].copy()
            wrong.reshape(-1).view(np.uint8)[0] = 2
            yield name, tensors | {name: wrong}, about
    if "method.random" in tensors:
        yield "method.random", tensors | {"method.random": tensors["method.random"] * 0}, about
    for name in ("updates", "since", "steps", "batch", "update_every"):
        for number in (-(10**9), -1, 2**63, 1.0, True, "1", None, [], {}):
            yield name, tensors, about | {name: number}
        yield name, tensors, {k: v for k, v in about.items() if k != name}
    for part in ("cell", "readout", "method", "optimizer"):
        for field, number in itertools.product(about[part], (None, -1, 1e12, "?", [])):
            free = (number == 1e12 and isinstance(about[part][field], float)) or (
                number in (None, 1e12) and field == "clip"
            )
            if about[part][field] != number and not free:
                yield f"{part}.{field}", tensors, about | {part: about[part] | {field: number}}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_checkpoint_with_one_wrong_field_names_it(tmp_path, name):
    path = tmp_path / "one"
    learner = OnlineLearner(*LEARNERS[name](), threads=1)
    learner.run(*data(7, learner.batch, learner.cell.dtype))
    learner.save(path)
    seen = 0
    for field, arrays, about in lies(*read_tensors(path)):
        write_tensors(path, arrays, about)
        with pytest.raises((ValueError, MemoryError), match=str(path)) as raised:
            OnlineLearner.load(path, threads=1)
        said = str(raised.value)
        assert "\n" not in said
        # a size that is wrong shows in the arrays that must have it
        sizes = ("cell.", "readout.", "batch", "method.window", "method.kind", "optimizer.")
        assert field in said or field.startswith(sizes), (field, said)
        seen += 1
    assert seen > 100


def test_a_cell_of_ones_own_is_as_it_was_after_a_refused_file(tmp_path):
    class Own(RNN):
        pass

    path = tmp_path / "one"
    OnlineLearner(Own(3, 6, seed=1), Linear(4), SnAp(1), SGD(0.1), 2).save(path)
    tensors, about = read_tensors(path)
    for field, arrays, said in lies(tensors, about):
        write_tensors(path, arrays, said)
        own = Own(3, 6, seed=2)
        before = own.weights.copy()
        with pytest.raises((ValueError, MemoryError), match=str(path)):
            OnlineLearner.load(path, cell=own)
        np.testing.assert_array_equal(own.weights, before, err_msg=field)


def test_a_pattern_that_lies_is_refused_or_right(tmp_path):
    path = tmp_path / "one"
    pattern = OnlineLearner(*LEARNERS["snap-2"]()).pattern
    pattern.save(path)
    tensors, about = read_tensors(path, kind="reach pattern")
    counts = {"refused": 0, "taken": 0}
    for seed in cases(300):
        rng = np.random.default_rng([seed, 77])
        arrays, said = dict(tensors), copy.deepcopy(about)
        if rng.random() < 0.2:
            said = strange_json(rng, said)
        else:
            one = list(arrays)[rng.integers(len(arrays))]
            arrays[one] = strange_array(rng, arrays[one])
        write_tensors(path, arrays, said, kind="reach pattern")
        loaded = refused(path, ReachPattern.load)
        counts["refused" if loaded is None else "taken"] += 1
        if loaded is None:
            continue
        assert loaded.cost().entries == loaded.indices.size == loaded.to_scipy().nnz
        J = Influence(loaded, threads=1)
        ones = [
            np.ones(size, "float32")
            for size in (
                loaded.dynamics_indices.size,
                loaded.immediate_indices.size,
                loaded.shape[1],
            )
        ]
        assert np.isfinite(J.update_and_contract(*ones)).all()
    assert counts["refused"] > counts["taken"], counts
