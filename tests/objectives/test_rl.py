import math

import gymnasium as gym
import pytest
import torch

from understudy.errors import UserError
from understudy.objectives import rl
from understudy.objectives.batch import Batch
from understudy.objectives.distances import Distance
from understudy.objectives.objective import Objective, PolicyTransfer
from understudy.objectives.schedules import parse
from understudy.policies.policy import Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec


def linear_student(family="gaussian", **options):
    """Mean 2 x + 0.5 with deviation 1 (or deterministic), and V = 3 x, on one input."""
    box = gym.spaces.Box(-1, 1, (1,))
    options = {"hidden": (), "value_hidden": (), "std": "constant" if family == "gaussian" else "none", **options}
    policy = Policy(PolicySpec(space_to_json(box), space_to_json(box), family, **options))
    for name, number in (("head.weight", 2.0), ("head.bias", 0.5), ("value_head.weight", 3.0), ("value_head.bias", 0)):
        if name in policy.state_dict():
            policy.state_dict()[name].fill_(number)
    return policy


OBS = torch.tensor([[0.0], [0.1], [0.2]])  # means 0.5, 0.7, 0.9; values 0, 0.3, 0.6
Z = [0.5, -0.2, 1.1]  # of the actions
LOG_PROBS = [-0.5 * z * z - 0.5 * math.log(2 * math.pi) for z in Z]
LOG_RATIOS = [0.3, -0.4, 0.05]
BATCH = Batch(
    OBS,
    action=torch.tensor([[1.0], [0.5], [2.0]]),
    log_prob=torch.tensor(LOG_PROBS) - torch.tensor(LOG_RATIOS),
    advantage=torch.tensor([1.0, -2.0, 3.0]),
    target_value=torch.tensor([1.0, 0.0, 0.5]),
    old_value=torch.tensor([0.0, 0.9, 0.5]),
)


def test_policy_gradient_by_hand():
    losses = rl.policy_gradient(torch.tensor([-1.0, -2.0]), torch.tensor([0.5, -3.0]))
    assert losses.tolist() == [0.5, -6.0]


@pytest.mark.parametrize(
    "ratio,advantage,loss,slope",  # slope: d loss / d log pi
    [
        (1.5, 2.0, -2.4, 0.0),  # better than before and already 1.2 times as likely: enough
        (1.5, -2.0, 3.0, 3.0),  # worse and more likely: the full loss
        (0.5, 2.0, -1.0, -1.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.1, 2.0, -2.2, -2.2),
        (0.9, -2.0, 1.8, 1.8),
    ],
)
def test_clipped_policy_gradient_by_hand(ratio, advantage, loss, slope):
    log_prob = torch.tensor(math.log(ratio), requires_grad=True)
    got = rl.clipped_policy_gradient(log_prob, torch.tensor(0.0), torch.tensor(advantage), 0.2)
    got.backward()
    assert got.item() == pytest.approx(loss) and log_prob.grad.item() == pytest.approx(slope)


@pytest.mark.parametrize(
    "value,target,old,loss,slope",
    [
        (1.0, 3.0, 0.9, 2.0, -2.0),  # near the old value: as without clipping
        (1.0, 3.0, 0.0, 0.5 * 2.8**2, 0.0),  # moved 1 towards the target, 0.2 allowed: enough
        (1.0, -1.0, 0.0, 2.0, 2.0),  # moved 1 away from it: the full loss
    ],
)
def test_clipped_value_loss_by_hand(value, target, old, loss, slope):
    v = torch.tensor(value, requires_grad=True)
    got = rl.value_loss(v, torch.tensor(target), torch.tensor(old), 0.2)
    got.backward()
    assert got.item() == pytest.approx(loss) and v.grad.item() == pytest.approx(slope)
    assert rl.value_loss(v, torch.tensor(target)).item() == pytest.approx(0.5 * (value - target) ** 2)
    with pytest.raises(ValueError, match="old values"):
        rl.value_loss(v, torch.tensor(target), clip=0.2)


