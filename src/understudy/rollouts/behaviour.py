"""Who acts while data is gathered: the student, the teacher, or a mixture of both, perhaps with noise.

Its random numbers are those of ``rollouts.draws``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from understudy.data import Array, Observation, Sequel, Trace
from understudy.errors import UserError
from understudy.policies.family import ActionMap, Family
from understudy.rollouts.allowed import keep_allowed, mask_in
from understudy.rollouts.clipped import within
from understudy.rollouts.draws import Draws, draw

_OLD = 2**40
"""Steps that no episode has."""


class Actor(Protocol):
    """Anything with the ``predict`` of a policy."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Act on a batch."""


class Explorer(Actor, Protocol):
    """An actor that learns from its own actions: it samples them from given noise and knows their probability."""

    @property
    def family(self) -> Family:
        """Of its distribution, in unit actions."""

    def act(self, obs: Any, state: Any, episode_start: Array, noise: Array) -> tuple[Array, Array, Array, Any]:
        """Return choices (unit actions before clipping, or indices), log-probabilities [B], values [B], the state."""

    def value_of(self, obs: Any, state: Any, episode_start: Array) -> Array:
        """Return values [B]."""


@dataclass(frozen=True)
class Mixture:
    """The behaviour of one rollout.

    Attributes:
        beta: Probability that the teacher acts at a step (Ross 2011, DAgger); 1 the teacher, 0 the student.
        noise: Standard deviation of Gaussian noise added to the action, in unit actions; for discrete actions the
            probability of a uniformly random one, of those that a mask allows. One number, or one per environment.
        noise_share: Share of the steps on which noise is added.
        sample: The student samples from its distribution, instead of its mode, and the rollout gets a trace, where it
            has one, also of steps at which the teacher acts.
        jump: The teacher acts in the first ``jump`` steps of every episode, whatever beta is (Uchendu 2022).
        teacher_samples: The teacher samples from its distribution, instead of its mode; it must have ``act``.
        memory: The noise of an action component is an Ornstein-Uhlenbeck process x <- memory * x + noise that begins
            at 0 with every episode; 0 for noise that is drawn anew in every step.
        uniform: Actions are uniformly random in the bounds, whoever would act.
        values: The sequel of the rollout gets the action values of the student, whose family is ``q_values``.
    """

    beta: float = 1.0
    noise: float | tuple[float, ...] = 0.0
    noise_share: float = 1.0
    sample: bool = False
    jump: int = 0
    teacher_samples: bool = False
    memory: float = 0.0
    uniform: bool = False
    values: bool = False

    def share(self, columns: Sequence[int]) -> Mixture:
        """Return the behaviour of some of the environments."""
        if not isinstance(self.noise, tuple):
            return self
        return replace(self, noise=tuple(self.noise[i] for i in columns))

    @property
    def asks_student(self) -> bool:
        """Whether the student is asked about any step."""
        return self.beta < 1 or self.sample

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher is asked about any step."""
        return self.beta > 0 or self.jump > 0


class Behaviour:
    """Acts in B environments by a mixture; keeps the recurrent state of student and teacher."""

    def __init__(self, action_space: gym.Space[Any], seeds: Sequence[int]) -> None:
        self._space, self._map = action_space, ActionMap(action_space)
        self._rngs = [np.random.default_rng((seed, 1)) for seed in seeds]
        self._states: dict[str, Any] = {}
        self._names: dict[str, Actor] = {}
        self._mixture = Mixture()
        self._age: Array = np.full(len(seeds), _OLD)
        """[B] steps since the episode's first; counted where the mixture jumps, else unknown."""
        self._draws: Draws | None = None
        self._process: Array | None = None
        self.values = False
        """Whether the rollout in the making gets action values."""

    def begin(self, mixture: Mixture, student: Actor | None, teacher: Actor | None, steps: int) -> None:
        """Draw the random numbers of the next ``steps`` steps.

        Raises:
            UserError: The mixture needs a policy that is not there.
        """
        if mixture.asks_teacher and teacher is None:
            raise UserError("behaviour: beta > 0 needs a teacher that can act")
        if mixture.asks_student and student is None:
            raise UserError("behaviour: beta < 1 needs a student")
        actors = {
            "teacher": teacher if mixture.asks_teacher else None,
            "student": student if mixture.asks_student else None,
        }
        self._names = {name: within(actor, self._space) for name, actor in actors.items() if actor is not None}
        self._states = {name: self._states.get(name) for name in self._names}
        self._mixture = mixture
        if not mixture.jump:
            self._age[:] = _OLD
        samples = {"student": mixture.sample, "teacher": mixture.teacher_samples}
        families: list[Family | None] = [
            self._names[name].family if wanted and name in self._names else None  # type: ignore[attr-defined]
            for name, wanted in samples.items()
        ]
        self.values = mixture.values and not mixture.uniform
        self._draws = draw(mixture, self._map, self._rngs, steps, families)

    def act(
        self,
        step: int,
        obs: Observation,
        episode_start: Array,
        trace: Trace | None = None,
        sequel: Sequel | None = None,
    ) -> tuple[Array, Array]:
        """Return actions [B, ...] in environment units, and [B] bool whether the teacher acted.

        Where the student samples, its choice, log-probability and value are written into step ``step`` of the trace.
        """
        assert self._draws is not None
        if self._mixture.uniform:
            return self._random(obs, step), np.zeros(len(episode_start), bool)
        if self.values:
            return self._act_by_values(step, obs, sequel)
        actions: dict[str, Array] = {}
        for name, actor in self._names.items():
            # Every policy sees every step: one with memory must remember what happened while another acted.
            if name == "student" and self._mixture.sample:
                explorer: Explorer = actor  # type: ignore[assignment]
                choice, log_prob, value, state = explorer.act(
                    obs, self._states[name], episode_start, self._draws.sample[step]
                )
                if trace is not None:
                    trace.choice[step], trace.log_prob[step], trace.value[step] = choice, log_prob, value
                actions[name], self._states[name] = self._map.to_env(choice), state
            elif name == "teacher" and self._mixture.teacher_samples:
                drawn: Explorer = actor  # type: ignore[assignment]
                noise = self._draws.teacher_sample[step]
                choice, _, _, self._states[name] = drawn.act(obs, self._states[name], episode_start, noise)
                actions[name] = self._map.to_env(choice)
            else:
                actions[name], self._states[name] = actor.predict(obs, self._states[name], episode_start, True)
        teacher_acts = self._draws.teacher_acts[step]
        if self._mixture.jump:
            self._age = np.where(episode_start, 0, self._age + 1)
            teacher_acts = teacher_acts | (self._age < self._mixture.jump)
        if len(actions) == 2:
            pick = teacher_acts.reshape(-1, *(1,) * (actions["student"].ndim - 1))
            action = np.where(pick, actions["teacher"], actions["student"])
        else:
            (action,) = actions.values()
        if self._mixture.noise:
            if self._mixture.memory:
                self._remember_noise(step, episode_start)
            action = self._disturb(action, obs, step)
        return action, teacher_acts

    @property
    def traced(self) -> bool:
        """Whether the student samples, so that a rollout has a trace."""
        return self._mixture.sample

    def memory(self) -> tuple[dict[str, Any], Array, Array | None]:
        """Return what lasts from step to step now, of policies, ages and noise, for ``keep_memory``."""
        return dict(self._states), self._age, None if self._process is None else self._process.copy()

    def keep_memory(self, before: tuple[Mapping[str, Any], Array, Array | None], rows: Array) -> None:
        """Give rows [B] bool, which did not really act, the memory back that they had ``before``."""
        if not rows.any():
            return
        states, age, process = before
        self._states = {name: keep_rows(state, states.get(name), rows) for name, state in self._states.items()}
        self._age = np.where(rows, age, self._age)
        if self._process is not None:
            self._process[rows] = 0 if process is None else process[rows]

    def _act_by_values(self, step: int, obs: Observation, sequel: Sequel | None) -> tuple[Array, Array]:
        """Take the greatest value, and write what the values were."""
        values = self._action_values(obs)
        action = self._map.to_env(values.argmax(axis=1))
        if self._mixture.noise:
            action = self._disturb(action, obs, step)
        rows = np.arange(len(values))
        if sequel is not None:
            sequel.value[step] = values.max(axis=1)
            sequel.chosen[step] = values[rows, self._map.to_unit(action)]
        return action, np.zeros(len(values), bool)

    def _action_values(self, obs: Observation) -> Array:
        """[n, ...] observations -> [n, actions]."""
        student: Any = self._names["student"]
        if hasattr(student, "params"):  # without PyTorch
            return np.asarray(student.params(obs))
        return np.asarray(student.label(obs)[0].params.cpu().numpy())

    def greatest_value(self, obs: Observation) -> Array:
        """Return max_a q of observations, [n]."""
        return np.asarray(self._action_values(obs).max(axis=1))

    def _remember_noise(self, step: int, episode_start: Array) -> None:
        """Turn the independent noise of this step into that of the process, which goes on from the last step."""
        assert self._draws is not None
        noise = self._draws.noise[step]
        if self._process is None:
            self._process = np.zeros_like(noise)
        self._process[episode_start] = 0
        self._process *= self._mixture.memory
        self._process += noise
        noise[...] = self._process

    def student_state(self) -> Any:
        """Return the student's memory now: (h, c), [layers, B, width] each; None before its first step or without."""
        return self._states.get("student")

    def value_of(self, obs: Observation, episode_start: Array, rows: Array | None = None) -> Array:
        """Return the student's values [n] of observations of all environments, or of some."""
        explorer: Explorer = self._names["student"]  # type: ignore[assignment]
        state = self.student_state()
        if state is not None and rows is not None:
            state = tuple(part[:, rows] for part in state)
        return explorer.value_of(obs, state, episode_start)

    def _random(self, obs: Observation, step: int) -> Array:
        """Return the random actions of a step: allowed ones, where observations say what is."""
        assert self._draws is not None
        action, mask = self._draws.noise[step], mask_in(obs, self._space)
        return action if mask is None else keep_allowed(action, mask, self._map, self._rngs)

    def _disturb(self, action: Array, obs: Observation, step: int) -> Array:
        assert self._draws is not None
        noisy = self._draws.noisy[step].reshape(-1, *(1,) * (action.ndim - 1))
        if isinstance(self._space, gym.spaces.Box):
            disturbed = np.clip(action + self._draws.noise[step], self._space.low, self._space.high)
            disturbed = np.rint(disturbed) if self._map.whole else disturbed
        else:
            disturbed = self._random(obs, step)
        return np.where(noisy, disturbed, action).astype(action.dtype, copy=False)


def keep_rows(after: Any, before: Any, rows: Array) -> Any:
    """Return a policy's memory after a step, in rows [B] bool as it was before.

    A memory is None, an array [layers, B, width] or [B], or a tuple or list of memories. Where it was None, it stays as
    it is after: the row's episode has not begun.
    """
    if after is None or before is None:
        return after
    if isinstance(after, (tuple, list)):
        return tuple(keep_rows(now, then, rows) for now, then in zip(after, before, strict=True))
    return np.where(rows if np.ndim(after) == 1 else rows[:, None], before, after)


def pack_state(state: Any, out: Array) -> None:
    """(h, c), [layers, B, width] each -> [B, 2 * layers * width]; zeros for None."""
    if state is None:
        out[...] = 0
        return
    layers, batch, width = np.shape(state[0])
    for i, part in enumerate(state):
        out[:, i * layers * width : (i + 1) * layers * width] = np.swapaxes(part, 0, 1).reshape(batch, -1)
