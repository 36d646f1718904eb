"""How a Unity scene is described: ``unity:PATH``, perhaps with ``?behavior=NAME``, and arguments beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from understudy.data import EnvSpec
from understudy.envs.unity.channels import LARGEST
from understudy.errors import UserError, suggest

PREFIX = "unity:"
EDITOR = "editor"
EDITOR_PORT = 5004
_BEHAVIOR = "?behavior="


def is_unity(env_id: str) -> bool:
    """Say whether an id names a Unity scene."""
    return env_id.startswith(PREFIX)


@dataclass(frozen=True)
class UnityOptions:
    """The arguments of a Unity scene; names are those of ``mlagents-learn`` where it has them.

    Attributes:
        path: Of the player's executable, or ``editor``.
        behavior: The behaviour whose agents are stepped; empty where the scene has one. ``Name`` stands for all teams
            of it, ``Name?team=0`` for one.
        base_port: Players listen to the first free port from here on; 0: the kernel chooses.
        no_graphics: Start players with ``-nographics -batchmode``.
        env_args: Arguments passed on to the player.
        time_scale: Of the engine; as the other settings of the engine, None leaves what the scene says.
        width: Of the window.
        height: Of the window.
        quality_level: Of the engine.
        target_frame_rate: Of the engine; -1 as fast as it can.
        capture_frame_rate: Frames per simulated second.
        parameters: Environment parameters: numbers, or samplers as in ML-Agents' YAML.
        num_areas: How many copies of the training area a scene that can replicate it should make.
        timeout_wait: Seconds that a player may be silent, or may take to start, before it counts as hung.
        restarts: Players (of one vector environment) that may fail and be replaced; -1: no limit.
        reseed: Every reset starts a new player with its seed, so that episodes repeat as far as the scene is
            deterministic; otherwise a reset is a message, and the seed counts when the player starts.
        log_folder: Where players write ``player-PORT.log``; empty: nowhere.
        agents: Slots of a player, the most agents that are alive together; 0: as many as it shows at the start.
        masks: Whether observations hold ``action_mask``; None: if the scene shows masks at the start.
        bins: Values of each continuous action where a behaviour has continuous and discrete ones.
        companions: Behaviour to the policy that acts for its agents; those of other behaviours rest.
        settled: Whether ``agents`` and ``masks`` are known, and numbers of environments count agents.
    """

    path: str
    behavior: str = ""
    base_port: int = 0
    no_graphics: bool = False
    env_args: tuple[str, ...] = ()
    time_scale: float | None = 20.0
    width: int = 84
    height: int = 84
    quality_level: int | None = 5
    target_frame_rate: int | None = -1
    capture_frame_rate: int | None = 60
    parameters: Mapping[str, Any] = field(default_factory=dict)
    num_areas: int = 1
    timeout_wait: float = 60.0
    restarts: int = 10
    reseed: bool = False
    log_folder: str = ""
    agents: int = 0
    masks: bool | None = None
    bins: int = 0
    companions: Mapping[str, Any] = field(default_factory=dict)
    settled: bool = False

    @property
    def editor(self) -> bool:
        """Whether the scene runs in the Unity editor."""
        return self.path == EDITOR

    @staticmethod
    def read(spec: EnvSpec) -> UnityOptions:
        """Read a description.

        Raises:
            UserError: An argument is not known or has a wrong value, or something is asked that scenes do not have.
        """
        path, _, behavior = spec.id.removeprefix(PREFIX).partition(_BEHAVIOR)
        if not path:
            raise UserError(f"{spec.id}: the path of the player is missing: unity:PATH, or unity:editor")
        if spec.wrappers:
            raise UserError(f"{spec.id}: wrappers do not go around Unity scenes: leave env.wrappers out")
        if spec.backend != "auto":
            raise UserError(f"{spec.id}: the backend {spec.backend!r} has no Unity scenes: leave env.backend at auto")
        known = {f.name for f in fields(UnityOptions)} - {"path"}
        for key in spec.kwargs:
            if key not in known:
                raise UserError(f"{spec.id}: the argument {key!r} is not known{suggest(key, known)}")
        kinds = get_type_hints(UnityOptions)
        given = {"behavior": behavior} if behavior else {}
        values = {key: _convert(spec.id, key, value, kinds[key]) for key, value in {**given, **spec.kwargs}.items()}
        options = UnityOptions(path, **values)
        options._check(spec.id)
        return options

    def _check(self, env_id: str) -> None:
        whole = ("width", "height", "quality_level", "target_frame_rate", "capture_frame_rate", "num_areas")
        checks = {name: abs(getattr(self, name) or 0) < 2**31 for name in whole}  # as they travel
        checks |= {
            "base_port": 0 <= self.base_port < 2**16,
            "time_scale": self.time_scale is None or 0 < self.time_scale <= LARGEST,
            "timeout_wait": self.timeout_wait > 0,
            "restarts": self.restarts >= -1,
            "agents": self.agents >= 0,
            "num_areas": checks["num_areas"] and self.num_areas >= 1,
            "bins": self.bins == 0 or self.bins >= 2,
        }
        for name, right in checks.items():
            if not right:
                raise UserError(f"{env_id}: the argument {name} cannot be {getattr(self, name)}")


def _convert(env_id: str, key: str, value: Any, kind: Any) -> Any:
    optional = kind in (float | None, int | None, bool | None)
    if optional and value is None:
        return None
    plain = {float | None: float, int | None: int, bool | None: bool}.get(kind, kind)
    try:
        if plain == tuple[str, ...] and not isinstance(value, str):
            return tuple(str(item) for item in value)
        if plain is bool and isinstance(value, bool):
            return value
        if plain is str and isinstance(value, str):
            return value
        if plain in (int, float) and not isinstance(value, bool):
            number = float(value)
            if plain is float or number == int(number):
                return plain(number)
        if plain == Mapping[str, Any] and isinstance(value, Mapping):
            return dict(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{env_id}: the argument {key!r} cannot be {value!r}")
