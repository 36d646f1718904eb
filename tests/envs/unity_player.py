"""A player for tests: a program that speaks ML-Agents' protocol as a built Unity scene does, without Unity.

    python tests/envs/unity_player.py --mlagents-port 5005 --scene 3dball --agents 12

It is a gRPC client that puts its bytes together by hand (``unity_wire``). Faults come on command: a file (``--fault``)
that says ``die``, ``hang``, ``nan``, ``garbage`` or ``hangup`` is taken away by the player that obeys it.
"""

import argparse
import json
import math
import os
import struct
import sys
import time
import uuid
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import unity_wire as wire  # noqa: E402
from unity_scenes import SCENES  # noqa: E402

METHOD = "/communicator_objects.UnityToExternalProto/Exchange"
STATS = uuid.UUID("a1d8f7b7-cec8-50f9-b78b-d3e165a78520")
STEP, RESET = 0, 1


def png(picture):
    """[H, W, 3] uint8 as a PNG file."""
    height, width, _ = picture.shape

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def observation(name, shape, kind, content):
    """An ``ObservationProto``."""
    body = wire.numbers(1, shape)
    if kind == "png":
        body += wire.number(2, 1) + wire.data(3, png(content))
    else:
        body += wire.data(4, wire.singles(1, content))
    return body + wire.data(8, name)


def agent_info(slot, reward, done, late, broken=False):
    """An ``AgentInfoProto``."""
    seen = slot.agent.look()
    if slot.player.options.channels_first:
        seen = [(n, s[-1:] + s[:-1] if k == "png" else s, k, c) for n, s, k, c in seen]
    if broken:
        name, shape, kind, content = seen[-1]
        seen[-1] = (name, shape, kind, [math.nan, *content[1:]])
    body = wire.single(7, reward) + wire.number(8, done) + wire.number(9, late) + wire.number(10, slot.id)
    if any(mask := slot.agent.mask()):
        body += wire.numbers(11, mask)
    body += b"".join(wire.data(13, observation(*each)) for each in seen)
    return body + wire.number(14, slot.group) + wire.single(15, slot.group_reward if slot.group else 0.0)


class Slot:
    """A place in the scene where agents live one after another."""

    group_reward = 0.25

    def __init__(self, player, kind, index):
        self.player, self.index = player, index
        self.agent = kind(player.seed * 1000 + index, player.options.limit + (index % 3) * player.options.ragged)
        self.id = index
        self.group = 1 if player.options.groups else 0
        self.reward, self.waits_until = 0.0, index * player.options.stagger
        self.waiting = False


