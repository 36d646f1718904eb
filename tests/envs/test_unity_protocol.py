"""The wire protocol of ML-Agents, against bytes that are put together by hand."""

import struct
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from tests.envs import unity_wire as wire
from tests.envs.unity_player import png

from understudy.envs.unity import channels
from understudy.envs.unity.actions import ActionSpec, spec_of
from understudy.envs.unity.link import Gone, Link, PortInUse, load_grpc
from understudy.envs.unity.messages import METHOD, RESET, initialization, messages
from understudy.envs.unity.roster import Roster
from understudy.envs.unity.sensors import SensorError, read_picture, sensors_of
from understudy.errors import UserError

grpc = load_grpc()
ENGINE, PARAMETERS = "e951342c-4f7e-11ea-b238-784f4387d1f7", "534c891e-810f-11ea-a9d0-822485860400"


def message(raw):
    return messages().Message.FromString(raw)


def test_what_a_player_sends_is_understood():
    seen = (
        wire.numbers(1, [3]) + wire.data(4, wire.singles(1, [0.5, -2.0, 3.0])) + wire.data(8, "ray") + wire.number(7, 1)
    )
    info = wire.single(7, 1.5) + wire.number(8, 1) + wire.number(9, 1) + wire.number(10, 70_000)
    info += wire.numbers(11, [1, 0, 1]) + wire.data(13, seen) + wire.number(14, 4) + wire.single(15, -0.25)
    spec = wire.number(1, 2) + wire.number(2, 2) + wire.numbers(3, [3, 300])
    brain = wire.data(7, "Walker?team=0") + wire.number(8, 1) + wire.data(9, spec)
    output = wire.data(1, wire.entry(2, "Walker?team=0", wire.data(1, info)) + wire.data(3, b"xyz"))
    output += wire.data(2, wire.data(2, "1.5.0") + wire.data(5, brain) + wire.data(7, "3.0.0"))
    got = message(wire.data(1, wire.number(1, 200)) + wire.data(2, output))
    assert got.header.status == 200
    told = got.unity_output.rl_initialization_output
    assert (told.communication_version, told.package_version) == ("1.5.0", "3.0.0")
    assert spec_of(told.brain_parameters[0], 5) == ActionSpec(2, (3, 300), 5)
    (agent,) = got.unity_output.rl_output.agentInfos["Walker?team=0"].value
    assert (agent.reward, agent.done, agent.max_step_reached, agent.id) == (1.5, True, True, 70_000)
    assert (agent.group_id, agent.group_reward, list(agent.action_mask)) == (4, -0.25, [True, False, True])
    (observation,) = agent.observations
    assert list(observation.shape) == [3] and list(observation.float_data.data) == [0.5, -2.0, 3.0]
    assert (observation.name, observation.observation_type) == ("ray", 1)
    assert got.unity_output.rl_output.side_channel == b"xyz"


def test_what_a_player_is_told_can_be_read():
    told = wire.read(initialization(7, 3).SerializeToString())
    first = wire.read(wire.read(told[3][0])[2][0])
    assert (first[1], first[2], first[3], first[5]) == ([7], [b"1.5.0"], [b"1.1.0"], [3])
    assert sorted(wire.read(first[4][0])) == [1, 2, 3, 4, 6, 7]
    roster = Roster(0)
    brain = wire.data(7, "A?team=0") + wire.data(9, wire.number(1, 2))
    infos = b"".join(wire.data(1, wire.number(10, i) + wire.number(8, i == 5)) for i in (4, 5, 6))
    output = wire.data(2, wire.data(1, wire.entry(2, "A?team=0", infos)) + wire.data(2, wire.data(5, brain)))
    roster.read(message(output).unity_output)
    action = roster.specs["A?team=0"].encode(np.array([0.5, -3.0]), None)
    raw = wire.read(roster.orders({("A?team=0", 6): action}).SerializeToString())
    assert 4 not in raw  # STEP is 0
    pair = wire.read(raw[1][0])
    actions = [wire.floats(wire.read(a)[6]) for a in wire.read(pair[2][0])[1]]
    assert pair[1] == [b"A?team=0"] and actions == [[0.0, 0.0], [0.5, -1.0]], "one for each that asks, in order"
    assert wire.read(Roster.reset_order().SerializeToString()) == {4: [RESET]}


