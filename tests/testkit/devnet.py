"""A development network as a user has it: `patchwarden devnet up` in a process of its own, and what is left when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_TIMEOUT_S = 90.0


@dataclass
class Devnet:
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def document(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.directory / "devnet.json").read_text())
        return loaded

    def node(self, name: str) -> dict[str, Any]:
        return next(node for node in self.document["nodes"] if node["name"] == name)

    def home(self, name: str) -> str:
        return str(self.node(name)["home"])

    def rpc(self, name: str = "v1") -> str:
        return str(self.node(name)["rpc"])

    def key(self, identity: str) -> str:
        return next(str(person["key"]) for person in self.document["people"] if person["identity"] == identity)

    def log(self) -> str:
        return self.directory.with_name(f"{self.directory.name}.log").read_text()


def start_devnet(directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `patchwarden devnet up` and return at once."""
    with directory.with_name(f"{directory.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "node.cli", "devnet", "up", "--dir", str(directory), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@contextmanager
def running_devnet(directory: Path, *arguments: str) -> Iterator[Devnet]:
    """Give a network that is ready; no process of it is left afterwards."""
    process = start_devnet(directory, *arguments)
    devnet = Devnet(directory, process)
    try:
        wait_for(lambda: process.poll() is not None or is_ready(devnet), "the network is ready", READY_TIMEOUT_S)
        assert process.poll() is None, devnet.log()
        yield devnet
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)


def is_ready(devnet: Devnet) -> bool:
    """Whether devnet.json is there with every node running: all that a script would look at."""
    try:
        return all(node["pid"] for node in devnet.document["nodes"])
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Return when `condition` holds; fail when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)


def processes_with(text: str) -> list[int]:
    """Return the ids of processes whose command line holds `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if os.fsencode(text) in command and state != "Z":
                found.append(int(entry.name))
    return found
