"""Several teachers as one: mixtures, drawn labels, and tasks; every expectation is computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from teacher_helpers import BOUNDS, VECTOR

from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.execution.base import Portable, actor_of
from understudy.policies import distributions
from understudy.policies.family import Family
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import ABSENT, Encoder, PolicySpec, default_encoders
from understudy.policies.weights import named_arrays
from understudy.teachers.acting import TEMPERATURE, mixture, mixture_family, own_observation
from understudy.teachers.combine import combine
from understudy.teachers.ensemble import Ensemble
from understudy.teachers.routing import TaskTeachers

torch.set_num_threads(1)
STD = {"gaussian": "constant", "squashed_gaussian": "state"}


def teacher(observations, actions, family, env, seed=0, wrappers=(), **more):
    torch.manual_seed(seed)
    spec = PolicySpec(
        space_to_json(observations),
        space_to_json(actions),
        family,
        default_encoders(observations),
        hidden=(5,),
        std=STD.get(family, "none"),
        **more,
    )
    about = About("test", f"teacher-{seed}", EnvSpec(env, {}, tuple(wrappers)) if env else None)
    policy = Policy(spec, about).eval()
    with torch.no_grad():
        for p in policy.parameters():
            p.copy_(torch.randn_like(p))
    return policy


def vectors(n=7, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def params(policy, obs):
    return policy.label(obs)[0].params


# --- mixtures


def test_categorical_mixture_is_the_log_of_the_mean_probability():
    a, b = np.log([[0.2, 0.8]]), np.log([[0.6, 0.4]])
    family = Family("categorical", (2,))
    got = mixture([family] * 2, [a + 3, b - 1], spaces.Discrete(2))  # logits are defined up to a constant
    np.testing.assert_allclose(np.exp(got), [[0.4, 0.6]], rtol=1e-6)


def test_multi_categorical_mixture_goes_part_by_part():
    family = Family("multi_categorical", (2, 3))
    a = np.log([[0.5, 0.5, 0.2, 0.2, 0.6]])
    b = np.log([[0.1, 0.9, 0.4, 0.4, 0.2]])
    got = mixture([family] * 2, [a, b], spaces.MultiDiscrete([2, 3]))
    np.testing.assert_allclose(np.exp(got), [[0.3, 0.7, 0.3, 0.3, 0.4]], rtol=1e-6)


def test_action_values_become_probabilities_at_the_documented_temperature():
    assert TEMPERATURE == 0.01
    family = Family("q_values", (2,))
    a, b = np.array([[0.0, 0.01 * np.log(3)]]), np.array([[1.0, 1.0]])
    got = mixture([family] * 2, [a, b], spaces.Discrete(2))
    assert mixture_family([family] * 2).name == "categorical"
    np.testing.assert_allclose(np.exp(got), [[(0.25 + 0.5) / 2, (0.75 + 0.5) / 2]], rtol=1e-5)


def test_gaussian_mixture_has_the_moments_of_its_samples():
    family = Family("gaussian", (1,))
    got = mixture([family] * 2, [np.array([[-1.0, np.log(0.5)]]), np.array([[2.0, np.log(1.5)]])], BOUNDS)
    mean = (-1 + 2) / 2
    variance = (0.25 + 1 + 2.25 + 4) / 2 - mean**2
    np.testing.assert_allclose(got, [[mean, 0.5 * np.log(variance)]], rtol=1e-6)


def test_mixed_continuous_families_average_executed_actions():
    families = [Family("squashed_gaussian", (1,)), Family("deterministic", (1,)), Family("gaussian", (1,))]
    got = mixture(
        families, [np.array([[0.3, 0.0]]), np.array([[5.0]]), np.array([[-0.5, 0.0]])], spaces.Box(-2, 2, (1,))
    )
    assert mixture_family(families).name == "deterministic"
    np.testing.assert_allclose(got, [[(np.tanh(0.3) + 1 - 0.5) / 3]], rtol=1e-6)


# --- ensembles


def test_ensemble_labels_and_acts_by_the_mixture():
    a, b = (teacher(VECTOR, spaces.Discrete(3), "categorical", "E-v0", seed) for seed in (1, 2))
    both, obs = combine([a, b]), vectors()
    assert isinstance(both, Ensemble) and both.kind == "distributions" and both.about.env == a.about.env
    assert both.parameters_count == 2 * a.parameters_count
    probabilities = (params(a, obs).softmax(-1) + params(b, obs).softmax(-1)) / 2
    np.testing.assert_allclose(params(both, obs).exp(), probabilities, rtol=1e-5)
    np.testing.assert_array_equal(both.predict(obs, deterministic=True)[0], probabilities.argmax(-1))
    assert both.predict(obs[0], deterministic=True)[0].shape == ()


def test_ensemble_acts_in_environment_units():
    a, b = (teacher(VECTOR, BOUNDS, "gaussian", "E-v0", seed, unit_actions=seed == 1) for seed in (1, 2))
    both, obs = combine([a, b], "distributions"), vectors()
    mean = (params(a, obs)[:, :2] + params(b, obs)[:, :2]) / 2
    expected = np.clip(np.array([0, -1]) + np.array([1, 1.5]) * mean.numpy(), BOUNDS.low, BOUNDS.high)
    np.testing.assert_allclose(both.predict(obs, deterministic=True)[0], expected, rtol=1e-5, atol=1e-6)


def test_losses_label_each_state_by_one_teacher_drawn_uniformly():
    a, b = (teacher(VECTOR, BOUNDS, "gaussian", "E-v0", seed) for seed in (1, 2))
    both, obs = combine([a, b], "losses"), vectors(2000)
    first, second, got = params(a, obs), params(b, obs), params(both, obs)
    # Not bit for bit: how a matrix product rounds depends on how many rows it has.
    by_first, by_second = (((got - other).abs() < 1e-5).all(dim=1) for other in (first, second))
    assert bool((by_first ^ by_second).all())
    assert abs(by_first.float().mean() - 0.5) < 0.05  # 4.5 standard errors
    torch.testing.assert_close(params(combine([a, b], "losses"), obs), got)  # seeded
    assert not torch.equal(params(both, obs), got)


def test_losses_convert_different_families():
    a = teacher(VECTOR, BOUNDS, "squashed_gaussian", "E-v0", 1)
    b = teacher(VECTOR, BOUNDS, "deterministic", "E-v0", 2)
    both, obs = combine([a, b], "losses"), vectors(50)
    assert both.family == Family("deterministic", (2,))
    choices = torch.stack((torch.tanh(params(a, obs)[:, :2]), params(b, obs)))
    assert bool(((params(both, obs) - choices).abs().amax(-1) < 1e-6).any(0).all())


def test_losses_act_by_one_member_for_an_episode():
    a, b = (teacher(VECTOR, BOUNDS, "deterministic", "E-v0", seed) for seed in (1, 2))
    both, obs = combine([a, b], "losses"), vectors(64)
    start, later = np.ones(64, bool), np.zeros(64, bool)
    _, who = both.predict(obs, None, start, True)
    assert set(who) == {0, 1}
    action, same = both.predict(obs, who, later, True)
    np.testing.assert_array_equal(same, who)
    modes = np.stack([m.predict(obs, deterministic=True)[0] for m in (a, b)])
    np.testing.assert_allclose(action, modes[who, np.arange(64)], rtol=1e-4, atol=1e-5)
    assert not np.array_equal(both.predict(obs, who, start, True)[1], who)


# --- one teacher per task


def tasks(family="gaussian"):
    small, large = spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-np.inf, np.inf, (4,), np.float64)
    if family in ("categorical", "q_values"):
        pair = (small, spaces.Discrete(3), "categorical"), (large, spaces.Discrete(2, start=1), family)
    else:
        pair = (small, BOUNDS, family), (large, spaces.Box(-3, 3, (1,), np.float32), "squashed_gaussian")
    return [teacher(o, a, f, f"Task{i}-v0", i, [{"type": "x", "n": i}]) for i, (o, a, f) in enumerate(pair)]


def padded(task):
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(len(task), 4)).astype(np.float32)
    flat[np.array(task) == 0, 2:] = 0
    return {"observation": flat, "task": np.eye(2, dtype=np.float32)[task]}


def test_each_state_goes_to_its_own_teacher_with_its_own_observation():
    a, b = tasks()
    both, obs = combine([a, b]), padded([0, 1, 1, 0])
    assert isinstance(both, TaskTeachers) and both.task_actions == (2, 1)
    assert both.action_space == spaces.Box(-1, 1, (2,), np.float32) and both.family == Family("deterministic", (2,))
    target, _ = both.label(obs)
    first, second = params(a, obs["observation"][:, :2]), params(b, obs["observation"].astype(np.float64))
    np.testing.assert_allclose(target.params[[0, 3]], first[[0, 3], :2], rtol=1e-6)
    np.testing.assert_allclose(target.params[[1, 2], 0], torch.tanh(second[[1, 2], 0]), rtol=1e-6)
    np.testing.assert_array_equal(target.params[[1, 2], 1], 0)
    np.testing.assert_array_equal(target.mask, [[1, 1], [1, 0], [1, 0], [1, 1]])
    assert target.value is None


def test_task_teachers_act_in_unit_actions():
    a, b = tasks()
    both, obs = combine([a, b]), padded([0, 1])
    action, _ = both.predict(obs, deterministic=True)
    own = a.predict(obs["observation"][0, :2], deterministic=True)[0]
    np.testing.assert_allclose(action[0], (own - [0, -1]) / [1, 1.5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        action[1], [b.predict(obs["observation"][1], deterministic=True)[0][0] / 3, 0], rtol=1e-5
    )
    one = {key: value[1] for key, value in obs.items()}
    np.testing.assert_allclose(both.predict(one, deterministic=True)[0], action[1])


def test_discrete_tasks_are_padded_with_impossible_actions():
    a, b = tasks("q_values")
    both, obs = combine([a, b]), padded([0, 1])
    target, _ = both.label(obs)
    np.testing.assert_array_equal(target.mask, [[1, 1, 1], [1, 1, 0]])
    assert target.params[1, 2] == ABSENT
    np.testing.assert_allclose(
        target.params[1, :2], (params(b, obs["observation"][1:]) / 0.01).log_softmax(-1)[0], rtol=1e-4, atol=1e-4
    )
    chosen = both.predict(obs, deterministic=True)[0]  # counted from 0, whatever the task's own start
    np.testing.assert_array_equal(chosen, distributions.mode(both.family, target.params))


def test_the_environment_of_tasks_keeps_their_wrappers():
    both = combine(tasks())
    assert both.about.env.id == "multitask"
    assert [t["wrappers"] for t in both.about.env.kwargs["tasks"]] == [[{"type": "x", "n": 0}], [{"type": "x", "n": 1}]]


def test_one_hot_becomes_a_choice_again():
    flat = np.array([[0, 0, 1, 0], [1, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(own_observation(flat, spaces.Discrete(3, start=5)), [7, 5])


# --- workers


def travelled(policy):
    return Portable(policy.spec, named_arrays(policy))


@pytest.mark.parametrize("family", ["gaussian", "squashed_gaussian", "deterministic"])
def test_workers_act_as_the_ensemble_does(family):
    members = [teacher(VECTOR, BOUNDS, family, "E-v0", seed, unit_actions=False) for seed in (1, 2)]
    actor = actor_of(Portable(kind="distributions", parts=tuple(map(travelled, members))))
    obs = vectors()
    expected = combine(members).predict(obs, deterministic=True)[0]
    np.testing.assert_allclose(actor.predict(obs, None, None, True)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gaussian", "q_values"])
def test_workers_act_as_task_teachers_do(family):
    members, obs = tasks(family), padded([0, 1, 0])
    actor = actor_of(Portable(kind="tasks", parts=tuple(map(travelled, members))))
    expected = combine(members).predict(obs, deterministic=True)[0]
    np.testing.assert_allclose(actor.predict(obs, None, None, True)[0], expected, rtol=1e-4, atol=1e-5)


# --- contradictions


@pytest.mark.parametrize(
    ("make", "ensemble", "words"),
    [
        (lambda: tasks(), "losses", "--ensemble is for teachers of one task"),
        (lambda: [*tasks(), tasks()[0]], None, "both claim the task Task0-v0"),
        (lambda: [tasks()[0], tasks("q_values")[1]], None, "all act with numbers or all with choices"),
        (lambda: [teacher(VECTOR, BOUNDS, "gaussian", None, s) for s in (0, 1)], None, "does not say its environment"),
        (
            lambda: [teacher(spaces.Box(-1, 1, (2, 2)), BOUNDS, "gaussian", e) for e in ("A-v0", "B-v0")],
            None,
            "a vector or one choice",
        ),
        (
            lambda: [teacher(o, BOUNDS, "gaussian", "E-v0") for o in (VECTOR, spaces.Box(-1, 1, (2,)))],
            None,
            "make no ensemble: one sees",
        ),
        (
            lambda: [teacher(VECTOR, a, "gaussian", "E-v0") for a in (BOUNDS, spaces.Box(-1, 1, (2,)))],
            "losses",
            "make no ensemble: one acts in",
        ),
        (lambda: [teacher(VECTOR, BOUNDS, "gaussian", "E-v0", s, lstm=4) for s in (0, 1)], None, "has a memory"),
    ],
)
def test_what_does_not_go_together_is_refused(make, ensemble, words):
    with pytest.raises(UserError, match=words):
        combine(make(), ensemble)


def test_an_unknown_ensemble_is_refused():
    members = [teacher(VECTOR, BOUNDS, "gaussian", "E-v0", s) for s in (0, 1)]
    with pytest.raises(UserError, match="'votes' is unknown"):
        combine(members, "votes")
    assert combine(members[:1]) is members[0]


# --- students of several tasks


@pytest.mark.parametrize("heads", [True, False])
def test_students_keep_statistics_by_task_and_never_take_an_absent_action(heads):
    both = combine(tasks("q_values"))
    encoders = default_encoders(both.observation_space)
    spec = PolicySpec(
        space_to_json(both.observation_space),
        space_to_json(both.action_space),
        "categorical",
        tuple(e for e in encoders if not heads or e.key != "task"),
        ("observation",),
        hidden=(4,),
        tasks=2 if heads else 1,
        task_actions=both.task_actions,
    )
    policy = Policy(spec).eval()
    mean, var = np.arange(8.0).reshape(2, 4), np.full((2, 4), 4.0)
    policy.set_normalizer("observation", mean, var)
    obs = padded([1, 0, 1])
    tensors = {k: torch.as_tensor(v) for k, v in obs.items()}
    columns = slice(0, 4) if encoders[0].key == "observation" or heads else slice(2, 6)
    expected = (obs["observation"] - mean[[1, 0, 1]]) / 2
    np.testing.assert_allclose(policy.encode(tensors)[:, columns], expected, rtol=1e-5)
    out = policy(tensors).params
    assert bool((out[[0, 2], 2] == ABSENT).all()) and bool((out[:, :2].abs() < 100).all()) and out[1, 2].abs() < 100
    actor = actor_of(Portable(spec, named_arrays(policy)))
    np.testing.assert_allclose(actor.params(obs), out.detach(), rtol=1e-5, atol=1e-5)
    assert spec == PolicySpec.from_json(spec.to_json() | {"task_actions": list(spec.task_actions)})
    assert Encoder("observation") in spec.encoders