class Player:
    """The scene, and what it says."""

    def __init__(self, options):
        self.options, self.exchange_count, self.next_id = options, 0, 1000
        self.received = {"parameters": [], "resets": 0, "channels": [], "earned": {}, "arguments": sys.argv[1:]}
        self.described = set()
        self.pending = {}

    def begin(self, initialization):
        """Take the seed and build the scene."""
        told = wire.read(initialization)
        self.seed = told.get(1, [0])[0]
        self.received |= {"seed": self.seed, "communication": told[2][0].decode(), "package": told[3][0].decode()}
        self.received["capabilities"] = sorted(wire.read(told[4][0]))
        kinds = SCENES[self.options.scene]
        self.slots = [Slot(self, kinds[i % len(kinds)], i) for i in range(self.options.agents)]
        self.time = 0

    def reset(self):
        """Begin all episodes anew."""
        self.received["resets"] += 1
        for slot in self.slots:
            slot.agent.begin()
            slot.waits_until, slot.waiting, slot.reward = self.time + slot.index * self.options.stagger, False, 0.0

    def obey(self, rl_input):
        """Do what an order says."""
        told = wire.read(rl_input)
        if 5 in told:
            self._channels(told[5][0])
        if told.get(4, [STEP])[0] == RESET:
            self.reset()
            return
        given = {}
        for item in told.get(1, []):
            pair = wire.read(item)
            given[pair[1][0].decode()] = [wire.read(a) for a in wire.read(pair.get(2, [b""])[0]).get(1, [])]
        for name, slots in self.pending.items():
            actions = given.get(name, [])
            assert len(actions) == len(slots), f"{len(actions)} actions for {len(slots)} agents of {name}"
            for slot, action in zip(slots, actions, strict=True):
                floats, ints = wire.floats(action.get(6, [])), wire.ints(action.get(7, []))
                assert (len(floats), len(ints)) == (slot.agent.continuous, len(slot.agent.branches)), action
                slot.actions = floats, ints
                slot.waiting = False

    def _channels(self, raw):
        at = 0
        while at < len(raw):
            channel = str(uuid.UUID(bytes_le=raw[at : at + 16]))
            (size,) = struct.unpack_from("<i", raw, at + 16)
            self.received["channels"].append((channel, raw[at + 20 : at + 20 + size].hex()))
            at += 20 + size

    def advance(self):
        """One tick: who was given an action moves, who is due asks; return the agents' infos by behaviour."""
        infos, self.pending, fell = {}, {}, False
        self.time += 1
        if self.time == self.options.die_at:
            os._exit(11)
        for slot in self.slots:
            acted = getattr(slot, "actions", None)
            if acted is None or slot.waiting:
                continue
            slot.actions = None
            reward, end = slot.agent.act(*acted)
            slot.reward = reward
            self.received["earned"].setdefault(slot.agent.behavior, []).append(reward)
            if self.options.seen and slot.agent.behavior.startswith("Goalie"):
                history = self.received.setdefault("seen", {}).setdefault(str(slot.index), [])
                history.append([slot.agent.wanted, acted[0][0], end])
            slot.waits_until = self.time + (slot.index % 2) * self.options.uneven
            if end:
                infos.setdefault(slot.agent.behavior, []).append(agent_info(slot, reward, True, end == "late"))
                self._respawn(slot)
                fell = True
        if fell and self.options.global_reset:
            infos = self._end_all(infos)
        broken = self.fault() if self.options.fault else ""
        for slot in self.slots:
            if self.time >= slot.waits_until and getattr(slot, "actions", None) is None and not slot.waiting:
                if slot.agent.behavior.startswith("Goalie") and self.time < self.options.late:
                    continue
                nan = broken == "nan" and not any(self.pending.values())
                info = agent_info(slot, slot.reward, False, False, nan)
                slot.reward, slot.waiting = 0.0, True
                self.pending.setdefault(slot.agent.behavior, []).append(slot)
                infos.setdefault(slot.agent.behavior, []).append(info)
        return infos, broken

    def _respawn(self, slot):
        if slot.index < self.options.mortal:
            slot.waits_until = 10**9  # it does not come back
        else:
            slot.waits_until = self.time + self.options.pause
        slot.agent.begin()
        slot.reward = 0.0
        if self.options.new_ids:
            slot.id, self.next_id = self.next_id, self.next_id + 1

    def _end_all(self, infos):
        """The harm: what ends one agent's episode ends everybody's, as if time ran out."""
        ended = {wire.read(info)[10][0] if 10 in wire.read(info) else 0 for each in infos.values() for info in each}
        for slot in self.slots:
            if slot.id not in ended:
                infos.setdefault(slot.agent.behavior, []).append(agent_info(slot, slot.reward, True, True))
                self._respawn(slot)
        return infos

    def fault(self):
        """Return the fault that was ordered, once."""
        path = Path(self.options.fault)
        try:
            kind = path.read_text().strip()
            path.rename(f"{path}.{os.getpid()}-{time.time_ns()}")  # only one player gets it
        except OSError:
            return ""
        if kind == "die":
            sys.stderr.write("Caught fatal signal - signo:11\n")
            sys.stderr.flush()
            os._exit(139)
        if kind == "hang":
            time.sleep(10_000)
        return kind

    def say(self, infos):
        """A ``UnityMessageProto`` with the infos; behaviours are described when they first appear."""
        output = b"".join(
            wire.entry(2, name, b"".join(wire.data(1, info) for info in each)) for name, each in infos.items()
        )
        if self.options.stats:
            payload = struct.pack("<i", 4) + b"tilt" + struct.pack("<fi", float(self.time), 0)
            output += wire.data(3, STATS.bytes_le + struct.pack("<i", len(payload)) + payload)
        body = wire.data(1, output)
        news = [slot.agent for slot in self.slots if slot.agent.behavior in set(infos) - self.described]
        fresh = {agent.behavior: agent for agent in news}
        if fresh:
            self.described |= set(fresh)
            body += wire.data(2, b"".join(wire.data(5, self._brain(agent)) for agent in fresh.values()))
        return wire.data(1, wire.number(1, 200)) + wire.data(2, body)

    def _brain(self, agent):
        spec = wire.number(1, agent.continuous) + wire.number(2, len(agent.branches)) + wire.numbers(3, agent.branches)
        return wire.data(7, agent.behavior) + wire.number(8, 1) + wire.data(9, spec)


