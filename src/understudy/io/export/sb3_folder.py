"""What lies beside a zip of Stable-Baselines3: the folder of rl-baselines3-zoo, with the normaliser."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml

from understudy.policies.policy import Policy

_COUNT = 1e6
"""Samples that the normaliser's statistics count as: going on, they move slowly."""
_WRAPPERS = {
    "time_feature": "sb3_contrib.common.wrappers.TimeFeatureWrapper",
    "atari": "stable_baselines3.common.atari_wrappers.AtariWrapper",
}


def seen_space(policy: Policy) -> gym.Space[Any]:
    """The observation space; of a dict space the keys that are seen, in the order of the features."""
    space = policy.observation_space
    if not isinstance(space, gym.spaces.Dict):
        return space
    return gym.spaces.Dict(OrderedDict((e.key, space.spaces[e.key]) for e in policy.spec.encoders))


class SpacesOnly(gym.Env[Any, Any]):
    """What Stable-Baselines3 wants to see of an environment when it builds a model."""

    def __init__(self, observations: gym.Space[Any], actions: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observations, actions

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return an observation of the space."""
        return self.observation_space.sample(), {}


def zoo_folder(policy: Policy, name: str, notes: list[str]) -> dict[str, bytes]:
    """The files of the zoo's layout: the environment, its wrappers, and the normaliser.

    The two YAML files are always among them: without a folder of its own a zip would be read with one that lies near.
    """
    env, files = policy.about.env, {}
    config: dict[str, Any] = {"policy": "MlpPolicy"}
    if policy.spec.normalized:
        files["vecnormalize.pkl"] = _vecnormalize(policy)
        config["normalize"] = "dict(norm_obs=True, norm_reward=False)"
        notes.append("load vecnormalize.pkl with VecNormalize.load(path, venv): the model sees normalised observations")
    if env is not None:
        wrappers: list[Any] = []
        for wrapper in env.wrappers:
            arguments = {key: value for key, value in wrapper.items() if key != "type"}
            if wrapper["type"] == "frame_stack":
                config["frame_stack"] = arguments["n"]
            elif wrapper["type"] in _WRAPPERS:
                path = _WRAPPERS[wrapper["type"]]
                wrappers.append({path: arguments} if arguments else path)
            else:
                notes.append(f"the wrapper {wrapper['type']} around {env.id} has no name in the zoo: add it yourself")
        if wrappers:
            config["env_wrapper"] = wrappers
        if env.kwargs:
            config["env_kwargs"] = dict(env.kwargs)
    files["args.yml"] = yaml.safe_dump({"algo": name.lower(), "env": None if env is None else env.id}).encode()
    files["config.yml"] = yaml.safe_dump(config).encode()
    return files


def _vecnormalize(policy: Policy) -> bytes:
    """Let Stable-Baselines3 write its own normaliser with the student's statistics."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    spec, space = policy.spec, seen_space(policy)
    env = DummyVecEnv([lambda: SpacesOnly(space, policy.action_space)])
    keys = list(spec.normalized) if isinstance(space, gym.spaces.Dict) else None
    normal = VecNormalize(
        env, norm_reward=False, clip_obs=spec.normalizer_clip, epsilon=spec.normalizer_epsilon, norm_obs_keys=keys
    )
    for key in spec.normalized:
        found: Any = normal.obs_rms
        statistics = found if keys is None else found[key]
        statistics.mean = policy.get_buffer(f"normalizer_mean:{key}").cpu().numpy().copy()
        statistics.var = policy.get_buffer(f"normalizer_var:{key}").cpu().numpy().copy()
        statistics.count = _COUNT
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vecnormalize.pkl"
        normal.save(str(path))
        return path.read_bytes()
