"""A student as an ordinary model of Stable-Baselines3 that goes on training (the extra ``sb3``).

Stable-Baselines3 builds the model and saves it; we only put the weights in. Its zips have no place for a normaliser, so
a student that normalises comes in the layout of rl-baselines3-zoo: ``NAME.zip`` and beside it a folder ``NAME`` with
``vecnormalize.pkl``. Folding the normaliser into the first layer would lose its clipping, and would leave a first layer
whose weights differ by orders of magnitude, which Adam trains badly.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from understudy.data import Array, map_obs
from understudy.errors import UserError, missing_extra
from understudy.io.export.check import Difference, compare, demand_equal
from understudy.io.export.sb3_folder import SpacesOnly, seen_space, zoo_folder
from understudy.io.export.states import Answers, States
from understudy.policies.family import ActionMap
from understudy.policies.networks import activation
from understudy.policies.policy import Policy
from understudy.policies.spaces import is_image, members
from understudy.policies.spec import PolicySpec
from understudy.teachers.zoo import find_agent, load_agent

ALGORITHMS = ("PPO", "A2C", "DQN", "TD3", "DDPG", "SAC")
FRESH_LOG_STD = -1.0
"""Log standard deviation, in unit actions, that a deterministic student gets to explore with under PPO or A2C."""
_ENTROPY = 0.01
"""Entropy coefficient that SAC goes on from, and learns: its usual 1 would undo what the student knows."""
_BUFFER, _PICTURE_BUFFER = 1_000_000, 100_000
_TOLERANCE = 1e-4


@dataclass
class Model:
    """What is written.

    Attributes:
        algorithm: Name of the class that loads it.
        zip: The bytes of ``model.save``.
        folder: Files of the folder beside the zip by name.
        difference: Of the model and the student.
        notes: What a user has to know.
    """

    algorithm: str
    zip: bytes
    folder: dict[str, bytes]
    difference: Difference
    notes: list[str] = field(default_factory=list)


def algorithms(spec: PolicySpec) -> tuple[str, ...]:
    """Return the algorithms whose policies can be this student, the usual one first."""
    if spec.family == "q_values":
        return ("DQN",)
    if spec.family == "squashed_gaussian":
        return ("SAC",)
    if spec.family == "deterministic" and spec.head_activation == "tanh":
        return ("TD3", "DDPG")
    return ("PPO", "A2C")


def to_sb3(policy: Policy, states: States, answers: Answers, asked: str | None = None) -> Model:
    """Build the model, check it against the student, and return what is to be written.

    Raises:
        UserError: Stable-Baselines3 is not installed, the algorithm does not fit, or the model acts differently.
    """
    spec = policy.spec
    fits = algorithms(spec)
    if asked is not None and asked not in fits:
        raise UserError(f"a {spec.family} student cannot be a model of {asked}: {' or '.join(fits)} can")
    name = asked or fits[0]
    try:
        import stable_baselines3
    except ImportError:
        raise missing_extra("stable-baselines3", "sb3", "export to Stable-Baselines3") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _build(getattr(stable_baselines3, name), name, policy)
    notes = _put_weights(model.policy, name, policy) + _unseen(policy)
    folder = zoo_folder(policy, name, notes)
    with tempfile.TemporaryDirectory() as text:
        place = Path(text) / "student.zip"
        model.save(place)
        for file, data in folder.items():
            (place.parent / "student").mkdir(exist_ok=True)
            (place.parent / "student" / file).write_bytes(data)
        found = compare_written(policy, place, states, answers)
        demand_equal(found, f"the zip for {name}")
        _check_predict(model, policy, states, answers)
        return Model(name, place.read_bytes(), folder, found, notes)


def compare_written(policy: Policy, path: Path, states: States, answers: Answers) -> Difference:
    """Compare a student with a zip and what lies beside it."""
    agent = find_agent(path)
    assert agent is not None
    return _compare(policy, load_agent(agent, strict=False), states, answers)


def _unseen(policy: Policy) -> list[str]:
    """Say how to train further where the model's observations are some keys of the environment's."""
    seen = [encoder.key for encoder in policy.spec.encoders]
    if set(seen) == set(members(policy.observation_space)):
        return []
    wrapped = f"gymnasium.wrappers.FilterObservation(env, {seen})"
    return [f"the model sees some keys only: to train it further, wrap its environment with {wrapped}"]


def _build(algorithm: Any, name: str, policy: Policy) -> Any:
    spec = policy.spec
    pictures = [e for e in spec.encoders if e.learned]
    spaces = members(policy.observation_space)
    kwargs: dict[str, Any] = {"activation_fn": type(activation(spec.activation))}
    hidden = list(spec.hidden)
    if name in ("PPO", "A2C"):
        value = hidden if spec.value_hidden is None else list(spec.value_hidden)
        kwargs["net_arch"] = {"pi": hidden, "vf": value}
    else:
        kwargs["net_arch"] = hidden if name == "DQN" else {"pi": hidden, "qf": hidden or [256, 256]}
    keyed = isinstance(policy.observation_space, gym.spaces.Dict)
    if pictures:
        kwargs["features_extractor_kwargs"] = {"cnn_output_dim" if keyed else "features_dim": pictures[0].features}
    scaled = [e.scale != 1.0 for e in spec.encoders if is_image(spaces[e.key])]
    kwargs["normalize_images"] = bool(scaled) and all(scaled)
    if name == "SAC" and spec.std == "gsde":
        kwargs["clip_mean"] = spec.mean_clip
    text = "MultiInputPolicy" if keyed else "CnnPolicy" if pictures else "MlpPolicy"
    more: dict[str, Any] = {"use_sde": True} if spec.std == "gsde" else {}
    if name in ("DQN", "TD3", "DDPG", "SAC"):
        more["buffer_size"] = 1  # allocated now; the real size is set below
    if name == "SAC":
        more["ent_coef"] = f"auto_{_ENTROPY}"
    env = SpacesOnly(seen_space(policy), policy.action_space)
    model = algorithm(text, env, policy_kwargs=kwargs, device="cpu", **more)
    if "buffer_size" in more:
        model.buffer_size = _PICTURE_BUFFER if pictures else _BUFFER
        model.replay_buffer = None
    return model


def _put_weights(network: nn.Module, name: str, policy: Policy) -> list[str]:
    """Overwrite the acting half of a fresh network (and the value function where the student has one)."""
    ours = {key: tensor.detach().cpu() for key, tensor in policy.state_dict().items()}
    theirs = network.state_dict()
    new: dict[str, Tensor] = {}
    notes: list[str] = []
    for key in theirs:
        _, found, rest = key.partition("features_extractor.")
        if found:
            mine = _encoder_name(rest, policy)
            if mine in ours:
                new[key] = ours[mine]
    layers = len(policy.spec.hidden)
    head = _head(policy, ours)
    if name in ("PPO", "A2C"):
        new |= _linear_layers(ours, "body", layers, "mlp_extractor.policy_net")
        new |= _in_env_units(policy, head, ours)
        if policy.spec.value_hidden is None:
            notes.append("the value function starts fresh: the student has none")
        else:
            new |= _linear_layers(ours, "value_body", len(policy.spec.value_hidden), "mlp_extractor.value_net")
            new |= {f"value_net.{part}": ours[f"value_head.{part}"] for part in ("weight", "bias")}
    elif name == "DQN":
        for net in ("q_net.q_net", "q_net_target.q_net"):
            new |= _linear_layers(ours, "body", layers, net)
            new |= {f"{net}.{2 * layers}.{part}": tensor for part, tensor in head.items()}
    elif name == "SAC":
        new |= _linear_layers(ours, "body", layers, "actor.latent_pi")
        mean = "actor.mu.0" if "actor.mu.0.weight" in theirs else "actor.mu"
        new |= {f"{mean}.{part}": tensor for part, tensor in head.items()}
        if policy.spec.std == "gsde":
            new["actor.log_std"] = ours["log_std"]
        else:
            new |= {f"actor.log_std.{part}": ours[f"log_std_head.{part}"] for part in ("weight", "bias")}
    else:
        for net in ("actor.mu", "actor_target.mu"):
            new |= _linear_layers(ours, "body", layers, net)
            new |= {f"{net}.{2 * layers}.{part}": tensor for part, tensor in head.items()}
    if name in ("SAC", "TD3", "DDPG"):
        notes.append("the critics start fresh: learn them before the actor moves (learning_starts, a small actor rate)")
    network.load_state_dict({**theirs, **new}, strict=True)
    return notes


def _encoder_name(rest: str, policy: Policy) -> str:
    """``cnn.0.weight`` or ``extractors.KEY.cnn.0.weight`` -> our name of the tensor."""
    if not rest.startswith("extractors."):
        return f"cnns._.{rest}"
    for encoder in policy.spec.encoders:
        prefix = f"extractors.{encoder.key}."
        if rest.startswith(prefix):
            return f"cnns.{encoder.key}.{rest.removeprefix(prefix)}"
    return ""


def _linear_layers(ours: dict[str, Tensor], name: str, count: int, target: str) -> dict[str, Tensor]:
    return {
        f"{target}.{2 * i}.{part}": ours[f"{name}.{2 * i}.{part}"] for i in range(count) for part in ("weight", "bias")
    }


def _head(policy: Policy, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The last layer in unit actions; the mean over quantiles is linear, and Bernoulli pairs become one logit."""
    weight = ours["head.weight"]
    bias = ours.get("head.bias", torch.zeros(len(weight)))
    if policy.spec.quantiles > 1:
        weight = weight.view(policy.spec.quantiles, -1, weight.shape[1]).mean(dim=0)
        bias = bias.view(policy.spec.quantiles, -1).mean(dim=0)
    if isinstance(policy.action_space, gym.spaces.MultiBinary):
        weight, bias = weight[1::2] - weight[::2], bias[1::2] - bias[::2]
    return {"weight": weight, "bias": bias}


