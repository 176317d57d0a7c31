"""Optimisers over flat vectors: the weights of the cell that exist, and those of the readout."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..compiler.decorators import into_caller

SGD = 0
ADAM = 1
RMSPROP = 2

RATE, DECAY_FIRST, DECAY_SECOND, EPSILON, WEIGHT_DECAY, CLIP = range(6)


class Optimizer(NamedTuple):
    """An optimiser and its memory; the cell's weights come first in the moments."""

    kind: int
    settings: NDArray[np.float64]  # (6,) rate, μ or β1, β2 or α, ε, weight decay, clip (0: none)
    schedule: NDArray[np.float64]  # (length,) factor of the rate at each update; the last one stays
    updates: NDArray[np.int64]  # (1,) updates made so far
    first: NDArray[np.floating]  # (weights + readout,) momentum, if any, or Adam's first moment
    second: NDArray[np.floating]  # (weights + readout,) or (0,) Adam's, RMSprop's second moment


# In any order: one after the other, its sums took two thirds of an update by SGD (12 of 18 µs).
@njit(cache=True, nogil=True, fastmath={"reassoc"})
def squared_norm(grad: NDArray[np.floating]) -> float:
    """Return ‖grad‖², summed in float64."""
    total = 0.0
    for i in range(grad.size):
        total += np.float64(grad[i]) * np.float64(grad[i])
    return total


@njit(cache=True, nogil=True)
def sgd(
    grad: NDArray[np.floating],  # (n,) or more   in, zero on return
    rate: float,
    momentum: float,
    clip: float,
    weights: NDArray[np.floating],  # (n,)   in/out
    first: NDArray[np.floating],  # (n,) or (0,)   in/out
) -> None:
    """Update v <- μ v + clip · g, w <- w - rate · v."""
    number = weights.dtype.type
    rate_, momentum_, clip_ = number(rate), number(momentum), number(clip)
    if first.size == 0:  # no momentum
        for i in range(weights.size):
            weights[i] -= rate_ * (clip_ * grad[i])
            grad[i] = 0
        return
    for i in range(weights.size):
        first[i] = momentum_ * first[i] + clip_ * grad[i]
        weights[i] -= rate_ * first[i]
        grad[i] = 0


# A division that might raise, as Python's does, would keep the loop from vectors: 5 times as long.
@njit(cache=True, nogil=True, error_model="numpy")
def adam(
    grad: NDArray[np.floating],  # (n,) or more   in, zero on return
    settings: NDArray[np.float64],  # (6,)   in
    rate: float,
    clip: float,
    update: int,
    weights: NDArray[np.floating],  # (n,)   in/out
    first: NDArray[np.floating],  # (n,)     in/out
    second: NDArray[np.floating],  # (n,)    in/out
) -> None:
    """Update by Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""
    number = weights.dtype.type
    one = number(1)
    beta1, beta2 = number(settings[DECAY_FIRST]), number(settings[DECAY_SECOND])
    epsilon, clip_ = number(settings[EPSILON]), number(clip)
    keep = number(1.0 - rate * settings[WEIGHT_DECAY])
    step = number(rate / (1.0 - settings[DECAY_FIRST] ** update))
    unbias = number(1.0 / (1.0 - settings[DECAY_SECOND] ** update))
    for i in range(weights.size):
        g = clip_ * grad[i]
        first[i] = beta1 * first[i] + (one - beta1) * g
        second[i] = beta2 * second[i] + (one - beta2) * g * g
        weights[i] = keep * weights[i] - step * first[i] / (np.sqrt(second[i] * unbias) + epsilon)
        grad[i] = 0


@njit(cache=True, nogil=True, error_model="numpy")  # as in adam
def rmsprop(
    grad: NDArray[np.floating],  # (n,) or more   in, zero on return
    settings: NDArray[np.float64],  # (6,)   in
    rate: float,
    clip: float,
    weights: NDArray[np.floating],  # (n,)   in/out
    first: NDArray[np.floating],  # (n,) or (0,)   in/out
    second: NDArray[np.floating],  # (n,)    in/out
) -> None:
    """Update s <- α s + (1 - α) g², v <- μ v + g / (√s + ε), w <- w - rate · v."""
    number = weights.dtype.type
    one = number(1)
    momentum, alpha = number(settings[DECAY_FIRST]), number(settings[DECAY_SECOND])
    epsilon, rate_, clip_ = number(settings[EPSILON]), number(rate), number(clip)
    if first.size == 0:  # no momentum
        for i in range(weights.size):
            g = clip_ * grad[i]
            second[i] = alpha * second[i] + (one - alpha) * g * g
            weights[i] -= rate_ * (g / (np.sqrt(second[i]) + epsilon))
            grad[i] = 0
        return
    for i in range(weights.size):
        g = clip_ * grad[i]
        second[i] = alpha * second[i] + (one - alpha) * g * g
        first[i] = momentum * first[i] + g / (np.sqrt(second[i]) + epsilon)
        weights[i] -= rate_ * first[i]
        grad[i] = 0


@into_caller
def apply_gradient(
    optimizer: Optimizer,  # in/out
    weights: NDArray[np.floating],  # (weights,)        in/out
    readout: NDArray[np.floating],  # (readout,)        in/out
    grad: NDArray[np.floating],  # (weights,) + SLACK   in/out, zero on return
    readout_grad: NDArray[np.floating],  # (readout,)   in/out, zero on return
) -> bool:
    """Make one update and clear the gradients; if one is not finite, clear them only."""
    squared = squared_norm(grad) + squared_norm(readout_grad)
    if not np.isfinite(squared):
        grad[:] = 0
        readout_grad[:] = 0
        return False
    limit = optimizer.settings[CLIP]
    clip = 1.0
    if limit > 0.0 and squared > limit * limit:
        clip = limit / np.sqrt(squared)
    made = optimizer.updates[0]
    factor = optimizer.schedule[min(made, optimizer.schedule.size - 1)]
    rate = optimizer.settings[RATE] * factor
    optimizer.updates[0] = made + 1
    p = weights.size
    first, s = optimizer.first, optimizer.settings
    if optimizer.kind == SGD:
        momentum = s[DECAY_FIRST]
        sgd(grad, rate, momentum, clip, weights, first[:p])
        sgd(readout_grad, rate, momentum, clip, readout, first[p:])
    elif optimizer.kind == RMSPROP:
        second = optimizer.second
        rmsprop(grad, s, rate, clip, weights, first[:p], second[:p])
        rmsprop(readout_grad, s, rate, clip, readout, first[p:], second[p:])
    else:
        n, second = made + 1, optimizer.second
        adam(grad, s, rate, clip, n, weights, first[:p], second[:p])
        adam(readout_grad, s, rate, clip, n, readout, first[p:], second[p:])
    return True
