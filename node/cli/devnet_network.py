"""The processes of a development network: started, watched, stopped, killed, paused; none is left behind.

Each node is `patchwarden node start` in a session of its own, so that Ctrl-C reaches only the supervisor, which stops the nodes in order. A
node asks the kernel to be killed when its supervisor ends: even a supervisor that is killed leaves nothing running.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from node.cli.devnet_layout import PEOPLE, Layout, Node, host_key
from node.cli.errors import CommandError
from node.cli.signals import shielded
from node.config import Home
from node.keystore import load_key
from node.local.client import LocalClient
from wire.errors import RejectedError, UnavailableError

START_TIMEOUT_S: Final = 60.0
"""How long a node may take until it answers and knows a leader."""
STOP_TIMEOUT_S: Final = 8.0
"""How long nodes may take to end in order before they are killed."""
ORPHAN_TIMEOUT_S: Final = 1.0
"""How long a gateway may take to notice that its node is gone."""
_PR_SET_CHILD_SUBREAPER: Final = 36
POLL_S: Final = 0.02
LOG_LINES_SHOWN: Final = 8
STATUS_TIMEOUT_S: Final = 3.0
REGISTER_TIMEOUT_S: Final = 20.0

Note = Callable[[str], None]
"""Tells a person what happens."""


class LocalNetwork:
    """The processes of one network.

    Args:
        layout: The network.
        note: Told what happens.
    """

    def __init__(self, layout: Layout, note: Note) -> None:
        self.layout = layout
        self._note = note
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._paused: set[str] = set()
        self._published = False

    # -- the network -----------------------------------------------------------------------------------------------

    def start_all(self) -> None:
        """Start every node, register who is not on the ledger yet, and publish ``devnet.json``.

        Raises:
            UnavailableError: ``cli.devnet.start``: a node did not come up.
        """
        validators = self.layout.validators
        for node in validators:
            self._spawn(node)
        self.wait_ready(validators)
        self._note(f"{len(validators)} validators are up, {self._leader(validators[0])} leads")
        self._register_all()
        for node in self.layout.hosts:
            self._spawn(node)
        self.wait_ready(self.layout.hosts)
        self._wait_level()
        self._published = True
        self.publish()

    def stop_all(self) -> None:
        """End every process: in order where that works within `STOP_TIMEOUT_S`, by force otherwise. Nothing runs afterwards."""
        for process in self._processes.values():
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in self._processes.values():
            try:
                process.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._end_orphans()
        self._paused.clear()
        for node in self.layout.nodes:
            self.layout = self.layout.with_pid(node.name, None)
        if self._published:
            self.publish()

    def _end_orphans(self) -> None:
        """Wait for the gateways that nodes left when they were killed; they end when they notice, or are ended here.

        `adopt_orphans` made them this process's children. Only those whose command line names this network are touched.
        """
        deadline = time.monotonic() + ORPHAN_TIMEOUT_S
        orphans = set(_children_with(str(self.layout.directory)))
        while orphans:
            for pid in tuple(orphans):
                try:
                    if time.monotonic() > deadline:
                        os.kill(pid, signal.SIGKILL)
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        orphans.discard(pid)
                except (ChildProcessError, ProcessLookupError):
                    orphans.discard(pid)
            time.sleep(POLL_S)

    def publish(self) -> None:
        """Replace ``devnet.json`` by what is so now; nothing before the network was ready for the first time."""
        if self._published:
            self.layout.write()

    def poll(self) -> None:
        """Notice nodes that ended by themselves."""
        for node in self.layout.nodes:
            process = self._processes.get(node.name)
            if node.pid is not None and process is not None and (code := process.poll()) is not None:
                self._note(f"{node.name} ended with exit code {code}; its log: {node.log}")
                self._set_pid(node.name, None)

    # -- one node --------------------------------------------------------------------------------------------------

    def start(self, name: str) -> dict[str, Any]:
        """Start a stopped node and wait until it answers."""
        node = self.layout.node(name)
        if node.pid is not None:
            raise CommandError("cli.devnet.running", f"{name} runs already")
        self._spawn(node)
        self.wait_ready([node])
        return self.state(name)

    def stop(self, name: str) -> dict[str, Any]:
        """End a node in order."""
        process = self._running(name)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._set_pid(name, None)
        return self.state(name)

    def kill(self, name: str) -> dict[str, Any]:
        """Kill a node where it stands (SIGKILL)."""
        process = self._running(name)
        process.kill()
        process.wait()
        self._set_pid(name, None)
        return self.state(name)

    def pause(self, name: str) -> dict[str, Any]:
        """Freeze a node (SIGSTOP): its connections stay open and it says nothing."""
        self._running(name).send_signal(signal.SIGSTOP)
        self._paused.add(name)
        return self.state(name)

    def resume(self, name: str) -> dict[str, Any]:
        """Let a paused node go on (SIGCONT)."""
        self._running(name).send_signal(signal.SIGCONT)
        self._paused.discard(name)
        return self.state(name)

    def state(self, name: str) -> dict[str, Any]:
        """Return a node's document with its state."""
        node = self.layout.node(name)
        state = "stopped" if node.pid is None else "paused" if name in self._paused else "running"
        return {**node.to_json(), "state": state}

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait_ready(self, nodes: Iterable[Node]) -> None:
        """Wait until every one of these nodes answers and knows a leader.

        Raises:
            UnavailableError: ``cli.devnet.start``: one ended, or does not come up in time.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        for node in nodes:
            while not self._is_ready(node):
                process = self._processes[node.name]
                if process.poll() is not None:
                    self._set_pid(node.name, None)
                    raise UnavailableError(
                        "cli.devnet.start",
                        f"{node.name} ended with exit code {process.returncode}: {_last_lines(node)}",
                        hint=f"read its log: {node.log}",
                    )
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        "cli.devnet.start",
                        f"{node.name} is not ready after {START_TIMEOUT_S:g} s",
                        hint=f"read its log: {node.log}",
                    )
                time.sleep(POLL_S)

    def _is_ready(self, node: Node) -> bool:
        if not Home(node.home).run.exists():
            return False
        with suppress(UnavailableError, RejectedError):
            return bool(read_status(node)["leader"])
        return False

    def _wait_level(self) -> None:
        """Wait until every node has what the first validator has."""
        height = read_status(self.layout.validators[0])["height"]
        deadline = time.monotonic() + START_TIMEOUT_S
        for node in self.layout.nodes:
            while read_status(node)["height"] < height:
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        "cli.devnet.start", f"{node.name} does not catch up", hint=f"read {node.log}"
                    )
                time.sleep(POLL_S)

    def _leader(self, node: Node) -> str:
        return str(read_status(node)["leader"])

    # -- processes -------------------------------------------------------------------------------------------------

    def _spawn(self, node: Node) -> None:
        Home(node.home).run.unlink(missing_ok=True)
        node.log.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-P", "-m", "node.cli", "node", "start", "--home", str(node.home)]
        command += ["--end-with-parent", str(os.getpid())]
        # A process that is started is one that is known: no signal comes between the two.
        with node.log.open("ab") as log, shielded():
            process = subprocess.Popen(
                [*command, "--log-format", "json"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("PATCHWARDEN_")},
            )
            self._processes[node.name] = process
        self._set_pid(node.name, process.pid)

    def _running(self, name: str) -> subprocess.Popen[bytes]:
        node = self.layout.node(name)
        process = self._processes.get(name)
        if node.pid is None or process is None or process.poll() is not None:
            raise CommandError("cli.devnet.stopped", f"{name} does not run", hint=f"patchwarden devnet start {name}")
        return process

    def _set_pid(self, name: str, pid: int | None) -> None:
        self._paused.discard(name)
        self.layout = self.layout.with_pid(name, pid)
        self.publish()

    # -- the ledger ------------------------------------------------------------------------------------------------

    def _register_all(self) -> None:
        """Register people and hosts by transactions of their administrators; whoever is registered already stays."""
        from ledger.bodies import IdentityRegister
        from node.cli.submit import sign, submit

        first = self.layout.validators[0]
        wanted = [
            (identity, display, roles, load_key(self.layout.person(identity).key))
            for identity, display, roles in PEOPLE
            if "administrator" not in roles
        ]
        wanted += [(node.identity, f"Host {node.name}", ("host",), host_key(node)) for node in self.layout.hosts]
        with LocalClient(Home(first.home).socket) as connection:
            client = _Client(connection)
            known = {each["identity"] for each in client.call("identities.list", limit=500)}
            transactions = []
            for identity, display, roles, key in wanted:
                if identity not in known:
                    body = IdentityRegister(identity, display, tuple(roles), key.public_key.spki)
                    administrator = self.layout.person(f"admin@{identity.partition('@')[2]}")
                    transactions.append(sign(client, body, load_key(administrator.key)))
            if transactions:
                submit(client, transactions, REGISTER_TIMEOUT_S)
                names = ", ".join(identity for identity, *_ in wanted if identity not in known)
                self._note(f"registered on the ledger: {names}")


class _Client:
    """A `NodeClient` over an open local connection."""

    def __init__(self, client: LocalClient) -> None:
        self._client = client

    def call(self, method: str, **params: Any) -> Any:
        return self._client.call(method, **params)

    def stream(self, method: str, **params: Any) -> Any:
        return self._client.stream(method, **params)

    def close(self) -> None:
        self._client.__exit__()


def read_status(node: Node) -> dict[str, Any]:
    """Return a running node's status. Raises UnavailableError while it does not answer."""
    with LocalClient(Home(node.home).socket, timeout_s=STATUS_TIMEOUT_S) as client:
        document: dict[str, Any] = client.call("status")
        return document


def _last_lines(node: Node) -> str:
    try:
        lines = node.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    except OSError:
        return "it left no log"
    return " / ".join(line.strip() for line in lines) or "it left no log"


def adopt_orphans() -> None:
    """Ask the kernel to make this process the parent of whatever its children leave behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children_with(text: str) -> list[int]:
    """Return this process's children whose command line holds `text`."""
    found = []
    with suppress(OSError):
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split():
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if os.fsencode(text) in command:
                    found.append(int(pid))
    return found
