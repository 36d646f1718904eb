"""Spaces from printed text, YAML of the zoo, successors of old environments, and the rows of inspect."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from understudy.errors import UserError
from understudy.teachers.inspect import inspect
from understudy.teachers.load import load
from understudy.teachers.sb3_spaces import space_from_data
from understudy.teachers.successors import find_successors, successors
from understudy.teachers.zoo_yaml import parse_value


def described(kind, package="gymnasium", **fields):
    return {":type:": f"<class '{package}.spaces.{kind.lower()}.{kind}'>", **fields}


def read(field, where="the observation space"):
    return space_from_data(field, where)


def test_boxes_of_old_and_new_files():
    old = described("Box", "gym", dtype="float32", shape=[2], low="[-1.2  -0.07]", high="[0.6  inf]")
    box = spaces.Box(np.float32([-1.2, -0.07]), np.float32([0.6, np.inf]))
    assert read(old) == box
    new = described("Box", dtype="float32", _shape=[2], low="[-1.2  -0.07]", high="[0.6  inf]", low_repr=None)
    assert read(new) == box
    wide = described("Box", dtype="float32", _shape=[1], low="[-3.4028235e+38]", high="[3.4028235e+38]")
    assert read(wide).high[0] == np.finfo(np.float32).max


def test_boxes_of_true_and_false():
    box = spaces.Box(0, 1, (3,), np.bool_)
    field = described("Box", dtype="bool", _shape=[3], low="[False False False]", high="[ True  True  True]")
    assert read(field) == box
    assert read({**field, "low_repr": "False", "high_repr": "True"}) == box


def test_texts_with_gaps():
    gap = "[[[0 0 0 ... 0 0 0]\n  ...\n  [0 0 0 ... 0 0 0]]]"
    image = described("Box", dtype="uint8", _shape=[3, 36, 36], low=gap, high=gap.replace("0", "255"))
    assert read(image) == spaces.Box(0, 255, (3, 36, 36), np.uint8)
    uneven = described("Box", dtype="float32", _shape=[2000], low="[-1. -2. ... -3.]", high="[1. 2. ... 3.]")
    assert read(uneven) == spaces.Box(-np.inf, np.inf, (2000,), np.float32)
    with pytest.raises(UserError, match="gaps"):
        read(uneven, "the action space")
    uneven["low_repr"] = uneven["high_repr"] = "4"
    assert read(uneven, "the action space").high.max() == 4


def test_discrete_kinds():
    assert read(described("Discrete", n="4", start="0")) == spaces.Discrete(4)
    assert read(described("Discrete", n=4)) == spaces.Discrete(4)
    assert read(described("MultiDiscrete", nvec="[3 2]", start="[0 0]")) == spaces.MultiDiscrete([3, 2])
    assert read(described("MultiBinary", n=3)) == spaces.MultiBinary(3)
    assert read(described("MultiBinary", n="(2, 3)")).shape == (2, 3)


def test_dicts():
    text = (
        "OrderedDict([('achieved', Box([-10. -10.], [10. 10.], (2,), float32)), ('d', Discrete(3)), "
        "('image', Box(0, 255, (3, 36, 36), uint8)), ('mb', MultiBinary(4)), ('md', MultiDiscrete([2 3]))])"
    )
    old = read(described("Dict", "gym", spaces=text))
    assert list(old.spaces) == ["achieved", "d", "image", "mb", "md"]
    assert old["achieved"] == spaces.Box(-10, 10, (2,), np.float32)
    assert old["image"] == spaces.Box(0, 255, (3, 36, 36), np.uint8)
    new = "{'b': Box(-inf, inf, (), float64), 'a': Box([-1.  -0.5], 1.0, (2,), float32)}"
    assert list(read(described("Dict", spaces=new)).spaces) == ["b", "a"]


@pytest.mark.parametrize(
    "field",
    [
        None,
        {},
        described("Tuple", spaces="(Discrete(2),)"),
        described("Box", dtype="object", shape=[1], low="[0]", high="[1]"),
        described("Box", dtype="float32", low="[0]", high="[1]"),
        described("Box", dtype="float32", shape=[2], low="[a b]", high="[1 2 3]"),
        described("Dict", spaces="{}"),
        described("Dict", spaces="{'a': Dict('b': Discrete(2))}"),
        described("Dict", spaces="{'a': Box(0, 1, (2,"),
        described("Discrete", n="many"),
        described("Discrete", n="3", start="1"),
        described("MultiDiscrete", nvec="[[2 3]\n [2 3]]"),
    ],
)
def test_unreadable_spaces(field):
    with pytest.raises(UserError, match="the action space"):
        read(field, "the action space")


def test_successors():
    assert successors("HalfCheetah-v3") == ["HalfCheetah-v4", "HalfCheetah-v5"]
    assert successors("Humanoid-v3") == ["Humanoid-v4"]
    assert find_successors("Ant-v3")[0].wrappers == ({"type": "pad_observation", "size": 111},)
    assert successors("LunarLander-v2") == ["LunarLander-v3"]
    assert successors("LunarLanderContinuous-v2")[0] == "LunarLanderContinuous-v3"
    assert successors("AntBulletEnv-v0") == ["AntBulletEnv-v0"]
    assert successors("BreakoutNoFrameskip-v4") == ["ALE/Breakout-v5"]
    assert find_successors("BreakoutNoFrameskip-v4")[0].kwargs["repeat_action_probability"] == 0.0
    assert successors("PandaReach-v1") == ["PandaReach-v3"]
    assert successors("MyEnv-v7") == ["MyEnv-v7"]


def test_plain_values_in_yaml():
    assert parse_value("dict(norm_obs=True, net=[dict(pi=[64, 64])], x=-1.5)", "here") == {
        "norm_obs": True,
        "net": [{"pi": [64, 64]}],
        "x": -1.5,
    }
    assert parse_value("{'a': (1, 2)}", "here") == {"a": (1, 2)}
    assert parse_value(3, "here") == 3
    for text in ("dict(nn.ReLU)", "list(a=1)", "dict(**{})", "f()", "a", "dict(a=b)"):
        with pytest.raises(UserError, match="here"):
            parse_value(text, "here")


def test_inspect_says_what_a_teacher_is(ppo_zip):
    rows = dict(inspect(load(ppo_zip, env="Hopper-v3")))
    assert rows["algorithm"] == "PPO"
    assert rows["observations"] == "Box 5 float32, -1 to 1"
    assert rows["network"] == "flat -> MLP 8x8 tanh; value function 8x8"
    assert rows["normaliser"] == "none"
    assert rows["environment"] == "Hopper-v4"
    assert all("\n" not in text for text in rows.values())
