"""What has to be measured for a report: policies are loaded, timed, and play a few episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from understudy.data import EnvSpec
from understudy.distill_job import load_for, pair_environments
from understudy.errors import UserError
from understudy.evaluation.compare import Comparison, compare
from understudy.evaluation.evaluate import evaluate
from understudy.evaluation.latency import parameters_of
from understudy.policies.policy import Policy, PolicyLike
from understudy.report.disagreement import Disagreement, find
from understudy.report.folder import Group, RunFolder
from understudy.report.runtimes import Size, measure
from understudy.settings.train import EnvSettings
from understudy.teachers.combine import combine
from understudy.teachers.foreign import refuse_pulled
from understudy.teachers.inspect import network_text, space_text

T = TypeVar("T")
CardOf = tuple[str, str, tuple[tuple[str, str], ...]]
"""Role, name, rows."""
Named = tuple[str, PolicyLike]
_STATES = 6
_FILM_STEPS, _FILM_HEIGHT = 300, 240


@dataclass(frozen=True)
class Plan:
    """What may be measured.

    Attributes:
        play: Whether policies are loaded at all.
        episodes: Of everyone, where the folder has no table, and of the student to find disagreements.
        film: Whether to film teacher and student side by side.
    """

    play: bool = True
    episodes: int = 20
    film: bool = False


@dataclass
class Measured:
    """What was found; ``teachers`` are the names of the table's first rows."""

    teachers: tuple[str, ...] = ("teacher",)
    cards_of_teachers: list[CardOf] = field(default_factory=list)
    card_of_student: CardOf | None = None
    table: Comparison | None = None
    sizes: list[Size] = field(default_factory=list)
    disagreement: Disagreement | None = None
    film: Path | None = None
    no_table: str = ""
    """What to do for a table of fresh episodes."""


def env_of(run: RunFolder) -> EnvSpec:
    """Return the environment that a run learnt in."""
    if run.kind == "distill":
        return EnvSpec.from_json(run.config["environment"])
    env = run.settings["env"]
    return EnvSettings(env["id"], env["kwargs"], tuple(env["wrappers"]), env["backend"]).spec()


def load_teachers(run: RunFolder) -> list[Named]:
    """Load the teachers of a run, named as in its log, the best of several first where their scores are known.

    Raises:
        UserError: One is not where the run found it, or does not load.
    """
    if run.kind == "train":
        return []
    if run.kind == "kickstart":
        spec = env_of(run)
        if spec.id == "multitask":
            return [("teacher", combine([load_for(source) for source in run.teachers]))]
        loaded = [load_for(source, spec) for source in run.teachers]
        names = ["teacher"] if len(loaded) == 1 else [f"teacher_{i + 1}" for i in range(len(loaded))]
        scores = (run.scores or {}).get("teachers", [])
        order = range(len(loaded))
        if len(scores) == len(loaded):
            order = sorted(order, key=lambda i: -scores[i])  # type: ignore[assignment]
        return [(names[i], loaded[i]) for i in order]
    given = run.config.get("env")
    env = [e if isinstance(e, str) else EnvSpec.from_json(e) for e in given or ()]
    if len(run.teachers) == 1:
        return [("teacher", load_for(run.teachers[0], env[0] if env else None))]
    pairs = zip(run.teachers, pair_environments(run.teachers, env), strict=True)
    return [("teacher", combine([load_for(teacher, e) for teacher, e in pairs], run.config.get("ensemble")))]


def _best_first(run: RunFolder, teachers: Sequence[Named], episodes: int) -> list[Named]:
    """Sort several teachers by their returns on the episodes of the table, whose reference is the first."""
    deterministic = run.settings["evaluation"].get("deterministic", True)
    scores = {
        name: evaluate(policy, env_of(run), episodes, _seed(run), deterministic=deterministic).mean
        for name, policy in teachers
    }
    return sorted(teachers, key=lambda one: -scores[one[0]])


def _seed(run: RunFolder) -> int:
    """Return the seed of the first fresh episode."""
    seed = int(run.settings.get("seed", 0)) % 2_000
    return int(run.settings["evaluation"]["seed"]) + seed * 1_000_000 + 500_000


def take_measures(
    groups: Sequence[Group], plan: Plan, missing: list[str], tell: Callable[[str], None] = lambda line: None
) -> Measured:
    """Measure what the plan allows; what fails is noted in ``missing``, in one line each.

    Args:
        groups: Of runs; the first run of each is measured.
        plan: What may be measured.
        missing: Lines are added to it.
        tell: Told what is going on.
    """
    found = Measured()
    run = groups[0].runs[0]
    found.film = next((film for g in groups for r in g.runs if (film := r.film) is not None), None)
    found.no_table = _for_a_table(groups, plan)
    why = "nothing was loaded or played (--no-play)" if not plan.play else _foreign(groups)
    if why:
        found.cards_of_teachers = [("teacher", shown(source), ()) for source in run.teachers]
        found.card_of_student = ("student", run.path.name, ())
        missing.append(f"{why}: sizes, latencies and disagreements are left out")
        return found
    teachers = _attempt(lambda: load_teachers(run), "the teacher could not be loaded", missing) or []
    students = _students(groups, missing)
    if len(teachers) > 1 and students and plan.episodes > 1:
        tell(f"{plan.episodes} episodes of every teacher")
        best = _attempt(lambda: _best_first(run, teachers, plan.episodes), "the best teacher is not known", missing)
        teachers = best or teachers
    found.cards_of_teachers = [card(name, policy, shown(policy.about.source)) for name, policy in teachers]
    if teachers:
        found.teachers = tuple(name for name, _ in teachers)
    else:
        found.cards_of_teachers = [("teacher", shown(source), ()) for source in run.teachers]
    if not students:
        return found
    own, seeds = students[0][1], len(groups[0].runs)
    role, name, rows = card("policy" if run.kind == "train" else "student", own, run.path.name)
    rows += (("seed", f"{run.settings.get('seed', 0)}, the first of {seeds} runs"),) if seeds > 1 else ()
    found.card_of_student = role, name, rows
    tell("timing")
    found.sizes = [measure(name, policy) for name, policy in teachers[:1]]
    found.sizes += [measure(label, policy, folder) for label, policy, folder in students]
    if teachers:
        _play(groups, plan, teachers, students, found, missing, tell)
    elif run.kind == "train" and plan.film:
        missing.append("no film: side by side needs a teacher; understudy play RUN --video FILE films one policy")
    return found


