"""Distances D(teacher, student) of two policies at a state, from the parameters of their action distributions.

| name          | D                                      | teacher -> student                                     |
|---------------|----------------------------------------|--------------------------------------------------------|
| forward_kl    | KL(T||S)                               | discrete; the same Gaussian family                     |
| reverse_kl    | KL(S||T)                               | as forward_kl                                          |
| cross_entropy | H(T, S) = KL(T||S) + H(T)              | as forward_kl                                          |
| jsd           | generalised Jensen-Shannon             | discrete; Gaussians have no closed form but at the     |
|               |                                        | ends of beta                                           |
| wasserstein2  | squared 2-Wasserstein distance         | gaussian or deterministic; squashed with squashed      |
| nll           | -log S(teacher's deterministic action) | anything -> a student with probabilities               |
| mse, huber    | of actions; of logits, Q values or all | anything continuous; on parameters the same family     |
|               | parameters                             |                                                        |

``reverse_cross_entropy`` is H(S, T) = KL(S||T) + H(S), between what reverse_kl fits but for squashed Gaussians.

mse, huber: **mean** over the action dimension A (or over P). All others: **sum** over A and over the parts of a
multi-discrete action, as distances of joint distributions are. Gaussian parameters are compared in unit actions (-1 to
1 at the bounds); those of squashed Gaussians before the tanh, which leaves KL as it is, while wasserstein2 there is the
distance of the Gaussians before the tanh. No distance is multiplied by temperature^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from understudy.errors import UserError, suggest
from understudy.objectives import divergences
from understudy.policies import distributions
from understudy.policies.family import Family
from understudy.policies.spec import ABSENT


@dataclass(frozen=True)
class Distance:
    """A distance with its options; call it on parameters to get one number per state.

    Attributes:
        name: See the module.
        temperature: Discrete teachers are softmax(logits / temperature). None: 1 for logits; for the action
            values of a Q-network 0.01 towards a policy (Rusu 2015, section 3.2) and 0.1 towards another Q-network
            (QDagger, Agarwal 2022). Action values have the scale of returns, Rusu's those of rewards clipped to
            [-1, 1]: a temperature far below the gaps between a state's values copies the argmax only, one far above
            teaches a uniform policy.
        temperature_of: ``teacher``: the student becomes the sharper or softer policy; ``both``: as in QDagger and GKD.
            None: the teacher, and both where the student is a Q-network, which has no probabilities without one.
        beta: Of jsd; 0 is KL(T||S), 1 is KL(S||T).
        delta: Of huber, where the square becomes a line.
        saturate: Of mse and huber on actions: the teacher's action is clipped to [-1, 1], and where it is at a bound a
            student beyond that bound has no loss. Of nll: the teacher's action is clipped. False for action spaces
            without bounds.
        on: Of mse and huber: ``action``, the deterministic action, or ``params``, all parameters of the same family.
            None: actions where they are continuous, parameters where they are discrete.
        std_floor: Gaussian teachers' standard deviations are at least this (in unit actions; before a tanh).
    """

    name: str
    temperature: float | None = None
    temperature_of: str | None = None
    beta: float = 0.5
    delta: float = 1.0
    saturate: bool = True
    on: str | None = None
    std_floor: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in _DISTANCES:
            raise UserError(
                f"distance {self.name!r} is unknown{suggest(self.name, _DISTANCES)}; there are {', '.join(_DISTANCES)}"
            )
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise UserError(f"distance.temperature must be above 0, not {self.temperature}")
        if self.temperature_of not in (None, "teacher", "both"):
            raise UserError(f"distance.temperature_of must be 'teacher' or 'both', not {self.temperature_of!r}")
        if not 0 <= self.beta <= 1:
            raise UserError(f"distance.beta must be between 0 and 1, not {self.beta}")
        if not self.delta > 0:
            raise UserError(f"distance.delta must be above 0, not {self.delta}")
        if self.on not in (None, "action", "params"):
            raise UserError(f"distance.on must be 'action' or 'params', not {self.on!r}")
        if not 0 <= self.std_floor < math.inf:
            raise UserError(f"distance.std_floor must be 0 or above, not {self.std_floor}")

    def check(self, teacher: Family, student: Family) -> None:
        """Refuse a distance that is not defined between these two families.

        Raises:
            UserError: With the distances that fit instead.
        """
        reason = self.refusal(teacher, student)
        if reason:
            raise UserError(f"distance {self.name} from a {teacher.name} teacher to a {student.name} student: {reason}")

    def refusal(self, teacher: Family, student: Family) -> str:
        """Return why the distance is not defined between these two families, or an empty string."""
        return _refusal(self, teacher, student)

    def __call__(
        self,
        teacher: Family,
        teacher_params: Tensor,
        student: Family,
        student_params: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """[..., P] parameters of both -> [...]; choices that the student's state forbids count for neither.

        Args:
            teacher: Family of the teacher; that ``check`` has passed is assumed.
            teacher_params: [..., P_teacher], in unit actions where continuous.
            student: Family of the student.
            student_params: [..., P_student], likewise.
            mask: [..., A] (or [..., P]) weights of the action components that count, for students whose actions are
                padded: a mean over A is the weighted mean, a sum the weighted sum; discrete actions with weight 0 are
                taken out of both distributions.
        """
        restricted = within_allowed(teacher_params, student_params, student)
        return _DISTANCES[self.name](self, _Pair(teacher, restricted, student, student_params, mask))

    def compares_actions(self, student: Family) -> bool:
        """Whether mse and huber compare actions for this student."""
        return (self.on or ("action" if student.continuous else "params")) == "action"

    def inverse_temperatures(self, teacher: Family, student: Family) -> tuple[float, float]:
        """Return what the teacher's and the student's logits are multiplied by."""
        values, to_values = teacher.name == "q_values", student.name == "q_values"
        default = 1.0 if not values else 0.1 if to_values else 0.01
        inverse = 1 / (self.temperature or default)
        return inverse, inverse if self.temperature_of == "both" or to_values else 1.0

    def action_of(self, teacher: Family, params: Tensor) -> Tensor:
        """Return the action that the student should take, shaped as ``distributions.mode`` does."""
        action = distributions.mode(teacher, params)
        return action.clamp(-1, 1) if teacher.continuous and self.saturate else action


def within_allowed(teacher_params: Tensor, student_params: Tensor, student: Family) -> Tensor:
    """[..., P] -> a discrete teacher's parameters, ``ABSENT`` where the student's are: what a state's mask forbids.

    A teacher that knows no mask would otherwise say that a choice is likely which the student can never make.
    """
    if student.continuous:
        return teacher_params
    return torch.where(student_params.detach() <= ABSENT / 2, ABSENT, teacher_params)


def default_distance(teacher: Family, student: Family) -> Distance:
    """Return a distance that is sound between these families.

    Discrete: forward KL, of softmax(Q / 0.01) for a Q-network taught to a policy; mse of the values where the student
    is a Q-network too. Continuous: mse of the executed actions, which leaves a Gaussian student's deviation alone.

    Raises:
        UserError: No distance fits.
    """
    both_values = teacher.name == student.name == "q_values"
    distance = Distance("mse" if student.continuous or both_values else "forward_kl")
    distance.check(teacher, student)
    return distance


def beside_rewards(teacher: Family, student: Family) -> Distance:
    """Return a distance that is sound beside rewards; what fits neither is refused by ``check``.

    Cross-entropy where actions are choices, KL(T||S) between Gaussians of one kind, else the squared error of the
    executed actions: that of a deterministic teacher leaves the student's deviation to the policy gradient.
    """
    wanted = Distance("forward_kl" if student.continuous else "cross_entropy")
    return Distance("mse") if wanted.refusal(teacher, student) else wanted


def _refusal(distance: Distance, teacher: Family, student: Family) -> str:
    name, same = distance.name, teacher.name == student.name
    if teacher.continuous != student.continuous:
        return "one acts with numbers, the other with choices; no distance compares them"
    if teacher.sizes != student.sizes:
        return f"their actions have the sizes {list(teacher.sizes)} and {list(student.sizes)}"
    if student.name == "q_values" and not same:
        return "a Q-network can only learn from a Q-network; take a categorical student"
    if name in _ADDED:
        return _ADDED[name](teacher, student)
    if name in ("mse", "huber"):
        if distance.compares_actions(student):
            return "" if student.continuous else "choices cannot be subtracted; set on: params"
        return "" if same else "their parameters mean different things; set on: action, or use forward_kl"
    if student.continuous:
        return _refusal_of_continuous(distance, teacher, student)
    if student.name == "q_values" and distance.temperature_of == "teacher":
        return "action values are no probabilities without a temperature; set temperature_of: both"
    return "it compares numbers, not choices; use forward_kl or jsd" if name == "wasserstein2" else ""


def _refusal_of_continuous(distance: Distance, teacher: Family, student: Family) -> str:
    name, one_squashed = distance.name, (teacher.name == "squashed_gaussian") != (student.name == "squashed_gaussian")
    if name == "nll":
        return "" if student.stochastic else "a deterministic student has no likelihood; use mse or huber"
    if name == "wasserstein2":
        return "only one of them is squashed by a tanh; use mse or huber" if one_squashed else ""
    if not teacher.stochastic:
        use = "nll, mse or huber" if student.stochastic else "mse or huber"
        return f"a deterministic teacher is a point mass, whose KL divergence to anything else is infinite; use {use}"
    if not student.stochastic:
        return "a deterministic student is a point mass, whose KL divergence is infinite; use mse or huber"
    if one_squashed:
        return "only one of them is squashed by a tanh and there is no closed form; use nll, mse or huber"
    if name == "reverse_cross_entropy" and student.name == "squashed_gaussian":
        return "the entropy after a tanh has no closed form; use reverse_kl"
    if name == "jsd" and distance.beta not in (0.0, 1.0):
        return "the JSD of Gaussians has no closed form; use forward_kl or reverse_kl (which are jsd at beta 0 and 1)"
    return ""


class _Pair(NamedTuple):
    """What a distance is computed from, see ``Distance.__call__``."""

    teacher: Family
    teacher_params: Tensor
    student: Family
    student_params: Tensor
    mask: Tensor | None

    def reduce(self, components: Tensor, mean: bool = False) -> Tensor:
        """[..., A] or [..., P] -> [...]; a mask over A serves for means and deviations alike, and the reverse."""
        mask, size = self.mask, components.shape[-1]
        if mask is not None and mask.shape[-1] != size:
            mask = mask[..., :size] if mask.shape[-1] > size else torch.cat((mask, mask), dim=-1)
        return divergences.reduce(components, mask, mean)


def _regression(distance: Distance, pair: _Pair) -> Tensor:
    """mean_A(e^2) or mean_A(huber(e)), e = student - teacher."""
    if distance.compares_actions(pair.student):
        target = distance.action_of(pair.teacher, pair.teacher_params)
        action = distributions.mode(pair.student, pair.student_params)
        error = divergences.saturating_error(action, target) if distance.saturate else action - target
    else:
        error = pair.student_params - pair.teacher_params
    components = error.square() if distance.name == "mse" else divergences.huber(error, distance.delta)
    return pair.reduce(components, mean=True)


def _nll(distance: Distance, pair: _Pair) -> Tensor:
    """-log S(a_T), a_T the teacher's deterministic action; Rusu 2015, section 3.2."""
    student = pair.student
    if not student.continuous:
        probabilities = _log_probs(distance, pair)
        return torch.stack([-q.gather(-1, p.argmax(-1, keepdim=True)).squeeze(-1) for p, q in probabilities]).sum(0)
    # One dimension at a time, [..., A, 2], so that a mask can weigh them.
    alone = torch.stack(pair.student_params.chunk(2, dim=-1), dim=-1)
    action = distance.action_of(pair.teacher, pair.teacher_params).unsqueeze(-1)
    return pair.reduce(-distributions.log_prob(Family(student.name, (1,)), alone, action))


