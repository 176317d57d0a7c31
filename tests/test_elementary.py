"""Elementary functions of vectors and numbers, over every exponent, against longer arithmetic."""

import numpy as np
import pytest
from numba import njit
from numba.core import config

from sparsegrad.kernels.vectors import elementary
from sparsegrad.kernels.vectors.elementary import (
    cos,
    exp,
    log,
    magnitude,
    sin,
    sqrt,
    where_at_least,
    where_equal,
    where_greater,
)  # fmt: skip
from sparsegrad.kernels.vectors.simd import lanes, load, pointer, put, store, value

FUNCTIONS = {f.__name__: f for f in (exp, log, sin, cos, sqrt, magnitude)}
WORST = {  # units in the last place, as the table of elementary.py states them
    "exp": (1, 1),
    "log": (1, 1),
    "sin": (0.51, 1),
    "cos": (0.51, 1),
    "sqrt": (0.5, 0.5),
    "magnitude": (0, 0),
}
compiled = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="the twins are NumPy's")


def over(function):
    """Compile a kernel that takes an array through `function`, by vectors, then by numbers."""

    @njit
    def run(x, y):
        a, out, i = pointer(x, 0), pointer(y, 0), 0
        while i + lanes(a) <= x.size:
            store(out, i, function(load(a, i)))
            i += lanes(a)
        while i < x.size:
            put(out, i, function(value(a, i)))
            i += 1

    return run


@njit
def choose(x, y):
    a, out, size = pointer(x, 0), pointer(y, 0), x.size
    one, two = x.dtype.type(1), x.dtype.type(2)
    i = 0
    while i + lanes(a) <= x.size:
        store(out, i, where_greater(load(a, i), one, two, load(a, i)))
        store(out, size + i, where_at_least(load(a, i), one, two, load(a, i)))
        store(out, 2 * size + i, where_equal(one, load(a, i), load(a, i), two))
        i += lanes(a)
    while i < x.size:
        put(out, i, where_greater(value(a, i), one, two, value(a, i)))
        put(out, size + i, where_at_least(value(a, i), one, two, value(a, i)))
        put(out, 2 * size + i, where_equal(one, value(a, i), value(a, i), two))
        i += 1


def every_exponent(dtype, rng, count=1 << 18):
    """Draw numbers by their bits, so that all exponents are as likely, and add special ones."""
    kind = {"float32": np.uint32, "float64": np.uint64}[dtype]
    bits = rng.integers(0, np.iinfo(kind).max, count, dtype=kind, endpoint=True)
    tiny, most = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    ends = [0.0, tiny, np.finfo(dtype).tiny, 1.0, most, np.inf, np.pi / 2, 2.0**20, 2.0**20 + 1]
    usual = np.concatenate([np.linspace(-750, 750, count), np.linspace(-3, 3, count)])
    near = 1 + np.linspace(-1e-3, 1e-3, count)
    multiples = rng.integers(1, 1 << 19, count) * (np.pi / 2)  # where sines cancel
    parts = (bits.view(dtype), ends, np.negative(ends), usual, near, multiples, [np.nan])
    return np.concatenate([np.asarray(part, dtype) for part in parts])


def reference(name, x):
    wide = np.longdouble if x.dtype == np.float64 else np.float64
    with np.errstate(all="ignore"):
        return getattr(np, {"magnitude": "abs"}.get(name, name))(x.astype(wide))


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_is_what_the_table_states(name, dtype, rng):
    x = every_exponent(dtype, rng)
    y, exact = np.empty_like(x), reference(name, x)
    over(FUNCTIONS[name])(x, y)
    with np.errstate(all="ignore"):
        rounded = exact.astype(dtype)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(exact))
    far = np.isinf(rounded)
    np.testing.assert_array_equal(y[far], rounded[far])
    known = np.isfinite(rounded)
    with np.errstate(over="ignore"):  # beyond the largest number
        unit = np.spacing(np.abs(rounded[known])).astype(exact.dtype)
    error = np.abs(y[known] - exact[known]) / unit
    worst = WORST[name][dtype == "float64"]
    at = int(error.argmax())
    assert error[at] <= worst + 1e-2 * (worst > 0), (error[at], x[known][at])
    zero = known & (exact == 0)
    np.testing.assert_array_equal(np.signbit(y[zero]), np.signbit(exact[zero]))


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_number_by_itself_gets_the_bits_of_a_lane(name, dtype, rng):
    x = every_exponent(dtype, rng, 1 << 8)
    kernel = over(FUNCTIONS[name])
    together, alone = np.empty_like(x), np.empty_like(x)
    kernel(x, together)
    for i in range(x.size):
        kernel(x[i : i + 1], alone[i : i + 1])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [3, 32])
def test_a_choice_is_made_lane_by_lane(size, dtype):
    x = np.resize(np.array([0.5, 1.0, np.nan, 1.5, -np.inf, np.inf], dtype), size)
    y = np.empty(3 * size, dtype)
    choose(x, y)
    two = np.dtype(dtype).type(2)
    expected = [np.where(x > 1, two, x), np.where(x >= 1, two, x), np.where(x == 1, x, two)]
    np.testing.assert_array_equal(y, np.concatenate(expected))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_interpreted_code_takes_numpys(name):
    x = np.array([0.25, 1.0, 4.0])
    with np.errstate(all="ignore"):
        twin = getattr(elementary, name)(x)
    np.testing.assert_array_equal(twin, reference(name, x).astype(float))
