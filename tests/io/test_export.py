"""Exported files act as their students: every family of actions, network and format."""

from __future__ import annotations

import re
import subprocess

import gymnasium as gym
import numpy as np
import pytest
import torch
from export_helpers import ALL, BOUNDS, D3, SUFFIX, VECTOR, make, observations, student
from gymnasium import spaces

from understudy.data import EnvSpec, map_obs
from understudy.errors import UserError
from understudy.evaluation.agreement import Visited, agreement
from understudy.io.export.export import export
from understudy.io.export.formats import obstacles
from understudy.io.export.states import States, ask, read_states
from understudy.policies.spec import ACTIVATIONS
from understudy.teachers.exported_c import compile_c, compiler
from understudy.teachers.load import load

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def data(tmp_path):
    """Return a function that writes states of a policy to an .npz and reads them again."""

    def write(policy, count=40):
        obs = observations(policy.observation_space, count)
        if policy.spec.task_actions:
            obs["task"] = np.eye(2, dtype=np.float32)[np.arange(count) % 2]
        if "" in policy.spec.normalized:
            obs = obs + policy.get_buffer("normalizer_mean:").numpy()
        arrays = obs if isinstance(obs, dict) else {"obs": obs}
        path = tmp_path / "states.npz"
        np.savez(path, episode_start=np.arange(count) % 13 == 0, **arrays)
        return path

    return write


def error(policy, file, states):
    ours, theirs = ask(policy, states), ask(load(file), states)
    if policy.family.continuous:
        span = np.abs(ours.action).max()
        assert theirs.action.dtype == ours.action.dtype
        return np.abs(ours.action - theirs.action).max() / max(span, 1)
    return float((ours.action != theirs.action).mean())


def pairs():
    for case in ALL:
        spec = make(case).spec
        yield from ((case, form) for form in SUFFIX if not obstacles(spec, form))


@pytest.mark.parametrize(("case", "form"), pairs())
def test_a_float_export_acts_as_its_student(case, form, tmp_path, data):
    if form == "c" and compiler() is None:
        pytest.skip("no C compiler")
    if form == "sb3":
        pytest.importorskip("stable_baselines3")
    policy = make(case)
    path = data(policy)
    found = export(policy, form, tmp_path / f"out.{SUFFIX[form]}", data=path)
    assert error(policy, found.path, read_states(path, policy)) < 1e-5
    assert found.difference.relative < 1e-5


INT8 = [
    "categorical",
    "multi",
    "gaussian",
    "squashed",
    "td3",
    "lstm",
    "two lstm layers",
    "gru",
    "two gru layers",
    "nature",
    "a3c",
    "dict",
]


@pytest.mark.parametrize("case", INT8)
def test_int8_in_c_is_close(case, tmp_path, data):
    if compiler() is None:
        pytest.skip("no C compiler")
    policy = make(case)
    path = data(policy)
    found = export(policy, "c", tmp_path / "out.c", data=path, int8=True)
    assert error(policy, found.path, read_states(path, policy)) < (0.05 if policy.family.continuous else 0.08)
    assert "static const int8_t" in found.path.read_text()


