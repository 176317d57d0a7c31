"""SnAp-n steps for JAX: J rides in the carry, and `jax.grad` becomes online learning.

    snap_step = SnapStep(sparsegrad.GRU(32, 256, sparsity=0.9375), n=2)
    params, carry = snap_step.params(), snap_step.carry(batch=16)

    def loss(params, carry, x, target):
        carry, h = snap_step(params, carry, x)
        return cross_entropy(h, target), carry

    (value, carry), grads = jax.value_and_grad(loss, has_aux=True)(params, carry, x, target)

The gradient of a step's loss is J_tᵀ ∂L_t/∂s_t; none flows into the carry that a step is given, so
that differentiating a whole `lax.scan` adds up the same online gradients (and stores J for every
step: differentiate inside the scan's body where that is too much). A layer below gets the gradient
of the current step only: what x did to earlier states is not in J. It is differentiated once, in
reverse: J holds first derivatives alone.

``snap_step.window(params, carry, xs)`` makes many steps at once: backpropagation inside, J for what
came before, so that a `lax.scan` over windows truncates nothing.

`jax.vmap` over carries and inputs puts streams beside each other in one call; their gradients, and
steps of different parameters, go one after the other. `jax.export` asks for the names of custom
calls: ``SnapStep.custom_calls`` has them.

The kernels are reached through XLA's foreign function interface and run on the CPU, on one thread;
J is updated in place where XLA can spare its old value. Nothing is registered before the first
`SnapStep`, no global setting is changed. NaN in x or in the state flows on into J, as in all of
JAX, until `reset`.
"""

from functools import cache
from typing import Any, NamedTuple
from uuid import uuid4

import jax
import jax.numpy as jnp
import numba
import numpy as np
from numba import types

from sparsegrad.cells import Cell
from sparsegrad.cells.jacobians import dynamics_pattern, immediate_pattern, own_pattern
from sparsegrad.influence.influence import Influence
from sparsegrad.interop.addresses import (
    cell_arrays,
    cell_sizes,
    parameter_order,
    present,
    program_arrays,
    program_sizes,
    require_cell,
)
from sparsegrad.interop.jax_window import Pulls
from sparsegrad.kernels.cells.updates import BUILT_IN
from sparsegrad.kernels.influence.panels import panels_update
from sparsegrad.kernels.interop import xla
from sparsegrad.symbolic.pattern import ReachPattern, reach
from sparsegrad.system.memory import require_memory

_PROCESS = uuid4().hex
"""In the name of a call that holds an address: another process has none of that name to run."""


class Carry(NamedTuple):
    """What goes from step to step.

    Attributes
    ----------
    state : float array, (batch, components, units)
        An LSTM has the components h and c.
    influence : float array, (batch, size)
        J, in panels.
    """

    state: Any
    influence: Any


