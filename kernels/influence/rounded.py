"""J as the panel kernels take it: an array of numbers, or `Rounded`, which takes half the memory.

panels.py is the same text for both: where a stream's J lies, by which random bits it is rounded and
what the scratch holds of it is said here alone.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from ..compiler.operation import compiled
from ..vectors.half import Copies, Halves
from ..vectors.simd import pointer

STEP, SECOND = 0x369DEA0F31A53F85, 0x2545F4914F6CDD1D
"""What the key of a stream goes on by from step to step, and within one for a second rounding."""


class Rounded(NamedTuple):
    """J of every stream in words of 16 bits, and what its rounding depends on."""

    words: NDArray[np.integer]  # (B, size)   of bfloat16: uint16, of float16: int16
    keys: NDArray[np.int64]  # (B,)           of each stream's random bits
    steps: NDArray[np.int64]  # (1,)          updates so far


def _is_rounded(x: Any) -> bool:
    return isinstance(x, types.BaseNamedTuple) and getattr(x, "instance_class", None) is Rounded


def shape_of(influence: Any) -> Any:
    """Return the streams, and the elements of J of each, slack and all."""
    return (influence.words if isinstance(influence, Rounded) else influence).shape


@overload(shape_of, inline="always")
def _shape_of(influence):
    if _is_rounded(influence):
        return lambda influence: influence.words.shape
    return lambda influence: influence.shape


def stream_of(influence: Any, b: Any) -> Any:
    """Return J of stream `b` as the operations on vectors take it."""
    if not isinstance(influence, Rounded):
        return pointer(influence, b * influence.shape[1])
    words, keys, steps = influence
    key = int(keys[b]) + STEP * int(steps[0])
    return Halves(pointer(words, b * words.shape[1]), key)


@overload(stream_of, inline="always")
def _stream_of(influence, b):
    if _is_rounded(influence):
        return lambda influence, b: Halves(
            pointer(influence.words, b * influence.words.shape[1]),
            influence.keys[b] + STEP * influence.steps[0],
        )
    return lambda influence, b: pointer(influence, b * influence.shape[1])


def rounded_anew(J: Any) -> Any:
    """Return J for what is rounded a second time within a step: by other random bits."""
    return Halves(J.words, J.key + SECOND) if isinstance(J, Halves) else J


@overload(rounded_anew, inline="always")
def _rounded_anew(J):
    if isinstance(J, types.BaseNamedTuple):
        return lambda J: Halves(J.words, J.key + SECOND)
    return lambda J: J


def copy_in(scratch: Any, J: Any) -> Any:
    """Return scratch as what holds a panel of J as it is."""
    return Copies(scratch.view(J.words.dtype)) if isinstance(J, Halves) else scratch


@overload(copy_in, inline="always")
def _copy_in(scratch, J):
    if isinstance(J, types.BaseNamedTuple):
        return lambda scratch, J: Copies(_as_words(scratch, J.words))
    return lambda scratch, J: scratch


def _as_words(scratch: Any, words: Any) -> Any:
    """Return the address of scratch as one of words."""


@compiled(_as_words, lambda scratch: isinstance(scratch, types.CPointer))
def _words_at(typingctx: Any, scratch: Any, words: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(16).as_pointer())

    return words(scratch, words), codegen
