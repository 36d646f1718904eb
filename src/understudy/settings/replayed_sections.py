"""The sections of the settings of learning from a replay; see ``settings.replayed``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from understudy.config import doc
from understudy.settings.train import RolloutSettings


@dataclass(frozen=True)
class ReplayedRollout(RolloutSettings):
    """How much is gathered between updates."""

    num_envs: int = doc("environments stepped together, over all workers", 1, least=1)
    steps: int = doc("steps of every environment in one rollout", 32, least=1)


@dataclass(frozen=True)
class ReplaySettings:
    """What is kept, and how it is drawn."""

    capacity: int = doc("env steps kept, over all environments; the oldest are overwritten", 100_000, least=1)
    warm_up: int = doc("env steps of uniformly random actions before learning begins", 1_000, least=0)
    batch_size: int = doc("transitions per gradient step", 256, least=1)
    n_step: int = doc("rewards that are summed up before the value is bootstrapped", 1, least=1)
    prioritised: bool = doc("draw by TD error instead of uniformly (PER)", False)
    alpha: float = doc("of PER: how much errors count, 0 for uniformly", 0.6, least=0, most=1)
    beta: str = doc("of PER: schedule of the importance weights' exponent on env steps", "0.4", least=0, most=1)
    initial: Literal["greatest", "actors"] = doc(
        "of PER: a new transition's priority, the greatest so far or that of the TD error by the actors' own values",
        "greatest",
    )
    frames_once: bool = doc("of stacked pictures keep only the newest one of every step (same observations)", True)
    max_bytes: float = doc("a replay that would be larger is refused", 4e9, above=0)
    save: bool = doc("keep the replay in checkpoints; without, a resumed run gathers anew before it learns", True)


@dataclass(frozen=True)
class ReplayedUpdate:
    """How transitions become gradient steps."""

    update_to_data: float = doc(
        "gradient steps per env step, over all environments and in every execution", 1.0, above=0
    )
    lr: str = doc("schedule of the learning rate on env steps", "3e-4", least=0)
    eps: float = doc("of Adam", 1e-8, least=0)
    max_grad_norm: float = doc("gradients are scaled down to this norm, 0 for no limit", 0.0, least=0)
    tau: float = doc("share of the way that target networks move to the learnt ones; 1 copies", 0.005, above=0, most=1)
    target_every: int = doc("updates between two moves of the target networks", 1, least=1)
    kernel: bool = doc("use the hand-derived gradient where the networks allow it (same result, faster)", True)


@dataclass(frozen=True)
class ReplayedExecution:
    """Who runs where."""

    type: Literal["single", "sync", "async", "ray"] = doc(
        "single: one process; sync: workers, the learner waits for all; async: nobody waits; ray: sync on a cluster",
        "single",
    )
    num_workers: int = doc("worker processes (or Ray actors)", 2, least=1)
    learner_threads: int = doc(
        "threads of the learner's arithmetic; of DDPG, TD3 and SAC on vectors processes, two at most; "
        "0: as many as pay on this machine",
        0,
        least=0,
    )
    max_lag: int = doc("async: most rounds of updates that the weights of a rollout may be behind", 4, least=0)
    ray_address: str = doc("of a Ray cluster; empty: Ray on this machine", "")
    worker_timeout: float = doc(
        "seconds without an environment step after which a worker counts as hung", 60.0, above=0
    )
    restarts: int = doc("workers that may fail and be replaced before the run ends with an error", 10, least=0)


@dataclass(frozen=True)
class QNetworkSettings:
    """The network of the action values."""

    hidden: tuple[int, ...] = doc("widths of the hidden layers", (64, 64), least=1)
    activation: str = doc("tanh, relu, elu, silu, leaky_relu, gelu, sigmoid or identity", "relu")
    encoder: str = doc(
        "of pictures, where there are any: auto, nature_cnn, impala_small, impala_resnet, a3c_cnn, grid_cnn, grid_mlp",
        "auto",
    )
    text: str = doc("encoder of text: text_words (and pairs of words), text_bag (of tokens), text_lstm", "text_words")
    features: int = doc("width of the encoders' last layer", 512, least=1)
    keys: tuple[str, ...] = doc("observation keys that are seen; empty: all", ())
    normalize: bool = doc("normalise vector observations by running statistics, those of now for old ones too", False)
    dueling: bool = doc("half of the last hidden layer for the state's value, half for the actions' advantages", False)
    noisy: float = doc("initial noise in the weights of linear layers, such as 0.5; 0 for none", 0.0, least=0)


@dataclass(frozen=True)
class ContinuousNetworkSettings:
    """The networks of actor and critics."""

    hidden: tuple[int, ...] = doc("widths of the actor's hidden layers", (256, 256), least=1)
    critic_hidden: tuple[int, ...] | None = doc("of each critic; none: as hidden", None, least=1)
    activation: str = doc("tanh, relu, elu, silu, leaky_relu, gelu, sigmoid or identity", "relu")
    keys: tuple[str, ...] = doc("observation keys that are seen; empty: all", ())
    normalize: bool = doc("normalise vector observations by running statistics, those of now for old ones too", False)

    @property
    def critic_widths(self) -> tuple[int, ...]:
        """Of each critic's hidden layers."""
        return self.hidden if self.critic_hidden is None else self.critic_hidden


