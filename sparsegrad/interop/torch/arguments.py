"""What the modules' arguments may be: dtype, device, masks, batch elements, options of torch's."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsegrad.interop.torch.graph import FLOATS


def numpy_dtype(dtype: torch.dtype | None) -> str:
    """Return NumPy's name of a dtype; None is torch's default.

    Raises
    ------
    TypeError
        If it is not float32 or float64.
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in FLOATS:
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return FLOATS[dtype]


def require_cpu_device(device: Any) -> None:
    """Refuse every device but the CPU.

    Raises
    ------
    ValueError
        In one line.
    """
    if device is not None and torch.device(device).type != "cpu":
        raise ValueError(f"device must be the CPU, where the kernels run, got {device!r}")


def require_bool(name: str, value: Any) -> bool:
    """Return a bool.

    Raises
    ------
    TypeError
        If it is none.
    """
    if not isinstance(value, bool):
        hint = ": n is given by its name, layers are stacked by hand" if name == "bias" else ""
        raise TypeError(f"{name} must be a bool, got {value!r}{hint}")
    return value


def arrays(masks: dict[str, Any] | None) -> dict[str, NDArray[Any]] | None:
    """Return masks as NumPy's."""
    return None if masks is None else {name: np.asarray(mask) for name, mask in masks.items()}


def chosen(which: Any, batch: int) -> NDArray[np.bool_]:
    """Return which batch elements are meant, bool (batch,).

    Parameters
    ----------
    which : bool, int, or bool array or Tensor, (batch,)
        All or none; one; those of a mask.

    Raises
    ------
    IndexError
        If there is no such element.
    TypeError, ValueError
        If it is something else.
    """
    if isinstance(which, bool | np.bool_):
        return np.full(batch, bool(which))
    if isinstance(which, int | np.integer):
        if not 0 <= which < batch:
            raise IndexError(f"batch element must lie in [0, {batch}), got {which}")
        return np.arange(batch) == which
    if not isinstance(which, Tensor | np.ndarray):
        raise TypeError(
            f"which must be a bool, an index, or a bool array or Tensor of shape ({batch},), "
            f"got {type(which).__name__}"
        )
    mask = which.detach().cpu().numpy() if isinstance(which, Tensor) else which
    if mask.dtype != np.bool_:
        raise TypeError(
            f"which must be bool of shape ({batch},), got {mask.dtype} {mask.shape}: "
            "pass which != 0 for a mask"
        )
    if mask.shape == ():
        return np.full(batch, bool(mask))
    if mask.shape != (batch,):
        raise ValueError(f"which must be bool of shape ({batch},), got {mask.shape}")
    return np.ascontiguousarray(mask)


def require_options(module: Any, name: str) -> None:
    """Refuse a torch module of another kind, or with an option that a cell of ours has not.

    Raises
    ------
    TypeError
        If it is another kind, or has more layers or directions or a projection: it is named.
    """
    kind = type(module)
    if kind not in (getattr(nn, name), getattr(nn, name + "Cell")):
        raise TypeError(
            f"module must be torch.nn.{name}Cell or torch.nn.{name}, got {kind.__name__}"
        )
    for option, one in (("num_layers", 1), ("bidirectional", False), ("proj_size", 0)):
        came = getattr(module, option, one)
        if came != one:
            raise TypeError(
                f"module must have one layer and one direction and no projection, got "
                f"{option}={came}: make one cell of each layer"
            )
