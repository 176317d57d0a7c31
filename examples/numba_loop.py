"""A training loop of one's own, compiled as a whole: no Python object between two time steps.

A tanh net on a sparse matrix predicts the next value of a chaotic series. The loop makes D and I
itself and calls the panel kernels of `sparsegrad.kernels`; forward, readout and optimiser are its
own ten lines.
"""

import numpy as np
from numba import njit
from scipy import sparse

import sparsegrad
from sparsegrad.kernels import panels_update_and_contract


@njit(nogil=True)
def train(program, xs, indptr, indices, weights, u, readout, rate, J, scratch):
    """Learn from xs, one value at a time; return the losses.

    D = diag(1 - h'²) W and, for the weight from j into i, I = (1 - h'_i²) h_j.
    """
    k = len(indptr) - 1
    h, new_h, slope = np.zeros(k), np.zeros(k), np.zeros(k)
    D, immediate = np.zeros((1, weights.size)), np.zeros((1, weights.size))
    delta, grad, losses = np.zeros((1, k)), np.zeros(weights.size), np.zeros(len(xs) - 1)
    for t in range(len(xs) - 1):
        for i in range(k):
            a = u[i] * xs[t]
            for e in range(indptr[i], indptr[i + 1]):
                a += weights[e] * h[indices[e]]
            new_h[i] = np.tanh(a)
            slope[i] = 1 - new_h[i] ** 2
            for e in range(indptr[i], indptr[i + 1]):
                D[0, e] = slope[i] * weights[e]
                immediate[0, e] = slope[i] * h[indices[e]]
        error = readout @ new_h - xs[t + 1]
        losses[t] = 0.5 * error**2
        delta[0] = error * readout
        panels_update_and_contract(*program, D, immediate, delta, J, grad, scratch)
        readout -= rate * error * new_h
        weights -= rate * grad
        h[:] = new_h
    return losses


def main(steps: int = 4000) -> tuple[float, float]:
    """Train; return the mean loss of the first and of the last 500 steps."""
    rng = np.random.default_rng(0)
    units = 48
    W = sparse.random_array((units, units), density=0.1, format="csr", rng=rng)
    W.data = rng.standard_normal(W.nnz) / np.sqrt(0.1 * units)
    # each weight writes one unit: that of its row
    owner = np.repeat(np.arange(units), np.diff(W.indptr))
    immediate = sparse.csc_array((np.ones(W.nnz), owner, np.arange(W.nnz + 1)))
    immediate.resize((units, W.nnz))
    pattern = sparsegrad.reach(W, immediate, n=2)
    influence = sparsegrad.Influence(pattern, dtype="float64", threads=1)
    xs = np.empty(steps)
    xs[0] = 0.3
    for t in range(steps - 1):
        xs[t + 1] = 1 - 1.4 * xs[t] ** 2 + 0.3 * (xs[t - 1] if t else 0)  # Hénon's map
    losses = train(
        tuple(influence.program), xs, W.indptr, W.indices, W.data, rng.standard_normal(units),
        np.zeros(units), 0.02, influence.panels,
        np.zeros(influence.program.scratch_size),
    )  # fmt: skip
    return losses[:500].mean(), losses[-500:].mean()


if __name__ == "__main__":
    print("loss {:.4f} -> {:.4f}".format(*main()))
