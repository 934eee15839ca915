"""`patchwarden devnet`: a network of real processes on this machine, for development and for trying things out."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session, group
from node.cli.errors import EXIT_INTERRUPTED
from node.cli.lazy import Place
from node.cli.node import END_WITH_PARENT, end_with_parent_process
from node.cli.output import fields, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from node.cli.devnet_layout import Layout, Node

DIRECTORY_DEFAULT: Final = "patchwarden-devnet"
FOLLOW_POLL_S: Final = 0.2

devnet = group(
    "A network of real processes on this machine, for development.\n\n`up` runs in the foreground; the other commands talk to it. "
    "DIR/devnet.json says everything that a script needs.",
    {
        "up": Place("node.cli.devnet:up", "Start a network, and stop it with Ctrl-C."),
        "status": Place("node.cli.devnet:status", "Show every node with its state."),
        "stop": Place("node.cli.devnet:stop", "Stop one node in order, or the whole network."),
        "start": Place("node.cli.devnet:start", "Start a stopped node."),
        "kill": Place("node.cli.devnet:kill", "Kill a node where it stands (SIGKILL)."),
        "pause": Place("node.cli.devnet:pause", "Freeze a node (SIGSTOP)."),
        "resume": Place("node.cli.devnet:resume", "Let a paused node go on."),
        "logs": Place("node.cli.devnet:logs", "Show the end of nodes' logs."),
    },
)

_DIR = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=DIRECTORY_DEFAULT,
    show_default=True,
    envvar="PATCHWARDEN_DEVNET",
    metavar="DIR",
    help="The network's directory.",
)
_NAME = click.argument("name", metavar="NAME")


@click.command(
    "up",
    cls=Command,
    examples=(
        "patchwarden devnet up",
        "patchwarden devnet up --validators 7 --hosts 2 --dir /tmp/net --base-port 7100",
    ),
)
@_DIR
@click.option("--validators", type=click.IntRange(1, 16), help="How many nodes vote. Default for a new network: 4.")
@click.option("--hosts", type=click.IntRange(0, 16), help="How many nodes have an agent. Default for a new network: 1.")
@click.option(
    "--base-port",
    type=click.IntRange(0, 65_000),
    default=0,
    show_default=True,
    metavar="P",
    help="First of two ports for each node of a new network; 0 takes free ones.",
)
@END_WITH_PARENT
@click.pass_obj
def up(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    directory: Path,
    validators: int | None,
    hosts: int | None,
    base_port: int,
    end_with_parent: int | None,
) -> None:
    """Start the network in DIR in the foreground, making it when there is none; Ctrl-C stops everything.

    Three organisations (acme, beta, gamma) run the validators in turn. A developer, two attestors and the hosts are registered on
    the ledger by their administrators; all keys lie in DIR/people.
    """
    from node.cli.devnet_control import (
        Supervisor,
        control_listener,
        directory_lock,
        running,
    )
    from node.cli.devnet_layout import found_network, read_layout, remove_network
    from node.cli.devnet_network import LocalNetwork, adopt_orphans
    from node.cli.signals import ending_signals

    if end_with_parent is not None:
        end_with_parent_process(end_with_parent)
    directory = directory.absolute()
    ready, made, existed = False, False, directory.exists()
    try:
        with ending_signals():
            layout = read_layout(directory)
            if layout is None:
                layout = found_network(
                    directory, validators=validators or 4, hosts=1 if hosts is None else hosts, base_port=base_port
                )
                made = True
                session.output.note(
                    f"founded a network of {len(layout.validators)} validators and {len(layout.hosts)} hosts in {directory}"
                )
            else:
                _check_size(layout, validators, hosts)
            with directory_lock(directory), control_listener(directory) as listener:
                adopt_orphans()
                if not made:
                    _write_stopped(layout)
                with running(LocalNetwork(layout, session.output.note)) as network:
                    ready = True
                    _announce(session, network.layout)
                    Supervisor(network).run(listener)
    except KeyboardInterrupt:
        pass
    finally:
        if made and not ready:
            remove_network(directory, keep_directory=existed)
    session.output.note("everything has stopped")
    if not ready:
        click.get_current_context().exit(EXIT_INTERRUPTED)


@click.command(
    "status", cls=Command, examples=("patchwarden devnet status", "patchwarden devnet status --dir /tmp/net -o json")
)
@_DIR
@click.pass_obj
def status(session: Session, directory: Path) -> None:
    """Show every node with its state, and where its ledger stands."""
    from node.cli.devnet_layout import get_layout

    layout = get_layout(directory)
    nodes = [_node_status(node) for node in layout.nodes]
    document = {"chain_id": layout.chain_id, "directory": str(layout.directory), "nodes": nodes}
    rows = [
        (
            each["name"],
            each["state"],
            each["ledger_role"] or each["role"],
            each["height"],
            each["term"],
            each["pid"],
            each["rpc"],
        )
        for each in nodes
    ]
    session.output.emit(document, table(rows, ("node", "state", "role", "height", "term", "pid", "rpc")))


@click.command("stop", cls=Command, examples=("patchwarden devnet stop v2", "patchwarden devnet stop"))
@click.argument("name", required=False, metavar="[NAME]")
@_DIR
@click.pass_obj
def stop(session: Session, name: str | None, directory: Path) -> None:
    """Stop the node NAME in order; without NAME the whole network."""
    if name is not None:
        _control(session, directory, "stop", name, "stopped")
        return
    from node.cli.devnet_control import ask, control_path
    from wire.errors import UnavailableError

    ask(directory, "stop")
    deadline = time.monotonic() + 30
    while control_path(directory).exists():
        if time.monotonic() > deadline:
            raise UnavailableError("cli.devnet.still_up", f"the network in {directory} has not ended yet")
        time.sleep(FOLLOW_POLL_S)
    session.output.emit({"stopped": True}, [f"the network in {directory} has stopped"])


@click.command("start", cls=Command, examples=("patchwarden devnet start v2",))
@_NAME
@_DIR
@click.pass_obj
def start(session: Session, name: str, directory: Path) -> None:
    """Start the stopped node NAME and wait until it answers."""
    _control(session, directory, "start", name, "runs")


@click.command("kill", cls=Command, examples=("patchwarden devnet kill v1",))
@_NAME
@_DIR
@click.pass_obj
def kill(session: Session, name: str, directory: Path) -> None:
    """Kill the node NAME where it stands (SIGKILL)."""
    _control(session, directory, "kill", name, "was killed")


@click.command("pause", cls=Command, examples=("patchwarden devnet pause v1",))
@_NAME
@_DIR
@click.pass_obj
def pause(session: Session, name: str, directory: Path) -> None:
    """Freeze the node NAME (SIGSTOP): its connections stay open and it says nothing."""
    _control(session, directory, "pause", name, "is paused")


@click.command("resume", cls=Command, examples=("patchwarden devnet resume v1",))
@_NAME
@_DIR
@click.pass_obj
def resume(session: Session, name: str, directory: Path) -> None:
    """Let the paused node NAME go on (SIGCONT)."""
    _control(session, directory, "resume", name, "goes on")


@click.command(
    "logs", cls=Command, examples=("patchwarden devnet logs v1 --lines 20", "patchwarden devnet logs --follow")
)
@click.argument("name", required=False, metavar="[NAME]")
@_DIR
@click.option("--lines", type=click.IntRange(min=0), default=20, show_default=True, help="How many of each node.")
@click.option("--follow", is_flag=True, help="Go on with what is written, until interrupted.")
@click.pass_obj
def logs(session: Session, name: str | None, directory: Path, lines: int, follow: bool) -> None:
    """Show the end of the log of NAME, or of every node. The lines are JSON."""
    from node.cli.devnet_layout import get_layout

    layout = get_layout(directory)
    nodes = layout.nodes if name is None else (layout.node(name),)
    places = {node.name: _size(node.log) for node in nodes}
    for node in nodes:
        for line in _tail(node.log, lines):
            _log_line(session, node.name, line)
    while follow:
        for node in nodes:
            for line in _written_since(node.log, places, node.name):
                _log_line(session, node.name, line)
        time.sleep(FOLLOW_POLL_S)


def _announce(session: Session, layout: Layout) -> None:
    rows = [(node.name, node.role, node.rpc, node.home) for node in layout.nodes]
    people = [(person.identity, ", ".join(person.roles), person.key) for person in layout.people]
    first = layout.nodes[0]
    lines = [
        "",
        *table(rows, ("node", "role", "rpc", "home")),
        "",
        *table(people, ("person", "roles", "key")),
        "",
        f"everything a script needs: {layout.file}",
        f"explorer: {first.explorer}",
        f"try: patchwarden node status --rpc {first.rpc}",
        "ready; Ctrl-C stops everything",
    ]
    if session.output.as_json:
        session.output.emit_event(layout.to_json(), "")
    else:
        session.output.emit({}, lines)
        import sys

        sys.stdout.flush()


def _check_size(layout: Layout, validators: int | None, hosts: int | None) -> None:
    for option, given, actual in (("validators", validators, layout.validators), ("hosts", hosts, layout.hosts)):
        if given is not None and given != len(actual):
            raise click.UsageError(f"the network in {layout.directory} has {len(actual)} {option}; name another --dir")


def _write_stopped(layout: Layout) -> None:
    for node in layout.nodes:
        layout = layout.with_pid(node.name, None)
    layout.write()


def _control(session: Session, directory: Path, command: str, name: str, said: str) -> None:
    from node.cli.devnet_control import ask
    from node.cli.devnet_layout import get_layout

    get_layout(directory).node(name)
    document = ask(directory, command, name)
    session.output.emit(document, fields(((name, said), ("pid", document["pid"]))))


def _node_status(node: Node) -> dict[str, Any]:
    from node.cli.devnet_network import read_status
    from wire.errors import PatchwardenError

    state = _process_state(node)
    document = {**node.to_json(), "state": state, "ledger_role": None, "height": None, "term": None, "leader": None}
    if state == "stopped":
        return {**document, "pid": None}
    if state == "running":
        try:
            answer = read_status(node)
        except PatchwardenError:
            return {**document, "state": "not answering"}
        document |= {
            "ledger_role": answer["role"],
            "height": answer["height"],
            "term": answer["term"],
            "leader": answer["leader"],
        }
    return document


def _process_state(node: Node) -> str:
    """Return what the kernel says about a node's process; another process may have got the id of one that is gone."""
    if node.pid is None:
        return "stopped"
    try:
        command = Path(f"/proc/{node.pid}/cmdline").read_bytes()
        state = (
            Path(f"/proc/{node.pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
        )
    except (OSError, IndexError):
        return "stopped"
    if os.fsencode(node.home) not in command or state == "Z":
        return "stopped"
    return "paused" if state in ("T", "t") else "running"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _tail(path: Path, count: int) -> list[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return list(deque((line.rstrip("\n") for line in stream), maxlen=count))
    except OSError:
        return []


def _written_since(path: Path, places: dict[str, int], name: str) -> Iterator[str]:
    if (size := _size(path)) < places[name]:
        places[name] = 0
    if size == places[name]:
        return
    with path.open("rb") as stream:
        stream.seek(places[name])
        data = stream.read()
    whole = data.rfind(b"\n") + 1
    places[name] += whole
    yield from data[:whole].decode("utf-8", "replace").splitlines()


def _log_line(session: Session, name: str, line: str) -> None:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = {"text": line}
    session.output.emit_event({"node": name, "entry": entry}, f"{name}: {line}")
