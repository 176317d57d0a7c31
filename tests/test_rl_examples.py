"""The examples of reinforcement learning, short: each method steps, ends episodes and predicts."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("gymnasium", reason="gymnasium is not installed")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield __import__
    for name in ("actor_critic", "streaming_ac"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("method", ["snap", "tbptt", "onestep", "mlp"])
def test_actor_critic_in_windows(example, method):
    episodes = example("actor_critic").main(method, steps=64)
    assert len(episodes) > 5
    assert all(8 <= length <= 500 for _, length in episodes)


@pytest.mark.parametrize("method", ["snap", "tbptt", "onestep", "mlp"])
def test_a_streaming_actor_critic(example, method):
    episodes = example("streaming_ac").main(method, steps=150)
    assert len(episodes) > 1
    assert all(8 <= length <= 500 for _, length in episodes)


def test_predict_begins_where_an_episode_does(example):
    agent = example("actor_critic").Agent("snap", 2, 2)
    obs = np.ones((3, 2), np.float32)
    _, first = agent.predict(obs)
    _, second = agent.predict(obs, first, np.array([False, True, False]))
    actions, fresh = agent.predict(obs)
    assert actions.shape == (3,)
    assert torch.equal(second[1], fresh[1])
    assert not torch.equal(second[0], fresh[0])
