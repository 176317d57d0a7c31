"""A text that is sampled from: learn characters online, and let the net go on with a prompt.

    python examples/text.py                # Python's own help topics, 2 million characters
    python examples/text.py wiki.txt

The command line does the same in a folder: `sparsegrad train chars`, then `sparsegrad sample`.
"""

import math
import sys
from pathlib import Path

import sparsegrad
from sparsegrad.learning.learner import OnlineLearner
from sparsegrad.methods import BPTT
from sparsegrad.tasks.chars import Chars, default_text

BATCH, STEPS = 16, 128


def main(tokens: int = 20_000, text: Path | None = None) -> tuple[float, float]:
    """Learn from so many characters; print a sample; return the first and the last loss."""
    task = Chars(default_text() if text is None else text, BATCH, STEPS)
    learner = OnlineLearner(
        sparsegrad.GRU(task.inputs, 128, sparsity=0.75),
        sparsegrad.Linear(task.outputs, "cross_entropy"),
        sparsegrad.SnAp(1),
        sparsegrad.Adam(2e-3),
        batch=BATCH,
    )
    losses = [
        float(learner.run(*task.draw()).mean()) for _ in range(max(2, tokens // BATCH // STEPS))
    ]
    # one stream with these weights, and nothing to learn by
    saved = learner.checkpoint()
    speaker = OnlineLearner(saved.cell, saved.readout, BPTT(1), sparsegrad.SGD(0.0))
    prompt = b"The "
    drawn = speaker.generate(task.encode(prompt), 300, temperature=0.6, seed=1)
    print((prompt + task.decode(drawn)).decode(errors="replace"))
    held_out = task.held_out()
    assert held_out is not None
    bits = learner.evaluate(*held_out).mean() / math.log(2)
    print(f"\n{bits:.3f} bits per character on what was never learned from")
    return losses[0], losses[-1]


if __name__ == "__main__":
    main(2_000_000, Path(sys.argv[1]) if sys.argv[1:] else None)