def test_normalized_advantages():
    got = rl.normalize_advantage(torch.tensor([1.0, 3.0, 5.0]))
    assert got.tolist() == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)])  # the deviation is sqrt(8 / 3)
    valid = rl.normalize_advantage(torch.tensor([1.0, 3.0, 99.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert valid[:2].tolist() == pytest.approx([-1.0, 1.0])
    assert rl.normalize_advantage(torch.tensor([7.0])).tolist() == [0.0]  # one state, or all alike, is no NaN


def test_approximate_kl_estimates_the_kl():
    p, q = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.3, 0.3, 0.4])  # old, new
    k3 = rl.approximate_kl(q.log(), p.log())
    assert (k3 >= 0).all()
    assert (p * k3).sum().item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)  # unbiased under p


def test_clip_fraction():
    new = torch.tensor([1.3, 1.1, 0.7, 1.0]).log()
    assert rl.clip_fraction(new, torch.zeros(4), 0.2).tolist() == [1.0, 0.0, 1.0, 0.0]


def test_ppo_objective_by_hand():
    terms = [rl.PolicyGradient(clip=0.2, normalize=False), rl.ValueRegression(parse(0.5)), rl.EntropyBonus(parse(0.01))]
    loss, parts = Objective(terms)(linear_student(), BATCH, 0)
    # Ratios exp(0.3) = 1.35 -> 1.2 with A = 1; exp(-0.4) = 0.67 -> 0.8 with A = -2; exp(0.05) inside with A = 3.
    policy = -(1.2 * 1 + 0.8 * -2 + math.exp(0.05) * 3) / 3
    value = 0.5 * (1.0 + 0.09 + 0.01) / 3
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    assert parts["policy_gradient"].item() == pytest.approx(policy, rel=1e-5)
    assert parts["value_regression"].item() == pytest.approx(value, rel=1e-5)
    assert parts["entropy"].item() == pytest.approx(entropy) == -parts["entropy_bonus"].item()
    assert parts["clip_fraction"].item() == pytest.approx(2 / 3)
    kl = sum(math.exp(r) - 1 - r for r in LOG_RATIOS) / 3
    assert parts["approx_kl"].item() == pytest.approx(kl, rel=1e-4)
    assert loss.item() == pytest.approx(policy + 0.5 * value - 0.01 * entropy, rel=1e-5)
    assert not any(part.requires_grad for part in parts.values())


def test_plain_policy_gradient_by_hand():
    _, parts = Objective([rl.PolicyGradient(clip=None, normalize=False)])(linear_student(), BATCH, 0)
    expected = -sum(a * p for a, p in zip([1, -2, 3], LOG_PROBS, strict=True)) / 3
    assert parts["policy_gradient"].item() == pytest.approx(expected, rel=1e-5)
    assert "approx_kl" in parts and "clip_fraction" not in parts
    without = BATCH._replace(log_prob=None)
    assert "approx_kl" not in Objective([rl.PolicyGradient(clip=None)])(linear_student(), without, 0)[1]


def test_losses_are_means_over_valid_steps():
    terms = [rl.PolicyGradient(), rl.ValueRegression(clip=0.2), rl.EntropyBonus()]
    columns = ("action", "log_prob", "advantage", "target_value", "old_value")
    two = BATCH._replace(obs=OBS[:2], **{name: getattr(BATCH, name)[:2] for name in columns})
    padded = BATCH._replace(valid=torch.tensor([1.0, 1.0, 0.0]))
    ours, theirs = (Objective(terms)(linear_student(), batch, 0)[1] for batch in (padded, two))
    for name, part in theirs.items():
        torch.testing.assert_close(ours[name], part)


def test_refusals():
    point, value = linear_student("deterministic"), linear_student(value_hidden=None)
    for term, policy, batch, message in (
        (rl.PolicyGradient(), point, BATCH, "a student with probabilities"),
        (rl.EntropyBonus(), point, BATCH, "a student with probabilities"),
        (rl.ValueRegression(), value, BATCH, "no value function"),
        (rl.PolicyGradient(), value, BATCH._replace(mask=torch.ones(3, 1)), "several tasks"),
        (PolicyTransfer(Distance("mse"), point.family), point, BATCH, "no teacher"),
    ):
        with pytest.raises(UserError, match=message):
            Objective([term])(policy, batch, 0)
    with pytest.raises(ValueError, match="no advantage"):
        Objective([rl.PolicyGradient()])(value, Batch(OBS), 0)
    for make in (lambda: rl.PolicyGradient(clip=0.0), lambda: rl.ValueRegression(clip=-1.0)):
        with pytest.raises(UserError, match="clip must be above 0"):
            make()
