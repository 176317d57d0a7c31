"""A learner that gets more inputs or outputs, and goes on with what it has learned.

Every new weight is 0: an input that comes changes no prediction until it has been learned from, and
a class that comes has a logit of 0. What is known of the weights that were there (values, moments,
the gradient summed so far) goes along, and so does the state. J depends on the inputs, but on no
output: it goes along when outputs come, and begins anew when inputs do.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.stack import one_cell
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.learning.readout import Linear, Parameters
from sparsegrad.system.checks import integer


def grow(
    learner: OnlineLearner,
    inputs: int | None = None,
    outputs: int | None = None,
    threads: int | None = None,
) -> OnlineLearner:
    """Return a learner with as many inputs and outputs, which goes on from where this one is.

    Parameters
    ----------
    learner : OnlineLearner
        With a linear readout, and a method that updates at every step. Its cell may be the new
        one's too: use the new one alone.
    inputs, outputs : int, optional
        At least those that it has. Default: those that it has.
    threads : int, optional
        At most so many threads; default Numba's number.

    Returns
    -------
    OnlineLearner

    Raises
    ------
    TypeError, ValueError
        If a number is below the learner's, or readout or method is another one.
    MemoryError
        If it would not fit in memory.
    """
    saved = learner.checkpoint()
    old = one_cell(saved.cell, "growing")
    readout, window = saved.readout, getattr(saved.method, "window", 1)
    if not isinstance(readout, Linear) or (window or 1) > 1:
        raise TypeError(
            f"learner must have a linear readout and a method without a window to grow, got "
            f"{type(readout).__name__} and {saved.method!r}"
        )
    more = integer("inputs", old.inputs if inputs is None else inputs, least=old.inputs)
    classes = integer(
        "outputs", readout.outputs if outputs is None else outputs, least=readout.outputs
    )
    cell = old if more == old.inputs else _with_inputs(old, more)
    weight, bias = _with_rows(readout.weight, classes), _with_rows(readout.bias, classes)
    arrays = {
        name: _resized(name, array, old, cell, classes) for name, array in saved.arrays.items()
    }
    if cell is not old:  # as an engine has them at the start of a sequence
        fresh = saved.method.engine(cell, saved.batch, threads).state()
        arrays |= {f"method.{name}": array for name, array in fresh.items()}
    grown = saved._replace(
        cell=cell,
        readout=replace(readout, outputs=classes, weight=weight, bias=bias),
        arrays=arrays,
        source="the grown learner",
    )
    return OnlineLearner.from_checkpoint(grown, threads)


def _with_inputs(cell: Cell, inputs: int) -> Cell:
    """Return a cell with more inputs, whose new weights are there and 0."""
    dense, masks = cell.to_dense(), cell.masks()
    more = ((0, 0), (0, inputs - cell.inputs))
    dense["weight_ih"] = np.pad(dense["weight_ih"], more)
    masks["weight_ih"] = np.pad(masks["weight_ih"], more, constant_values=True)
    grown: Cell = type(cell).from_dense(**dense, masks=masks, **cell.options())
    return grown


def _resized(name: str, array: NDArray[Any], old: Cell, new: Cell, outputs: int) -> NDArray[Any]:
    """Return an array of a checkpoint for a wider cell and readout; 0 where they are new."""
    if name == "gradient.cell":
        return _moved(array, old, new)
    if name == "gradient.readout":
        return _outputs(array, old.units, outputs)
    if name.startswith("optimizer.") and array.size:
        of_cell, of_readout = np.split(array, [old.weights.size])
        return np.concatenate([_moved(of_cell, old, new), _outputs(of_readout, old.units, outputs)])
    return array


def _moved(values: NDArray[Any], old: Cell, new: Cell) -> NDArray[Any]:
    """Return a number per weight of one cell as one per weight of a wider one."""
    if new is old:
        return values
    moved = np.zeros(new.weights.size, values.dtype)
    for name, array in old.dense_of(values).items():
        weight, place = new.places[name]
        if name == "weight_ih":
            array = np.pad(array, ((0, 0), (0, new.inputs - old.inputs)))
        moved[weight] = array.reshape(-1)[place]
    return moved


def _with_rows(array: Any, rows: int) -> NDArray[Any]:
    return np.pad(array, [(0, rows - len(array)), *[(0, 0)] * (array.ndim - 1)])


def _outputs(flat: NDArray[Any], units: int, outputs: int) -> NDArray[Any]:
    """Return a number per parameter of a linear readout as one per parameter of a wider one."""
    before = Parameters(units, 0, flat.size // (units + 1), flat.dtype)
    after = Parameters(units, 0, outputs, flat.dtype)
    before.flat[:] = flat
    after.arrays.weight[:, : before.outputs] = before.arrays.weight
    after.arrays.bias[: before.outputs] = before.arrays.bias
    return after.flat
