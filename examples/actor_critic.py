"""Online actor-critic in PyTorch: CartPole without its velocities, eight environments, one cell.

What is hidden must be remembered, so the state has to learn what to keep. Windows of eight steps,
an update after each; J goes on from window to window, and so reaches past them, where truncated
backpropagation (tbptt) and a graph of one step (onestep) do not; mlp has no memory at all.

    python examples/actor_critic.py --seeds 5           # a table of returns, minutes on one core
    python examples/actor_critic.py --seeds 5 --plot returns.png
"""

import argparse
import itertools

import gymnasium
import numpy as np
import torch
from torch import nn

from sparsegrad.interop.torch import SnApGRU

SEEN = [0, 2]  # position of the cart, angle of the pole
SCALE = torch.tensor([1.0, 10.0])  # of what is seen, and of a reward: a critic whose values are
REWARD = 0.05  # dozens would take all of the clipped gradient, and nothing would be learned
ENVIRONMENTS, WINDOW, UNITS, DISCOUNT = 8, 8, 32, 0.98
METHODS = ("snap", "tbptt", "onestep", "mlp")


class Memoryless(nn.Module):
    """A layer in the place of a cell: its state is what it sees."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, units)

    def forward(self, x: torch.Tensor, h: torch.Tensor | None = None) -> torch.Tensor:
        """Return the new state."""
        return torch.tanh(self.layer(x))


class Agent(nn.Module):
    """A recurrent core, a policy and a critic."""

    def __init__(self, method: str, inputs: int, actions: int) -> None:
        super().__init__()
        core = {
            "snap": lambda: SnApGRU(inputs, UNITS, n=2, sparsity=0.75, input_sparsity=0.0),
            "tbptt": lambda: nn.GRUCell(inputs, UNITS),
            "onestep": lambda: nn.GRUCell(inputs, UNITS),
            "mlp": lambda: Memoryless(inputs, UNITS),
        }
        self.core, self.cut = core[method](), method == "onestep"
        self.policy, self.critic = nn.Linear(UNITS, actions), nn.Linear(UNITS, 1)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the new state, the policy's logits and the value."""
        h = self.core(SCALE * x, h.detach() if self.cut else h)
        return h, self.policy(h), self.critic(h)[:, 0]

    @torch.no_grad()
    def predict(
        self,
        obs: np.ndarray,
        state: torch.Tensor | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, torch.Tensor]:
        """Return actions and the state to give back, as Stable-Baselines' recurrent policies do."""
        x = torch.as_tensor(obs, dtype=torch.float32)
        h = torch.zeros(len(x), UNITS) if state is None else state
        if episode_start is not None:
            h = h * torch.as_tensor(~np.asarray(episode_start, bool))[:, None]
        h, logits, _ = self(x, h)
        best = logits.argmax(1) if deterministic else logits.softmax(1).multinomial(1)[:, 0]
        return best.numpy(), h


def returns_of(rewards: torch.Tensor, going: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Return the discounted sums of each step of a window, (time, environments)."""
    found, total = [], last
    for reward, goes_on in zip(rewards.flip(0), going.flip(0), strict=True):
        total = reward + DISCOUNT * goes_on * total
        found.append(total)
    return torch.stack(found[::-1])


def main(
    method: str = "snap", steps: int = 12_000, seed: int = 0, rate: float = 3e-3
) -> list[tuple[int, float]]:
    """Train for so many steps of all environments; return (step, return) of every episode."""
    torch.manual_seed(seed)
    environments = gymnasium.make_vec(
        "CartPole-v1", num_envs=ENVIRONMENTS, vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
    )  # fmt: skip
    agent = Agent(method, len(SEEN), 2)
    optimizer = torch.optim.Adam(agent.parameters(), lr=rate)
    obs = environments.reset(seed=seed)[0]
    h, sums, episodes = torch.zeros(ENVIRONMENTS, UNITS), np.zeros(ENVIRONMENTS), []
    for start in range(0, steps, WINDOW):
        chances, values, rewards, going, entropy = [], [], [], [], 0.0
        h = h.detach()
        for t in range(WINDOW):
            h, logits, value = agent(torch.from_numpy(obs[:, SEEN]), h)
            policy = torch.distributions.Categorical(logits=logits)
            action = policy.sample()
            obs, reward, ended, cut, info = environments.step(action.numpy())
            done = ended | cut
            chances.append(policy.log_prob(action))
            values.append(value)
            entropy = entropy + policy.entropy().mean()
            sums += reward
            reward = REWARD * torch.as_tensor(reward, dtype=torch.float32)
            if cut.any():  # the time is up, not the episode: what was to come counts
                with torch.no_grad():
                    final = np.stack([
                        info["final_obs"][k] if cut[k] else obs[k] for k in range(ENVIRONMENTS)
                    ])  # fmt: skip
                    ahead = agent(torch.from_numpy(final[:, SEEN]).float(), h)[2]
                reward = reward + DISCOUNT * ahead * torch.from_numpy(cut & ~ended)
            rewards.append(reward)
            going.append(torch.from_numpy(~done).float())
            h = h * going[-1][:, None]  # a row of zeros begins a sequence
            for k in np.flatnonzero(done):
                episodes.append((start + t, float(sums[k])))
                sums[k] = 0
        with torch.no_grad():
            ahead = agent(torch.from_numpy(obs[:, SEEN]), h)[2]
        target = returns_of(torch.stack(rewards), torch.stack(going), ahead)
        gain = target - torch.stack(values)
        loss = (
            -(torch.stack(chances) * gain.detach()).mean()
            + 0.5 * gain.square().mean()
            - 0.01 * entropy / WINDOW
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
    environments.close()
    return episodes


def last_returns(episodes: list[tuple[int, float]], steps: int) -> float:
    """Return the mean return of the last fifth of the steps."""
    return float(np.mean([r for t, r in episodes if t >= 0.8 * steps] or [0.0]))


def draw(path: str, runs: dict[str, list[list[tuple[int, float]]]], steps: int) -> None:
    """Draw the returns over the steps: mean over the seeds, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    edges = np.linspace(0, steps, 25)
    for method, seeds in runs.items():
        curves = [
            [
                np.mean([r for t, r in episodes if a <= t < b] or [np.nan])
                for a, b in itertools.pairwise(edges)
            ]
            for episodes in seeds
        ]
        line = pyplot.plot(edges[1:], np.nanmean(curves, 0), label=method)[0]
        pyplot.fill_between(
            edges[1:],
            np.nanmin(curves, 0),
            np.nanmax(curves, 0),
            alpha=0.15,
            color=line.get_color(),
        )
    pyplot.xlabel(f"steps of {ENVIRONMENTS} environments")
    pyplot.ylabel("return")
    pyplot.legend()
    pyplot.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--plot", metavar="FILE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = {}
    for method in given.methods:
        seeds = range(given.seeds)
        runs[method] = [main(method, given.steps, seed, given.rate) for seed in seeds]
        found = [last_returns(episodes, given.steps) for episodes in runs[method]]
        print(f"{method:8}", *[f"{value:6.1f}" for value in found], f"mean {np.mean(found):6.1f}")
    if given.plot:
        draw(given.plot, runs, given.steps)
