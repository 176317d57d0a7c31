"""Streaming actor-critic in PyTorch, AC(λ): one environment, one observation, one update, for ever.

CartPole without its velocities. Nothing is stored but the state, J and one trace for each weight:
the trace holds the gradients of value and policy, those of the cell through J, and each TD error
moves the weights along it. Step sizes are bounded as by Elsayed et al. (2024, "Streaming deep
reinforcement learning finally works", arXiv 2410.14606, algorithms 1 and 3).
Beside it stand a graph of one step (onestep), the last eight steps run again at each step for their
gradient (tbptt, eight times a step's cost), and no memory (mlp).

    python examples/streaming_ac.py --seeds 5
"""

import argparse
from collections import deque

import gymnasium
import numpy as np
import torch
from actor_critic import Memoryless
from torch import nn

from sparsegrad.interop.torch import SnApGRU

SEEN, UNITS, DISCOUNT, LAMBDA, WINDOW = [0, 2], 32, 0.99, 0.8, 8
METHODS = ("snap", "tbptt", "onestep", "mlp")


class Normal:
    """Running mean and variance, to bring observations and rewards to unit scale."""

    def __init__(self, size: int) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(size), np.zeros(size)

    def add(self, x: np.ndarray) -> None:
        """Take one more value."""
        self.count += 1
        away = x - self.mean
        self.mean = self.mean + away / self.count
        self.squares = self.squares + away * (x - self.mean)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation so far; 1 before there are two values."""
        return np.sqrt(self.squares / (self.count - 1) + 1e-8) if self.count > 1 else np.ones(1)


class Traces:
    """Eligibility traces z ← γλ z + g, and a step along them that cannot overshoot (ObGD)."""

    def __init__(self, parameters: list[nn.Parameter], kappa: float, rate: float) -> None:
        self.parameters, self.kappa, self.rate = parameters, kappa, rate
        self.traces = [torch.zeros_like(p) for p in parameters]

    def add(self, grads: tuple[torch.Tensor | None, ...]) -> None:
        """Let the traces fade, and add a gradient."""
        for trace, grad in zip(self.traces, grads, strict=True):
            trace.mul_(DISCOUNT * LAMBDA)
            if grad is not None:
                trace.add_(grad)

    @torch.no_grad()
    def follow(self, error: float) -> None:
        """Move along the traces by a TD error."""
        size = sum(float(trace.abs().sum()) for trace in self.traces)
        bound = self.kappa * self.rate * size * max(abs(error), 1.0)
        step = self.rate / max(bound, 1.0) * error
        for parameter, trace in zip(self.parameters, self.traces, strict=True):
            parameter.add_(trace, alpha=step)

    def clear(self) -> None:
        """Begin an episode."""
        for trace in self.traces:
            trace.zero_()


def main(method: str = "snap", steps: int = 60_000, seed: int = 0) -> list[tuple[int, float]]:
    """Train; return (step, return) of every episode."""
    torch.manual_seed(seed)
    environment = gymnasium.make("CartPole-v1")
    if method == "snap":
        core: nn.Module = SnApGRU(len(SEEN), UNITS, n=2, sparsity=0.75, input_sparsity=0.0)
    else:
        core = (Memoryless if method == "mlp" else nn.GRUCell)(len(SEEN), UNITS)
    policy, critic = nn.Linear(UNITS, 2), nn.Linear(UNITS, 1)
    parameters = [*core.parameters(), *policy.parameters(), *critic.parameters()]
    traces = Traces(parameters, kappa=2.0, rate=1.0)
    seen, scale, running = Normal(len(SEEN)), Normal(1), np.zeros(1)

    def look(obs: np.ndarray) -> torch.Tensor:
        seen.add(obs[SEEN])
        x = (obs[SEEN] - seen.mean) / seen.deviation
        return torch.as_tensor(x, dtype=torch.float32)[None]

    x, h, total, episodes = look(environment.reset(seed=seed)[0]), None, 0.0, []
    past = deque(maxlen=WINDOW if method == "tbptt" else 1)  # inputs, and the state before each
    for t in range(steps):
        past.append((x, None if h is None else h.detach()))
        h = past[0][1]
        for x, _ in past:
            h = core(x, h)
        value, chances = critic(h)[0, 0], policy(h)[0].log_softmax(0)
        action = int(chances.exp().multinomial(1))
        obs, reward, ended, cut, _ = environment.step(action)
        total += reward
        running = running * DISCOUNT * (not (ended or cut)) + reward
        scale.add(running)
        after = look(obs)
        with torch.no_grad():  # leaves J alone
            ahead = 0.0 if ended else float(critic(core(after, h))[0, 0])
        error = float(reward / scale.deviation[0]) + DISCOUNT * ahead - value.item()
        entropy = -(chances.exp() * chances).sum()
        objective = value + chances[action] + 0.01 * np.sign(error) * entropy
        traces.add(torch.autograd.grad(objective, parameters, allow_unused=True))
        traces.follow(error)
        x = after
        if ended or cut:
            episodes.append((t, total))
            traces.clear()
            past.clear()
            x, h, total, running = look(environment.reset()[0]), None, 0.0, np.zeros(1)
    environment.close()
    return episodes


def last_returns(episodes: list[tuple[int, float]], steps: int) -> float:
    """Return the mean return of the last fifth of the steps."""
    return float(np.mean([r for t, r in episodes if t >= 0.8 * steps] or [0.0]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for method in given.methods:
        found = [
            last_returns(main(method, given.steps, seed), given.steps)
            for seed in range(given.seeds)
        ]
        print(f"{method:8}", *[f"{value:6.1f}" for value in found], f"mean {np.mean(found):6.1f}")