def serve(options):
    """Talk until the other side says that it is over."""
    import grpc

    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{options.mlagents_port}", limits)
    exchange = channel.unary_unary(METHOD)
    player = Player(options)
    if options.die_at_start:
        sys.exit("there is no display")
    greeting = wire.data(1, "AcademySingleton") + wire.data(2, options.version) + wire.data(7, "3.0.0")
    capabilities = b"".join(wire.number(field, 1) for field in range(1, 8))
    greeting = wire.data(2, wire.data(2, greeting + wire.data(8, capabilities)))
    answer = wire.read(exchange(wire.data(1, wire.number(1, 200)) + greeting, wait_for_ready=True))
    if wire.read(answer[1][0])[1][0] != 200:
        return
    player.begin(wire.read(answer[3][0])[2][0])
    message = wire.data(1, wire.number(1, 200))
    while True:
        reply = wire.read(exchange(message))
        if wire.read(reply[1][0]).get(1, [0])[0] != 200:
            break
        player.obey(wire.read(reply[3][0])[1][0] if reply.get(3) else b"")
        if options.report:
            own = Path(f"{options.report}.{os.getpid()}")  # another player may report to the same file
            own.write_text(json.dumps(player.received))
            own.replace(options.report)
        if options.slow:
            time.sleep(options.slow)
        infos, fault = player.advance()
        if fault == "hangup":
            channel.close()
            time.sleep(10_000)
        message = player.say(infos)
        if fault == "garbage":
            message = b"\xff\xff\xff" + message
    channel.close()


def main():
    """Read the arguments; those of Unity itself are known and ignored."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add = parser.add_argument
    add("--mlagents-port", type=int, required=True)
    add("-nographics", action="store_true")
    add("-batchmode", action="store_true")
    add("-logFile")
    add("--scene", default="3dball", choices=SCENES)
    add("--agents", type=int, default=12)
    add("--limit", type=int, default=200, help="steps of an episode")
    add("--ragged", type=int, default=0, help="so many more steps for every second and third agent")
    add("--stagger", type=int, default=0, help="agent i asks i times so many ticks later first")
    add("--uneven", type=int, default=0, help="every second agent waits so many ticks before it asks")
    add("--pause", type=int, default=0, help="ticks between two episodes")
    add("--mortal", type=int, default=0, help="so many agents do not come back after their first episode")
    add("--new-ids", action="store_true", help="a new id for every episode")
    add("--groups", action="store_true", help="group rewards of 0.25")
    add("--global-reset", action="store_true", help="the harm: an agent's end ends all episodes")
    add("--channels-first", action="store_true", help="pictures say [C, H, W], as since package 3.0")
    add("--late", type=int, default=0, help="ticks before the goalies appear")
    add("--seen", action="store_true", help="report what goalies saw and did")
    add("--stats", action="store_true", help="report a statistic")
    add("--version", default="1.5.0", help="of the protocol")
    add("--die-at-start", action="store_true")
    add("--die-at", type=int, default=0, help="tick at which every player dies")
    add("--fault", help="file that orders a fault")
    add("--slow", type=float, default=0.0, help="seconds that a step takes")
    add("--report", help="file that is told what was received")
    serve(parser.parse_args())


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
