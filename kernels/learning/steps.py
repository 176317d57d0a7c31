"""One time step of a batch of streams, up to the learning signal; the same for every method.

Nothing that outlives a step changes before every stream has been found good: `observe` works in
scratch alone. So a bad input leaves state, weights, influence and optimiser as they were.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..cells.layers import Layers, step_layers
from ..cells.maps import Maps, apply_rows
from ..cells.maps_abreast import apply_rows_abreast
from ..compiler.borrow import borrow
from ..compiler.decorators import into_caller
from ..vectors.finite import all_finite, is_outgrown, outgrown
from .optimizers import Optimizer, apply_gradient
from .readouts import CROSS_ENTROPY, Readout, loss_and_error, readout_gradient, readout_outputs

FINE, BAD_INPUT, BAD_TARGET, BAD_STATE, BAD_LOSS, BAD_GRADIENT, GROWN, LOST = range(8)
WATCH = 32
"""Steps from one look at the influence to the next: a read of J costs about a third of a step."""


class Chunk(NamedTuple):
    """The data of a call: T steps of B streams; the targets of the other losses are empty."""

    xs: NDArray[np.floating]  # (T, B, inputs)
    classes: NDArray[np.int64]  # (T, B), or (0, 0)
    values: NDArray[np.floating]  # (T, B, outputs), or (T, B, 0)
    scales: NDArray[np.floating]  # (T, B) weight of each loss, divided by B; 0: not scored
    resets: NDArray[np.bool_]  # (T, B) a sequence starts here
    losses: NDArray[np.float64]  # (T,) out
    outputs: NDArray[np.floating]  # (T, B, outputs) out: y before the update; (0, 0, 0): not asked
    first: int  # step to go on from
    pause: int  # step to come back at, where the method holds nothing back: for signals


class Streams(NamedTuple):
    """The streams between steps, and the scratch of a step.

    Streams go in groups of 1, or of as many as a vector has lanes: side by side, one in each lane,
    so that one load of a weight serves them all. A column is a unit (a source, a feature …) of a
    stream: that of stream ``group * abreast + lane`` is column ``unit * abreast + lane``. Lanes
    left over repeat the last stream, with an error of 0.
    """

    abreast: int  # streams of a group
    state: NDArray[np.floating]  # (groups, C, units)
    old_state: NDArray[np.floating]  # (groups, C, units)   what the step starts from: state, or 0
    new_state: NDArray[np.floating]  # (groups, C, units)
    pre: NDArray[np.floating]  # (groups, maps, units)
    features: NDArray[np.floating]  # (groups, features)
    error: NDArray[np.floating]  # (groups, outputs)
    feature_grad: NDArray[np.floating]  # (features,)
    y: NDArray[np.floating]  # (outputs,) of one stream
    since: NDArray[np.int64]  # (1,) steps since the last update; -1: the influence is lost
    steps: NDArray[np.int64]  # (1,) steps done so far
    pending: NDArray[np.bool_]  # (B,) streams that begin a new sequence with the next step


class Steps(NamedTuple):
    """What a method reads of each step; several are held where it takes them at once."""

    sources: NDArray[np.floating]  # (held, groups, units + inputs + 1)   z
    gathered: NDArray[np.floating]  # (held, groups, weights + SLACK) or (held, groups, 0)  z_src(w)
    d_state: NDArray[np.floating]  # (held, groups, C, C, units)
    d_pre: NDArray[np.floating]  # (held, groups, C, maps, units)
    state_grad: NDArray[np.floating]  # (held, groups, C * units)   ∂L_t/∂s_t; 0 for all but h
    resets: NDArray[np.bool_]  # (held, B)   a sequence starts here


class Learner(NamedTuple):
    """What is learned, and how the gradient is spent."""

    maps: Maps
    layers: Layers | None  # of a stack; None: one cell
    parts: NDArray[np.int64]  # (parts + 1,) units that a thread takes at a time
    threads: int | None  # that share the parts; None: no more than one
    readout: Readout
    loss: int
    optimizer: Optimizer
    update_every: int  # 0: gradients only add up
    readout_flat: NDArray[np.floating]  # (readout,) the arrays of `readout`, as one
    grad: NDArray[np.floating]  # (weights,) + SLACK, for what vectors spill: always 0
    readout_grad: Readout
    readout_grad_flat: NDArray[np.floating]  # (readout,)
    readout_kept: NDArray[np.floating]  # (readout,) scratch: its gradient before a step


@njit(cache=True, nogil=True)
def copy(
    source: NDArray[np.generic],  # (n,)  in
    target: NDArray[np.generic],  # (n,)  out
) -> None:
    """Copy; a slice assignment would bring its shape error, and seconds of compilation."""
    for i in range(source.size):
        target[i] = source[i]


@njit(cache=True, nogil=True)
def any_scored(scales: NDArray[np.floating]) -> bool:
    """Whether the loss of any of these streams counts."""
    for b in range(scales.size):
        if scales[b] != 0:
            return True
    return False


@njit(cache=True, nogil=True)
def clear_stream(
    values: NDArray[np.floating],  # (columns,)  in/out
    abreast: int,
    lane: int,
) -> None:
    """Set what one stream of a group holds to 0."""
    for i in range(lane, values.size, abreast):
        values[i] = 0


@njit(cache=True, nogil=True)
def bad_stream(values: NDArray[np.floating], abreast: int) -> int:
    """Return the first lane with a value that is not finite, or -1."""
    if all_finite(values):
        return -1
    first = abreast
    for i in range(values.size):
        if not np.isfinite(values[i]):
            first = min(first, i % abreast)
    return first


@into_caller
def take_input(
    xs: NDArray[np.floating],  # (B, inputs)                          in
    resets: NDArray[np.bool_],  # (B,)                                in
    abreast: int,
    old_state: NDArray[np.floating],  # (groups, C, units)            in/out
    sources: NDArray[np.floating],  # (groups, units + inputs + 1)    out
) -> int:
    """Set out from old states, 0 where a sequence begins. Return a stream of bad input, or -1."""
    columns, batch = old_state.shape[2], xs.shape[0]
    for place in range(old_state.shape[0] * abreast):
        b = min(place, batch - 1)
        group, lane = place // abreast, place % abreast
        if resets[b]:
            clear_stream(old_state[group].ravel(), abreast, lane)
        bad = 0  # what was copied is looked at: somebody may write to the caller's array
        for i in range(xs.shape[1]):
            x = xs[b, i]
            sources[group, columns + i * abreast + lane] = x
            bad += not np.isfinite(x)
        if bad > 0:
            return b
    for group in range(old_state.shape[0]):
        copy(old_state[group, 0], sources[group, :columns])
    return -1


@njit(cache=True, nogil=True)
def apply_part(
    part: int,
    parts: NDArray[np.int64],  # (parts + 1,)                                    in
    abreast: int,
    maps: Maps,  # in
    sources: NDArray[np.floating],  # (groups, units + inputs + 1)               in
    pre: NDArray[np.floating],  # (groups, maps, units)                          out
    gathered: NDArray[np.floating],  # (groups, weights + SLACK) or (groups, 0)  out
) -> None:
    """Form what the maps give to a part of the units, for all streams."""
    first, last = parts[part], parts[part + 1]
    for group in range(sources.shape[0]):
        if abreast == 1:
            apply_rows(first, last, maps, sources[group], pre[group], gathered[group])
        else:
            apply_rows_abreast(first, last, maps, sources[group], pre[group])


@njit(cache=True, nogil=True, parallel=True)
def apply_shared(
    threads: int,
    parts: NDArray[np.int64],
    abreast: int,
    maps: Maps,
    sources: NDArray[np.floating],
    pre: NDArray[np.floating],
    gathered: NDArray[np.floating],
) -> None:
    """Run `apply_part` on all parts, a thread on some of them each; otherwise its arguments."""
    count = parts.size - 1
    for i in prange(threads):
        for part in range(count * i // threads, count * (i + 1) // threads):
            apply_part(part, parts, abreast, maps, sources, pre, gathered)


@njit(cache=True, nogil=True)
def apply_parts(
    threads: int | None,
    parts: NDArray[np.int64],
    abreast: int,
    maps: Maps,
    sources: NDArray[np.floating],
    pre: NDArray[np.floating],
    gathered: NDArray[np.floating],
) -> None:
    """Run `apply_part` on all parts.

    A parallel kernel takes seconds to compile: where `threads` is None, Numba drops its branch
    before it compiles.
    """
    if threads is None:
        for part in range(parts.size - 1):
            apply_part(part, parts, abreast, maps, sources, pre, gathered)
    else:
        apply_shared(threads, parts, abreast, maps, sources, pre, gathered)


@njit(cache=True, nogil=True)
def form_maps(
    layers: Layers | None,
    threads: int | None,
    parts: NDArray[np.int64],
    abreast: int,
    maps: Maps,
    sources: NDArray[np.floating],
    pre: NDArray[np.floating],
    gathered: NDArray[np.floating],
) -> None:
    """Run `apply_parts` on one cell; the maps of layers wait for the states below them."""
    if layers is None:
        apply_parts(threads, parts, abreast, maps, sources, pre, gathered)


@njit(cache=True, nogil=True)
def form_states(
    layers: Layers | None,
    update: Callable[..., None],  # of one cell
    abreast: int,
    maps: Maps,  # in
    sources: NDArray[np.floating],  # (sources,)            in; of layers in/out
    old_state: NDArray[np.floating],  # (C, units)          in
    pre: NDArray[np.floating],  # (maps, units)             in; of layers out
    new_state: NDArray[np.floating],  # (C, units)          out
    d_state: NDArray[np.floating],  # (C, C, units)         out
    d_pre: NDArray[np.floating],  # (C, maps, units)        out
    gathered: NDArray[np.floating],  # as of `apply_part`   of layers out
) -> None:
    """Form the new state of a group of streams; a stack's arrays are (1, …, all) of all layers."""
    if layers is None:
        update(old_state, pre, new_state, d_state, d_pre)
    else:
        step_layers(
            layers, abreast, maps, sources, old_state.ravel(), pre.ravel(), new_state.ravel(),
            d_state.ravel(), d_pre.ravel(), gathered,
        )  # fmt: skip


