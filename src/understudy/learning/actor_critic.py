"""The learner of actor-critic methods: a rollout of the student's own actions in, better weights out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.data import Array, Rollout, with_prefix
from understudy.errors import UserError
from understudy.learning.autograd_updater import AutogradUpdater
from understudy.learning.kernel_updater import KernelUpdater
from understudy.learning.updater import Columns, Updater
from understudy.objectives.actor_critic_kernel import supports
from understudy.objectives.optimizers import Optimizer
from understudy.objectives.returns import RewardScaler, RunningMoments, gae, vtrace
from understudy.objectives.schedules import absolute, parse
from understudy.policies.policy import Policy
from understudy.policies.spec import stored
from understudy.policies.tape import Tape
from understudy.policies.weights import load_arrays, named_arrays
from understudy.settings.train import TrainSettings

if TYPE_CHECKING:
    from understudy.learning.teaching import Teaching


class ActorCritic:
    """REINFORCE, A2C, PPO and IMPALA, as the settings say.

    Rewards are scaled, advantages estimated (GAE; V-trace where the weights that acted are not the newest), then
    ``update.epochs`` passes of minibatches. The statistics that normalise observations are updated last, so that the
    student that acts and the student that learns see the same numbers.
    """

    def __init__(
        self,
        policy: Policy,
        settings: TrainSettings,
        envs: int | None = None,
        optimizer: Optimizer | None = None,
        teaching: Teaching | None = None,
    ) -> None:
        """Build the parts.

        Args:
            policy: Learns in place.
            settings: Of the run.
            envs: B, where it is not all environments of the run.
            optimizer: In the place of the one that the settings name.
            teaching: What teachers add.
        """
        self.policy, self._settings, self.teaching = policy, settings, teaching
        envs = envs or settings.rollout.num_envs
        self._minibatch = settings.update.minibatch or envs * settings.rollout.steps
        update, run = settings.update, settings.stop.env_steps
        # What reads the objective below does not know the run, of which its schedule may name shares.
        objective = replace(settings.objective, entropy_weight=absolute(settings.objective.entropy_weight, run))
        self._lr = parse(update.lr, "update.lr", run)
        fast = update.kernel and settings.device == "cpu" and update.precision == "float32"
        taught = () if teaching is None else teaching.output_terms(objective)
        if (
            fast
            and optimizer is None
            and taught is not None
            and update.optimizer == "adam"
            and objective.value_weight
            and supports(policy.spec)
        ):
            self._updater: Updater = KernelUpdater(policy, objective, update, self._minibatch, taught)
        else:
            terms = None if teaching is None else teaching.terms(objective)
            warm_up = 0 if teaching is None else teaching.warm_up
            self._updater = AutogradUpdater(policy, objective, update, settings.device, optimizer, terms, warm_up)
        self._rng = np.random.default_rng((settings.seed, 2))
        self.scaler = RewardScaler(envs, objective.gamma) if objective.normalize_reward else None
        self._moments = {
            key: RunningMoments(policy.get_buffer(f"normalizer_mean:{stored(key)}").shape)
            for key in policy.spec.normalized
            if teaching is None or not teaching.keeps_normalizer
        }

    def update(
        self, rollout: Rollout, env_steps: int, fresh: bool = True, tape: Tape | None = None
    ) -> dict[str, float]:
        """Learn from a rollout with a trace.

        Args:
            rollout: [T, B].
            env_steps: Before the rollout, for the schedules.
            fresh: Whether the newest weights acted, so that what they thought need not be asked again.
            tape: What they computed; for a single gradient step of all steps in their order.

        Returns:
            Metrics, among them ``updates``, the gradient steps taken.

        Raises:
            UserError: The loss or the gradient is not finite; nothing has been saved since.
        """
        settings = self._settings
        self._updater.load(rollout, tape)
        reward = None
        if self.teaching is not None:
            labels = self.teaching.label(rollout, env_steps)
            self._updater.teach(labels, own_steps(rollout))
            reward = self.teaching.reward(rollout, labels, env_steps, self.policy.family, self._updater.params)
        columns, variance = self._estimate(rollout, fresh, reward)
        lr, updates = self._lr.value(env_steps), 0
        steps, envs = rollout.shape
        units = envs if self.policy.lstm is not None else steps * envs
        size = self._minibatch * units // (steps * envs)
        for _ in range(settings.update.epochs):
            self._updater.arrange(columns, self._rng.permutation(units) if size < units else None)
            for begin in range(0, units, size):
                self._updater.step(begin, begin + size, lr, env_steps)
                updates += 1
            limit = settings.objective.target_kl
            if limit and self._updater.approx_kl() > 1.5 * limit:
                break
        metrics = self._updater.metrics()
        self._check(metrics, env_steps)
        if self.teaching is not None:
            self.teaching.observe(metrics, steps * envs)
        self._normalize(rollout)
        return metrics | {"lr": lr, "explained_variance": variance, "updates": updates}

    def _estimate(self, rollout: Rollout, fresh: bool, extra: Array | None = None) -> tuple[Columns, float]:
        """Return the columns of the objective, and how much of the targets' variance the values explain.

        ``extra`` [T, B] is added to the rewards after they were scaled and clipped. Where a teacher acted, V-trace's
        ratio is 0: nothing is learnt from that step, and returns of the steps before it end there, at the student's
        value.
        """
        objective, trace = self._settings.objective, rollout.trace
        assert trace is not None
        reward = self._reward(rollout) if extra is None else self._reward(rollout) + extra
        if fresh:
            log_prob, value, last = trace.log_prob, trace.value, trace.last_value
        else:
            log_prob, value, last = self._updater.evaluate()
        ends = (rollout.terminated, rollout.truncated, trace.bootstrap, last)
        own = own_steps(rollout)
        if fresh and own is None and objective.estimator == "gae":
            advantage, target = gae(reward, value, *ends, objective.gamma, objective.lam)
        else:
            log_ratio = log_prob - trace.log_prob
            if own is not None:
                log_ratio = np.where(own, log_ratio, np.float32(-np.inf))
            clips = (objective.rho_clip, objective.c_clip)
            advantage, target = vtrace(
                log_ratio, reward, value, *ends, objective.gamma, objective.lam, *clips, objective.estimator
            )
        counted = own if own is not None and own.any() else slice(None)
        spread = float(np.var(target[counted]))
        explained = 1 - float(np.var((target - value)[counted])) / spread if spread > 0 else float("nan")
        return Columns(log_prob, advantage, target, value), explained

    def _reward(self, rollout: Rollout) -> Array:
        """Return the environment's rewards as they are learnt from, [T, B]: scaled and clipped."""
        if self.teaching is not None and not self.teaching.env_reward:
            return np.zeros_like(rollout.reward)
        reward, clip = rollout.reward, self._settings.objective.reward_clip
        if self.scaler is not None:
            reward = self.scaler.scale(reward, rollout.terminated | rollout.truncated, rollout.episode_start)
        return np.clip(reward, -clip, clip) if clip else reward

    def _check(self, metrics: Mapping[str, float], env_steps: int) -> None:
        for name in ("loss", "grad_norm"):
            if not np.isfinite(metrics[name]):
                what = "loss" if name == "loss" else "gradient"
                parts = {k: v for k, v in metrics.items() if not np.isfinite(v)}
                raise UserError(
                    f"the {what} is not finite in the update after {env_steps} env steps ({', '.join(parts)}): lower "
                    "update.lr or set update.max_grad_norm; the last checkpoint is intact"
                )

    def _normalize(self, rollout: Rollout) -> None:
        for key, moments in self._moments.items():
            obs = rollout.obs[key] if isinstance(rollout.obs, dict) else rollout.obs
            moments.update(obs.reshape(-1, *moments.mean.shape))
            self.policy.set_normalizer(key, moments.mean, moments.var)

    def weights(self) -> dict[str, Array]:
        """Return the student's arrays; on the CPU they are the live ones."""
        return named_arrays(self.policy)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return arrays and JSON-able data from which ``restore`` goes on exactly."""
        arrays = {name: array.copy() for name, array in self.weights().items()}
        optimizer, data = self._updater.state()
        arrays |= {f"optimizer:{name}": array for name, array in optimizer.items()}
        for key, moments in self._moments.items():
            arrays |= {f"moments:{key}:{name}": np.asarray(array) for name, array in moments.state().items()}
        if self.scaler is not None:
            arrays |= {f"reward:{name}": np.asarray(array) for name, array in self.scaler.state().items()}
        taught = {} if self.teaching is None else {"teaching": self.teaching.state()}
        return arrays, {"optimizer": data, "rng": self._rng.bit_generator.state, **taught}

    def restore(self, arrays: Mapping[str, Array], data: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            UserError: The settings that it was saved with do not go with those of now.
        """
        if "optimizer" not in data:
            raise UserError("the run learnt by shared gradients (A3C): resume with execution.shared_gradients true")
        load_arrays(self.policy, arrays)
        self._updater.restore(with_prefix(arrays, "optimizer:"), data["optimizer"])
        for key, moments in self._moments.items():
            moments.restore(with_prefix(arrays, f"moments:{key}:"))
        if self.scaler is not None:
            self.scaler.restore(with_prefix(arrays, "reward:"))
        self._rng.bit_generator.state = data["rng"]
        if self.teaching is not None:
            self.teaching.restore(data["teaching"])


def own_steps(rollout: Rollout) -> Array | None:
    """Return where the student acted, [T, B] bool; None: everywhere."""
    return ~rollout.teacher_acted if rollout.teacher_acted.any() else None
