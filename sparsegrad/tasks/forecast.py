"""A stream of rows to be predicted: scaled as it goes, scored honestly, in the user's own units.

Row t makes known the targets of the steps up to t. With horizons up to H, step t - H is complete
then and is learned from; the forecast from row t is made after that, by the learner's state led on
through the H rows behind that step. So no forecast of y[t + h] rests on anything that came after
row t: not in its inputs, nor in its units, nor in the weights.
"""

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsegrad.system.checks import float_type, integer
from sparsegrad.system.schema import anything, flag, listed, maybe, number, record, whole
from sparsegrad.tasks.scaling import FARTHEST, LARGEST, Scaling, Steps
from sparsegrad.tasks.scores import Scores
from sparsegrad.tasks.sequences import Sequences

MOST_AHEAD = 100_000
"""Rows: what a forecast costs grows with them."""


class Learner(Protocol):
    """What a forecast needs of an :class:`sparsegrad.OnlineLearner`."""

    def run(self, xs: Any, targets: Any, weights: Any, resets: Any, *, outputs: Any) -> Any:
        """Learn, and return losses and outputs."""

    def follow(self, xs: Any, resets: Any) -> Any:
        """Go on without learning."""

    def predict(self, xs: Any, resets: Any) -> Any:
        """Return the outputs of steps ahead."""