def _in_env_units(policy: Policy, head: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The last layer of PPO and A2C: their Gaussians are in environment units, clipped to the bounds."""
    weight, bias = head["weight"], head["bias"]
    if not policy.family.continuous:
        return {"action_net.weight": weight, "action_net.bias": bias}
    action = ActionMap(policy.action_space)
    center, half = torch.as_tensor(action.center), torch.as_tensor(action.half)
    log_std = ours.get("log_std", torch.full((len(bias),), FRESH_LOG_STD))
    fresh = "log_std" not in ours
    if policy.spec.unit_actions:
        weight, bias = half[:, None] * weight, center + half * bias
    if policy.spec.unit_actions or fresh:
        log_std = log_std + half.log()
    return {"action_net.weight": weight, "action_net.bias": bias, "log_std": log_std}


def _compare(policy: Policy, again: Policy, states: States, answers: Answers) -> Difference:
    """Compare a student with its model as our own reader understands it, by actions where parameters differ in kind."""
    if again.family == policy.family and again.spec.family != "multi_categorical":
        return compare(policy, again, states, answers)
    found = compare_actions(answers.action, np.asarray(again.predict(states.whole(), deterministic=True)[0]))
    return Difference(
        len(states), *found, found[0], found[0] if policy.family.continuous else 0.0, not policy.family.continuous
    )


def compare_actions(ours: Array, theirs: Array) -> tuple[float, float]:
    """Return the largest and mean difference of actions [N, ...]; of discrete ones the share that differs, twice."""
    if ours.dtype.kind == "f":
        gap = np.abs(ours.astype(np.float64) - theirs)
        return float(gap.max()), float(gap.mean())
    share = float((ours.reshape(len(ours), -1) != theirs.reshape(len(ours), -1)).any(axis=1).mean())
    return share, share


def _check_predict(model: Any, policy: Policy, states: States, answers: Answers) -> None:
    """Ask the model itself, behind the normaliser's arithmetic.

    Raises:
        UserError: It does not act as the student.
    """
    obs = map_obs(np.asarray, states.whole())
    for key in policy.spec.normalized:
        mean = policy.get_buffer(f"normalizer_mean:{key}").numpy()
        std = np.sqrt(policy.get_buffer(f"normalizer_var:{key}").numpy() + policy.spec.normalizer_epsilon)
        plain = obs[key] if isinstance(obs, dict) else obs
        bound = policy.spec.normalizer_clip
        scaled = np.clip((plain - mean) / std, -bound, bound).astype(np.float32)
        obs = {**obs, key: scaled} if isinstance(obs, dict) else scaled
    if isinstance(obs, dict):
        obs = {e.key: obs[e.key] for e in policy.spec.encoders}
    actions, _ = model.predict(obs, deterministic=True)
    largest, _ = compare_actions(answers.action, np.asarray(actions).astype(answers.action.dtype))
    scale = max(1.0, float(np.abs(answers.action).max())) if policy.family.continuous else 1.0
    if not math.isfinite(largest) or largest > _TOLERANCE * scale:
        raise UserError(
            f"the zip is not written: Stable-Baselines3 acts differently with these weights ({largest:.2g})"
        )
