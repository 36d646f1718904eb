"""Several runs in one scene: each steps the agents of one behaviour, and a player moves on when all have acted.

The hub owns the players. Runs are processes of their own that reach it over a socket of this machine; an environment in
such a process finds the address in ``ADDRESS`` and takes its players from there. What a run is told holds the agents of
its behaviour only; the orders of all runs become one. A run that is over leaves its policy behind, which acts on for
its agents. A player that fails, fails for all runs, and each asks for another; a run that breaks off takes its player
along.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.process import current_process
from typing import Any

from understudy.envs.unity.companions import Accompanied, Companion, Companions
from understudy.envs.unity.messages import RESET, messages
from understudy.envs.unity.options import UnityOptions
from understudy.envs.unity.player import Player, PlayerError
from understudy.envs.unity.roster import matches
from understudy.errors import UserError

ADDRESS = "UNDERSTUDY_UNITY_HUB"
"""Variable of the environment of processes that share players: where the hub listens."""
_LOOK = 0.2
_ORDER, _ANSWER, _FAILED, _MISTAKE, _LEAVE = b"o", b"a", b"f", b"m", b"l"
"""First byte of what is sent: an order, an answer, a player that failed, a user's mistake, a run that is over."""


class Lent:
    """A player of the hub, as one run sees it; see ``Player``."""

    def __init__(self, behavior: str, number: int, seed: int, alive: Callable[[], None]) -> None:
        """Ask for player ``number``.

        Raises:
            UserError: The hub is gone.
        """
        self._alive = alive
        try:
            self._link = Client(os.environ[ADDRESS], authkey=bytes(current_process().authkey))
            self._link.send_bytes(json.dumps({"behavior": behavior, "number": number, "seed": seed}).encode())
        except (OSError, EOFError):
            raise UserError("the players of this run are gone: the process that shares them has ended") from None

    @property
    def pid(self) -> None:
        """The process is the hub's."""
        return None

    def begin(self) -> None:
        """Nothing: the hub begins when all runs have given their first orders."""

    def send(self, rl_input: Any) -> None:
        """Give an order for the agents of this behaviour."""
        self._tell(_ORDER + rl_input.SerializeToString())

    def _tell(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # whoever waits for the answer will hear why there is none
            self._link.send_bytes(data)

    def receive(self) -> Any:
        """Wait for what its agents show; however long the other runs learn.

        Raises:
            PlayerError: The player failed.
            UserError: It cannot be started.
        """
        try:
            while not self._link.poll(_LOOK):
                self._alive()
            data = self._link.recv_bytes()
        except (OSError, EOFError):
            raise PlayerError("is gone: the process that shares it has ended") from None
        kind, rest = data[:1], data[1:]
        if kind == _FAILED:
            raise PlayerError(rest.decode())
        if kind == _MISTAKE:
            raise UserError(rest.decode())
        return messages().Message.FromString(rest).unity_output

    def close(self, leave: bool = True) -> None:
        """Give it back; without ``leave`` it is of no use to the other runs either. May be called twice."""
        if leave:
            self._tell(_LEAVE)
        self._link.close()


class Hub:
    """Players, each shared by the runs of several behaviours; a thread serves each.

    Attributes:
        address: For ``ADDRESS``.
    """

    def __init__(
        self,
        options: UnityOptions,
        behaviors: Sequence[str],
        count: int,
        companions: Mapping[str, Companion],
        key: bytes,
    ) -> None:
        """Listen; players start when all runs have asked for them.

        Args:
            options: Of the scene.
            behaviors: One for each run.
            count: Players.
            companions: Who acts for agents of behaviours without a run.
            key: Runs must know it; it is the ``authkey`` of their processes.
        """
        self._options, self._behaviors, self._companions = options, tuple(behaviors), companions
        self._folder = tempfile.TemporaryDirectory(prefix="understudy-")
        self.address = os.path.join(self._folder.name, "hub")
        self._listener = Listener(self.address, "AF_UNIX", authkey=key)
        self._changed, self._over = threading.Condition(), False
        self._waiting: dict[tuple[int, str], tuple[Connection, int]] = {}
        self._retired: dict[str, Companion] = {}
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads += [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def retire(self, behavior: str, policy: Companion) -> None:
        """Let a policy act for a behaviour whose run is over."""
        with self._changed:
            self._retired[behavior] = policy
            self._changed.notify_all()

    def close(self) -> None:
        """End all players; may be called twice."""
        with self._changed:
            if self._over:
                return
            self._over = True
            self._changed.notify_all()
        # A closed socket does not wake who waits for a connection; one does.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as nobody:
            nobody.connect(self.address)
        for thread in self._threads:
            thread.join(10.0)
        self._listener.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        while not self._over:
            try:
                link = self._listener.accept()
                asked = json.loads(link.recv_bytes())
            except (OSError, EOFError, ValueError, AuthenticationError):
                if self._over:
                    return
                time.sleep(0.01)
                continue
            with self._changed:
                self._waiting[asked["number"], asked["behavior"]] = link, asked["seed"]
                self._changed.notify_all()

    def _serve(self, number: int) -> None:
        """Run one player after another, as long as runs ask for them."""
        while True:
            links, seed = self._gather(number)
            if not links:
                return
            try:
                _Shared(self, links, seed).run()
            except PlayerError as error:
                _tell_all(links, _FAILED, str(error))
            except UserError as error:
                _tell_all(links, _MISTAKE, str(error))
            except Exception as error:
                _tell_all(links, _MISTAKE, f"the process that shares the players failed: {error!r}")
                raise
            for link in links.values():
                link.close()

    def _gather(self, number: int) -> tuple[dict[str, Connection], int]:
        """Wait for all runs that are not over; nothing once the hub is closed, or all are."""
        with self._changed:
            while True:
                wanted = [name for name in self._behaviors if name not in self._retired]
                if self._over or not wanted:
                    return {}, 0
                if all((number, name) in self._waiting for name in wanted):
                    asked = {name: self._waiting.pop((number, name)) for name in wanted}
                    return {name: link for name, (link, _) in asked.items()}, asked[wanted[0]][1]
                self._changed.wait(_LOOK)

    def new_player(self, seed: int) -> tuple[Accompanied, Companions]:
        """Start a player, with the companions that there are by now."""
        companions = Companions({**self._companions, **self._retired}, self._options.bins)
        return Accompanied(Player(self._options, seed, lambda: None), companions), companions

    def wait_for_retired(self, behavior: str) -> Companion | None:
        """Return the policy that acts for a behaviour whose run has left; None once the hub is closed."""
        with self._changed:
            while behavior not in self._retired and not self._over:
                self._changed.wait(_LOOK)
            return self._retired.get(behavior)

    @property
    def over(self) -> bool:
        """Whether it is closed."""
        return self._over


class _Shared:
    """One player and the runs in it, from its start to its end."""

    def __init__(self, hub: Hub, links: dict[str, Connection], seed: int) -> None:
        self._hub, self._links, self._live = hub, links, dict(links)
        self._player, self._companions = hub.new_player(seed)
        self._output: Any = None

    def run(self) -> None:
        """Pass orders and answers on until all runs have left.

        Raises:
            PlayerError: The player failed, or a run broke off.
            UserError: It cannot be started, or a companion does not fit.
        """
        try:
            self._player.begin()
            while True:
                order = self._orders()
                if not self._live or self._hub.over:
                    return
                self._player.send(order)
                self._output = self._player.receive()
                for name, link in self._live.items():
                    _tell(link, _ANSWER + self._part(name))
        finally:
            self._player.close()

    def _orders(self) -> Any:
        """Wait for what all runs want, and return it as one order."""
        merged = self._companions.rest()
        for name in list(self._live):
            data = self._hear(name)
            if data[:1] == _LEAVE:
                del self._live[name]
                policy = self._hub.wait_for_retired(name) if self._live else None
                if policy is not None:
                    self._companions.add(name, policy)
                continue
            order = type(merged).FromString(data[1:])
            if order.command == RESET:
                merged.command = RESET
            for key, actions in order.agent_actions.items():
                if matches(key, name):
                    merged.agent_actions[key].CopyFrom(actions)
        return merged

    def _hear(self, name: str) -> bytes:
        link = self._live[name]
        try:
            while not link.poll(_LOOK):
                if self._hub.over:
                    return _LEAVE
            return link.recv_bytes()
        except (OSError, EOFError):
            raise PlayerError(f"was left by the run of {name}, which broke off") from None

    def _part(self, name: str) -> bytes:
        """Return what the player said of one behaviour's agents, and of the scene as a whole."""
        message = messages().Message()
        part, whole = message.unity_output, self._output
        for parameters in whole.rl_initialization_output.brain_parameters:
            part.rl_initialization_output.brain_parameters.add().CopyFrom(parameters)
        for key, infos in whole.rl_output.agentInfos.items():
            if matches(key, name):
                part.rl_output.agentInfos[key].CopyFrom(infos)
        part.rl_output.side_channel = whole.rl_output.side_channel
        data: bytes = message.SerializeToString()
        return data


def _tell(link: Connection, data: bytes) -> None:
    with contextlib.suppress(OSError):  # one that broke off is noticed when its next order is waited for
        link.send_bytes(data)


def _tell_all(links: Mapping[str, Connection], kind: bytes, text: str) -> None:
    for link in links.values():
        _tell(link, kind + text.encode())
