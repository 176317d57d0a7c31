"""The fly's optic lobe as a net of leaky units: it learns online which way an edge moves.

Cell types, their connections, numbers of synapses and signs are those that the package `flyvis`
holds (Lappalainen et al. 2024, doi 10.1038/s41586-024-07939-3; MIT licence), laid out over columns
of a hexagonal eye. An edge of light or dark moves over the eye, the photoreceptors see it, and a
linear readout of all units names one of four directions. Weights change after every step.

    pip install --no-deps flyvis                     # its data are read, nothing of it is imported
    python examples/connectome.py                    # 127 columns, 8,051 units
    python examples/connectome.py --extent 15 --picture learning.png    # all 721
"""

import argparse
import json
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import sparsegrad
from sparsegrad.io import Net

STEPS = 12
"""Of a sequence: an edge goes from one end of the eye to the other."""
SCORED = 4
"""The first step at which the direction is asked for."""
BLOCK = 25
"""Sequences of a report."""


def columns(extent: int, strides: tuple[int, int] = (1, 1)) -> np.ndarray:
    """Return the places (u, v) of a hexagon of `extent` columns around the one in its middle."""
    u, v = np.mgrid[-extent : extent + 1, -extent : extent + 1].reshape(2, -1)
    there = (abs(u + v) <= extent) & (u % strides[0] == 0) & (v % strides[1] == 0)
    return np.stack([u[there], v[there]], axis=1)


def optic_lobe(extent: int) -> tuple[Net, np.ndarray, np.ndarray]:
    """Lay the average connections between cell types out over the columns of an eye.

    Returns
    -------
    net : Net
        An edge weighs its sign times its synapses' part of all that its target has.
    receptors : int array, (receptors,)
        The units that see.
    seen : int array, (receptors,)
        The column that each of them looks at.
    """
    spec = find_spec("flyvis")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the fly needs flyvis: pip install --no-deps flyvis")
    (path,) = Path(spec.submodule_search_locations[0], "connectome").glob("*.json")
    lobe = json.loads(path.read_text("utf-8"))
    names: list[str] = []
    places, units = {}, {}  # by type: columns, and a map from these to units
    for node in lobe["nodes"]:
        name, (_, strides) = node["name"], node["pattern"]
        places[name] = columns(extent, tuple(strides))
        units[name] = np.full([6 * extent + 1] * 2, -1)  # room for offsets beyond the eye
        units[name][tuple((places[name] + 3 * extent).T)] = len(names) + np.arange(
            len(places[name])
        )
        names += [f"{name} {u} {v}" for u, v in places[name]]
    sources, targets, weights = [], [], []
    for edge in lobe["edges"]:
        origin = places[edge["src"]] + 3 * extent
        for offset, synapses in edge["offsets"]:
            if max(map(abs, offset)) > 2 * extent:
                continue
            target = units[edge["tar"]][tuple((origin + offset).T)]
            there = target >= 0
            sources.append(units[edge["src"]][tuple(origin.T)][there])
            targets.append(target[there])
            weights.append(np.full(there.sum(), float(edge["alpha"] * synapses)))
    source, target, weight = map(np.concatenate, (sources, targets, weights))
    weight /= np.bincount(target, abs(weight), len(names))[target]
    receptors = np.concatenate([units[name][units[name] >= 0] for name in lobe["input_units"]])
    seen = np.tile(np.arange(len(columns(extent))), len(lobe["input_units"]))
    return Net(source, target, weight, tuple(names)), receptors, seen


def moving_edge(rng: np.random.Generator, extent: int) -> tuple[np.ndarray, int]:
    """Draw an edge, light or dark: what each column sees at each step, and its direction."""
    direction, light = rng.integers(4), rng.choice([-1.0, 1.0])
    u, v = columns(extent).T
    across = [u + v / 2, v * np.sqrt(0.75)][direction % 2] * (1 if direction < 2 else -1)
    front = np.linspace(-extent, extent, STEPS)[:, None] + rng.uniform(-0.2, 0.2) * extent
    return np.where(across < front, light, 0.0).astype(np.float32), int(direction)


def make_cell(extent: int, leak: float = 0.3, gain: float = 2.0) -> sparsegrad.LeakyRNN:
    """Return the optic lobe as leaky units, the light into its receptors."""
    from scipy.sparse import csr_array

    net, receptors, seen = optic_lobe(extent)
    light = np.ones(receptors.size, np.float32), (receptors, seen)
    return sparsegrad.LeakyRNN.from_edges(
        net.sources,
        net.targets,
        (gain * net.weights).astype(np.float32),
        net.units,
        weight_ih=csr_array(light, shape=(net.units, len(columns(extent)))),
        bias_hh=np.random.default_rng(0).uniform(-1, 1, net.units).astype(np.float32),
        leak=leak,
    )


def learn(
    learner: sparsegrad.OnlineLearner, extent: int, sequences: int
) -> tuple[list[float], float]:
    """Learn from edges; return the part of steps that are right, by blocks, and seconds a step."""
    rng = np.random.default_rng(0)
    scored = (np.arange(STEPS) >= SCORED).astype(np.float32)[:, None]
    begins = np.arange(STEPS)[:, None] == 0
    named, took = [], []
    for _ in range(sequences):
        xs, direction = moving_edge(rng, extent)
        targets = np.full((STEPS, 1), direction)
        begin = time.perf_counter()
        _, outputs = learner.run(xs[:, None], targets, scored, begins, outputs=True)
        took.append((time.perf_counter() - begin) / STEPS)
        named.append(np.mean(outputs[SCORED:, 0].argmax(axis=1) == direction))
    blocks = np.array_split(named, max(1, sequences // BLOCK))
    return [float(block.mean()) for block in blocks], float(np.median(took[1:]))


def main(
    extent: int = 2, sequences: int = 300, rate: float = 1e-3, picture: Path | None = None
) -> dict[str, list[float]]:
    """Return the learning curve of each method."""
    curves = {}
    for method in (sparsegrad.SnAp(1), sparsegrad.SnAp(2)):
        cell = make_cell(extent)
        begin = time.perf_counter()
        learner = sparsegrad.OnlineLearner(
            cell, sparsegrad.Linear(4, "cross_entropy"), method, sparsegrad.Adam(rate)
        )
        setup = time.perf_counter() - begin
        entries = cell.weights.size if learner.pattern is None else learner.pattern.nnz
        curve, seconds = learn(learner, extent, sequences)
        curves[f"SnAp-{method.n}"] = curve
        print(
            f"SnAp-{method.n}: {cell.units:,} units, {cell.weights.size:,} weights, J {entries:,} "
            f"entries, {entries * 4 / 2**20:.0f} MiB; {1e3 * seconds:.3g} ms a step, set up in "
            f"{setup:.1f} s; right: {', '.join(f'{part:.0%}' for part in curve)}",
            flush=True,
        )
    if picture is not None:
        draw(curves, sequences, picture)
    return curves


def draw(curves: dict[str, list[float]], sequences: int, path: Path) -> None:
    """Draw the learning curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(sequences / len(curve) * np.arange(1, len(curve) + 1), curve, "o-", label=name)
    axes.axhline(0.25, color="grey", ls=":", label="chance")
    axes.set(xlabel="sequences seen", ylabel="steps that name the direction", ylim=(0, 1))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extent", type=int, default=6, help="columns around the middle one")
    parser.add_argument("--sequences", type=int, default=400)
    parser.add_argument("--rate", type=float, default=1e-3, help="of Adam")
    parser.add_argument("--picture", type=Path, help="draw the learning curves there")
    main(**vars(parser.parse_args()))