@into_caller
def observe(
    update: Callable[..., None],  # of one cell
    learner: Learner,  # in
    chunk: Chunk,  # in; losses out
    t: int,
    streams: Streams,  # in/out: scratch only
    steps: Steps,  # out
    k: int | np.int64,  # place of the step in `steps`
) -> tuple[int, int]:
    """Run step t forward and score it; return what is wrong, and with which stream."""
    abreast, sources, pre = streams.abreast, steps.sources[k], streams.pre
    loss = learner.loss
    copy(streams.state.ravel(), streams.old_state.ravel())
    for b in range(streams.pending.size):
        steps.resets[k, b] = chunk.resets[t, b] or streams.pending[b]
    b = take_input(chunk.xs[t], steps.resets[k], abreast, streams.old_state, sources)
    if b >= 0:
        return BAD_INPUT, b
    form_maps(
        learner.layers, learner.threads, learner.parts, abreast, learner.maps, sources, pre,
        steps.gathered[k],
    )  # fmt: skip
    total = 0.0
    for group in range(pre.shape[0]):
        new_state, error = streams.new_state[group], streams.error[group]
        form_states(
            learner.layers, update, abreast, learner.maps, sources[group],
            streams.old_state[group], pre[group], new_state, steps.d_state[k, group],
            steps.d_pre[k, group], steps.gathered[k, group],
        )  # fmt: skip
        lane = bad_stream(new_state.ravel(), abreast)
        if lane >= 0:
            return BAD_STATE, group * abreast + lane
        first = group * abreast
        last = min(first + abreast, chunk.xs.shape[1])
        scored = any_scored(chunk.scales[t, first:last])
        if scored or chunk.outputs.size > 0:
            readout_outputs(learner.readout, abreast, new_state[0], streams.features[group], error)
        if chunk.outputs.size > 0:
            for b in range(first, last):
                for o in range(chunk.outputs.shape[2]):
                    chunk.outputs[t, b, o] = error[o * abreast + b - first]
        if not scored:
            error[:] = 0
            continue
        for b in range(first, last):
            target_class = chunk.classes[t, b] if loss == CROSS_ENTROPY else 0
            fault, part_loss = score_stream(
                loss, chunk.scales[t, b], target_class, chunk.values[t, b], abreast,
                b - first, error, streams.y,
            )  # fmt: skip
            if fault != FINE:
                return fault, b
            total += part_loss
        for lane in range(last - first, abreast):
            clear_stream(error, abreast, lane)
        if outgrown(error) or outgrown(streams.features[group]):  # their product is a gradient
            return BAD_GRADIENT, first
    chunk.losses[t] = total
    return FINE, 0


