"""``understudy.load``: any trained policy becomes a teacher; the environment says the spaces that it does not."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from understudy.env_names import EnvLike
from understudy.envs.make import spaces_of
from understudy.policies.policy import PolicyLike
from understudy.teachers import load as teachers
from understudy.teachers.opaque import SpacesError


def load(
    source: Any,
    *,
    env: EnvLike | None = None,
    device: str = "cpu",
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
    output: str | None = None,
) -> PolicyLike:
    """Load a trained policy as a teacher; nothing foreign is unpickled.

    Args:
        source: A path (our policies and run folders, Stable-Baselines3 zips and zoo folders, TorchScript, ONNX),
            ``module:function``, a hub id ``hf://org/name[/file]``, a Python callable, a module of PyTorch, a model of
            Stable-Baselines3, or a policy, which passes through.
        env: The environment it is for, where the source does not say it or another one is wanted. An id keeps the
            wrappers that the source names; an ``EnvSpec`` replaces everything. Also a class or function that makes it.
        device: Where native policies and TorchScript run.
        observation_space: For TorchScript, ONNX and callables, which do not know their spaces; by default those of
            ``env``.
        action_space: Likewise.
        output: What TorchScript, ONNX and callables answer: ``action``, ``logits``, ``q_values`` or ``gaussian`` (means
            and log standard deviations, in environment units). By default logits for discrete actions where the sizes
            match, else actions.

    Raises:
        UserError: There is nothing at ``source``, or what is there cannot be read with certainty.
    """
    given: dict[str, Any] = {"env": env, "device": device, "output": output}
    try:
        return teachers.load(source, **given, observation_space=observation_space, action_space=action_space)
    except SpacesError:
        spec = teachers.env_spec(env)
        if spec is None:
            raise
        seen, done = spaces_of(spec)
        observation_space, action_space = observation_space or seen, action_space or done
        return teachers.load(source, **given, observation_space=observation_space, action_space=action_space)
