"""The settings of training from scratch; every field is a flag of ``understudy train`` and a key of a preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from understudy.config import check_bounds, doc
from understudy.data import EnvSpec
from understudy.errors import UserError


@dataclass(frozen=True)
class EnvSettings:
    """The environment."""

    id: str = doc("environment id; module:Name for one of your own; unity:PATH for a Unity player, or unity:editor", "")
    kwargs: dict[str, Any] = doc("arguments of its constructor, as YAML", factory=dict)
    wrappers: tuple[dict[str, Any], ...] = doc("wrappers from the inside out, each as YAML {type: NAME, ...}", ())
    backend: str = doc("library that steps it: auto, gymnasium, envpool or ale", "auto")

    def spec(self) -> EnvSpec:
        """Return the description that environments are built from, here and in other processes."""
        from understudy.env_names import importable

        return EnvSpec(importable(self.id), self.kwargs, self.wrappers, self.backend)

    def over(self, spec: EnvSpec) -> EnvSettings:
        """Return an environment with what these settings say on top: each argument by itself, wrappers all together."""
        wrappers = self.wrappers or tuple(dict(wrapper) for wrapper in spec.wrappers)
        backend = spec.backend if self.backend == "auto" else self.backend
        return EnvSettings(spec.id, {**spec.kwargs, **self.kwargs}, wrappers, backend)

    @property
    def counts_players(self) -> bool:
        """Whether ``rollout.num_envs`` counts players of a Unity scene, whose agents are not known yet."""
        return self.id.startswith("unity:") and not self.kwargs.get("settled")


@dataclass(frozen=True)
class NetworkSettings:
    """The policy's network."""

    hidden: tuple[int, ...] = doc("widths of the hidden layers", (64, 64), least=1)
    value_hidden: tuple[int, ...] | None = doc(
        "of the value function, on the same features; none: as hidden", None, least=1
    )
    activation: str = doc("tanh, relu, elu, silu, leaky_relu, gelu, sigmoid or identity", "tanh")
    encoder: str = doc(
        "of pictures, where there are any: auto, nature_cnn, impala_small, impala_resnet, a3c_cnn, grid_cnn, grid_mlp",
        "auto",
    )
    text: str = doc("encoder of text: text_words (and pairs of words), text_bag (of tokens), text_lstm", "text_words")
    features: int = doc("width of the encoders' last layer", 512, least=1)
    lstm: int = doc("width of an LSTM before the hidden layers, 0 for none", 0, least=0)
    cell: Literal["lstm", "gru"] = doc("gru: a GRU of that width in its place", "lstm")
    family: str = doc("distribution; auto: gaussian for Box, (multi_)categorical for discrete actions", "auto")
    log_std: float = doc("initial log standard deviation of a Gaussian", 0.0)
    init: Literal["orthogonal", "data"] = doc(
        "first weights; data: orthogonal, then networks that see pictures are scaled to what random play shows "
        "(2,048 env steps that are not counted)",
        "orthogonal",
    )
    keys: tuple[str, ...] = doc("observation keys that are seen; empty: all", ())
    normalize: bool = doc("normalise vector observations by running statistics", False)