@dataclass(frozen=True)
class QObjective:
    """The TD term of action values."""

    gamma: float = doc("discount", 0.99, least=0, most=1)
    reward_clip: float = doc("bound of the reward that is learnt from, 0 for none", 0.0, least=0)
    double: bool = doc("the learnt network chooses the action that the target network judges", False)
    distribution: Literal["none", "categorical", "quantiles"] = doc(
        "of the return: none, its mean alone; categorical: C51; quantiles: QR-DQN", "none"
    )
    atoms: int = doc("atoms or quantiles of the distribution", 51, least=1)
    low: float = doc("of categorical: the least return", -10.0)
    high: float = doc("of categorical: the greatest return", 10.0)


@dataclass(frozen=True)
class QExploration:
    """How the student explores while it gathers."""

    epsilon: str = doc(
        "schedule of the probability of a random action on env steps", "linear(1, 0.05, 10000)", least=0, most=1
    )
    ladder: float = doc(
        "environment i of N has epsilon^(1 + ladder i / (N - 1)) (Ape-X: 7), 0: all the same", 0.0, least=0
    )


@dataclass(frozen=True)
class DeterministicObjective:
    """The terms of critics and a deterministic actor."""

    gamma: float = doc("discount", 0.99, least=0, most=1)
    reward_clip: float = doc("bound of the reward that is learnt from, 0 for none", 0.0, least=0)
    critics: int = doc("critics whose least value is the target (TD3: 2, DDPG: 1)", 2, least=1)
    actor_every: int = doc("updates of the critics for each of the actor and the targets (TD3: 2, DDPG: 1)", 2, least=1)
    target_noise: float = doc("deviation of the target action's noise, in unit actions, 0 for none", 0.2, least=0)
    target_noise_clip: float = doc("bound of that noise", 0.5, least=0)


@dataclass(frozen=True)
class NoiseExploration:
    """How the student explores while it gathers."""

    noise: Literal["gaussian", "ou"] = doc(
        "of each action component: gaussian, drawn anew in every step; ou, an Ornstein-Uhlenbeck process", "gaussian"
    )
    std: str = doc("schedule of its standard deviation in unit actions, on env steps", "0.1", least=0)
    theta: float = doc("of ou: share of the noise that is lost in every step", 0.15, above=0, most=1)


@dataclass(frozen=True)
class SoftObjective:
    """The terms of critics and a stochastic actor with maximum entropy."""

    gamma: float = doc("discount", 0.99, least=0, most=1)
    reward_clip: float = doc("bound of the reward that is learnt from, 0 for none", 0.0, least=0)
    critics: int = doc("critics whose least value is the target", 2, least=1)
    temperature: float = doc("alpha, what a nat of entropy is worth, at the beginning", 1.0, above=0)
    learn_temperature: bool = doc("move alpha so that the entropy stays at target_entropy", True)
    target_entropy: float | None = doc(
        "in nats of unit actions; none: -1 for each action component, log 2 for each that is constant", None
    )
