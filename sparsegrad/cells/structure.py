"""Sparsity structures of random recurrent cells: the patterns of D and I, without values.

Each gate of a cell has a recurrent mask (units × units) and an input mask (units × inputs), both
uniformly random with an exact count of ones; biases are dense, two per gate as in `torch.nn`
(`bias_ih` and `bias_hh`). Weights are ordered by unit. All that the influence matrix sees of a
weight is the state numbers that it writes, so a unit's weights need no more description than
their count.

    RNN    D = mask                                    every weight of unit i writes s_i
    GRU    D = union of the masks of r, z, n, and 1    every weight of unit i writes s_i
    LSTM   state [h; c]: h ← h' by all four masks, c ← h' by those of i, f, g, and h, c ← c by 1
           weights of i, f, g write h_i and c_i; weights of o write h_i

The GRU is the CuDNN form (reset gate after the matrix product), which keeps I sparse.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsegrad.system.memory import require_memory

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
GATE_MASKS = ("independent", "shared")


@dataclass(frozen=True)
class Structure:
    """The patterns of a cell's Jacobians.

    Attributes
    ----------
    dynamics : csr_array of bool, (state, state)
        Where D may be non-zero.
    immediate : csc_array of bool, (state, weights)
        Where I may be non-zero.
    recurrent : int
        How many of the weights are recurrent ones.
    """

    dynamics: sparse.csr_array
    immediate: sparse.csc_array
    recurrent: int

    @property
    def weights(self) -> int:
        """How many weights exist, biases included."""
        return int(self.immediate.shape[1])


def structure(
    cell: str,
    units: int,
    sparsity: float,
    inputs: int = 32,
    gate_masks: str = "independent",
    seed: int = 0,
) -> Structure:
    """Draw the masks of a random sparse cell and return the patterns of its D and I.

    Parameters
    ----------
    cell : str
        One of "rnn", "gru", "lstm".
    units : int
        Number of units, at least 1. The state of an LSTM has twice as many numbers.
    sparsity : float
        Part of the recurrent and of the input weights that do not exist, in [0, 1).
    inputs : int
        Width of the input, at least 0.
    gate_masks : str
        "independent" (each gate draws masks of its own) or "shared" (one mask for all gates).
    seed : int
        Seed of the masks.

    Returns
    -------
    Structure
        Memory and time grow with the number of weights alone.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> lstm = structure("lstm", units=64, sparsity=0.75, inputs=8)
    >>> lstm.dynamics.shape, lstm.weights
    ((128, 128), 5120)
    """
    _check(cell, units, sparsity, inputs, gate_masks)
    rng = np.random.default_rng(seed)
    gates = GATES[cell]
    draws = 1 if gate_masks == "shared" else gates
    recurrent = [_random_mask(rng, units, units, sparsity) for _ in range(draws)]
    driven = [_random_mask(rng, units, inputs, sparsity) for _ in range(draws)]
    if gate_masks == "shared":
        recurrent, driven = recurrent * gates, driven * gates
    # weights of unit i in gate g: its recurrent ones, its inputs and two biases
    fan_in = np.array(
        [
            np.bincount(r // units, minlength=units) + np.bincount(x // inputs, minlength=units) + 2
            if inputs
            else np.bincount(r // units, minlength=units) + 2
            for r, x in zip(recurrent, driven, strict=True)
        ]
    )
    diagonal = np.arange(units, dtype=np.int64) * (units + 1)
    if cell == "lstm":
        return Structure(
            _lstm_dynamics(recurrent, diagonal, units),
            _lstm_immediate(fan_in, units),
            sum(map(len, recurrent)),
        )
    kept = recurrent if cell == "rnn" else [*recurrent, diagonal]
    return Structure(
        _csr_of_codes(_union(kept), units, units),
        _columns_writing_own_unit(fan_in.sum(axis=0)),
        sum(map(len, recurrent)),
    )


def percent(sparsity: float) -> str:
    """Return a sparsity as people write it: 75%, 98.44%, 99.9996%, never 100%."""
    digits = 4
    while float(text := f"{100 * sparsity:.{digits}g}") == 100:
        digits += 1
    return f"{text}%"


def _check(cell: str, units: int, sparsity: float, inputs: int, gate_masks: str) -> None:
    if cell not in GATES:
        raise ValueError(f"cell must be one of {', '.join(GATES)}, got {cell!r}")
    if gate_masks not in GATE_MASKS:
        raise ValueError(f"gate_masks must be one of {', '.join(GATE_MASKS)}, got {gate_masks!r}")
    if not 1 <= units <= 2**30:
        raise ValueError(f"units must be between 1 and 2**30, got {units}")
    if not 0 <= sparsity < 1:  # NaN is refused too
        raise ValueError(f"sparsity must be at least 0 and below 1, got {sparsity}")
    if inputs < 0:
        raise ValueError(f"inputs must be at least 0, got {inputs}")


def _random_mask(
    rng: np.random.Generator, rows: int, columns: int, sparsity: float
) -> NDArray[np.int64]:
    """Draw exactly round((1 - sparsity) rows columns) places; sorted codes row * columns + column.

    Distinct ones among uniform draws with replacement are a uniform subset of their number, and a
    uniform subset of that is one too: no permutation of all places is made. Where more than half
    of the places are kept, the missing ones are drawn.
    """
    places = rows * columns
    count = round((1 - sparsity) * places)
    require_memory(24 * min(count, places - count) + places * (2 * count > places), "a mask")
    if 2 * count > places:
        keep = np.ones(places, dtype=bool)
        keep[_subset(rng, places, places - count)] = False
        return np.flatnonzero(keep)
    return _subset(rng, places, count)


def _subset(rng: np.random.Generator, places: int, count: int) -> NDArray[np.int64]:
    found = np.empty(0, dtype=np.int64)
    while len(found) < count:
        more = rng.integers(places, size=count - len(found) + count // 8 + 16)
        found = _sorted_unique(np.concatenate([found, more]))
    if len(found) > count:
        surplus = rng.choice(len(found), size=len(found) - count, replace=False, shuffle=False)
        found = np.delete(found, surplus)
    return found


def _sorted_unique(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    # np.unique hashes since NumPy 2.3, which is several times slower on millions of codes
    codes = np.sort(codes)
    first = np.ones(len(codes), dtype=bool)
    np.not_equal(codes[1:], codes[:-1], out=first[1:])
    return codes[first]


def _union(masks: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return _sorted_unique(np.concatenate(masks))


def _csr_of_codes(codes: NDArray[np.int64], rows: int, columns: int) -> sparse.csr_array:
    indptr = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(codes // columns, minlength=rows), out=indptr[1:])
    indices = (codes % columns).astype(np.int32)
    data = np.ones(len(codes), dtype=bool)
    return sparse.csr_array((data, indices, indptr), shape=(rows, columns))


def _lstm_dynamics(
    recurrent: list[NDArray[np.int64]], diagonal: NDArray[np.int64], units: int
) -> sparse.csr_array:
    def into_state(masks: list[NDArray[np.int64]], first_row: int) -> NDArray[np.int64]:
        # from units × units to the codes of (2 units) × (2 units), with c_i added to row i
        codes = _union(masks)
        from_h = (codes // units + first_row) * 2 * units + codes % units
        own = diagonal // (units + 1)
        from_c = (own + first_row) * 2 * units + units + own
        return np.concatenate([from_h, from_c])

    codes = np.sort(np.concatenate([into_state(recurrent, 0), into_state(recurrent[:3], units)]))
    return _csr_of_codes(codes, 2 * units, 2 * units)


def _columns_writing_own_unit(fan_in: NDArray[np.int64]) -> sparse.csc_array:
    units, weights = len(fan_in), int(fan_in.sum())
    indices = np.repeat(np.arange(units, dtype=np.int32), fan_in)
    indptr = np.arange(weights + 1, dtype=np.int64)
    data = np.ones(weights, dtype=bool)
    return sparse.csc_array((data, indices, indptr), shape=(units, weights))


def _lstm_immediate(fan_in: NDArray[np.int64], units: int) -> sparse.csc_array:
    own = np.arange(units, dtype=np.int32)
    by_unit = np.stack([fan_in[:3].sum(axis=0), fan_in[3]], axis=1)  # weights of i, f, g; of o
    writes = np.repeat(np.tile([2, 1], units), by_unit.ravel())  # rows written, weight by weight
    unit = np.repeat(own, by_unit.sum(axis=1))
    indptr = np.zeros(len(writes) + 1, dtype=np.int64)
    np.cumsum(writes, out=indptr[1:])
    indices = np.repeat(unit, writes)
    indices[indptr[:-1][writes == 2] + 1] += units  # the second row of a weight of i, f, g is c_i
    data = np.ones(len(indices), dtype=bool)
    return sparse.csc_array((data, indices, indptr), shape=(2 * units, len(writes)))
