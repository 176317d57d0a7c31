"""Random cells, methods and calls of a learner, against its recursion written out in NumPy.

A case is its number: SPARSEGRAD_FUZZ cases (default few) from SPARSEGRAD_FUZZ_FIRST on (default 0).
"""

import copy
import itertools
import os
import pickle
from typing import Any

import numpy as np
import oracle

from sparsegrad.cells import GRU, LSTM, RNN, Cell
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD
from sparsegrad.learning.readout import Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, SnAp

CASES, FIRST = (int(os.environ.get(f"SPARSEGRAD_FUZZ{name}", default)) for name, default in
                (("", "60"), ("_FIRST", "0")))  # fmt: skip
KINDS = RNN, GRU, LSTM
REFUSED = TypeError, ValueError, IndexError


def cell_of(rng: np.random.Generator) -> Cell:
    """A cell whose masks may leave rows, columns and whole gates empty."""
    kind = KINDS[rng.integers(3)]
    cell = kind(
        int(rng.integers(1, 4)), int(rng.integers(1, 7)), gain=1.5, dtype="float64",
        seed=int(rng.integers(1000)), sparsity=rng.choice([0, 0.5, 0.9]),
        gate_masks=("independent", "shared")[rng.integers(2)],
    )  # fmt: skip
    dense, masks = cell.to_dense(), cell.masks()
    for bias in ("bias_ih", "bias_hh"):
        dense[bias] = rng.standard_normal(dense[bias].shape)
        masks[bias] &= rng.random(masks[bias].shape) < rng.choice([0.5, 1])
    if rng.random() < 0.3:
        masks["weight_hh"][:, rng.integers(cell.units)] = False
        masks["weight_ih"][rng.integers(masks["weight_ih"].shape[0])] = False
    masks["bias_ih"][0] = True
    dense = {name: values * masks[name] for name, values in dense.items()}
    return kind.from_dense(**dense, masks=masks)


def kept_of(kind: str, masks: dict[str, np.ndarray], n: int | None) -> np.ndarray:
    """The reach of every weight, from Jacobians at a point where nothing is 0 by chance.

    A GRU's candidate that nothing feeds is 0 at every step, and its reset gate without effect: the
    pattern is of what is connected, whatever the values, so that here every sum has a bias.
    """
    rng = np.random.default_rng(5)
    p = {
        name: rng.standard_normal(mask.shape) * (mask | name.startswith("bias"))
        for name, mask in masks.items()
    }
    units = p["weight_hh"].shape[1]
    state = rng.standard_normal((2 if kind == "LSTM" else 1, units))
    x = rng.standard_normal(p["weight_ih"].shape[1])
    D, immediate, _ = oracle.cell_jacobians(kind, p, oracle.existing(masks), state, x)
    return oracle.reach(D, immediate, n)


def pieces(rng: np.random.Generator, steps: int) -> list[slice]:
    """Cut the steps into calls."""
    cuts = [0, *sorted(rng.integers(0, steps + 1, rng.integers(0, 4))), steps]
    return [slice(*pair) for pair in itertools.pairwise(cuts)]


def disturb(
    rng: np.random.Generator, learner: OnlineLearner, call: dict[str, Any]
) -> OnlineLearner:
    """Do something that must change nothing; return the learner to go on with."""
    what = rng.integers(6)
    if what == 0:
        return copy.deepcopy(learner)
    if what == 1:
        return pickle.loads(pickle.dumps(learner))
    if what == 2:
        learner.gradient(**call)
        learner.evaluate(**call)
    elif what > 2:
        bad = dict(call)
        name = list(bad)[rng.integers(len(bad))]
        wrong = [
            None if name != "resets" else 3, bad[name][:, :, None], bad[name][..., 1:],
            bad[name].astype(str), np.ma.masked_array(bad[name]), "x",
        ]  # fmt: skip
        bad[name] = wrong[rng.integers(len(wrong))]
        try:
            learner.run(**bad)
        except REFUSED as error:
            refusal = str(error)
        assert "\n" not in refusal
    return learner


def one_case(number: int) -> None:
    rng = np.random.default_rng(number)
    cell = cell_of(rng)
    kind, masks, dense = type(cell).__name__, cell.masks(), cell.to_dense()
    steps, batch = int(rng.integers(1, 9)), int(rng.choice([1, 2, 3, 5, 9]))
    outputs, every, rate = int(rng.integers(1, 4)), int(rng.integers(1, 5)), 0.05
    xs = rng.standard_normal((steps, batch, cell.inputs))
    targets = rng.standard_normal((steps, batch, outputs))
    resets = rng.random((steps, batch)) < rng.choice([0, 0.3])
    method: Any = [SnAp(1), SnAp(2), SnAp(3), RTRL(), RFLO(), BPTT()][rng.integers(6)]
    n = method.n if isinstance(method, SnAp) else 1 if isinstance(method, RFLO) else None
    kept = kept_of(kind, masks, n)
    if isinstance(method, BPTT):
        every, rate = steps, 0.0  # exact only where no weight changes inside
    leak_only = isinstance(method, RFLO)
    if leak_only or n == 1:  # a trace stays within its own unit
        kept = kept_of(kind, masks, 1)
    readout = Linear(outputs, seed=int(rng.integers(100)))
    options = {} if isinstance(method, BPTT) else {"update_every": every}
    learner = OnlineLearner(cell, readout, method, SGD(rate), batch=batch, threads=1, **options)
    p = learner.parameters()
    zeros = {
        name: np.zeros(shape)
        for name, shape in {
            "bias_ih": dense["weight_ih"].shape[0],
            "bias_hh": dense["weight_hh"].shape[0],
        }.items()
    }
    losses, after, total = oracle.online(
        kind, zeros | p, masks, xs, targets, kept, rate, every, leak_only, resets
    )
    whole = {"xs": xs, "targets": targets, "resets": resets}
    if isinstance(method, BPTT):
        loss, grads = learner.gradient(**whole)
        np.testing.assert_allclose(loss, losses.sum(), rtol=1e-9, atol=1e-12)
        for name, values in grads.items():
            np.testing.assert_allclose(values, total[name], rtol=1e-6, atol=1e-9, err_msg=name)
        return
    found = []
    for part in pieces(rng, steps):
        call = {name: values[part] for name, values in whole.items()}
        learner = disturb(rng, learner, whole)
        found.append(learner.run(**call))
    np.testing.assert_allclose(np.concatenate(found), losses, rtol=1e-9, atol=1e-12)
    assert learner.steps == steps
    for name, values in learner.parameters().items():
        np.testing.assert_allclose(values, after[name], rtol=1e-7, atol=1e-10, err_msg=name)


def test_random_cells_and_calls() -> None:
    for number in range(FIRST, FIRST + CASES):
        try:
            one_case(number)
        except BaseException as error:
            error.add_note(f"case {number}: SPARSEGRAD_FUZZ=1 SPARSEGRAD_FUZZ_FIRST={number}")
            raise
