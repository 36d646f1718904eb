"""The settings of learning from a replay with teachers (QDagger, and its like for continuous actions)."""

from __future__ import annotations

from dataclasses import dataclass

from understudy.config import doc
from understudy.errors import UserError
from understudy.settings.distill import DistanceSettings
from understudy.settings.replayed import DeterministicSettings, QLearningSettings, ReplayedSettings, SoftSettings


@dataclass(frozen=True)
class ReplayTeaching:
    """What a teacher adds: its own data at first, then a term whose weight falls."""

    teachers: tuple[str, ...] = doc("path, hub id or module:function, as `--teacher` takes it; one", ())
    weight: str = doc(
        "schedule of lambda on env steps, steps may be a share of the run; gated(c): c max(0, 1 - G_S / G_T), scores "
        "from the random policy's up",
        "gated(1)",
        least=0,
    )
    offline_steps: int = doc("env steps that the teacher plays first, for the offline phase", 10_000, least=0)
    offline_updates: int = doc(
        "gradient steps on them, before the student acts and begins a replay of its own", 10_000, least=0
    )
    noise: float = doc(
        "of the teacher while it plays: probability of a random action, or deviation in unit actions",
        0.1,
        least=0,
    )


@dataclass(frozen=True)
class QTeaching(ReplayTeaching):
    """The same for action values: KL(pi_T || softmax(q_S / temperature)), pi_T = softmax(q_T / temperature)."""

    temperature: float = doc("of the student's action values, and of the teacher's where it has some", 0.1, above=0)


@dataclass(frozen=True)
class ActorTeaching(ReplayTeaching):
    """The same for actors: a distance between the actors' distributions, see docs/distances.md."""

    distance: DistanceSettings = doc("", factory=DistanceSettings)


def check_teaching(settings: ReplayedSettings, teaching: ReplayTeaching) -> None:
    """Refuse what cannot work.

    Raises:
        UserError: Naming the fields.
    """
    if settings.execution.type == "async":
        raise UserError("kickstart from a replay: the teacher's data comes before the student's, take single or sync")
    if teaching.offline_updates and teaching.offline_steps < settings.replay.batch_size:
        raise UserError("teaching.offline_steps must be a batch at least, or set teaching.offline_updates 0")
    if teaching.offline_steps > settings.replay.capacity:
        raise UserError(
            f"teaching.offline_steps {teaching.offline_steps} are more than replay.capacity {settings.replay.capacity}"
        )
    if teaching.weight.lstrip().startswith("gated") and not settings.evaluation.every:
        raise UserError("teaching.weight gated follows evaluations, but evaluation.every is 0")


@dataclass(frozen=True)
class TaughtQLearning(QLearningSettings):
    """A run of action values with a teacher."""

    teaching: QTeaching = doc("", factory=QTeaching)

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        super().check()
        check_teaching(self, self.teaching)


@dataclass(frozen=True)
class TaughtDeterministic(DeterministicSettings):
    """A run of a deterministic actor with a teacher."""

    teaching: ActorTeaching = doc("", factory=ActorTeaching)

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        super().check()
        check_teaching(self, self.teaching)


@dataclass(frozen=True)
class TaughtSoft(SoftSettings):
    """A run of SAC with a teacher."""

    teaching: ActorTeaching = doc("", factory=ActorTeaching)

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        super().check()
        check_teaching(self, self.teaching)


TAUGHT: dict[str, type[TaughtQLearning] | type[TaughtDeterministic] | type[TaughtSoft]] = {
    "q_learning": TaughtQLearning,
    "deterministic": TaughtDeterministic,
    "soft": TaughtSoft,
}
"""The settings of ``understudy kickstart`` from a replay, by their ``method``."""