def _foreign(groups: Sequence[Group]) -> str:
    """Say why nothing of these runs may be loaded, empty where it may: one was pulled, and names code."""
    try:
        for run in (run for group in groups for run in group.runs):
            refuse_pulled(run.config, run.path / "config.yaml")
    except UserError as error:
        return str(error)
    return ""


def _for_a_table(groups: Sequence[Group], plan: Plan) -> str:
    """Say what a table of fresh episodes wants; empty where it can be tried."""
    wants = [] if plan.play else ["make the report without --no-play"]
    if all(group.runs[0].student is None for group in groups):
        wants.append("wait until a policy is saved")
    if plan.play and plan.episodes < 2:
        wants.append("take --episodes 2 or more")
    return ", and ".join(wants)


def _students(groups: Sequence[Group], missing: list[str]) -> list[tuple[str, PolicyLike, Path]]:
    found = []
    alone = {"train": "policy"}.get(groups[0].runs[0].kind, "student") if len(groups) == 1 else ""
    for group in groups:
        run = group.runs[0]
        if run.student is None:
            continue
        load = partial(load_for, str(run.student), env_of(run))
        policy = _attempt(load, f"{run.path} could not be loaded", missing)
        if policy is not None:
            found.append((Group(alone or group.label, group.runs).name_of(run), policy, run.path))
    return found


def _play(
    groups: Sequence[Group],
    plan: Plan,
    teachers: Sequence[Named],
    students: Sequence[tuple[str, PolicyLike, Path]],
    found: Measured,
    missing: list[str],
    tell: Callable[[str], None],
) -> None:
    """Compare on fresh episodes where there is no table yet, find disagreements, film."""
    run = groups[0].runs[0]
    env, settings = env_of(run), run.settings
    (name, teacher), own, seed = teachers[0], students[0][1], _seed(run)
    everyone = [*teachers, *((label, policy) for label, policy, _ in students)]
    if run.result is None and plan.episodes > 1:
        tell(f"{plan.episodes} episodes of everyone")
        found.table = _attempt(
            lambda: compare(
                [policy for _, policy in everyone], env, plan.episodes, seed,
                deterministic=settings["evaluation"].get("deterministic", True),
                ratio=settings["stop"].get("ratio", 0.95), alpha=settings["stop"].get("alpha", 0.05),
                names=[label for label, _ in everyone],
            ),
            "no table of fresh episodes", missing,
        )  # fmt: skip
    played = [f"{g.name_of(g.runs[0])} of {len(g.runs)} runs" for g in groups if len(g.runs) > 1]
    if found.table is not None and played:
        found.table.notes.append(f"Of runs that differ in their seeds only, one was played: {'; '.join(played)}.")
    if plan.episodes:
        tell("looking for disagreements")
        episodes = min(plan.episodes, 8)
        found.disagreement = _attempt(
            lambda: find(teacher, own, env, episodes, seed + 400_000, _STATES), "no list of disagreements", missing
        )
    if plan.film:
        tell("filming")
        found.film = _attempt(lambda: film(run, teacher, own, name), "no film", missing) or found.film


def film(run: RunFolder, teacher: PolicyLike, student: PolicyLike, name: str = "teacher") -> Path:
    """Film teacher and student side by side into the run's folder, small enough to be sent.

    Raises:
        UserError: The environment cannot be drawn here.
    """
    from understudy.evaluation.play import compare_video

    path = run.path / "side-by-side.mp4"
    names = [name, "student"]
    return compare_video([teacher, student], path, env_of(run), names=names, max_steps=_FILM_STEPS, height=_FILM_HEIGHT)


def _attempt(call: Callable[[], T], what: str, missing: list[str]) -> T | None:
    try:
        return call()
    except UserError as error:
        missing.append(f"{what}: {error}")
        return None


def card(role: str, policy: PolicyLike, name: str) -> CardOf:
    """Describe a policy in a few rows."""
    rows = [("algorithm", policy.about.algorithm)]
    if isinstance(policy, Policy):
        rows.append(("network", network_text(policy.spec).split(";")[0]))
    count = parameters_of(policy)
    rows.append(("parameters", "unknown" if count is None else f"{count:,}"))
    rows.append(("observations", space_text(policy.observation_space)))
    rows.append(("actions", space_text(policy.action_space)))
    return role, name, tuple(rows)


def shown(source: str) -> str:
    """Shorten a path to what a colleague can make sense of: absolute ones lose the folders of this machine."""
    path = Path(source)
    return "/".join(path.parts[-3:]) if path.is_absolute() else source
