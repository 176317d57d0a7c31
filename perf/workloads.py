"""The registry of workloads: what every script here runs, and what the smoke test runs small.

The paper's nine are its three cells at the three pairs of units and sparsity that keep the number
of recurrent weights, each at n = 1, 2, 3. The others stand for what they leave out.
"""

from dataclasses import dataclass, replace

from sparsegrad.structures import Structure, structure


@dataclass(frozen=True)
class Workload:
    """A net and an n; the masks are drawn with seed 0 and 32 inputs."""

    name: str
    cell: str
    units: int
    sparsity: float
    n: int
    gate_masks: str = "independent"
    dtype: str = "float32"
    inputs: int = 32

    def toy(self) -> "Workload":
        """Return the same net small enough for a test."""
        return replace(self, name=f"{self.name}-toy", units=20, sparsity=0.8, inputs=4)

    def structure(self) -> Structure:
        """Draw the masks."""
        return structure(self.cell, self.units, self.sparsity, self.inputs, self.gate_masks)


def _paper(n: int) -> list[Workload]:
    return [
        Workload(f"{cell}-{units}-n{n}", cell, units, sparsity, n)
        for cell in ("rnn", "gru", "lstm")
        for units, sparsity in ((128, 0.75), (256, 0.9375), (512, 0.984375))
    ]


PAPER_AT_2 = _paper(2)
OTHERS = [
    Workload("gru-1024-n2", "gru", 1024, 0.984375, 2),
    Workload("gru-4096-n2", "gru", 4096, 0.996, 2),
    Workload("gru-128-shared-n2", "gru", 128, 0.75, 2, gate_masks="shared"),
    Workload("gru-256-float64-n2", "gru", 256, 0.9375, 2, dtype="float64"),
    Workload("gru-2gib-n2", "gru", 16384, 0.99638, 2),  # 2.0 GiB of J, few multiply-adds each
]
WORKLOADS = {workload.name: workload for workload in [*_paper(1), *PAPER_AT_2, *_paper(3), *OTHERS]}
SETS = {
    "paper": [workload.name for workload in PAPER_AT_2],
    "sparse": ["gru-128-n2", "gru-256-n2", "gru-512-n2", "gru-1024-n2"],
    "all": list(WORKLOADS),
}


def select(names: list[str], toy: bool = False) -> list[Workload]:
    """Return the named workloads and sets, each once, in the order given."""
    flat = [name for given in names for name in SETS.get(given, [given])]
    unknown = [name for name in flat if name not in WORKLOADS]
    if unknown:
        raise SystemExit(
            f"no workload {unknown[0]!r}; there are {', '.join(SETS)}, {', '.join(WORKLOADS)}"
        )
    chosen = [WORKLOADS[name] for name in dict.fromkeys(flat)]
    return [workload.toy() for workload in chosen] if toy else chosen
