"""``evaluate``: the return of a policy, with intervals, from separate episodes with fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from understudy.data import Array
from understudy.env_names import EnvLike
from understudy.envs.make import env_backend, make
from understudy.envs.multitask import task_names, whole_tasks
from understudy.evaluation.contestants import Contestant, check_episodes, check_spaces, resolve
from understudy.evaluation.statistics import Interval, bootstrap_interval, iqm, mean
from understudy.rollouts.episodes import MAX_STEPS, Episodes, Visit, run_episodes


def counted(count: int, what: str = "episode") -> str:
    """Write '1 episode', '20 episodes'."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Returns of finished episodes and what they say.

    Attributes:
        name: The policy.
        env: Id of the environment.
        backend: The library that ran it: the same seed is another episode in another library.
        episodes: N.
        mean: Mean return.
        mean_interval: Its 95 % bootstrap interval.
        iqm: Interquartile mean: that of the middle half of the episodes.
        iqm_interval: Its 95 % bootstrap interval.
        std: Standard deviation between episodes (N - 1 in the denominator; 0 for one episode).
        min: Worst return.
        max: Best return.
        mean_length: Steps of an episode.
        env_steps: Steps of all episodes.
        seconds: Wall time.
        deterministic: Whether the policy's mode acted instead of samples.
        returns: [N] in the order of the seeds.
        lengths: [N] steps.
        seeds: [N].
        tasks: What was found in each task, under its name, where the environment has several (every seed is played in
            every task). The numbers above are then of all episodes together, whatever the scales of their returns.
    """

    name: str
    env: str
    backend: str
    episodes: int
    mean: float
    mean_interval: Interval
    iqm: float
    iqm_interval: Interval
    std: float
    min: float
    max: float
    mean_length: float
    env_steps: int
    seconds: float
    deterministic: bool
    returns: Array
    lengths: Array
    seeds: Array
    tasks: tuple[Evaluation, ...] = ()

    def __repr__(self) -> str:
        low, high = self.mean_interval
        found = f"return {self.mean:.5g} [{low:.5g}, {high:.5g}] over {counted(self.episodes)}"
        return f"<Evaluation of {self.name} in {self.env}: {found}>"

    def to_json(self) -> dict[str, Any]:
        """Return plain data: every attribute, arrays as lists."""
        plain = dict(vars(self))
        for name in ("mean_interval", "iqm_interval"):
            plain[name] = list(plain[name])
        for name in ("returns", "lengths", "seeds"):
            plain[name] = plain[name].tolist()
        plain["tasks"] = [task.to_json() for task in self.tasks]
        return plain


def summarize(
    episodes: Episodes, name: str = "", env: str = "", backend: str = "", deterministic: bool = True
) -> Evaluation:
    """Describe episodes.

    Raises:
        UserError: There are none, or a return is not finite.
    """
    returns = episodes.returns
    mean_interval = bootstrap_interval(returns, mean)
    return Evaluation(
        name=name,
        env=env,
        backend=backend,
        episodes=len(episodes),
        mean=float(mean(returns)),
        mean_interval=mean_interval,
        iqm=float(iqm(returns)),
        iqm_interval=bootstrap_interval(returns, iqm),
        std=float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        min=float(returns.min()),
        max=float(returns.max()),
        mean_length=float(episodes.lengths.mean()),
        env_steps=episodes.env_steps,
        seconds=episodes.seconds,
        deterministic=deterministic,
        returns=returns,
        lengths=episodes.lengths,
        seeds=episodes.seeds,
    )


def describe(episodes: Episodes, contestant: Contestant, deterministic: bool, drawn: bool = False) -> Evaluation:
    """Describe episodes of a contestant; ``drawn`` ones may have run in another library."""
    backend = env_backend(contestant.env, render=drawn)
    found = summarize(episodes, contestant.name, contestant.env.id, backend, deterministic)
    if episodes.task is None:
        return found
    parts = zip(episodes.by_task(), task_names(contestant.env), strict=True)
    tasks = tuple(summarize(part, contestant.name, task, backend, deterministic) for part, task in parts)
    return replace(found, tasks=tasks)


def evaluate(
    policy: Any,
    env: EnvLike | None = None,
    episodes: int = 20,
    seed: int = 0,
    num_envs: int = 8,
    deterministic: bool = True,
    max_steps: int = MAX_STEPS,
) -> Evaluation:
    """Measure the return of a policy.

    Args:
        policy: A path or id that ``understudy.load`` takes, an object with ``predict``, or ``"random"``.
        env: Where it plays; the environment it was made for by default.
        episodes: How many; their seeds are ``seed``, ``seed + 1``, ...
        seed: Of the first episode.
        num_envs: Environments stepped together; the seeds decide the result, not this (but for rounding in batches).
        deterministic: The mode of the policy instead of samples.
        max_steps: An episode longer than this is taken for endless.

    Raises:
        UserError: The policy or its environment cannot be found, do not fit, or an episode does not end.
    """
    contestant = resolve(policy, env, seed=seed)
    played = play_out(contestant, episodes, seed, num_envs, deterministic, max_steps)
    return describe(played, contestant, deterministic)


def play_out(
    contestant: Contestant,
    episodes: int,
    seed: int = 0,
    num_envs: int = 8,
    deterministic: bool = True,
    max_steps: int = MAX_STEPS,
    on_step: Callable[[Visit], None] | None = None,
) -> Episodes:
    """Run the episodes of seeds ``seed`` to ``seed + episodes - 1`` on environments that are closed afterwards.

    Raises:
        UserError: As ``evaluate``.
    """
    check_episodes(episodes, seed, num_envs)
    rows = min(num_envs, episodes * len(task_names(contestant.env)))
    vector = make(contestant.env, whole_tasks(contestant.env, rows))
    try:
        check_spaces(contestant, vector.observation_space, vector.action_space)
        seeds = range(seed, seed + episodes)
        return run_episodes(contestant.policy, vector, seeds, deterministic, on_step, max_steps)
    finally:
        vector.close()