def test_discrete_actions_on_the_wire():
    spec = ActionSpec(0, (3, 2))
    raw = wire.read(spec.encode(np.array([2, 1]), None).SerializeToString())
    assert raw == {7: [b"\x02\x01"]}
    mask = spec.mask([False, True, True, False, False])
    assert mask.tolist() == [1, 0, 0, 1, 1]
    assert wire.read(spec.encode(np.array([2, 1]), mask).SerializeToString()) == {7: [b"\x00\x01"]}
    hybrid = ActionSpec(1, (2,), 5)
    told = wire.read(hybrid.encode(np.array([3, 1]), None).SerializeToString())
    assert wire.floats(told[6]) == [0.5] and told[7] == [b"\x01"]
    with pytest.raises(UserError, match="continuous actions and the discrete branches.*bins"):
        ActionSpec(1, (2,)).space("Hybrid")


def test_side_channels_are_framed_as_unity_reads_them():
    options = {"width": 80, "height": 60, "quality_level": 1, "time_scale": 20.0, "target_frame_rate": -1}
    packets = list(channels.unpack(channels.engine({**options, "capture_frame_rate": None})))
    assert [str(channel) for channel, _ in packets] == [ENGINE] * 4
    assert [payload for _, payload in packets] == [
        struct.pack("<iii", 0, 80, 60), struct.pack("<ii", 1, 1), struct.pack("<if", 2, 20.0), struct.pack("<ii", 3, -1)
    ]  # fmt: skip
    raw = channels.pack(uuid.UUID(ENGINE), b"abc")
    assert raw.hex() == "2c3451e97e4fea11b238784f4387d1f7" + "03000000" + "616263"


def test_environment_parameters_and_samplers():
    samplers = {
        "mass": 2.5,
        "size": {"sampler_type": "uniform", "sampler_parameters": {"min_value": 1, "max_value": 2}},
        "wind": {"sampler_type": "gaussian", "sampler_parameters": {"mean": 0, "st_dev": 3}},
        "gap": {"sampler_type": "multirangeuniform", "sampler_parameters": {"intervals": [[1, 2], [5, 6]]}},
    }
    packets = list(channels.unpack(channels.parameters(samplers, 10)))
    assert {str(channel) for channel, _ in packets} == {PARAMETERS}
    assert [payload for _, payload in packets] == [
        struct.pack("<i4sif", 4, b"mass", 0, 2.5),
        struct.pack("<i4siiiff", 4, b"size", 1, 11, 0, 1, 2),
        struct.pack("<i4siiiff", 4, b"wind", 1, 12, 1, 0, 3),
        struct.pack("<i3s", 3, b"gap") + struct.pack("<iiiiffff", 1, 13, 2, 4, 1, 2, 5, 6),
    ]
    wide = {"sampler_type": "uniform", "sampler_parameters": {"min_value": 0, "max_value": 1e50}}
    unknown, other = {"sampler_type": "unifrom"}, {"sampler_type": "uniform", "sampler_parameters": {"mean": 1}}
    for wrong in ("heavy", unknown, other, wide, 1e50, 10**400, float("nan")):
        with pytest.raises(UserError, match="environment parameter 'mass'"):
            channels.parameters({"mass": wrong}, 0)


def test_malformed_side_channels_are_noticed():
    with pytest.raises(ValueError, match="cut off"):
        list(channels.unpack(b"short"))
    with pytest.raises(ValueError, match="longer"):
        list(channels.unpack(bytes(16) + struct.pack("<i", 9) + b"abc"))
    assert channels.stats(struct.pack("<i4sfi", 4, b"tilt", 2.5, 0)) == ("tilt", 2.5)
    with pytest.raises(ValueError, match="malformed"):
        channels.stats(b"\x09")


def picture(shape, content, mapping=()):
    raw = wire.numbers(1, shape) + wire.number(2, 1) + wire.data(3, content) + wire.data(8, "Camera")
    if len(mapping):
        raw += wire.numbers(5, mapping)
    return (
        messages()
        .Message.FromString(wire.data(2, wire.data(1, wire.entry(2, "A", wire.data(1, wire.data(13, raw))))))
        .unity_output.rl_output.agentInfos["A"]
        .value[0]
        .observations[0]
    )