class SnapStep:
    """One time step of a cell, with its influence matrix.

    Parameters
    ----------
    cell : Cell
        The structure, and the initial weights; it is not changed. A kind of your own, too.
    n : int or None
        Steps of reach; None for exact RTRL.

    Attributes
    ----------
    pattern : ReachPattern
        Which entries of J are kept.

    Raises
    ------
    TypeError
        If it is no cell, or one of float64 while JAX has no float64.
    RuntimeError
        If compilation is switched off.
    """

    def __init__(self, cell: Cell, n: int | None = 2) -> None:
        require_cell(cell)
        self._dtype = cell.dtype.name
        if jnp.asarray(np.zeros(0, cell.dtype)).dtype != cell.dtype:
            raise TypeError(
                "a float64 cell must have jax_enable_x64, got it switched off: "
                'jax.config.update("jax_enable_x64", True)'
            )
        self._exports = cell.kind.word(cell.dtype) < len(BUILT_IN)
        self._names = _register(self._dtype, "" if self._exports else f"_{_PROCESS}")
        self.cell, self.n = cell, n
        pattern, dynamics = dynamics_pattern(cell)
        self.pattern: ReachPattern = reach(
            pattern, immediate_pattern(cell), n, own=own_pattern(cell)
        )
        influence = Influence(self.pattern, dtype=cell.dtype, threads=1)
        self._sizes = program_sizes(influence)
        self._block = _block(cell, dynamics, influence)
        self._call = _differentiated_once(_batched(self._call_once))
        self._pull = _differentiated_once(self._pull_once)
        self._step = jax.custom_vjp(self._forward_alone)
        self._step.defvjp(self._forward, self._backward)
        self._pulls = Pulls(cell, self.pattern)
        self._call_kept = _differentiated_once(_batched(self._call_all))
        self._window = jax.custom_vjp(self._window_alone)
        self._window.defvjp(self._window_forward, self._window_backward)

    def __reduce__(self) -> Any:
        return SnapStep, (self.cell, self.n)

    @property
    def custom_calls(self) -> tuple[str, str]:
        """Names that ``jax.export.DisabledSafetyCheck.custom_call`` wants, of the FFI's calls.

        Raises
        ------
        RuntimeError
            If the cell's update lies at an address of this process: RNN, GRU and LSTM know theirs.
        """
        if not self._exports:
            raise RuntimeError(
                "an exported step must be that of an RNN, GRU or LSTM, got a "
                f"{type(self.cell).__name__}, whose update was compiled for this process"
            )
        return self._names

    def require_finite(self, carry: Carry) -> None:
        """Refuse a carry whose state or J is not finite, outside of `jit`.

        Raises
        ------
        FloatingPointError
            If one is not: of which stream is said.
        """
        for name, array in zip(("state", "influence"), carry, strict=True):
            flat = np.asarray(array).reshape(array.shape[0], -1)
            bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
            if bad.size:
                raise FloatingPointError(
                    f"the {name} must stay finite, it became NaN or infinite in stream {bad[0]}: "
                    "reset() it there, or take a smaller n or smaller recurrent weights"
                )

    def params(self) -> dict[str, jax.Array]:
        """Return the cell's weights: under each of PyTorch's names the vector of those that exist.

        Their order is that of ``dense[mask]``, row by row.
        """
        weights = self.cell.weights
        return {n: jnp.array(weights[parameter_order(self.cell, n)]) for n in present(self.cell)}

    def carry(self, batch: int = 1) -> Carry:
        """Return state and J of `batch` sequences at their start: zero.

        Raises
        ------
        MemoryError
            If J does not fit.
        """
        cell, size = self.cell, self._sizes[4]
        require_memory(size * batch * cell.dtype.itemsize, "J with its padding")
        return Carry(
            jnp.zeros((batch, cell.kind.components, cell.units), cell.dtype),
            jnp.zeros((batch, size), cell.dtype),
        )

    def reset(self, carry: Carry, which: Any) -> Carry:
        """Begin a new sequence where `which`, bool (batch,), is True: state and J are zero there.

        Usable under `jit`.
        """
        which = jnp.asarray(which)
        return Carry(
            jnp.where(which[:, None, None], 0, carry.state),
            jnp.where(which[:, None], 0, carry.influence),
        )

    def dense(self, params: dict[str, Any]) -> dict[str, jax.Array]:
        """Return weights or their gradients in PyTorch's shapes and names, 0 where none exists."""
        return {
            name: jnp.zeros(mask.shape, self._dtype).at[mask].set(params[name])
            for name, mask in self.cell.masks().items()
        }

    def __call__(self, params: dict[str, Any], carry: Carry, x: Any) -> tuple[Carry, jax.Array]:
        """Make a time step.

        Parameters
        ----------
        params : dict of float array, (existing weights,)
            As `params` returns them.
        carry : Carry
            Of this step's batch.
        x : float array, (batch, inputs)

        Returns
        -------
        Carry
            For the next step.
        float array, (batch, units)
            h.

        Raises
        ------
        TypeError, ValueError
            If an array has another shape or dtype; when the step is traced.
        ValueError or JaxRuntimeError
            Of the gradient, when its values are used: if it is not finite.
        """
        self._require("x", x, (carry.state.shape[0], self.cell.inputs))
        weights = self._weights(params, carry)
        x = jnp.array(x)  # under vmap and grad JAX may hold a NumPy array there, which it refuses
        state, influence = self._step(weights, x, carry.state, carry.influence)
        return Carry(state, influence), state[:, 0]

    def window(self, params: dict[str, Any], carry: Carry, xs: Any) -> tuple[Carry, jax.Array]:
        """Make the time steps of a window: exact inside, and J for what came before it.

        With λ_T = δ_T, λ_t = δ_t + D_{t+1}ᵀ λ_{t+1} the gradient is Σ_t I_tᵀ λ_t + J_0ᵀ (D_1ᵀ λ_1),
        that of xs the true one as far as the window goes. None flows into the carry: J is there
        instead. D and I of every step are kept for the backward pass, J of the start alone.

        Parameters
        ----------
        params, carry
            As of a step.
        xs : float array, (steps, batch, inputs)
            At least one step. Sequences begin between windows (`reset`).

        Returns
        -------
        Carry
            For the next window, or step.
        float array, (steps, batch, units)
            h of each step.

        Raises
        ------
        TypeError, ValueError
            If an array has another shape or dtype; when the window is traced.
        """
        shape = jnp.shape(xs)
        if len(shape) != 3 or not shape[0]:
            raise ValueError(f"xs must have shape (steps, batch, inputs), steps > 0, got {shape}")
        self._require("xs", xs, (shape[0], carry.state.shape[0], self.cell.inputs))
        weights = self._weights(params, carry)
        states, influence = self._window(weights, jnp.array(xs), carry.state, carry.influence)
        return Carry(states[-1], influence), states[:, :, 0]

    def _weights(self, params: dict[str, Any], carry: Carry) -> jax.Array:
        """Check parameters and carry; return the parameters one after the other."""
        cell, names, batch = self.cell, present(self.cell), carry.state.shape[0]
        if set(params) != set(names):
            raise ValueError(f"params must be {names}, got {tuple(params)}")
        self._require("carry.state", carry.state, (batch, cell.kind.components, cell.units))
        self._require("carry.influence", carry.influence, (batch, self._sizes[4]))
        for name in names:
            self._require(f"params[{name!r}]", params[name], (parameter_order(cell, name).size,))
        return jnp.concatenate([params[name] for name in names])

    def _require(self, name: str, array: Any, shape: tuple[int, ...]) -> None:
        if jnp.result_type(array) != self.cell.dtype:
            raise TypeError(f"{name} must be {self._dtype}, got {jnp.result_type(array)}")
        if jnp.shape(array) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {jnp.shape(array)}")

    def _array(self, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, self._dtype)

    def _call_once(self, weights: Any, x: Any, state: Any, influence: Any) -> Any:
        state, influence, d_pre, _, _, ordered = self._call_all(weights, x, state, influence)
        return state, influence, d_pre, ordered

    def _call_all(self, weights: Any, x: Any, state: Any, influence: Any) -> Any:
        """Make a step; return the new state and J, ∂s'/∂a, D, I, and the weights in their order."""
        cell, batch = self.cell, x.shape[0]
        components, n_maps, units = cell.kind.components, len(cell.kind.maps), cell.units
        _, p, d_nnz, i_nnz, size, scratch = self._sizes[:6]
        results = (
            self._array(batch, components, units), self._array(batch, size),
            self._array(batch, components, n_maps, units), self._array(p),
            self._array(batch, d_nnz), self._array(batch, i_nnz),
            self._array(scratch), self._array(units + cell.inputs + 1),
            self._array(n_maps, units), self._array(components, components, units),
        )  # fmt: skip
        call = jax.ffi.ffi_call(self._names[0], results, input_output_aliases={4: 1})
        found = call(self._block, weights, x, state, influence)
        return *found[:3], found[4], found[5], found[3]

    def _forward_alone(self, weights: Any, x: Any, state: Any, influence: Any) -> Any:
        return self._call(weights, x, state, influence)[:2]

    def _forward(self, weights: Any, x: Any, state: Any, influence: Any) -> Any:
        new_state, influence, d_pre, ordered = self._call(weights, x, state, influence)
        return (new_state, influence), (influence, d_pre, ordered)

    def _backward(self, residuals: Any, cotangents: Any) -> Any:
        influence, d_pre, ordered = residuals
        state_grad, _ = cotangents  # J is no output that a loss may look at
        grad, x_grad = self._pull(ordered, d_pre, influence, state_grad)
        return grad, x_grad, None, None

    def _window_alone(self, weights: Any, xs: Any, state: Any, influence: Any) -> Any:
        def step(held: Any, x: Any) -> Any:
            state, influence = self._call(weights, x, *held)[:2]
            return (state, influence), state

        (_, influence), states = jax.lax.scan(step, (state, influence), xs)
        return states, influence

    def _window_forward(self, weights: Any, xs: Any, state: Any, influence: Any) -> Any:
        def step(held: Any, x: Any) -> Any:
            state, influence, *kept, _ = self._call_kept(weights, x, *held)
            return (state, influence), (state, *kept)

        (_, after), (states, *kept) = jax.lax.scan(step, (state, influence), xs)
        return (states, after), (weights, influence, *kept)

    def _window_backward(self, residuals: Any, cotangents: Any) -> Any:
        weights, influence, d_pre, dynamics_data, immediate_data = residuals
        states_grad, pulls = cotangents[0], self._pulls  # J is no output that a loss may look at
        deltas = states_grad.reshape(*states_grad.shape[:2], -1)

        def back(later: Any, step: Any) -> Any:
            adjoint = step[0] + later
            return pulls.before(step[1], adjoint), adjoint

        start = jnp.zeros_like(deltas[0])
        before, adjoints = jax.lax.scan(back, start, (deltas, dynamics_data), reverse=True)
        past, _ = self._pull(
            pulls.ordered(weights), d_pre[0], influence, before.reshape(states_grad.shape[1:])
        )
        grad = past + pulls.weights(immediate_data, adjoints)
        return grad, pulls.inputs(weights, d_pre, adjoints), None, None

    def _pull_once(self, ordered: Any, d_pre: Any, influence: Any, state_grad: Any) -> Any:
        batch = d_pre.shape[0]
        results = (
            self._array(ordered.size), self._array(batch, self.cell.inputs),
            self._array(ordered.size), self._array(self._sizes[5]),
        )  # fmt: skip
        call = jax.ffi.ffi_call(self._names[1], results, vmap_method="sequential")
        return tuple(call(self._block, ordered, d_pre, influence, state_grad)[:2])