def _log_probs(distance: Distance, pair: _Pair) -> list[tuple[Tensor, Tensor]]:
    """Log-probabilities [..., n_i] of teacher and student for each part of a discrete action."""
    scales = distance.inverse_temperatures(pair.teacher, pair.student)
    logits = [pair.teacher_params * scales[0], pair.student_params * scales[1]]
    if pair.mask is not None:  # so low that their probability is exactly 0
        logits = [torch.where(pair.mask > 0, x, -1e9) for x in logits]
    split = [distributions.parts(pair.student, x) for x in logits]
    return [(p.log_softmax(-1), q.log_softmax(-1)) for p, q in zip(*split, strict=True)]


def _divergence(distance: Distance, pair: _Pair) -> Tensor:
    """KL and cross-entropy either way, and JSD: summed over parts or over A."""
    name, beta = distance.name, {"forward_kl": 0.0, "reverse_kl": 1.0}.get(distance.name, distance.beta)
    if not pair.student.continuous:
        probabilities = _log_probs(distance, pair)
        if name == "cross_entropy":
            return torch.stack([divergences.categorical_cross_entropy(p, q) for p, q in probabilities]).sum(0)
        if name == "reverse_cross_entropy":
            return torch.stack([divergences.categorical_cross_entropy(q, p) for p, q in probabilities]).sum(0)
        return torch.stack([divergences.categorical_jsd(p, q, beta) for p, q in probabilities]).sum(0)
    p = _floored(distance, pair.teacher, pair.teacher_params)
    q = distributions.split(pair.student, pair.student_params)
    if name == "cross_entropy":
        return pair.reduce(divergences.gaussian_cross_entropy(*p, *q))
    if name == "reverse_cross_entropy":
        return pair.reduce(divergences.gaussian_cross_entropy(*q, *p))
    return pair.reduce(divergences.gaussian_kl(*q, *p) if beta == 1.0 else divergences.gaussian_kl(*p, *q))


