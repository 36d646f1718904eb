"""What cannot be read with certainty is refused in one line that says what, where and what to do."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from safetensors.numpy import save as as_bytes
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from teacher_helpers import BOUNDS, VECTOR, SpacesOnly, difference, observations
from torch import nn

from understudy.errors import UserError
from understudy.policies.files import save_policy
from understudy.policies.policy import Policy
from understudy.policies.spec import PolicySpec, space_to_json
from understudy.policies.stored import read_policy, run_policy
from understudy.teachers.load import load


def refused(source, *words, **kwargs):
    with pytest.raises(UserError) as caught:
        load(source, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    for word in words:
        assert word.lower() in text.lower(), text
    return text


def save(tmp_path, algorithm, policy="MlpPolicy", action_space=BOUNDS, **kwargs):
    path = tmp_path / "teacher.zip"
    algorithm(policy, SpacesOnly(VECTOR, action_space), device="cpu", **kwargs).save(path)
    return path


class MyExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self.layer = nn.Linear(5, 4)

    def forward(self, observations):
        return self.layer(observations)


class MyPolicy(ActorCriticPolicy):
    pass


class MyActivation(nn.Module):
    def forward(self, x):
        return x.abs()


class MyVecNormalize(VecNormalize):
    pass


def test_crossq_by_name(tmp_path):
    path = save(tmp_path, sb3_contrib.CrossQ, policy_kwargs={"net_arch": {"pi": [8], "qf": [8]}}, buffer_size=1)
    refused(path, "CrossQ", str(path), "ONNX")


def test_crossq_in_disguise(tmp_path, changed_zip):
    """Its tensors are SAC's and more; without the name, the tensors still give it away."""
    path = save(tmp_path, sb3_contrib.CrossQ, policy_kwargs={"net_arch": {"pi": [8], "qf": [8]}}, buffer_size=1)

    def disguise(data):
        data["policy_class"]["__module__"] = "stable_baselines3.sac.policies"
        data["policy_class"]["__init__"] = "<function SACPolicy.__init__ at 0x1>"

    refused(changed_zip(data=disguise, source=path), "latent_pi")


def test_batch_normalisation_is_named(changed_zip):
    def add(state):
        state["mlp_extractor.policy_net.1.running_mean"] = torch.zeros(8)

    refused(changed_zip(tensors=add), "normalisation", "running_mean")


def test_custom_classes(tmp_path):
    kwargs = {"features_extractor_class": MyExtractor}
    refused(save(tmp_path, stable_baselines3.PPO, policy_kwargs=kwargs), "MyExtractor", "custom", "callable")
    refused(save(tmp_path, stable_baselines3.PPO, policy=MyPolicy), "custom or unknown", "ONNX")
    refused(save(tmp_path, stable_baselines3.PPO, policy_kwargs={"activation_fn": MyActivation}), "MyActivation")


def test_tensors_must_add_up(changed_zip):
    refused(changed_zip(tensors=lambda s: s.update({"extra.weight": torch.zeros(2, 2)})), "extra.weight", "layout")
    refused(changed_zip(tensors=lambda s: s.pop("action_net.weight")), "action_net.weight", "missing")
    refused(changed_zip(tensors=lambda s: s.pop("log_std")), "log_std", "missing")
    refused(changed_zip(tensors=lambda s: s.pop("action_net.bias")), "head.bias")
    refused(changed_zip(tensors=lambda s: s.pop("mlp_extractor.policy_net.0.weight")), "policy_net", "missing")
    refused(changed_zip(tensors=lambda s: s.pop("mlp_extractor.value_net.2.weight")), "hidden layers", "missing")
    refused(changed_zip(tensors=lambda s: s.pop("mlp_extractor.value_net.2.bias")), "body.2.bias")


