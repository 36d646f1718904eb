"""Small random Stable-Baselines3 models of every kind act and, where they keep one, value the same after loading."""

from __future__ import annotations

import numpy as np
import pytest
import sb3_contrib as contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor
from teacher_helpers import BOUNDS, CHW, HWC, VECTOR, SpacesOnly, difference, observations, random_weights
from torch import nn

from understudy.errors import UserError
from understudy.policies.arrays import ArrayPolicy
from understudy.policies.batching import fits
from understudy.policies.files import load_policy, save_policy
from understudy.policies.policy import Policy
from understudy.policies.weights import named_arrays
from understudy.teachers.load import load

D3 = spaces.Discrete(3)
MD, MB = spaces.MultiDiscrete([3, 2, 4]), spaces.MultiBinary(4)
SCALAR = spaces.Box(-2, 2, (1,), np.float32)
MIXED = spaces.Dict(
    {
        "vec": VECTOR,
        "img": CHW,
        "disc": spaces.Discrete(4),
        "multi": spaces.MultiDiscrete([2, 3]),
        "bin": spaces.MultiBinary(3),
        "matrix": spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    }
)
GOAL = spaces.Dict({"observation": VECTOR, "achieved_goal": SCALAR, "desired_goal": SCALAR})
SMALL = {"net_arch": [16, 8]}
CNN = {"features_extractor_kwargs": {"features_dim": 16}}
COMBINED = {"features_extractor_kwargs": {"cnn_output_dim": 8}, "net_arch": [16]}
GSDE = {"use_sde": True}

