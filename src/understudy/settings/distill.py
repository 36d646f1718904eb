"""The settings of a distillation run; every field is a flag of ``understudy distill`` and a key of a preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from understudy.config import check_bounds, doc
from understudy.errors import UserError
from understudy.settings.execution import ExecutionSettings


@dataclass(frozen=True)
class StudentSettings:
    """The network of the student."""

    hidden: tuple[int, ...] = doc("widths of the hidden layers", (64, 64), least=1)
    activation: str = doc("tanh, relu, elu, silu, leaky_relu, gelu, sigmoid or identity", "relu")
    lstm: int = doc("width of an LSTM before the hidden layers, 0 for none", 0, least=0)
    cell: Literal["lstm", "gru"] = doc("gru: a GRU of that width in its place", "lstm")
    cnn_features: int = doc("width of the last layer of the CNN that reads images", 256, least=1)
    family: str = doc("distribution family; auto: deterministic for Box, categorical for discrete actions", "auto")
    keys: tuple[str, ...] = doc("observation keys the student sees; empty: all", ())
    normalize: Literal["auto", "teacher", "learned", "none"] = doc(
        "input normalisation: the teacher's statistics, learned from the first rollout, or none; "
        "auto: the teacher's where the teacher has some, else learned",
        "auto",
    )
    one_hot_task: bool = doc("many tasks: the task id as input of one head, instead of one head per task", False)
    value: bool = doc("give the student a value function, trained on the teacher's", False)
    value_weight: float = doc("weight of the value term", 0.5, least=0)


@dataclass(frozen=True)
class BehaviourSettings:
    """Who acts while data is gathered."""

    beta: str = doc(
        "schedule of P(teacher acts) on env steps: 1 the teacher, 0 the student", "piecewise(0:1, 1:0)", least=0, most=1
    )
    noise: str = doc(
        "schedule of the action noise: std in unit actions, or probability of a random action", "0.3", least=0
    )
    noise_share: float = doc("share of the steps that get noise", 0.5, least=0, most=1)


@dataclass(frozen=True)
class DataSettings:
    """How much is gathered, and what is kept."""

    num_envs: int = doc("environments stepped together, over all workers", 4, least=1)
    steps: int = doc("steps of every environment in one round (a re-collection interval)", 1000, least=1)
    first_steps: int = doc(
        "the same in the first round, which sets the student's input statistics; 0: as steps", 0, least=0
    )
    capacity: int = doc("samples kept; the oldest are overwritten", 200_000, least=1)
    aggregate: bool = doc("keep the samples of earlier rounds", True)


@dataclass(frozen=True)
class DistanceSettings:
    """What is compared between teacher and student; see docs/distances.md."""

    name: str = doc(
        "auto, forward_kl, reverse_kl, jsd, cross_entropy, reverse_cross_entropy, wasserstein2, nll, mse or huber",
        "auto",
    )
    temperature: float | None = doc(
        "softmax(logits / temperature) of a discrete teacher; none: 1, or 0.01 for Q", None, above=0
    )
    temperature_of: str | None = doc("teacher or both", None)
    beta: float = doc("of jsd: 0 is KL(T||S), 1 is KL(S||T)", 0.5, least=0, most=1)
    delta: float = doc("of huber: where the square becomes a line", 1.0, above=0)
    saturate: bool = doc("of mse and huber: no loss where the executed actions are equal at a bound", True)
    on: str | None = doc("of mse and huber: action or params", None)
    std_floor: float = doc("Gaussian teachers' standard deviations are at least this", 0.0, least=0)


@dataclass(frozen=True)
class LearningSettings:
    """How the student is fitted."""

    update_to_data: float = doc("gradient steps per environment step gathered", 0.5, above=0)
    batch_size: int = doc("samples per gradient step", 512, least=1)
    lr: str = doc("schedule of Adam's learning rate on env steps", "3e-3", least=0)
    average: float = doc(
        "decay of the running average of the weights that is evaluated and saved, 0 for none", 0.0, least=0, below=1
    )
    max_grad_norm: float = doc("gradients are scaled down to this norm, 0 for no limit", 0.0, least=0)
    sequence: int = doc("length of the sequences that recurrent students learn from", 50, least=1)
    burn_in: int = doc("first steps of a sequence that only warm the memory up", 10, least=0)
    overlap: bool = doc("from the second round on, learn from earlier rounds while the next is gathered", False)
    kernel: bool = doc("use the hand-derived gradient where the student allows it (same result, faster)", True)


@dataclass(frozen=True)
class EvaluationSettings:
    """How the student is judged while it learns, and at the end."""

    after: int = doc("env steps before the first evaluation", 0, least=0)
    every: int = doc("least rounds between evaluations", 1, least=1)
    backoff: float = doc(
        "after round r the next evaluation is not before round r x backoff: long runs look less", 1.15, least=0
    )
    pause: float = doc(
        "after a failed evaluation, gather this share of the env steps it took before the next", 0.125, least=0
    )
    screen: int = doc("episodes after which a student that is clearly short goes back to learning", 4, least=2)
    episodes: int = doc("episodes of the first parity test", 10, least=2)
    max_episodes: int = doc("episodes up to which an undecided parity test is extended", 320, least=2)
    confirm: int = doc(
        "episodes (max_episodes at most) on which a student that has passed must pass again to end the run", 50, least=0
    )
    final: int = doc("fresh episodes for the table at the end, 0 for none", 50, least=0)
    num_envs: int = doc("environments that run evaluation episodes together", 10, least=1)
    seed: int = doc("first seed of the evaluation episodes", 1_000_000, least=0, most=2**31 - 1)


@dataclass(frozen=True)
class StopSettings:
    """When the run ends."""

    ratio: float = doc(
        "share of the teacher's return, measured from the random policy's up, that must be reached",
        0.95,
        above=0,
        most=2,
    )
    alpha: float = doc(
        "total probability of stopping on parity wrongly, over all tests of the run", 0.05, above=0, below=1
    )
    guard_falls: bool = doc(
        "count one fall more than was seen; for tasks where falls are rare (needs 70 episodes)", False
    )
    env_steps: int = doc("environment steps at which the run ends in any case", 200_000, least=0)
    seconds: float = doc("wall seconds after which the run ends in any case, 0 for no limit", 0.0, least=0)


@dataclass(frozen=True)
class DistillSettings:
    """A distillation run."""

    student: StudentSettings = doc("", factory=StudentSettings)
    behaviour: BehaviourSettings = doc("", factory=BehaviourSettings)
    data: DataSettings = doc("", factory=DataSettings)
    distance: DistanceSettings = doc("", factory=DistanceSettings)
    learning: LearningSettings = doc("", factory=LearningSettings)
    evaluation: EvaluationSettings = doc("", factory=EvaluationSettings)
    stop: StopSettings = doc("", factory=StopSettings)
    execution: ExecutionSettings = doc("", factory=ExecutionSettings)
    seed: int = doc("every random number of the run comes from it", 0, least=0, most=2**32 - 1)
    device: str = doc("cpu or cuda", "cpu")

    @property
    def schedules(self) -> dict[str, str]:
        """The settings that are schedules, by name."""
        behaviour, learning = self.behaviour, self.learning
        return {"behaviour.beta": behaviour.beta, "behaviour.noise": behaviour.noise, "learning.lr": learning.lr}

    @property
    def judge_seed(self) -> int:
        """First seed of the evaluation episodes: runs with different seeds are judged on different episodes."""
        return self.evaluation.seed + self.seed % 2_000 * 1_000_000

    @property
    def final_seed(self) -> int:
        """First seed of the final comparison: episodes that no decision was taken on."""
        return self.judge_seed + 500_000

    def collection_seeds(self, rounds: int) -> tuple[int, ...]:
        """Seeds of the environments that data is gathered in, after so many rounds; never those of evaluations.

        A resumed run begins new episodes: with the seeds of its first start it would see those again.
        """
        first = self.seed * 1_000 + rounds * 1_000_003
        if self.judge_seed - self.data.num_envs < first < self.judge_seed + 1_000_000:
            first += 2_000_000 + self.data.num_envs
        return tuple(range(first, first + self.data.num_envs))

    def check(self) -> None:
        """Refuse numbers out of their bounds and settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        check_bounds(self)
        if self.student.cell != "lstm" and not self.student.lstm:
            raise UserError(f"student.cell {self.student.cell} makes no memory by itself: student.lstm is its width")
        for steps in (self.data.steps, self.data.first_steps):
            if self.student.lstm and steps % self.learning.sequence:
                raise UserError(f"data.steps {steps} must be a multiple of learning.sequence {self.learning.sequence}")
        if self.student.lstm and self.learning.sequence < 2:
            raise UserError("learning.sequence is 1; with student.lstm it must be at least 2: one step needs no memory")
        if self.student.lstm and self.learning.burn_in >= self.learning.sequence:
            raise UserError(
                f"learning.burn_in {self.learning.burn_in} leaves nothing of learning.sequence {self.learning.sequence}"
            )
        if self.data.capacity < self.data.num_envs * max(self.data.steps, self.data.first_steps):
            raise UserError(f"data.capacity {self.data.capacity} cannot hold one round (data.num_envs x data.steps)")
        if self.learning.update_to_data * self.data.num_envs * self.data.steps < 1:
            raise UserError(f"learning.update_to_data {self.learning.update_to_data} gives no gradient step per round")
