"""SnAp-1: what one step or HELD steps do to the traces of a row, as linear forms.

All traces of a row go through the same steps, so what these do together is worked out once for the
row and not once for each of its weights. With B_k, s_k and δ_k of held step k, sources z_k and the
old traces J_0,

    J_4           = B_3 B_2 B_1 B_0 J_0 + Σ_k (B_3 … B_(k+1) s_k) z_k
    Σ_k δ_k J_k+1 = a sum over J_0 and z_0 … z_3 as well

and a weight costs one sum for each component of J and one for its gradient. A form is the tuple of
the coefficients of such a sum, those of the sources first. The coefficients are vectors: with
streams side by side a lane is a stream; for a single stream every lane holds the same number.

h enters its own unit again through the unit's weights on itself. Where there are none, as for most
units of a sparse net, no step reads the trace of h, and none is kept: it is dropped. A vanilla
cell then needs no trace at all.

What a step does to all weights of a row is a tuple (keep, slopes, delta):

    keep     the entries of B_u, row by row
    slopes   ∂s'_c/∂a_g of each component that the row's map touches
    delta    δ of component 0, the only one that has any, or 0

How many steps there are, how many components, and whether h is dropped (a tuple of one or none) is
part of the type, so that one text serves all.
"""

from typing import Any, NamedTuple

from numba import njit

from ..vectors.simd import fma, index, load, splat, zero

HELD = 4


class Row(NamedTuple):
    """A row of the maps, and where the numbers of its unit lie in the steps held."""

    abreast: int  # streams side by side
    which: Any  # pointer, the components that its map touches
    touched: int  # how many they are
    carried: int  # how many of them have a trace: all, or all but the first
    components: int  # of the cell
    keep: Any  # pointer, B_u
    columns: int  # from entry to entry of B_u
    block: int  # from step to step of B_u
    slopes: Any  # pointer, ∂s'/∂a_g
    across: int  # from component to component of ∂s'/∂a_g
    d_block: int  # from step to step of ∂s'/∂a_g
    delta: Any  # pointer, δ
    width: int  # from step to step of δ


class Forms(NamedTuple):
    """What the steps held do to a row."""

    gradient: Any  # a form
    traces: Any  # a form for each component that has a trace


@njit(cache=True, nogil=True, forceinline=True)
def _number(row: Row, a: Any, i: int) -> Any:
    """Return a number of a unit for each stream of a group."""
    if row.abreast == 1:
        return splat(a, i)
    return load(a, i)


@njit(cache=True, nogil=True, forceinline=True)
def keep_of(row: Row, k: int, c: int, b: int) -> Any:
    """Return B_u[c, b] at held step k."""
    return _number(row, row.keep, k * row.block + (c * row.components + b) * row.columns)


@njit(cache=True, nogil=True, forceinline=True)
def slope_of(row: Row, k: int, c: int) -> Any:
    """Return ∂s'_c/∂a_g at held step k."""
    return _number(row, row.slopes, k * row.d_block + c * row.across)


@njit(cache=True, nogil=True, forceinline=True)
def delta_of(row: Row, k: int, c: int) -> Any:
    """Return δ_c at held step k."""
    if c == 0:
        return _number(row, row.delta, k * row.width)
    return zero(row.delta)


@njit(cache=True, nogil=True, forceinline=True)
def of_one(row: Row, k: int) -> Any:
    """Return (keep, slopes, delta) at held step k, where the map touches one component."""
    c = index(row.which, 0)
    return (keep_of(row, k, c, c),), (slope_of(row, k, c),), delta_of(row, k, c)


@njit(cache=True, nogil=True, forceinline=True)
def of_two(row: Row, k: int) -> Any:
    """Return (keep, slopes, delta) at held step k, where the map touches two components."""
    b, c = index(row.which, 0), index(row.which, 1)
    keep = (
        keep_of(row, k, b, b), keep_of(row, k, b, c), keep_of(row, k, c, b), keep_of(row, k, c, c),
    )  # fmt: skip
    return keep, (slope_of(row, k, b), slope_of(row, k, c)), delta_of(row, k, b)


@njit(cache=True, nogil=True, forceinline=True)
def _through(x: Any, step: Any) -> Any:
    """Return x B_k of a row vector x."""
    keep = step[0]
    if len(x) == 1:
        return (x[0] * keep[0],)
    return fma(x[0], keep[0], x[1] * keep[2]), fma(x[0], keep[1], x[1] * keep[3])