ON_POLICY = {
    "a2c": (sb3.A2C, "MlpPolicy", VECTOR, BOUNDS, {}, {}),
    "ppo": (
        sb3.PPO,
        "MlpPolicy",
        VECTOR,
        BOUNDS,
        {"activation_fn": nn.ReLU, "net_arch": {"pi": [8], "vf": [9, 7]}},
        {},
    ),
    "ppo-linear": (sb3.PPO, "MlpPolicy", VECTOR, BOUNDS, {"net_arch": []}, {}),
    "ppo-only-vf": (sb3.PPO, "MlpPolicy", VECTOR, D3, {"net_arch": {"vf": [8]}}, {}),
    "ppo-elu": (sb3.PPO, "MlpPolicy", VECTOR, D3, {"activation_fn": nn.ELU, **SMALL}, {}),
    "ppo-gsde": (sb3.PPO, "MlpPolicy", VECTOR, BOUNDS, SMALL, GSDE),
    "ppo-gsde-expln": (sb3.PPO, "MlpPolicy", VECTOR, BOUNDS, {"use_expln": True, "full_std": False, **SMALL}, GSDE),
    "ppo-gsde-squash": (sb3.PPO, "MlpPolicy", VECTOR, BOUNDS, {"squash_output": True, **SMALL}, GSDE),
    "ppo-multidiscrete": (sb3.PPO, "MlpPolicy", VECTOR, MD, SMALL, {}),
    "a2c-multibinary": (sb3.A2C, "MlpPolicy", VECTOR, MB, SMALL, {}),
    "ppo-sees-discrete": (sb3.PPO, "MlpPolicy", spaces.Discrete(6), D3, SMALL, {}),
    "ppo-sees-multidiscrete": (sb3.PPO, "MlpPolicy", MD, D3, SMALL, {}),
    "ppo-sees-multibinary": (sb3.PPO, "MlpPolicy", MB, BOUNDS, SMALL, {}),
    "ppo-sees-float64": (sb3.PPO, "MlpPolicy", spaces.Box(-np.inf, np.inf, (4,), np.float64), BOUNDS, SMALL, {}),
    "ppo-flat-image": (sb3.PPO, "MlpPolicy", CHW, D3, SMALL, {}),
    "ppo-flat-raw-image": (sb3.PPO, "MlpPolicy", CHW, D3, {"normalize_images": False, **SMALL}, {}),
    "a2c-cnn-chw": (sb3.A2C, "CnnPolicy", CHW, D3, CNN, {}),
    "a2c-cnn-hwc": (sb3.A2C, "CnnPolicy", HWC, D3, CNN, {}),
    "ppo-cnn-hidden": (sb3.PPO, "CnnPolicy", HWC, BOUNDS, {**CNN, **SMALL}, {}),
    "ppo-cnn-apart": (sb3.PPO, "CnnPolicy", CHW, D3, {"share_features_extractor": False, **CNN}, {}),
    "ppo-vector-apart": (sb3.PPO, "MlpPolicy", VECTOR, D3, {"share_features_extractor": False, **SMALL}, {}),
    "ppo-dict": (sb3.PPO, "MultiInputPolicy", MIXED, BOUNDS, COMBINED, {}),
    "ppo-dict-apart": (sb3.PPO, "MultiInputPolicy", MIXED, D3, {"share_features_extractor": False, **COMBINED}, {}),
    "ppo-dict-default": (sb3.PPO, "MultiInputPolicy", GOAL, D3, {}, {}),
    "trpo": (contrib.TRPO, "MlpPolicy", VECTOR, BOUNDS, {}, {}),
    "trpo-dict": (contrib.TRPO, "MultiInputPolicy", GOAL, MD, SMALL, {}),
    "maskable": (contrib.MaskablePPO, "MlpPolicy", VECTOR, D3, {}, {}),
    "maskable-multidiscrete": (contrib.MaskablePPO, "MlpPolicy", VECTOR, MD, SMALL, {}),
    "maskable-multibinary": (contrib.MaskablePPO, "MlpPolicy", VECTOR, MB, SMALL, {}),
    "maskable-cnn": (contrib.MaskablePPO, "CnnPolicy", HWC, D3, CNN, {}),
    "maskable-dict": (contrib.MaskablePPO, "MultiInputPolicy", MIXED, D3, COMBINED, {}),
}
OFF_POLICY = {
    "dqn": (sb3.DQN, "MlpPolicy", VECTOR, D3, {}, {}),
    "dqn-cnn": (sb3.DQN, "CnnPolicy", HWC, D3, CNN, {}),
    "dqn-dict": (sb3.DQN, "MultiInputPolicy", MIXED, D3, COMBINED, {}),
    "dqn-linear": (sb3.DQN, "MlpPolicy", VECTOR, D3, {"net_arch": []}, {}),
    "dqn-sees-discrete": (sb3.DQN, "MlpPolicy", spaces.Discrete(6), D3, SMALL, {}),
    "qrdqn": (contrib.QRDQN, "MlpPolicy", VECTOR, D3, {"n_quantiles": 7, **SMALL}, {}),
    "qrdqn-default": (contrib.QRDQN, "MlpPolicy", VECTOR, D3, {}, {}),
    "qrdqn-cnn": (contrib.QRDQN, "CnnPolicy", CHW, D3, {"n_quantiles": 5, **CNN}, {}),
    "qrdqn-dict": (contrib.QRDQN, "MultiInputPolicy", GOAL, D3, {"n_quantiles": 5, **SMALL}, {}),
    "ddpg": (sb3.DDPG, "MlpPolicy", VECTOR, BOUNDS, SMALL, {}),
    "td3": (sb3.TD3, "MlpPolicy", VECTOR, BOUNDS, {"activation_fn": nn.Tanh, "net_arch": {"pi": [9], "qf": [8]}}, {}),
    "td3-default": (sb3.TD3, "MlpPolicy", VECTOR, BOUNDS, {}, {}),
    "td3-cnn": (sb3.TD3, "CnnPolicy", HWC, BOUNDS, {**CNN, **SMALL}, {}),
    "td3-dict": (sb3.TD3, "MultiInputPolicy", MIXED, BOUNDS, COMBINED, {}),
    "sac": (sb3.SAC, "MlpPolicy", VECTOR, BOUNDS, SMALL, {}),
    "sac-default": (sb3.SAC, "MlpPolicy", VECTOR, BOUNDS, {}, {}),
    "sac-gsde": (sb3.SAC, "MlpPolicy", VECTOR, BOUNDS, SMALL, GSDE),
    "sac-gsde-clip": (sb3.SAC, "MlpPolicy", VECTOR, BOUNDS, {"clip_mean": 0.5, **SMALL}, GSDE),
    "sac-gsde-no-clip": (sb3.SAC, "MlpPolicy", VECTOR, BOUNDS, {"clip_mean": 0.0, "use_expln": True, **SMALL}, GSDE),
    "sac-cnn": (sb3.SAC, "CnnPolicy", HWC, BOUNDS, {**CNN, **SMALL}, {}),
    "sac-shared-cnn": (sb3.SAC, "CnnPolicy", CHW, BOUNDS, {"share_features_extractor": True, **CNN, **SMALL}, {}),
    "sac-dict": (sb3.SAC, "MultiInputPolicy", MIXED, BOUNDS, COMBINED, {}),
    "tqc": (contrib.TQC, "MlpPolicy", VECTOR, BOUNDS, {"n_critics": 1, **SMALL}, {}),
    "tqc-gsde": (contrib.TQC, "MlpPolicy", VECTOR, BOUNDS, SMALL, GSDE),
    "tqc-cnn": (contrib.TQC, "CnnPolicy", CHW, BOUNDS, {**CNN, **SMALL}, {}),
    "tqc-dict": (contrib.TQC, "MultiInputPolicy", GOAL, BOUNDS, SMALL, {}),
    "ars-linear": (contrib.ARS, "LinearPolicy", VECTOR, BOUNDS, {}, {}),
    "ars-linear-squash": (contrib.ARS, "LinearPolicy", VECTOR, BOUNDS, {"squash_output": True, "with_bias": True}, {}),
    "ars-linear-discrete": (contrib.ARS, "LinearPolicy", VECTOR, D3, {}, {}),
    "ars-mlp": (contrib.ARS, "MlpPolicy", VECTOR, BOUNDS, {}, {}),
    "ars-mlp-no-bias": (contrib.ARS, "MlpPolicy", VECTOR, BOUNDS, {"with_bias": False, **SMALL}, {}),
}
NAMES = {contrib.QRDQN: "QR-DQN"}


