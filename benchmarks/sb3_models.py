"""Our settings in the words of Stable-Baselines3: a model of every method that both have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from understudy.objectives.schedules import parse
from understudy.settings import ReplayedSettings, TrainSettings
from understudy.settings.replayed import DeterministicSettings, QLearningSettings, SoftSettings
from understudy.settings.replayed_sections import SoftObjective


def sb3_replayed(settings: ReplayedSettings, envs: Any, seed: int) -> Any:
    """Return a DQN, SAC or TD3 model with our settings; it gathers and learns in the same turns."""
    from stable_baselines3 import SAC, TD3

    replay, update, rollout = settings.replay, settings.update, settings.rollout
    assert replay.n_step == 1 and not replay.prioritised, "Stable-Baselines3 has neither"
    common: dict[str, Any] = {
        "learning_rate": parse(update.lr, "update.lr").value(0),
        "buffer_size": replay.capacity,
        "learning_starts": replay.warm_up,
        "batch_size": replay.batch_size,
        "tau": update.tau,
        "gamma": settings.objective.gamma,  # type: ignore[attr-defined]
        "train_freq": rollout.steps,
        "gradient_steps": int(rollout.num_envs * rollout.steps * update.update_to_data),
        "seed": seed,
        "device": "cpu",
    }
    if isinstance(settings, QLearningSettings):
        return sb3_dqn(settings, envs, common)
    assert isinstance(settings, SoftSettings | DeterministicSettings)
    assert not update.max_grad_norm, "Stable-Baselines3 does not limit these gradients"
    policy, objective = settings.policy, settings.objective
    critic_hidden = policy.hidden if policy.critic_hidden is None else policy.critic_hidden
    common["policy_kwargs"] = {
        "net_arch": {"pi": list(policy.hidden), "qf": list(critic_hidden)},
        "activation_fn": ACTIVATIONS[policy.activation],
        "n_critics": objective.critics,
    }
    if isinstance(objective, SoftObjective):
        return SAC("MlpPolicy", envs, **common)
    from stable_baselines3.common.noise import NormalActionNoise

    assert isinstance(settings, DeterministicSettings)
    size = envs.action_space.shape[0]
    std = parse(settings.exploration.std, "exploration.std").value(0)
    return TD3(
        "MlpPolicy",
        envs,
        policy_delay=objective.actor_every,
        target_policy_noise=objective.target_noise,
        target_noise_clip=objective.target_noise_clip,
        action_noise=NormalActionNoise(np.zeros(size), np.full(size, std)),
        **common,
    )


ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


def sb3_dqn(settings: QLearningSettings, envs: Any, common: dict[str, Any]) -> Any:
    """Return a DQN with our settings; its target network moves by env steps, ours by updates."""
    from stable_baselines3 import DQN

    policy, objective, update = settings.policy, settings.objective, settings.update
    assert (objective.double, objective.distribution, policy.dueling, policy.noisy) == (False, "none", False, 0.0)
    epsilon, budget = parse(settings.exploration.epsilon, "exploration.epsilon"), settings.stop.env_steps
    model = DQN(
        "MlpPolicy",
        envs,
        target_update_interval=round(update.target_every / update.update_to_data),
        max_grad_norm=update.max_grad_norm or float("inf"),
        policy_kwargs={"net_arch": list(policy.hidden), "activation_fn": ACTIVATIONS[policy.activation]},
        **common,
    )
    model.exploration_schedule = lambda left: epsilon.value(round((1 - left) * budget))
    return model


def sb3_model(settings: TrainSettings | ReplayedSettings, envs: Any, seed: int) -> Any:
    """Return a model of the settings' method."""
    return (sb3_replayed if isinstance(settings, ReplayedSettings) else sb3_actor_critic)(settings, envs, seed)


def sb3_actor_critic(settings: TrainSettings, envs: Any, seed: int) -> Any:
    """Return a PPO or A2C model with our settings.

    Its value loss is the mean square, ours half of it, so ``vf_coef`` is half of our ``value_weight``. Its learning
    rate follows our schedule; it initialises its layers orthogonally, as ours.
    """
    from stable_baselines3 import A2C, PPO

    policy, objective, update, rollout = settings.policy, settings.objective, settings.update, settings.rollout
    if objective.value_clip or objective.target_kl or update.optimizer != "adam" or policy.lstm:
        raise SystemExit("these settings have no translation for Stable-Baselines3 here")
    lr, entropy = parse(update.lr, "update.lr"), parse(objective.entropy_weight, "objective.entropy_weight")
    budget = settings.stop.env_steps
    value_hidden = policy.hidden if policy.value_hidden is None else policy.value_hidden
    network: dict[str, Any] = {
        "net_arch": {"pi": list(policy.hidden), "vf": list(value_hidden)},
        "activation_fn": {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[policy.activation],
        "log_std_init": policy.log_std,
        "optimizer_class": torch.optim.Adam,
        "optimizer_kwargs": {"eps": update.eps},
    }
    picture = len(envs.observation_space.shape) == 3
    if picture:
        assert policy.encoder == "nature_cnn", "of our encoders, Stable-Baselines3 has this one"
        network["features_extractor_kwargs"] = {"features_dim": policy.features}
    common: dict[str, Any] = {
        "n_steps": rollout.steps,
        "learning_rate": lambda left: lr.value(int((1 - left) * budget)),
        "gamma": objective.gamma,
        "gae_lambda": objective.lam,
        "ent_coef": entropy.value(0),
        "vf_coef": objective.value_weight / 2,
        "max_grad_norm": update.max_grad_norm or float("inf"),
        "normalize_advantage": objective.normalize_advantage,
        "policy_kwargs": network,
        "seed": seed,
        "device": "cpu",
    }
    kind = "CnnPolicy" if picture else "MlpPolicy"
    if not objective.clip:
        assert update.epochs == 1 and not update.minibatch, "A2C takes one step on every rollout"
        return A2C(kind, envs, use_rms_prop=False, **common)
    minibatch = update.minibatch or rollout.num_envs * rollout.steps
    return PPO(kind, envs, batch_size=minibatch, n_epochs=update.epochs, clip_range=objective.clip, **common)