def _batched(call: Any) -> Any:
    """Give a step (weights, x, state, J) its rule for `vmap`: streams beside each other, or a loop.

    Its last result, the weights in their order, has no batch of its own.
    """
    mapped = jax.custom_batching.custom_vmap(call)

    @mapped.def_vmap
    def rule(size: int, batched: Any, weights: Any, *streams: Any) -> Any:
        streams = tuple(
            array if is_batched else jnp.broadcast_to(array, (size, *array.shape))
            for array, is_batched in zip(streams, batched[1:], strict=True)
        )
        if batched[0]:
            out = jax.lax.map(lambda each: tuple(mapped(*each)), (weights, *streams))
            return tuple(out), (True,) * len(out)
        flat = [array.reshape(-1, *array.shape[2:]) for array in streams]
        *found, ordered = mapped(weights, *flat)
        out = [array.reshape(size, -1, *array.shape[1:]) for array in found]
        return (*out, ordered), (True,) * len(out) + (False,)

    return mapped


def _differentiated_once(call: Any) -> Any:
    """Have a call say that it is not to be differentiated by JAX itself."""
    guarded = jax.custom_jvp(call)

    @guarded.defjvp
    def refuse(primals: Any, tangents: Any) -> Any:
        raise TypeError(
            "a SnapStep must be differentiated once, by jax.grad or jax.vjp, got a second "
            "derivative or forward mode: J holds first derivatives alone"
        )

    return guarded


