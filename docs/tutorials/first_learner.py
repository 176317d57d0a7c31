"""
A first learner
===============

A sparse GRU learns a stream: the target is what came in two steps ago, so that it must remember.
Every time step is a forward pass, a gradient and an update; nothing is stored for later.
"""

# %%
# A learner is four parts: a cell, a readout with its loss, a method, an optimiser. ``batch``
# streams are learned from side by side.

import numpy as np

import sparsegrad

cell = sparsegrad.GRU(inputs=3, units=32, sparsity=0.9, seed=0)
learner = sparsegrad.OnlineLearner(
    cell,
    readout=sparsegrad.Linear(outputs=2, loss="squared_error"),
    method=sparsegrad.SnAp(2),  # or RTRL(), BPTT(), UORO(), RFLO()
    optimizer=sparsegrad.Adam(3e-3),
    batch=4,
)
print(cell)
print(learner.pattern)

# %%
# The data lies as (time, batch, inputs). The first target is the input of now, the second one that
# of two steps ago.

rng = np.random.default_rng(1)
xs = rng.normal(size=(4000, 4, 3)).astype(np.float32)
targets = np.stack([xs[..., 0], np.roll(xs[..., 1], 2, axis=0)], axis=-1)

# %%
# ``run`` takes many steps in one compiled call and returns the loss of each; ``step`` takes one.
# The first call of each kind compiles its kernels, which takes some 10 to 30 s once; they are kept.

losses = learner.run(xs, targets)
loss = learner.step(xs[0], targets[0])
print("loss of the first and of the last 200 steps:", losses[:200].mean(), losses[-200:].mean())

# %%
# The same data by three methods, each from the same weights. SnAp-1 carries each weight's influence
# on its own unit alone; RTRL is exact.

import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for method in (sparsegrad.SnAp(1), sparsegrad.SnAp(2), sparsegrad.RTRL()):
    learner = sparsegrad.OnlineLearner(
        sparsegrad.GRU(inputs=3, units=32, sparsity=0.9, seed=0),
        sparsegrad.Linear(2, loss="squared_error"),
        method,
        sparsegrad.Adam(3e-3),
        batch=4,
    )
    losses = learner.run(xs, targets)
    axes.plot(losses.reshape(-1, 100).mean(axis=1), label=repr(method))
axes.set(xlabel="hundreds of steps", ylabel="loss", ylim=(0, None))
axes.legend(frameon=False)

# %%
# Where a sequence begins, say so: ``resets`` marks the streams whose state and influence start from
# zero at that step. ``weights`` scores some steps and not others; a loss of weight 0 costs no
# update of its own but the influence goes on.

resets = np.zeros((200, 4), bool)
resets[::50] = True
weights = np.ones((200, 4), np.float32)
weights[:10] = 0
learner.run(xs[:200], targets[:200], weights, resets)

# %%
# ``gradient`` and ``evaluate`` look at whole sequences and change nothing; the gradient comes as
# dense arrays under PyTorch's names.

loss, gradient = learner.gradient(xs[:50], targets[:50])
print(loss, {name: array.shape for name, array in gradient.items()})

# %%
# A learner goes on bit for bit where it was saved.

import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    learner.save(Path(folder) / "learner.safetensors")
    again = sparsegrad.OnlineLearner.load(Path(folder) / "learner.safetensors")
after = learner.run(xs[:100], targets[:100])
assert np.array_equal(after, again.run(xs[:100], targets[:100]))
