"""Checkpoints: all that a learner carries, so that it goes on bit for bit as if never stopped.

Weights are stored with their places in PyTorch's dense arrays, J weight by weight on its pattern:
nothing in the file depends on how a machine's kernels lay J out.
"""

from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsegrad.cells import GRU, LSTM, RNN, Cell
from sparsegrad.kernels.cells.elementwise import rnn_relu
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.optimizers import SGD, Adam, AdamW
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import BPTT, RFLO, RTRL, UORO, SnAp
from sparsegrad.methods.snap import InfluenceEngine
from sparsegrad.system.tensorfile import read_tensors, write_tensors

_CELLS = {kind.__name__: kind for kind in (GRU, LSTM, RNN)}
_READOUTS = {kind.__name__: kind for kind in (Linear, MLP)}
_METHODS = {kind.__name__: kind for kind in (SnAp, RTRL, BPTT, UORO, RFLO)}
_OPTIMIZERS = {kind.__name__: kind for kind in (SGD, Adam, AdamW)}


def save_learner(
    learner: OnlineLearner, path: str | Path, extra: dict[str, Any] | None = None
) -> None:
    """Write a learner into a file: whole, or not at all.

    Parameters
    ----------
    learner : OnlineLearner
        With any cell, method and optimiser of this package; the cell may be the user's own.
    path : str or Path
        A safetensors file. What is there already stays until the new one is complete.
    extra : dict, optional
        What else to keep, as JSON can hold it; :func:`load_learner` returns it.

    Raises
    ------
    FloatingPointError
        If a number is not finite: a run that diverged must not replace a good checkpoint.
    OSError
        If the file cannot be written.
    """
    tensors = learner_tensors(learner)
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FloatingPointError(f"{name} must be finite to be saved, got NaN or infinity")
    cell, readout, memory = learner.cell, learner.readout, learner._memory
    about = {
        "sparsegrad": version("sparsegrad-rtrl"),
        "cell": {
            "kind": type(cell).__name__,
            "inputs": cell.inputs,
            "units": cell.units,
            "dtype": cell.dtype.name,
            "nonlinearity": "relu" if cell.kind.update is rnn_relu else "tanh",
            "names": list(cell._places),
        },
        "readout": {
            "kind": type(readout).__name__,
            "hidden": learner._parameters.hidden,
            "outputs": readout.outputs,
            "loss": readout.loss,
            "seed": readout.seed,
        },
        "method": _fields(learner.method),
        "optimizer": _fields(learner.optimizer),
        "updates": int(memory.updates[0]),
        "batch": learner.batch,
        "update_every": learner.update_every,
        "steps": learner.steps,
        "since": int(learner._streams.since[0]),
        "extra": extra or {},
    }
    write_tensors(Path(path), tensors, about)


def load_learner(
    path: str | Path, cell: Cell | None = None, threads: int | None = None
) -> tuple[OnlineLearner, dict[str, Any]]:
    """Read a learner from a file.

    Parameters
    ----------
    path : str or Path
        Written by :func:`save_learner`.
    cell : Cell, optional
        Needed for a cell of the user's own: one of the same structure, whose weights are replaced.
    threads : int, optional
        At most so many threads; default Numba's number. It changes no bit.

    Returns
    -------
    OnlineLearner
        In the state in which it was saved.
    dict
        The `extra` that was saved with it.

    Raises
    ------
    ValueError
        If the file is foreign, of another version, cut short or damaged, or needs a cell.
    OSError
        If it cannot be read.
    MemoryError
        If the influence would not fit in memory.
    """
    tensors, about = read_tensors(Path(path))
    if cell is None:
        cell = _cell(path, about["cell"], tensors)
    else:
        _take_weights(path, cell, about["cell"], tensors)
    method = _made(_METHODS, about["method"])
    learner = OnlineLearner(
        cell,
        _readout(about["readout"], tensors),
        method,
        _optimizer(about["optimizer"], tensors),
        batch=about["batch"],
        update_every=None if isinstance(method, BPTT) else about["update_every"],
        threads=threads,
    )
    learner.steps = about["steps"]
    learner._streams.since[0] = about["since"]
    learner._memory.updates[0] = about["updates"]
    _give_method(learner, tensors)
    for name, array in _carried(learner).items():
        array[...] = tensors[name]
    return learner, about["extra"]


