"""One running player: started, greeted, and then asked step by step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from understudy.envs.unity import channels
from understudy.envs.unity.link import Gone, Link, PortInUse
from understudy.envs.unity.messages import COMMUNICATION_VERSION, STATUS_OK, initialization, messages
from understudy.envs.unity.options import EDITOR_PORT, UnityOptions
from understudy.envs.unity.process import PlayerProcess, find_player
from understudy.errors import UserError, tell

_LOOK = 0.1
"""Seconds between two looks whether a silent player is alive."""
_PORTS = 64
"""How many ports from ``base_port`` on are tried."""


class PlayerError(Exception):
    """A player died, hung, or sent what cannot be used; it may be replaced. The message says which, without a name."""


class Player:
    """A player between its start and its end."""

    def __init__(self, options: UnityOptions, seed: int, alive: Callable[[], None], first: bool = False) -> None:
        """Start the process; ``begin`` waits for it.

        Args:
            options: Of the scene.
            seed: Of the player's random numbers.
            alive: Called again and again while somebody waits here, for those who watch.
            first: Whether this is the run's first player, so that ``base_port`` itself must be free.

        Raises:
            UserError: The path is wrong, the port is in use, or the folder of the logs cannot be made.
        """
        self._options, self._seed, self._alive = options, seed % 2**31, alive
        command = [] if options.editor else find_player(options.path)
        if options.log_folder:
            try:
                os.makedirs(options.log_folder, exist_ok=True)
            except OSError as error:
                raise UserError(f"{options.log_folder} cannot be the folder of logs: {error.strerror}") from None
        self._link = _listen(options, first)
        self._process: PlayerProcess | None = None
        self._said_something = False
        if command:
            self._process = PlayerProcess([*command, *self._arguments()])

    def _arguments(self) -> list[str]:
        options, port = self._options, self._link.port
        found = ["-nographics", "-batchmode"] if options.no_graphics else []
        found += ["--mlagents-port", str(port)]
        if options.log_folder:
            found += ["-logFile", f"{options.log_folder}/player-{port}.log"]
        return [*found, *options.env_args]

    @property
    def pid(self) -> int | None:
        """Of the process; None in the editor."""
        return None if self._process is None else self._process.pid

    def begin(self) -> None:
        """Wait for the greeting and answer it; afterwards the player waits for its first order.

        Raises:
            PlayerError: It died, or did not call within ``timeout_wait``.
            UserError: It speaks another version of the protocol.
        """
        if self._process is None:
            tell(f"understudy: waiting for the Unity editor on port {self._link.port}: press Play\n")
        greeting = self._receive()
        told = greeting.unity_output.rl_initialization_output
        theirs, ours = told.communication_version, COMMUNICATION_VERSION
        if theirs.split(".")[0] != ours.split(".")[0]:
            package = f" (package {told.package_version})" if told.package_version else ""
            raise UserError(
                f"{self._options.path}: the player speaks version {theirs or 'unknown'} of the ML-Agents protocol"
                f"{package}, Understudy {ours}: build it with an ML-Agents package of the same major version"
            )
        self._send(initialization(self._seed, self._options.num_areas))
        self._receive()
        options = vars(self._options)
        self.side_channel = channels.engine(options) + channels.parameters(self._options.parameters, self._seed)

    def send(self, rl_input: Any) -> None:
        """Give the player an order; engine settings and parameters go with the first."""
        message = messages().Message()
        message.header.status = STATUS_OK
        rl_input.side_channel, self.side_channel = self.side_channel, b""
        message.unity_input.rl_input.CopyFrom(rl_input)
        self._send(message)

    def receive(self) -> Any:
        """Wait for what the player answers: its ``UnityOutputProto``.

        Raises:
            PlayerError: It died, hangs, or sent what is no message.
        """
        return self._receive().unity_output

    def _send(self, message: Any) -> None:
        self._link.send(message.SerializeToString())

    def _receive(self) -> Any:
        limit = self._options.timeout_wait
        data, last, silent = self._look(0.0), time.perf_counter(), 0.0
        while data is None:
            data = self._look(_LOOK)
            # Time in which this process itself stood still (Ctrl-Z) is not held against the player.
            now = time.perf_counter()
            silent += min(now - last, 5 * _LOOK)
            last = now
            if data is None and silent > limit:
                raise PlayerError(self._silence(limit))
        self._said_something = True
        try:
            return messages().Message.FromString(data)
        except Exception as error:  # protobuf's DecodeError, whichever implementation raises it
            raise PlayerError(f"sent what is no message ({error})") from None

    def _look(self, seconds: float) -> bytes | None:
        """Wait so long for a message; notice a player that is gone."""
        self._alive()
        try:
            data = self._link.receive(seconds)
        except Gone:
            raise PlayerError("hung up") from None
        if data is None and self._process is not None and (code := self._process.exit_code()) is not None:
            words = self._process.last_words()
            when = "" if self._said_something else " before it called"
            raise PlayerError(f"died (exit code {code}){when}" + (f": {words}" if words else ""))
        return data

    def _silence(self, limit: float) -> str:
        if self._said_something:
            return f"was silent for {limit:g} s: it hangs?"
        if self._process is None:
            return f"did not call within {limit:g} s: was Play pressed, and does the scene have agents?"
        return f"did not call within {limit:g} s: is it an ML-Agents scene?"

    def close(self, leave: bool = True) -> None:
        """End the player, with some time to ``leave`` by itself; may be called twice."""
        self._link.close()
        if self._process is not None:
            self._process.close(leave)


def _listen(options: UnityOptions, first: bool) -> Link:
    base = options.base_port or (EDITOR_PORT if options.editor else 0)
    if not base or first or options.editor:
        return Link(base)
    for port in range(base, min(base + _PORTS, 2**16)):
        try:
            return Link(port)
        except PortInUse:
            continue
    raise PortInUse(f"the ports {base} to {base + _PORTS - 1} are all in use: choose others with --base-port")
