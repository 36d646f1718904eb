"""The connection to Ray: started on this machine, or joined; and whether it is still there.

Ray's own waits are long (a silent address blocks ``ray.init`` for minutes, a dead head node for 60 s, and then it ends
the driver from C++), so ports are asked first, with limits.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from understudy.errors import UserError, missing_extra
from understudy.execution.ray_actor import ONE_THREAD
from understudy.execution.restarts import WorkerError

_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a gRPC client says first; a server answers with a SETTINGS frame, whose type is 4 (RFC 9113, section 3.4)."""
_LOCAL_STORE = 512 << 20
"""Bytes of shared memory for objects besides rollouts; taken only as they are used."""


def import_ray() -> Any:
    """Return the package.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise missing_extra("ray", "ray", "--execution ray") from None


def check_address(address: str) -> None:
    """Ask whether something like Ray answers there.

    Raises:
        UserError: It does not within 8 seconds, or the address has another form than those that are understood.
    """
    if address.startswith("ray://"):
        raise UserError(
            f"the Ray address {address!r}: clients outside a cluster are not supported; run this on one of its nodes "
            "and give HOST:PORT of the head node, or auto"
        )
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        if not address or address == "auto":
            return  # Ray looks for its processes on this machine, and says at once if there are none
        return check_address(address)
    match = re.fullmatch(r"(?P<host>[^\s:/]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})", address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise UserError(f"the Ray address {address!r} is not understood: HOST:PORT of the head node, auto, or nothing")
    found: list[str] = []
    # On a thread of its own, since nothing limits the time in which a name is looked up.
    asking = threading.Thread(
        target=lambda: found.append(_ask(match["host"].strip("[]"), int(match["port"]))), daemon=True
    )
    asking.start()
    asking.join(8)
    reason = found[0] if found else "no answer"
    if reason == "other":
        raise UserError(f"what answers at {address} is not Ray: give the port of the head node, usually 6379")
    if reason:
        raise UserError(f"no Ray cluster answers at {address} ({reason}): is its head node running?")


def _ask(host: str, port: int) -> str:
    """Return why this is not a gRPC server: ``other`` if it is something else; empty if it is one."""
    try:
        with socket.create_connection((host, port), 3) as connection:
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    except OSError as error:
        return error.strerror or str(error) or "no answer"
    return "" if len(answer) >= 4 and answer[3] == 4 else "other"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _open(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True


class Cluster:
    """Ray, for as long as an execution needs it.

    Where the program has called ``ray.init`` itself, that connection is used and left as it is.

    Attributes:
        ray: The package.
    """

    def __init__(self, address: str, workers: int, rollout_bytes: int) -> None:
        """Start or join.

        Args:
            address: Empty for this machine; otherwise HOST:PORT of a cluster's head node, or ``auto``.
            workers: How many actors will ask for a CPU.
            rollout_bytes: Size of a rollout, for the store of objects on this machine.

        Raises:
            UserError: Ray is not installed or does not start, nothing answers, the cluster has fewer CPUs than there
                are workers, or the program has joined another one.
        """
        self.ray = import_ray()
        self._name = f"the Ray cluster at {address}" if address else "Ray"
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._reaper: subprocess.Popen[bytes] | None = None
        self._ours = not self.ray.is_initialized()
        self._gone = False
        if address:
            check_address(address)
        if self._ours and not address:
            self._start(workers, 4 * rollout_bytes + _LOCAL_STORE)
        elif self._ours:
            self._join(address)
        elif address not in ("", "auto", self.ray.get_runtime_context().gcs_address):
            there = self.ray.get_runtime_context().gcs_address
            raise UserError(f"this program has joined the Ray cluster at {there} already, so not {address}")
        cpus = int(self.ray.cluster_resources().get("CPU", 0))
        if cpus < workers:
            self.close()
            raise UserError(f"{self._name} has {cpus} CPUs, fewer than {workers} workers: lower --num-workers")
        self._ports = self._find_ports()

    def _start(self, workers: int, store: int) -> None:
        # A folder of our own keeps other instances on this machine apart, and can be removed; the path of a socket
        # must be shorter than 108 characters, so it is not in a TMPDIR that may be deep.
        parent = "/tmp" if os.path.isdir("/tmp") else None
        self._folder = tempfile.TemporaryDirectory(prefix="us-ray-", dir=parent, ignore_cleanup_errors=True)
        environment = {**ONE_THREAD, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with environment_variables(environment):  # Ray's processes inherit it, and its workers from them
            if sys.platform == "linux":  # first: Ray takes seconds to start, in which the driver may be killed
                reaper = [sys.executable, "-m", "understudy.execution.ray_reaper", self._folder.name]
                self._reaper = subprocess.Popen(reaper, stdin=subprocess.PIPE, start_new_session=True)
            try:
                self._init(
                    address="local",
                    num_cpus=workers,
                    include_dashboard=False,
                    object_store_memory=store,
                    _temp_dir=self._folder.name,
                )
            except BaseException as error:
                self.close()
                if not isinstance(error, Exception):
                    raise
                raise UserError(f"Ray does not start on this machine: {_first_line(error)}") from None

    def _join(self, address: str) -> None:
        try:
            self._init(address=address)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            # Ray sends its token to an explicit address only if it is told to. That is for the user to decide.
            hint = "" if "RAY_AUTH_MODE" in os.environ else "; if it asks for a token, set RAY_AUTH_MODE=token"
            raise UserError(f"cannot join {self._name}: {_first_line(error)}{hint}") from None

    def _init(self, **options: Any) -> None:
        """Call ``ray.init``, quietly; it would take SIGTERM away from the program."""
        # What happens to workers is told by us, once; Ray prints it on stdout whatever ``log_to_driver`` says.
        with contextlib.suppress(ImportError):
            module: Any = importlib.import_module("ray._private.worker")
            module.print_to_stdstream = lambda *_, **__: None
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with environment_variables(quiet):
                self.ray.init(log_to_driver=False, logging_level="CRITICAL", **options)
        finally:
            if main and handler is not None:
                signal.signal(signal.SIGTERM, handler)

    def _find_ports(self) -> dict[str, tuple[str, int]]:
        """Return where the head node's service and this machine's scheduler listen."""
        context = self.ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        ports = {"head node": (host.strip("[]"), int(port))}
        for node in self.ray.nodes():
            if node["NodeID"] == context.get_node_id():
                ports["scheduler on this machine"] = (node["NodeManagerAddress"], int(node["NodeManagerPort"]))
        return ports

    def check(self) -> None:
        """Ask whether Ray is still there; call it before anything that would wait for Ray without a limit.

        Raises:
            WorkerError: It is not.
        """
        for name, (host, port) in self._ports.items():
            for attempt in range(3):
                if _open(host, port):
                    break
                time.sleep(0.2 * attempt)
            else:
                self._gone = True
                raise WorkerError(f"{self._name} has ended: its {name} does not answer; the last checkpoint is intact")

    def kill(self, actor: Any) -> None:
        """End an actor's process, whatever it is doing."""
        if not self._gone:
            with contextlib.suppress(Exception):
                self.ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Leave; ends Ray's processes if they were started here. May be called twice."""
        if self._ours and self.ray.is_initialized():
            self.ray.shutdown()
        if self._reaper is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._reaper.communicate(timeout=5)
            self._reaper = None
        if self._folder is not None:
            self._folder.cleanup()


@contextlib.contextmanager
def environment_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
