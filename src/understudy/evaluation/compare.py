"""``compare``: any number of policies on the same seeds; the first is the reference, usually the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from understudy.env_names import EnvLike
from understudy.errors import UserError
from understudy.evaluation.agreement import Agreement, StateRecorder, agreement, has_memory
from understudy.evaluation.contestants import RANDOM, Contestant, resolve, resolve_all
from understudy.evaluation.evaluate import Evaluation, describe, play_out
from understudy.evaluation.latency import Latency, kilobytes_of, latency, parameters_of
from understudy.evaluation.parity import Parity, parity_test
from understudy.evaluation.speedup import finite
from understudy.policies.policy import PolicyLike


@dataclass(frozen=True)
class Row:
    """One policy of a comparison; None where something cannot be measured.

    Attributes:
        name: What to call it.
        evaluation: Its returns.
        ratio: (S - R) / (T - R): 0 is the random policy, 1 the reference.
        parity: The paired test against the reference; None for the reference itself.
        parameters: How many numbers it takes to act.
        kilobytes: Their size as float32.
        latency: Of one action.
        agreement: With the reference, in the states of this policy.
    """

    name: str
    evaluation: Evaluation
    ratio: float | None
    parity: Parity | None
    parameters: int | None
    kilobytes: float | None
    latency: Latency | None
    agreement: Agreement | None

    def to_json(self) -> dict[str, Any]:
        """Return plain data; numbers that are none (a bound of minus infinity) become null."""
        parts = {name: getattr(self, name) for name in ("parity", "latency", "agreement")}
        return {
            "name": self.name,
            "evaluation": self.evaluation.to_json(),
            "ratio": self.ratio,
            "parameters": self.parameters,
            "kilobytes": self.kilobytes,
            **{name: None if part is None else finite(asdict(part)) for name, part in parts.items()},
        }


@dataclass(frozen=True, repr=False)
class Comparison:
    """Policies on the same seeds.

    Attributes:
        env: Id of the environment.
        rows: One per policy; the first is the reference.
        random: Returns of the random policy, from which ratios are measured.
        wanted_ratio: What the parity tests ask for.
        alpha: Their level; each row has its own test, nothing is corrected for their number.
        notes: What could not be measured, and why.
    """

    env: str
    rows: list[Row]
    random: Evaluation
    wanted_ratio: float
    alpha: float
    notes: list[str]

    def __repr__(self) -> str:
        from understudy.evaluation.tables import to_text

        return to_text(self)

    def _repr_markdown_(self) -> str:
        """What notebooks show."""
        from understudy.evaluation.tables import to_markdown

        return to_markdown(self)

    @property
    def reference(self) -> Row:
        """The first policy."""
        return self.rows[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "env": self.env,
            "rows": [row.to_json() for row in self.rows],
            "random": self.random.to_json(),
            "wanted_ratio": self.wanted_ratio,
            "alpha": self.alpha,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class _Plan:
    """How everyone is measured."""

    episodes: int
    seed: int
    num_envs: int
    deterministic: bool
    ratio: float
    alpha: float
    guard_falls: bool


def compare(
    policies: Sequence[Any],
    env: EnvLike | None = None,
    episodes: int = 50,
    seed: int = 0,
    num_envs: int = 8,
    deterministic: bool = True,
    ratio: float = 0.95,
    alpha: float = 0.05,
    guard_falls: bool = False,
    names: Sequence[str] | None = None,
    measure_latency: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Play the same episodes with every policy and put them side by side.

    Args:
        policies: Paths, ids or policies, as for ``evaluate``; the first is the reference.
        env: Where they play; by default where the first was made for.
        episodes: Per policy, with seeds ``seed``, ``seed + 1``, ... for all, so that tests can be paired.
        seed: Of the first episode.
        num_envs: Environments stepped together.
        deterministic: The mode of every policy instead of samples.
        ratio: Share of the reference's return, from the random policy up, that the parity tests ask for.
        alpha: Level of each test.
        guard_falls: Count one fall more than was seen; see ``parity``.
        names: What to call them.
        measure_latency: Whether to time them.
        progress: Told what is going on, one line each.

    Raises:
        UserError: As ``evaluate``, or the policies play in different environments.
    """
    contestants = resolve_all(policies, env, names, seed)
    plan = _Plan(episodes, seed, num_envs, deterministic, ratio, alpha, guard_falls)
    tell = progress or (lambda line: None)
    tell("random policy")
    random = _play(resolve(RANDOM, contestants[0].env, seed=seed), plan)
    notes: list[str] = []
    rows: list[Row] = []
    for contestant in contestants:
        tell(contestant.name)
        recorder = _recorder(contestants[0], contestant) if rows else None
        found = _play(contestant, plan, recorder)
        reference = rows[0].evaluation if rows else found
        alike = _agreement(contestants[0], contestant, recorder, notes)
        timed = latency(contestant.policy) if measure_latency and hasattr(contestant.policy, "label") else None
        rows.append(
            Row(
                name=contestant.name,
                evaluation=found,
                ratio=_ratio(found, reference, random),
                parity=_parity(found, reference, random, plan, notes) if rows else None,
                parameters=parameters_of(contestant.policy),
                kilobytes=kilobytes_of(contestant.policy),
                latency=timed,
                agreement=alike,
            )
        )
    return Comparison(contestants[0].env.id, rows, random, ratio, alpha, notes + _task_notes(rows, random))


