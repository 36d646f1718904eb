"""A population's numbers: which ones are moved, how they begin, what is written about them. Pure, without Ray."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import UserError
from understudy.settings import KickstartSettings

LOG = "population.jsonl"
PLACES = {
    "weight": "teaching.weight",
    "lr": "update.lr",
    "entropy_weight": "objective.entropy_weight",
}
"""What is moved, and the setting that it takes the place of."""
Values = dict[str, float]


def first_values(settings: KickstartSettings) -> list[Values]:
    """Draw every member's first numbers, uniformly in their logarithms, from the run's seed."""
    rng = np.random.default_rng((settings.seed, 11))
    ranges = settings.pbt.ranges
    return [
        {name: float(math.exp(rng.uniform(math.log(low), math.log(high)))) for name, (low, high) in ranges.items()}
        for _ in range(settings.pbt.population)
    ]


def member_seed(settings: KickstartSettings, member: int) -> int:
    """Return a member's seed; runs of one size of population share none."""
    return settings.seed * settings.pbt.population + member


def member_settings(settings: KickstartSettings, member: int, values: Mapping[str, float]) -> KickstartSettings:
    """Return the settings of one member: an ordinary kickstarted run in one process, with constants for its numbers.

    Its evaluations are the population's, so there is no evaluator of its own; it ends when it is told to.
    """
    numbers = {name: repr(float(value)) for name, value in values.items()}
    return replace(
        settings,
        seed=member_seed(settings, member),
        teaching=replace(settings.teaching, weight=numbers["weight"]),
        update=replace(settings.update, lr=numbers["lr"]),
        objective=replace(settings.objective, entropy_weight=numbers["entropy_weight"]),
        evaluation=replace(settings.evaluation, every=0, final=0),
        execution=replace(settings.execution, type="single", learner_threads=1),
        stop=replace(settings.stop, seconds=0.0, score=None),
        checkpoint_every=0,
    )


def interval(settings: KickstartSettings) -> int:
    """Return the env steps between two exploits, in whole rollouts."""
    wanted = settings.pbt.interval or settings.stop.env_steps / 20
    return max(math.ceil(wanted / settings.samples), 1) * settings.samples


@dataclass(frozen=True)
class Result:
    """One member after one interval; a line of ``population.jsonl``.

    Attributes:
        interval: How many intervals it has behind it.
        member: Which one.
        env_steps: Of it and, where it copied another one, of that one's past.
        score: Mean return of its evaluation.
        values: The numbers that it learnt with in this interval.
        parent: The member whose weights it began the interval with; itself where it copied none.
        time: Seconds since 1970.
        before: Its own numbers in the interval before; empty in the first.
    """

    interval: int
    member: int
    env_steps: int
    score: float
    values: Values
    parent: int
    time: float
    before: Values = field(default_factory=dict)

    @property
    def exploit(self) -> bool:
        """Whether it copied another one."""
        return self.parent != self.member

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        plain: dict[str, Any] = {"event": "exploit" if self.exploit else "continue", **vars(self)}
        return plain


def append(path: Path, result: Result) -> None:
    """Write one line."""
    with path.open("a") as file:
        file.write(json.dumps(result.to_json()) + "\n")


def read(path: Path) -> list[Result]:
    """Read what ``append`` wrote; half a line at the end, of a killed run, is left out.

    Raises:
        UserError: There is no such file, or it holds something else.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: there is no population to go on with")
    lines = path.read_text().splitlines()
    found = []
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
            row.pop("event")
            found.append(Result(**row))
        except (ValueError, TypeError, KeyError):
            if i + 1 < len(lines):
                raise UserError(f"{path}, line {i + 1}: not a line of a population's log") from None
    return found


def lineage(results: Sequence[Result], member: int) -> list[Result]:
    """Return the past of a member's weights, from the first interval on: where it copied, the other one's past."""
    known = {(r.interval, r.member): r for r in results}
    at = max((r.interval for r in results if r.member == member), default=0)
    past = []
    while (at, member) in known:
        past.append(known[at, member])
        member, at = known[at, member].parent, at - 1
    return past[::-1]


def best(results: Sequence[Result]) -> Result:
    """Return the best of the last interval that somebody finished; the first of equals."""
    last = max(r.interval for r in results)
    return max((r for r in results if r.interval == last), key=lambda r: (r.score, -r.member))
