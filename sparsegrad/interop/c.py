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

from sparsegrad.cells.cell import Cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern, own_pattern
from sparsegrad.influence.influence import Influence
from sparsegrad.interop.addresses import (
    cell_arrays,
    cell_sizes,
    program_arrays,
    program_sizes,
    require_cell,
)
from sparsegrad.kernels.influence.panels import panels_update
from sparsegrad.kernels.interop.addresses import ARRAYS, CELL_ARRAYS, CELL_SIZES, SIZES
from sparsegrad.kernels.interop.c_api import c_contract, c_step, c_update, c_update_and_contract
from sparsegrad.symbolic.pattern import reach


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
        ("step", ctypes.c_void_p),
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


class CellStruct(ctypes.Structure):
    """`sparsegrad_cell` of sparsegrad.h."""

    _fields_ = tuple((name, ctypes.c_int64) for name in CELL_SIZES) + tuple(
        (name, ctypes.c_void_p) for name in CELL_ARRAYS
    )


class CCell:
    """The structure of a cell for C, and the program of its J; of any kind, also of your own.

    Parameters
    ----------
    cell : Cell
        Structure alone: C hands its weights in, ordered as ``cell.weights``.
    n : int or None
        Steps of reach; None for exact RTRL.

    Attributes
    ----------
    struct : CellStruct
        What to pass by reference. It points into this object, which must outlive its use.
    program : CProgram
        Of the influence.
    work_size : int
        Elements of a step's scratch.

    Raises
    ------
    TypeError
        If it is no cell.
    RuntimeError
        If compilation is switched off.
    """

    def __init__(self, cell: Cell, n: int | None = 2) -> None:
        require_cell(cell)
        pattern, dynamics = dynamics_pattern(cell)
        found = reach(pattern, immediate_pattern(cell), n, own=own_pattern(cell))
        self.program = CProgram(Influence(found, dtype=cell.dtype, threads=1))
        self._arrays = cell_arrays(cell, dynamics)
        addresses = [array.ctypes.data for array in self._arrays]
        self.struct = CellStruct(*cell_sizes(cell, dynamics), *addresses)
        components, maps = cell.kind.components, len(cell.kind.maps)
        by_unit = 1 + maps + components * (components + maps)
        self.work_size = cell.units * by_unit + cell.inputs + 1


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
    count = types.int64
    signatures = {
        c_update: (words, count, *[real] * 4),
        c_contract: (words, count, *[real] * 4),
        c_update_and_contract: (words, count, *[real] * 6),
        c_step: (words, words, count, *[real] * 7),
    }
    return tuple(
        numba.cfunc(types.void(*kinds), cache=True)(function)
        for function, kinds in signatures.items()
    )


def header() -> Path:
    """Return the folder that holds sparsegrad.h."""
    return Path(__file__).parent