def saved(folder, case):
    """Make a model with random weights and save it."""
    algorithm, policy, observation_space, action_space, policy_kwargs, kwargs = case
    if algorithm in (sb3.DQN, contrib.QRDQN, sb3.DDPG, sb3.TD3, sb3.SAC, contrib.TQC):
        kwargs = {"buffer_size": 1, **kwargs}
    env = SpacesOnly(observation_space, action_space)
    model = algorithm(policy, env, policy_kwargs=dict(policy_kwargs), device="cpu", seed=0, **kwargs)
    random_weights(model).save(folder / "teacher.zip")
    return model


@pytest.mark.parametrize("name", [*ON_POLICY, *OFF_POLICY])
def test_acts_the_same(tmp_path, name):
    case = {**ON_POLICY, **OFF_POLICY}[name]
    model = saved(tmp_path, case)
    policy = load(tmp_path / "teacher.zip")
    assert isinstance(policy, Policy)
    assert policy.about.algorithm == NAMES.get(case[0], case[0].__name__)
    obs = observations(case[2], 128)
    expected, _ = model.predict(obs, deterministic=True)
    actions, _ = policy.predict(obs, deterministic=True)
    assert difference(actions, expected) <= 1e-6
    assert actions.dtype == case[3].dtype
    assert len(np.unique(actions, axis=0)) > 1, "the test is blind: every observation gives the same action"
    one = {key: value[0] for key, value in obs.items()} if isinstance(obs, dict) else obs[0]
    assert difference(policy.predict(one, deterministic=True)[0], model.predict(one, deterministic=True)[0]) <= 1e-6


@pytest.mark.parametrize("name", list(ON_POLICY))
def test_distribution_and_value(tmp_path, name):
    """What ``label`` and ``forward`` say is the distribution and the value of the original."""
    model = saved(tmp_path, ON_POLICY[name])
    policy = load(tmp_path / "teacher.zip")
    obs = observations(model.observation_space, 32)
    tensors = obs_as_tensor(obs, "cpu")
    with torch.no_grad():
        distribution = model.policy.get_distribution(tensors)
        out = policy(tensors)
        inner = getattr(distribution, "distribution", None)
        if isinstance(inner, torch.distributions.Normal):
            mean, log_std = out.params.chunk(2, dim=-1)
            assert torch.allclose(mean, inner.mean, atol=1e-6)
            assert torch.allclose(log_std.exp(), inner.stddev, rtol=1e-4)
        elif isinstance(inner, torch.distributions.Bernoulli):
            on = out.params.view(32, -1, 2).softmax(-1)[..., 1]
            assert torch.allclose(on, inner.probs, atol=1e-6)
        elif isinstance(inner, torch.distributions.Categorical):
            assert torch.allclose(out.params.softmax(-1), inner.probs, atol=1e-6)
        if "-apart" in name and "vector" not in name:
            assert out.value is None and any("value function" in note for note in policy.about.notes)
        else:
            value = model.policy.predict_values(tensors).flatten()
            assert torch.allclose(out.value, value, atol=1e-5, rtol=1e-5)


