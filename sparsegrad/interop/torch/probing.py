"""Where the Jacobians of a torch cell may be non-zero: found, or checked, at random points."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.func import functional_call

from sparsegrad.interop.torch.products import any_products

SIZES = (1.0, 0.3, 3.0, 0.1)
"""Of random weights: thresholds are passed with large ones, saturation with small ones."""


@dataclass(frozen=True)
class Patterns:
    """Where the Jacobians of a cell may be non-zero.

    Parameters
    ----------
    dynamics : sparse or dense array, (units, units)
        Of ∂h'/∂h.
    immediate : sparse or dense array, (units, weights)
        Of ∂h'/∂θ; the weights that exist, parameter after parameter, each row by row.
    masks : dict of bool Tensor
        Which entries of a parameter exist; of one that is not named, all.
    widened : tuple of str
        What a probe was in doubt of, and made wider.
    inputs : int, optional
        Width of x that a probe was told; then patterns are checked with it.
    """

    dynamics: Any
    immediate: Any
    masks: dict[str, Tensor]
    widened: tuple[str, ...] = ()
    inputs: int | None = None


def probe(
    module: nn.Module,
    inputs: int,
    units: int,
    masks: dict[str, Tensor] | None = None,
    trials: int = 12,
    seed: int = 0,
) -> Patterns:
    """Find the patterns of D and I from exact Jacobians at random weights, inputs and states.

    An entry is kept if it was not zero at any point. Points are drawn, of several sizes, until
    `trials` in a row have shown nothing new. A unit with an entry that showed up once or twice
    only, or with a value that is not finite, is in doubt, for others may not have shown up at all:
    it is widened to all states, or to all weights, and named in `widened`.

    Parameters
    ----------
    module : torch.nn.Module
        ``h' = module(x, h)``, (batch, inputs) and (batch, units); it is not changed.
    inputs, units : int
        Widths of x and h.
    masks : dict of bool Tensor, optional
        Which entries of a parameter exist.
    trials : int
        Points without anything new after which to stop, at least 2; ten times as many at most.
    seed : int
        Of the random points.

    Raises
    ------
    ValueError
        If a mask does not fit, or `trials` is below 2.
    """
    if trials < 2:
        raise ValueError(f"trials must be at least 2, got {trials}")
    module, masks = copy.deepcopy(module).eval(), all_masks(module, masks)
    generator = torch.Generator().manual_seed(seed)
    hits: list[Any] = [0, 0]
    doubt = [np.zeros(units, bool), np.zeros(units, bool)]
    quiet, points = 0, 0
    while quiet < trials and points < 10 * trials:
        point = _random_point(module, inputs, units, masks, generator, SIZES[points % len(SIZES)])
        quiet, points = quiet + 1, points + 1
        for which, values in enumerate(_dense_jacobians(module, masks, *point)):
            hit = (values != 0) | (bad := ~np.isfinite(values))
            if (hit & (hits[which] == 0)).any():
                quiet = 0
            hits[which] = hits[which] + hit
            doubt[which] |= bad.any(axis=1)
    found, widened = [], []
    for which, name in enumerate(("D", "I")):
        seldom = (hits[which] > 0) & (hits[which] <= 2)
        kept = hits[which] > 0
        for unit in np.flatnonzero(doubt[which] | seldom.any(axis=1)):
            kept[unit] = True
            widened.append(
                f"row {unit} of {name}: its entries come and go, or are not finite; made full"
            )
        found.append(sparse.csr_array(kept))
    return Patterns(found[0], found[1], masks, tuple(widened), inputs)


def check_patterns(
    module: nn.Module, masks: dict[str, Tensor], D: Any, immediate: Any, inputs: int
) -> None:
    """Compare patterns with exact Jacobians at random points.

    Raises
    ------
    ValueError
        If one lacks an entry that is not zero: it is named.
    """
    generator = torch.Generator().manual_seed(1)
    module = copy.deepcopy(module).eval()  # dropout would hide entries
    for size in SIZES:
        point = _random_point(module, inputs, D.shape[0], masks, generator, size)
        values = _dense_jacobians(module, masks, *point)
        for name, pattern, found in zip("DI", (D, immediate), values, strict=True):
            lacking = np.argwhere((found != 0) & ~pattern.toarray())
            if lacking.size:
                row, column = lacking[0]
                raise ValueError(
                    f"the pattern of {name} must hold every entry that is not zero, got "
                    f"{name}[{row}, {column}] = {found[row, column]:.3g} outside it "
                    f"({len(lacking)} such): widen it, or use probe()"
                )


def all_masks(module: nn.Module, masks: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Give every parameter its mask."""
    parameters = dict(module.named_parameters())
    for name, mask in (masks or {}).items():
        if name not in parameters:
            raise ValueError(f"masks must be of {tuple(parameters)}, got one of {name!r}")
        if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
            raise ValueError(
                f"mask {name} must be bool of shape {tuple(parameters[name].shape)}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
    return {
        name: (masks or {}).get(name, torch.ones(p.shape, dtype=torch.bool))
        for name, p in parameters.items()
    }


def _random_point(
    module: nn.Module,
    inputs: int,
    units: int,
    masks: dict[str, Tensor],
    generator: Any,
    size: float,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Draw weights where they exist (the rest stays as it is), an input and a state."""
    weights = {}
    for name, p in module.named_parameters():
        drawn = size * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        weights[name] = torch.where(masks[name], drawn, p.detach().double())
    x = torch.randn(inputs, generator=generator, dtype=torch.float64)
    return weights, x, torch.randn(units, generator=generator, dtype=torch.float64)


def _dense_jacobians(
    module: nn.Module, masks: dict[str, Tensor], weights: dict[str, Tensor], x: Tensor, h: Tensor
) -> tuple[Any, Any]:
    """Return all of D and I at a point, by one product per unit."""
    with torch.random.fork_rng(devices=[]):  # dropout draws: not from the caller's numbers
        return _jacobians_at(module, masks, weights, x, h)


def _jacobians_at(
    module: nn.Module, masks: dict[str, Tensor], weights: dict[str, Tensor], x: Tensor, h: Tensor
) -> tuple[Any, Any]:
    buffers = {
        name: b.double() if b.is_floating_point() else b for name, b in module.named_buffers()
    }

    leaves = {name: w.requires_grad_() for name, w in weights.items()}
    h = h[None].requires_grad_()
    out = functional_call(module, {**leaves, **buffers}, (x[None], h))
    seeds = torch.eye(out.shape[1], dtype=out.dtype)[:, None]
    by_state, *by_weight = any_products(out, [h, *leaves.values()], seeds)
    existing = [g[:, masks[name]] for name, g in zip(leaves, by_weight, strict=True)]
    return by_state[:, 0].numpy(), torch.cat(existing, 1).numpy()
