"""Where the Jacobians of a torch cell may be non-zero: found, or checked, at random points."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.func import functional_call, jacrev


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
    """

    dynamics: Any
    immediate: Any
    masks: dict[str, Tensor]
    widened: tuple[str, ...] = ()


def probe(
    module: nn.Module,
    inputs: int,
    units: int,
    masks: dict[str, Tensor] | None = None,
    trials: int = 8,
    seed: int = 0,
) -> Patterns:
    """Find the patterns of D and I from exact Jacobians at random weights, inputs and states.

    An entry is kept if it was not zero in any trial. A unit of which a later half of the trials
    still found new entries, or a value that is not finite, is in doubt: it is widened to all
    states, and if its weights are in doubt to all weights, and named in `widened`.

    Parameters
    ----------
    module : torch.nn.Module
        ``h' = module(x, h)``, (batch, inputs) and (batch, units); it is not changed.
    inputs, units : int
        Widths of x and h.
    masks : dict of bool Tensor, optional
        Which entries of a parameter exist.
    trials : int
        Points to look at, at least 2.
    seed : int
        Of the random points.

    Raises
    ------
    ValueError
        If a mask does not fit, or `trials` is below 2.
    """
    if trials < 2:
        raise ValueError(f"trials must be at least 2, got {trials}")
    masks = all_masks(module, masks)
    generator = torch.Generator().manual_seed(seed)
    total: list[Any] = [np.zeros((units, 0), bool)] * 2
    doubt = [np.zeros(units, bool), np.zeros(units, bool)]
    for trial in range(trials):
        point = _random_point(module, inputs, units, masks, generator)
        for which, values in enumerate(_dense_jacobians(module, masks, *point)):
            bad = ~np.isfinite(values)
            hit = (values != 0) | bad
            old = total[which] if total[which].size else np.zeros(hit.shape, bool)
            if 2 * trial >= trials:
                doubt[which] |= (hit & ~old).any(axis=1)
            doubt[which] |= bad.any(axis=1)
            total[which] = old | hit
    widened = []
    for which, name in enumerate(("D", "I")):
        for unit in np.flatnonzero(doubt[which]):
            total[which][unit] = True
            widened.append(
                f"row {unit} of {name}: its entries come and go, or are not finite; made full"
            )
    return Patterns(sparse.csr_array(total[0]), sparse.csr_array(total[1]), masks, tuple(widened))


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
    for _ in range(3):
        point = _random_point(module, inputs, D.shape[0], masks, generator)
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
    module: nn.Module, inputs: int, units: int, masks: dict[str, Tensor], generator: Any
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Draw weights where they exist (the rest stays as it is), an input and a state."""
    weights = {}
    for name, p in module.named_parameters():
        drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        weights[name] = torch.where(masks[name], drawn, p.detach().double())
    x = torch.randn(inputs, generator=generator, dtype=torch.float64)
    return weights, x, torch.randn(units, generator=generator, dtype=torch.float64)


def _dense_jacobians(
    module: nn.Module, masks: dict[str, Tensor], weights: dict[str, Tensor], x: Tensor, h: Tensor
) -> tuple[Any, Any]:
    """Return all of D and I at a point, by one product per unit."""
    buffers = {
        name: b.double() if b.is_floating_point() else b for name, b in module.named_buffers()
    }

    def one(weights: dict[str, Tensor], h: Tensor) -> Tensor:
        return functional_call(module, {**weights, **buffers}, (x[None], h[None]))[0]

    by_weight, by_state = jacrev(one, argnums=(0, 1))(weights, h)
    existing = [by_weight[name][:, masks[name]] for name in weights]
    return by_state.detach().numpy(), torch.cat(existing, 1).detach().numpy()
