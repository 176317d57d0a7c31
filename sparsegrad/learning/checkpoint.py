"""Checkpoints: all that a learner carries, so that it goes on bit for bit as if never stopped.

Weights are stored with their places in PyTorch's dense arrays, J weight by weight on its pattern:
nothing in the file depends on how a machine's kernels lay J out.
"""

from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells import Cell
from sparsegrad.learning.optimizers import SGD, Adam, AdamW
from sparsegrad.learning.readout import MLP, Linear
from sparsegrad.methods import Method
from sparsegrad.registry import CELLS, METHODS, OPTIMIZERS, type_of
from sparsegrad.system.tensorfile import read_tensors, write_tensors

_READOUTS = {kind.__name__: kind for kind in (Linear, MLP)}
_COUNTS = ("steps", "updates", "since")


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
    """

    cell: Cell
    readout: Linear | MLP
    method: Method
    optimizer: SGD | Adam | AdamW
    batch: int
    update_every: int
    arrays: dict[str, NDArray[Any]]
    counts: dict[str, int]
    extra: dict[str, Any]

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
    about = {
        "sparsegrad": version("sparsegrad-rtrl"),
        "cell": {
            "kind": type(cell).__name__,
            "inputs": cell.inputs,
            "units": cell.units,
            "dtype": cell.dtype.name,
            "names": list(cell.places),
        }
        | cell.options(),
        "readout": {
            "kind": type(readout).__name__,
            "hidden": readout.hidden if isinstance(readout, MLP) else 0,
            "outputs": readout.outputs,
            "loss": readout.loss,
            "seed": readout.seed,
        },
        "method": _fields(checkpoint.method),
        "optimizer": _fields(checkpoint.optimizer),
        "batch": checkpoint.batch,
        "update_every": checkpoint.update_every,
        **checkpoint.counts,
        "extra": checkpoint.extra,
    }
    write_tensors(Path(path), tensors, about)


def read_checkpoint(path: str | Path, cell: Cell | None = None) -> Checkpoint:
    """Read a checkpoint from a file.

    Parameters
    ----------
    path : str or Path
        Written by :func:`write_checkpoint`.
    cell : Cell, optional
        Needed for a cell of the user's own: one of the same structure, whose weights are replaced.

    Raises
    ------
    ValueError
        If the file is foreign, of another version, cut short or damaged, or needs a cell.
    OSError
        If it cannot be read.
    """
    tensors, about = read_tensors(Path(path))
    if cell is None:
        cell = _cell(path, about["cell"], tensors)
    else:
        _take_weights(path, cell, about["cell"], tensors)
    return Checkpoint(
        cell,
        _readout(about["readout"], tensors),
        _made(type_of(METHODS, about["method"]["kind"]), about["method"]),
        _optimizer(about["optimizer"], tensors),
        about["batch"],
        about["update_every"],
        tensors,
        {name: about[name] for name in _COUNTS},
        about["extra"],
    )


def _fields(settings: Any) -> dict[str, Any]:
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    values.pop("schedule", None)  # an array: stored with the others
    return {"kind": type(settings).__name__} | values


def _made(kind: Any, about: dict[str, Any]) -> Any:
    return kind(**{name: value for name, value in about.items() if name != "kind"})


def _optimizer(about: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> SGD | Adam | AdamW:
    schedule = {"schedule": tensors.get("optimizer.schedule")}
    optimizer: SGD | Adam | AdamW = _made(type_of(OPTIMIZERS, about["kind"]), about | schedule)
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
    kind = type_of(CELLS, about["kind"])
    if kind is None:
        raise ValueError(
            f"{path} holds a {about['kind']}, a cell of your own: pass one of the same structure "
            f"as cell="
        )
    bare: Cell = kind.__new__(kind)  # knows its maps, and with them the shapes of the dense arrays
    bare.inputs, bare.units = about["inputs"], about["units"]
    dense: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    for name in about["names"]:
        shape = bare._dense_shape(name)
        place = tensors[f"cell.{name}.place"]
        dense[name], masks[name] = np.zeros(shape, about["dtype"]), np.zeros(shape, bool)
        dense[name].reshape(-1)[place] = tensors[f"cell.{name}"]
        masks[name].reshape(-1)[place] = True
    options = {name: about[name] for name in bare.options()}
    cell: Cell = kind.from_dense(**dense, masks=masks, **options)
    return cell


def _take_weights(
    path: str | Path, cell: Cell, about: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> None:
    """Put the weights of a file into a cell that must have the same places for them."""
    fits = (about["kind"], about["inputs"], about["units"], about["dtype"], about["names"]) == (
        type(cell).__name__, cell.inputs, cell.units, cell.dtype.name, list(cell.places),
    )  # fmt: skip
    if not fits or any(
        not np.array_equal(place, tensors[f"cell.{name}.place"])
        for name, (_, place) in cell.places.items()
    ):
        raise ValueError(f"cell must have the structure of the one in {path}, got {cell!r}")
    for name, (weight, _) in cell.places.items():
        cell.weights[weight] = tensors[f"cell.{name}"]
