"""The server that one player calls: its messages come out of a queue, answers go back through another."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from understudy.envs.unity.messages import METHOD, STATUS_QUIT, messages
from understudy.errors import UserError, missing_extra

_LOOK = 0.2
"""Seconds after which somebody who waits looks whether the other side is still there."""


def load_grpc() -> Any:
    """Return the package grpc; its handlers of forks, which write into what started programs print, are off.

    Raises:
        UserError: grpcio is not installed.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # nothing of ours goes on after a fork without exec
    try:
        import grpc
    except ImportError as error:
        raise missing_extra("grpcio", "unity", "a Unity scene") from error
    return grpc


class PortInUse(UserError):  # noqa: N818 (it says what is)
    """Somebody else listens there."""


class Gone(Exception):  # noqa: N818 (a state of affairs, not a mistake)
    """The player hung up while it waited for an answer."""


class Link:
    """Listens on the loopback interface for one player.

    Only handlers run in threads of the server; they do nothing but pass bytes. The threads are daemons: Python waits at
    its end for the threads of ordinary pools, and one that waits for a player would keep it for ever.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, port: int = 0) -> None:
        """Listen on a port, 0 for one that the kernel chooses.

        Raises:
            UserError: grpcio is not installed.
            PortInUse: Somebody else listens there.
        """
        grpc = load_grpc()
        messages()
        self._inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._closed = threading.Event()
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
        self._threads = _Daemons()
        self._server: Any = grpc.server(self._threads, options=[*options, ("grpc.max_send_message_length", -1)])
        self._server.add_generic_rpc_handlers((_exchange_handler(grpc, self._exchange),))
        in_use = PortInUse(f"port {port} is in use: end what listens there, or choose another with --base-port")
        if not _is_free(port):  # asked first: grpc writes lines of its own about ports that are not
            raise in_use
        try:
            self.port: int = self._server.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError:
            raise in_use from None
        self._server.start()

    def _exchange(self, request: bytes, context: Any) -> bytes:
        """Pass a message on and wait for the answer; runs in a thread of the server."""
        self._inbox.put(request)
        while not self._closed.is_set():
            try:
                return self._outbox.get(timeout=_LOOK)
            except queue.Empty:
                if not context.is_active():
                    self._inbox.put(None)
                    break
        return quit_message()

    def receive(self, timeout: float) -> bytes | None:
        """Return the next message, None if none comes in so many seconds.

        Raises:
            Gone: The player hung up.
        """
        try:
            message = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is None:
            raise Gone
        return message

    def send(self, message: bytes) -> None:
        """Answer the message that was received last."""
        self._outbox.put(message)

    def close(self) -> None:
        """Tell the player to quit, and stop listening; may be called twice."""
        if not self._closed.is_set():
            self._outbox.put(quit_message())  # at once for a player that waits; one that calls later hears it too
            self._closed.set()
            self._server.stop(0.2).wait(1.0)
            self._threads.shutdown()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def quit_message() -> bytes:
    """Return the answer that ends a player."""
    message = messages().Message()
    message.header.status = STATUS_QUIT
    data: bytes = message.SerializeToString()
    return data


def _exchange_handler(grpc: Any, exchange: Callable[[bytes, Any], bytes]) -> Any:
    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(exchange) if details.method == METHOD else None

    return Handler()


class _Daemons(Executor):
    """Runs every call in a daemon thread that is kept for the next one."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call soon."""
        future: Future[Any] = Future()

        def call() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 (the future carries it)
                future.set_exception(error)

        self._work.put(call)
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._serve, daemon=True, name="unity").start()
        return future

    def _serve(self) -> None:
        while (call := self._work.get()) is not None:
            call()
            self._idle.release()
        self._work.put(None)  # for the next thread

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once they are done; nobody waits for them."""
        self._work.put(None)
