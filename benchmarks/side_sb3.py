"""The side of Stable-Baselines3: its environments, and a run that is told our settings; see ``sides.py``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch

from sb3_models import sb3_model
from understudy.envs.make import env_backend, make
from understudy.settings import ReplayedSettings, TrainSettings
from understudy.training import resolve_training
from watch import Done, Watch, warm


def sb3_envs(settings: TrainSettings | ReplayedSettings, kind: str, seed: int) -> Any:
    """Return Stable-Baselines3's vector environment: ``dummy``, ``subproc``, or an adapter where ale-py has its own."""
    from stable_baselines3.common import vec_env as sb3

    spec, count = settings.env.spec(), settings.rollout.num_envs
    if kind == "atari":
        return atari_as_shipped(spec.id, count, seed)
    if env_backend(spec) == "ale":
        return emulators(spec, count, seed)
    makers = [lambda: gym.make(spec.id) for _ in range(count)]
    envs: Any = sb3.SubprocVecEnv(makers) if kind == "subproc" else sb3.DummyVecEnv(makers)
    envs.seed(seed)
    objective = settings.objective
    if isinstance(settings, TrainSettings) and (settings.policy.normalize or objective.normalize_reward):
        envs = sb3.VecNormalize(
            envs,
            norm_obs=settings.policy.normalize,
            norm_reward=objective.normalize_reward,
            clip_reward=objective.reward_clip or float("inf"),
            gamma=objective.gamma,
        )
    return envs


def atari_as_shipped(env_id: str, count: int, seed: int) -> Any:
    """Return what the documentation of Stable-Baselines3 tells its users to take for Atari; needs OpenCV."""
    import ale_py
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gym.register_envs(ale_py)
    raw = {"frameskip": 1, "repeat_action_probability": 0.0}  # its wrapper skips four frames; nothing is sticky
    return VecFrameStack(make_atari_env(env_id, n_envs=count, seed=seed, env_kwargs=raw), 4)


def emulators(spec: Any, count: int, seed: int) -> Any:
    """Return ale-py's vector environment, the one that ours uses as well, as one of Stable-Baselines3.

    It is faster than that library's own AtariWrapper in a DummyVecEnv (and needs no OpenCV), which favours the peer.
    """
    from stable_baselines3.common.vec_env import VecEnv

    class Emulators(VecEnv):
        """B games; what is not needed for training is not there."""

        def __init__(self) -> None:
            self._games = make(spec, count)
            super().__init__(count, self._games.observation_space, self._games.action_space)

        def reset(self) -> Any:
            return self._games.reset(range(seed, seed + count))

        def step_async(self, actions: Any) -> None:
            self._actions = actions

        def step_wait(self) -> Any:
            step = self._games.step(self._actions)
            infos: list[dict[str, Any]] = [{} for _ in range(count)]
            done = step.terminated | step.truncated
            for i in np.flatnonzero(done):
                infos[i] = {"terminal_observation": step.final_obs[i], "TimeLimit.truncated": bool(step.truncated[i])}
            return step.obs, np.clip(step.reward, -1, 1), done, infos

        def close(self) -> None:
            self._games.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * count

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * count

    return Emulators()


def sb3(job: dict[str, Any]) -> dict[str, Any]:
    """Train with Stable-Baselines3, told the same settings."""
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecNormalize

    settings = resolve_training(job["settings"], job.get("preset"))
    warm(settings)
    torch.set_num_threads(int(job.get("threads", 1)))

    def predict(obs: Any) -> Any:
        envs = model.get_vec_normalize_env()
        seen = envs.normalize_obs(obs) if isinstance(envs, VecNormalize) else obs
        return model.predict(seen, deterministic=True)[0]

    class Told(BaseCallback):
        """Tells the watch of every rollout that has been learnt from."""

        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                watch.round(self.num_timesteps, predict)

        def _on_step(self) -> bool:
            return True

    watch = Watch(job)
    model = sb3_model(settings, sb3_envs(settings, job.get("vec", "dummy"), settings.seed), settings.seed)
    try:
        model.learn(settings.stop.env_steps, callback=Told())
        watch.round(model.num_timesteps, predict)
    except Done:
        pass
    found = watch.result()
    if job.get("final"):
        found["returns"] = watch.judge(predict)
    model.env.close()
    return found
