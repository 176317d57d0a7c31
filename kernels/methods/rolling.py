"""Rolling BPTT: at each step the last L steps over again, and the gradient of the newest loss.

    s_{t-L} as it was last computed;  s_{t-L+1} … s_t from it by steps under today's weights
    grad += ∂L_t/∂θ through these L steps                 (BPTT(h), Williams and Peng 1990, h = L)

A step costs L forward passes and L backward ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..cells.maps import Partials
from ..compiler.borrow import borrow
from ..compiler.decorators import into_caller
from ..learning.steps import (
    BAD_GRADIENT,
    BAD_STATE,
    FINE,
    Chunk,
    Learner,
    Steps,
    Streams,
    apply_parts,
    bad_stream,
    copy,
    finish,
    observe,
    signal,
    take_input,
)  # fmt: skip
from .bptt import History, unroll


class Replay(NamedTuple):
    """What the steps held start from; between two steps there are less than L of them."""

    held: NDArray[np.int64]  # (1,) steps held
    xs: NDArray[np.floating]  # (L, B, inputs)            their inputs, the oldest first
    start: NDArray[np.floating]  # (groups, C, units)     the state before the oldest of them
    after: NDArray[np.floating]  # (groups, C, units)     scratch, the state after it
    state: NDArray[np.floating]  # (groups, C, units)     scratch, that of the streams


@into_caller
def repeat_step(
    update: Callable[..., None],
    learner: Learner,  # in
    xs: NDArray[np.floating],  # (B, inputs)  in
    streams: Streams,  # in/out
    steps: Steps,  # in: resets; out
    k: int,  # place of the step in `steps`
) -> int:
    """Run a step forward again; return a stream whose state is not finite, or -1."""
    abreast, sources, pre = streams.abreast, steps.sources[k], streams.pre
    copy(streams.state.ravel(), streams.old_state.ravel())
    take_input(xs, steps.resets[k], abreast, streams.old_state, sources)
    apply_parts(
        learner.threads, learner.parts, abreast, learner.maps, sources, pre, steps.gathered[k]
    )
    for group in range(pre.shape[0]):
        update(
            streams.old_state[group], pre[group], streams.new_state[group],
            steps.d_state[k, group], steps.d_pre[k, group],
        )  # fmt: skip
        lane = bad_stream(streams.new_state[group].ravel(), abreast)
        if lane >= 0:
            return group * abreast + lane
    copy(streams.new_state.ravel(), streams.state.ravel())
    return -1


@njit(cache=True, nogil=True)
def roll(steps: Steps, replay: Replay) -> None:
    """Forget the oldest step: the others start from the state after it."""
    copy(replay.after.ravel(), replay.start.ravel())
    replay.held[0] -= 1
    for k in range(replay.held[0]):
        copy(replay.xs[k + 1].ravel(), replay.xs[k].ravel())
        copy(steps.resets[k + 1], steps.resets[k])


@njit(cache=True, nogil=True)
def run_rolling(
    update: Callable[..., None],
    learner: Learner,
    partials: Partials,
    chunk: Chunk,
    streams: Streams,
    steps: Steps,  # L of them
    history: History,
    replay: Replay,
) -> tuple[int, int, int]:
    """Run a chunk; return the steps done, what stopped it, and at which stream."""
    learner, partials, chunk, streams, steps, history, replay = borrow(
        (learner, partials, chunk, streams, steps, history, replay)
    )
    for t in range(chunk.first, chunk.xs.shape[0]):
        if t == chunk.pause:
            return t, FINE, 0
        held, b = replay.held[0], -1
        copy(streams.state.ravel(), replay.state.ravel())
        if held > 0:
            copy(replay.start.ravel(), streams.state.ravel())
        else:
            copy(streams.state.ravel(), replay.start.ravel())
        for k in range(held):
            b = repeat_step(update, learner, replay.xs[k], streams, steps, k)
            if b >= 0:
                break
            steps.state_grad[k] = 0  # the loss of an old step has been spent
            if k == 0:
                copy(streams.state.ravel(), replay.after.ravel())
        fault = BAD_STATE
        if b < 0:
            fault, b = observe(update, learner, chunk, t, streams, steps, held)
        if fault != FINE:
            copy(replay.state.ravel(), streams.state.ravel())
            return t, fault, b
        if held == 0:
            copy(streams.new_state.ravel(), replay.after.ravel())
        copy(learner.readout_grad_flat, learner.readout_kept)
        signal(learner, chunk, t, streams, steps.state_grad[held])
        copy(chunk.xs[t].ravel(), replay.xs[held].ravel())
        history.filled[0] = replay.held[0] = held + 1
        unroll(learner, partials, streams.abreast, steps, history)
        if not finish(learner, streams):
            copy(learner.readout_kept, learner.readout_grad_flat)
            copy(replay.state.ravel(), streams.state.ravel())
            replay.held[0] = held
            return t, BAD_GRADIENT, 0
        if replay.held[0] == steps.sources.shape[0]:
            roll(steps, replay)
    return chunk.xs.shape[0], FINE, 0
