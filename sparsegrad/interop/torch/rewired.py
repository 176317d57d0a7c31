"""Parameters on other masks, and what an optimiser has of them.

A parameter's size is that of its mask, so other masks make other parameters. Those of before train
nothing any more: an optimiser that still holds one is refused at its next step, not in silence.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sparsegrad.cells import Cell
from sparsegrad.interop.addresses import parameter_order, present

_STARTS = {
    (torch.optim.Adagrad, "sum"): "initial_accumulator_value",
    (torch.optim.Rprop, "step_size"): "lr",
}
"""The entry of a group that a moment sets out from, of the optimisers where that is not 0."""


def origins(before: Cell, after: Cell) -> dict[str, Tensor]:
    """Return which element of each parameter the elements of the new one were, or -1, by name."""
    origin, element = before.origin_of(after), np.empty(before.weights.size, np.int64)
    found = {}
    for name in present(after):
        order = parameter_order(before, name)
        element[order] = np.arange(order.size)
        weight = origin[parameter_order(after, name)]
        found[name] = torch.from_numpy(np.where(weight >= 0, element[weight], -1))
    return found


def plain_parameters(module: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return a module's parameters of these names.

    Raises
    ------
    ValueError
        If a parametrisation computes one, or hooks hang on one.
    """
    found = {}
    for name in names:
        parameter = module._parameters.get(name)
        if parameter is None:
            raise ValueError(
                f"rewire must find a plain parameter {name}, got one that a parametrisation "
                "computes: remove it first"
            )
        hooks = ("_backward_hooks", "_post_accumulate_grad_hooks")
        if any(getattr(parameter, kind, None) for kind in hooks):
            raise ValueError(
                f"rewire must find no hooks on {name}, whose parameter becomes another one: remove "
                "them first, and register them anew"
            )
        found[name] = parameter
    return found


def moved(parameter: nn.Parameter, origin: Tensor) -> nn.Parameter:
    """Return a parameter on another mask: what stays has value and gradient, the rest 0."""
    made = nn.Parameter(_carried(parameter.detach(), origin, 0.0), parameter.requires_grad)
    vars(made).update(vars(parameter))
    if parameter.grad is not None:
        made.grad = _carried(parameter.grad, origin, 0.0)
    return made


def moved_states(
    optimizer: Optimizer | None, parameters: dict[str, nn.Parameter], origin: dict[str, Tensor]
) -> dict[str, dict[str, Any]]:
    """Return what an optimiser will have of those of the parameters that are its own, by name.

    Raises
    ------
    TypeError
        If it is no optimiser, or LBFGS.
    ValueError
        If it has none of the parameters, or keeps of one what belongs to no single weight.
    """
    if optimizer is None:
        return {}
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, LBFGS):
        raise TypeError(
            "optimizer must be a torch.optim.Optimizer that keeps its moments weight by weight, "
            f"got {type(optimizer).__name__}: leave it out, and make a new one after rewire"
        )
    own = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    held = {name: p for name, p in parameters.items() if id(p) in own}
    if not held:
        raise ValueError(
            "optimizer must hold the parameters of this cell, got one of others: pass the one that "
            "trains it"
        )
    states = {}
    for name, p in held.items():
        states[name] = {
            key: _moved_moment(optimizer, own[id(p)], (name, key), value, p, origin[name])
            for key, value in optimizer.state.get(p, {}).items()
        }
    return states


def hand_over(
    optimizer: Optimizer | None,
    parameters: dict[str, nn.Parameter],
    made: dict[str, nn.Parameter],
    states: dict[str, dict[str, Any]],
) -> None:
    """Put the new parameters in the place of the old ones, which no optimiser may step any more."""
    place = {id(p): name for name, p in parameters.items()}
    for group in [] if optimizer is None else optimizer.param_groups:
        group["params"] = [made[place[id(p)]] if id(p) in place else p for p in group["params"]]
    for name, state in states.items():
        assert optimizer is not None
        optimizer.state.pop(parameters[name], None)
        if state:
            optimizer.state[made[name]] = state
    for p in parameters.values():
        p.retired = True  # type: ignore[attr-defined]
    if not _guards:
        _guards.append(register_optimizer_step_pre_hook(_refuse_retired))


_guards: list[Any] = []  # the hook that watches all optimisers, from the first rewire on


def _refuse_retired(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        if any([getattr(p, "retired", False) for p in group["params"]]):
            raise RuntimeError(
                "an optimiser must hold the parameters that a cell has after rewire, got those of "
                "before: call cell.rewire(masks, optimizer), or make a new optimiser"
            )


def _moved_moment(
    optimizer: Optimizer,
    group: dict[str, Any],
    where: tuple[str, str],
    value: Any,
    parameter: nn.Parameter,
    origin: Tensor,
) -> Any:
    """Return one entry of an optimiser's state on another mask."""
    name, key = where
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        start = _STARTS.get((type(optimizer), key))
        return _carried(value, origin, 0.0 if start is None else float(group[start]))
    if value is None or isinstance(value, int | float) or getattr(value, "ndim", None) == 0:
        return value
    raise ValueError(
        f"optimizer must keep numbers, or one per weight, got {key} of {name} in "
        f"{type(optimizer).__name__}: leave it out, and make a new one after rewire"
    )


def _carried(values: Tensor, origin: Tensor, start: float) -> Tensor:
    made = torch.full(origin.shape, start, dtype=values.dtype)
    kept = origin >= 0
    made[kept] = values[origin[kept]]
    return made
