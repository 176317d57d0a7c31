"""What a `state_dict` holds beside the parameters: places of the weights, J and its state."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsegrad.cells import Cell
from sparsegrad.cells.cell import NAMES
from sparsegrad.interop.addresses import present
from sparsegrad.interop.torch.streams import Streams
from sparsegrad.interop.window import Window


class State(NamedTuple):
    """J and the state that it belongs to.

    Attributes
    ----------
    entries : float array, (batch, entries)
        J's kept entries; none of them where no sequence has begun.
    last : float array, (components, batch, units)
        Of a batch of 0 where it is not known.
    """

    entries: NDArray[Any]
    last: NDArray[Any]

    @classmethod
    def of(cls, window: Window) -> "State":
        """Return a copy of a window's."""
        last = window.known_state()
        if last is None:
            last = np.zeros((window.components, 0, window.units), window.dtype)
        return cls(window.entries(), last.copy())

    @classmethod
    def taken(cls, state_dict: dict[str, Any], prefix: str) -> "State | None":
        """Take that of a module out of a state dict; None if it has none."""
        entries = state_dict.pop(prefix + "influence", None)
        last = state_dict.pop(prefix + "state", None)
        if entries is None:
            return None
        none = np.zeros((1, 0, 0))
        return cls(entries.detach().numpy(), none if last is None else last.detach().numpy())


def load_state(
    module: Streams, n: int | None, state: State | None, prefix: str, errors: list[str]
) -> None:
    """Give a module its J, or say in `errors` why it does not fit."""
    if state is None:
        return
    window, (entries, last) = module._window, state
    if entries.ndim != 2 or entries.shape[1] != window.pattern.nnz:
        errors.append(
            f"{prefix}influence must be (batch, {window.pattern.nnz}), what n={n} keeps, got "
            f"{entries.shape}: load it into a module of the n that it was saved with"
        )
        return
    shape = window.components, entries.shape[0], window.units
    if last.shape[1] and last.shape != shape:
        errors.append(f"{prefix}state must be {shape}, got {last.shape}")
        return
    module._window = window = window.restart()
    window.set_entries(
        np.ascontiguousarray(entries, window.dtype),
        last.astype(window.dtype) if last.shape[1] else None,
    )


def modern(state_dict: dict[str, Any], prefix: str) -> None:
    """Bring a state dict of the first version, with a dict under `_extra_state`, to today's."""
    old = state_dict.pop(prefix + "_extra_state", None)
    if not isinstance(old, dict):
        return
    found = [old["places"][name] for name in NAMES if name in old["places"]]
    state_dict[prefix + "places"] = torch.cat(found).to(torch.int32)
    state_dict[prefix + "influence"] = old["influence"]


def places_of(cell: Cell) -> Tensor:
    """Return where each weight stands in its dense array, int32 (weights,), name after name."""
    found = [np.sort(cell.places[name][1]) for name in present(cell)]
    return torch.from_numpy(np.concatenate(found).astype(np.int32))


def masks_at(
    places: Tensor, like: dict[str, NDArray[np.bool_]], sizes: list[int]
) -> dict[str, NDArray[np.bool_]]:
    """Return the masks that `places` tells, shaped as those of `like`.

    Raises
    ------
    ValueError
        If they are no places in those arrays.
    """
    masks = {}
    flat = places.cpu().numpy()
    for (name, mask), part in zip(like.items(), np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
        if part.size and (part[0] < 0 or part[-1] >= mask.size or (np.diff(part) <= 0).any()):
            raise ValueError(
                f"places must be sorted places in {name} of {mask.size}, got others: they belong "
                "to another cell"
            )
        masks[name] = np.zeros(mask.shape, bool)
        masks[name].reshape(-1)[part] = True
    return masks
