"""One training run and its folder: builds the parts, saves and restores them."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from understudy.data import Array
from understudy.errors import UserError
from understudy.execution.base import Execution, Faults, Portable, Setup
from understudy.execution.evaluator import Evaluator
from understudy.execution.portable import portable
from understudy.io.checkpoint import read_arrays, write_arrays
from understudy.io.run_folder import forget_results
from understudy.io.scores import is_number
from understudy.learning.actor_critic import ActorCritic
from understudy.learning.beside import BesideExaminer
from understudy.learning.from_gradients import FromGradients, Lessons, SharedGradientExecution, SharedWeights
from understudy.learning.from_replay import FromReplay, OffPolicy
from understudy.learning.from_rollouts import FromRollouts, TrainProgress
from understudy.learning.replay_teaching import ReplayTeacher
from understudy.learning.teaching import Teaching
from understudy.loop import Learning, Metrics, Report, Run
from understudy.policies.files import save_policy, write_atomic
from understudy.policies.policy import Policy
from understudy.policies.spaces import flat_size, members, space_from_json
from understudy.policies.spec import PolicySpec, differences
from understudy.policies.stored import read_policy
from understudy.policies.weights import build as build_policy
from understudy.settings import ReplayedSettings, TrainSettings
from understudy.training_parts import look_around, make_execution, set_threads, student_of

Teach = Callable[[Policy], Teaching | ReplayTeacher]
"""Fits teachers to a student; it may change the student's weights."""
SAVE_SECONDS = 30.0
"""Between two checkpoints where ``checkpoint_every`` is 0, at least."""


