"""Flat-array Numba kernels: callable from Python, from a user's own njit code, and from C.

They validate nothing, allocate nothing per step and raise nothing; `sparsegrad` stands at the
boundary. Arguments come in one order: structure, inputs, outputs, scratch.
"""

if __name__ != "sparsegrad.kernels":
    raise ImportError("import these kernels as sparsegrad.kernels, not as a top-level package")

import sparsegrad.kernels.compiler.cache  # noqa: F401  before the first kernel is defined
from sparsegrad.kernels.influence.csr import csr_contract, csr_update, csr_update_and_contract
from sparsegrad.kernels.influence.panels import (
    panels_contract,
    panels_update,
    panels_update_and_contract,
)

__all__ = [
    "csr_contract",
    "csr_update",
    "csr_update_and_contract",
    "panels_contract",
    "panels_update",
    "panels_update_and_contract",
]
