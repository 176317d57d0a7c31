"""The masked product J <- P o (D J + I): our kernels, and what else can compute it.

    panels      Influence.update, one thread
    panels-2    the same on two threads
    csr         sparsegrad.kernels.csr_update, the plain family
    scipy       (D @ J).multiply(P)
    graphblas   C(P.S) << plus_times(D @ J), SuiteSparse
    numpy       P * (D @ J), dense
    jax         P * (D @ J + I), dense, under jit

All but panels-2 run on one thread. Every contestant starts from the same values, whichever process
it stands in. scipy, graphblas and numpy leave I out.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
from contestant import Contestant, DoesNotFitError
from numpy.typing import NDArray
from scipy import sparse
from workloads import Product

from sparsegrad.influence.influence import Influence
from sparsegrad.kernels.influence.csr import csr_update
from sparsegrad.profiling.timing import random_values
from sparsegrad.symbolic.pattern import reach

DENSE_MULTIPLY_ADDS = 1e11
"""The dense product is run up to this size: beyond it takes seconds and shows nothing new."""
LARGE = 2**27
"""Entries of J beyond which panels run alone, and unchecked: a comparison takes several J."""

Data = NDArray[np.floating]


class Problem:
    """The values that all contestants of a product start from; J is (weights, units)."""

    def __init__(self, workload: Product) -> None:
        self.workload = workload
        self.dtype = np.dtype(workload.dtype)
        drawn = workload.structure()
        self.pattern = reach(drawn.dynamics, drawn.immediate, workload.n)
        self.dynamics_data, self.immediate_data = random_values(self.pattern, 1, workload.dtype)

    @cached_property
    def influence_data(self) -> Data:
        """Entries of J to start from, by weight."""
        rng = np.random.default_rng(1)
        return rng.standard_normal(self.pattern.nnz, dtype=self.dtype)

    def by_weight(self, data: Data) -> sparse.csr_array:
        """Return J with these entries, (weights, units)."""
        pattern = self.pattern
        return sparse.csr_array((data, pattern.indices, pattern.indptr), shape=pattern.shape)

    def by_unit(self, data: Data) -> sparse.csr_array:
        """Return J with these entries, (units, weights)."""
        return sparse.csr_array(self.by_weight(data).T)

    def dynamics(self) -> sparse.csr_array:
        """Return D, (units, units)."""
        pattern = self.pattern
        return sparse.csr_array(
            (self.dynamics_data[0], pattern.dynamics_indices, pattern.dynamics_indptr),
            shape=[pattern.shape[1]] * 2,
        )

    def immediate(self) -> sparse.csr_array:
        """Return I by weight, (weights, units)."""
        pattern = self.pattern
        return sparse.csr_array(
            (self.immediate_data[0], pattern.immediate_indices, pattern.immediate_indptr),
            shape=pattern.shape,
        )

    def require(self, needed: float, limit: float) -> None:
        """Refuse what needs more bytes than the limit, or takes minutes."""
        if self.pattern.nnz > LARGE:
            raise DoesNotFitError(f"{self.pattern.nnz:.1e} entries of J take minutes")
        if needed > limit:
            raise DoesNotFitError(f"needs {needed / 2**30:.1f} GiB of {limit / 2**30:.1f} GiB")

    def require_dense(self, matrices: int, limit: float) -> None:
        """Refuse dense products that are too large."""
        weights, units = self.pattern.shape
        self.require(matrices * self.dtype.itemsize * units * weights, limit)
        if units * units * weights > DENSE_MULTIPLY_ADDS:
            raise DoesNotFitError(f"{units * units * weights:.1e} dense multiply-adds")


def panels(task: Problem, limit: float, threads: int = 1) -> Contestant:
    influence = Influence(task.pattern, dtype=task.dtype, threads=threads)

    def step() -> None:
        influence.update(task.dynamics_data, task.immediate_data)

    def result() -> sparse.csr_array:
        influence.from_scipy(task.by_weight(task.influence_data).T)
        step()
        return sparse.csr_array(influence.to_scipy().T - task.immediate())

    return Contestant(step, result)


def csr(task: Problem, limit: float) -> Contestant:
    pattern = task.pattern
    task.require((task.dtype.itemsize + 4) * pattern.nnz, limit)
    dynamics, immediate = task.dynamics_data[0], task.immediate_data[0]
    values = task.influence_data.copy()
    work = np.zeros(pattern.shape[1], task.dtype)

    def step() -> None:
        csr_update(
            pattern.dynamics_indptr, pattern.dynamics_indices, pattern.immediate_indptr,
            pattern.immediate_indices, pattern.indptr, pattern.indices, dynamics,
            immediate, values, work,
        )  # fmt: skip

    def result() -> sparse.csr_array:
        values[:] = task.influence_data
        step()
        return sparse.csr_array(task.by_weight(values.copy()) - task.immediate())

    return Contestant(step, result)


def scipy_product(task: Problem, limit: float) -> Contestant:
    task.require(0, limit)
    workload, pattern = task.workload, task.pattern
    drawn = workload.structure()
    unmasked = reach(drawn.dynamics, drawn.immediate, workload.n + 1).nnz  # of D J
    task.require((task.dtype.itemsize + 4) * (3 * pattern.nnz + unmasked), limit)
    dynamics = task.dynamics()
    influence = task.by_unit(task.influence_data)
    mask = task.by_unit(np.ones_like(task.influence_data))

    def step() -> sparse.csr_array:
        return (dynamics @ influence).multiply(mask)

    return Contestant(step, lambda: sparse.csr_array(step().T))


def graphblas_product(task: Problem, limit: float) -> Contestant:
    import graphblas
    from graphblas import Matrix, semiring

    task.require((task.dtype.itemsize + 8) * 3 * task.pattern.nnz, limit)
    graphblas.ss.config["nthreads"] = 1

    def matrix(array: sparse.csr_array) -> Matrix:
        # copies: GraphBLAS takes ownership of the memory that it is given
        return Matrix.from_csr(
            array.indptr.copy(), array.indices.copy(), array.data.copy(), ncols=array.shape[1]
        )

    dynamics, influence = matrix(task.dynamics()), matrix(task.by_unit(task.influence_data))
    units, weights = influence.shape
    dtype = influence.dtype

    def step() -> Matrix:
        product = Matrix(dtype, units, weights)
        product(influence.S) << semiring.plus_times(dynamics @ influence)
        product.wait()
        return product

    def result() -> sparse.csr_array:
        indptr, indices, data = step().to_csr()
        by_unit = sparse.csr_array((data, indices, indptr), shape=(units, weights))
        return sparse.csr_array(by_unit.T)

    return Contestant(step, result)


def numpy_product(task: Problem, limit: float) -> Contestant:
    task.require_dense(3, limit)
    dynamics = task.dynamics().toarray()
    influence = task.by_unit(task.influence_data).toarray()
    mask = task.by_unit(np.ones_like(task.influence_data)).toarray()
    product = np.empty_like(influence)

    def step() -> Data:
        np.matmul(dynamics, influence, out=product)
        np.multiply(product, mask, out=product)
        return product

    return Contestant(step, lambda: sparse.csr_array(step().T))


def jax_product(task: Problem, limit: float) -> Contestant:
    import jax
    import jax.numpy as jnp

    task.require_dense(4, limit)
    jax.config.update("jax_enable_x64", task.dtype == np.float64)
    dynamics = jnp.asarray(task.dynamics().toarray())
    immediate = jnp.asarray(task.immediate().T.toarray())
    influence = jnp.asarray(task.by_unit(task.influence_data).toarray())
    mask = jnp.asarray(task.by_unit(np.ones_like(task.influence_data)).toarray())
    update = jax.jit(lambda p, d, j, i: p * (d @ j + i))

    def step() -> jax.Array:
        return update(mask, dynamics, influence, immediate).block_until_ready()

    def result() -> sparse.csr_array:
        return sparse.csr_array(np.asarray(step()).T) - task.immediate()

    return Contestant(step, result)


CONTESTANTS: dict[str, Callable[[Problem, float], Contestant]] = {
    "panels": panels,
    "panels-2": lambda task, limit: panels(task, limit, threads=2),
    "csr": csr,
    "scipy": scipy_product,
    "graphblas": graphblas_product,
    "numpy": numpy_product,
    "jax": jax_product,
}


def contestant(name: str, workload: Product, limit: float) -> Contestant:
    """Prepare one for a workload within so many bytes."""
    task = Problem(workload)
    made = CONTESTANTS[name](task, limit)
    if task.pattern.nnz > LARGE:
        made.result = None
    cost = task.pattern.cost(dtype=task.dtype)
    made.about = {**cost._asdict(), "weights": task.pattern.shape[0]}
    return made
