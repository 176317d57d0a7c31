"""A time step of a cell as an ONNX model, state in and state out: for where nothing learns.

    write_step("cell.onnx", learner.cell)              # or the to_cell() of a torch module
    session.run(None, {"x": x, "h": h})                # (batch, inputs), (batch, units) → h

The weights are dense there, 0 where none exists.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells import GRU, LSTM, RNN, Cell
from sparsegrad.system.atomic import write_whole

OPSET = 18  # of 2022: GRU, LSTM and RNN are as they were in 14
_GATES = {GRU: (1, 0, 2), LSTM: (0, 3, 1, 2), RNN: (0,)}  # ONNX's order, of PyTorch's gates


def step_model(cell: Cell) -> Any:
    """Return an ``onnx.ModelProto`` of one time step.

    Parameters
    ----------
    cell : GRU, LSTM or RNN

    Returns
    -------
    onnx.ModelProto
        Of inputs ``x``, (batch, inputs), and ``h``, (batch, units), for an LSTM ``c`` too; of
        outputs ``new_h``, for an LSTM ``new_c`` too. In the cell's dtype.

    Raises
    ------
    TypeError
        If the cell is of another kind.
    ImportError
        If onnx is not installed.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError:
        raise ImportError(
            "a model in ONNX needs onnx, which is not installed: "
            'pip install "sparsegrad-rtrl[onnx]"'
        ) from None
    if type(cell) not in _GATES:
        raise TypeError(f"cell must be a GRU, LSTM or RNN of sparsegrad, got {cell!r}")
    name = type(cell).__name__
    states = ("h", "c")[: cell.kind.components]
    kind = TensorProto.FLOAT if cell.dtype == np.float32 else TensorProto.DOUBLE
    weights = {key: numpy_helper.from_array(a, key) for key, a in _weights(cell).items()}
    options: dict[str, Any] = {"hidden_size": cell.units}
    if name == "GRU":
        options["linear_before_reset"] = 1  # PyTorch's and CuDNN's form
    if name == "RNN":
        options["activations"] = ["Relu" if "relu" in cell.kind.update.__name__ else "Tanh"]
    sequence = ["x1", "W", "R", "B", "", *[f"{s}1" for s in states]]
    nodes = [
        *[helper.make_node("Unsqueeze", [s, "axes"], [f"{s}1"]) for s in ("x", *states)],
        helper.make_node(name, sequence, ["", *[f"last_{s}" for s in states]], **options),
        *[helper.make_node("Squeeze", [f"last_{s}", "axes"], [f"new_{s}"]) for s in states],
    ]

    def tensor(key: str, width: int) -> Any:
        return helper.make_tensor_value_info(key, kind, ["batch", width])

    graph = helper.make_graph(
        nodes, f"step of {name} {cell.units}",
        [tensor("x", cell.inputs), *[tensor(s, cell.units) for s in states]],
        [tensor(f"new_{s}", cell.units) for s in states],
        [*weights.values(), numpy_helper.from_array(np.zeros(1, np.int64), "axes")],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="sparsegrad"
    )
    model.ir_version = 8  # what readers of that opset know
    checker.check_model(model)
    return model


def write_step(path: str | Path, cell: Cell) -> None:
    """Write one time step as an ONNX file, whole or not at all; errors are those of `step_model`.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    write_whole(Path(path), step_model(cell).SerializeToString())


def _weights(cell: Cell) -> dict[str, NDArray[Any]]:
    """Return W, R and B as ONNX has them: one direction, its gates, both biases end to end."""
    dense, gates = cell.to_dense(), _GATES[type(cell)]

    def ordered(name: str) -> NDArray[Any]:
        rows = dense.get(name, np.zeros(len(gates) * cell.units, cell.dtype))
        blocks = np.split(rows, len(gates))
        return np.concatenate([blocks[gate] for gate in gates])

    return {
        "W": ordered("weight_ih")[None],
        "R": ordered("weight_hh")[None],
        "B": np.concatenate([ordered("bias_ih"), ordered("bias_hh")])[None],
    }