class Forecast:
    """Rows of a stream as a learner takes them, and its outputs as the user reads them.

    Parameters
    ----------
    columns : int
        Numbers in a row.
    targets : sequence of int
        The columns to be predicted.
    inputs : sequence of int, optional
        The columns to predict by. Default: all; with a horizon of 0 all but the targets.
    horizon : int or sequence of int
        How many rows ahead; several are predicted at once. 0: by the inputs of the same row.
    scale : {"online", "none"}
        ``online``: inputs count in running deviations from their running mean. A target ahead that
        is an input too is learned as its change from the last value, in units of the root mean
        square of such changes so far; any other in running deviations from its running mean.
    missing : {"refuse", "hold", "mask"}
        What NaN does: it is an error; an input keeps its last value; an input is left out (0, its
        mean where it is scaled). A step that lacks one of its targets is followed, not learned.
    batch : int
        Streams side by side, of one scale.
    dtype : {"float32", "float64"}
        Of the learner's cell.

    Attributes
    ----------
    inputs, outputs : int
        What the cell and the readout must have. Outputs are by horizon, then by target.
    columns : int
    horizons : tuple of int
    lag : int
        The largest of them: so many rows a step waits for its targets.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or a target of the same row is an input.
    """

    def __init__(
        self,
        columns: int,
        targets: Sequence[int],
        inputs: Sequence[int] | None = None,
        horizon: int | Sequence[int] = 1,
        scale: str = "online",
        missing: str = "refuse",
        batch: int = 1,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.columns = columns = integer("columns", columns, least=1)
        self.batch, self._dtype = integer("batch", batch, least=1), float_type(dtype)
        self.horizons = _horizons(horizon)
        aims = _places("targets", targets, columns)
        known = min(self.horizons) > 0
        sources = _places(
            "inputs",
            [k for k in range(columns) if known or k not in aims] if inputs is None else inputs,
            columns,
        )
        if not known and {*aims} & {*sources}:
            raise ValueError(
                f"inputs must leave out the targets of their own row, got {list(sources)}: "
                "predict ahead, or by other columns"
            )
        _one_of("scale", scale, ("online", "none"))
        _one_of("missing", missing, ("refuse", "hold", "mask"))
        self._refuse, self._scaled = missing == "refuse", scale == "online"
        self._targets = len(aims)
        self.inputs, self.lag = len(sources), max(self.horizons)
        self.outputs = len(self.horizons) * len(aims)
        self._used = sorted({*sources, *aims})
        self._scaling = Scaling(
            columns, sources, aims, self.horizons, self._scaled, missing == "hold", self._dtype
        )
        self._total, self._recent = (Scores(self.horizons, len(aims)) for _ in range(2))
        self.begin()

    def begin(self) -> None:
        """Begin a new sequence: what waits goes; units and scores stay."""
        self._held = np.full((self.batch, self.columns), np.nan)
        self._fresh = True
        none = Steps(*(np.empty((0, *shape)) for shape in self._shapes()))
        self._waiting = none._replace(xs=none.xs.astype(self._dtype))
        self._made = np.empty((0, self.batch, self.outputs), self._dtype)

    def go_on(self) -> None:
        """Take what waits as steps of a sequence that began before."""
        self._fresh = False

    def step(self, learner: Learner, row: NDArray[Any]) -> NDArray[np.float64]:
        """Learn what a row makes known, and predict from it.

        Parameters
        ----------
        learner : OnlineLearner
        row : float array, (columns,) or (batch, columns)
            NaN where a value is missing.

        Returns
        -------
        float64 array, (horizons, targets) or (batch, horizons, targets)
            In the units of the rows; NaN where nothing has been seen to go by.

        Raises
        ------
        ValueError
            If the row has another shape, an infinite value, or a missing one that is refused;
            nothing has changed then.
        FloatingPointError
            If the learner diverges.
        """
        found: NDArray[np.float64] = self.run(learner, np.asarray(row, np.float64)[None])[0]
        return found

    def run(self, learner: Learner, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Do so for T rows, one after the other; to the bit what T calls of :meth:`step` do.

        Parameters
        ----------
        learner : OnlineLearner
        rows : float array, (T, columns) or (T, batch, columns)

        Returns
        -------
        float64 array, (T, horizons, targets) or (T, batch, horizons, targets)
            What was predicted from each row, before the next one was looked at.

        Raises
        ------
        ValueError, FloatingPointError
            As for :meth:`step`.
        """
        given = np.asarray(rows, np.float64)
        alone = given.ndim == 2 and self.batch == 1
        given = given[:, None] if alone else given
        before = len(self._waiting.xs)
        steps, drawn = self.take(given)
        done = self.learn(learner, steps, drawn)[2]
        found = np.concatenate([done, self.ahead(learner, steps, drawn)])[before:]
        return found[:, 0] if alone else found

    def report(self) -> dict[str, float]:
        """Return RMSE, MAE and nRMSE of all forecasts whose values came, and of two baselines.

        ``rmse``, ``rmse_persistence`` (by the last value), ``rmse_mean`` (by the running mean), and
        so of ``mae`` and ``nrmse``; with several horizons ``rmse_5``, ``rmse_5_persistence``, …
        """
        return self._total.report()

    @property
    def scored(self) -> int:
        """Forecasts whose values came."""
        return self._total.count

    def recent(self) -> dict[str, float]:
        """Return the same of what was scored since this was last called."""
        found = self._recent.report()
        self._recent = Scores(self.horizons, self._targets)
        return found

    def take(self, rows: NDArray[np.float64], learning: bool = True) -> tuple[Steps, Sequences]:
        """Take rows; return the steps that waited and theirs, and those of them that are complete.

        Parameters
        ----------
        rows : float64 array, (T, batch, columns)
        learning : bool
            Whether the units go on with these rows, or stay as they are.

        Raises
        ------
        ValueError
            As for :meth:`step`.
        """
        rows = self._check(rows)
        new = self._scaling.steps(rows, self._held, self._waiting.held, learning)
        if len(rows):
            held = rows[-1]
            self._held[:, :] = np.where(np.isnan(held), self._held, held)
        steps = self._waiting.and_then(new)
        count = max(0, len(steps.xs) - self.lag)
        self._waiting = steps.part(count)
        drawn = self._sequences(steps, count)
        self._fresh = self._fresh and not count
        return steps, drawn

    def learn(
        self, learner: Learner, steps: Steps, drawn: Sequences
    ) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any]]:
        """Learn what :meth:`take` returned; return losses, what came, and what was predicted.

        Raises
        ------
        FloatingPointError
            If the learner diverges.
        """
        count = len(drawn.xs)
        if self.lag > 1:
            losses, outputs = _step_by_step(
                learner, steps.xs, drawn, self._made, self.lag, self._fresh
            )
            self._made = outputs[count:]
        else:
            losses, outputs = _by_weight(learner, drawn)
        complete, truth = steps.part(0, count), self._truth(steps, count)
        predicted = self.in_units(complete, outputs[:count])
        for scores in (self._total, self._recent):
            scores.add(truth, (predicted, complete.last, complete.mean))
        return losses, truth, predicted

    def ahead(self, learner: Learner, steps: Steps, drawn: Sequences) -> NDArray[np.float64]:
        """Return what is predicted from the steps that wait, once the others were learned."""
        waiting, made = steps.part(len(drawn.xs)), self._made
        if len(made) < len(waiting.xs):  # a horizon of 1: the forecast from the last row
            made = learner.predict(waiting.xs, _resets(waiting.xs, self._fresh))
        return self.in_units(waiting, made)

    def in_units(self, steps: Steps, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Return outputs of some steps in the units of the rows, (T, batch, horizons, targets)."""
        base = self._scaling.base(steps)
        found: NDArray[np.float64] = base + steps.unit * outputs.reshape(base.shape)
        return found

    def state(self) -> dict[str, Any]:
        """Return all that it carries, as JSON can hold it."""
        return {
            "scaling": self._scaling.state(),
            "total": self._total.state(),
            "recent": self._recent.state(),
            "fresh": self._fresh,
            "waiting": len(self._waiting.xs),
            "made": len(self._made),
            "arrays": {name: _plain(array) for name, array in self._arrays().items()},
        }

    def go_to(self, state: Any, where: str = "state") -> None:
        """Go on from :meth:`state`.

        Raises
        ------
        ValueError
            If it is none of such a forecast.
        """
        few = whole(0, self.lag)
        rules = {"scaling": anything, "total": anything, "recent": anything, "fresh": flag,
                 "waiting": few, "made": few, "arrays": anything}  # fmt: skip
        state = record(rules)(where, state)
        waiting, made = state["waiting"], state["made"]
        shapes = [(waiting, *shape) for shape in self._shapes()]
        shapes += [(made, self.batch, self.outputs), self._held.shape]
        arrays = [np.empty(shape) for shape in shapes]
        names = [*Steps._fields, "made", "seen"]
        lists = {n: listed(maybe(number()), a.size) for n, a in zip(names, arrays, strict=True)}
        values = record(lists)(f"{where}.arrays", state["arrays"])
        for name, array in zip(names, arrays, strict=True):
            read = [np.nan if value is None else value for value in values[name]]
            array[...] = np.reshape(read, array.shape)
        parts = []
        for name in ("scaling", "total", "recent"):  # all of them, or none
            part = copy.deepcopy(getattr(self, f"_{name}"))
            part.go_to(state[name], f"{where}.{name}")
            parts.append(part)
        self._scaling, self._total, self._recent = parts
        self._waiting, self._held = Steps(*arrays[:-2]), arrays[-1]
        self._waiting = self._waiting._replace(xs=self._waiting.xs.astype(self._dtype))
        self._made, self._fresh = arrays[-2].astype(self._dtype), state["fresh"]

    def go_by(self, state: Any, where: str = "state") -> None:
        """Take the units alone from a state of another number of streams.

        Raises
        ------
        ValueError
            If it is none.
        """
        self._scaling.go_to(state.get("scaling") if type(state) is dict else state, where)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return self._waiting._asdict() | {"made": self._made, "seen": self._held}

    def _shapes(self) -> list[tuple[int, ...]]:
        """Shapes of a step's parts, as `Steps` has them."""
        each = self.batch, len(self.horizons), self._targets
        return [(self.batch, self.inputs)] + [(self.batch, self._targets)] * 2 + [each] * 3

    def _check(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return rows with the columns alone that are used."""
        if rows.ndim != 3 or rows.shape[1:] != (self.batch, self.columns):
            raise ValueError(
                f"rows must have {self.columns} columns and {self.batch} streams, got an array of "
                f"shape {rows.shape}"
            )
        used = rows[..., self._used]
        if self._refuse and np.isnan(used).any():
            raise ValueError("rows must be whole, got NaN: missing='hold' or 'mask' takes it")
        if (np.abs(used) > LARGEST).any():
            raise ValueError(f"rows must hold numbers up to {LARGEST:g}, got larger ones")
        whole_rows = np.full(rows.shape, np.nan)
        whole_rows[..., self._used] = used
        return whole_rows

    def _truth(self, steps: Steps, count: int) -> NDArray[Any]:
        return np.stack([steps.y[h : h + count] for h in self.horizons], axis=2)

    def _sequences(self, steps: Steps, count: int) -> Sequences:
        """Return the complete steps as a learner takes them."""
        truth, complete = self._truth(steps, count), steps.part(0, count)
        there = ~np.isnan(truth) & (complete.unit > 0)
        aims = truth
        if self._scaled:
            unit = np.where(complete.unit > 0, complete.unit, 1)
            aims = np.clip((truth - self._scaling.base(complete)) / unit, -FARTHEST, FARTHEST)
        weights = there.all(axis=(2, 3)).astype(self._dtype)
        aims = np.where(np.isnan(aims), 0, aims).astype(self._dtype)
        resets = np.zeros((count, self.batch), bool)
        resets[:1] = self._fresh
        return Sequences(
            complete.xs, aims.reshape(count, self.batch, self.outputs), weights, resets
        )


def _by_weight(learner: Learner, drawn: Sequences) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Learn steps, and follow those of which none is scored; return losses and outputs."""
    scored = np.asarray(drawn.weights.any(axis=1))
    if scored.all() and len(scored):
        found: tuple[NDArray[np.float64], NDArray[Any]] = learner.run(*drawn, outputs=True)
        return found
    losses, outputs = np.zeros(len(scored)), np.zeros_like(drawn.targets)
    cuts = np.flatnonzero(np.diff(scored)) + 1
    for part in np.split(np.arange(len(scored)), cuts) if len(scored) else []:
        here = slice(part[0], part[-1] + 1)
        one = Sequences(*(array[here] for array in drawn))
        if scored[part[0]]:
            losses[here], outputs[here] = learner.run(*one, outputs=True)
        else:
            outputs[here] = learner.follow(one.xs, one.resets)
    return losses, outputs


def _step_by_step(
    learner: Learner,
    xs: NDArray[Any],
    drawn: Sequences,
    made: NDArray[Any],
    lag: int,
    fresh: bool,
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Learn the complete steps, and predict each row after the one that it completes.

    Parameters
    ----------
    learner : Learner
    xs : float array, (complete + waiting, batch, inputs)
    drawn : Sequences
        The complete steps.
    made : float array, (some, batch, outputs)
        What was predicted from the first of `xs`.
    lag : int
    fresh : bool
        Whether a sequence begins with the first of `xs`, and none of its steps was learned.

    Returns
    -------
    float64 array, (complete,)
        Losses.
    float array, (complete + waiting, batch, outputs)
    """
    ahead, count, known = min(lag, len(xs)), len(drawn.xs), len(made)
    outputs = np.empty((len(xs), *drawn.targets.shape[1:]), xs.dtype)
    outputs[:known] = made
    if known < ahead:
        resets = _resets(xs[:ahead], fresh or bool(drawn.resets.any()))
        outputs[known:ahead] = learner.predict(xs[:ahead], resets)[known:]
    losses = np.zeros(count)
    for t in range(count):
        losses[t : t + 1], _ = _by_weight(learner, Sequences(*(a[t : t + 1] for a in drawn)))
        behind = xs[t + 1 : t + 1 + lag]
        outputs[t + lag] = learner.predict(behind, _resets(behind, False))[-1]
    return losses, outputs


def _resets(xs: NDArray[Any], first: bool) -> NDArray[np.bool_]:
    resets = np.zeros(xs.shape[:2], bool)
    resets[:1] = first
    return resets


def _horizons(horizon: int | Sequence[int]) -> tuple[int, ...]:
    given = [horizon] if isinstance(horizon, int) else list(horizon)
    found = tuple(integer("horizon", h, least=0, most=MOST_AHEAD) for h in given)
    if not found or len({*found}) < len(found):
        raise ValueError(f"horizon must be numbers of rows, each once, got {horizon!r}")
    return found


def _places(name: str, columns: Sequence[int], most: int) -> tuple[int, ...]:
    found = tuple(integer(name, column, least=0, most=most - 1) for column in columns)
    if not found or len({*found}) < len(found):
        raise ValueError(f"{name} must be columns, one at least, each once, got {list(columns)}")
    return found


def _one_of(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}, got {value!r}")


def _plain(array: NDArray[Any]) -> list[float | None]:
    """Return numbers as JSON has them: null for NaN."""
    return [None if value != value else value for value in array.ravel().tolist()]