RECURRENT = {
    "plain": ("MlpLstmPolicy", VECTOR, BOUNDS, {}),
    "two-layers": ("MlpLstmPolicy", VECTOR, D3, {"n_lstm_layers": 2}),
    "shared": ("MlpLstmPolicy", VECTOR, D3, {"shared_lstm": True, "enable_critic_lstm": False}),
    "feedforward-critic": ("MlpLstmPolicy", VECTOR, MD, {"enable_critic_lstm": False}),
    "gsde": ("MlpLstmPolicy", VECTOR, BOUNDS, {"use_sde": True}),
    "cnn": ("CnnLstmPolicy", HWC, D3, CNN),
    "dict": (
        "MultiInputLstmPolicy",
        spaces.Dict({"vec": VECTOR, "img": HWC}),
        BOUNDS,
        {"features_extractor_kwargs": {"cnn_output_dim": 8}},
    ),
}


@pytest.mark.parametrize("name", list(RECURRENT))
def test_recurrent_acts_the_same_over_a_sequence(tmp_path, name):
    policy_name, observation_space, action_space, kwargs = RECURRENT[name]
    kwargs = {"lstm_hidden_size": 8, "net_arch": [8], **kwargs}
    use_sde = {"use_sde": True} if kwargs.pop("use_sde", False) else {}
    env = SpacesOnly(observation_space, action_space)
    model = contrib.RecurrentPPO(policy_name, env, policy_kwargs=kwargs, device="cpu", seed=0, **use_sde)
    random_weights(model).save(tmp_path / "teacher.zip")
    policy = load(tmp_path / "teacher.zip")
    assert policy.about.algorithm == "RecurrentPPO"
    state = ours = None
    start, rng = np.ones(4, bool), np.random.default_rng(0)
    for step in range(12):
        obs = observations(observation_space, 4, seed=step)
        expected, state = model.predict(obs, state, start, deterministic=True)
        actions, ours = policy.predict(obs, ours, start, deterministic=True)
        assert difference(actions, expected) <= 1e-6
        assert difference(ours[0], state[0]) <= 1e-6 and difference(ours[1], state[1]) <= 1e-6
        start = rng.random(4) < 0.3
    assert (policy.spec.value_hidden is not None) == (name == "shared")


def test_hindsight_replay_is_its_algorithm(tmp_path):
    env = SpacesOnly(GOAL, BOUNDS)
    env.compute_reward = lambda achieved, desired, info: 0.0
    model = sb3.SAC(
        "MultiInputPolicy",
        env,
        replay_buffer_class=sb3.HerReplayBuffer,
        buffer_size=100,
        policy_kwargs=dict(SMALL),
        device="cpu",
    )
    random_weights(model).save(tmp_path / "her.zip")
    policy = load(tmp_path / "her")  # Stable-Baselines3 itself leaves the suffix out
    obs = observations(GOAL, 64)
    assert difference(policy.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]) <= 1e-6


def test_images_in_the_other_layout_are_turned(tmp_path):
    model = saved(tmp_path, ON_POLICY["a2c-cnn-hwc"])
    policy = load(tmp_path / "teacher.zip")
    obs = observations(HWC, 8)
    turned = np.moveaxis(obs, -1, 1)
    expected, _ = model.predict(obs, deterministic=True)
    assert (policy.predict(obs, deterministic=True)[0] == expected).all()
    assert (policy.predict(turned, deterministic=True)[0] == expected).all()


PICTURES = {
    "cnn": ("CnnPolicy", HWC, CNN),
    "grid": ("MlpPolicy", spaces.Box(0, 255, (7, 7, 3), np.uint8), SMALL),
    "dict": ("MultiInputPolicy", spaces.Dict({"vec": VECTOR, "img": HWC}), COMBINED),
}


