"""Objects of users that act: what they answer is checked before an environment stumbles over it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from understudy.data import Array
from understudy.errors import UserError
from understudy.policies.protocol import About, check_arguments


class Checked:
    """An object whose actions are as its environment takes them, or it is refused; in all else the object itself.

    Raises:
        UserError: Its ``predict`` does not take what policies are given.
    """

    def __init__(self, policy: Any, space: gym.Space[Any]) -> None:
        self._policy, self._space = policy, space
        self.about = getattr(policy, "about", None) or About(type(policy).__name__)
        self._name = str(getattr(self.about, "source", "") or getattr(self.about, "algorithm", ""))
        check_arguments(policy.predict, self._name, None, None, None, True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act as the object does.

        Raises:
            UserError: It answers no actions, or such as are not in the space.
        """
        answer = self._policy.predict(observation, state, episode_start, deterministic)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise UserError(f"predict of {self._name} must return actions and a state (or None), not {_kind(answer)}")
        action = np.asarray(answer[0])
        count = len(action) if episode_start is None and action.ndim else len(np.atleast_1d(episode_start))
        wanted = (count, *(self._space.shape or ()))
        if action.dtype.kind not in "fiub" or action.shape != wanted:
            raise UserError(
                f"predict of {self._name} answers {_kind(action)} for {count} observations; actions of {self._space} "
                f"are numbers of shape {wanted}"
            )
        self._check_choices(action)
        return action, answer[1]

    def _check_choices(self, action: Array) -> None:
        space = self._space
        if isinstance(space, gym.spaces.Box):
            return
        low: Any = getattr(space, "start", 0)
        count: Any = getattr(space, "nvec", 2 if isinstance(space, gym.spaces.MultiBinary) else getattr(space, "n", 2))
        wrong = (action < low) | (action >= low + count)
        if wrong.any():
            raise UserError(f"predict of {self._name} answers {action[wrong][0]}, which is not in {space}")


def checked(policy: Any, env: Any) -> Any:
    """Return a policy that answers actions of an environment: itself if it is one of ours.

    Only where it is not is the environment asked: before its first step a Unity scene would have to be looked at.
    """
    ours = hasattr(policy, "family") or type(policy).__module__.startswith("understudy.")
    return policy if ours else Checked(policy, env.action_space)


def _kind(answer: Any) -> str:
    if isinstance(answer, np.ndarray):
        return f"{answer.dtype} of shape {answer.shape}"
    return f"a {type(answer).__name__}"
