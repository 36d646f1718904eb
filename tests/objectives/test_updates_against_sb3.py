"""Our methods take the steps of Stable-Baselines3, weight for weight, on the same data and with the same noise.

Adam's epsilon is large here: with the usual one, a gradient that is zero but for rounding moves a weight by the whole
learning rate, in either direction. Units are tanh: a relu at 0 may be on for one library and off for the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from benchmarks.sb3_models import sb3_model
from torch import Tensor, nn

from understudy.config import merge
from understudy.data import Rollout, Trace
from understudy.learning.actor_critic import ActorCritic
from understudy.learning.from_replay import OffPolicy, replayed_policy, replayed_spec
from understudy.policies.policy import About
from understudy.rollouts.replay import ReplayBatch
from understudy.training import resolve_training
from understudy.training_parts import new_policy, policy_spec

pytest.importorskip("stable_baselines3")
from stable_baselines3.common.logger import Logger  # noqa: E402
from stable_baselines3.common.type_aliases import ReplayBufferSamples  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

BATCH, LR, EPS, TAU = 64, 1e-3, 1e-3, 0.05
HIDDEN = (160, 144)  # wide enough for oneDNN


class Nothing(gym.Env):
    """Has the spaces."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (5,), np.float32)
    action_space: gym.Space[Any] = gym.spaces.Box(-1, 1, (2,), np.float32)


class Discrete(Nothing):
    """Has three actions."""

    action_space = gym.spaces.Discrete(3)


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
            "env": {"id": "Pendulum-v1"}, "policy": {"hidden": HIDDEN, "activation": "tanh"},
            "replay": {"capacity": 2000, "warm_up": 0}, "objective": {"gamma": 0.99},
            "update": {"lr": str(LR), "eps": EPS, "tau": TAU, "kernel": kernel},
        },
        name,
    )  # fmt: skip
    spec = replayed_spec(settings, Nothing.observation_space, Nothing.action_space)  # type: ignore[arg-type]
    core: Any = OffPolicy(replayed_policy(spec, 0, About()), settings).core  # type: ignore[arg-type]
    model = sb3_model(settings, DummyVecEnv([Nothing]), 0)
    model._logger = Logger(None, [])
    # The loss of TD3's critics is twice ours there, which Adam does not see but for epsilon.
    epsilons = {model.actor: EPS, model.critic: EPS if name == "sac" else 2 * EPS}
    for network, eps in epsilons.items():
        network.optimizer.param_groups[0]["eps"] = eps
    if name == "sac":
        model.ent_coef_optimizer.param_groups[0]["eps"] = EPS
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


STEPS, ENVS = 8, 4
ON_POLICY = {
    "a2c": {"objective": {"entropy_weight": "0.01", "normalize_reward": False}},
    "ppo": {
        # Normalised advantages differ: the deviation is that of the batch here, an estimate from it there.
        "objective": {"entropy_weight": "0.01", "normalize_reward": False, "normalize_advantage": False},
        "update": {"epochs": 3, "minibatch": STEPS * ENVS},
    },
}


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "autograd"])
@pytest.mark.parametrize("env", [Nothing, Discrete], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("name", ON_POLICY)
def test_rollouts_are_learnt_from_as_stable_baselines3_does(name: str, env: type[Nothing], kernel: bool) -> None:
    """Twenty rollouts in which episodes end and are truncated, each learnt from by both."""
    settings: Any = resolve_training(
        merge(
            {
                "env": {"id": "CartPole-v1"}, "policy": {"hidden": [16, 16], "normalize": False},
                "rollout": {"num_envs": ENVS, "steps": STEPS}, "objective": {"value_weight": 0.5, "lam": 0.9},
                "update": {"lr": str(LR), "eps": EPS, "kernel": kernel, "max_grad_norm": 0.5},
            },
            ON_POLICY[name],
        ),
        name,
    )  # fmt: skip
    spec = policy_spec(settings.policy, Nothing.observation_space, env.action_space, True)
    policy = new_policy(spec, settings.policy, 0, About())
    learner = ActorCritic(policy, settings)
    model = sb3_model(settings, DummyVecEnv([env] * ENVS), 0)
    model._logger = Logger(None, [])
    theirs, bodies = model.policy, (policy.body, policy.value_body)
    linear = [layer for body in (*bodies, (policy.head, policy.value_head)) for layer in body]
    other = [*theirs.mlp_extractor.policy_net, *theirs.mlp_extractor.value_net, theirs.action_net, theirs.value_net]
    both = [[layer for layer in layers if isinstance(layer, nn.Linear)] for layers in (linear, other)]
    paired = [pair for a, b in zip(*both, strict=True) for pair in ((a.weight, b.weight), (a.bias, b.bias))]
    if env is Nothing:
        paired.append((policy.log_std, theirs.log_std))
    with torch.no_grad():
        for one, two in paired:
            two.copy_(one)
    rng = np.random.default_rng(3)
    before = [one.detach().clone() for one, _ in paired]
    starts = np.ones(ENVS, bool)
    for number in range(20):
        obs, final = (rng.standard_normal((STEPS, ENVS, 5)).astype(np.float32) for _ in range(2))
        after = rng.standard_normal((ENVS, 5)).astype(np.float32)
        terminated = rng.random((STEPS, ENVS)) < 0.15
        truncated = ~terminated & (rng.random((STEPS, ENVS)) < 0.15)
        start = np.concatenate((starts[None], (terminated | truncated)[:-1]))
        starts = (terminated | truncated)[-1]
        choice = rng.integers(0, 3, (STEPS, ENVS)) if env is Discrete else rng.standard_normal((STEPS, ENVS, 2))
        choice = choice if env is Discrete else choice.astype(np.float32)
        reward = (obs[..., 0] * choice.reshape(STEPS, ENVS, -1)[..., 0]).astype(np.float32)
        flat = torch.from_numpy(choice.reshape(STEPS * ENVS, *choice.shape[2:]))
        with torch.no_grad():
            value, log_prob, _ = theirs.evaluate_actions(torch.from_numpy(obs.reshape(-1, 5)), flat)
            bootstrap, last = (theirs.predict_values(torch.from_numpy(x.reshape(-1, 5))) for x in (final, after))
        value, log_prob = value.view(STEPS, ENVS), log_prob.view(STEPS, ENVS)
        bootstrap = np.where(truncated, bootstrap.view(STEPS, ENVS).numpy(), np.float32(0))
        trace = Trace(
            choice, log_prob.numpy().copy(), value.numpy().copy(), bootstrap, after, last[:, 0].numpy(), starts,
            np.zeros((ENVS, 0), np.float32),
        )  # fmt: skip
        none = np.zeros((STEPS, ENVS), bool)
        learner.update(
            Rollout(obs, choice, reward.copy(), terminated, truncated, start, none, trace), number * STEPS * ENVS
        )
        model.rollout_buffer.reset()
        for t in range(STEPS):
            paid = reward[t] + np.float32(0.99) * bootstrap[t]  # as Stable-Baselines3 does where time ran out
            model.rollout_buffer.add(obs[t], choice[t], paid, start[t], value[t], log_prob[t])
        model.rollout_buffer.compute_returns_and_advantage(last, starts)
        model.train()
    moved = 0.0
    for (one, two), old in zip(paired, before, strict=True):
        torch.testing.assert_close(one.detach(), two.detach(), rtol=0, atol=5e-5)
        moved = max(moved, float((one.detach() - old).abs().max()))
    assert moved > 5e-3
