"""Checkpoints: all that a learner carries, so that it goes on bit for bit as if never stopped.

Weights are stored with their places in PyTorch's dense arrays, J weight by weight on its pattern:
nothing in the file depends on how a machine's kernels lay J out.
"""

import math
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import NAMES, Cell
from sparsegrad.cells.stack import Stack
from sparsegrad.influence.storage import WORDS
from sparsegrad.learning.losses import LOSSES
from sparsegrad.learning.optimizers import Optimizer
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import BPTT, Method
from sparsegrad.registry import CELLS, METHODS, OPTIMIZERS, type_of
from sparsegrad.system.memory import require_memory
from sparsegrad.system.schema import (
    Rule,
    anything,
    flag,
    listed,
    mapping,
    maybe,
    number,
    record,
    refuse,
    require_array,
    whole,
    word,
)
from sparsegrad.system.tensorfile import read_tensors, write_tensors

_READOUTS = {kind.__name__: kind for kind in (Linear, MLP)}
_COUNTS = ("steps", "updates", "since")
_TAKEN = ("cell.", "readout.", "optimizer.schedule")
"""Arrays of a file that are taken into cell, readout and optimiser; the others are carried."""
SEED = whole(0, 2**128)
SETTINGS: dict[str, Rule] = {
    "n": whole(1),
    "window": maybe(whole(1)),
    "update_every": maybe(whole(1)),
    "memory": maybe(whole(1)),
    "storage": maybe(word(*WORDS)),
    "seed": SEED,
    "rate": number(0),
    "momentum": number(0),
    "beta1": number(0),
    "beta2": number(0),
    "alpha": number(0),
    "epsilon": number(0),
    "weight_decay": number(0),
    "clip": maybe(number(0)),
    "schedule": whole(),
}
"""What a field of a method or an optimiser may be; the class itself knows its ranges closer."""
LATER: dict[str, set[str]] = {
    "SnAp": {"window", "memory", "storage"},
    "RTRL": {"window", "storage"},
    "RFLO": {"window"},
    "UORO": {"window"},
    "BPTT": {"update_every"},
}
"""Fields by class that came after the first files of this version, whose default they mean."""


def _settings(kinds: Callable[[str], Any]) -> Rule:
    """Return the rule of a method's or an optimiser's settings: its kind, and all its fields."""

    def rule(where: str, value: Any) -> Any:
        kind = value.get("kind") if isinstance(value, dict) else None
        found = kinds(kind) if isinstance(kind, str) else None
        if found is None:
            refuse(f"{where}.kind", "the name of a class of sparsegrad", kind)
        names = {field.name for field in fields(found)}
        left_out = (LATER.get(str(kind), set()) | {"schedule"}) - value.keys()
        rules = {name: SETTINGS[name] for name in names - left_out}
        return record({"kind": word(), **rules})(where, value)

    return rule


def _about_net(where: str, value: Any) -> Any:
    """Take what is said of a cell or a stack."""
    if isinstance(value, dict) and value.get("kind") == Stack.__name__:
        return _ABOUT_STACK(where, value)
    return _about_cell(where, value)


def _about_cell(where: str, value: Any) -> Any:
    """Take what is said of a cell; its options are looked at by the cell itself."""
    rules = {
        "kind": word(), "inputs": whole(1, 2**31), "units": whole(1, 2**31),
        "dtype": word("float32", "float64"), "names": listed(word()),
    }  # fmt: skip
    if not isinstance(value, dict):
        refuse(where, "a record", value)
    kind = type_of(CELLS, value["kind"]) if isinstance(value.get("kind"), str) else None
    options = value.keys() - rules.keys() if kind is None else kind(1, 1).options().keys()
    # every cell of 0.1.0 had the nonlinearity of the vanilla one
    options |= value.keys() & {"nonlinearity"}
    return record(rules | dict.fromkeys(options, anything))(where, value)