@dataclass(frozen=True)
class RolloutSettings:
    """How much is gathered between updates."""

    num_envs: int = doc("environments stepped together, over all workers; of Unity scenes, players", 8, least=1)
    steps: int = doc("steps of every environment in one rollout", 128, least=1)

    def whole(self, env_steps: int) -> int:
        """Return at least so many env steps, in whole rollouts."""
        return -(-env_steps // (self.num_envs * self.steps)) * self.num_envs * self.steps


@dataclass(frozen=True)
class ObjectiveSettings:
    """The reinforcement-learning term."""

    estimator: Literal["gae", "vtrace"] = doc(
        "advantages: gae, or vtrace as IMPALA takes it; stale rollouts are corrected by V-trace in both", "gae"
    )
    gamma: float = doc("discount", 0.99, least=0, most=1)
    lam: float = doc("lambda of GAE and V-trace: 1 for n-step returns", 0.95, least=0, most=1)
    rho_clip: float = doc("V-trace's bound of the importance ratio in the advantage", 1.0, least=0)
    c_clip: float = doc("V-trace's bound of the ratio in the trace", 1.0, least=0)
    clip: float = doc("PPO's clip range of the ratio, 0 for the plain policy gradient", 0.0, least=0)
    value_clip: float = doc("clip range of the value's change, 0 for none", 0.0, least=0)
    value_weight: float = doc(
        "weight of the value term; 0: no value function, the reward alone (REINFORCE)", 0.5, least=0
    )
    entropy_weight: str = doc("schedule of the entropy bonus on env steps", "0")
    normalize_advantage: bool = doc("bring the advantages of every minibatch to mean 0 and deviation 1", False)
    target_kl: float = doc("end the epochs where KL(old, new) is above 1.5 times this, 0 for no limit", 0.0, least=0)
    normalize_reward: bool = doc("divide rewards by the running deviation of the discounted return", False)
    reward_clip: float = doc("bound of the (normalised) reward that is learnt from, 0 for none", 0.0, least=0)


@dataclass(frozen=True)
class UpdateSettings:
    """How a rollout becomes gradient steps."""

    epochs: int = doc("passes over every rollout", 1, least=1)
    minibatch: int = doc("samples per gradient step, 0 for the whole rollout", 0, least=0)
    optimizer: Literal["adam", "rmsprop"] = doc("adam or rmsprop", "adam")
    lr: str = doc("schedule of the learning rate on env steps", "3e-4", least=0)
    eps: float = doc("of the optimiser", 1e-5, least=0)
    decay: float = doc("of RMSprop's running square", 0.99, least=0, below=1)
    max_grad_norm: float = doc("gradients are scaled down to this norm, 0 for no limit", 0.5, least=0)
    kernel: bool = doc("use the hand-derived gradient where the network allows it (same result, faster)", True)
    precision: Literal["float32", "bf16"] = doc(
        "of the arithmetic in forward and backward passes, and of convolutions while the student acts", "float32"
    )


@dataclass(frozen=True)
class TrainEvaluation:
    """Evaluation beside training, in a process and on environments of its own."""

    every: int = doc("env steps between evaluations, 0 for one at the end", 20_000, least=0)
    episodes: int = doc("episodes of each", 10, least=1)
    final: int = doc("episodes of the last one, after training", 50, least=0)
    num_envs: int = doc("environments that run them together", 5, least=1)
    deterministic: bool = doc("the mode of the policy acts, instead of samples", True)
    seed: int = doc("first seed of the evaluation episodes", 1_000_000, least=0, most=2**31 - 1)
    wait: bool = doc("the learner waits for every evaluation, so that none is late or left out", False)


@dataclass(frozen=True)
class TrainStop:
    """When the run ends."""

    env_steps: int = doc("environment steps, over all workers", 100_000, least=1)
    seconds: float = doc("wall seconds, 0 for no limit", 0.0, least=0)
    score: float | None = doc("mean return of an evaluation at which to end; none: never", None)


@dataclass(frozen=True)
class TrainExecution:
    """Who runs where."""

    type: Literal["single", "sync", "async", "ray"] = doc(
        "single: one process; sync: workers, the learner waits for all; async: nobody waits; ray: sync on a cluster",
        "single",
    )
    num_workers: int = doc("worker processes (or Ray actors)", 2, least=1)
    shared_gradients: bool = doc("async: workers compute the gradients and apply them to shared weights (A3C)", False)
    learner_threads: int = doc(
        "threads of the learner's arithmetic; 0: all cores for networks that see pictures where workers wait for the "
        "learner, else 1",
        0,
        least=0,
    )
    max_lag: int = doc("async: most updates that the weights of a rollout may be behind", 4, least=0)
    ray_address: str = doc("of a Ray cluster; empty: Ray on this machine", "")
    worker_timeout: float = doc(
        "seconds without an environment step after which a worker counts as hung", 60.0, above=0
    )
    restarts: int = doc("workers that may fail and be replaced before the run ends with an error", 10, least=0)


class CommonChecks:
    """What the settings of every training run have in common, whatever its method; without fields of its own."""

    env: EnvSettings
    evaluation: TrainEvaluation
    stop: TrainStop
    seed: int

    @property
    def evaluation_seed(self) -> int:
        """First seed of the evaluation episodes: runs with different seeds are judged on different episodes."""
        return self.evaluation.seed + self.seed % 2_000 * 1_000_000

    @property
    def evaluation_seeds(self) -> range:
        """Seeds of every evaluation beside training."""
        return range(self.evaluation_seed, self.evaluation_seed + self.evaluation.episodes)

    @property
    def final_seeds(self) -> range:
        """Seeds of the last evaluation: episodes that chose nothing."""
        first = self.evaluation_seed + 500_000
        return range(first, first + self.evaluation.final)

    def _check_common(self, num_envs: int, kind: str, num_workers: int) -> None:
        """Refuse what no method can do; the arguments are fields of ``rollout`` and ``execution``."""
        check_bounds(self)
        if not self.env.id:
            raise UserError("no environment: pass --env ID, or a preset that names one (understudy presets)")
        if kind != "single" and num_envs % num_workers:
            raise UserError(f"rollout.num_envs {num_envs} does not divide among execution.num_workers {num_workers}")
        if self.stop.score is not None and not self.evaluation.every:
            raise UserError(
                "stop.score is the score of an evaluation during training, but evaluation.every is 0: give "
                "--evaluate-every N, or --stop.score null"
            )


@dataclass(frozen=True)
class TrainSettings(CommonChecks):
    """A training run of an actor-critic method; ``settings.replayed`` has those of the others."""

    method: Literal["actor_critic"] = doc(
        "which method's settings these are: actor_critic, q_learning, deterministic or soft; presets say it",
        "actor_critic",
    )
    env: EnvSettings = doc("", factory=EnvSettings)
    policy: NetworkSettings = doc("", factory=NetworkSettings)
    rollout: RolloutSettings = doc("", factory=RolloutSettings)
    objective: ObjectiveSettings = doc("", factory=ObjectiveSettings)
    update: UpdateSettings = doc("", factory=UpdateSettings)
    evaluation: TrainEvaluation = doc("", factory=TrainEvaluation)
    stop: TrainStop = doc("", factory=TrainStop)
    execution: TrainExecution = doc("", factory=TrainExecution)
    checkpoint_every: int = doc(
        "env steps between checkpoints, each of which begins new episodes, so that a resumed run equals the "
        "uninterrupted one; 0: every 30 s, without a trace in training",
        0,
        least=0,
    )
    seed: int = doc("every random number of the run comes from it", 0, least=0, most=2**32 - 1)
    device: str = doc("cpu or cuda", "cpu")

    @property
    def schedules(self) -> dict[str, str]:
        """The settings that are schedules, by name."""
        return {"objective.entropy_weight": self.objective.entropy_weight, "update.lr": self.update.lr}

    @property
    def samples(self) -> int:
        """Samples of one rollout over all workers."""
        return self.rollout.num_envs * self.rollout.steps

    @property
    def minibatch(self) -> int:
        """Samples per gradient step."""
        return self.update.minibatch or self.samples

    def check(self) -> None:
        """Refuse numbers out of their bounds and settings that contradict each other.

        Raises:
            UserError: Naming the fields.
        """
        rollout, execution = self.rollout, self.execution
        self._check_common(rollout.num_envs, execution.type, execution.num_workers)
        if not self.env.counts_players and self.samples % self.minibatch:
            raise UserError(
                f"update.minibatch {self.minibatch} does not divide the {self.samples} samples of a rollout "
                f"(rollout.num_envs {rollout.num_envs} x rollout.steps {rollout.steps})"
            )
        if self.policy.cell != "lstm" and not self.policy.lstm:
            raise UserError(f"policy.cell {self.policy.cell} makes no memory by itself: policy.lstm is its width")
        if self.policy.lstm and self.minibatch % rollout.steps:
            raise UserError(
                f"with policy.lstm a minibatch holds whole sequences: update.minibatch {self.minibatch} must be a "
                f"multiple of rollout.steps {rollout.steps}"
            )
        self._check_advantage()
        if execution.shared_gradients and execution.type != "async":
            raise UserError("execution.shared_gradients (A3C) needs --execution async")
        if execution.shared_gradients and (self.update.minibatch or self.update.epochs > 1 or self.policy.normalize):
            raise UserError(
                "execution.shared_gradients (A3C) takes one step on every whole rollout and does not normalise: leave "
                "update.minibatch 0, update.epochs 1 and policy.normalize false"
            )

    def _check_advantage(self) -> None:
        """Refuse advantages whose own mean is taken from them: nothing would be left to learn from."""
        workers = self.execution.num_workers if self.execution.shared_gradients else 1
        known = self.update.minibatch or not self.env.counts_players  # how many agents play is not known yet
        if self.objective.normalize_advantage and known and self.minibatch <= workers:
            raise UserError(
                "objective.normalize_advantage with one sample per gradient step makes every advantage 0: take a "
                "larger update.minibatch (or rollout), or --objective.normalize_advantage false"
            )
