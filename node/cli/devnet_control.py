"""The supervisor's life, and its control socket: one JSON line asks, one JSON line answers.

Commands of `patchwarden devnet` that change something go through it, because a process belongs to whoever started it.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from node.cli.devnet_network import LocalNetwork
from node.cli.errors import CommandError
from node.cli.signals import deaf_to_signals
from node.local.protocol import error_from_json, error_to_json
from wire.errors import PatchwardenError, UnavailableError

LINE_BYTES_MAX: Final = 64 * 1024
REQUEST_TIMEOUT_S: Final = 2.0
"""How long a caller may take to say what it wants."""
ANSWER_TIMEOUT_S: Final = 90.0
"""How long an answer may take: starting a node waits until it is ready."""
LOOK_S: Final = 0.25
"""How often the supervisor looks for nodes that ended by themselves."""


def control_path(directory: Path) -> Path:
    """Return where the supervisor of a network listens."""
    return directory.absolute() / "control.sock"


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold a network's directory for one supervisor.

    Raises:
        UnavailableError: ``cli.devnet.in_use``: another one has it.
    """
    descriptor = os.open(directory / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(
                "cli.devnet.in_use",
                f"the network in {directory} is up already",
                hint=f"patchwarden devnet status --dir {directory}",
            ) from None
        yield
    finally:
        os.close(descriptor)


class Supervisor:
    """Answers control requests and watches the nodes until told to stop."""

    def __init__(self, network: LocalNetwork) -> None:
        self._network = network
        self._commands: dict[str, Callable[[str], Any]] = {
            "start": network.start,
            "stop": network.stop,
            "kill": network.kill,
            "pause": network.pause,
            "resume": network.resume,
        }

    def run(self, listener: socket.socket) -> None:
        """Serve until somebody asks for the end of the whole network."""
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while True:
                if selector.select(LOOK_S):
                    connection, _ = listener.accept()
                    with connection:
                        if not self._serve(connection):
                            return
                self._network.poll()

    def _serve(self, connection: socket.socket) -> bool:
        """Answer one request; return whether to go on."""
        connection.settimeout(REQUEST_TIMEOUT_S)
        try:
            request = _read_line(connection)
            command, name = str(request.get("command")), str(request.get("name") or "")
        except (OSError, ValueError):
            return True
        if command == "stop" and not name:
            _answer(connection, {"result": {"stopping": True}})
            return False
        try:
            action = self._commands.get(command)
            if action is None:
                raise CommandError("cli.devnet.command", "the supervisor does not know this command", actual=command)
            _answer(connection, {"result": action(name)})
        except PatchwardenError as error:
            _answer(connection, {"error": error_to_json(error)})
        return True


@contextmanager
def control_listener(directory: Path) -> Iterator[socket.socket]:
    """Give the listening control socket; it is gone afterwards."""
    path = control_path(directory)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise CommandError(
            "cli.devnet.path_too_long",
            f"the directory's path is too long for a socket: {path}",
            hint="use a --dir with a shorter path",
        ) from error
    finally:
        os.umask(before)
    try:
        listener.listen(8)
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def ask(directory: Path, command: str, name: str = "") -> dict[str, Any]:
    """Return the supervisor's answer.

    Raises:
        UnavailableError: ``cli.devnet.down``: the network is not up.
        PatchwardenError: What the supervisor raised.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(control_path(directory)))
            connection.sendall(json.dumps({"command": command, "name": name}).encode() + b"\n")
            answer = _read_line(connection)
        except (OSError, ValueError) as error:
            raise UnavailableError(
                "cli.devnet.down",
                f"the network in {directory} is not up",
                hint=f"patchwarden devnet up --dir {directory}",
            ) from error
    if "error" in answer:
        raise error_from_json(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


@contextmanager
def running(network: LocalNetwork) -> Iterator[LocalNetwork]:
    """Give the network with all its processes up; however the body ends, none of them is left."""
    try:
        network.start_all()
        yield network
    finally:
        with deaf_to_signals():
            network.stop_all()


def _read_line(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(4096)
        if not piece or len(data) > LINE_BYTES_MAX:
            raise ValueError("no whole line came")
        data += piece
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return document


def _answer(connection: socket.socket, document: dict[str, Any]) -> None:
    with suppress(OSError):  # Whoever asked has gone; what was asked for is done all the same.
        connection.sendall(json.dumps(document).encode() + b"\n")
