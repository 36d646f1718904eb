"""Is the student on par with its teacher? One-sided tests on a ratio of returns, as pure functions.

The ratio is measured from the random policy up: r = (S - R) / (T - R), with the mean returns of student, teacher and
random policy. On par means r >= rho, which for T > R is the same as

    d = S - rho T - (1 - rho) R >= 0,

a linear hypothesis: no division, no ratio distribution. Under the null hypothesis, d / se(d) is compared with Student's
t of Welch and Satterthwaite's degrees of freedom.

How often a student that stands exactly at the boundary passes, in %, nominal 5, rho = 0.95, paired, 5000 runs each:

| returns                                                   | n = 5 | 10 | 20 | 40 | 59 | 100 | 200 |
|-----------------------------------------------------------|-------|----|----|----|----|-----|-----|
| normal                                                    | 4.8   | 4.8| 5.2| 5.0| 5.1| 4.9 | 4.8 |
| 1100 - exponential (skewed)                               | 4.4   | 4.8| 5.1| 5.1| 5.2| 5.3 | 5.3 |
| both fall in 10 % of the episodes                         | 2.5   | 3.2| 4.3| 5.3| 5.7| 4.7 | 5.3 |
| only the student falls, in 6 % of the episodes            | 52    | 51 | 28 | 12 | 12 | 10  | 8   |
| only the student falls, in 6 %, ``guard_falls``           | 0     | 0  | 0  | 0.1| 1.8| 3.0 | 3.3 |

The fourth row is no fault of the t distribution: ten episodes without a fall say little about a fall in sixteen, and
no test that takes them at face value can know better. ``guard_falls`` does not: it counts one more episode than was
seen, one that fell to the random policy's level. It costs episodes (at rho = 0.95 and without a single fall, 59 pass at
alpha 0.05, 70 at 0.01), and is for tasks in which a policy can fall, crash or get stuck once in a while.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from understudy.data import Array
from understudy.errors import UserError


@dataclass(frozen=True)
class Parity:
    """What a parity test found.

    Attributes:
        passed: Whether ``p_value <= alpha``.
        p_value: Probability of a d at least this large from a student below ``ratio``.
        ratio: rho, the share of the teacher's return that was asked for.
        alpha: Probability of passing wrongly that was allowed.
        ratio_estimate: (S - R) / (T - R).
        ratio_lower_bound: Fieller's lower confidence bound of the ratio at level 1 - alpha: the largest rho that would
            have passed; minus infinity where the teacher is not clearly above the random policy.
        margin: d, in units of return; above 0 the student is better than asked for.
        standard_error: Of d.
        degrees: Of freedom.
        episodes: Of the student.
        unseen_rate: Share of episodes that could be worse than the worst seen one, an upper bound at level 1 - alpha.
            No distribution is assumed, so it stays true where the t-test is misled by rare falls.
    """

    passed: bool
    p_value: float
    ratio: float
    alpha: float
    ratio_estimate: float
    ratio_lower_bound: float
    margin: float
    standard_error: float
    degrees: float
    episodes: int
    unseen_rate: float


@dataclass(frozen=True)
class Moments:
    """Means of student, teacher and random policy, and what the variance of d consists of.

    Attributes:
        student: S.
        teacher: T.
        random: R.
        covariance: [3, 3] of one episode each, ordered (S, T, R); off-diagonal only S with T, and only if paired.
        counts: Episodes of the three.
        paired: Whether episode i of student and teacher ran on the same seed.
    """

    student: float
    teacher: float
    random: float
    covariance: Array
    counts: tuple[int, int, int]
    paired: bool

    def margin(self, ratio: float) -> float:
        """Return d = S - rho T - (1 - rho) R."""
        return self.student - ratio * self.teacher - (1 - ratio) * self.random

    def error(self, ratio: float) -> tuple[float, float]:
        """Return the standard error of d and its degrees of freedom (Welch 1947, Satterthwaite 1946).

        Paired, S - rho T is one sample with one variance; what the seeds do to both cancels.
        """
        c, (n, m, k) = self.covariance, self.counts
        rest = (1 - ratio) ** 2 * c[2, 2]
        if self.paired:
            parts = [((c[0, 0] - 2 * ratio * c[0, 1] + ratio**2 * c[1, 1]), n), (rest, k)]
        else:
            parts = [(c[0, 0], n), (ratio**2 * c[1, 1], m), (rest, k)]
        # Rounding: what is 1e-12 of the squared returns is no variance.
        floor = 1e-24 * max(self.student**2, self.teacher**2, self.random**2)
        shares = [(max(v, 0.0) / size, size) for v, size in parts if v > floor]
        variance = sum(v for v, _ in shares)
        if variance == 0:
            return 0.0, math.inf
        return math.sqrt(variance), variance**2 / sum(v**2 / (size - 1) for v, size in shares)


def moments(student: Array, teacher: Array, random: Array, paired: bool) -> Moments:
    """Reduce returns [n], [m], [k] to what the test needs.

    Raises:
        UserError: Fewer than two episodes of someone, returns that are not finite, or paired lists of two lengths.
    """
    samples = [np.asarray(x, np.float64) for x in (student, teacher, random)]
    for name, x in zip(("student", "teacher", "random policy"), samples, strict=True):
        if x.ndim != 1 or len(x) < 2:
            raise UserError(f"a parity test needs at least 2 episodes of the {name}, there are {x.size}")
        if not np.isfinite(x).all():
            raise UserError(f"a parity test needs finite returns; the {name} has NaN or infinity")
    s, t, r = samples
    if paired and len(s) != len(t):
        raise UserError(f"paired episodes need the same seeds: {len(s)} of the student, {len(t)} of the teacher")
    covariance = np.diag([x.var(ddof=1) for x in samples])
    if paired:
        covariance[0, 1] = covariance[1, 0] = ((s - s.mean()) * (t - t.mean())).sum() / (len(s) - 1)
    counts = (len(s), len(t), len(r))
    return Moments(float(s.mean()), float(t.mean()), float(r.mean()), covariance, counts, paired)


def p_value(found: Moments, ratio: float) -> float:
    """P(t >= d / se(d)); where nothing varies, 0 if d >= 0 and 1 otherwise.

    Constant returns are common (CartPole: 500 and 500), and equality counts as on par; rounding is forgiven.
    """
    margin, (error, degrees) = found.margin(ratio), found.error(ratio)
    if error == 0:
        return 0.0 if margin >= -1e-9 * max(abs(found.student), abs(found.teacher), abs(found.random)) else 1.0
    return float(stdtr(degrees, -margin / error))


def lower_bound(found: Moments, alpha: float) -> float:
    """Return the largest ratio that the test passes at level alpha, by bisection (Fieller 1954).

    d(rho) - t se(rho) is concave in rho, positive at minus infinity where T > R is significant, and negative at the
    estimate: it crosses zero once.
    """
    high = (found.student - found.random) / (found.teacher - found.random)
    if p_value(found, high) <= alpha:
        return high
    step = 1.0
    while p_value(found, high - step) > alpha:
        step *= 2
        if step > 1e6:
            return -math.inf
    low = high - step
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(found, middle) <= alpha else (low, middle)
    return low


def with_fall(student: Array, teacher: Array, random: Array) -> tuple[Array, Array]:
    """[n] -> [n + 1]: add an episode in which the student is as bad as the random policy, the teacher average."""
    return np.append(student, np.mean(random)), np.append(teacher, np.mean(teacher))


def parity_test(
    student: Array,
    teacher: Array,
    random: Array,
    ratio: float,
    alpha: float = 0.05,
    paired: bool = True,
    guard_falls: bool = False,
) -> Parity:
    """Test whether the student reaches ``ratio`` of the teacher's return, measured from the random policy.

    Args:
        student: [n] returns.
        teacher: [m] returns.
        random: [k] returns of the random policy.
        ratio: rho, such as 0.95.
        alpha: Probability of passing a student that does not.
        paired: Whether student and teacher ran on the same seeds, in the same order. To be said beforehand: choosing
            the better of both tests afterwards would double alpha.
        guard_falls: Count one fall to the random policy's level more than was seen; see the module. The estimate and
            the margin are of what was seen, the p-value and the bound are guarded.

    Raises:
        UserError: The teacher is not better than the random policy, so that a ratio has no meaning; or too few or
            broken returns.
    """
    found = moments(student, teacher, random, paired)
    tested = moments(*with_fall(student, teacher, random), random, paired) if guard_falls else found
    if found.teacher <= found.random:
        raise UserError(
            f"the teacher's mean return {found.teacher:.5g} is not above the random policy's {found.random:.5g}: "
            "a ratio of them has no meaning"
        )
    p, (error, degrees) = p_value(tested, ratio), tested.error(ratio)
    return Parity(
        passed=p <= alpha,
        p_value=p,
        ratio=ratio,
        alpha=alpha,
        ratio_estimate=(found.student - found.random) / (found.teacher - found.random),
        ratio_lower_bound=lower_bound(tested, alpha),
        margin=found.margin(ratio),
        standard_error=error,
        degrees=degrees,
        episodes=found.counts[0],
        unseen_rate=unseen_rate(found.counts[0], alpha),
    )


def unseen_rate(episodes: int, alpha: float = 0.05) -> float:
    """Return q with (1 - q)^n = alpha: more than a share q of worse episodes would have shown one in n.

    With 95 % confidence about 3 / n, the rule of three.
    """
    return float(1 - alpha ** (1 / episodes))


def episodes_needed(
    student: Array,
    teacher: Array,
    random: Array,
    ratio: float,
    alpha: float = 0.05,
    paired: bool = True,
    power: float = 0.8,
    limit: int = 10_000,
) -> int | None:
    """Estimate how many episodes (of student and teacher each) the test would need to pass, from those seen so far.

    The n for which d >= (t_(1-alpha) + z_power) se(d), were the means and variances seen so far the true ones; the
    random policy's episodes stay as they are. Without ``guard_falls``.

    Returns:
        The total number, at least 2; None where the student is not above the boundary, or ``limit`` would not do.
    """
    found = moments(student, teacher, random, paired)
    margin = found.margin(ratio)

    def enough(count: int) -> bool:
        planned = Moments(
            found.student, found.teacher, found.random, found.covariance, (count, count, found.counts[2]), paired
        )
        error, degrees = planned.error(ratio)
        return error == 0 or margin >= (float(stdtrit(degrees, 1 - alpha)) + float(ndtri(power))) * error

    if margin < 0 or not enough(limit):
        return None
    low, high = 1, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


class SequentialParity:
    """Parity tests again and again while a student learns; the chance of ever passing wrongly stays below alpha.

    The j-th look may spend alpha_j = alpha / (j (j + 1)), whose sum over all j is alpha: however many looks there are,
    and however they depend on each other, the union bound holds. Early looks spend most: they decide whether a fast run
    is believed. It holds as long as whether a look counts does not depend on what it shows: who looks first and tests
    only what looks good must ``spend`` for what it did not test.
    """

    def __init__(self, ratio: float, alpha: float = 0.05, guard_falls: bool = False) -> None:
        if not 0 < alpha < 1:
            raise UserError(f"alpha is a probability between 0 and 1, not {alpha}")
        self.ratio, self.alpha, self.guard_falls = ratio, alpha, guard_falls
        self.looks = 0

    @property
    def next_alpha(self) -> float:
        """What the next look may spend."""
        return self.alpha / ((self.looks + 1) * (self.looks + 2))

    def look(self, student: Array, teacher: Array, random: Array) -> Parity:
        """Test once; see ``parity_test``. A look that raises spends nothing."""
        return self.look_each([student], [teacher], [random])[0]

    def look_each(self, student: Sequence[Array], teacher: Sequence[Array], random: Sequence[Array]) -> list[Parity]:
        """Test K tasks once, each at the whole level of this look; on par is who passes them all.

        An intersection-union test (Berger 1982): if one task is short, all pass at most as often as that one does, so
        nothing has to be divided among the tasks.
        """
        results = self.test_each(student, teacher, random, self.next_alpha)
        self.spend()
        return results

    def test_each(
        self, student: Sequence[Array], teacher: Sequence[Array], random: Sequence[Array], alpha: float
    ) -> list[Parity]:
        """Test K tasks at a part of ``next_alpha``, as one of several stages of a look that ``spend`` ends."""
        return [
            parity_test(s, t, r, self.ratio, alpha, guard_falls=self.guard_falls)
            for s, t, r in zip(student, teacher, random, strict=True)
        ]

    def spend(self) -> None:
        """Count a look: what it might have spent is gone."""
        self.looks += 1

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` needs, as JSON-able data."""
        return {"looks": self.looks}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self.looks = int(data["looks"])