@pytest.mark.parametrize("case", ["categorical", "gaussian", "squashed", "td3", "lstm", "gru", "nature", "dict"])
def test_int8_in_onnx_is_close(case, tmp_path, data):
    policy = make(case)
    path = data(policy)
    found = export(policy, "onnx", tmp_path / "out.onnx", data=path, int8=True)
    assert error(policy, found.path, read_states(path, policy)) < 0.2
    import onnx

    kinds = {t.data_type for t in onnx.load(found.path).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


@pytest.mark.parametrize("form", ["onnx", "torchscript", "c"])
@pytest.mark.parametrize("case", ["gaussian", "squashed", "multi", "lstm", "gru"])
def test_an_export_is_a_teacher_with_the_student_s_distribution(case, form, tmp_path, data):
    if form == "c" and compiler() is None:
        pytest.skip("no C compiler")
    policy = make(case)
    path = data(policy)
    teacher = load(export(policy, form, tmp_path / f"out.{SUFFIX[form]}", data=path).path)
    states = read_states(path, policy)
    assert teacher.family == policy.family
    assert np.abs(ask(teacher, states).params - ask(policy, states).params).max() < 1e-4
    assert teacher.parameters_count == policy.parameters_count
    one = map_obs(lambda a: a[0], states.whole())
    actions = [teacher.predict(one)[0] for _ in range(30)]
    assert actions[0].shape == policy.action_space.shape and len({a.tobytes() for a in actions}) > 1


@pytest.mark.parametrize("case", ["lstm", "gru"])
def test_an_export_with_a_memory_forgets_where_an_episode_starts(case, tmp_path, data):
    policy = make(case)
    path = data(policy)
    states = read_states(path, policy)
    teacher = load(export(policy, "onnx", tmp_path / "out.onnx", data=path).path)
    obs = states.whole()[:2]
    _, state = teacher.predict(obs, None, np.ones(2, bool), True)
    fresh, _ = teacher.predict(obs, None, None, True)
    again, _ = teacher.predict(obs, state, np.array([True, False]), True)
    assert np.allclose(again[0], fresh[0]) and not np.allclose(again[1], fresh[1])


def test_large_means_cost_no_digits(tmp_path, data):
    policy = make("deterministic")
    policy.set_normalizer("", np.full(5, 12345.678), np.full(5, 1e-2))
    obs = (12345.678 + np.random.default_rng(0).normal(size=(20, 5)) * 0.1).astype(np.float32)
    np.savez(tmp_path / "s.npz", obs=obs)
    for form in ("onnx", "c") if compiler() else ("onnx",):
        found = export(policy, form, tmp_path / f"o.{SUFFIX[form]}", data=tmp_path / "s.npz")
        assert error(policy, found.path, States({"": obs}, np.arange(20) == 0, "")) < 1e-5


def test_the_student_is_played_where_no_data_are_given(tmp_path):
    env = gym.make("CartPole-v1")
    policy = student(env.observation_space, env.action_space, "categorical", normalized=())
    policy.about.env = EnvSpec("CartPole-v1")
    found = export(policy, "onnx", tmp_path / "o.onnx", states=50)
    assert "CartPole-v1" in found.states and found.states.startswith("50 ")
    assert load(found.path).about.env == EnvSpec("CartPole-v1")


def test_the_caller_says_where_a_loaded_student_plays(tmp_path):
    env = gym.make("CartPole-v1")
    policy = student(env.observation_space, env.action_space, "categorical", normalized=())
    found = export(policy, "onnx", tmp_path / "o.onnx", states=20, env="CartPole-v1")
    assert "CartPole-v1" in found.states and policy.about.env is None


def test_states_and_exports_with_channels_elsewhere(tmp_path):
    """A policy that Stable-Baselines3 trained sees [C, H, W], and its environment shows [H, W, C]."""
    policy = make("nature chw lstm")
    pictures = observations(policy.observation_space, 8)
    np.savez(tmp_path / "states.npz", obs=np.moveaxis(pictures, 1, -1))
    found = export(policy, "torchscript", tmp_path / "o.pt", data=tmp_path / "states.npz")
    expected = ask(policy, States({"": pictures}, np.arange(8) == 0, "")).params
    for each in (policy, load(found.path)):
        target, _ = each.label(np.moveaxis(pictures, 1, -1)[:, None], each.initial_state(1), np.zeros((8, 1), bool))
        np.testing.assert_allclose(target.params[:, 0], expected, atol=1e-5)


def test_a_zip_over_an_older_one_or_beside_another_agent_has_no_normaliser_of_theirs(tmp_path, data):
    pytest.importorskip("stable_baselines3")
    with_normaliser, without = make("categorical"), student(*ALL["categorical"][:3], seed=1, normalized=())
    path = data(with_normaliser)
    out = export(with_normaliser, "sb3", tmp_path / "best_model.zip", data=path).path
    (tmp_path / "best_model" / "env_kwargs.yml").write_text("{gravity: -20.0}")
    export(without, "sb3", out, data=path, force=True)
    beside = export(without, "sb3", tmp_path / "best_model" / "other.zip", data=path).path
    for file in (out, beside):
        found = load(file)
        assert found.spec.normalized == () and found.about.env is None
        assert error(without, file, read_states(path, without)) == 0
    names = sorted(file.name for file in (tmp_path / "best_model").glob("*.*"))
    assert names == ["args.yml", "config.yml", "other.zip"]


@pytest.mark.parametrize(
    ("keys", "arguments"),
    [
        (("int", "x"), ["obs_int", "obs_x"]),
        (("Pos", "pos", "pos_2"), ["obs_pos", "obs_pos_2", "obs_pos_2_2"]),
        (("a b", "a_b", "3d"), ["obs_3d", "obs_a_b", "obs_a_b_2"]),
        (("位置", "速度"), ["obs", "obs_2"]),
    ],
)
def test_every_key_has_an_argument_of_its_own_in_c(keys, arguments, tmp_path, data):
    policy = student(spaces.Dict({key: spaces.Box(-9, 9, (2,), np.float32) for key in keys}), *ALL["categorical"][1:3])
    path = data(policy)
    found = export(policy, "c", tmp_path / "o.c", data=path)
    signature = re.search(r"o_act\((.*)\);", found.path.with_suffix(".h").read_text())[1]
    assert re.findall(r"const float (\w+)", signature) == arguments
    if compiler() is not None:
        assert error(policy, found.path, read_states(path, policy)) == 0


def test_a_gru_beside_a_key_called_c(tmp_path, data):
    space = spaces.Dict({key: spaces.Box(-9, 9, (2,), np.float32) for key in "cx"})
    policy = student(space, *ALL["categorical"][1:3], lstm=4, cell="gru")
    path = data(policy)
    assert error(policy, export(policy, "onnx", tmp_path / "o.onnx", data=path).path, read_states(path, policy)) == 0


@pytest.mark.parametrize("case", ["categorical", "multi", "squashed", "lstm"])
def test_a_unity_file_draws_as_its_student_does_and_holds_no_distribution(case, tmp_path, data):
    policy = make(case)
    path = data(policy)
    file = export(policy, "unity", tmp_path / "o.onnx", data=path).path
    unity, obs = load(file), np.repeat(read_states(path, policy).obs[""][5:6], 4000, axis=0)
    torch.manual_seed(0)
    ours, theirs = (np.asarray(one.predict(obs)[0], float).reshape(4000, -1) for one in (policy, unity))
    spread = ours.std(0)
    assert spread.max() > 0.1
    assert np.all(np.abs(ours.mean(0) - theirs.mean(0)) < 0.1 * spread.max())
    assert np.all(np.abs(spread - theirs.std(0)) < 0.1 * spread.max())
    assert np.array_equal(load(file).predict(obs)[0], load(file).predict(obs)[0])
    seen = Visited(obs[None, :4], np.ones((1, 4), bool), np.ones((1, 4), bool))
    assert all(agreement(*pair, seen).kl is None for pair in ((policy, unity), (unity, policy)))
    assert agreement(policy, unity, seen).share == 1


@pytest.mark.parametrize("form", SUFFIX)
def test_deviations_beyond_their_bounds_are_compared_as_they_are_used(form, tmp_path, data):
    if form == "c" and compiler() is None:
        pytest.skip("no C compiler")
    if form == "sb3":
        pytest.importorskip("stable_baselines3")
    policy = student(VECTOR, spaces.Box(-1, 1, (1,), np.float32), "squashed_gaussian", hidden=(), seed=2)
    path = data(policy)
    assert ask(policy, read_states(path, policy)).params[:, 1:].max() > 2
    assert export(policy, form, tmp_path / f"o.{SUFFIX[form]}", data=path).difference.relative < 1e-5


NAN_CASES = {
    **{name: (D3, "categorical", {"activation": name}) for name in ACTIVATIONS if name != "gelu"},
    "c51": (D3, "q_values", {"quantiles": 5, "support": (0.0, 1.0)}),
    "squashed": (BOUNDS, "squashed_gaussian", {"hidden": ()}),
    "lstm": (D3, "categorical", {"lstm": 4}),
}


@pytest.mark.parametrize("case", NAN_CASES)
def test_c_does_not_hide_nan(case, tmp_path, data):
    action, family, fields = NAN_CASES[case]
    policy = student(VECTOR, action, family, **fields)
    if compiler() is None:
        pytest.skip("no C compiler")
    found = load(export(policy, "c", tmp_path / "o.c", data=data(policy)).path)
    obs = np.zeros((1, 5), np.float32)
    found.predict(obs, deterministic=True)
    obs[0, 2] = np.nan
    with pytest.raises(UserError, match="answered NaN"):
        found.predict(obs, deterministic=True)


def test_nan_is_0_among_the_integers_of_c(tmp_path, data):
    if compiler() is None:
        pytest.skip("no C compiler")
    policy = student(VECTOR, BOUNDS, "deterministic", activation="relu")
    export(policy, "c", tmp_path / "o.c", data=data(policy), int8=True)
    (tmp_path / "main.c").write_text("""
#include "o.c"
int main(void)
{
    static o_state s;
    volatile float zero = 0.0f;
    float obs[5] = {0}, action[2];
    obs[2] = zero / zero;
    o_reset(&s);
    o_act(&s, obs, action);
    return !(action[0] == action[0]);
}
""")
    checks = ["-fsanitize=float-cast-overflow", "-fsanitize-undefined-trap-on-error"]
    compile_c(["-std=c99", "-O1", *checks, "-o", str(tmp_path / "main"), str(tmp_path / "main.c")], "NaN")
    assert subprocess.run([str(tmp_path / "main")], check=False).returncode == 0