def learner_tensors(learner: OnlineLearner) -> dict[str, NDArray[Any]]:
    """Return every array that a learner carries from step to step, by name; some are copies."""
    cell = learner.cell
    tensors = dict(learner._parameters.to_dense())
    for name, (weight, place) in cell._places.items():
        tensors[f"cell.{name}"] = cell.weights[weight]
        tensors[f"cell.{name}.place"] = place.astype(np.int64)
    if learner.optimizer.schedule is not None:
        tensors["optimizer.schedule"] = np.asarray(learner.optimizer.schedule, np.float64)
    engine = learner._engine
    if isinstance(engine, InfluenceEngine):
        for b in range(learner.batch):
            tensors[f"method.influence.{b}"] = engine.influence.to_scipy(b).data
    elif learner.method != BPTT():  # without a window nothing is carried from call to call
        for name, array in engine.arrays().items():
            tensors[f"method.{name}"] = array
    return tensors | _carried(learner)


def _carried(learner: OnlineLearner) -> dict[str, NDArray[Any]]:
    """Return the arrays that are restored in place."""
    return {
        "state": learner._streams.state,
        "pending_reset": learner._pending_reset,
        "optimizer.first": learner._memory.first,
        "optimizer.second": learner._memory.second,
        "gradient.cell": learner._learner.grad[: learner.cell.weights.size],
        "gradient.readout": learner._learner.readout_grad_flat,
    }


def _give_method(learner: OnlineLearner, tensors: dict[str, NDArray[Any]]) -> None:
    engine = learner._engine
    if isinstance(engine, InfluenceEngine):
        pattern = engine.pattern
        for b in range(learner.batch):
            data = tensors[f"method.influence.{b}"]
            engine.influence.from_scipy(
                sparse.csc_array((data, pattern.indices, pattern.indptr), pattern.shape[::-1]), b
            )
    elif learner.method != BPTT():
        for name, array in engine.arrays().items():
            array[...] = tensors[f"method.{name}"]


def _fields(settings: Any) -> dict[str, Any]:
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    values.pop("schedule", None)  # an array: stored with the others
    return {"kind": type(settings).__name__} | values


def _made(kinds: dict[str, Any], about: dict[str, Any]) -> Any:
    settings = dict(about)
    return kinds[settings.pop("kind")](**settings)


def _optimizer(about: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> SGD | Adam | AdamW:
    optimizer: SGD | Adam | AdamW = _made(
        _OPTIMIZERS, about | {"schedule": tensors.get("optimizer.schedule")}
    )
    return optimizer


def _readout(about: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Linear | MLP:
    kind = _READOUTS[about["kind"]]
    sizes: tuple[str, ...] = ("outputs",)
    arrays: tuple[str, ...] = ("weight", "bias")
    if kind is MLP:
        sizes, arrays = (*sizes, "hidden"), (*arrays, "hidden_weight", "hidden_bias")
    given: dict[str, Any] = {name: about[name] for name in (*sizes, "loss", "seed")}
    given |= {name: tensors[f"readout.{name}"] for name in arrays}
    readout: Linear | MLP = kind(**given)
    return readout


def _cell(path: str | Path, about: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Cell:
    if about["kind"] not in _CELLS:
        raise ValueError(
            f"{path} holds a {about['kind']}, a cell of your own: pass one of the same structure "
            f"as cell="
        )
    kind = _CELLS[about["kind"]]
    bare = kind(1, 1)  # knows its maps, and with them the shapes of the dense arrays
    bare.inputs, bare.units = about["inputs"], about["units"]
    dense: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    for name in about["names"]:
        shape = bare._dense_shape(name)
        place = tensors[f"cell.{name}.place"]
        dense[name], masks[name] = np.zeros(shape, about["dtype"]), np.zeros(shape, bool)
        dense[name].reshape(-1)[place] = tensors[f"cell.{name}"]
        masks[name].reshape(-1)[place] = True
    if kind is RNN:
        return RNN.from_dense(**dense, masks=masks, nonlinearity=about["nonlinearity"])
    return kind.from_dense(**dense, masks=masks)


def _take_weights(
    path: str | Path, cell: Cell, about: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> None:
    """Put the weights of a file into a cell that must have the same places for them."""
    fits = (about["kind"], about["inputs"], about["units"], about["dtype"], about["names"]) == (
        type(cell).__name__, cell.inputs, cell.units, cell.dtype.name, list(cell._places),
    )  # fmt: skip
    if not fits or any(
        not np.array_equal(place, tensors[f"cell.{name}.place"])
        for name, (_, place) in cell._places.items()
    ):
        raise ValueError(f"cell must have the structure of the one in {path}, got {cell!r}")
    for name, (weight, _) in cell._places.items():
        cell.weights[weight] = tensors[f"cell.{name}"]