@njit(cache=True, nogil=True, forceinline=True)
def _share(x: Any, step: Any) -> Any:
    """Return x s_k."""
    slopes = step[1]
    if len(x) == 1:
        return x[0] * slopes[0]
    return fma(x[0], slopes[0], x[1] * slopes[1])


@njit(cache=True, nogil=True, forceinline=True)
def _scored(x: Any, step: Any) -> Any:
    """Return x with δ_k added to its first number."""
    if len(x) == 1:
        return (x[0] + step[2],)
    return x[0] + step[2], x[1]


@njit(cache=True, nogil=True, forceinline=True)
def _scaled(delta: Any, keep: Any) -> Any:
    """Return δ_k times the first row of B_k."""
    if len(keep) == 1:
        return (delta * keep[0],)
    return delta * keep[0], delta * keep[1]


@njit(cache=True, nogil=True, forceinline=True)
def _kept(x: Any, dropped: Any) -> Any:
    """Leave out what belongs to the trace of h, if that is dropped."""
    if len(dropped) == 1:
        return x[1:]
    return x


@njit(cache=True, nogil=True, forceinline=True)
def _back(last: Any, x: Any, s0: Any, s1: Any, s2: Any, dropped: Any) -> Any:
    """Return the form of x J_3 + last z_3, three steps after J_0."""
    x1 = _through(x, s2)
    x0 = _through(x1, s1)
    z = _share(x0, s0), _share(x1, s1), _share(x, s2), last
    return z + _kept(_through(x0, s0), dropped)


@njit(cache=True, nogil=True, forceinline=True)
def _each_back(keep: Any, slopes: Any, s0: Any, s1: Any, s2: Any, dropped: Any) -> Any:
    """Return the form of each component of B_3 J_3 + s_3 z_3."""
    if len(slopes) == 1:
        return (_back(slopes[0], keep, s0, s1, s2, dropped),)
    return (
        _back(slopes[0], keep[:2], s0, s1, s2, dropped),
        _back(slopes[1], keep[2:], s0, s1, s2, dropped),
    )


@njit(cache=True, nogil=True, forceinline=True)
def fold_four_steps(s0: Any, s1: Any, s2: Any, s3: Any, dropped: Any) -> Any:
    """Return the forms of four steps."""
    x2 = _scored(_scaled(s3[2], s3[0]), s2)
    x1 = _scored(_through(x2, s2), s1)
    x0 = _scored(_through(x1, s1), s0)
    z = _share(x0, s0), _share(x1, s1), _share(x2, s2), s3[2] * s3[1][0]
    return Forms(
        z + _kept(_through(x0, s0), dropped),
        _kept(_each_back(s3[0], s3[1], s0, s1, s2, dropped), dropped),
    )


@njit(cache=True, nogil=True, forceinline=True)
def _each(keep: Any, slopes: Any, dropped: Any) -> Any:
    """Return the form of each component of B_0 J_0 + s_0 z_0."""
    if len(slopes) == 1:
        return ((slopes[0], *_kept(keep, dropped)),)
    return (
        (slopes[0], *_kept(keep[:2], dropped)),
        (slopes[1], *_kept(keep[2:], dropped)),
    )


@njit(cache=True, nogil=True, forceinline=True)
def fold_one_step(step: Any, dropped: Any) -> Any:
    """Return the forms of one step."""
    return Forms(
        (step[2] * step[1][0], *_kept(_scaled(step[2], step[0]), dropped)),
        _kept(_each(step[0], step[1], dropped), dropped),
    )


@njit(cache=True, nogil=True, forceinline=True)
def evaluate(form: Any, numbers: Any) -> Any:
    """Return the sum that a form makes of (z_0, …, J)."""
    sum = form[0] * numbers[0]
    if len(form) > 1:
        sum = fma(form[1], numbers[1], sum)
    if len(form) > 2:
        sum = fma(form[2], numbers[2], sum)
    if len(form) > 3:
        sum = fma(form[3], numbers[3], sum)
    if len(form) > 4:
        sum = fma(form[4], numbers[4], sum)
    if len(form) > 5:
        sum = fma(form[5], numbers[5], sum)
    return sum
