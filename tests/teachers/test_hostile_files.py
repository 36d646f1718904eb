"""Files made to run code do not: no marker is written; they load harmlessly or are refused."""

from __future__ import annotations

import base64
import builtins
import contextlib
import io
import os
import pickle
import subprocess

import cloudpickle
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from teacher_helpers import BOUNDS, VECTOR, SpacesOnly, difference, observations

from understudy.errors import UserError
from understudy.teachers.load import load
from understudy.teachers.safe_pickle import Inert, _scalar, as_array, read_pickle


class Payload:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


PAYLOADS = {
    "os.system": lambda marker: Payload(os.system, f"touch {marker}"),
    "eval": lambda marker: Payload(builtins.eval, f"open({str(marker)!r}, 'w')"),
    "exec": lambda marker: Payload(builtins.exec, f"open({str(marker)!r}, 'w')"),
    "subprocess": lambda marker: Payload(subprocess.check_output, ["touch", str(marker)]),
    "open": lambda marker: Payload(builtins.open, str(marker), "w"),
    "getattr": lambda marker: Payload(getattr, Payload(__import__, "os"), "system"),
    "nested": lambda marker: Payload(pickle.loads, pickle.dumps(Payload(os.system, f"touch {marker}"))),
    "numpy.load": lambda marker: Payload(np.load, str(marker)),
    "inside": lambda marker: {"a": [Payload(os.system, f"touch {marker}")]},
}


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "hostile code ran"


@pytest.fixture
def payload_works(tmp_path):
    """The payloads are not duds: opened by pickle itself they write the marker."""
    path = tmp_path / "proof"
    pickle.loads(pickle.dumps(PAYLOADS["os.system"](path)))
    assert path.exists()


@pytest.mark.parametrize("name", list(PAYLOADS))
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickle_is_inert(marker, payload_works, name, protocol):
    try:
        found = read_pickle(pickle.dumps(PAYLOADS[name](marker), protocol), "hostile.pkl")
    except UserError:
        return
    assert isinstance(found, (Inert, dict))
    with pytest.raises(UserError):
        as_array(found, "hostile.pkl")


def test_pickle_cannot_change_what_outlives_it():
    """BUILD sets attributes: on a function of ours, its defaults would stay changed."""
    name = b"cnumpy.core.multiarray\nscalar\n"
    for target in (name, b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n"):
        with pytest.raises(UserError):
            read_pickle(target + b"(N}S'__defaults__'\n(I1\ntsS'__doc__'\nS'x'\nstb.", "hostile.pkl")
    assert _scalar.__defaults__ == (b"",)


@pytest.mark.parametrize(
    "data", [b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f.", b"]r\xff\xff\xff\xf0.", b"]r\xff\xff\xff\x7fh\x00."]
)
def test_lengths_that_lie_reserve_nothing(data):
    """A bytearray of 2^60 bytes; memo indices of 2^32, for which pickle in C reserves gigabytes."""
    with contextlib.suppress(UserError):
        assert read_pickle(data, "hostile.pkl") == []


def vec_normalize():
    return VecNormalize(DummyVecEnv([lambda: SpacesOnly(VECTOR, BOUNDS)]))


@pytest.mark.parametrize("name", list(PAYLOADS))
def test_vecnormalize(marker, tmp_path, ppo_model, name):
    ppo_model.save(tmp_path / "ppo.zip")
    file = tmp_path / "vecnormalize.pkl"
    file.write_bytes(pickle.dumps(PAYLOADS[name](marker)))
    with pytest.raises(UserError, match="vecnormalize.pkl"):
        load(tmp_path / "ppo.zip")
    for field in ("obs_rms", "clip_obs", "norm_obs_keys"):  # hidden inside of a true one
        normalizer = vec_normalize()
        normalizer.obs_rms = {"": normalizer.obs_rms} if field == "norm_obs_keys" else normalizer.obs_rms
        setattr(normalizer, field, PAYLOADS[name](marker))
        normalizer.save(str(file))
        with pytest.raises(UserError, match="vecnormalize.pkl"):
            load(tmp_path / "ppo.zip")
    normalizer = vec_normalize()
    normalizer.gamma = PAYLOADS[name](marker)  # a field that nobody reads
    normalizer.save(str(file))
    assert load(tmp_path / "ppo.zip").spec.normalized == ("",)


