"""TorchScript, ONNX, callables and modules: the same answers as what they were made from."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from teacher_helpers import BOUNDS, HWC, VECTOR, difference, observations
from torch import nn

import understudy
from understudy.data import EnvSpec
from understudy.errors import UserError
from understudy.policies.policy import PolicyLike
from understudy.policies.spaces import space_to_json
from understudy.teachers.inspect import inspect
from understudy.teachers.load import load

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

D3 = spaces.Discrete(3)
SPACES = {"observation_space": VECTOR, "action_space": D3}
BOX = {"observation_space": VECTOR, "action_space": BOUNDS}


class Net(nn.Module):
    def __init__(self, outputs=3):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, outputs))

    def forward(self, x):
        return self.layers(x)


class TwoHeads(Net):
    def forward(self, x):
        out = self.layers(x)
        return out, out.abs().neg()


class ByKey(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 2), nn.Linear(2, 2)

    def forward(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.a(obs["a"]) + self.b(obs["b"])


def made(kind, module, folder, example=None, **export):
    """Bring a module into a form that ``load`` takes."""
    example = torch.zeros(2, 5) if example is None else example
    if kind == "module":
        return module
    if kind == "torchscript":
        path = folder / "teacher.pt"
        torch.jit.trace(module, example).save(str(path))
        return path
    path = folder / "teacher.onnx"
    axes = {"dynamic_axes": {"obs": {0: "N"}}} if not export.pop("fixed", False) else {}
    torch.onnx.export(module, (example,), str(path), input_names=["obs"], dynamo=False, **axes, **export)
    return path


KINDS = ["module", "torchscript", "onnx"]


@pytest.mark.parametrize("kind", KINDS)
def test_logits(tmp_path, kind):
    net = Net()
    teacher = load(made(kind, net, tmp_path), **SPACES, env="CartPole-v1")
    obs = observations(VECTOR, 32)
    expected = net(torch.as_tensor(obs)).detach()
    assert isinstance(teacher, PolicyLike) and teacher.family.name == "categorical"
    target, state = teacher.label(obs)
    assert state is None and torch.allclose(target.params, expected, atol=1e-6)
    actions, _ = teacher.predict(obs, deterministic=True)
    assert (actions == expected.argmax(1).numpy()).all() and actions.dtype == D3.dtype
    assert teacher.predict(obs[0], deterministic=True)[0].shape == ()
    assert set(teacher.predict(np.repeat(obs[:1], 200, axis=0))[0]) > {actions[0]}, "a sample is not the mode"
    assert teacher.parameters_count == sum(p.numel() for p in net.parameters())
    assert teacher.about.env == EnvSpec("CartPole-v1") and teacher.initial_state(3) is None
    assert dict(inspect(teacher))["network"] == "opaque"


@pytest.mark.parametrize("kind", KINDS)
def test_actions_and_gaussians(tmp_path, kind):
    obs = observations(VECTOR, 32)
    net = Net(2)
    teacher = load(made(kind, net, tmp_path), **BOX)
    raw = net(torch.as_tensor(obs)).detach().numpy()
    assert teacher.family.name == "deterministic"
    assert difference(teacher.predict(obs)[0], np.clip(raw, BOUNDS.low, BOUNDS.high)) <= 1e-6
    unit = (raw - (BOUNDS.low + BOUNDS.high) / 2) / ((BOUNDS.high - BOUNDS.low) / 2)
    assert difference(teacher.label(obs)[0].params, unit) <= 1e-5

    gaussian = load(made(kind, TwoHeads(2), tmp_path), **BOX, output="gaussian")
    target = gaussian.label(obs)[0].params
    assert gaussian.family.name == "gaussian" and difference(target[:, :2], unit) <= 1e-5
    half = np.float32([1.0, 1.5])
    assert difference(target[:, 2:], -np.abs(raw) - np.log(half)) <= 1e-5
    assert difference(gaussian.predict(obs, deterministic=True)[0], np.clip(raw, BOUNDS.low, BOUNDS.high)) <= 1e-6
    joined = load(made(kind, Net(4), tmp_path), **BOX, output="gaussian")
    assert joined.label(obs)[0].params.shape == (32, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_action_values_are_not_sampled(tmp_path, kind):
    teacher = load(made(kind, Net(), tmp_path), **SPACES, output="q_values")
    obs = observations(VECTOR, 16)
    assert teacher.family.name == "q_values"
    assert (teacher.predict(obs)[0] == teacher.predict(obs, deterministic=True)[0]).all()


def test_the_environment_says_the_spaces():
    teacher = understudy.load(lambda o: np.zeros((len(o), 2)), env="CartPole-v1", output="q_values")
    assert teacher.observation_space.shape == (4,) and teacher.action_space.n == 2
    assert teacher.family.name == "q_values" and teacher.about.env == EnvSpec("CartPole-v1")
    with pytest.raises(UserError, match="does not say its observation and action space: pass --env"):
        understudy.load(lambda o: o)


def test_functions(tmp_path, monkeypatch):
    (tmp_path / "my_teacher.py").write_text(
        "import numpy as np\n"
        "def act(obs):\n    return (obs[:, 0] > 0).astype(np.int64)\n"
        "def broken(obs):\n    return obs[:, :3] * np.nan\n"
        "class Agent:\n    pass\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_teacher", raising=False)
    teacher = load("my_teacher:act", **SPACES)
    obs = observations(VECTOR, 16)
    chosen = (obs[:, 0] > 0).astype(int)
    assert (teacher.predict(obs)[0] == chosen).all()
    probabilities = teacher.label(obs)[0].params.softmax(-1)
    assert (probabilities.argmax(-1).numpy() == chosen).all() and probabilities.max(-1).values.min() > 0.999
    assert str(tmp_path) not in sys.path
    for source, word in (
        ("my_teacher:nothing", "has no"),
        ("my_teacher:Agent", "not a function"),
        ("my_teacher:number", "not a function"),
    ):
        with pytest.raises(UserError, match=word):
            load(source, **SPACES)
    with pytest.raises(UserError, match="my_teacher:broken.*NaN"):
        load("my_teacher:broken", **SPACES).predict(obs)
    with pytest.raises(UserError, match="my_teacher:act.*--env"):
        load("my_teacher:act")


def test_discrete_kinds():
    obs = observations(VECTOR, 8)
    rng = np.random.default_rng(0)
    started = load(lambda o: np.full(len(o), 2), observation_space=VECTOR, action_space=spaces.Discrete(3, start=1))
    assert (started.predict(obs)[0] == 2).all() and (started.label(obs)[0].params.argmax(-1) == 1).all()
    late = load(
        lambda o: np.tile([4, -1], (len(o), 1)), observation_space=VECTOR,
        action_space=spaces.MultiDiscrete([2, 3], start=[3, -1]),
    )  # fmt: skip
    assert (late.predict(obs)[0] == [4, -1]).all() and late.label(obs)[0].params.reshape(8, -1).argmax(-1).max() == 1
    multi = spaces.MultiDiscrete([2, 3])
    parts = np.stack((rng.integers(0, 2, 8), rng.integers(0, 3, 8)), axis=1)
    teacher = load(lambda o: parts[: len(o)], observation_space=VECTOR, action_space=multi)
    assert (teacher.predict(obs)[0] == parts).all()
    logits = rng.normal(size=(8, 5)).astype(np.float32)
    teacher = load(lambda o: logits[: len(o)], observation_space=VECTOR, action_space=multi)
    assert teacher.family.sizes == (2, 3) and difference(teacher.label(obs)[0].params, logits) == 0
    bits = rng.normal(size=(8, 4)).astype(np.float32)
    teacher = load(
        lambda o: bits[: len(o)], observation_space=VECTOR, action_space=spaces.MultiBinary(4), output="logits"
    )
    assert (teacher.predict(obs, deterministic=True)[0] == (bits > 0)).all()


def test_answers_that_do_not_fit():
    obs = observations(VECTOR, 8)
    for function, word, kwargs in (
        (lambda o: np.zeros((len(o), 7), np.float32), "7 numbers", {}),
        (lambda o: np.zeros((3, 3)), "batch of 8", {}),
        (lambda o: np.full(len(o), 9), "outside", {}),
        (lambda o: np.zeros((len(o), 3)), "unknown", {"output": "probabilities"}),
        (lambda o: np.zeros((len(o), 3)), "cannot act", {"output": "gaussian"}),
    ):
        with pytest.raises(UserError, match=word):
            load(function, **SPACES, **kwargs).predict(obs)
    with pytest.raises(UserError, match="shape"):
        load(lambda o: o[:, 0], **SPACES).predict(np.zeros((2, 4), np.float32))
    with pytest.raises(UserError, match="cannot be asked"):
        load(nn.Linear(4, 3), **SPACES).predict(obs)


def test_dict_observations_and_images(tmp_path):
    space = spaces.Dict({"a": VECTOR, "b": spaces.Box(-1, 1, (2,), np.float64)})
    module, obs = ByKey(), observations(space, 8)
    tensors = {key: torch.as_tensor(value, dtype=torch.float32) for key, value in obs.items()}
    expected = np.clip(module(tensors).detach().numpy(), BOUNDS.low, BOUNDS.high)
    torch.jit.script(module).save(str(tmp_path / "teacher.ts"))
    for source in (module, tmp_path / "teacher.ts"):
        teacher = load(source, observation_space=space, action_space=BOUNDS)
        assert difference(teacher.predict(obs)[0], expected) <= 1e-6
    torch.onnx.export(
        ByKeyPositional(module), (tensors["a"], tensors["b"]), str(tmp_path / "teacher.onnx"), input_names=["a", "b"],
        dynamic_axes={"a": {0: "N"}, "b": {0: "N"}}, dynamo=False,
    )  # fmt: skip
    teacher = load(tmp_path / "teacher.onnx", observation_space=space, action_space=BOUNDS)
    assert difference(teacher.predict(obs)[0], expected) <= 1e-6

    images = observations(HWC, 4)
    seen = []
    teacher = load(lambda o: seen.append(o) or np.zeros(len(o), int), observation_space=HWC, action_space=D3)
    teacher.predict(np.moveaxis(images, -1, 1))
    assert seen[-1].dtype == np.uint8 and (seen[-1] == images).all()


class ByKeyPositional(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, a, b):
        return self.inner({"a": a, "b": b})


def test_onnx_with_a_fixed_batch(tmp_path):
    net, obs = Net(), observations(VECTOR, 6)
    path = made("onnx", net, tmp_path, torch.zeros(1, 5), fixed=True)
    teacher = load(path, **SPACES)
    assert torch.allclose(teacher.label(obs)[0].params, net(torch.as_tensor(obs)).detach(), atol=1e-6)


def test_onnx_that_describes_itself(tmp_path):
    path = made("onnx", Net(), tmp_path)
    model = onnx.load(str(path))
    entry = model.metadata_props.add()
    entry.key = "understudy"
    facts = {"output": "q_values", "algorithm": "DQN", "env": EnvSpec("CartPole-v1").to_json()}
    facts |= {key: space_to_json(space) for key, space in SPACES.items()}
    entry.value = json.dumps(facts)
    onnx.save(model, str(path))
    teacher = load(path)
    assert teacher.family.name == "q_values" and teacher.action_space == D3
    assert teacher.about.algorithm == "DQN" and teacher.about.env == EnvSpec("CartPole-v1")
    assert load(path, output="logits").family.name == "categorical"
    entry.value = "{"
    onnx.save(model, str(path))
    with pytest.raises(UserError, match="metadata"):
        load(path)


def test_named_onnx_outputs_count(tmp_path):
    path = made("onnx", TwoHeads(3), tmp_path, output_names=["value", "logits"])
    obs = observations(VECTOR, 4)
    teacher = load(path, **SPACES)
    assert (teacher.label(obs)[0].params <= 0).all(), "the output called logits is the second"


def test_a_mean_and_a_deviation_are_found_by_their_names(tmp_path):
    obs = observations(VECTOR, 4)
    path = made("onnx", TwoHeads(2), tmp_path, output_names=["log_std", "mean"])
    mean = np.clip(TwoHeads(2)(torch.as_tensor(obs))[1].detach().numpy(), BOUNDS.low, BOUNDS.high)
    for output in (None, "gaussian"):
        teacher = load(path, **BOX, output=output)
        assert difference(teacher.predict(obs, deterministic=True)[0], mean) <= 1e-6


def test_onnx_that_takes_whole_numbers_sees_no_real_ones(tmp_path):
    class Whole(Net):
        def forward(self, x):
            return self.layers(x.float())

    path = made("onnx", Whole(), tmp_path, torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(UserError, match="input 'obs' takes int64, which would cut off the digits"):
        load(path, **SPACES).predict(observations(VECTOR, 4))
    counts = spaces.Box(0, 9, (5,), np.int32)
    assert len(load(path, observation_space=counts, action_space=D3).predict(observations(counts, 4))[0]) == 4


class Halves(Net):
    def forward(self, x):
        return self.layers(x.mul_(0.5))


def halves(obs):
    obs *= 0.5
    return np.argmax(obs[:, :3], axis=1)


class Halver:
    def predict(self, obs, deterministic=True):
        return halves(obs)


@pytest.mark.parametrize("source", [Halves(), halves, Halver(), "torchscript"])
def test_a_teacher_that_changes_its_argument_gets_a_copy(tmp_path, source):
    obs, seen = observations(VECTOR, 4), observations(VECTOR, 4)
    teacher = load(made("torchscript", Halves(), tmp_path) if source == "torchscript" else source, **SPACES)
    teacher.predict(seen)
    teacher.label(seen)
    np.testing.assert_array_equal(seen, obs)


class Bare:
    def predict(self, obs, deterministic=True):
        return np.arange(len(obs)) % 3


@pytest.mark.parametrize(
    "source",
    [
        Bare(),
        lambda o: (np.arange(len(o)) % 3, None),
        lambda o: (np.arange(len(o)) % 3, (np.zeros((1, len(o), 2)), np.zeros((1, len(o), 2)))),
        lambda o: (np.arange(len(o)) % 3, np.zeros((7, 7))),
        lambda o: [int(i) % 3 for i in range(len(o))],
        lambda o: torch.arange(len(o)) % 3,
    ],
)
def test_answers_of_many_forms(source):
    assert load(source, **SPACES).predict(observations(VECTOR, 8))[0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (["left"] * 8, "an array of text, not numbers"),
        (np.array([1] * 8, object), "an array of object, not numbers"),
        ({"action": np.zeros(8)}, "a dict, not numbers"),
        (None, "None, not numbers"),
        (np.int64(1), r"shape \(\) to a batch of 8 observations: its first axis must be theirs"),
    ],
)
def test_answers_that_are_no_array_of_numbers(answer, words):
    with pytest.raises(UserError, match=words):
        load(lambda o: answer, **SPACES).predict(observations(VECTOR, 8))


class Raises(Net):
    def forward(self, x):
        raise IndexError("index out of range")


class Nameless(nn.Module):
    @torch.jit.export
    def act(self, x):
        return x


@pytest.mark.parametrize(
    ("module", "words"), [(Raises(), "index out of range"), (torch.jit.script(Nameless()), "no attribute 'forward'")]
)
def test_modules_that_cannot_be_asked_say_so_in_a_line(module, words):
    with pytest.raises(UserError, match=f"cannot be asked: .*{words}"):
        load(module, **SPACES).predict(observations(VECTOR, 4))


def test_damaged_files(tmp_path):
    for name in ("teacher.pt", "teacher.onnx"):
        (tmp_path / name).write_bytes(b"damaged")
        with pytest.raises(UserError, match=name):
            load(tmp_path / name, **SPACES)
    with pytest.raises(UserError, match="several models"):
        load(tmp_path, **SPACES)


def test_spaces_are_needed(tmp_path):
    for kind in KINDS:
        with pytest.raises(UserError, match="--env"):
            load(made(kind, Net(), tmp_path))


def test_a_black_box_shows_itself_in_a_line():
    def walk(obs):
        return np.zeros(len(obs), np.int64)

    shown = repr(understudy.load(walk, env="CartPole-v1"))
    assert shown == "<Python walk: Box 4 float32, -inf to inf -> Discrete(2)>"
