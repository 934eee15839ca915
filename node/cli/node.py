"""`patchwarden node`: one node, from its home directory to its status."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session, group
from node.cli.errors import EXIT_INTERRUPTED, CommandError
from node.cli.lazy import Place
from node.cli.output import fields, table
from node.cli.params import FILE

if TYPE_CHECKING:
    from node.config import Home, NodeConfig

STOP_TIMEOUT_S: Final = 15.0
"""How long `node stop` waits for the node to be gone."""
STOP_POLL_S: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1

node = group(
    "Set up, run and ask a node.",
    {
        "init": Place("node.cli.node:init", "Make a node home: settings, key, founding document."),
        "start": Place("node.cli.node:start", "Run the node in the foreground."),
        "stop": Place("node.cli.node:stop", "Stop the running node in order."),
        "status": Place("node.cli.node:status", "Show what the node is and where it stands."),
        "peers": Place("node.cli.node:peers", "Show the peers that the node knows."),
        "validators": Place("node.cli.node:validators", "Show validators and learners, and how far each is."),
        "transfer-leadership": Place("node.cli.node:transfer_leadership", "Hand leadership to another validator."),
        "backup": Place("node.cli.backup:backup", "Write a backup of a node, running or not."),
        "export-bundle": Place(
            "node.cli.bundle:export_bundle",
            "Write blocks and patch files to be carried to a machine without a network.",
        ),
        "restore": Place("node.cli.backup:restore", "Verify a backup and make a home from it."),
        "verify-store": Place(
            "node.cli.node:verify_store", "Read every row of a stopped node's store and check the chain."
        ),
    },
)


END_WITH_PARENT: Final = click.option(
    "--end-with-parent",
    type=int,
    hidden=True,
    metavar="PID",
    help="Be killed when the process PID, which started this one, ends.",
)


@click.command(
    "init",
    cls=Command,
    home=True,
    examples=(
        "patchwarden node init --home /srv/v1 --name v1 --listen /ip4/192.0.2.1/tcp/7070",
        "patchwarden node init --home /srv/web1 --name web1 --role host --identity web1@acme \\\n"
        "      --peer /ip4/192.0.2.1/tcp/7070/p2p/12D3Koo… --genesis genesis.json",
    ),
)
@click.option("--name", "node_name", required=True, metavar="NAME", help="The node's name, such as v1.")
@click.option(
    "--role",
    type=click.Choice(["validator", "host"]),
    default="validator",
    show_default=True,
    help="Votes, or guards a host.",
)
@click.option("--identity", metavar="NAME@ORGANISATION", help="The identity that a host's agent signs as.")
@click.option(
    "--listen", default="/ip4/127.0.0.1/tcp/0", show_default=True, metavar="MULTIADDR", help="Where peers reach it."
)
@click.option(
    "--rpc-listen",
    default="127.0.0.1:0",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Where HTTP listens; loopback only.",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="MULTIADDR",
    help="A node that a host follows, or a validator that joins later, with /p2p/…; several times.",
)
@click.option(
    "--genesis", type=FILE, metavar="FILE", help="The network's founding document. Can be put into the home later."
)
@click.option(
    "--key", "key_path", type=FILE, metavar="FILE", help="An unencrypted Ed25519 key to take over. Default: a new one."
)
@click.option(
    "--set",
    "settings",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    help="Any other setting, such as `tick_ms 20`.",
)
@click.pass_obj
def init(session: Session, /, **given: Any) -> None:
    """Make a node home. A home that has settings or a key already is left alone."""
    from node.cli.node_home import NodeSettings, make_node_home, node_identity_document

    place = session.node_home()
    settings = NodeSettings(
        name=given["node_name"],
        role=given["role"],
        identity=given["identity"],
        listen=given["listen"],
        rpc_listen=given["rpc_listen"],
        peers=tuple(given["peers"]),
        more=tuple(given["settings"]),
    )
    key = make_node_home(place, settings, genesis=_genesis(given["genesis"]), key=_given_key(given["key_path"]))
    document = node_identity_document(place, settings, key.public_key)
    session.output.emit(
        document,
        fields(
            (
                ("home", document["home"]),
                ("name", document["name"]),
                ("role", document["role"]),
                ("key", document["did"]),
                ("key id", document["key_id"]),
                ("peer id", document["peer_id"]),
                ("address", document["multiaddr"]),
            )
        ),
    )


@click.command(
    "start",
    cls=Command,
    home=True,
    examples=("patchwarden node start --home /srv/v1", "patchwarden node start --home /srv/v1 --log-level debug"),
)
@click.option("--listen", metavar="MULTIADDR", help="Instead of the setting.")
@click.option("--rpc-listen", metavar="ADDRESS:PORT", help="Instead of the setting.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Instead of the setting.")
@click.option("--log-format", type=click.Choice(["json", "text"]), help="Default: text on a terminal, JSON elsewhere.")
@END_WITH_PARENT
@click.pass_obj
def start(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    listen: str | None,
    rpc_listen: str | None,
    log_level: str | None,
    log_format: str | None,
    end_with_parent: int | None,
) -> None:
    """Run the node in the foreground until SIGTERM or Ctrl-C. Its log goes to standard error."""
    from node.config import Home, load_config

    place = Home(session.node_home())
    overrides = {"listen": listen, "rpc_listen": rpc_listen, "log_level": log_level}
    config = load_config(place, {name: value for name, value in overrides.items() if value is not None})
    if end_with_parent is not None:
        end_with_parent_process(end_with_parent)
    _run(place, config, log_format)


def _run(home: Home, config: NodeConfig, log_format: str | None) -> None:
    import sys

    from node.process import run_process
    from node.telemetry import configure_logging

    as_json = log_format == "json" or (log_format is None and not sys.stderr.isatty())
    configure_logging(level=config.log_level, as_json=as_json)
    run_process(home, config)


@click.command("stop", cls=Command, home=True, examples=("patchwarden node stop --home /srv/v1",))
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=STOP_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait.",
)
@click.pass_obj
def stop(session: Session, timeout_s: float) -> None:
    """Stop the node that runs at the home, in order, and wait until it is gone."""
    from node.config import Home
    from wire.errors import UnavailableError

    place = Home(session.node_home())
    session.client().call("node.stop")
    deadline = time.monotonic() + timeout_s
    while place.run.exists() or place.socket.exists():
        if time.monotonic() > deadline:
            raise UnavailableError(
                "cli.node.still_running", f"the node at {place.path} has not ended yet", hint="wait longer: --timeout"
            )
        time.sleep(STOP_POLL_S)
    session.output.emit({"stopped": True, "home": str(place.path)}, [f"the node at {place.path} has stopped"])


@click.command(
    "status",
    cls=Command,
    node=True,
    examples=(
        "patchwarden node status",
        "patchwarden node status --rpc http://127.0.0.1:7080 -o json",
    ),
)
@click.pass_obj
def status(session: Session) -> None:
    """Show what the node is and where it stands."""
    document = session.client().call("status")
    session.output.emit(document, _status_lines(document))


@click.command("peers", cls=Command, node=True, examples=("patchwarden node peers",))
@click.pass_obj
def peers(session: Session) -> None:
    """Show the peers that the node knows, connected or not."""
    found = session.client().call("peers")
    rows = [(each["name"], "yes" if each["connected"] else "no", each["rtt_ms"], each["address"]) for each in found]
    session.output.emit(found, table(rows, ("peer", "connected", "rtt ms", "address")))


@click.command(
    "validators",
    cls=Command,
    node=True,
    examples=("patchwarden node validators", "patchwarden node validators --rpc http://127.0.0.1:7080 -o json"),
)
@click.pass_obj
def validators(session: Session) -> None:
    """Show validators and learners. The leader also knows up to which height each has the chain."""
    found = session.client().call("validators")
    if session.output.as_json:
        session.output.emit(found, ())
        return
    status = session.client().call("status")
    own_height = {status["node_key_id"]: status["last_height"]} if status["role"] == "leader" else {}
    rows = [
        (
            each["name"],
            each["organisation"],
            each["membership"],
            own_height.get(each["key_id"], each["match_height"]),
            each["key_id"],
            each["address"],
        )
        for each in found
    ]
    session.output.emit(found, table(rows, ("validator", "organisation", "membership", "has", "key id", "address")))
    if not own_height:
        session.output.note(f"only the leader knows how far each is; it is {status['leader'] or 'not known now'}")


@click.command(
    "transfer-leadership",
    cls=Command,
    home=True,
    examples=(
        "patchwarden node transfer-leadership --home /srv/v1",
        "patchwarden node transfer-leadership --to v2 --home /srv/v1",
    ),
)
@click.option("--to", metavar="NAME", help="The validator that shall lead. Default: whoever is furthest.")
@click.pass_obj
def transfer_leadership(session: Session, to: str | None) -> None:
    """Hand leadership to another validator; the node at the home must lead. Before its machine goes down, say."""
    document = session.client().call("node.transfer-leadership", to=to)
    session.output.emit(document, [f"leadership was handed over in {document['took_ms']} ms"])


@click.command("verify-store", cls=Command, home=True, examples=("patchwarden node verify-store --home /srv/v1",))
@click.pass_obj
def verify_store(session: Session) -> None:
    """Read every row of a stopped node's store, verify its checksum, and check the chain's links and roots.

    Every damaged or missing row is named by table and key; the exit code is 4 then. The next start of the node repairs what can be made
    anew from its own blocks and those of its peers.
    """
    from node.cli.store import verify_home

    document = verify_home(session.node_home(), session.output)
    session.output.emit(
        document,
        [
            *fields(
                (
                    ("store", document["path"]),
                    ("rows", document["rows"]),
                    ("blocks", document["height"]),
                    ("transactions", document["transactions"]),
                    ("findings", len(document["findings"])),
                )
            ),
            *(f"{each['what']}: {each['message']}" for each in document["findings"]),
        ],
    )
    if document["findings"]:
        from wire.errors import CorruptionError

        first = document["findings"][0]
        raise CorruptionError(
            first["what"],
            f"{len(document['findings'])} findings, the first: {first['message']}",
            hint="start the node: it repairs its store before it takes part, or says what is lost for good",
        )


def _genesis(path: Path | None) -> bytes | None:
    if path is None:
        return None
    from node.cli.receipt import read_genesis

    return read_genesis(path).document


def _given_key(path: Path | None) -> Any:
    if path is None:
        return None
    from node.keystore import load_key
    from wire.keys import Algorithm

    key = load_key(path)
    if key.algorithm is not Algorithm.ED25519:
        raise CommandError("cli.node.key", "a node's key is an Ed25519 key", actual=str(key.algorithm))
    return key


def end_with_parent_process(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however that happens: a supervisor leaves nothing behind.

    Args:
        parent: The process id of the one that started this one; when it has ended already, so does this one.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel cannot watch the parent process")
    if os.getppid() != parent:
        raise SystemExit(EXIT_INTERRUPTED)


def _status_lines(document: dict[str, Any]) -> list[str]:
    age = document["replica_age_ms"] / 1000
    return list(
        fields(
            (
                ("node", f"{document['name']} ({document['role']})"),
                ("membership", "has left the network, its key never comes back" if document.get("removed") else None),
                ("chain", document["chain_id"]),
                ("height", document["height"]),
                ("term", document["term"]),
                ("leader", document["leader"]),
                ("block", document["block_hash"]),
                ("state root", document["state_root"]),
                ("replica age", f"{age:.1f} s"),
                ("peers connected", document.get("peers_connected")),
                ("follows", _sources_line(document.get("sync"))),
                ("dropped", _dropped_line(document.get("sync"))),
                ("feeds", _fed_line(document.get("observers"))),
                ("patch files", _patches_line(document.get("patches"))),
                ("dropped for files", _dropped_line(document.get("patches"))),
                ("transactions waiting", document.get("mempool")),
                ("identity", document.get("identity")),
                ("address", document.get("multiaddr")),
                ("version", document["version"]),
                ("process", document.get("pid")),
                ("certificates", _certificates_line(document.get("certificates"))),
                ("RECOVERED at height", ", ".join(map(str, document.get("recovered_at") or ())) or None),
                (
                    "SPLIT VIEW",
                    "the validators have certified two histories: see checkpoints/ in the home"
                    if document.get("split_views")
                    else None,
                ),
            )
        )
    )


def _certificates_line(summary: dict[str, Any] | None) -> str | None:
    """Return what a person must know about certificates on the ledger: nothing while none ends soon."""
    if not summary or not summary["expiring"]:
        return None
    from node.cli.governance_show import certificates_text

    return certificates_text(summary)


def _sources_line(sync: dict[str, Any] | None) -> str | None:
    """Return whom an observer follows, or None for a node that takes part in consensus."""
    if sync is None:
        return None
    sources = [f"{each['key_id'][:16]}{' (main)' if each['is_main'] else ''}" for each in sync["sources"]]
    return f"{', '.join(sources)}; {sync['depth']} from the validators" if sources else "nobody"


def _dropped_line(sync: dict[str, Any] | None) -> str | None:
    """Return whom an observer leaves alone because of what they sent, or None when there is nobody."""
    dropped = [] if sync is None else sync["dropped"]
    return ", ".join(f"{each['key_id'][:16]} ({each['code']}, {each['for_s']} s)" for each in dropped) or None


def _fed_line(observers: dict[str, Any] | None) -> str | None:
    """Return how many observers a node feeds, or None when there are none."""
    if observers is None or not observers["fed"]:
        return None
    return f"{len(observers['fed'])} of at most {observers['limit']} observers"


def _patches_line(patches: dict[str, Any] | None) -> str | None:
    """Return how many bytes of patch files a node keeps, and what moves, or None when there are none."""
    if patches is None or not (patches["bytes"] or patches["fetching"]):
        return None
    parts = [f"{patches['bytes'] / (1 << 20):.1f} of at most {patches['bytes_max'] / (1 << 20):.0f} MiB"]
    if patches["places_used"]:
        parts.append(f"gives to {patches['places_used']}")
    parts += [
        f"fetching {each['file_digest'][:16]} ({each['chunks_here']} of {each['chunks']} chunks from {len(each['sources'])})"
        for each in patches["fetching"]
    ]
    return "; ".join(parts)


def read_run_file(home: Path) -> dict[str, Any] | None:
    """Return what a running node says about itself in its home, or None when none runs."""
    from node.config import Home

    try:
        document = json.loads(Home(home).run.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return None  # Replaced at this moment, or left by a crash: whoever asks again sees the next one.
    return document if isinstance(document, dict) else None
