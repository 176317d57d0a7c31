"""The kernels as C function pointers, and a pattern as the struct that they take.

    program = CProgram(Influence(pattern, batch=8))
    library = ctypes.CDLL("./mine.so")
    library.train(ctypes.byref(program.struct), ctypes.byref(functions("float32")), …)

`header()` is the folder to give to the C compiler with -I; sparsegrad.h describes every argument.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types

from sparsegrad.influence.influence import Influence
from sparsegrad.interop.addresses import program_arrays, program_sizes
from sparsegrad.kernels.influence.panels import panels_update
from sparsegrad.kernels.interop.addresses import ARRAYS, SIZES
from sparsegrad.kernels.interop.c_api import c_contract, c_update, c_update_and_contract


class Struct(ctypes.Structure):
    """`sparsegrad_program` of sparsegrad.h."""

    _fields_ = tuple((name, ctypes.c_int64) for name in SIZES) + tuple(
        (name, ctypes.c_void_p) for name in ARRAYS
    )


class Functions(ctypes.Structure):
    """`sparsegrad_float32_functions` or `…float64_functions` of sparsegrad.h."""

    _fields_ = (
        ("update", ctypes.c_void_p),
        ("contract", ctypes.c_void_p),
        ("update_and_contract", ctypes.c_void_p),
    )


class CProgram:
    """The structure of an Influence for C.

    Parameters
    ----------
    influence : Influence
        Its program is taken, not its values.

    Attributes
    ----------
    struct : Struct
        What to pass by reference. It points into this object, which must outlive its use.
    """

    def __init__(self, influence: Influence) -> None:
        self._program = influence._program
        addresses = [array.ctypes.data for array in program_arrays(influence)]
        self.struct = Struct(*program_sizes(influence), *addresses)


def functions(dtype: str) -> Functions:
    """Return the function pointers for a float type; they live as long as the process.

    Parameters
    ----------
    dtype : {"float32", "float64"}

    Raises
    ------
    TypeError
        If `dtype` is another.
    RuntimeError
        If compilation is switched off.
    """
    name = np.dtype(dtype).name
    if name not in ("float32", "float64"):
        raise TypeError(f"dtype must be float32 or float64, got {name}")
    if not hasattr(panels_update, "signatures"):  # NUMBA_DISABLE_JIT
        raise RuntimeError("C functions must be compiled, got NUMBA_DISABLE_JIT=1: unset it")
    return Functions(*[f.address for f in _compiled(name)])


@cache
def _compiled(dtype: str) -> tuple[Any, ...]:
    real, words = types.CPointer(getattr(types, dtype)), types.CPointer(types.int64)
    pointers = {c_update: 4, c_contract: 4, c_update_and_contract: 6}
    return tuple(
        numba.cfunc(types.void(words, types.int64, *[real] * count), cache=True)(function)
        for function, count in pointers.items()
    )


def header() -> Path:
    """Return the folder that holds sparsegrad.h."""
    return Path(__file__).parent
