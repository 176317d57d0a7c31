"""
PyTorch
=======

A module with the calling convention of ``torch.nn.GRUCell`` whose ``backward`` needs no unrolled
graph: the past is in J. Your optimiser, loss and layers stay as they are.
"""

# %%
# A cell of 64 units, and a readout and an optimiser of PyTorch's own. ``SnApGRU.from_torch(cell)``
# takes the weights of a ``torch.nn.GRUCell`` instead.

import torch
from torch import nn

from sparsegrad.interop.torch import SnApGRU

torch.manual_seed(0)
TEXT = "the cat sat on the mat; the rat sat on the cat. "
letters = sorted(set(TEXT))
codes = torch.tensor([letters.index(letter) for letter in TEXT])
one_hot = torch.eye(len(letters))

cell = SnApGRU(len(letters), 64, n=2, sparsity=0.75, seed=0)
readout = nn.Linear(64, len(letters))
optimizer = torch.optim.Adam([*cell.parameters(), *readout.parameters()], lr=3e-3)

# %%
# Four streams read the text from different places. The weights change after every character.
# ``h = None`` begins new sequences; what a step owes to earlier ones is in J, so detaching ``h``
# would change nothing.

starts, h, losses = torch.arange(4) * 11, None, []
for t in range(600):
    here, after = codes[(starts + t) % len(TEXT)], codes[(starts + t + 1) % len(TEXT)]
    h = cell(one_hot[here], h)
    loss = nn.functional.cross_entropy(readout(h), after)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"{sum(losses[:50]) / 50:.3f} -> {sum(losses[-50:]) / 50:.3f} nats a character")

# %%
# J belongs to the state that the last step returned. Rows of zeros begin a sequence, as they do
# when an episode ends; a step under ``torch.no_grad()`` leaves J alone; any other state is refused,
# since its J is not here.

ended = torch.tensor([True, False, False, False])
h = cell(one_hot[codes[:4]], h.detach() * ~ended[:, None])
with torch.no_grad():
    ahead = readout(cell(one_hot[codes[4:8]], h))
try:
    cell(one_hot[codes[4:8]], h + 0.1)
except ValueError as error:
    print(error)

# %%
# Layers below get the gradient of the current step only: what an input did to earlier states is not
# in J. Layers above get their ordinary gradient. A torch cell of your own:
# `sparsegrad.interop.torch.SnApModule`, whose D and I are found by ``probe``.
