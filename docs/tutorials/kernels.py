"""
Kernels from Numba and from C
=============================

Three doors to the engine: `sparsegrad.Influence` from Python, the kernels from your own compiled
loop, and the same kernels as C function pointers.
"""

# %%
# Symbolic, once: patterns alone. A net of 40 units in which a tenth of the connections exist, and
# five weights into each unit.

import numba
import numpy as np
from scipy import sparse

import sparsegrad
from sparsegrad.kernels import csr_update_and_contract, panels_update_and_contract

rng = np.random.default_rng(0)
units, steps = 40, 20
D = sparse.random_array((units, units), density=0.1, rng=rng, format="csr")
I = sparse.kron(sparse.eye_array(units), np.ones((1, 5)), format="csc")
pattern = sparsegrad.reach(D, I, n=2)
print(pattern)
print(pattern.cost(batch=1, dtype="float64"))

# %%
# Numeric, every step: values of D in CSR order, of I in CSC order (weight by weight).

dynamics = rng.normal(size=(steps, 1, D.nnz)) / 3  # (time, batch, nnz)
immediates = rng.normal(size=(steps, 1, I.nnz))
state_grads = rng.normal(size=(steps, 1, units))  # δ = ∂L_t/∂s_t

J = sparsegrad.Influence(pattern, dtype="float64")
total = np.zeros(pattern.shape[0])
for t in range(steps):
    total += J.update_and_contract(dynamics[t], immediates[t], state_grads[t])
print(np.linalg.norm(total), J.to_scipy().shape)

# %%
# **From Numba.** The panel kernels take `Influence.program`, flat arrays, and then inputs, outputs
# and scratch. They allocate nothing and raise nothing, so a whole loop over time compiles.


@numba.njit
def total_gradient(program, dynamics, immediates, state_grads, influence, scratch):
    """Return the sum of the gradients of all steps."""
    total = np.zeros(immediates.shape[2])
    grad = np.zeros_like(total)
    for t in range(len(dynamics)):
        panels_update_and_contract(
            *program, dynamics[t], immediates[t], state_grads[t], influence, grad, scratch
        )
        total += grad
    return total


J = sparsegrad.Influence(pattern, dtype="float64")
scratch = np.zeros(J.program.scratch_size)
fast = total_gradient(tuple(J.program), dynamics, immediates, state_grads, J.panels, scratch)
np.testing.assert_allclose(fast, total, rtol=1e-12)

# %%
# **The plain family** goes one weight at a time over a CSR. It is short: read it first. Here from
# Python; the same call compiles inside your own loop.

influence, work = np.zeros(pattern.nnz), np.zeros(units)
plain, grad = np.zeros(pattern.shape[0]), np.zeros(pattern.shape[0])
for t in range(steps):
    csr_update_and_contract(
        pattern.dynamics_indptr,
        pattern.dynamics_indices,
        pattern.immediate_indptr,
        pattern.immediate_indices,
        pattern.indptr,
        pattern.indices,
        dynamics[t, 0],
        immediates[t, 0],
        state_grads[t, 0],
        influence,
        grad,
        work,
    )
    plain += grad
np.testing.assert_allclose(plain, total, rtol=1e-10)

# %%
# **From C.** `sparsegrad.interop.c` gives the program as a struct and the kernels as function
# pointers; ``sparsegrad.h``, in the folder that ``header()`` names, describes every argument.

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

from sparsegrad.interop.c import CProgram, functions, header

SOURCE = """
#include "sparsegrad.h"

void total(const sparsegrad_program *p, const sparsegrad_float64_functions *f, int64_t steps,
           const double *d, const double *i, const double *delta, double *influence,
           double *grad, double *step_grad, double *scratch) {
    for (int64_t t = 0; t < steps; t++) {
        f->update_and_contract(p, 1, d + t * p->dynamics_nnz, i + t * p->immediate_nnz,
                               delta + t * p->units, influence, step_grad, scratch);
        for (int64_t w = 0; w < p->weights; w++) grad[w] += step_grad[w];
    }
}
"""


def build(source: str) -> ctypes.CDLL:
    """Compile a C library."""
    with tempfile.TemporaryDirectory() as folder:
        file, library = Path(folder) / "total.c", Path(folder) / "total.so"
        file.write_text(source)
        command = ["cc", "-shared", "-fPIC", "-O2", "-I", header(), file, "-o", library]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(library))


if shutil.which("cc"):
    J = sparsegrad.Influence(pattern, dtype="float64")
    program = CProgram(J)
    from_c, step_grad = np.zeros(pattern.shape[0]), np.zeros(pattern.shape[0])
    arrays = (dynamics, immediates, state_grads, J.panels, from_c, step_grad, scratch)
    build(SOURCE).total(
        ctypes.byref(program.struct),
        ctypes.byref(functions("float64")),
        ctypes.c_int64(steps),
        *[ctypes.c_void_p(array.ctypes.data) for array in arrays],
    )
    np.testing.assert_allclose(from_c, total, rtol=1e-12)
    print("C agrees")

# %%
# The panel kernels need C-contiguous arrays and refuse others when they compile. A step that should
# use several threads is `Influence`'s own; embedded ones run on the caller's thread.