_ABOUT_STACK = record({
    "kind": word(), "inputs": whole(1, 2**31), "units": whole(1, 2**31),
    "dtype": word("float32", "float64"), "names": listed(word()),
    "delay": flag, "across": flag, "layers": listed(_about_cell),
})  # fmt: skip
_ABOUT = record({
    "sparsegrad": word(),
    "cell": _about_net,
    "readout": record({
        "kind": word(*_READOUTS), "hidden": whole(0, 2**31), "outputs": whole(1, 2**31),
        "loss": word(*LOSSES), "seed": SEED,
    }),
    "method": _settings(lambda kind: type_of(METHODS, kind)),
    "optimizer": _settings(lambda kind: type_of(OPTIMIZERS, kind)),
    "batch": whole(1, 2**31),
    "update_every": whole(1),
    "steps": whole(),
    "updates": whole(),
    "since": whole(),
    "extra": mapping(anything),
})  # fmt: skip
"""What a checkpoint says beside its arrays."""


class Checkpoint(NamedTuple):
    """All that a learner carries: `OnlineLearner.checkpoint` makes one, `from_checkpoint` takes it.

    Attributes
    ----------
    cell, readout, method, optimizer, batch, update_every
        As of the learner; the cell has its weights, the readout has them as its initial ones.
    arrays : dict of arrays
        What is carried from step to step, by name.
    counts : dict of int
        ``steps`` learned from, ``updates`` made, steps ``since`` the last one.
    extra : dict
        Whatever JSON can hold.
    source : str
        Where it comes from, for messages.
    """

    cell: Cell | Stack
    readout: Linear | MLP
    method: Method
    optimizer: Optimizer
    batch: int
    update_every: int
    arrays: dict[str, NDArray[Any]]
    counts: dict[str, int]
    extra: dict[str, Any]
    source: str = "the checkpoint"

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return every array of the checkpoint by its name in the file."""
        tensors = {
            f"readout.{field.name}": getattr(self.readout, field.name)
            for field in fields(self.readout)
            if isinstance(getattr(self.readout, field.name), np.ndarray)
        }
        for name, (weight, place) in self.cell.places.items():
            tensors[f"cell.{name}"] = self.cell.weights[weight]
            tensors[f"cell.{name}.place"] = place.astype(np.int64)
        if self.optimizer.schedule is not None:
            tensors["optimizer.schedule"] = np.asarray(self.optimizer.schedule, np.float64)
        return tensors | self.arrays


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into a file: whole, or not at all.

    Parameters
    ----------
    path : str or Path
        A safetensors file. What is there already stays until the new one is complete.
    checkpoint : Checkpoint
        With any cell, method and optimiser of this package; the cell may be the user's own.

    Raises
    ------
    TypeError
        If the loss is a function of one's own.
    FloatingPointError
        If a number is not finite: a run that diverged must not replace a good checkpoint.
    OSError
        If the file cannot be written.
    """
    tensors = checkpoint.tensors()
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FloatingPointError(f"{name} must be finite to be saved, got NaN or infinity")
    cell, readout = checkpoint.cell, checkpoint.readout
    if not isinstance(readout.loss, str):
        raise TypeError(
            f"the loss must be one of {sorted(LOSSES)} in a file, got a function of your own: "
            "keep what parameters() returns"
        )
    about = {
        "sparsegrad": version("sparsegrad-rtrl"),
        "cell": _described(cell),
        "readout": {
            "kind": type(readout).__name__,
            "hidden": _number(readout.hidden) if isinstance(readout, MLP) else 0,
            "outputs": _number(readout.outputs),
            "loss": readout.loss,
            "seed": _number(readout.seed),
        },
        "method": _fields(checkpoint.method),
        "optimizer": _fields(checkpoint.optimizer),
        "batch": checkpoint.batch,
        "update_every": checkpoint.update_every,
        **checkpoint.counts,
        "extra": checkpoint.extra,
    }
    write_tensors(Path(path), tensors, about)


def _described(cell: Cell | Stack) -> dict[str, Any]:
    """Return what a file says of a cell or a stack beside its weights."""
    about = {
        "kind": type(cell).__name__,
        "inputs": cell.inputs,
        "units": cell.units,
        "dtype": cell.dtype.name,
        "names": list(cell.places),
    }
    about |= {name: _number(value) for name, value in cell.options().items()}
    return about | {"layers": [*map(_described, cell.layers)]} if isinstance(cell, Stack) else about