@pytest.mark.parametrize("name", list(PICTURES))
def test_everybody_who_asks_may_show_channels_last(tmp_path, name):
    """Stable-Baselines3 saves [C, H, W] for environments that show [H, W, C]; rollouts and labels show the latter."""
    kind, space, kwargs = PICTURES[name]
    model = saved(tmp_path, (sb3.PPO, kind, space, D3, kwargs, {}))
    policy, obs, start = load(tmp_path / "teacher.zip"), observations(space, 32), np.ones(32, bool)
    tensors = model.policy.obs_to_tensor(obs)[0]
    with torch.no_grad():
        logits = model.policy.get_distribution(tensors).distribution.logits
        values = model.policy.predict_values(tensors).flatten().numpy()
    assert torch.allclose(policy.label(obs)[0].params.log_softmax(-1), logits, atol=1e-5)
    assert difference(policy.value_of(obs, None, start), values) <= 1e-5
    noise = np.zeros((32, 3), np.float32)
    mode = model.predict(obs, deterministic=True)[0]
    assert (policy.act(obs, None, start, noise)[0] == mode).all()
    if name == "grid":
        twin = ArrayPolicy(policy.spec, named_arrays(policy))
        assert (twin.act(obs, None, start, noise)[0] == mode).all()
        assert (twin.predict(obs, deterministic=True)[0] == mode).all()
        assert difference(twin.value_of(obs, None, start), values) <= 1e-5


def test_only_channels_may_lie_elsewhere():
    assert fits((36, 40, 3), (3, 36, 40)) and fits((3, 36, 40), (36, 40, 3)) and fits((4,), (4,))
    assert not fits((3, 40, 36), (3, 36, 40)) and not fits((4, 5), (5, 4)) and not fits((4,), (5,))


@pytest.mark.parametrize("name", ["ppo-gsde", "ppo-dict", "sac", "qrdqn", "a2c-multibinary"])
def test_goes_through_our_own_file(tmp_path, name):
    case = {**ON_POLICY, **OFF_POLICY}[name]
    saved(tmp_path, case)
    policy = load(tmp_path / "teacher.zip")
    again = load_policy(save_policy(policy, tmp_path / "teacher.safetensors"))
    obs = observations(case[2], 16)
    assert (again.predict(obs, deterministic=True)[0] == policy.predict(obs, deterministic=True)[0]).all()


def test_shared_layers_of_old_versions(tmp_path):
    """Before 1.8, ``net_arch=[8, dict(pi=[6], vf=[5])]`` had a first layer in common."""
    import io
    import json
    import zipfile

    model = saved(tmp_path, (sb3.PPO, "MlpPolicy", VECTOR, D3, {"net_arch": {"pi": [8, 6], "vf": [8, 5]}}, {}))
    with torch.no_grad():  # make the first layers of both equal, as if shared
        for part in ("weight", "bias"):
            getattr(model.policy.mlp_extractor.value_net[0], part).copy_(
                getattr(model.policy.mlp_extractor.policy_net[0], part)
            )
    tensors = model.policy.state_dict()
    old = {}
    for key, tensor in tensors.items():
        head, _, rest = key.partition("_net.")
        if key.startswith("mlp_extractor."):
            if rest.startswith("0."):
                old["mlp_extractor.shared_net." + rest] = tensor
            else:
                old[f"{head}_net.0.{rest.split('.', 1)[1]}"] = tensor
        else:
            old[key] = tensor
    with zipfile.ZipFile(tmp_path / "teacher.zip") as archive:
        data = json.loads(archive.read("data"))
    data["policy_kwargs"] = {"net_arch": [8, {"pi": [6], "vf": [5]}]}
    buffer = io.BytesIO()
    torch.save(old, buffer)
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", buffer.getvalue())
    policy = load(tmp_path / "old.zip")
    obs = observations(VECTOR, 64)
    assert (policy.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all()
    value = model.policy.predict_values(torch.as_tensor(obs)).flatten()
    assert torch.allclose(policy(torch.as_tensor(obs)).value, value, atol=1e-6)


def test_discrete_actions_that_do_not_start_at_zero_are_refused(tmp_path):
    saved(tmp_path, (sb3.PPO, "MlpPolicy", VECTOR, spaces.Discrete(3, start=1), SMALL, {}))
    with pytest.raises(UserError, match="start"):
        load(tmp_path / "teacher.zip")
