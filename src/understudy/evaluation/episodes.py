"""Moved: see ``rollouts.episodes``."""

from understudy.rollouts.episodes import *  # noqa: F403
from understudy.rollouts.episodes import policy_name, merge_episodes, run_episodes, random_policy, Episodes, Visit  # noqa