def read_checkpoint(path: str | Path, cell: Cell | Stack | None = None) -> Checkpoint:
    """Read a checkpoint from a file.

    Parameters
    ----------
    path : str or Path
        Written by :func:`write_checkpoint`.
    cell : Cell or Stack, optional
        Needed for a cell of the user's own: one of the same structure, whose weights are replaced.

    Raises
    ------
    ValueError
        If the file is foreign, of another version, cut short or damaged, needs a cell, or does not
        hold exactly what a checkpoint does: the message names the file and the field.
    OSError
        If it cannot be read.
    MemoryError
        If it would not fit in memory.
    """
    tensors, about = read_tensors(Path(path))
    about = _ABOUT(f"{path}:", about)
    shape, dtype = about["cell"], np.dtype(about["cell"]["dtype"])
    try:
        readout = _readout(path, about["readout"], shape["units"], dtype, tensors)
        optimizer = _optimizer(path, about["optimizer"], tensors)
        method = _made(type_of(METHODS, about["method"]["kind"]), about["method"])
        _require_sizes(path, about["batch"], method, tensors)
        if cell is None:
            cell = _net(path, shape, tensors)
        else:
            _take_weights(path, cell, shape, tensors)
    except (TypeError, ValueError) as error:
        text = str(error)
        raise ValueError(
            text if str(path) in text else f"{path} holds no learner: {text}"
        ) from None
    return Checkpoint(
        cell,
        readout,
        method,
        optimizer,
        about["batch"],
        about["update_every"],
        {k: v for k, v in tensors.items() if not k.startswith(_TAKEN)},
        {name: about[name] for name in _COUNTS},
        about["extra"],
        str(path),
    )


def _require_sizes(
    path: str | Path, batch: int, method: Method, tensors: dict[str, NDArray[Any]]
) -> None:
    """Hold the sizes that arrays will be allocated by against arrays that are there."""
    require_array(f"{path}: pending_reset", tensors.get("pending_reset"), (batch,), bool)
    if isinstance(method, BPTT) and method.window is not None:
        resets = tensors.get("method.resets")
        require_array(f"{path}: method.resets", resets, (method.window, batch), bool)


def _fields(settings: Any) -> dict[str, Any]:
    values = {field.name: _number(getattr(settings, field.name)) for field in fields(settings)}
    if "schedule" in values:  # an array: stored with the others, here is its length
        values["schedule"] = 0 if values["schedule"] is None else len(values["schedule"])
    return {"kind": type(settings).__name__} | values


def _number(value: Any) -> Any:
    """Return a NumPy number as Python's, which JSON can hold."""
    return value.item() if isinstance(value, np.generic) else value


def _made(kind: Any, about: dict[str, Any]) -> Any:
    return kind(**{name: value for name, value in about.items() if name != "kind"})


