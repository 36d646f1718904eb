"""What the tests of Unity scenes share."""

import json
import socket
from pathlib import Path

import numpy as np

from understudy.data import EnvSpec

PLAYER = Path(__file__).with_name("unity_player.py")


def scene(*arguments, path=PLAYER, behavior="", **kwargs):
    """A description of the test player."""
    name = f"unity:{path}" + (f"?behavior={behavior}" if behavior else "")
    return EnvSpec(name, {"env_args": tuple(map(str, arguments)), "timeout_wait": 90.0, **kwargs})


def free_port():
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def received(path):
    """What the player was told, as its ``--report`` says."""
    return json.loads(Path(path).read_text())


def still(env):
    """Actions of agents that rest."""
    return np.zeros((env.num_envs, *env.action_space.shape), env.action_space.dtype)


def order_fault(path, kind):
    """Order a fault, whole at once."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(kind)
    temporary.rename(path)


def balance(obs):
    """A teacher of the balls: tilt each plate against its ball's place and speed."""
    tilt, ball, speed = obs[:, :2], obs[:, [2, 4]], obs[:, [5, 7]]
    wanted = np.clip(-0.15 * ball - 0.2 * speed, -0.4, 0.4)
    return np.clip((wanted - tilt) / (2 * np.pi / 180), -1, 1).astype(np.float32)
