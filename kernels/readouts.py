"""Readout and loss of one time step, and their gradients by ordinary backpropagation.

    f = h, or with a hidden layer f = max(A h + a, 0);   y = B f + b;   L = loss(y, target)

Matrices are stored transposed, source by source, so that the inner loops run over contiguous
outputs and vectorise.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

SQUARED_ERROR = 0
CROSS_ENTROPY = 1
BINARY_CROSS_ENTROPY = 2


class Readout(NamedTuple):
    """Parameters of a readout, or their gradients; without a hidden layer its arrays are empty."""

    hidden_weight: NDArray[np.floating]  # (units, width)   Aᵀ
    hidden_bias: NDArray[np.floating]  # (width,)           a
    weight: NDArray[np.floating]  # (features, outputs)     Bᵀ
    bias: NDArray[np.floating]  # (outputs,)                b


@njit(cache=True, nogil=True)
def affine(
    weight: NDArray[np.floating],  # (sources, targets)  in
    bias: NDArray[np.floating],  # (targets,)            in
    source: NDArray[np.floating],  # (sources,)          in
    target: NDArray[np.floating],  # (targets,)          out
) -> None:
    """Form target = weightᵀ source + bias."""
    for o in range(target.size):
        target[o] = bias[o]
    for j in range(source.size):
        value = source[j]
        for o in range(target.size):
            target[o] += weight[j, o] * value


@njit(cache=True, nogil=True)
def affine_gradient(
    weight: NDArray[np.floating],  # (sources, targets)         in
    source: NDArray[np.floating],  # (sources,)                 in
    target_grad: NDArray[np.floating],  # (targets,)            in
    weight_grad: NDArray[np.floating],  # (sources, targets)    in/out
    bias_grad: NDArray[np.floating],  # (targets,)              in/out
    source_grad: NDArray[np.floating],  # (sources,)            out
) -> None:
    """Add the gradients of `affine` with respect to weight and bias; form that of its source."""
    n = target_grad.size
    for o in range(n):
        bias_grad[o] += target_grad[o]
    for j in range(source.size):
        value = source[j]
        for o in range(n):
            weight_grad[j, o] += value * target_grad[o]
        # four partial sums hide the latency of the additions
        s0 = s1 = s2 = s3 = weight.dtype.type(0)
        o = 0
        while o + 4 <= n:
            s0 += weight[j, o] * target_grad[o]
            s1 += weight[j, o + 1] * target_grad[o + 1]
            s2 += weight[j, o + 2] * target_grad[o + 2]
            s3 += weight[j, o + 3] * target_grad[o + 3]
            o += 4
        while o < n:
            s0 += weight[j, o] * target_grad[o]
            o += 1
        source_grad[j] = (s0 + s1) + (s2 + s3)


@njit(cache=True, nogil=True)
def loss_and_error(
    loss: int,
    target_class: int,
    target_values: NDArray[np.floating],  # (outputs,) or (0,)  in
    y: NDArray[np.floating],  # (outputs,)                      in/out  y -> ∂L/∂y
) -> float:
    """Return L(y, target), and leave ∂L/∂y in the place of y."""
    n = y.size
    zero, one = y.dtype.type(0), y.dtype.type(1)
    total = 0.0
    if loss == CROSS_ENTROPY:
        top = y[0]
        for o in range(1, n):
            top = max(top, y[o])
        chosen = y[target_class] - top
        mass = zero
        for o in range(n):
            y[o] = np.exp(y[o] - top)
            mass += y[o]
        for o in range(n):
            y[o] /= mass
        y[target_class] -= one
        total = np.log(mass) - chosen
    elif loss == SQUARED_ERROR:
        for o in range(n):
            y[o] -= target_values[o]
            total += 0.5 * y[o] * y[o]
    else:
        half = y.dtype.type(0.5)
        for o in range(n):
            total += max(y[o], zero) - y[o] * target_values[o] + np.log1p(np.exp(-abs(y[o])))
            y[o] = half + half * np.tanh(half * y[o]) - target_values[o]
    return total


@njit(cache=True, nogil=True)
def score(
    readout: Readout,  # in
    loss: int,
    target_class: int,
    target_values: NDArray[np.floating],  # (outputs,) or (0,)  in
    scale: float,
    h: NDArray[np.floating],  # (units,)             in
    features: NDArray[np.floating],  # (features,)   out  f
    error: NDArray[np.floating],  # (outputs,)       out  scale · ∂L/∂y
) -> float:
    """Return scale · L for one stream, and keep what its gradient needs."""
    if readout.hidden_bias.size > 0:
        affine(readout.hidden_weight, readout.hidden_bias, h, features)
        for j in range(features.size):
            features[j] = max(features[j], features.dtype.type(0))
    else:
        for j in range(features.size):
            features[j] = h[j]
    affine(readout.weight, readout.bias, features, error)
    total = loss_and_error(loss, target_class, target_values, error)
    for o in range(error.size):
        error[o] *= scale
    return total * scale


@njit(cache=True, nogil=True)
def readout_gradient(
    readout: Readout,  # in
    h: NDArray[np.floating],  # (units,)                  in
    features: NDArray[np.floating],  # (features,)        in   from `score`
    error: NDArray[np.floating],  # (outputs,)            in   from `score`
    grad: Readout,  # in/out
    h_grad: NDArray[np.floating],  # (units,)             out  ∂L/∂h
    feature_grad: NDArray[np.floating],  # (features,)    scratch
) -> None:
    """Add one stream's gradient of the readout, and form ∂L/∂h."""
    if readout.hidden_bias.size == 0:
        affine_gradient(readout.weight, features, error, grad.weight, grad.bias, h_grad)
        return
    affine_gradient(readout.weight, features, error, grad.weight, grad.bias, feature_grad)
    for j in range(features.size):
        if features[j] <= 0:
            feature_grad[j] = 0
    affine_gradient(
        readout.hidden_weight, h, feature_grad, grad.hidden_weight, grad.hidden_bias, h_grad
    )