def _optimizer(
    path: str | Path, about: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> Optimizer:
    schedule, length = tensors.get("optimizer.schedule"), about.get("schedule")
    if schedule is not None or length:  # 0.1.0 did not tell the length
        require_array(f"{path}: optimizer.schedule", schedule, (length,), np.float64)
    optimizer: Optimizer = _made(type_of(OPTIMIZERS, about["kind"]), about | {"schedule": schedule})
    return optimizer


def _readout(
    path: str | Path,
    about: dict[str, Any],
    units: int,
    dtype: np.dtype[Any],
    tensors: dict[str, NDArray[Any]],
) -> Linear | MLP:
    hidden, outputs = about["hidden"], about["outputs"]
    shapes = {"weight": (outputs, hidden or units), "bias": (outputs,)}
    sizes = {"outputs": outputs}
    if about["kind"] == "MLP":
        shapes |= {"hidden_weight": (hidden, units), "hidden_bias": (hidden,)}
        sizes["hidden"] = hidden
    elif hidden:
        refuse(f"{path}: readout.hidden", "0 with Linear", hidden)
    given: dict[str, Any] = {
        name: require_array(f"{path}: readout.{name}", tensors.get(f"readout.{name}"), shape, dtype)
        for name, shape in shapes.items()
    }
    readout: Linear | MLP = _READOUTS[about["kind"]](
        **sizes, loss=about["loss"], seed=about["seed"], **given
    )
    return readout


def _net(path: str | Path, about: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Cell | Stack:
    if about["kind"] != Stack.__name__:
        return _cell(path, about, tensors)
    layers = [_cell(path, layer, tensors, f"layer{k}.") for k, layer in enumerate(about["layers"])]
    stack = Stack(layers, delay=about["delay"], across=about["across"])
    for name in ("inputs", "units", "dtype", "names"):
        if _described(stack)[name] != about[name]:
            refuse(
                f"{path}: cell.{name}",
                f"that of its layers, {_described(stack)[name]}",
                about[name],
            )
    return stack


def _cell(
    path: str | Path, about: dict[str, Any], tensors: dict[str, NDArray[Any]], lead: str = ""
) -> Cell:
    kind = type_of(CELLS, about["kind"])
    if kind is None:
        raise ValueError(
            f"{path} holds a {about['kind']}, a cell of your own: pass one of the same structure "
            f"as cell="
        )
    dtype = np.dtype(about["dtype"])
    bare: Cell = kind.__new__(kind)  # knows its maps, and with them the shapes of the dense arrays
    bare.inputs, bare.units = about["inputs"], about["units"]
    known = [name for name in NAMES if any(one.reads(name) for one in bare.kind.maps)]
    shapes = {name: bare.dense_shape(name) for name in about["names"] if name in known}
    if list(shapes) != about["names"]:
        refuse(f"{path}: cell.names", f"of {', '.join(known)}", about["names"])
    size = sum(math.prod(shape) for shape in shapes.values())
    require_memory((dtype.itemsize + 1) * size, f"the dense arrays of the cell in {path}")
    dense: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    for name, shape in shapes.items():
        place, values = _weights(path, lead + name, math.prod(shape), dtype, tensors)
        dense[name], masks[name] = np.zeros(shape, dtype), np.zeros(shape, bool)
        dense[name].reshape(-1)[place] = values
        masks[name].reshape(-1)[place] = True
        if np.count_nonzero(masks[name]) != place.size:
            raise ValueError(f"{path}: cell.{lead}{name}.place must name no place twice")
    options = {name: about[name] for name in kind(1, 1).options() if name in about}
    cell: Cell = kind.from_dense(**dense, masks=masks, **options)
    return cell


def _weights(
    path: str | Path, name: str, size: int, dtype: np.dtype[Any], tensors: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the places of the weights in a dense array of `size` numbers, and the weights."""
    where = f"{path}: cell.{name}"
    place = require_array(f"{where}.place", tensors.get(f"cell.{name}.place"), (None,), np.int64)
    if place.size and not (0 <= place.min() and place.max() < size):
        raise ValueError(
            f"{where}.place must lie in [0, {size}), got {place.min()} to {place.max()}"
        )
    return place, require_array(where, tensors.get(f"cell.{name}"), place.shape, dtype)


def _take_weights(
    path: str | Path, cell: Cell | Stack, about: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> None:
    """Put the weights of a file into a cell that must have the same places for them."""
    fits = all(about.get(name, one) == one for name, one in _described(cell).items())
    empty = np.empty(0)
    if not fits or any(
        not np.array_equal(place, tensors.get(f"cell.{name}.place", empty))
        for name, (_, place) in cell.places.items()
    ):
        raise ValueError(f"cell must have the structure of the one in {path}, got {cell!r}")
    given = {
        name: require_array(
            f"{path}: cell.{name}", tensors.get(f"cell.{name}"), place.shape, cell.dtype
        )
        for name, (_, place) in cell.places.items()
    }
    for name, (weight, _) in cell.places.items():
        cell.weights[weight] = given[name]
