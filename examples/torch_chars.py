"""An online character model in PyTorch: SnAp-2 below, a torch readout and Adam above.

The weights change after every character; no sequence is unrolled and nothing is stored.
"""

import torch
from torch import nn

from sparsegrad.interop.torch import SnApGRU

TEXT = "the cat sat on the mat; the rat sat on the cat. "


def main(steps: int = 1500, streams: int = 4) -> tuple[float, float]:
    """Train; return the mean loss of the first and of the last fifty characters, in nats."""
    torch.manual_seed(0)
    letters = sorted(set(TEXT))
    codes = torch.tensor([letters.index(letter) for letter in TEXT])
    one_hot = torch.eye(len(letters))
    cell = SnApGRU(len(letters), 64, n=2, sparsity=0.75, seed=0)
    readout = nn.Linear(64, len(letters))
    optimizer = torch.optim.Adam([*cell.parameters(), *readout.parameters()], lr=3e-3)
    starts = torch.arange(streams) * 11
    h, losses = None, []
    for t in range(steps):
        here, after = codes[(starts + t) % len(TEXT)], codes[(starts + t + 1) % len(TEXT)]
        h = cell(one_hot[here], h)
        loss = nn.functional.cross_entropy(readout(h), after)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[:50]) / 50, sum(losses[-50:]) / 50


if __name__ == "__main__":
    print("loss {:.3f} -> {:.3f} nats a character".format(*main()))
