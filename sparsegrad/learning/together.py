"""What must be alike on all ranks of a learner, and is looked at before they go on together."""

import zlib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.cell import Cell
from sparsegrad.kernels.learning.steps import Chunk
from sparsegrad.system.ranks import Ranks


def require_alike(
    ranks: Ranks, cell: Cell, readout: NDArray[Any], settings: tuple[Any, ...]
) -> None:
    """Refuse ranks that would not learn the same.

    Parameters
    ----------
    ranks : Ranks
    cell : Cell
    readout : float array
        The weights of the readout.
    settings : tuple
        All else that decides what is learned, told by its text.

    Raises
    ------
    ValueError
        On every rank, if one of them has another version, net, weight or setting.
    """
    places = [place for _, place in cell.places.values()]
    ranks.agree({
        "version of sparsegrad": version("sparsegrad-rtrl"),
        "cell": f"{cell!r} {cell.options()!r}",
        "masks": _checksum(cell.maps.indptr, cell.maps.indices, *places),
        "weights": _checksum(cell.weights),
        "weights of the readout": _checksum(readout),
        "settings": ", ".join(map(repr, settings)),
    })  # fmt: skip


def checked(ranks: Ranks | None, check: Callable[[], Chunk]) -> Chunk:
    """Return the data of a call: checked here, and the same on every rank.

    Raises
    ------
    TypeError, ValueError
        What `check` raises; a ValueError if it raises on another rank, which would leave this one
        waiting, or if the data are others there.
    """
    if ranks is None or ranks.size == 1:
        return check()
    error = chunk = None
    try:
        chunk = check()
    except (TypeError, ValueError, MemoryError) as raised:
        error = raised
    ranks.together(error, "the arguments of a call")
    assert chunk is not None  # the error would have been raised
    arrays = chunk.xs, chunk.classes, chunk.values, chunk.scales, chunk.resets
    ranks.agree({"data of a call": f"{chunk.xs.shape} {_checksum(*arrays)}"})
    return chunk


def _checksum(*arrays: NDArray[Any]) -> str:
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"
