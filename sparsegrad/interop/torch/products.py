"""Vector-Jacobian products through one graph, many at once, and D and I out of them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsegrad.interop.waiting import Waiting
from sparsegrad.symbolic.pattern import ReachPattern


def products(out: Tensor, inputs: list[Tensor], seeds: Tensor, batched: bool) -> list[Tensor]:
    """Return ``seeds[k] · ∂out/∂input`` for each k and input: (seeds, *shape of the input).

    In one vectorised pass, or one by one where a backward formula knows no batches. The graph
    stays.
    """
    if batched:
        found = torch.autograd.grad(
            out, inputs, seeds, retain_graph=True, is_grads_batched=True, allow_unused=True
        )
        return [
            torch.zeros(len(seeds), *i.shape, dtype=i.dtype) if g is None else g
            for i, g in zip(inputs, found, strict=True)
        ]
    rows = [
        torch.autograd.grad(
            out, inputs, seed, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for seed in seeds
    ]
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def any_products(out: Tensor, inputs: list[Tensor], seeds: Tensor) -> list[Tensor]:
    """Do as `products`, vectorised if that is possible."""
    try:
        return products(out, inputs, seeds, batched=True)
    except RuntimeError:
        return products(out, inputs, seeds, batched=False)


class Products:
    """What finds D and I of a step in few products.

    Parameters
    ----------
    pattern : ReachPattern
        With the patterns of D and I.
    exists : bool array, (elements,)
        Which elements of the parameters, one after the other, exist.
    colours : pair of int32 array, (units,)
        Of the rows of D and of I: rows of a colour share no column.
    dtype : torch.dtype
        Of the products.
    """

    def __init__(
        self,
        pattern: ReachPattern,
        exists: NDArray[np.bool_],
        colours: tuple[NDArray[np.int32], NDArray[np.int32]],
        dtype: torch.dtype,
    ) -> None:
        of_state, of_weight = colours
        units = pattern.shape[1]
        rows = np.repeat(np.arange(units), np.diff(pattern.dynamics_indptr))
        columns = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.immediate_indptr))
        self._seeds = [_seeds(colour, units, dtype) for colour in colours]
        # where each value of D and I lies in the (colours, columns) that the products return
        self._exists = torch.from_numpy(np.flatnonzero(exists))
        self._dynamics_at = _pair(of_state[rows], pattern.dynamics_indices)
        self._immediate_at = _pair(of_weight[pattern.immediate_indices], columns)
        self._outside = [
            _rest(len(self._seeds[0]), units, self._dynamics_at),
            _rest(len(self._seeds[1]), pattern.shape[0], self._immediate_at),
        ]
        self._batched = True

    def fill(self, out: Tensor, h: Tensor, parameters: list[Tensor], step: Waiting) -> None:
        """Write D and I of a step, (batch, nnz), from the graph of its output.

        Raises
        ------
        ValueError
            If a batch element depends on another, or an entry outside the patterns is not zero.
        """
        batch, units = out.shape
        of_state, of_weight = self._seeds
        (by_state,) = self._pull(out, [h], of_state[:, None].expand(-1, batch, -1))
        alone = torch.zeros(len(of_weight), batch, batch, units, dtype=out.dtype)
        for b in range(batch):
            alone[:, b, b] = of_weight
        mixed, *by_weight = self._pull(out, [h, *parameters], alone.flatten(0, 1))
        mixed = mixed.view(len(of_weight), batch, batch, units)
        others = mixed.abs().sum(dim=(0, 3)).fill_diagonal_(0)
        if (others > 0).any():
            raise ValueError(
                "each batch element must be for itself, got one whose state changes another's: "
                "call eval() on layers that look at the whole batch, such as BatchNorm"
            )
        flat = torch.cat([g.flatten(1) for g in by_weight], 1)[:, self._exists]
        flat = flat.view(len(of_weight), batch, -1)
        for name, found, at, outside, data in (
            ("D", by_state, self._dynamics_at, self._outside[0], step.dynamics_data),
            ("I", flat, self._immediate_at, self._outside[1], step.immediate_data),
        ):
            lacking = found.abs().amax(1) * outside > 0 if outside is not None else None
            if lacking is not None and lacking.any():
                column = int(lacking.nonzero()[0, 1])
                raise ValueError(
                    f"the pattern of {name} must hold every entry that is not zero, got one "
                    f"outside it in column {column} at this step: probe with more trials, or give "
                    "patterns of your own"
                )
            torch.from_numpy(data).copy_(found[at[0], :, at[1]].T)

    def _pull(self, out: Tensor, inputs: list[Tensor], seeds: Tensor) -> list[Tensor]:
        if self._batched:
            try:
                return products(out, inputs, seeds, batched=True)
            except RuntimeError:  # a formula that knows no batches: not again
                found = products(out, inputs, seeds, batched=False)
                self._batched = False
                return found
        return products(out, inputs, seeds, batched=False)


def _seeds(colour: NDArray[np.int32], units: int, dtype: torch.dtype) -> Tensor:
    seeds = torch.zeros(int(colour.max()) + 1, units, dtype=dtype)
    seeds[torch.from_numpy(colour.astype(np.int64)), torch.arange(units)] = 1
    return seeds


def _pair(rows: Any, columns: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(columns.astype(np.int64))


def _rest(rows: int, columns: int, at: tuple[Tensor, Tensor]) -> Tensor | None:
    """Return 1 where no value is looked for, (rows, columns), or None if there is no such place."""
    rest = torch.ones(rows, columns)
    rest[at] = 0
    return rest if rest.any() else None
