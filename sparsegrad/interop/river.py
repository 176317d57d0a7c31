"""Recurrent nets as river's estimators: a regressor and a classifier that learn with every example.

    model = StandardScaler() | RecurrentClassifier(units=32)
    for x, y in stream:
        guess = model.predict_one(x)
        model.learn_one(x, y)

An example is a time step: the state goes on with `learn_one`, and `predict_one` looks ahead from
it and changes nothing. Each feature is a column of the input; one that is missing is 0. One that
comes later gets a spare column, whose weights are 0; where none is left, the learner gets twice as
many (`sparsegrad.learning.growth`) and J begins anew.
"""

import pickle
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.learning.growth import grow
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.readout import Linear
from sparsegrad.registry import CELLS, OPTIMIZERS, listed, parse_method
from sparsegrad.system.checks import flag, integer, real

try:
    from river import base
except ImportError:
    raise ImportError(
        "estimators for river need river, which is not installed: "
        'pip install "sparsegrad-rtrl[river]"'
    ) from None

DTYPE = np.dtype(np.float32)
LARGEST = float(np.finfo(DTYPE).max)
ADVICE = "encode or impute it before, as by river.preprocessing.OneHotEncoder, or leave it out"


@dataclass(frozen=True)
class _Target:
    """The feature that a target is in the step after it: itself, or its class."""

    label: Hashable = None


class _Recurrent(base.Estimator):
    """What regressor and classifier share: parameters, the columns of the features, the learner."""

    def __init__(
        self,
        cell: str = "gru",
        units: int = 32,
        sparsity: float = 0.0,
        method: str = "snap:1",
        optimizer: str = "adam",
        rate: float = 0.01,
        clip: float = 1.0,
        autoregressive: bool = True,
        seed: int = 0,
    ) -> None:
        for name, word, rows in (("cell", cell, CELLS), ("optimizer", optimizer, OPTIMIZERS)):
            if word not in rows:
                raise ValueError(f"{name} must be {listed(rows)}, got {word!r}")
        found = parse_method(method, integer("seed", seed, least=0))
        if (getattr(found, "window", 1) or 1) > 1 or found.__class__.__name__ == "BPTT":
            raise ValueError(
                f"method must learn at every step, as snap:1, rtrl, uoro or rflo do, got {method!r}"
            )
        self.cell, self.method, self.optimizer, self.seed = cell, method, optimizer, seed
        self.units = integer("units", units, least=1)
        self.sparsity = real("sparsity", sparsity, 0.0, below=1.0)
        self.rate = real("rate", rate, above=0.0)
        self.clip = real("clip", clip, least=0.0)
        self.autoregressive = flag("autoregressive", autoregressive)
        self._learner: OnlineLearner | None = None
        self._columns: dict[Hashable, int] = {}
        self._past: dict[Hashable, float] = {}  # the target learned last, as features

    @property
    def learner(self) -> OnlineLearner | None:
        """The learner behind; None before the first example."""
        return self._learner

    @property
    def _raw_memory_usage(self) -> int:
        """Bytes that the model carries; river's own walk goes on into Numba and fails there."""
        return len(pickle.dumps(self))

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {"units": 8}

    def _learn(
        self,
        x: Mapping[Any, Any],
        target: Any,
        past: dict[Hashable, float],
        loss: str,
        outputs: int = 1,
    ) -> None:
        """Learn from an example; `past` is what the next one sees of its target."""
        values = _values(x) | self._past
        if self._learner is None:
            values |= dict.fromkeys(past if self.autoregressive else (), 0.0)
        columns = self._columns | {
            name: len(self._columns) + k
            for k, name in enumerate(sorted(values.keys() - self._columns.keys(), key=_order))
        }
        if self._learner is None:
            self._learner = self._new_learner(max(1, len(columns)), loss)
        learner = self._learner
        inputs = learner.cell.inputs
        if len(columns) > inputs or outputs > learner.readout.outputs:
            inputs = max(len(columns), 2 * inputs) if len(columns) > inputs else inputs
            self._learner = learner = grow(learner, inputs, outputs, threads=1)
        self._columns = columns
        learner.run(self._row(values), target)
        self._past = past if self.autoregressive else {}

    def _ahead(self, x: Mapping[Any, Any]) -> NDArray[np.floating] | None:
        """Return what the next step would score, (outputs,); None before the first example."""
        values = _values(x) | self._past
        return None if self._learner is None else self._learner.predict(self._row(values))[0]

    def _row(self, values: Mapping[Hashable, float]) -> NDArray[Any]:
        """Return an example as the learner's input, (1, inputs); without a column it counts 0."""
        learner = self._learner
        row = np.zeros((1, learner.cell.inputs if learner else 0), DTYPE)
        for name, value in values.items():
            column = self._columns.get(name)
            if column is not None:
                row[0, column] = value
        return row

    def _new_learner(self, inputs: int, loss: str) -> OnlineLearner:
        seeds = [int(s) for s in np.random.SeedSequence(self.seed).generate_state(3)]
        cell = CELLS[self.cell].load()(
            inputs, self.units, sparsity=self.sparsity, input_sparsity=0.0, seed=seeds[0],
            dtype=DTYPE,
        )  # fmt: skip
        optimizer = OPTIMIZERS[self.optimizer].load()(self.rate, clip=self.clip or None)
        method = parse_method(self.method, seeds[2])
        readout = Linear(1, loss, seed=seeds[1])
        return OnlineLearner(cell, readout, method, optimizer, threads=1)