@cache
def _register(dtype: str, mark: str) -> tuple[str, str]:
    """Compile the handlers of a float type and make them known to XLA; return their names."""
    if not hasattr(panels_update, "signatures"):  # NUMBA_DISABLE_JIT
        raise RuntimeError("XLA's handlers must be compiled, got NUMBA_DISABLE_JIT=1: unset it")
    names = f"sparsegrad_step_{dtype}{mark}", f"sparsegrad_pull_{dtype}{mark}"
    for name, handler in zip(names, _handlers(dtype), strict=True):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler.ctypes), platform="cpu")
    return names


@cache
def _handlers(dtype: str) -> list[Any]:
    kind = types.int64(types.int64)
    functions = [getattr(xla, f"{name}_{dtype}") for name in ("step", "pull")]
    return [numba.cfunc(kind, cache=True)(function) for function in functions]


def _block(cell: Cell, dynamics: Any, influence: Influence) -> np.ndarray:
    """Write down cell and program as one array of bytes; see `kernels.xla`."""
    of_program, of_cell = program_arrays(influence), cell_arrays(cell, dynamics)
    at = 64 * -(-xla.BLOCK_WORDS * 8 // 64)
    offsets = []
    for array in of_program + of_cell:
        offsets.append(at)
        at += 64 * -(-array.nbytes // 64)
    block = np.zeros(at, np.uint8)
    words = program_sizes(influence) + offsets[: len(of_program)]
    words += cell_sizes(cell, dynamics) + offsets[len(of_program) :]
    block[: 8 * len(words)] = np.array(words, np.int64).view(np.uint8)
    for offset, array in zip(offsets, of_program + of_cell, strict=True):
        block[offset : offset + array.nbytes] = array.reshape(-1).view("u1")
    return block
