"""Out and in again: exported files are played, trained further, distilled from, and agree with another generator."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from export_helpers import make, observations, student

from understudy.config import nest
from understudy.data import EnvSpec
from understudy.distillation import distill
from understudy.evaluation.evaluate import evaluate
from understudy.io.export.export import export
from understudy.io.export.states import ask, record
from understudy.policies.policy import Policy
from understudy.policies.spec import default_encoders
from understudy.teachers.exported_c import compile_c, compiler
from understudy.teachers.load import load

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def in_env(env_id, family, **fields):
    """A random student of an environment that normalises what it sees."""
    env = gym.make(env_id)
    policy = student(
        env.observation_space, env.action_space, family, normalized=("",), normalizer_clip=10.0, scales=False, **fields
    )
    shape = env.observation_space.shape
    policy.set_normalizer("", np.full(shape, 0.1), np.full(shape, 0.5))
    policy.about.env = EnvSpec(env_id, backend="gymnasium")
    return policy


@pytest.mark.parametrize(
    ("form", "int8"), [("onnx", False), ("torchscript", False), ("c", False), ("c", True), ("unity", False)]
)
@pytest.mark.parametrize("lstm", [0, 6])
def test_an_exported_file_is_played_in_the_environment(form, int8, lstm, tmp_path):
    if form == "c" and compiler() is None:
        pytest.skip("no C compiler")
    policy = in_env("Pendulum-v1", "deterministic", lstm=lstm)
    suffix = {"onnx": "onnx", "torchscript": "pt", "c": "c", "unity": "onnx"}[form]
    found = export(policy, form, tmp_path / f"o.{suffix}", int8=int8, states=200)
    ours, theirs = evaluate(policy, episodes=4), evaluate(str(found.path), episodes=4)
    assert theirs.env == "Pendulum-v1"
    assert np.allclose(ours.returns, theirs.returns, rtol=0.05 if int8 else 1e-3)
    assert ours.std > 10  # episodes differ, or equality would say little


ALGORITHMS = {
    "PPO": ("CartPole-v1", "categorical", {"value_hidden": (8,)}, {"n_steps": 64, "batch_size": 32}),
    "A2C": ("Pendulum-v1", "gaussian", {}, {}),
    "DQN": ("CartPole-v1", "q_values", {"activation": "relu"}, {"learning_starts": 50}),
    "TD3": ("Pendulum-v1", "deterministic", {"head_activation": "tanh", "activation": "relu"}, {"learning_starts": 50}),
    "DDPG": (
        "Pendulum-v1",
        "deterministic",
        {"head_activation": "tanh", "activation": "relu"},
        {"learning_starts": 50},
    ),
    "SAC": ("Pendulum-v1", "squashed_gaussian", {"activation": "relu"}, {"learning_starts": 50}),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_stable_baselines3_goes_on_and_the_result_is_a_teacher_again(name, tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    env_id, family, fields, options = ALGORITHMS[name]
    policy = in_env(env_id, family, **fields)
    found = export(policy, "sb3", tmp_path / "student.zip", algorithm=name, states=200)
    states = record(policy, policy.about.env, 100)
    again = load(found.path)
    assert again.about.algorithm == name
    assert np.abs(ask(again, states).action - ask(policy, states).action).max() < 1e-5
    assert again.about.env.id == env_id  # the folder beside the zip says it

    venv = VecNormalize.load(str(tmp_path / "student" / "vecnormalize.pkl"), DummyVecEnv([lambda: gym.make(env_id)]))
    model = getattr(sb3, name).load(found.path, env=venv, **options)
    before = {key: tensor.clone() for key, tensor in model.policy.state_dict().items()}
    obs = venv.reset()
    raw = venv.get_original_obs()
    assert np.abs(model.predict(obs, deterministic=True)[0] - policy.predict(raw, deterministic=True)[0]).max() < 1e-5
    model.learn(200)
    assert any(not torch.equal(before[key], tensor) for key, tensor in model.policy.state_dict().items())
    model.save(tmp_path / "student.zip")
    venv.save(str(tmp_path / "student" / "vecnormalize.pkl"))
    trained = load(tmp_path / "student.zip")
    assert isinstance(trained, Policy) and evaluate(trained, episodes=2).episodes == 2


def test_stable_baselines3_goes_on_with_some_keys_of_the_environment(tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    part = gym.spaces.Box(-9, 9, (2,), np.float32)
    keys = gym.spaces.Dict({"a": part, "b": part, "c": gym.spaces.Discrete(3)})
    policy = student(keys, gym.spaces.Discrete(3), "categorical", encoders=default_encoders(keys, ("c", "b")))
    np.savez(tmp_path / "s.npz", **observations(keys, 20))
    found = export(policy, "sb3", tmp_path / "student.zip", data=tmp_path / "s.npz")
    wrapped = "gymnasium.wrappers.FilterObservation(env, ['c', 'b'])"
    assert any(note.endswith(wrapped) for note in found.notes)

    class Keyed(gym.Env):
        observation_space, action_space = keys, policy.action_space

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return keys.sample(), {}

        def step(self, action):
            return keys.sample(), 0.0, False, False, {}

    env = eval(wrapped, {"gymnasium": gym, "env": Keyed()})
    sb3.PPO.load(found.path, env=env, n_steps=16, batch_size=8, device="cpu").learn(16)


@pytest.mark.parametrize(("family", "lstm"), [("gaussian", 0), ("deterministic", 6)])
def test_a_student_in_onnx_teaches_another_student(family, lstm, tmp_path, monkeypatch):
    # A random teacher is no better than a random policy; what is tested here is learning, not judging.
    monkeypatch.setattr("understudy.learning.from_dataset.ParityExaminer._judge", lambda self, metrics: False)
    policy = in_env("Pendulum-v1", family, lstm=lstm)
    found = export(policy, "onnx", tmp_path / "teacher.onnx", states=100)
    settings = nest({
        "execution.type": "single", "data.num_envs": 2, "data.steps": 200, "data.first_steps": 0, "stop.ratio": 1.9,
        "learning.update_to_data": 0.1, "learning.batch_size": 64, "learning.lr": "3e-3", "evaluation.final": 0,
        "stop.env_steps": 1600, "student.hidden": [16],
    })  # fmt: skip
    rounds = []
    result = distill(str(found.path), None, settings, run=tmp_path / "run", report=rounds.append)
    assert result.teacher.about.source == str(found.path)
    assert rounds[-1]["loss"] < 0.5 * rounds[0]["loss"]


def test_another_generator_of_c_agrees(tmp_path):
    """emx-onnx-cgen compiles our ONNX file; our own C says the same."""
    pytest.importorskip("emx_onnx_cgen")
    if compiler() is None:
        pytest.skip("no C compiler")
    policy = make("gaussian")
    obs = observations(policy.observation_space, 20) + policy.get_buffer("normalizer_mean:").numpy()
    np.savez(tmp_path / "s.npz", obs=obs)
    model = export(policy, "onnx", tmp_path / "o.onnx", data=tmp_path / "s.npz").path
    own = load(export(policy, "c", tmp_path / "o.c", data=tmp_path / "s.npz").path)
    arguments = ["compile", str(model), str(tmp_path / "emx.c"), "--model-name", "emx", "--input-dim", "batch=1"]
    code = "import sys; from emx_onnx_cgen.cli import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    compile_c(
        ["-std=c99", "-O1", "-shared", "-fPIC", "-o", str(tmp_path / "emx.so"), str(tmp_path / "emx.c"), "-lm"], "emx"
    )
    emx = ctypes.CDLL(str(tmp_path / "emx.so")).emx
    floats = np.ctypeslib.ndpointer(np.float32, flags="C")
    emx.argtypes, emx.restype = [floats] * 4, None
    for row in obs.astype(np.float32):
        mean, log_std, action = (np.zeros((1, 2), np.float32) for _ in range(3))
        emx(row[None].copy(), mean, log_std, action)
        ours = own.predict(row, deterministic=True)[0]
        assert np.abs(action[0] - ours).max() < 1e-5


def test_int8_of_a_64x64_student_fits_12_kilobytes(tmp_path):
    if compiler() is None:
        pytest.skip("no C compiler")
    wide = gym.spaces.Box(-np.inf, np.inf, (17,), np.float64)
    policy = student(wide, gym.spaces.Box(-1, 1, (6,), np.float32), "deterministic", hidden=(64, 64), scales=False)
    np.savez(tmp_path / "s.npz", obs=np.random.default_rng(0).normal(size=(50, 17)))
    facts = dict(export(policy, "c", tmp_path / "o.c", data=tmp_path / "s.npz", int8=True).facts)
    assert int(facts["flash"].split()[0].replace(",", "")) <= 12_000
    assert facts["bss"].startswith("0 ") and facts["self-test"].startswith("ok: ")
    assert 16 <= int(facts["stack"].split()[0]) <= 1000
