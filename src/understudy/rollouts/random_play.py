"""What an environment shows to somebody who acts at random, before anything is learnt."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from understudy.data import Array, EnvSpec, Observation
from understudy.envs.make import make
from understudy.envs.multitask import task_actions, whole_tasks
from understudy.envs.unity.options import UnityOptions, is_unity
from understudy.rollouts.behaviour import Mixture
from understudy.rollouts.buffers import new_rollout
from understudy.rollouts.episodes import random_policy
from understudy.rollouts.own_clocks import collector_for

_ENVS, _STEPS, _TIMES = 8, 16, 16


def random_observations(spec: EnvSpec, seed: int) -> Observation:
    """Act at random for 2,048 env steps, in 8 environments, and return every 16th observation of each: [128, ...].

    A Unity editor has one scene: its agents act for as many steps together. Play has to be pressed again afterwards.

    Raises:
        UserError: The environment cannot be built, or fails.
    """
    seen: dict[str, list[Array]] = {}
    editor = is_unity(spec.id) and UnityOptions.read(spec).editor  # it runs one scene
    with closing(make(spec, whole_tasks(spec, 1 if editor else _ENVS))) as env:
        collector = collector_for(env, [2**30 + (seed + i) % 2**30 for i in range(env.num_envs)])
        actor = random_policy(env.action_space, seed, task_actions(spec))
        out = new_rollout(env.observation_space, env.action_space, _STEPS, env.num_envs)
        for _ in range(_TIMES * max(_ENVS // env.num_envs, 1)):
            collector.collect(_STEPS, Mixture(beta=1.0), None, actor, out)
            for key, array in out.obs.items() if isinstance(out.obs, dict) else [("", out.obs)]:
                seen.setdefault(key, []).append(array[-1].copy())
    whole = {key: np.concatenate(arrays) for key, arrays in seen.items()}
    return whole if isinstance(out.obs, dict) else whole[""]


__all__ = ["random_observations"]
