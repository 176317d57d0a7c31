"""How good is the gradient? Several methods along one and the same trajectory, step by step.

One learner trains. At every step each other method carries its own influence along the same
states and weights and says what gradient it would have given; nothing of it is used. The exact
gradient is that of RTRL along the trajectory.

For SnAp-n, of the error E = J - J̃ of its influence:

    E_t = D_t E_{t-1} + dropped_t,         dropped_t = the part of D_t J̃_{t-1} outside the pattern
    ‖E_t‖ <= ‖D_t‖ ‖E_{t-1}‖ + ‖dropped_t‖ =: e_t,     ‖D‖ <= min(‖D‖_F, √(‖D‖_1 ‖D‖_∞))
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsegrad.cells.stack import one_cell
from sparsegrad.kernels.learning.steps import Chunk
from sparsegrad.learning.chunk import check_chunk, raise_fault
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.methods import BPTT, Method, SnAp
from sparsegrad.methods.snap import influence_engine
from sparsegrad.registry import parse_method
from sparsegrad.runs.folder import marked
from sparsegrad.runs.settings import Settings
from sparsegrad.runs.step_cost import multiply_adds
from sparsegrad.system.atomic import write_whole
from sparsegrad.system.quantities import aligned
from sparsegrad.tasks import Sequences

OWN = ("passive.csv", "passive.json", "passive.png", "pareto.png")
KEYS = (
    "method", "tokens", "tensor", "steps", "cosine", "norm_ratio", "dropped_mass", "bias_bound",
    "multiply_adds",
)  # fmt: skip


class Follower:
    """A method that reads a learner's trajectory and changes nothing of it.

    Parameters
    ----------
    learner : OnlineLearner
        The one that trains.
    method : Method
    every : int
        Steps between samples of the dropped mass; only with 1 the bound is a true one, else the
        last sample stands for the steps between.
    """

    def __init__(self, learner: OnlineLearner, method: Method, every: int) -> None:
        cell, batch = one_cell(learner.cell, "an alignment"), learner.batch
        self._cell, self._method = cell, method
        self._every, self._steps = every, 0
        # rolling BPTT brings the gradient of each loss at its own step
        rolls = isinstance(method, BPTT) and method.update_every is not None
        self.window = 1 if rolls else getattr(method, "window", None) or 1
        self.bounded = isinstance(method, SnAp) and self.window == 1
        self._exact = np.zeros(cell.weights.size)
        if isinstance(method, SnAp) and self.bounded:  # n = 1 too: its traces are not on a pattern
            self._engine: Any = influence_engine(cell, method.n, batch, 1)
        else:
            self._engine = method.engine(cell, batch, 1)
        self._loop, self._streams = learner.beside(self._engine)
        self.dropped = self.bound = self.norm = 0.0  # of the first stream

    def step(self, chunk: Chunk) -> NDArray[np.float64]:
        """Follow one step; return the gradient of its loss, (weights,).

        With windows, 0 but for the last step of each, which brings that of the whole window.
        """
        before = self._influence() if self._sampled() else None
        grad = self._loop.grad
        grad[:] = 0
        raise_fault(self._engine.run(self._loop, chunk, self._streams))
        if self.bounded:
            self._bound(before, bool(chunk.resets[0, 0]))
        self._steps += 1
        return grad[: self._loop.maps.weights.size].astype(np.float64)

    def cost(self) -> float:
        """Return the multiply-adds of a step of one stream."""
        return multiply_adds(self._method, self._cell)

    def heard(self, exact: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return the exact gradient, (weights,), of what :meth:`step` has returned that of.

        None inside a window.
        """
        self._exact += exact
        if self._steps % self.window:
            return None
        whole, self._exact = self._exact, np.zeros_like(self._exact)
        return whole

    def _sampled(self) -> bool:
        return self.bounded and self._steps % self._every == 0

    def _influence(self) -> sparse.csc_array:
        return self._engine.influence.to_scipy(0).astype(np.float64)

    def _bound(self, before: "sparse.csc_array | None", reset: bool) -> None:
        """Carry the bound on, with the dropped mass where it is sampled."""
        dynamics = self._engine.dynamics().astype(np.float64)
        if reset:
            self.dropped = self.bound = 0.0
        elif before is not None:
            product = dynamics @ before
            kept = product.multiply(self._engine.pattern.to_scipy().T)
            self.dropped = float(np.linalg.norm((product - kept).data))
        self.bound = _norm_bound(dynamics) * self.bound + self.dropped
        if before is not None:
            self.norm = float(np.linalg.norm(self._influence().data))


