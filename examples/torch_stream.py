"""A reinforcement-style stream in PyTorch: one observation, one step, one update, for ever.

Trace conditioning: a cue is seen for one step, its reward follows a fixed time later, and nothing
in between tells them apart. A critic learns the discounted sum of what is to come by TD(0), whose
target is the critic's own value of the next state; that value is looked up under ``no_grad``, which
leaves J alone.
"""

import torch
from torch import nn

from sparsegrad.interop.torch import SnApLSTM

DISCOUNT, DELAY = 0.8, 4


def observation(phase: int, cue: int) -> torch.Tensor:
    """Return a bias, and the cue in its first step."""
    x = torch.tensor([[1.0, 0.0, 0.0]])
    if phase == 0:
        x[0, 1 + cue] = 1
    return x


def main(steps: int = 3000) -> tuple[float, float]:
    """Train; return the mean squared error of the values, of the first and last 500 steps."""
    torch.manual_seed(0)
    cell, critic = SnApLSTM(3, 24, n=2, sparsity=0.5, seed=0), nn.Linear(24, 1)
    optimizer = torch.optim.Adam([*cell.parameters(), *critic.parameters()], lr=3e-3)
    state, errors, cue = None, [], 0
    for t in range(steps):
        phase = t % (DELAY + 2)
        if phase == 0:
            cue = int(torch.randint(2, ()))
        state = cell(observation(phase, cue), state)
        value = critic(state[0])
        # the reward of cue 1 is seen on the way to phase DELAY + 1; then a new cue comes
        reward, ends = float(phase == DELAY and cue == 1), phase >= DELAY
        with torch.no_grad():
            ahead = critic(cell(observation(phase + 1, cue), state)[0])
        target = reward + DISCOUNT * ahead * (not ends)
        optimizer.zero_grad()
        nn.functional.mse_loss(value, target.expand(1, 1)).backward()
        optimizer.step()
        truth = DISCOUNT ** (DELAY - phase) * cue if phase <= DELAY else 0.0
        errors.append((value.item() - truth) ** 2)
    return sum(errors[:500]) / 500, sum(errors[-500:]) / 500


if __name__ == "__main__":
    print("squared error of the values {:.4f} -> {:.4f}".format(*main()))
