"""Returns and advantages from rewards and values, and running statistics of rewards and observations.

Pure functions over [T, B] float32 arrays, in NumPy so that rollout workers can use them. ``terminated`` and
``truncated`` [T, B] bool mark the step that ended an episode; where both are set the task ended. ``bootstrap`` [T, B]
is the value of the final observation and read only where an episode was truncated; ``last_value`` [B] is the value of
the observation after the last step. With d_t the value of the state that followed step t (``next_values``):

| function | estimate                                                                                                |
|----------|---------------------------------------------------------------------------------------------------------|
| gae      | A_t = sum_l (gamma lam)^l (r_{t+l} + gamma d_{t+l} - V_{t+l})                                           |
| vtrace   | the same off-policy, every step weighed by clipped importance ratios                                    |

n-step returns (A2C, A3C; Mnih 2016, algorithm S3) are ``gae`` with lam = 1: every step then looks to the end of its
episode or of the rollout. Monte-Carlo returns (REINFORCE, Williams 1992) are ``gae`` with lam = 1 and values 0; what
an episode cut by the rollout's end still earns is then counted as 0 unless ``last_value`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from understudy.data import Array
from understudy.errors import UserError, suggest

POLICY_TARGETS = ("vtrace", "gae")
_MAX_LOG_RATIO = 80.0
"""exp of more is no float32; the clips lie far below."""


def next_values(value: Array, terminated: Array, truncated: Array, bootstrap: Array, last_value: Array) -> Array:
    """Return the value of the state that followed each step, [T, B].

    That is V_{t+1} inside an episode, 0 after termination, the value of the final observation after truncation, and
    ``last_value`` after the last step of the rollout.
    """
    following = np.empty_like(value)
    following[:-1] = value[1:]
    following[-1] = last_value
    # Copied, not multiplied by a mask: what stands in ``bootstrap`` elsewhere may be anything.
    np.copyto(following, bootstrap, where=truncated)
    following[terminated] = 0
    return following


def gae(
    reward: Array,
    value: Array,
    terminated: Array,
    truncated: Array,
    bootstrap: Array,
    last_value: Array,
    gamma: float,
    lam: float,
) -> tuple[Array, Array]:
    """Generalised advantage estimation (Schulman 2016, eq. 16), and its lambda-returns A_t + V_t; [T, B] each.

    A_t = delta_t + gamma lam A_{t+1},   delta_t = r_t + gamma d_t - V_t,

    where A_{t+1} counts only inside the episode. lam = 1 gives n-step returns, see the module. The target is the value
    function's, the advantage is not normalised.
    """
    delta = reward + gamma * next_values(value, terminated, truncated, bootstrap, last_value) - value
    decay = np.where(terminated | truncated, np.float32(0), np.float32(gamma * lam))
    advantage = _discounted_sum(delta, decay)
    return advantage, advantage + value


def vtrace(
    log_ratio: Array,
    reward: Array,
    value: Array,
    terminated: Array,
    truncated: Array,
    bootstrap: Array,
    last_value: Array,
    gamma: float,
    lam: float = 1.0,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
    policy_target: str = "vtrace",
) -> tuple[Array, Array]:
    """V-trace advantages and value targets v_t (Espeholt 2018, eq. 1 in its recursive form, remark 1); [T, B] each.

    v_t - V_t = rho_t delta_t + gamma c_t (v_{t+1} - V_{t+1}),
    rho_t = min(rho_clip, pi_t / mu_t),   c_t = lam min(c_clip, pi_t / mu_t),

    with delta_t as in ``gae``. Differs in nothing but that the recursion stops at episode ends inside the rollout.

    Args:
        log_ratio: [T, B] log pi_t - log mu_t of the actions taken; pi the current policy, mu the behaviour.
        reward: [T, B], as the next five see the module.
        value: [T, B].
        terminated: [T, B].
        truncated: [T, B].
        bootstrap: [T, B].
        last_value: [B].
        gamma: Discount.
        lam: As in ``gae`` (remark 2).
        rho_clip: Bounds the weight of a step's own error; decides which policy's value is learned.
        c_clip: Bounds how far errors travel back; decides how fast.
        policy_target: ``vtrace``: the advantage rho_t (r_t + gamma v_{t+1} - V_t) of the paper's policy gradient
            (section 4.2). ``gae``: v_t - V_t, which with all ratios 1 (and clips of at least 1) is ``gae`` exactly.

    Raises:
        UserError: Unknown ``policy_target``.
    """
    if policy_target not in POLICY_TARGETS:
        near = suggest(policy_target, POLICY_TARGETS)
        raise UserError(f"policy target {policy_target!r} is unknown{near}; there are {', '.join(POLICY_TARGETS)}")
    ratio = np.exp(np.minimum(log_ratio, _MAX_LOG_RATIO))
    rho = np.minimum(ratio, rho_clip)
    delta = rho * (reward + gamma * next_values(value, terminated, truncated, bootstrap, last_value) - value)
    decay = np.where(terminated | truncated, np.float32(0), np.float32(gamma * lam) * np.minimum(ratio, c_clip))
    correction = _discounted_sum(delta, decay)
    target = correction + value
    if policy_target == "gae":
        return correction, target
    following = next_values(target, terminated, truncated, bootstrap, last_value)
    return rho * (reward + gamma * following - value), target


def _discounted_sum(delta: Array, decay: Array) -> Array:
    """y_t = delta_t + decay_t y_{t+1} with y_T = 0, [T, B]; overwrites and returns ``delta``."""
    rows = list(delta)
    carried = np.empty_like(rows[-1])
    for row, following, factor in zip(rows[-2::-1], rows[:0:-1], list(decay)[-2::-1], strict=True):
        np.multiply(factor, following, out=carried)
        np.add(row, carried, out=row)
    return delta


class RunningMoments:
    """Mean and variance of everything seen, in float64, merged batch by batch (Chan 1979, eq. 2.1).

    Attributes:
        mean: [*shape].
        var: [*shape], of the population; 1 before the first update.
        count: How many items were seen.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.mean: Array = np.zeros(shape)
        self.var: Array = np.ones(shape)
        self.count = 0

    def update(self, batch: Array) -> None:
        """Take in a batch [N, *shape]."""
        n = len(batch)
        if batch.shape[1:] != self.mean.shape:
            raise ValueError(f"a batch of shape {batch.shape} for moments of shape {self.mean.shape}")
        if n == 0:
            return
        mean = batch.mean(axis=0, dtype=np.float64)
        squares = np.square(batch - mean).sum(axis=0)
        total, shift = self.count + n, mean - self.mean
        squares += self.var * self.count + np.square(shift) * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.var, self.count = squares / total, total

    def state(self) -> dict[str, Array]:
        """Return copies of the moments, for an exact resume."""
        return {"mean": self.mean.copy(), "var": self.var.copy(), "count": np.array(self.count)}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Continue from what ``state`` returned.

        Raises:
            UserError: It belongs to another shape.
        """
        if any(name not in arrays or np.shape(arrays[name]) != self.mean.shape for name in ("mean", "var")):
            raise UserError(
                f"the running statistics do not have the shape {self.mean.shape}; resume with the same task"
            )
        self.mean, self.var = np.array(arrays["mean"], np.float64), np.array(arrays["var"], np.float64)
        self.count = int(arrays["count"])


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return, as VecNormalize does.

    R_t = gamma R_{t-1} + r_t in every environment, 0 at the start of episodes;  r'_t = r_t / sqrt(Var R + 1e-8), from
    -10 to 10. The mean is not subtracted, which would change the task.

    Differs in: updated once per rollout, so all its rewards share one scale; and begins without the pseudo-observation
    of weight 1e-4.
    """

    def __init__(self, envs: int, gamma: float) -> None:
        self.gamma = gamma
        self._moments = RunningMoments()
        self._returns = np.zeros(envs)

    @property
    def factor(self) -> float:
        """What rewards are multiplied by."""
        return float(1 / np.sqrt(self._moments.var + 1e-8))

    def scale(self, reward: Array, ended: Array, start: Array) -> Array:
        """Update the statistics by a rollout and return its rewards scaled, [T, B] float32.

        Args:
            reward: [T, B], as the environments gave them.
            ended: [T, B] bool, terminated or truncated.
            start: [T, B] bool, the first step of an episode; the one before was perhaps cut off without an end.
        """
        returns = reward.astype(np.float64)
        decay = np.where(ended, 0.0, self.gamma)
        carried = self._returns  # gamma R_{t-1}, already 0 where an episode ended
        for row, factor, first in zip(returns, decay, start, strict=True):
            carried[first] = 0
            np.add(row, carried, out=row)
            np.multiply(row, factor, out=carried)
        self._moments.update(returns.ravel())
        scaled: Array = np.clip(reward * self.factor, -10.0, 10.0).astype(np.float32, copy=False)
        return scaled

    @property
    def moments(self) -> tuple[float, float, float]:
        """Mean, variance and count of the discounted returns so far; may be set, to go on from them."""
        return float(self._moments.mean), float(self._moments.var), float(self._moments.count)

    @moments.setter
    def moments(self, found: Sequence[float]) -> None:
        self._moments.mean, self._moments.var, self._moments.count = (
            np.array(found[0]),
            np.array(found[1]),
            int(found[2]),
        )

    def state(self) -> dict[str, Array]:
        """Return copies of the statistics and of the running returns, for an exact resume."""
        return {"returns": self._returns.copy(), **self._moments.state()}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Continue from what ``state`` returned.

        Raises:
            UserError: It belongs to another number of environments.
        """
        if "returns" not in arrays or np.shape(arrays["returns"]) != self._returns.shape:
            raise UserError(
                f"the reward scale was not saved for {len(self._returns)} environments; resume with as many"
            )
        self._moments.restore(arrays)
        self._returns[:] = arrays["returns"]