def test_a_whole_missing_layer_is_seen(changed_zip):
    def drop(state):  # the widths still fit one another
        for name in ("policy_net", "value_net"):
            state.pop(f"mlp_extractor.{name}.2.weight")
            state.pop(f"mlp_extractor.{name}.2.bias")

    refused(changed_zip(tensors=drop), "hidden layers", "[8, 8]")


def test_wrong_shapes_and_broken_numbers(changed_zip):
    def narrow(state):
        state["action_net.weight"] = state["action_net.weight"][:, :4]

    def broken(state):
        state["action_net.bias"][0] = float("nan")

    refused(changed_zip(tensors=narrow), "size mismatch")
    refused(changed_zip(tensors=broken), "NaN", "head.bias")


def test_unknown_arguments_and_classes(changed_zip):
    refused(changed_zip(data=lambda d: d["policy_kwargs"].update(dueling=True)), "dueling")
    refused(changed_zip(data=lambda d: d["policy_class"].update(__module__="sb3_contrib.new.policies")), "unknown")
    refused(changed_zip(data=lambda d: d.pop("policy_class")), "policy class")
    refused(changed_zip(data=lambda d: d.pop("observation_space")), "observation space", "not described")
    refused(changed_zip(data=lambda d: d["policy_kwargs"].update(sde_net_arch=[4])), "sde_net_arch")
    refused(changed_zip(data=lambda d: d["policy_kwargs"].update(net_arch="x")), "net_arch")
    refused(changed_zip(data=lambda d: d["policy_kwargs"].update(net_arch=[8, 9])), "hidden layers")


