"""The published mlagents-envs 1.1.0 sees in the test player what we see.

Give the wheel with MLAGENTS_ENVS_WHEEL=FILE (``pip download --no-deps --ignore-requires-python mlagents-envs==1.1.0``).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.envs import unity_published as published
from tests.envs.unity_helpers import PLAYER, received

from understudy.envs.unity.messages import _TABLE, PACKAGE, messages
from understudy.envs.unity.options import UnityOptions
from understudy.envs.unity.player import Player
from understudy.envs.unity.roster import Roster, reward_of
from understudy.envs.unity.sensors import sensors_of

WHEEL = os.environ.get("MLAGENTS_ENVS_WHEEL", "")
pytestmark = pytest.mark.skipif(
    not WHEEL, reason="MLAGENTS_ENVS_WHEEL does not name the wheel of mlagents-envs 1.1.0 (see docs/unity.md)"
)


def ours(program, seed, exchanges, arguments):
    """What ``unity_published.record`` writes down, through our own player, roster, sensors and actions."""
    options = UnityOptions(
        str(program), env_args=tuple(arguments), timeout_wait=30.0,
        parameters={
            "mass": published.PARAMETERS["mass"],
            "gap": {"sampler_type": "multirangeuniform", "sampler_parameters": published.PARAMETERS["gap"]},
        },
    )  # fmt: skip
    player, roster, rows, counts = Player(options, seed, lambda: None), Roster(0), [], {}
    try:
        player.begin()
        order = Roster.reset_order()
        for _ in range(exchanges):
            player.send(order)
            row, actions = _row(roster, player.receive(), counts)
            rows.append(row)
            order = roster.orders(actions)
    finally:
        player.close()
    return rows


def _row(roster, output, counts):
    found, actions = roster.read(output), {}
    row = {}
    for ended, agents in ((True, found.ended), (False, found.asking)):
        for (name, agent), info in agents:
            spec = roster.specs[name]
            described = {"continuous": spec.continuous, "branches": list(spec.branches), "agents": []}
            told = {"id": agent, "ended": ended, "group": info.group_id, "group_reward": info.group_reward}
            told["reward"] = reward_of(info) - info.group_reward
            told["obs"] = [published.seen(_as_floats(s, o)) for s, o in _pairs(info)]
            if ended:
                told["late"] = info.max_step_reached
            else:
                allowed = np.split(spec.mask(info.action_mask), np.cumsum(spec.branches)) if spec.branches else None
                forbidden = [(branch == 0).tolist() for branch in allowed[:-1]] if allowed else None
                told["forbidden"] = forbidden
                count = counts[name, agent] = counts.get((name, agent), -1) + 1
                floats, ints = published.action_of(agent, count, spec.continuous, spec.branches, forbidden)
                message = spec.rest()
                message.continuous_actions[:] = floats.tolist()
                message.discrete_actions[:] = ints
                actions[name, agent] = message
            row.setdefault(name, described)["agents"].append(told)
    return row, actions


def _pairs(info):
    return zip(sensors_of(info.observations), info.observations, strict=True)


def _as_floats(sensor, seen):
    array = sensor.read(seen)
    return (array.astype(np.float32) / 255.0).astype(np.float32) if sensor.picture else array


@pytest.mark.parametrize(
    "arguments",
    [
        ["--limit", "30"],
        ["--agents", "4", "--uneven", "2", "--pause", "3", "--limit", "20", "--new-ids", "--groups"],
        ["--scene", "chooser", "--agents", "3", "--limit", "9", "--channels-first"],
        ["--scene", "hybrid", "--agents", "2", "--limit", "7"],
        ["--scene", "two", "--agents", "5", "--late", "12", "--limit", "15"],
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)
def test_the_published_package_sees_the_same(arguments, tmp_path):
    program = tmp_path / "Scene.x86_64"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {PLAYER} "$@"\n')
    program.chmod(0o755)
    theirs_out, exchanges, seed = tmp_path / "theirs.json", 80, 5
    words = [*arguments, "--report", str(tmp_path / "theirs.told")]
    subprocess.run(
        [sys.executable, published.__file__, WHEEL, str(seed), str(exchanges), str(theirs_out), str(program), *words],
        check=True, timeout=400, env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    theirs = json.loads(theirs_out.read_text())
    mine = ours(program, seed, exchanges, [*arguments, "--report", str(tmp_path / "mine.told")])
    assert len(theirs) == len(mine) == exchanges
    agents = 0
    for number, (a, b) in enumerate(zip(theirs, json.loads(json.dumps(mine)), strict=True)):
        assert a.keys() == b.keys(), number
        for name in a:
            key = lambda each: (each["ended"], each["id"])  # noqa: E731
            agents += len(a[name]["agents"])
            assert sorted(a[name].pop("agents"), key=key) == sorted(b[name].pop("agents"), key=key), number
            assert a[name] == b[name]
    assert agents > exchanges / 2
    _same_orders(received(tmp_path / "theirs.told"), received(tmp_path / "mine.told"))


def _same_orders(theirs, mine):
    """What the player was told: version, package, seed, resets, and the side channels that both sides have."""
    for name in ("seed", "communication", "package", "resets"):
        assert theirs[name] == mine[name], name
    channels = {channel for channel, _ in mine["channels"]}
    assert len(channels) == 2, "the engine's and the environment parameters'"
    told = [tuple(each) for each in theirs["channels"] if each[0] in channels]
    assert sorted(told) == sorted(tuple(each) for each in mine["channels"])


def test_our_table_is_a_part_of_the_published_descriptors():
    types = {1: "double", 2: "float", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 14: "int32"}
    found = {}
    for contents in published.modules(WHEEL).values():
        for name, cls in contents.items():
            if hasattr(cls, "DESCRIPTOR") and name != "DESCRIPTOR":
                found[name] = {f.number: f for f in cls.DESCRIPTOR.fields}
                found |= {n.name: {f.number: f for f in n.fields} for n in cls.DESCRIPTOR.nested_types}
    assert messages().Message.DESCRIPTOR.full_name == f"{PACKAGE}.UnityMessageProto"
    for message, fields in _TABLE.items():
        for field in fields.split(", "):
            number, kind, name = field.split(" ")
            theirs = found[message][int(number)]
            assert theirs.name == name, f"{message}.{name}"
            if kind.rstrip("*") in types.values():
                assert types[theirs.type] == kind.rstrip("*") and theirs.is_repeated == kind.endswith("*")
            else:
                assert theirs.message_type is not None


def test_the_wheel_is_the_one_that_was_compared():
    assert Path(WHEEL).name.startswith("mlagents_envs-1.1.0")