@into_caller
def score_stream(
    loss: int,
    scale: float,
    target_class: int,
    target_values: NDArray[np.floating],  # (outputs,) or (0,)  in
    abreast: int,
    lane: int,
    error: NDArray[np.floating],  # (outputs * abreast,)        in/out  y -> scale · ∂L/∂y
    y: NDArray[np.floating],  # (outputs,)                      scratch
) -> tuple[int, float]:
    """Return what is wrong, and scale · L, for one stream of a group."""
    if scale == 0:
        clear_stream(error, abreast, lane)
        return FINE, 0.0
    if not all_finite(target_values):
        return BAD_TARGET, 0.0
    for o in range(y.size):
        y[o] = error[o * abreast + lane]
    total = scale * loss_and_error(loss, target_class, target_values, y)
    for o in range(y.size):
        error[o * abreast + lane] = scale * y[o]
    return (FINE if np.isfinite(total) else BAD_LOSS), total


@into_caller
def signal(
    learner: Learner,  # in; readout_grad in/out
    chunk: Chunk,  # in
    t: int,
    streams: Streams,  # in
    state_grad: NDArray[np.floating],  # (groups, C * units)  out
) -> None:
    """Form the learning signal ∂L_t/∂s_t of every stream, and add the readout's gradient."""
    abreast, units = streams.abreast, streams.state.shape[2]
    for group in range(streams.state.shape[0]):
        h_grad = state_grad[group, :units]
        first = group * abreast
        if not any_scored(chunk.scales[t, first : first + abreast]):
            h_grad[:] = 0
            continue
        readout_gradient(
            learner.readout,
            abreast,
            streams.new_state[group, 0],
            streams.features[group],
            streams.error[group],
            learner.readout_grad,
            h_grad,
            streams.feature_grad,
        )


