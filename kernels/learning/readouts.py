"""Readout and loss of one time step, and their gradients by ordinary backpropagation.

    f = h, or with a hidden layer f = max(A h + a, 0);   y = B f + b;   L = loss(y, target)

Matrices are stored transposed, source by source, so that the inner loops run over contiguous
outputs and vectorise.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..compiler.decorators import into_caller
from ..compiler.pointers import float64_at
from ..vectors.arithmetic import add_product, add_products, fill, total
from ..vectors.simd import (
    fma,
    lanes,
    load,
    pointer,
    splat,
    store,
    zero,
)

SQUARED_ERROR = 0
CROSS_ENTROPY = 1
BINARY_CROSS_ENTROPY = 2
HUBER = 3
POISSON = 4


class Readout(NamedTuple):
    """Parameters of a readout, or their gradients; without a hidden layer its arrays are empty."""

    hidden_weight: NDArray[np.floating]  # (units, width)   Aᵀ
    hidden_bias: NDArray[np.floating]  # (width,)           a
    weight: NDArray[np.floating]  # (features, outputs)     Bᵀ
    bias: NDArray[np.floating]  # (outputs,)                b


@njit(cache=True, nogil=True)
def affine(
    abreast: int,
    weight: NDArray[np.floating],  # (sources, targets)  in
    bias: NDArray[np.floating],  # (targets,)            in
    source: NDArray[np.floating],  # (sources,) or more  in
    target: NDArray[np.floating],  # (targets,)          out
) -> None:
    """Form target = weightᵀ source + bias, for one stream or for streams abreast."""
    if abreast > 1:
        affine_abreast(weight, bias, source, target)
        return
    for o in range(target.size):
        target[o] = bias[o]
    for j in range(weight.shape[0]):
        value = source[j]
        for o in range(target.size):
            target[o] += weight[j, o] * value


@njit(cache=True, nogil=True)
def affine_abreast(
    weight: NDArray[np.floating],  # (sources, targets)    in
    bias: NDArray[np.floating],  # (targets,)              in
    source: NDArray[np.floating],  # (sources * lanes,)    in
    target: NDArray[np.floating],  # (targets * lanes,)    out
) -> None:
    """Form target = weightᵀ source + bias of streams abreast, a vector of them at a time."""
    matrix, offset = pointer(weight, 0), pointer(bias, 0)
    x, y = pointer(source, 0), pointer(target, 0)
    sources, targets = weight.shape
    n = lanes(x)
    o = 0
    while o + 4 <= targets:  # four targets share each source that is loaded
        s0, s1, s2, s3 = (
            splat(offset, o), splat(offset, o + 1), splat(offset, o + 2), splat(offset, o + 3),
        )  # fmt: skip
        for j in range(sources):
            v, at = load(x, j * n), j * targets + o
            s0 = fma(splat(matrix, at), v, s0)
            s1 = fma(splat(matrix, at + 1), v, s1)
            s2 = fma(splat(matrix, at + 2), v, s2)
            s3 = fma(splat(matrix, at + 3), v, s3)
        store(y, o * n, s0)
        store(y, o * n + n, s1)
        store(y, o * n + 2 * n, s2)
        store(y, o * n + 3 * n, s3)
        o += 4
    while o < targets:
        s0 = splat(offset, o)
        for j in range(sources):
            s0 = fma(splat(matrix, j * targets + o), load(x, j * n), s0)
        store(y, o * n, s0)
        o += 1


@njit(cache=True, nogil=True)
def affine_gradient(
    abreast: int,
    weight: NDArray[np.floating],  # (sources, targets)         in
    source: NDArray[np.floating],  # (sources,)                 in
    target_grad: NDArray[np.floating],  # (targets,)            in
    weight_grad: NDArray[np.floating],  # (sources, targets)    in/out
    bias_grad: NDArray[np.floating],  # (targets,)              in/out
    source_grad: NDArray[np.floating],  # (sources,)            out
) -> None:
    """Add the gradients of `affine` with respect to weight and bias; form that of its source."""
    if abreast > 1:
        affine_gradient_abreast(weight, source, target_grad, weight_grad, bias_grad, source_grad)
        return
    matrix, matrix_grad = pointer(weight, 0), pointer(weight_grad, 0)
    y_grad = pointer(target_grad, 0)
    sources, targets = weight.shape
    n = lanes(y_grad)
    for o in range(targets):
        bias_grad[o] += target_grad[o]
    for j in range(sources):
        rest, o = weight.dtype.type(0), 0
        if targets >= n:
            v, part = fill(y_grad, source[j]), zero(y_grad)
            while o + n <= targets:
                g, at = load(y_grad, o), j * targets + o
                store(matrix_grad, at, fma(v, g, load(matrix_grad, at)))
                part = fma(load(matrix, at), g, part)
                o += n
            rest = total(part)
        while o < targets:
            weight_grad[j, o] += source[j] * target_grad[o]
            rest += weight[j, o] * target_grad[o]
            o += 1
        source_grad[j] = rest


@njit(cache=True, nogil=True)
def affine_gradient_abreast(
    weight: NDArray[np.floating],  # (sources, targets)          in
    source: NDArray[np.floating],  # (sources * lanes,)          in
    target_grad: NDArray[np.floating],  # (targets * lanes,)     in
    weight_grad: NDArray[np.floating],  # (sources, targets)     in/out
    bias_grad: NDArray[np.floating],  # (targets,)               in/out
    source_grad: NDArray[np.floating],  # (sources * lanes,)     out
) -> None:
    """Add the gradients of `affine_abreast` for weight and bias; form that of its source."""
    matrix, matrix_grad = pointer(weight, 0), pointer(weight_grad, 0)
    x, y_grad, x_grad = pointer(source, 0), pointer(target_grad, 0), pointer(source_grad, 0)
    sources, targets = weight.shape
    n = lanes(x)
    for o in range(targets):
        bias_grad[o] += total(load(y_grad, o * n))
    for j in range(sources):
        v, at = load(x, j * n), j * targets
        part = zero(x)
        o = 0
        while o + 4 <= targets:
            g0, g1 = load(y_grad, o * n), load(y_grad, o * n + n)
            g2, g3 = load(y_grad, o * n + 2 * n), load(y_grad, o * n + 3 * n)
            add_products(matrix_grad, at + o, v, g0, g1, g2, g3)
            part = fma(splat(matrix, at + o), g0, part)
            part = fma(splat(matrix, at + o + 1), g1, part)
            part = fma(splat(matrix, at + o + 2), g2, part)
            part = fma(splat(matrix, at + o + 3), g3, part)
            o += 4
        while o < targets:
            g0 = load(y_grad, o * n)
            add_product(matrix_grad, at + o, v, g0)
            part = fma(splat(matrix, at + o), g0, part)
            o += 1
        store(x_grad, j * n, part)


@njit(cache=True, nogil=True)
def softmax(
    y: NDArray[np.floating],  # (outputs,)  in/out  y -> its probabilities
) -> tuple[np.floating, np.floating]:
    """Turn outputs into probabilities; return the largest y, and Σ exp(y - largest)."""
    top, mass = y[0], y.dtype.type(0)
    for o in range(1, y.size):
        top = max(top, y[o])
    for o in range(y.size):
        y[o] = np.exp(y[o] - top)
        mass += y[o]
    for o in range(y.size):
        y[o] /= mass
    return top, mass


@njit(cache=True, nogil=True)
def loss_and_error(
    loss: int,  # one of those above, or the address of a function (y -> ∂L/∂y, target) -> L
    target_class: int,
    target_values: NDArray[np.floating],  # (outputs,) or (0,)  in
    y: NDArray[np.floating],  # (outputs,)                      in/out  y -> ∂L/∂y
) -> float:
    """Return L(y, target), and leave ∂L/∂y in the place of y."""
    n = y.size
    zero, one = y.dtype.type(0), y.dtype.type(1)
    total = 0.0
    if loss == CROSS_ENTROPY:
        chosen = y[target_class]
        top, mass = softmax(y)
        y[target_class] -= one
        total = np.log(mass) - (chosen - top)
    elif loss == SQUARED_ERROR:
        for o in range(n):
            y[o] -= target_values[o]
            total += 0.5 * y[o] * y[o]
    elif loss == HUBER:
        for o in range(n):
            wrong = y[o] - target_values[o]
            y[o] = min(max(wrong, -one), one)
            total += y[o] * (wrong - y.dtype.type(0.5) * y[o])
    elif loss == POISSON:
        for o in range(n):
            rate = np.exp(y[o])
            total += rate - y[o] * target_values[o]
            y[o] = rate - target_values[o]
    elif loss == BINARY_CROSS_ENTROPY:
        half = y.dtype.type(0.5)
        for o in range(n):
            total += max(y[o], zero) - y[o] * target_values[o] + np.log1p(np.exp(-abs(y[o])))
            y[o] = half + half * np.tanh(half * y[o]) - target_values[o]
    else:
        total = float64_at(loss, (y, target_values))
    return total


@njit(cache=True, nogil=True)
def to_probabilities(
    loss: int,
    outputs: NDArray[np.floating],  # (n, outputs)  in/out
) -> None:
    """Turn outputs into probabilities or rates, as `loss_and_error` forms them.

    Values stay values.
    """
    half = outputs.dtype.type(0.5)
    for i in range(outputs.shape[0]):
        if loss == CROSS_ENTROPY:
            softmax(outputs[i])
        elif loss == BINARY_CROSS_ENTROPY:
            for o in range(outputs.shape[1]):
                outputs[i, o] = half + half * np.tanh(half * outputs[i, o])
        elif loss == POISSON:
            for o in range(outputs.shape[1]):
                outputs[i, o] = np.exp(outputs[i, o])


@into_caller
def readout_outputs(
    readout: Readout,  # in
    abreast: int,
    h: NDArray[np.floating],  # (units,)             in
    features: NDArray[np.floating],  # (features,)   out  f
    outputs: NDArray[np.floating],  # (outputs,)     out  y
) -> None:
    """Form the outputs of a group of streams, and keep what their gradient needs."""
    if readout.hidden_bias.size > 0:
        affine(abreast, readout.hidden_weight, readout.hidden_bias, h, features)
        for j in range(features.size):
            features[j] = max(features[j], features.dtype.type(0))
    else:
        for j in range(features.size):
            features[j] = h[j]
    affine(abreast, readout.weight, readout.bias, features, outputs)


@into_caller
def readout_gradient(
    readout: Readout,  # in
    abreast: int,
    h: NDArray[np.floating],  # (units,)                  in
    features: NDArray[np.floating],  # (features,)        in   from `readout_outputs`
    error: NDArray[np.floating],  # (outputs,)            in   ∂L/∂y
    grad: Readout,  # in/out
    h_grad: NDArray[np.floating],  # (units,)             out  ∂L/∂h
    feature_grad: NDArray[np.floating],  # (features,)    scratch
) -> None:
    """Add the gradient of the readout by a group of streams, and form ∂L/∂h."""
    if readout.hidden_bias.size == 0:
        affine_gradient(abreast, readout.weight, features, error, grad.weight, grad.bias, h_grad)
        return
    affine_gradient(abreast, readout.weight, features, error, grad.weight, grad.bias, feature_grad)
    for j in range(features.size):
        if features[j] <= 0:
            feature_grad[j] = 0
    affine_gradient(
        abreast, readout.hidden_weight, h, feature_grad, grad.hidden_weight, grad.hidden_bias,
        h_grad,
    )  # fmt: skip