def _floored(distance: Distance, teacher: Family, params: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's mean and log standard deviation, [..., A] each, the latter not below the floor."""
    mean, log_std = distributions.split(teacher, params)
    return mean, log_std.clamp_min(math.log(distance.std_floor)) if distance.std_floor > 0 else log_std


def _wasserstein2(distance: Distance, pair: _Pair) -> Tensor:
    """Sum over A of (m_T - m_S)^2 + (s_T - s_S)^2."""

    def moments(family: Family, params: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        if family.name == "deterministic":
            return params, torch.zeros_like(params)
        mean, log_std = distributions.split(family, params)
        return mean, log_std.exp().clamp_min(floor)

    p = moments(pair.teacher, pair.teacher_params, distance.std_floor)
    q = moments(pair.student, pair.student_params, 0.0)
    return pair.reduce(divergences.gaussian_wasserstein2(*p, *q))


_DISTANCES: dict[str, Callable[[Distance, _Pair], Tensor]] = {
    "forward_kl": _divergence,
    "reverse_kl": _divergence,
    "jsd": _divergence,
    "cross_entropy": _divergence,
    "reverse_cross_entropy": _divergence,
    "wasserstein2": _wasserstein2,
    "nll": _nll,
    "mse": _regression,
    "huber": _regression,
}
NAMES = tuple(_DISTANCES)
_ADDED: dict[str, Callable[[Family, Family], str]] = {}
"""Why the distances that were added are not defined between two families."""


def add_distance(
    name: str,
    function: Callable[[Family, Tensor, Family, Tensor, Tensor | None], Tensor],
    refusal: Callable[[Family, Family], str] = lambda teacher, student: "",
) -> None:
    """Make a distance known under a name in this process, for settings and for ``Distance``.

    Args:
        name: A new one.
        function: Teacher's family and parameters [..., P_teacher], student's family and parameters [..., P_student],
            and the mask (see ``Distance.__call__``) -> [...].
        refusal: Why it is not defined between two families whose actions have the same sizes; empty where it is.

    Raises:
        UserError: There is one of that name.
    """
    if name in _DISTANCES or name == "auto":
        raise UserError(f"there is a distance {name!r} already; give another name")
    _DISTANCES[name], _ADDED[name] = lambda _, pair: function(*pair), refusal
