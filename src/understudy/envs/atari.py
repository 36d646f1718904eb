"""What the ``atari`` wrapper means, for both paths: ale-py's own vector environment, and gymnasium with OpenCV."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import EnvSpec
from understudy.errors import UserError, missing_extra, suggest

# Stable-Baselines3's AtariWrapper has other names for three of them.
_ALIASES = {
    "terminal_on_life_loss": "episodic_life",
    "clip_reward": "reward_clipping",
    "action_repeat_probability": "sticky",
}

_AIDS = ("episodic_life", "reward_clipping")
"""Options that help learning and change nothing that is seen."""

_FRAMES_PER_SECOND = 60
"""Of the games."""


@dataclass(frozen=True)
class AtariOptions:
    """Preprocessing of Atari games. The defaults are those that scores are reported with: whole games, raw rewards.

    Attributes:
        frame_skip: Frames that an action lasts; the last two are maximised.
        screen_size: Height and width of the grey picture.
        stack: Pictures in an observation, [stack, size, size] uint8, oldest first.
        noop_max: An episode begins with 1 to so many frames of doing nothing.
        sticky: Probability that the emulator repeats the last action (0.25 in Machado et al. 2018).
        fire_reset: Press FIRE at the start of games that wait for it.
        episodic_life: A lost life terminates.
        reward_clipping: Rewards become their sign.
    """

    frame_skip: int = 4
    screen_size: int = 84
    stack: int = 4
    noop_max: int = 30
    sticky: float = 0.0
    fire_reset: bool = True
    episodic_life: bool = False
    reward_clipping: bool = False

    @staticmethod
    def read(options: Mapping[str, Any]) -> AtariOptions:
        """Build the options from the arguments of the wrapper, by our names or Stable-Baselines3's.

        Raises:
            UserError: An argument is not known.
        """
        ours = {_ALIASES.get(key, key): value for key, value in options.items() if key != "type"}
        known = [entry.name for entry in fields(AtariOptions)]
        for key in ours:
            if key not in known:
                raise UserError(f"the wrapper 'atari' has no argument {key!r}{suggest(key, known)}")
        return AtariOptions(**ours)


def fold_stack(wrappers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Merge ``atari`` and the ``frame_stack`` that directly follows it (Stable-Baselines3 configures them apart).

    Raises:
        UserError: Both say how many pictures to stack.
    """
    merged: list[Mapping[str, Any]] = []
    for options in wrappers:
        if options.get("type") == "frame_stack" and merged and merged[-1].get("type") == "atari" and "n" in options:
            if "stack" in merged[-1]:
                raise UserError("the wrapper 'atari' stacks frames itself: give either its 'stack' or 'frame_stack'")
            merged[-1] = {**merged[-1], "stack": options["n"]}
        else:
            merged.append(options)
    return merged


def without_aids(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a wrapper's description; of ``atari`` without what only helps learning: single lives, clipped rewards."""
    if options.get("type") != "atari":
        return options
    return {key: value for key, value in options.items() if _ALIASES.get(key, key) not in _AIDS}


def emulator_kwargs(spec: EnvSpec) -> dict[str, Any]:
    """Return what the ``atari`` wrapper asks of the emulator: it repeats actions itself, so the emulator must not."""
    for options in spec.wrappers:
        if options.get("type") == "atari":
            sticky = AtariOptions.read(options).sticky
            return {"frameskip": 1, "repeat_action_probability": sticky}
    return {}


def preprocess(env: gym.Env[Any, Any], options: AtariOptions) -> gym.Env[Any, Any]:
    """Wrap one emulator; observations are [stack, size, size] uint8.

    Raises:
        UserError: It is no emulator, or OpenCV is missing.
    """
    from understudy.envs.wrappers import FrameStack

    if not hasattr(env.unwrapped, "ale"):
        raise UserError("the wrapper 'atari' is for Atari games (ALE/...-v5)")
    if importlib.util.find_spec("cv2") is None:
        raise missing_extra(
            "opencv-python-headless", "atari", "Atari preprocessing outside ale-py's own vector environment"
        )
    env = gym.wrappers.AtariPreprocessing(
        env,
        noop_max=options.noop_max,
        frame_skip=options.frame_skip,
        screen_size=options.screen_size,
        terminal_on_life_loss=options.episodic_life,
        grayscale_newaxis=True,
    )
    if options.fire_reset and "FIRE" in env.unwrapped.get_action_meanings():  # type: ignore[attr-defined]
        env = FireReset(env)
    if options.reward_clipping:
        env = gym.wrappers.TransformReward(env, lambda reward: float(np.sign(float(reward))))
    stacked = FrameStack(env, options.stack)
    stacked.metadata = {**env.metadata, "render_fps": _FRAMES_PER_SECOND / options.frame_skip}
    return stacked


class FireReset(gym.Wrapper[Any, Any, Any, Any]):
    """Presses FIRE once after a reset: some games wait for it for ever."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode that needs no FIRE."""
        self.env.reset(seed=seed, options=options)
        obs, _, terminated, truncated, info = self.env.step(1)
        return self.env.reset(options=options) if terminated or truncated else (obs, info)
