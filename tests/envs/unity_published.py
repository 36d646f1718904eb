"""Runs the test player through the published mlagents-envs, and writes down what that saw.

    python tests/envs/unity_published.py mlagents_envs-1.1.0-py3-none-any.whl SEED EXCHANGES OUT PLAYER [ARGUMENT ...]

A program of its own: the package hangs at exit where something goes wrong. Its Python code runs as it was published;
only its generated ``*_pb2`` modules, which current protobuf refuses to load, are replaced by classes that are built at
run time from the very descriptors in them.
"""

import ast
import json
import logging
import socket
import sys
import types
import zipfile
import zlib

import numpy as np

OBJECTS = "mlagents_envs/communicator_objects/"
PARAMETERS = {"mass": 2.5, "gap": {"intervals": [[1.0, 2.0], [5.0, 6.0]]}}


def descriptors(wheel):
    """Return {module: serialized file descriptor} of the generated modules; nothing in them is run."""
    found = {}
    with zipfile.ZipFile(wheel) as files:
        for name in files.namelist():
            if not (name.startswith(OBJECTS) and name.endswith("_pb2.py")):
                continue
            for node in ast.walk(ast.parse(files.read(name))):
                if isinstance(node, ast.keyword) and node.arg == "serialized_pb":
                    text = node.value.args[0] if isinstance(node.value, ast.Call) else node.value
                    raw = ast.literal_eval(text)
                    found[name.removeprefix(OBJECTS).removesuffix(".py")] = (
                        raw.encode("latin1") if isinstance(raw, str) else raw
                    )
    return found


def modules(wheel):
    """Return {module: its classes and enumeration values}, built from the descriptors."""
    from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

    files = {n: descriptor_pb2.FileDescriptorProto.FromString(raw) for n, raw in descriptors(wheel).items()}
    pool, waiting = descriptor_pool.DescriptorPool(), dict(files)
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    added = {"google/protobuf/any.proto"}
    while waiting:
        ready = [n for n, file in waiting.items() if set(file.dependency) <= added]
        assert ready, f"circular: {list(waiting)}"
        for name in ready:
            file = waiting.pop(name)
            pool.Add(file)
            added.add(file.name)
    found = {}
    for name, file in files.items():
        described = pool.FindFileByName(file.name)
        classes = {n: message_factory.GetMessageClass(m) for n, m in described.message_types_by_name.items()}
        values = {v.name: v.number for e in described.enum_types_by_name.values() for v in e.values}
        found[name] = {"DESCRIPTOR": described, **classes, **values}
    return found


def import_published(wheel):
    """Make ``import mlagents_envs`` find the wheel, with message classes of its own descriptors."""
    sys.path.insert(0, str(wheel))
    for name, contents in modules(wheel).items():
        full = f"{OBJECTS.replace('/', '.')}{name}"
        module = sys.modules[full] = types.ModuleType(full)
        vars(module).update(contents)


def action_of(agent, count, continuous, branches, mask=None):
    """What an agent does at its n-th decision: at random, the same for whoever asks; never what is forbidden."""
    rng = np.random.default_rng((agent, count))
    floats = rng.uniform(-1, 1, continuous).astype(np.float32)
    ints = []
    for i, size in enumerate(branches):
        allowed = np.flatnonzero(~np.asarray(mask[i])) if mask else np.arange(size)
        ints.append(int(rng.choice(allowed)))
    return floats, ints


def seen(array):
    """An observation as text: shape, and a checksum of its float32 bytes."""
    array = np.ascontiguousarray(array, np.float32)
    return [list(array.shape), zlib.crc32(array.tobytes())]


def record(env, exchanges):
    """Play; one row per exchange: what every agent showed, in order."""
    from mlagents_envs.base_env import ActionTuple

    rows, counts = [], {}
    for number in range(exchanges):
        env.step() if number else env.reset()
        row = {}
        for name, spec in env.behavior_specs.items():
            branches = list(spec.action_spec.discrete_branches)
            asking, ended = env.get_steps(name)
            agents, floats, ints = [], [], []
            for k, agent in enumerate(ended.agent_id.tolist()):
                agents.append(_agent(ended, k, agent) | {"ended": True, "late": bool(ended.interrupted[k])})
            for k, agent in enumerate(asking.agent_id.tolist()):
                mask = None if asking.action_mask is None else [m[k].tolist() for m in asking.action_mask]
                agents.append(_agent(asking, k, agent) | {"ended": False, "forbidden": mask})
                count = counts[name, agent] = counts.get((name, agent), -1) + 1
                each = action_of(agent, count, spec.action_spec.continuous_size, branches, mask)
                floats.append(each[0])
                ints.append(each[1])
            if agents:
                row[name] = {"continuous": spec.action_spec.continuous_size, "branches": branches, "agents": agents}
            if ints:
                shape = (len(ints), len(branches))
                env.set_actions(name, ActionTuple(np.stack(floats), np.array(ints, np.int32).reshape(shape)))
        rows.append(row)
    return rows


def _agent(steps, k, agent):
    return {
        "id": agent, "reward": float(steps.reward[k]), "group": int(steps.group_id[k]),
        "group_reward": float(steps.group_reward[k]), "obs": [seen(obs[k]) for obs in steps.obs],
    }  # fmt: skip


def main():
    """Play through the published package, with a time scale, a number and a sampler told to the scene."""
    wheel, seed, exchanges, out, player, *arguments = sys.argv[1:]
    logging.disable(logging.WARNING)
    import_published(wheel)
    from mlagents_envs.environment import UnityEnvironment
    from mlagents_envs.side_channel.engine_configuration_channel import EngineConfigurationChannel
    from mlagents_envs.side_channel.environment_parameters_channel import EnvironmentParametersChannel

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    engine, parameters = EngineConfigurationChannel(), EnvironmentParametersChannel()
    env = UnityEnvironment(
        player, base_port=port, seed=int(seed), timeout_wait=30, additional_args=arguments,
        side_channels=[engine, parameters],
    )  # fmt: skip
    try:
        engine.set_configuration_parameters(84, 84, 5, 20.0, -1, 60)
        parameters.set_float_parameter("mass", PARAMETERS["mass"])
        parameters.set_multirangeuniform_sampler_parameters("gap", PARAMETERS["gap"]["intervals"], int(seed) + 1)
        rows = record(env, int(exchanges))
    finally:
        env.close()
    with open(out, "w") as file:
        json.dump(rows, file)


if __name__ == "__main__":
    main()