@njit(cache=True, nogil=True)
def grown_stream(
    streams: Streams,  # in
    resets: NDArray[np.bool_],  # (B,)                 in
    influence: NDArray[np.floating],  # (groups, size)  in, streams side by side in each
) -> int:
    """Return the first stream whose influence will soon overflow and is not reset, or -1.

    Only every so many steps: from there to an overflow J must grow 4-fold at each of them.
    """
    if streams.steps[0] % WATCH != 0:
        return -1
    for group in range(influence.shape[0]):
        if not outgrown(influence[group]):
            continue
        for i in range(influence.shape[1]):
            place = group * streams.abreast + i % streams.abreast
            b = min(place, resets.size - 1)
            if is_outgrown(influence[group, i]) and not (resets[b] or streams.pending[b]):
                return b
    return -1


@into_caller
def update_due(learner: Learner, streams: Streams) -> bool:
    """Whether the gradient is spent after the step that is under way: the one place that says."""
    return learner.update_every > 0 and streams.since[0] + 1 >= learner.update_every


@into_caller
def finish(learner: Learner, streams: Streams) -> bool:
    """Spend the gradient where it is time, and take the new state over.

    False: the gradient is not finite; it is dropped, all else is as it was before the step.
    """
    due = update_due(learner, streams)
    if due and not apply_gradient(
        learner.optimizer,
        learner.maps.weights,
        learner.readout_flat,
        learner.grad,
        learner.readout_grad_flat,
    ):
        return False
    copy(streams.new_state.ravel(), streams.state.ravel())
    streams.since[0] = 0 if due else streams.since[0] + 1
    streams.steps[0] += 1
    for b in range(streams.pending.size):
        streams.pending[b] = False
    return True


@into_caller
def lost(streams: Streams, t: int | np.int64) -> tuple[int, int, int]:
    """Mark what no step may go on from: J has taken a step whose gradient was not finite."""
    streams.since[0] = -1
    return int(t), LOST, 0


@njit(cache=True, nogil=True)
def run_forward(
    update: Callable[..., None],  # of one cell
    learner: Learner,  # in
    chunk: Chunk,  # in; losses out
    streams: Streams,  # in/out
    steps: Steps,  # scratch
) -> tuple[int, int, int]:
    """Score a chunk without learning; return the steps done, what stopped it, and where."""
    learner, chunk, streams, steps = borrow((learner, chunk, streams, steps))
    for t in range(chunk.first, chunk.xs.shape[0]):
        if t == chunk.pause:
            return t, FINE, 0
        fault, b = observe(update, learner, chunk, t, streams, steps, np.int64(0))
        if fault != FINE:
            return t, fault, b
        copy(streams.new_state.ravel(), streams.state.ravel())
    return chunk.xs.shape[0], FINE, 0
