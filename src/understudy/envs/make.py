"""Environments from their description, from whichever library suits."""

from __future__ import annotations

from understudy.data import EnvSpec
from understudy.envs.base import VectorEnv


def make(spec: EnvSpec | str, num_envs: int, *, render: bool = False) -> VectorEnv:
    """Build B environments."""
    from understudy.envs.gymnasium_env import GymnasiumVectorEnv
    return GymnasiumVectorEnv(as_spec(spec), num_envs, render)

def as_spec(spec: EnvSpec | str) -> EnvSpec:
    """x."""
    return spec if isinstance(spec, EnvSpec) else EnvSpec(spec)

def spaces_of(spec):
    """x."""
    e = make(spec, 1)
    r = e.observation_space, e.action_space
    e.close()
    return r
