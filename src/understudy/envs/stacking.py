"""Which observations of an environment are stacks of pictures."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from understudy.data import EnvSpec
from understudy.envs.atari import AtariOptions, fold_stack
from understudy.policies.spaces import is_image, members


def stacked_pictures(spec: EnvSpec, observations: gym.Space[Any]) -> dict[str, int]:
    """Return, by key, how many pictures a stack holds [n * C, H, W]; nothing where the last wrapper stacks none.

    A wrapper after the one that stacks may do anything to the stack, so it must be the last one.
    """
    wrappers = fold_stack(spec.wrappers)
    last = wrappers[-1] if wrappers else {}
    count = 1
    if last.get("type") == "atari":
        count = AtariOptions.read(last).stack
    elif last.get("type") == "frame_stack":
        count = int(last.get("n", 1))
    pictures = [key for key, space in members(observations).items() if is_image(space)]
    shapes = {key: members(observations)[key].shape for key in pictures}
    return {key: count for key, shape in shapes.items() if count > 1 and shape and shape[0] % count == 0}
