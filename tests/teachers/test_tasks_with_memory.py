"""Teachers of several tasks of whom some remember: each sees its own rows, step after step."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from teacher_helpers import VECTOR

import understudy
from understudy.data import EnvSpec
from understudy.envs.make import spaces_of
from understudy.execution.base import Portable, actor_of
from understudy.policies.policy import About, Policy
from understudy.policies.spaces import space_to_json
from understudy.policies.spec import PolicySpec, default_encoders
from understudy.policies.weights import named_arrays
from understudy.teachers.combine import combine

T, B = 6, 5
TASK = np.array([0, 1, 1, 0, 2])
"""Of each row."""


def teacher(env, seed, observations=VECTOR, actions=None, **more):
    torch.manual_seed(seed)
    actions = spaces.Discrete(3) if actions is None else actions
    spec = PolicySpec(
        space_to_json(observations), space_to_json(actions), "categorical", default_encoders(observations), hidden=(5,),
        **more,
    )  # fmt: skip
    policy = Policy(spec, About("test", f"teacher-{seed}", EnvSpec(env))).eval()
    with torch.no_grad():
        for p in policy.parameters():
            p.copy_(torch.randn_like(p))
    return policy


@pytest.fixture
def three():
    """An LSTM, a policy without a memory, a GRU."""
    return [teacher("A-v0", 1, lstm=4), teacher("B-v0", 2), teacher("C-v0", 3, lstm=3, cell="gru")]


@pytest.fixture
def rollout():
    """Observations [T, B, ...] and where episodes begin."""
    rng = np.random.default_rng(0)
    task = np.broadcast_to(np.eye(3, dtype=np.float32)[TASK], (T, B, 3)).copy()
    starts = rng.random((T, B)) < 0.3
    return {"observation": rng.normal(size=(T, B, 5)).astype(np.float32), "task": task}, starts


def alone(members, obs, starts):
    """What each row's own teacher says when it is asked alone, as log-probabilities [T, B, A]."""
    found = np.zeros((T, B, 3))
    for b, k in enumerate(TASK):
        own, member = obs["observation"][:, b], members[k]
        if member.lstm is None:
            params = member.label(own)[0].params
        else:
            params = member.label(own[:, None], member.initial_state(1), starts[:, b : b + 1])[0].params[:, 0]
        found[:, b] = params.log_softmax(-1).numpy()
    return found


def test_labels_are_each_teachers_own(three, rollout):
    obs, starts = rollout
    together = combine(three)
    target, after = together.label(obs, together.initial_state(B), starts)
    expected = alone(three, obs, starts)
    np.testing.assert_allclose(target.params, expected, rtol=1e-4, atol=1e-5)
    assert target.mask.shape == (T, B, 3) and bool((target.mask == 1).all())
    # In two halves: what is remembered in between goes along.
    state, halves = together.initial_state(B), []
    for part in (slice(0, 2), slice(2, T)):
        said, state = together.label({key: column[part] for key, column in obs.items()}, state, starts[part])
        halves.append(said.params)
    np.testing.assert_allclose(torch.cat(halves), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, after)


@pytest.mark.parametrize("in_worker", [False, True])
def test_actions_are_each_teachers_own(three, rollout, in_worker):
    """Step by step, here with PyTorch and in workers without it."""
    obs, starts = rollout
    actor = combine(three)
    if in_worker:
        parts = tuple(Portable(member.spec, named_arrays(member)) for member in three)
        actor = actor_of(Portable(kind="tasks", parts=parts))
    state, expected = None, alone(three, obs, starts).argmax(-1)
    for t in range(T):
        step = {key: column[t] for key, column in obs.items()}
        action, state = actor.predict(step, state, starts[t], deterministic=True)
        np.testing.assert_array_equal(action, expected[t])


@pytest.mark.parametrize("beta", ["0", "linear(1, 0, 50%)"])
def test_a_student_learns_from_teachers_that_remember(tmp_path, beta):
    """Two memory tasks (the last action earns 1 if it repeats the cue, shown once), teachers with opposite habits."""
    env, files = "understudy/Memory-v0", []
    observations, actions = spaces_of(EnvSpec(env))
    for i, delay in enumerate((3, 4)):
        member = teacher(env, i, observations, actions, lstm=4)
        member.about = About("test", f"teacher-{i}", EnvSpec(env, {"delay": delay}))
        with torch.no_grad():
            member.head.weight.zero_()
            member.head.bias.copy_(torch.tensor([2.0, -2.0]) * (-1) ** i)
        files.append(member)
    settings = {
        "teaching": {"assignment": "task", "weight": "1", "rl_weight": "0", "behaviour": {"beta": beta}},
        "policy": {"hidden": [16], "lstm": 8, "normalize": False}, "rollout": {"num_envs": 4, "steps": 16},
        "update": {"minibatch": 32, "epochs": 2, "lr": "1e-2"}, "stop": {"env_steps": 6000},
        "objective": {"normalize_reward": False, "entropy_weight": "0"},
        "evaluation": {"every": 0, "final": 4, "num_envs": 4}, "execution": {"type": "single"},
    }  # fmt: skip
    rows = []
    understudy.kickstart(None, files, "kickstarting", settings, run=tmp_path / "run", report=rows.append, seed=1)
    told = [value for row in rows[-3:] for name, value in row.items() if name.startswith("kl/")]
    assert told and max(told) < 0.05