def test_damaged_files(tmp_path, ppo_zip, changed_zip):
    whole = ppo_zip.read_bytes()
    cut = tmp_path / "cut.zip"
    for size in (0, 10, len(whole) // 3, len(whole) - 30):
        cut.write_bytes(whole[:size])
        refused(cut, "cut.zip", "truncated")
    text = tmp_path / "text.zip"
    text.write_text("not a zip")
    refused(text, "not a readable zip")
    flipped = bytearray(whole)
    flipped[whole.index(b"policy.pth") + 3000] ^= 0xFF
    cut.write_bytes(bytes(flipped))
    refused(cut, "cut.zip")
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(ppo_zip) as old, zipfile.ZipFile(cut, "w", method) as packed:
            for name in old.namelist():
                packed.writestr(name, old.read(name))
        begin = packed.getinfo("policy.pth").header_offset + 80
        flipped = bytearray(cut.read_bytes())
        flipped[begin : begin + 300] = bytes(byte ^ 0x5A for byte in flipped[begin : begin + 300])
        cut.write_bytes(flipped)
        refused(cut, "cut.zip", "truncated or damaged")
    locked = whole.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1")  # the flag of encrypted members, in both headers
    cut.write_bytes(locked.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"))
    refused(cut, "cut.zip", "encrypted")
    refused(changed_zip(members={"policy.pth": b"garbage"}), "policy.pth")
    refused(changed_zip(members={"policy.pth": None}), "not of Stable-Baselines3")
    refused(changed_zip(members={"data": b"{"}), "not JSON")
    refused(changed_zip(members={"data": b"[" * 100_000}), "not JSON")
    refused(changed_zip(members={"data": b"[]"}), "JSON object")


def test_nothing_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("missing.zip", "missing.zip", "no such file")
    refused(str(tmp_path / "a" / "b.safetensors"), "no such file")
    refused(tmp_path, "holds none of")
    (tmp_path / "notes.txt").write_text("")
    refused("notes.txt", "unknown kind")
    refused(3, "int")
    refused("no_such_module:function", "cannot be imported")


def test_run_folders_and_our_own_files(tmp_path, ppo_zip):
    policy = load(ppo_zip)
    save_policy(policy, tmp_path / "run" / "last.safetensors")
    assert load(tmp_path / "run").spec == policy.spec
    save_policy(policy, tmp_path / "run" / "best.safetensors")
    assert load(tmp_path / "run").about.source.endswith("best.safetensors")
    assert load(tmp_path / "run" / "last.safetensors").spec == policy.spec
    assert load(policy) is policy


@pytest.fixture
def zoo_folder(tmp_path, ppo_model):
    """An agent laid out as the zoo does, trained behind VecNormalize."""
    folder = tmp_path / "Hopper-v3_1"
    (folder / "Hopper-v3").mkdir(parents=True)
    ppo_model.save(folder / "Hopper-v3.zip")
    (folder / "Hopper-v3" / "config.yml").write_text("normalize: dict(norm_obs=True, norm_reward=False)\n")
    (folder / "Hopper-v3" / "args.yml").write_text("env: Hopper-v3\nenv_kwargs: {a: 1}\n")
    normalizer = vec_normalize(VecNormalize)
    normalizer.save(str(folder / "Hopper-v3" / "vecnormalize.pkl"))
    return folder


def vec_normalize(kind, space=VECTOR, **kwargs):
    normalizer = kind(DummyVecEnv([lambda: SpacesOnly(space, BOUNDS)]), clip_obs=2.0, epsilon=1e-3, **kwargs)
    rng = np.random.default_rng(1)
    for rms in normalizer.obs_rms.values() if isinstance(normalizer.obs_rms, dict) else [normalizer.obs_rms]:
        rms.mean, rms.var = rng.normal(size=rms.mean.shape), rng.random(rms.mean.shape)
    return normalizer


def test_normaliser_of_today(zoo_folder, ppo_model):
    policy = load(zoo_folder)
    obs = observations(VECTOR, 64)
    expected, _ = ppo_model.predict(vec_normalize(VecNormalize).normalize_obs(obs), deterministic=True)
    assert difference(policy.predict(obs, deterministic=True)[0], expected) <= 1e-6
    assert policy.about.env.id == "Hopper-v4" and policy.about.env.kwargs == {"a": 1}
    best = zoo_folder / "best_model.zip"
    best.write_bytes((zoo_folder / "Hopper-v3.zip").read_bytes())
    assert load(best).spec.normalized == ("",)


def test_normaliser_of_some_keys(tmp_path):
    space = spaces.Dict({"a": VECTOR, "b": BOUNDS})
    model = stable_baselines3.PPO("MultiInputPolicy", SpacesOnly(space, BOUNDS), device="cpu")
    model.save(tmp_path / "ppo.zip")
    normalizer = vec_normalize(VecNormalize, space, norm_obs_keys=["b"])
    normalizer.save(str(tmp_path / "vec_normalize.pkl"))
    policy = load(tmp_path / "ppo.zip")
    assert policy.spec.normalized == ("b",)
    obs = observations(space, 64)
    expected, _ = model.predict(normalizer.normalize_obs(obs), deterministic=True)
    assert difference(policy.predict(obs, deterministic=True)[0], expected) <= 1e-6


def test_every_checkpoint_has_its_own_normaliser(tmp_path, ppo_zip, ppo_model, zoo_folder):
    """``CheckpointCallback(save_vecnormalize=True)`` names them so, with any prefix."""
    obs = observations(VECTOR, 64)

    def acts_behind(normalizer, file):
        file.write_bytes(ppo_zip.read_bytes())
        expected, _ = ppo_model.predict(normalizer.normalize_obs(obs), deterministic=True)
        return difference(load(file).predict(obs, deterministic=True)[0], expected) <= 1e-6

    first, second = vec_normalize(VecNormalize), vec_normalize(VecNormalize)
    second.obs_rms.mean += 1
    for prefix in ("rl_model", "my_3_steps"):
        first.save(str(tmp_path / f"{prefix}_vecnormalize_20_steps.pkl"))
        second.save(str(tmp_path / f"{prefix}_vecnormalize_120_steps.pkl"))
        assert acts_behind(first, tmp_path / f"{prefix}_20_steps.zip")
        assert acts_behind(second, tmp_path / f"{prefix}_120_steps.zip")
    (tmp_path / "rl_model_5_steps.zip").write_bytes(ppo_zip.read_bytes())
    assert load(tmp_path / "rl_model_5_steps.zip").spec.normalized == ()
    second.save(str(zoo_folder / "rl_model_20_steps.pkl"))  # the zoo's folder holds that of the end
    assert acts_behind(vec_normalize(VecNormalize), zoo_folder / "rl_model_20_steps.zip")
    second.save(str(zoo_folder / "rl_model_vecnormalize_20_steps.pkl"))
    assert acts_behind(second, zoo_folder / "rl_model_20_steps.zip")


def test_normaliser_missing_or_wrong(zoo_folder):
    file = zoo_folder / "Hopper-v3" / "vecnormalize.pkl"
    vec_normalize(MyVecNormalize).save(str(file))
    refused(zoo_folder, "MyVecNormalize")
    vec_normalize(VecNormalize, spaces.Box(-1, 1, (4,))).save(str(file))
    refused(zoo_folder, "(4,)", "(5,)")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(zoo_folder, "vecnormalize.pkl")
    file.unlink()
    refused(zoo_folder, "vecnormalize.pkl is missing", "normalised")
    (zoo_folder / "Hopper-v3" / "config.yml").write_text("normalize: dict(norm_obs=False)\n")
    assert load(zoo_folder).spec.normalized == ()


def test_normaliser_that_normalises_rewards_only(zoo_folder):
    normalizer = VecNormalize(DummyVecEnv([lambda: SpacesOnly(VECTOR, BOUNDS)]), norm_obs=False)
    normalizer.save(str(zoo_folder / "Hopper-v3" / "vecnormalize.pkl"))
    assert load(zoo_folder).spec.normalized == ()


@pytest.mark.parametrize(
    ("text", "wrappers"),
    [
        ("env_wrapper: sb3_contrib.common.wrappers.TimeFeatureWrapper", [{"type": "time_feature"}]),
        (
            "env_wrapper:\n- utils.wrappers.TimeFeatureWrapper:\n    max_steps: 50",
            [{"type": "time_feature", "max_steps": 50}],
        ),
        (
            "env_wrapper:\n- stable_baselines3.common.atari_wrappers.AtariWrapper\nframe_stack: 4",
            [{"type": "atari"}, {"type": "frame_stack", "n": 4}],
        ),
        ("env_wrapper: null", []),
    ],
)
def test_wrappers(zoo_folder, text, wrappers):
    config = zoo_folder / "Hopper-v3" / "config.yml"
    config.write_text(f"normalize: true\n{text}\n")
    assert list(load(zoo_folder).about.env.wrappers) == wrappers


@pytest.mark.parametrize(
    "text",
    [
        "env_wrapper: rl_zoo3.wrappers.HistoryWrapper",
        "env_wrapper: my.TimeFeatureWrapper",
        "env_wrapper: [{sb3_contrib.common.wrappers.TimeFeatureWrapper: {test_mode: true}}]",
        "vec_env_wrapper: my.VecWrapper",
        "frame_stack: many",
    ],
)
def test_unknown_wrappers_are_named(zoo_folder, text):
    (zoo_folder / "Hopper-v3" / "config.yml").write_text(f"normalize: true\n{text}\n")
    refused(zoo_folder, "config.yml")
    assert load(zoo_folder, env="Hopper-v4").about.env.id == "Hopper-v4"


def test_several_agents(zoo_folder):
    (zoo_folder / "Hopper-v3" / "config.yml").unlink()
    (zoo_folder / "Hopper-v3").rename(zoo_folder / "other")
    (zoo_folder / "b.zip").write_bytes((zoo_folder / "Hopper-v3.zip").read_bytes())
    refused(zoo_folder, "several agents", "b.zip")


def test_runs_in_a_folder(tmp_path):
    """A run's own policy goes before those of runs in its folder; of several of these none is taken silently."""

    def put(name):
        spec = PolicySpec(space_to_json(VECTOR), space_to_json(BOUNDS), "gaussian", std="constant")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        return str(save_policy(Policy(spec), tmp_path / name))

    first = put("student/best.safetensors")
    assert load(tmp_path).about.source == str(run_policy(tmp_path)) == first
    put("other/last.safetensors")
    refused(tmp_path, "holds 2 runs (other, student): name one of them, such as", "other")
    own = put("last.safetensors")
    assert load(tmp_path).about.source == str(run_policy(tmp_path)) == own


def _with(**parts):
    return lambda meta: {**meta, **parts}


def _spec(**parts):
    return lambda meta: {**meta, "spec": {**meta["spec"], **parts}}


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: [], lambda meta: {"format": meta["format"]}, _with(spec=[]), _with(env="x"), _with(notes=None),
        _with(env={"id": 3, "kwargs": {}, "wrappers": [], "backend": "auto"}),
        _with(env={"id": "x", "kwargs": {}, "wrappers": ["y"], "backend": "auto"}),
        _spec(hidden="ab"), _spec(hidden=None), _spec(hidden=[1.5]), _spec(hidden=[10**12]), _spec(encoders=None),
        _spec(encoders=[{"a": 1}]), _spec(encoders=[{"key": "z"}]), _spec(observation_space=None), _spec(lstm=-1),
        _spec(observation_space={"type": "Box", "shape": [-3], "dtype": "float32", "low": -1, "high": 1}),
        _spec(action_space={"type": "Discrete", "n": -1}), _spec(normalized=["q"]), None,
    ],
)  # fmt: skip
def test_damaged_descriptions_of_ours(tmp_path, change):
    spec = PolicySpec(space_to_json(VECTOR), space_to_json(BOUNDS), "gaussian", std="constant", hidden=(3,))
    path = save_policy(Policy(spec), tmp_path / "p.safetensors")
    meta, arrays = read_policy(path).about, read_policy(path).arrays
    text = "[" * 100_000 if change is None else json.dumps(change(meta))
    path.write_bytes(as_bytes(arrays, {"understudy": text}))
    refused(path, "p.safetensors: the description of the policy cannot be read", "damaged?")


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 3}', "[" * 100_000])
def test_damaged_list_of_behaviours(tmp_path, text):
    (tmp_path / "behaviours.json").write_text(text)
    refused(tmp_path, "behaviours.json")