def compare_gradients(
    settings: Settings, methods: Sequence[str], every: int = 1
) -> list[dict[str, Any]]:
    """Train by the settings, and follow the run with other methods.

    Parameters
    ----------
    settings : Settings
        Of the run that gives the trajectory; its method must update online.
    methods : sequence of str
        ``snap:n``, ``uoro``, ``rflo`` or ``rtrl``, with windows ``snap:n@T`` or ``bptt:T``, or
        ``bptt:T@1``, which rolls. The gradients of windows are compared window by window; where
        the weights change inside one, its backward pass goes by those at its end.
    every : int
        Steps between samples of the dropped mass.

    Returns
    -------
    list of dict
        A row per method, report and tensor (``all``: the whole cell) with means over the steps
        since the last report that had a loss: ``cosine`` and ``norm_ratio`` with the exact
        gradient; for SnAp-n also ``dropped_mass`` and ``bias_bound``, as parts of the norm of the
        influence, of the first stream. Of the whole cell ``multiply_adds`` of a step and stream,
        the mean over a window (`sparsegrad.runs.step_cost`).

    Raises
    ------
    ValueError
        If a method carries no influence, or a setting is wrong.
    FloatingPointError
        If the run diverges.
    """
    _check(methods, settings.method)
    task = settings.make_task()
    settings = settings.resolved(task)
    learner = settings.make_learner(task)
    names = list(dict.fromkeys(methods))
    seed = settings.seed + 1  # another draw than the run's own
    followers = {
        name: Follower(learner, parse_method(name, seed), every) for name in ["rtrl", *names]
    }
    tensors = {"all": slice(None)} | {k: weight for k, (weight, _) in learner.cell.places.items()}
    sums = {name: _Means(tensors, followers[name].cost()) for name in names}
    rows: list[dict[str, Any]] = []
    tokens, reported = 0, 0
    budget, every_report = settings.tokens or 0, settings.report or 1
    while tokens < budget:
        drawn = task.draw()
        steps = len(drawn.xs)
        if settings.update == "sequence":
            learner.update_after(steps)
        loss = _learn_and_follow(learner, drawn, followers, sums)
        task.hear(loss * learner.batch / max(drawn.weights.sum(), 1.0))
        tokens += drawn.weights.size
        if tokens // every_report > reported // every_report or tokens >= budget:
            reported = tokens
            for name in names:
                rows += [{"method": name, "tokens": tokens} | row for row in sums[name].take()]
    return rows


def _check(methods: Sequence[str], trained: str) -> None:
    """Refuse methods that cannot follow a run, or a run that no method can follow."""
    if not methods:
        raise ValueError("methods must name at least one value, got none")
    for word in (*methods, trained):
        method = parse_method(word, 0)
        if not isinstance(method, BPTT) or method.update_every is not None:
            continue
        if method.window is None or word == trained:
            raise ValueError(
                f"--passive must have methods that go forward in time or by windows, and the first "
                f"of them must train, got {word!r}"
            )


def _learn_and_follow(
    learner: OnlineLearner,
    drawn: Sequences,
    followers: dict[str, Follower],
    sums: "dict[str, _Means]",
) -> float:
    """Learn from a draw step by step, the followers one step ahead; return its summed loss."""
    losses = np.empty(len(drawn.xs))
    for t in range(losses.size):
        one = tuple(array[t : t + 1] for array in drawn)
        chunk = check_chunk(learner.cell, learner.readout, learner.batch, *one)
        exact = followers["rtrl"].step(chunk)
        for name, means in sums.items():
            follower = followers[name]
            estimate = exact if name == "rtrl" else follower.step(chunk)
            whole = follower.heard(exact)
            if whole is not None:
                means.add(whole, estimate, follower)
        losses[t] = learner.run(*one)[0]
    return float(losses.sum())


class _Means:
    """Means over the steps since the last report."""

    def __init__(self, tensors: dict[str, Any], cost: float) -> None:
        self._tensors, self._cost = tensors, cost
        self._clear()

    def add(
        self, exact: NDArray[np.float64], estimate: NDArray[np.float64], follower: Follower
    ) -> None:
        if follower.bounded and follower.norm > 0:
            self._bounds.append((follower.dropped / follower.norm, follower.bound / follower.norm))
        for name, where in self._tensors.items():
            one, two = exact[where], estimate[where]
            size, other = np.linalg.norm(one), np.linalg.norm(two)
            if size > 0:  # a step without a loss has no gradient to compare
                cosine = float(one @ two / (size * other)) if other > 0 else 0.0
                self._pairs[name].append((cosine, float(other / size)))

    def take(self) -> list[dict[str, Any]]:
        rows = []
        for name, pairs in self._pairs.items():
            if not pairs:
                continue
            cosine, ratio = np.mean(pairs, axis=0)
            row = {"tensor": name, "steps": len(pairs), "cosine": cosine, "norm_ratio": ratio}
            if name == "all":
                row["multiply_adds"] = self._cost
            if name == "all" and self._bounds:
                dropped, bound = np.mean(self._bounds, axis=0)
                row |= {"dropped_mass": dropped, "bias_bound": bound}
            rows.append({k: v if isinstance(v, str | int) else float(v) for k, v in row.items()})
        self._clear()
        return rows

    def _clear(self) -> None:
        self._pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in self._tensors}
        self._bounds: list[tuple[float, float]] = []


def _norm_bound(matrix: sparse.csr_array) -> float:
    """Return an upper bound of the spectral norm."""
    size = abs(matrix)
    by_sums = np.sqrt(size.sum(axis=0).max() * size.sum(axis=1).max())
    return float(min(np.linalg.norm(matrix.data), by_sums))


def passive_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the means over the run as a table, a line per method."""
    lines = [["method", "cosine", "norm ratio", "dropped mass", "bias bound", "multiply-adds"]]
    for method in dict.fromkeys(row["method"] for row in rows):
        whole = [row for row in rows if (row["method"], row["tensor"]) == (method, "all")]
        line = [method]
        for key in ("cosine", "norm_ratio", "dropped_mass", "bias_bound", "multiply_adds"):
            values = [row[key] for row in whole if key in row]
            line.append(f"{np.mean(values):.4g}" if values else "-")
        lines.append(line)
    return "".join(f"{line}\n" for line in aligned(lines))


def write_passive(folder: Path, settings: Settings, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Write passive.csv and passive.json, each whole.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, KEYS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    content = marked({"settings": settings.as_dict(), "rows": list(rows)})
    write_whole(folder / "passive.csv", text.getvalue().encode())
    write_whole(folder / "passive.json", (json.dumps(content) + "\n").encode())
    return [folder / "passive.csv", folder / "passive.json"]
