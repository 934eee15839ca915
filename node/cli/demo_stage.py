"""What the demonstration stands on: commands run as a user runs them, checks that end it when they fail, a network beside it.

Every command goes through the same code as from a shell, with its arguments printed, and its JSON answer is what is checked.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from node.cli.devnet_layout import Layout, Node, read_layout
from node.cli.errors import EXIT_DONE, EXIT_INTERRUPTED
from node.cli.output import Output, printable
from node.cli.signals import deaf_to_signals, shielded
from wire.errors import PatchwardenError, UnavailableError

NETWORK_TIMEOUT_S: Final = 90.0
"""How long the network may take to come up, on a machine that is busy with other things too."""
NETWORK_STOP_S: Final = 20.0
LEVEL_TIMEOUT_S: Final = 20.0
"""How long a node may take to have the block that another one has."""
POLL_S: Final = 0.05
LOG_BYTES_SHOWN: Final = 2_000


class DemoFailedError(PatchwardenError):
    """Something in the demonstration was not so. A fault of ours: there is nothing that its caller could do otherwise."""


@dataclass(slots=True)
class Teller:
    """Tells the story: chapters, commands, what was found. On a terminal with some colour."""

    output: Output
    directory: Path
    """Where the demonstration works; its paths are shown relative to it."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Chapters with their checks, for programs."""

    def chapter(self, title: str) -> None:
        """Begin the next part."""
        self.steps.append({"chapter": title, "commands": [], "checks": []})
        self._show("")
        self._show(f"{len(self.steps)}. {title}", bold=True)

    def say(self, text: str) -> None:
        """Tell something."""
        self._show(f"   {text}")

    def command(self, arguments: tuple[str, ...]) -> None:
        """Show the command line that is run next; somebody who stands in the directory can run it again."""
        line = " ".join(_shown(argument, self.directory) for argument in ("patchwarden", *arguments))
        self.steps[-1]["commands"].append(line)
        self._show(f"   $ {line}", dim=True)

    def check(self, holds: bool, sentence: str, *, otherwise: str = "") -> None:
        """Tell that something is so, after it was found to be so.

        Raises:
            DemoFailedError: It is not.
        """
        if not holds:
            raise DemoFailedError(
                "cli.demo.failed",
                f"the demonstration expected this and it is not so: {sentence}{f' ({otherwise})' if otherwise else ''}",
                hint="report this with the output above",
            )
        self.steps[-1]["checks"].append(sentence)
        self._show(f"   ✓ {sentence}", green=True)

    def _show(self, text: str, *, bold: bool = False, dim: bool = False, green: bool = False) -> None:
        if self.output.as_json:
            return
        click.secho(printable(text), bold=bold, dim=dim, fg="green" if green else None)
        sys.stdout.flush()


@dataclass(slots=True)
class Stage:
    """Runs commands in this process exactly as a shell would run them, and keeps the network's places at hand."""

    teller: Teller
    layout: Layout

    def run(self, *arguments: str | Path, expect: int = EXIT_DONE) -> Any:
        """Run a command and return its JSON answer.

        Args:
            arguments: Its command line without `patchwarden` and without `-o json`.
            expect: The exit code that it must have.

        Raises:
            DemoFailedError: It ended otherwise.
        """
        texts = tuple(str(argument) for argument in arguments)
        self.teller.command(texts)
        code, out, err = run_command([*texts, "-o", "json"])
        if code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        if code != expect:
            raise DemoFailedError(
                "cli.demo.command",
                f"`patchwarden {' '.join(texts)}` ended with exit code {code} instead of {expect}: {(err or out)[-LOG_BYTES_SHOWN:]}",
                hint="report this with the output above",
            )
        return json.loads(out) if out.strip() else {}

    def wait_height(self, node: Node, height: int) -> None:
        """Wait until a node has a block that another one has already.

        Raises:
            UnavailableError: It does not get it in time.
        """
        from node.cli.devnet_network import read_status

        deadline = time.monotonic() + LEVEL_TIMEOUT_S
        while read_status(node)["height"] < height:
            if time.monotonic() > deadline:
                raise UnavailableError("cli.demo.behind", f"{node.name} does not get block {height}")
            time.sleep(POLL_S)

    def wait_delivered(self, host: Node) -> None:
        """Wait until every record of a host's agent is on the ledger.

        Raises:
            UnavailableError: Some are still waiting after `LEVEL_TIMEOUT_S`.
        """
        from node.config import Home
        from node.local.client import LocalClient

        deadline = time.monotonic() + LEVEL_TIMEOUT_S
        with LocalClient(Home(host.home).socket) as client:
            while client.call("agent.status")["records_waiting"]:
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        "cli.demo.undelivered", f"the records of {host.name} do not reach the ledger"
                    )
                time.sleep(POLL_S)


def run_command(arguments: list[str]) -> tuple[int, str, str]:
    """Run a command line in this process; return exit code, standard output and standard error."""
    from node.cli.main import cli

    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.run(arguments)
    texts = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read())
    return code, texts[0], texts[1]


@contextmanager
def network_beside(directory: Path, *, keep: bool) -> Iterator[Layout]:
    """Give a network that runs beside this process.

    It is `patchwarden devnet up` in a session of its own. It ends with the body, or stays when `keep` is set and the body ended well.

    Args:
        directory: The network's directory, empty or not there.
        keep: Whether it may outlive this process.

    Raises:
        UnavailableError: ``cli.demo.network``: it did not come up.
    """
    log = directory.with_name(f"{directory.name}.log")
    command = [sys.executable, "-P", "-m", "node.cli", "devnet", "up", "--dir", str(directory)]
    process: subprocess.Popen[bytes] | None = None
    stays = False
    try:
        with log.open("ab") as stream, shielded():
            process = subprocess.Popen(
                command if keep else [*command, "--end-with-parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("PATCHWARDEN_")},
            )
        yield _wait_for_network(directory, process, log)
        stays = keep
    finally:
        if process is not None and not stays:
            _end(process)


def _wait_for_network(directory: Path, process: subprocess.Popen[bytes], log: Path) -> Layout:
    deadline = time.monotonic() + NETWORK_TIMEOUT_S
    while (layout := read_layout(directory)) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_bytes()[-LOG_BYTES_SHOWN:].decode("utf-8", "replace")
            raise UnavailableError("cli.demo.network", f"the network did not come up: {tail}", hint="try again")
        time.sleep(POLL_S)
    return layout


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the network in order; by force when it does not listen. Its nodes end with it in either case."""
    with deaf_to_signals():
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(NETWORK_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _shown(argument: str, directory: Path) -> str:
    """Return an argument as a person would type it in the demonstration's directory."""
    text = argument
    if text.startswith(str(directory)):
        text = os.path.relpath(text, directory)
    quote = any(character in " '\"\n$&|;<>*?()[]{}" for character in text)
    return "'" + text.replace("'", "'\\''").replace("\n", "\\n") + "'" if quote else text
