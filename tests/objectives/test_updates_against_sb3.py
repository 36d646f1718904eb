"""SAC, TD3 and DDPG take the steps of Stable-Baselines3, weight for weight, when both draw the same noise.

Adam's epsilon is large here: with the usual one, a gradient that is zero but for rounding moves a weight by the whole
learning rate, in either direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from understudy.learning.from_replay import OffPolicy, replayed_policy, replayed_spec
from understudy.policies.policy import About
from understudy.rollouts.replay import ReplayBatch
from understudy.training import resolve_training

sb3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common.logger import Logger  # noqa: E402
from stable_baselines3.common.type_aliases import ReplayBufferSamples  # noqa: E402

BATCH, LR, EPS, TAU = 64, 1e-3, 1e-3, 0.05
HIDDEN = (160, 144)  # wide enough for oneDNN
ACTIVATIONS = {"sac": "tanh", "td3": "relu", "ddpg": "relu"}
"""SAC's log-probabilities differ by a millionth (Stable-Baselines3 adds one), which a relu may see as on or off."""


class Nothing(gym.Env):
    """Has the spaces."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)


def theirs(name: str, noisy: bool) -> Any:
    """Return a model of Stable-Baselines3 with our settings."""
    kind = {"sac": sb3.SAC, "td3": sb3.TD3, "ddpg": sb3.DDPG}[name]
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh}[ACTIVATIONS[name]]
    arch: dict[str, Any] = {
        "net_arch": list(HIDDEN), "activation_fn": activation, "optimizer_kwargs": {"eps": EPS},
    }  # fmt: skip
    noise = {"target_policy_noise": 0.2, "target_noise_clip": 0.5} if noisy else {}
    model = kind(
        "MlpPolicy", Nothing(), learning_rate=LR, batch_size=BATCH, tau=TAU, buffer_size=10, policy_kwargs=arch, **noise
    )
    model._logger = Logger(None, [])
    groups = [model.critic.optimizer.param_groups[0]]
    if name == "sac":
        model.ent_coef_optimizer.param_groups[0]["eps"] = EPS
    else:  # its loss of the critics is twice ours, which Adam does not see but for epsilon
        groups[0]["eps"] = 2 * EPS
    return model


def pairs(core: Any, model: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every parameter of ours, targets too, with its counterpart."""
    nets = core._nets
    actors = [(nets.actor, model.actor)]
    if hasattr(model, "actor_target"):
        actors.append((nets.target_actor, model.actor_target))
    for policy, actor in actors:
        mine = [*policy.body, policy.head]
        other = [*getattr(actor, "latent_pi", []), *(actor.mu if isinstance(actor.mu, nn.Sequential) else [actor.mu])]
        if hasattr(actor, "log_std"):
            mine, other = [*mine, policy.log_std_head], [*other, actor.log_std]
        linear = [[layer for layer in layers if isinstance(layer, nn.Linear)] for layers in (mine, other)]
        for one, two in zip(*linear, strict=True):
            yield from ((one.weight, two.weight), (one.bias, two.bias))
    for critics, networks in ((nets.critics, model.critic), (nets.target_critics, model.critic_target)):
        for k, network in enumerate(networks.q_networks):
            layers = [layer for layer in network if isinstance(layer, nn.Linear)]
            for weight, bias, layer in zip(critics.weights, critics.biases, layers, strict=True):
                yield from ((weight[k], layer.weight), (bias[k, 0], layer.bias))


class Recorded:
    """Draws our noise, and remembers it."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(1)
        self.drawn: list[Any] = []

    def standard_normal(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return new noise."""
        self.drawn.append(self._rng.standard_normal(shape, dtype=dtype))
        return self.drawn[-1]


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "autograd"])
@pytest.mark.parametrize("name", ["sac", "td3", "ddpg"])
def test_updates_are_those_of_stable_baselines3(name: str, kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty steps on the same transitions, an eighth of which end an episode."""
    settings = resolve_training(
        {
            "env": {"id": "Pendulum-v1"}, "policy": {"hidden": HIDDEN, "activation": ACTIVATIONS[name]},
            "replay": {"capacity": 2000, "warm_up": 0}, "objective": {"gamma": 0.99},
            "update": {"lr": str(LR), "eps": EPS, "tau": TAU, "kernel": kernel},
        },
        name,
    )  # fmt: skip
    spec = replayed_spec(settings, Nothing.observation_space, Nothing.action_space)  # type: ignore[arg-type]
    core: Any = OffPolicy(replayed_policy(spec, 0, About()), settings).core  # type: ignore[arg-type]
    noisy = name == "td3"
    model = theirs(name, noisy)
    with torch.no_grad():
        for one, two in pairs(core, model):
            two.copy_(one)
    core._rng = ours = Recorded()
    rng = np.random.default_rng(2)
    before = [one.detach().clone() for one, _ in pairs(core, model)]
    for _ in range(30):
        obs, after = (rng.standard_normal((BATCH, 5)).astype(np.float32) for _ in range(2))
        action = np.tanh(rng.standard_normal((BATCH, 2))).astype(np.float32)
        reward, done = obs[:, 0] + action[:, 0], rng.random(BATCH) < 0.125
        discount = np.where(done, 0, 0.99).astype(np.float32)
        ours.drawn.clear()
        core.update(ReplayBatch(obs, action, reward, discount, after, np.arange(BATCH), np.ones(BATCH, np.float32)), LR)
        arrays = obs, action, after, done[:, None].astype(np.float32), reward[:, None]
        data = ReplayBufferSamples(*map(torch.from_numpy, arrays))
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, data=data, **__: data)
        drawn = [torch.from_numpy(noise) for noise in ours.drawn]  # of the next actions first
        with monkeypatch.context() as patch:
            patch.setattr("torch.distributions.normal._standard_normal", lambda *_, drawn=drawn, **__: drawn.pop())
            patch.setattr(Tensor, "normal_", lambda self, mean, std, drawn=drawn: self.copy_(mean + std * drawn.pop(0)))
            model.train(1, BATCH)
    moved = 0.0
    for (one, two), old in zip(pairs(core, model), before, strict=True):
        torch.testing.assert_close(one.detach(), two.detach(), rtol=0, atol=2e-5)
        moved = max(moved, float((one.detach() - old).abs().max()))
    assert moved > 1e-2
    if name == "sac":
        assert float(np.exp(core._alpha.params[0])) == pytest.approx(float(model.log_ent_coef.detach().exp()), rel=1e-5)
