"""Every agent of the zoo folder acts as Stable-Baselines3 has it act, on raw observations."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
from gymnasium import spaces
from teacher_helpers import ZOO, difference, observations

from understudy.data import EnvSpec
from understudy.policies.policy import Policy
from understudy.teachers.inspect import inspect
from understudy.teachers.load import load

CLASSES = {
    "A2C": stable_baselines3.A2C,
    "PPO": stable_baselines3.PPO,
    "DDPG": stable_baselines3.DDPG,
    "DQN": stable_baselines3.DQN,
    "SAC": stable_baselines3.SAC,
    "TRPO": sb3_contrib.TRPO,
    "TQC": sb3_contrib.TQC,
    "ARS": sb3_contrib.ARS,
    "QR-DQN": sb3_contrib.QRDQN,
}
AGENTS = sorted(path.parent for path in ZOO.glob("*/*_1/*.zip"))

pytestmark = [
    pytest.mark.skipif(not AGENTS, reason=f"no zoo agents at {ZOO} (set UNDERSTUDY_ZOO)"),
    pytest.mark.filterwarnings("ignore:You are probably loading a DQN model"),
]


@pytest.fixture
def gym_alias(monkeypatch):
    """The agents' pickles, which only Stable-Baselines3's side opens, name the package ``gym``."""
    names = [name for name in sys.modules if name == "gymnasium" or name.startswith("gymnasium.spaces")]
    for name in names:
        monkeypatch.setitem(sys.modules, "gym" + name.removeprefix("gymnasium"), sys.modules[name])
    assert isinstance(sys.modules["gym"], ModuleType) and sys.modules["gym"] is gymnasium


def sb3_model(policy: Policy, path):
    """Load with everything replaced that old Python versions pickled."""
    custom = {
        "observation_space": policy.observation_space,
        "action_space": policy.action_space,
        "learning_rate": 0.0,
        "buffer_size": 1,
        "replay_buffer_class": None,
        "replay_buffer_kwargs": {},
        "use_sde_at_warmup": False,
    }
    custom |= dict.fromkeys(("lr_schedule", "clip_range", "exploration_schedule", "delta_std_schedule"), lambda _: 0.0)
    return CLASSES[policy.about.algorithm].load(path, custom_objects=custom, device="cpu")


def plausible(space, count):
    """Numbers around the statistics of no particular environment, and samples of the space itself."""
    normal = observations(space, count)
    if isinstance(space, spaces.Dict):
        return normal
    space.seed(0)
    samples = np.stack([space.sample() for _ in range(count // 4)])
    return np.concatenate((normal, samples))


@pytest.mark.parametrize("folder", AGENTS, ids=[f"{path.parent.name}-{path.name}" for path in AGENTS])
def test_acts_as_stable_baselines3(folder, gym_alias, record_property):
    policy = load(str(folder))
    assert isinstance(policy, Policy)
    zip_file = next(folder.glob("*.zip"))
    model = sb3_model(policy, zip_file)
    raw = plausible(policy.observation_space, 512)
    seen = raw
    statistics = zip_file.with_suffix("") / "vecnormalize.pkl"
    if statistics.exists():
        with open(statistics, "rb") as file:
            seen = pickle.load(file).normalize_obs(raw)
    assert bool(policy.spec.normalized) == statistics.exists()
    expected, _ = model.predict(seen, deterministic=True)
    actions, _ = policy.predict(raw, deterministic=True)
    diff = difference(actions, expected)
    record_property("max_abs_diff", diff)
    assert diff <= 1e-6
    assert len(np.unique(actions, axis=0)) > 1
    assert policy.about.env is not None
    assert dict(inspect(policy))["algorithm"] == policy.about.algorithm


def test_environments_of_today():
    def env(name):
        return load(str(ZOO / name)).about.env

    assert env("ppo/AntBulletEnv-v0_1").id == "AntBulletEnv-v0"
    assert [w["type"] for w in env("ppo/AntBulletEnv-v0_1").wrappers] == ["time_feature"]
    assert env("trpo/Ant-v3_1").id == "Ant-v4"
    assert env("trpo/Ant-v3_1").wrappers == ({"type": "pad_observation", "size": 111},)
    assert env("ppo/LunarLander-v2_1").id == "LunarLander-v3"
    assert load(str(ZOO / "ppo/LunarLander-v2_1"), env="CartPole-v1").about.env.id == "CartPole-v1"


def test_the_zip_itself_finds_its_configuration():
    policy = load(ZOO / "ppo/AntBulletEnv-v0_1/AntBulletEnv-v0.zip")
    assert policy.spec.normalized == ("",)
    assert policy.about.env.id == "AntBulletEnv-v0"


def test_another_environment_keeps_the_wrappers():
    ant = load(ZOO / "ppo/AntBulletEnv-v0_1", env="HopperBulletEnv-v0").about.env
    assert ant.id == "HopperBulletEnv-v0" and [w["type"] for w in ant.wrappers] == ["time_feature"]
    assert load(ZOO / "trpo/Ant-v3_1", env="Ant-v5").about.env.wrappers[0]["type"] == "pad_observation"
    spec = EnvSpec("Ant-v5")
    assert load(ZOO / "trpo/Ant-v3_1", env=spec).about.env == spec


def test_a_zip_torn_from_its_statistics_says_so(tmp_path):
    alone = tmp_path / "agent.zip"
    alone.write_bytes((ZOO / "ppo/AntBulletEnv-v0_1/AntBulletEnv-v0.zip").read_bytes())
    assert any("VecNormalize" in note for note in load(alone).about.notes)