class TrainSession:
    """One run and its folder: builds the parts, saves and restores them."""

    def __init__(
        self,
        settings: TrainSettings | ReplayedSettings,
        folder: Path,
        resume: bool = False,
        teach: Teach | None = None,
    ) -> None:
        self._begin = time.perf_counter()
        saved = read_arrays(folder / "state.safetensors") if resume else None
        self.settings, self.folder, self.env = settings, folder, settings.env.spec()
        self.described = b""
        """What ``config.yaml`` says: written again where the folder was taken away, so that the run can be resumed."""
        self._next_save = time.perf_counter() + SAVE_SECONDS
        self._before = Faults()
        """Of the processes that the run was in before this one."""
        self.unjudged: int | None = None
        """Env steps of the policy that was being evaluated when the run was saved that is resumed."""
        self.examiner: BesideExaminer | None = None
        """Once there is a run."""
        self.spec, self.policy = student_of(settings)
        if isinstance(settings, TrainSettings) and settings.policy.init == "data" and saved is None:
            look_around(self.policy, settings)
        set_threads(settings, self.policy)
        # Before anything starts: teachers may not fit the student.
        self.teaching = None if teach is None else teach(self.policy)
        self.evaluator: Evaluator | None = None
        self.execution: Execution
        self.learner: ActorCritic | SharedWeights | OffPolicy
        self.ended = ""
        """Why the run that is resumed had ended, empty if it had not."""
        self.progress = TrainProgress(
            next_checkpoint=settings.checkpoint_every, next_evaluation=settings.evaluation.every
        )
        try:
            self._build(teach)
            if saved is not None:
                self._restore(*saved)
        except BaseException:
            self.close()
            raise
        self._begin_steps = self.progress.env_steps

    def _build(self, teach: Teach | None) -> None:
        """Make what collects, learns and judges."""
        settings = self.settings
        replay_teacher = self.teaching if isinstance(self.teaching, ReplayTeacher) else None
        teaching = self.teaching if isinstance(self.teaching, Teaching) else None
        acting = replay_teacher or (None if teaching is None else teaching.acting)
        teacher = None if acting is None else acting.teacher
        setup = _setup(settings, self.spec, None if teacher is None else portable(teacher))
        if isinstance(settings, ReplayedSettings):
            self.learner = OffPolicy(self.policy, settings, replay_teacher)  # refuses a replay that is too large
            self.execution = make_execution(settings, setup, teacher)
        elif settings.execution.shared_gradients:
            lessons = cast(Lessons, teach) if teaching is not None else None
            execution = SharedGradientExecution(setup, self.policy, settings, lessons)
            self.execution = execution
            self.learner = SharedWeights(self.policy, execution.pool.shared, settings.update.optimizer)
        else:
            # Before the learner is built, so that workers start meanwhile.
            self.execution = make_execution(settings, setup, teacher)
            self.learner = ActorCritic(self.policy, settings, teaching=teaching)
        limits = settings.execution
        if settings.evaluation.every or settings.evaluation.final:
            self.evaluator = Evaluator(setup, limits.worker_timeout, limits.restarts)

    def _restore(self, arrays: dict[str, Array], data: dict[str, Any]) -> None:
        # Runs of earlier versions do not say it.
        saved = PolicySpec.from_json(data["spec"]) if "spec" in data else self.spec
        differ = differences(saved, self.spec)
        mine = {name: tuple(tensor.shape) for name, tensor in self.policy.state_dict().items()}
        fits = mine == {name: arrays[name].shape for name in mine if name in arrays}
        if (differ or not fits) and _sizes(saved) != _sizes(self.spec):
            raise UserError(
                f"the run in {self.folder} learns in an environment with other observations or actions than "
                f"{self.env.id} has now: resume it without changing env.*"
            )
        if differ:
            value = " and objective.value_weight" if "value_hidden" in differ else ""
            value += " and objective.*" if "quantiles" in differ or "support" in differ else ""
            raise UserError(
                f"the run in {self.folder} has another network ({differ}): resume it without changing policy.*{value}"
            )
        if not fits:
            raise UserError(f"the run in {self.folder} has another network: resume it without changing policy.*")
        self.progress.__dict__.update(data["progress"])
        if "spent" not in data["progress"]:  # of an earlier version
            self.progress.spent["total"] = sum(self.progress.seconds.values())
        self.ended, self.progress.stopped = self.progress.stopped, ""
        self.progress.best = max(self.progress.best, self._kept_score())
        self._before = Faults(**data.get("faults", {}))  # of an earlier version: unknown
        self.unjudged = data.get("unjudged")
        self._look_ahead()
        self.learner.restore(arrays, data["learner"])
        if isinstance(self.learner, SharedWeights):
            self.learner.count(self.progress)

    def _look_ahead(self) -> None:
        """Let the next checkpoint and evaluation come no later than the settings say; unchanged ones change nothing."""
        progress, every = self.progress, self.settings.evaluation.every
        now, save = progress.env_steps, self.settings.checkpoint_every
        progress.next_evaluation = min(progress.next_evaluation or now + every, now + every)
        progress.next_checkpoint = min(progress.next_checkpoint, now + save)

    def run(self, report: Report) -> Run:
        """Return the run for ``loop.train``."""
        settings, progress = self.settings, self.progress
        learning: Learning
        if isinstance(self.learner, OffPolicy):
            learning = FromReplay(self.learner, self.learner.settings, progress)
        elif isinstance(self.learner, ActorCritic):
            learning = FromRollouts(self.learner, settings.rollout.steps, progress)
        else:
            learning = FromGradients(self.learner, settings.rollout.steps, progress)
        wait = settings.evaluation.wait or (self.teaching is not None and self.teaching.gated)
        teaching = self.teaching if isinstance(self.teaching, Teaching) else None
        acting = None if teaching is None else teaching.acting
        spec, about, best = self.spec, self.policy.about, self.folder / "best.safetensors"

        def keep(weights: dict[str, Array], score: float, env_steps: int) -> None:
            # Nothing in it knows this session: replay and shared memory would wait for the collector of cycles.
            save_policy(build_policy(spec, weights, about), best, {"score": score, "env_steps": env_steps})

        self.examiner = BesideExaminer(
            settings, self.evaluator, progress, self.learner.weights, keep, wait,
            None if acting is None else acting.curriculum, () if teaching is None else teaching.levels,
        )  # fmt: skip
        stop = settings.stop

        def settled(metrics: Metrics) -> None:
            if progress.stopped:
                self._settle()
            report(metrics)

        return Run(self.execution, learning, self.examiner, progress, stop.env_steps, stop.seconds, settled, self.save)

    def _settle(self) -> None:
        """Let workers that learn themselves come to an end, so that all they learn is counted and judged."""
        if isinstance(self.execution, SharedGradientExecution) and isinstance(self.learner, SharedWeights):
            for info in self.execution.settle():
                self.progress.note(info)
            self.learner.count(self.progress)

    def _policy(self, weights: Mapping[str, Array]) -> Policy:
        return build_policy(self.spec, weights, self.policy.about)

    def _kept_score(self) -> float:
        """Return the score of the best policy in the folder, which may be younger than the last checkpoint."""
        try:
            score = read_policy(self.folder / "best.safetensors")[2].get("extra", {}).get("score")
        except UserError:  # none yet, or no whole one
            score = None
        return float(score) if is_number(score) else -math.inf

    def save(self, metrics: Metrics) -> None:
        """Write a checkpoint if it is time.

        With ``checkpoint_every`` the next rollout begins new episodes, as a resumed run does, so that resume is exact.
        Without, a checkpoint is written now and then, and training goes on as if there had been none.
        """
        progress, every = self.progress, self.settings.checkpoint_every
        due = progress.env_steps >= progress.next_checkpoint if every else time.perf_counter() > self._next_save
        if not progress.stopped and not due:
            return
        progress.next_checkpoint = progress.env_steps + every
        self.checkpoint()
        if every:
            progress.restart = progress.checkpoints

    def checkpoint(self) -> None:
        """Write the policy, and everything that is needed to go on from here.

        Raises:
            UserError: A number is not finite, or the disk is full; the last checkpoint is intact.
        """
        begin = time.perf_counter()
        self.progress.checkpoints += 1
        arrays, data = self.learner.state()
        if isinstance(self.learner, SharedWeights):
            self.learner.count(self.progress, arrays)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise UserError(f"no checkpoint at {self.progress.env_steps} env steps: {name} holds NaN or infinity")
        if self.described and not (self.folder / "config.yaml").exists():
            self.describe()
        forget_results(self.folder)
        self.save_last()
        progress = asdict(self.progress) | {"restart": self.progress.checkpoints, "spent": self._spent()}
        state = {
            "learner": data, "progress": progress, "spec": self.spec.to_json(),
            "faults": asdict(self._process_faults), "unjudged": self.examiner and self.examiner.judging,
        }  # fmt: skip
        write_arrays(self.folder / "state.safetensors", arrays, state)
        now = time.perf_counter()
        self._next_save = now + max(SAVE_SECONDS, 20 * (now - begin))  # a large replay is not always being written

    def rescue(self) -> str:
        """Save what there is when something ends the run early; returns a line about it."""
        state = self.folder / "state.safetensors"
        command = "kickstart" if hasattr(self.settings, "teaching") else "train"
        resume = f"go on with: understudy {command} --resume {shlex.quote(str(self.folder))}"
        if isinstance(self.learner, SharedWeights):
            self.learner.count(self.progress)  # workers learn more than they have told
        try:
            if self.progress.env_steps > self._begin_steps:
                self.checkpoint()
        except UserError as error:
            return f"{error}; {resume}" if state.exists() else str(error)
        if not state.exists():
            return f"nothing was learnt yet, nothing is in {self.folder}"
        return f"{self.progress.env_steps:,} env steps are saved in {self.folder}; {resume}"

    def describe(self) -> None:
        """Write ``config.yaml``."""
        write_atomic(self.folder / "config.yaml", self.described)

    def save_last(self) -> None:
        """Write the policy as it is now."""
        policy = self._policy(self.learner.weights())
        save_policy(policy, self.folder / "last.safetensors", {"env_steps": self.progress.env_steps})

    def _spent(self) -> dict[str, float]:
        now, spent = time.perf_counter() - self._begin, self.progress.spent
        judging = 0.0 if self.evaluator is None else self.evaluator.seconds
        return {"total": spent["total"] + now, "evaluate": spent["evaluate"] + judging}

    @property
    def seconds(self) -> dict[str, float]:
        """Wall seconds of the whole run by part, see ``TrainResult``; what came to nothing by a kill is not counted."""
        return {**self.progress.seconds, **self.progress.env_seconds, **self._spent()}

    @property
    def _process_faults(self) -> Faults:
        """What went wrong so far in processes: workers, a learner's second one, the evaluator."""
        faults, before = self.execution.faults, self._before
        more = self.evaluator.restarts_used if self.evaluator is not None else 0
        if isinstance(self.learner, OffPolicy):
            more += self.learner.core.restarts_used
        return Faults(before.restarts + faults.restarts + more, before.lost_episodes + faults.lost_episodes)

    @property
    def faults(self) -> Faults:
        """What went wrong so far in processes and simulators; the evaluator's episodes are played again."""
        faults, progress = self._process_faults, self.progress
        return Faults(faults.restarts + progress.restarts, faults.lost_episodes + progress.lost_episodes)

    def close(self) -> None:
        """End every process."""
        with contextlib.ExitStack() as closing:
            if self.evaluator is not None:
                closing.callback(self.evaluator.close)
            learner, execution = getattr(self, "learner", None), getattr(self, "execution", None)  # a start may fail
            if isinstance(learner, OffPolicy):
                closing.callback(learner.core.close)
            if execution is not None:
                closing.callback(execution.close)


def _setup(settings: TrainSettings | ReplayedSettings, student: PolicySpec, teacher: Portable | None) -> Setup:
    """Return what workers build their environments and policies from."""
    rollout, replayed = settings.rollout, isinstance(settings, ReplayedSettings)
    return Setup(
        settings.env.spec(), tuple(settings.seed * 1_000 + i for i in range(rollout.num_envs)), rollout.steps, student,
        teacher, settings.evaluation.num_envs, traced=not replayed, replayed=replayed,
        judged=(settings.evaluation_seeds, settings.final_seeds),
        half=not isinstance(settings, ReplayedSettings) and settings.update.precision == "bf16",
    )  # fmt: skip


def _sizes(spec: PolicySpec) -> list[tuple[Any, ...]]:
    """Return what a policy sees and does, but for the bounds."""
    parts = [*members(space_from_json(spec.observation_space)).items(), ("", space_from_json(spec.action_space))]
    return [(key, type(part), part.shape, flat_size(part)) for key, part in parts]
