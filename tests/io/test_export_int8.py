"""int8 exports stay close to their students: fitted weights, and room for numbers that were not seen."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from export_helpers import make, student
from gymnasium import spaces

from understudy.data import EnvSpec
from understudy.io.export import onnx_int8, states
from understudy.io.export.c.compensate import compensate
from understudy.io.export.c.plan import build_plan
from understudy.io.export.c.quantise import quantise
from understudy.io.export.c.ranges import calibrate
from understudy.io.export.c.simulate import simulate
from understudy.io.export.export import export
from understudy.io.export.fitting import energy_of, refit, round_in_turn
from understudy.io.export.onnx_file import float_model
from understudy.io.export.states import States, ask, record
from understudy.teachers.load import load

WIDE = spaces.Box(-np.inf, np.inf, (12,), np.float32)


def correlated(count, seed, features=12):
    """States as tasks have them: few things move, and many numbers follow them."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(4, features))
    return rng.normal(size=(count, 4)) @ mixing + 0.05 * rng.normal(size=(count, features))


def states_of(x):
    return States({"": x.astype(np.float32)}, np.arange(len(x)) % 50 == 0, "")


def test_rounding_in_turn_beats_rounding_to_the_nearest():
    rng = np.random.default_rng(0)
    x, weight = correlated(800, 1), rng.normal(size=(12, 20))
    rounded, step = round_in_turn(weight, energy_of(x))
    assert np.abs(rounded).max() == 127 and np.array_equal(rounded, np.rint(rounded))
    nearest = np.clip(np.rint(weight / step), -127, 127)
    new = correlated(400, 2)
    ours, theirs = (np.square(new @ (q * step - weight)).mean() for q in (rounded, nearest))
    assert ours < 0.5 * theirs


def test_a_layer_is_changed_only_where_that_holds_in_states_that_took_no_part():
    rng = np.random.default_rng(0)
    x, change = rng.normal(size=(400, 10)), rng.normal(size=(10, 3))
    assert np.abs(refit(x, x @ change) - change).max() < 0.01
    assert np.abs(refit(x, rng.normal(size=(400, 3)) + 7.0)).max() < 0.2  # noise about a constant


@pytest.mark.parametrize("case", ["relu", "silu", "lstm", "gru", "c51"])
def test_compensated_weights_in_c_are_closer_to_the_student_in_new_states(case):
    fields = {
        "lstm": {"lstm": 16, "hidden": (24,)},
        "gru": {"lstm": 16, "cell": "gru", "hidden": (24,)},
        "c51": {"quantiles": 11, "support": (-5.0, 5.0), "activation": "relu"},
    }.get(case, {"activation": case, "hidden": (48, 48)})
    policy = student(WIDE, spaces.Discrete(4), "q_values", normalized=(), **fields)
    known, new = states_of(correlated(600, 1)), states_of(correlated(300, 2))
    plain, fitted = (build_plan(policy, calibrate(policy, known)) for _ in range(2))
    compensate(fitted, known)
    wanted = ask(policy, new).params
    errors = [np.square(simulate(plan, new).params - wanted).mean() for plan in (plain, fitted)]
    assert errors[1] < 0.5 * errors[0]
    integers = [layer.integers.weight for layer in (*fitted.lstm, *fitted.past, *fitted.body)]
    assert all(weight.dtype == np.int8 and np.abs(weight).max() <= 127 for weight in integers)


def test_few_states_change_nothing():
    policy = make("categorical")
    few = States({"": np.zeros((20, 5), np.float32)}, np.arange(20) == 0, "")
    plan = build_plan(policy, calibrate(policy, few))
    before = [layer.integers.weight.copy() for layer in plan.body]
    compensate(plan, few)
    assert all(np.array_equal(a, layer.integers.weight) for a, layer in zip(before, plan.body, strict=True))


def test_numbers_three_times_larger_than_those_seen_are_not_clipped():
    """A leg that touches the ground in the 421st step was never seen in the first 250."""
    policy = student(WIDE, spaces.Box(-1, 1, (2,), np.float32), "deterministic", normalized=(), activation="relu")
    known = correlated(400, 1)
    plan = build_plan(policy, calibrate(policy, states_of(known)))
    compensate(plan, states_of(known))
    far = states_of(3 * known[:50])
    assert np.abs(simulate(plan, far).action - ask(policy, far).action).max() < 0.05


def test_features_that_are_not_normalised_keep_their_own_range_beside_one_that_is():
    both = spaces.Dict({"far": spaces.Box(-900, 900, (2,), np.float32), "near": spaces.Box(-9, 9, (3,), np.float32)})
    policy = student(both, spaces.Discrete(2), "categorical", normalized=("near",), normalizer_clip=5.0, scales=False)
    rng = np.random.default_rng(0)
    obs = {"far": rng.uniform(-900, 900, (80, 2)).astype(np.float32), "near": rng.normal(size=(80, 3))}
    ranges = calibrate(policy, States(obs, np.arange(80) == 0, ""))
    assert ranges.features[:2].min() > 900 and ranges.features[2:].max() <= 5.0


def test_states_reach_the_end_of_an_episode_unless_it_is_very_long(tmp_path, monkeypatch):
    """Those of Pendulum have 200 steps; every fourth state of four of them makes 40 in 40 steps."""
    env = gym.make("Pendulum-v1")
    policy = student(env.observation_space, env.action_space, "deterministic", normalized=())
    policy.about.env = EnvSpec("Pendulum-v1")
    few = record(policy, policy.about.env, 40)
    assert len(few) == 40 and not few.beginnings
    assert few.start.sum() == 8  # every 32nd state, and so of two episodes of each environment
    monkeypatch.setattr(states, "_LONGEST", 60)
    cut = record(policy, policy.about.env, 40)
    assert len(cut) == 40 and cut.beginnings and cut.start.sum() == 4
    noted = export(policy, "onnx", tmp_path / "o.onnx", int8=True, states=40)
    assert any("no episode ended" in note for note in noted.notes)


def test_onnx_is_fitted_as_well(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    policy = student(WIDE, spaces.Discrete(4), "q_values", normalized=(), activation="relu", hidden=(48, 48))
    known, new = states_of(correlated(600, 1)), states_of(correlated(300, 2))
    wanted, errors = ask(policy, new).params, []
    for fit in (True, False):
        if not fit:
            monkeypatch.setattr(onnx_int8, "_fit_layers", lambda *_: None)
        path = tmp_path / f"{fit}.onnx"
        path.write_bytes(onnx_int8.int8_model(policy, float_model(policy), known))
        errors.append(np.square(ask(load(path), new).params - wanted).mean())
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    ("hidden", "normalized", "expected"), [((), (), 1), ((16,), (), 1), ((16, 16), (), 1), ((16, 16), ("",), 2)]
)
def test_some_layer_of_every_onnx_file_is_int8(hidden, normalized, expected):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    policy = student(WIDE, spaces.Discrete(3), "categorical", normalized=normalized, hidden=hidden, scales=False)
    model = onnx.load_from_string(onnx_int8.int8_model(policy, float_model(policy), states_of(correlated(80, 1))))
    packed = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2]
    assert len(packed) == expected


def test_sums_fit_into_32_bits():
    weight = np.full((2000, 3), 0.7)
    found = quantise(weight, np.ones(1))
    assert 127 * found.limit * 2000 <= 2**31 - 1 and found.limit > 8000