@pytest.mark.parametrize("kind", ["bfloat16", "parameter", "complex", "sparse", "quantised", "meta"])
def test_tensors_that_are_not_plain(tmp_path, ppo_zip, kind):
    change = {
        "bfloat16": lambda tensor: tensor.bfloat16(), "parameter": lambda tensor: nn.Parameter(tensor),
        "complex": lambda tensor: tensor.to(torch.complex64), "sparse": lambda tensor: tensor.to_sparse(),
        "quantised": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "meta": lambda tensor: tensor.to("meta"),
    }[kind]  # fmt: skip
    before = load(ppo_zip)
    with zipfile.ZipFile(ppo_zip) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    tensors = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    name = "mlp_extractor.policy_net.0.weight"
    buffer = io.BytesIO()
    torch.save({**tensors, name: change(tensors[name])}, buffer)
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        for member, data in {**members, "policy.pth": buffer.getvalue()}.items():
            archive.writestr(member, data)
    if kind in ("bfloat16", "parameter"):
        assert (
            difference(load(tmp_path / "odd.zip").head.weight.detach().numpy(), before.head.weight.detach().numpy())
            == 0
        )
        assert torch.allclose(load(tmp_path / "odd.zip").body[0].weight, before.body[0].weight, rtol=0.01)
    else:
        refused(tmp_path / "odd.zip", name, "is not an array of real numbers")