def test_statistics_that_lie(tmp_path, ppo_model):
    ppo_model.save(tmp_path / "ppo.zip")
    for field, value in (
        ("mean", np.full(5, np.nan)),
        ("var", -np.ones(5)),
        ("var", np.ones(4)),
        ("mean", np.array([None] * 5)),
        ("mean", np.array(["x"] * 5)),
        ("mean", [0.0] * 5),
    ):
        normalizer = vec_normalize()
        setattr(normalizer.obs_rms, field, value)
        normalizer.save(str(tmp_path / "vecnormalize.pkl"))
        with pytest.raises(UserError, match="vecnormalize.pkl"):
            load(tmp_path / "ppo.zip")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_honest_arrays_survive(protocol):
    arrays = {
        "f8": np.random.default_rng(0).normal(size=(2, 3)),
        "f4": np.float32([1.5, 2.5]),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.array([1.0, 2.0], ">f8"),
        "scalar": np.float64(3.5),
        "int": np.arange(3),
        "zero": np.array(7.0),
    }
    found = read_pickle(pickle.dumps(arrays, protocol), "honest.pkl")
    for name, array in arrays.items():
        assert (as_array(found[name], name) == array).all() and as_array(found[name], name).shape == np.shape(array)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", list(PAYLOADS))
def test_pickle_in_policy_pth(marker, changed_zip, name):
    buffer = io.BytesIO()
    torch.save({"action_net.weight": PAYLOADS[name](marker)}, buffer)
    for content in (buffer.getvalue(), pickle.dumps(PAYLOADS[name](marker))):
        with pytest.raises(UserError, match="policy.pth"):
            load(changed_zip(members={"policy.pth": content}))


@pytest.mark.parametrize("name", list(PAYLOADS))
def test_cloudpickle_in_data(marker, changed_zip, ppo_model, name):
    """Every pickled field of ``data`` is hostile: the clear text beside them is all that is read."""
    text = base64.b64encode(cloudpickle.dumps(PAYLOADS[name](marker))).decode()

    def poison(data):
        for field in [*data.values(), {}]:
            if isinstance(field, dict) and ":serialized:" in field:
                field[":serialized:"] = text
        data["unused"] = {":type:": "<class 'function'>", ":serialized:": text}

    policy = load(changed_zip(data=poison))
    obs = observations(VECTOR, 32)
    expected, _ = ppo_model.predict(obs, deterministic=True)
    assert difference(policy.predict(obs, deterministic=True)[0], expected) <= 1e-6


def test_other_pickles_in_the_zip_are_not_opened(marker, changed_zip):
    content = pickle.dumps(PAYLOADS["os.system"](marker))
    load(changed_zip(members={"pytorch_variables.pth": content, "policy.optimizer.pth": content}))


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "normalize: !!python/object/apply:os.system ['touch {marker}']",
        "normalize: !!python/object/new:os.system ['touch {marker}']",
        "normalize: !!python/name:os.system",
        "a: !!python/object/apply:collections.OrderedDict\n- !!python/object/apply:os.system ['touch {marker}']",
        "normalize: __import__('os').system('touch {marker}')",
        "normalize: \"dict(norm_obs=__import__('os').system('touch {marker}'))\"",
        "normalize: \"dict(**__import__('os').environ)\"",
        'normalize: "[x for x in ().__class__.__bases__]"',
        "env_wrapper: __import__('os').system('touch {marker}')",
        "env_wrapper: [os.system: {{command: touch {marker}}}]",
        "env_kwargs: __import__('os').system('touch {marker}')",
        "env_kwargs: \"{{'a': __import__('os').system('touch {marker}')}}\"",
        "frame_stack: __import__('os').system('touch {marker}')",
        "- 1\n- 2",
        "a: [",
    ],
)
def test_yaml(marker, tmp_path, ppo_model, text):
    (tmp_path / "CartPole-v1").mkdir()
    ppo_model.save(tmp_path / "CartPole-v1.zip")
    (tmp_path / "CartPole-v1" / "args.yml").write_text("env: CartPole-v1\n")
    (tmp_path / "CartPole-v1" / "config.yml").write_text(text.format(marker=marker))
    with pytest.raises(UserError, match="config.yml"):
        load(tmp_path)


def test_torchscript_that_is_a_pickle(marker, tmp_path):
    path = tmp_path / "teacher.pt"
    for content in (Payload(os.system, f"touch {marker}"), torch.nn.Linear(2, 2)):
        torch.save(content, path)
        with pytest.raises(UserError, match="not a TorchScript file"):
            load(path, observation_space=VECTOR, action_space=BOUNDS)


def test_paths_outside_of_a_hub_snapshot():
    with pytest.raises(UserError, match="leaves"):
        load("hf://org/name/../../../../etc/passwd")
