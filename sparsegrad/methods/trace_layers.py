"""The engine of SnAp-1 on a stack whose layers learn apart."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsegrad.cells.stack import Stack
from sparsegrad.kernels.learning.steps import Chunk, Learner, Streams
from sparsegrad.kernels.methods.trace_layers import run_layer_traces
from sparsegrad.kernels.methods.traces import HELD
from sparsegrad.methods.engine import Layout, Outcome, copy_into
from sparsegrad.methods.traces import TraceEngine, own_weights


class LayerTraceEngine:
    """Traces of each weight on its unit, layer by layer.

    Parameters
    ----------
    stack : Stack
        Built with ``across=False``.
    batch, threads
        As in :class:`Layout`.
    """

    def __init__(self, stack: Stack, batch: int, threads: int | None) -> None:
        self.cell, self.batch, self._threads = stack, batch, threads
        self.layout = Layout(stack, batch, True, True, threads)
        self.steps = self.layout.steps(stack, batch, HELD)
        self._layers = [
            TraceEngine(layer, batch, own_weights(layer), threads) for layer in stack.layers
        ]
        shift = [start.weight for start in stack.starts]
        self._traces = tuple(
            layer.traces_behind(first) for layer, first in zip(self._layers, shift, strict=True)
        )
        self._own = tuple(
            layer.steps._replace(sources=self.steps.sources, gathered=self.steps.gathered)
            for layer in self._layers
        )

    def run(self, learner: Learner, chunk: Chunk, streams: Streams) -> Outcome:
        """Run a chunk through the compiled loop."""
        kept = tuple(layer.kind.kept for layer in self.cell.layers)
        parts = tuple(layer.layout.parts for layer in self._layers)
        update = self.cell.running()[0]
        return Outcome(
            *run_layer_traces(
                update, learner, kept, chunk, streams, self.steps, self._own, self._traces, parts
            )
        )

    def flush(self, learner: Learner) -> None:
        """Nothing is held back."""

    def fresh(self) -> "LayerTraceEngine":
        """Return an engine for the same stack at the start of its sequences."""
        return LayerTraceEngine(self.cell, self.batch, self._threads)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the traces by layer."""
        return {f"traces.{k}": layer.state()["traces"] for k, layer in enumerate(self._layers)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what :meth:`state` returned."""
        copy_into(self.state(), state)

    def carry(self, before: "LayerTraceEngine", origin: NDArray[np.int64]) -> None:
        """Take over the traces of weights that were there, layer by layer."""
        for k, (layer, old) in enumerate(zip(self._layers, before._layers, strict=True)):
            first, last = self.cell.starts[k].weight, before.cell.starts[k].weight
            own = origin[first : first + layer.cell.weights.size]
            layer.carry(old, np.where(own >= 0, own - last, -1))
