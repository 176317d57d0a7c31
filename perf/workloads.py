"""The registry of workloads: what `run.py` times, and what the smoke test runs small.

The paper's nine are its three cells at the three pairs of units and sparsity that keep the number
of recurrent weights, each at n = 1, 2, 3. The others stand for what they leave out.
"""

from dataclasses import dataclass, replace

from sparsegrad.cells.structure import Structure, structure


@dataclass(frozen=True)
class Product:
    """A net and an n; the masks are drawn with seed 0 and 32 inputs."""

    name: str
    cell: str
    units: int
    sparsity: float
    n: int
    gate_masks: str = "independent"
    dtype: str = "float32"
    inputs: int = 32

    def toy(self) -> "Product":
        """Return the same net small enough for a test."""
        return replace(self, units=20, sparsity=0.8, inputs=4)

    def structure(self) -> Structure:
        """Draw the masks."""
        return structure(self.cell, self.units, self.sparsity, self.inputs, self.gate_masks)


def _paper(n: int) -> list[Product]:
    return [
        Product(f"{cell}-{units}-n{n}", cell, units, sparsity, n)
        for cell in ("rnn", "gru", "lstm")
        for units, sparsity in ((128, 0.75), (256, 0.9375), (512, 0.984375))
    ]


PAPER_AT_2 = _paper(2)
OTHERS = [
    Product("gru-1024-n2", "gru", 1024, 0.984375, 2),
    Product("gru-4096-n2", "gru", 4096, 0.996, 2),
    Product("gru-128-shared-n2", "gru", 128, 0.75, 2, gate_masks="shared"),
    Product("gru-256-float64-n2", "gru", 256, 0.9375, 2, dtype="float64"),
    Product("gru-2gib-n2", "gru", 16384, 0.99638, 2),  # 2.0 GiB of J, few multiply-adds each
]
PRODUCTS = {product.name: product for product in [*_paper(1), *PAPER_AT_2, *_paper(3), *OTHERS]}
SETS = {
    "paper": [product.name for product in PAPER_AT_2],
    "sparse": ["gru-128-n2", "gru-256-n2", "gru-512-n2", "gru-1024-n2"],
    "large": ["gru-1024-n2", "gru-4096-n2", "gru-2gib-n2"],
    "all": list(PRODUCTS),
}


@dataclass(frozen=True)
class Training:
    """A net that learns a stream, 32 inputs wide, with 8 classes to tell apart at every step."""

    name: str
    cell: str
    units: int
    sparsity: float
    batch: int
    inputs: int = 32
    outputs: int = 8
    window: int = 64
    """Steps that backpropagation goes back, and that all take between two updates."""

    def toy(self) -> "Training":
        """Return the same net small enough for a test."""
        return replace(self, units=12, sparsity=0.5, inputs=4, window=6)


TRAININGS = {
    training.name: training
    for training in (
        Training(f"{cell}-128-b{batch}", cell, 128, 0.75, batch)
        for cell in ("rnn", "gru")
        for batch in (1, 16)
    )
}


def select(names: list[str]) -> list[Product]:
    """Return the named products and sets, each once, in the order given."""
    flat = [name for given in names for name in SETS.get(given, [given])]
    for name in flat:
        if name not in PRODUCTS:
            raise SystemExit(
                f"no workload {name!r}; there are {', '.join(SETS)}, {', '.join(PRODUCTS)}"
            )
    return [PRODUCTS[name] for name in dict.fromkeys(flat)]