def test_pictures_of_either_layout_become_channels_first():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for shape in ((6, 9, 3), (3, 6, 9)):
        assert np.array_equal(read_picture(picture(shape, png(pixels))), pixels.transpose(2, 0, 1))
    grey = read_picture(picture((6, 9, 1), png(pixels)))
    assert grey.shape == (1, 6, 9) and np.abs(grey[0] - pixels.mean(axis=2)).max() <= 0.5


def test_pictures_one_behind_another_and_channel_mappings():
    one, two = (np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8) for i in (1, 2))
    both = np.concatenate([one, two], axis=2).transpose(2, 0, 1)
    assert np.array_equal(read_picture(picture((4, 5, 5), png(one) + png(two))), both[:5])
    mapped = read_picture(picture((4, 5, 3), png(one) + png(two), [2, 0, 0, 1, -1, -1]))
    assert np.array_equal(mapped[[1, 2]], both[[3, 0]])
    assert np.abs(mapped[0] - both[[1, 2]].mean(axis=0)).max() <= 0.5
    with pytest.raises(SensorError, match="mapping"):
        read_picture(picture((4, 5, 3), png(one), [0, 1]))


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", png(np.zeros((4, 5, 3), np.uint8))[:-20]])
def test_broken_pictures_are_named(content):
    with pytest.raises(SensorError, match="Camera"):
        read_picture(picture((4, 5, 3), content))
    with pytest.raises(SensorError, match="for the shape"):
        read_picture(picture((7, 8, 3), png(np.zeros((4, 5, 3), np.uint8))))


def test_sensors_refuse_what_they_did_not_show_before():
    def vector(*numbers):
        raw = wire.numbers(1, [len(numbers)]) + wire.data(4, wire.singles(1, numbers)) + wire.data(8, "a.b c")
        info = wire.data(1, wire.data(13, raw))
        return (
            message(wire.data(2, wire.data(1, wire.entry(2, "A", info))))
            .unity_output.rl_output.agentInfos["A"]
            .value[0]
        )

    (sensor,) = sensors_of(vector(1.0, 2.0).observations)
    assert sensor.key == "a_b_c" and sensor.read(vector(3.0, 4.0).observations[0]).tolist() == [3, 4]
    assert sensor.read(vector(1e30, -1e30).observations[0]).tolist() == [np.float32(1e30), np.float32(-1e30)]
    for wrong, text in ((vector(1.0, 2.0, 3.0), "3 numbers"), (vector(float("nan"), 1.0), "nan")):
        with pytest.raises(SensorError, match=text):
            sensor.read(wrong.observations[0])


def test_link_is_on_loopback_and_passes_bytes():
    link = Link()
    with pytest.raises(PortInUse, match=f"port {link.port} is in use"):
        Link(link.port)
    answers = []
    channel = grpc.insecure_channel(f"127.0.0.1:{link.port}")
    thread = threading.Thread(target=lambda: answers.append(channel.unary_unary(METHOD)(b"question")))
    thread.start()
    assert link.receive(60.0) == b"question" and link.receive(0.01) is None
    link.send(b"answer")
    thread.join(60.0)
    assert answers == [b"answer"]
    table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    listening = [line.split()[1] for line in table.splitlines() if f":{link.port:04X} " in line and " 0A " in line]
    assert listening and all("0100007F" in address for address in listening), "nobody else may call"
    link.close()
    link.close()
    Link(link.port).close()
    channel.close()


def test_link_ends_a_player_that_waits_and_notices_one_that_hangs_up():
    link, statuses = Link(), []
    channel = grpc.insecure_channel(f"127.0.0.1:{link.port}")

    def call():
        statuses.append(wire.read(wire.read(channel.unary_unary(METHOD)(b""))[1][0])[1])

    thread = threading.Thread(target=call)
    thread.start()
    assert link.receive(60.0) == b""
    link.close()
    thread.join(60.0)
    assert statuses == [[400]]
    channel.close()
    link = Link()
    channel = grpc.insecure_channel(f"127.0.0.1:{link.port}")
    future = channel.unary_unary(METHOD).future(b"", wait_for_ready=True)
    assert link.receive(60.0) == b""
    future.cancel()
    with pytest.raises(Gone):
        link.receive(60.0)
    link.close()
    channel.close()