class RecurrentRegressor(_Recurrent, base.Regressor):
    """A recurrent net that predicts a number and learns with every example.

    Features and targets are taken as they are: put a scaler such as
    ``river.preprocessing.StandardScaler`` before it, and ``TargetStandardScaler`` around it.

    Parameters
    ----------
    cell : str
        A row of `sparsegrad.registry.CELLS`: ``gru``, ``lstm``, ``rnn``, …
    units : int
        State units.
    sparsity : float
        Part of the recurrent weights that do not exist, in [0, 1).
    method : str
        As on the command line: ``snap:1``, ``snap:2``, ``rtrl``, ``uoro``, ``rflo``.
    optimizer : str
        A row of `sparsegrad.registry.OPTIMIZERS`: ``adam``, ``sgd``, …
    rate : float
        Learning rate.
    clip : float
        Largest norm of a gradient; 0: any.
    autoregressive : bool
        Whether the target that was learned last is an input too.
    seed : int
        Of weights, masks and method.

    Attributes
    ----------
    learner : OnlineLearner or None
        The learner behind it; None before the first example.

    Raises
    ------
    TypeError, ValueError
        If a parameter is out of range, or a feature or a target no finite number; nothing is
        learned from such an example.
    FloatingPointError
        If the net diverges, as `OnlineLearner.run` has it.
    """

    def learn_one(self, x: dict[Any, Any], y: float) -> None:
        """Learn from an example, and go on to the next step."""
        target = _number("y", y, "")
        self._learn(x, [[target]], {_Target(): target}, "squared_error")

    def predict_one(self, x: dict[Any, Any]) -> float:
        """Return what is predicted for the next example; 0 before the first. Change nothing."""
        found = self._ahead(x)
        return 0.0 if found is None else float(found[0])


class RecurrentClassifier(_Recurrent, base.Classifier):
    """A recurrent net that predicts a class and learns with every example; classes may come.

    A class that comes has a logit of 0 before it is learned from.

    Parameters
    ----------
    cell, units, sparsity, method, optimizer, rate, clip, autoregressive, seed
        As in :class:`RecurrentRegressor`; the last target is an input for each class.

    Attributes
    ----------
    learner : OnlineLearner or None
        The learner behind it; None before the first example.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As for :class:`RecurrentRegressor`; a class is anything that can be a dictionary's key.
    """

    _multiclass = True
    _classes: Mapping[Hashable, int] = MappingProxyType({})  # each that comes makes another one

    def learn_one(self, x: dict[Any, Any], y: Hashable) -> None:
        """Learn from an example, and go on to the next step."""
        if not isinstance(y, Hashable) or y is None or y != y:
            raise TypeError(f"y must be a class such as a word, a number or True, got {y!r}")
        classes = {**self._classes, y: self._classes.get(y, len(self._classes))}
        self._learn(x, [classes[y]], {_Target(y): 1.0}, "cross_entropy", len(classes))
        self._classes = classes

    def predict_proba_one(self, x: dict[Any, Any]) -> dict[Any, float]:
        """Return the probability of each class seen so far; none before the first. Change nothing.

        What the next step would score, as its float32 numbers are in float64, of sum 1.
        """
        found = self._ahead(x)
        if found is None:
            return {}
        probabilities = found[: len(self._classes)].astype(np.float64)
        return dict(zip(self._classes, (probabilities / probabilities.sum()).tolist(), strict=True))


def _values(x: Mapping[Any, Any]) -> dict[Hashable, float]:
    if not isinstance(x, Mapping):
        raise TypeError(f"x must be a dict of features, got {type(x).__name__}")
    return {name: _number(f"feature {name!r}", value, f"; {ADVICE}") for name, value in x.items()}


def _number(name: str, value: Any, hint: str) -> float:
    """Return a number that float32 has, or rounds."""
    if isinstance(value, Real | np.bool_) and abs(number := float(value)) <= LARGEST:
        return number
    raise (ValueError if isinstance(value, Real) else TypeError)(
        f"{name} must be a finite number in float32, got {value!r}{hint}"
    )


def _order(name: Hashable) -> tuple[str, str]:
    """Order names of any kinds, so that the order in which they come says nothing."""
    return type(name).__name__, repr(name)