def _task_notes(rows: Sequence[Row], random: Evaluation) -> list[str]:
    """Say how everyone does in each of several tasks; the table has the ratio and the test of the worst."""
    notes = ["Several tasks: ratio and test are those of the worst."] if random.tasks else []
    for i, base in enumerate(random.tasks):
        parts = []
        for row in rows:
            task = row.evaluation.tasks[i]
            ratio = _ratio(task, rows[0].evaluation.tasks[i], base)
            parts.append(f"{row.name} {task.mean:.4g}" + (f" (ratio {ratio:.3f})" if ratio is not None else ""))
        notes.append(f"{base.env}: {', '.join(parts)}, random {base.mean:.4g}")
    return notes


def _play(contestant: Contestant, plan: _Plan, recorder: StateRecorder | None = None) -> Evaluation:
    episodes = play_out(contestant, plan.episodes, plan.seed, plan.num_envs, plan.deterministic, on_step=recorder)
    return describe(episodes, contestant, plan.deterministic)


def _ratio(student: Evaluation, reference: Evaluation, random: Evaluation) -> float | None:
    if student.tasks:  # of the worst task
        ratios = [_ratio(*task) for task in zip(student.tasks, reference.tasks, random.tasks, strict=True)]
        known = [ratio for ratio in ratios if ratio is not None]
        return min(known) if len(known) == len(ratios) else None
    if reference.mean <= random.mean:
        return None
    return (student.mean - random.mean) / (reference.mean - random.mean)


def _parity(
    student: Evaluation, reference: Evaluation, random: Evaluation, plan: _Plan, notes: list[str]
) -> Parity | None:
    if student.tasks:  # on par in every task (see SequentialParity.look_each): the test of the worst
        parts = zip(student.tasks, reference.tasks, random.tasks, strict=True)
        found = [test for task in parts if (test := _parity(*task, plan, notes)) is not None]
        return max(found, key=lambda test: test.p_value) if len(found) == len(student.tasks) else None
    try:
        return parity_test(
            student.returns, reference.returns, random.returns, plan.ratio, plan.alpha, True, plan.guard_falls
        )
    except UserError as error:
        if str(error) not in notes:
            notes.append(str(error))
        return None


def tested_for(found: Comparison, ratio: float) -> Comparison:
    """Return a comparison of the same episodes whose tests ask for another share of the reference's return."""
    if ratio == found.wanted_ratio:
        return found
    plan, notes = _Plan(0, 0, 0, True, ratio, found.alpha, False), list(found.notes)
    (first, *others), base = found.rows, found.random
    rows = [replace(row, parity=_parity(row.evaluation, first.evaluation, base, plan, notes)) for row in others]
    return replace(found, rows=[first, *rows], wanted_ratio=ratio, notes=notes)


def _recorder(reference: Contestant, student: Contestant) -> StateRecorder | None:
    """Return what keeps the student's states, if both can be asked about them."""
    both = (reference.policy, student.policy)
    if not all(isinstance(policy, PolicyLike) for policy in both):
        return None
    return StateRecorder(whole_sequences=any(has_memory(policy) for policy in both))


def _agreement(
    reference: Contestant, student: Contestant, recorder: StateRecorder | None, notes: list[str]
) -> Agreement | None:
    if recorder is None:
        return None
    assert isinstance(reference.policy, PolicyLike) and isinstance(student.policy, PolicyLike)
    if reference.env.wrappers != student.env.wrappers:
        notes.append(f"no agreement of {student.name}: it sees other observations than {reference.name} (wrappers)")
        return None
    try:
        return agreement(reference.policy, student.policy, recorder.visited())
    except UserError as error:
        notes.append(f"no agreement of {student.name}: {error}")
        return None
