"""`patchwarden node backup` and `restore`: everything of a node at one certified height, and a home made from it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session, passphrase_options
from node.cli.output import fields, time_text
from node.cli.params import EXISTING_DIRECTORY, PATH
from node.cli.trusted import trust_options
from wire.errors import UnavailableError

if TYPE_CHECKING:
    from node.cli.client import NodeClient
    from node.config import Home
    from node.restore import Restored, Trust
    from wire.keys import PrivateKey


@click.command(
    "backup",
    cls=Command,
    home=True,
    params=passphrase_options(),
    examples=(
        "patchwarden node backup --home /srv/v1 --out /backup/v1-2026-11-22",
        "patchwarden node backup --home /srv/web1 --out /backup/web1 --with-key --passphrase-file /run/secrets/passphrase",
    ),
)
@click.option(
    "--out", "target", type=PATH, required=True, metavar="DIR", help="The directory to make; nothing may be there yet."
)
@click.option("--with-key", is_flag=True, help="Put the node's key in as well, encrypted with a passphrase.")
@click.pass_obj
def backup(session: Session, target: Path, with_key: bool) -> None:
    """Write a backup of the node at the home, which may be running and goes on: blocks, certificates, state, patch files, settings.

    It stands at one certified height and appears whole or not at all. No private key is in it unless you ask for the node's own.
    """
    place = target.absolute()
    key_pem = _encrypted_key(session) if with_key else None
    done: dict[str, Any] = {}
    with session.output.progress("bytes", 0) as progress:
        for event in _write(session, place, key_pem):
            if "done" in event:
                done = event["done"]
            else:
                progress.update(event["bytes"])
    session.output.emit(
        done,
        fields(
            (
                ("backup", done["path"]),
                ("height", done["height"]),
                ("block", done["block_hash"]),
                ("state root", done["state_root"]),
                ("time", time_text(done["time_ms"])),
                ("files", done["files"]),
                ("bytes", done["bytes"]),
                ("key", "the node's, encrypted" if done["with_key"] else "none"),
                ("patch files left out, damaged", ", ".join(done["patches_damaged"]) or None),
            )
        ),
    )


def _write(session: Session, target: Path, key_pem: bytes | None) -> Iterator[dict[str, Any]]:
    """Yield how far the backup is: from the node when it runs, from its store when it does not."""
    from node.config import Home

    home = Home(session.node_home())
    if (client := _find_client(session, home)) is not None:
        text = None if key_pem is None else key_pem.decode("ascii")
        yield from client.stream("node.backup", path=str(target), encrypted_key=text)
        return
    from node.app import VERSION
    from node.backup import backup_stopped
    from node.cli.store import open_stopped
    from node.config import load_config

    with open_stopped(home.path) as (_, store), store.snapshot() as reader:
        yield from backup_stopped(reader, home, load_config(home), target, software=VERSION, key_pem=key_pem)


def _find_client(session: Session, home: Home) -> NodeClient | None:
    """Return the running node, or None where none runs; a killed one leaves its socket behind."""
    if not home.socket.exists():
        return None
    try:
        return session.client()
    except UnavailableError:
        return None


def _encrypted_key(session: Session) -> bytes:
    from node.cli.passphrase import new_passphrase
    from node.config import Home
    from node.keystore import load_key

    key = load_key(Home(session.node_home()).node_key)
    return key.to_pem(new_passphrase(session.passphrase_fd, session.passphrase_file))


@click.command(
    "restore",
    cls=Command,
    home=True,
    params=passphrase_options(),
    examples=(
        "patchwarden node restore /backup/v1-2026-11-22 --home /srv/v5 --genesis genesis.json --set listen /ip4/192.0.2.5/tcp/7070",
        "patchwarden node restore /backup/web1 --home /srv/web1 --checkpoint today.checkpoint --with-key "
        "--passphrase-file /run/secrets/passphrase",
    ),
)
@click.argument("backup_path", type=EXISTING_DIRECTORY, metavar="BACKUP")
@trust_options
@click.option("--with-key", is_flag=True, help="Take over the key in the backup: a host's only, never a validator's.")
@click.option(
    "--set",
    "settings",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    help="A setting instead of the backup's, such as `listen /ip4/192.0.2.5/tcp/7070`.",
)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes that verify signatures.")
@click.pass_obj
def restore(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    backup_path: Path,
    genesis: Path | None,
    checkpoint: Path | None,
    with_key: bool,
    settings: tuple[tuple[str, str], ...],
    jobs: int | None,
) -> None:
    """Verify everything in BACKUP from what you trust, and make the home from it; the home must be empty or not exist.

    A validator comes back as a new node under a new key, which follows until the ledger names it: nobody knows what the old one signed
    after the backup was made.
    """
    from node.cli.node_home import setting_value
    from node.cli.verify_pool import VerifyPool, default_workers
    from node.restore import restore as restore_home
    from node.storage.backup_files import BackupReader

    trust = _trust(genesis, checkpoint)
    passphrase = _passphrase(session) if with_key else None
    reader = BackupReader(backup_path)
    with VerifyPool(jobs or default_workers()) as pool, session.output.stages() as stages:
        restored = restore_home(
            reader,
            session.node_home(),
            trust,
            new_key=_new_key(),
            passphrase=passphrase,
            settings={name: setting_value(text) for name, text in settings},
            verifier=pool,
            report=stages.show,
        )
    document = _document(restored)
    session.output.emit(document, _lines(document))


def _trust(genesis: Path | None, checkpoint: Path | None) -> Trust:
    from ledger.checkpoint import trust_checkpoint
    from node.cli.trusted import read_checkpoint, read_genesis
    from node.restore import Trust

    if genesis is None and checkpoint is None:
        raise click.UsageError("name what you trust: --genesis FILE, --checkpoint FILE, or both")
    return Trust(
        None if genesis is None else read_genesis(genesis),
        None if checkpoint is None else trust_checkpoint(read_checkpoint(checkpoint)),
    )


def _passphrase(session: Session) -> bytes:
    from node.cli.passphrase import ask_passphrase

    return ask_passphrase("the key in the backup", session.passphrase_fd, session.passphrase_file)


def _new_key() -> PrivateKey:
    from node.clock import random_bytes
    from wire.keys import SEED_BYTES, Algorithm, private_key_from_seed

    return private_key_from_seed(Algorithm.ED25519, random_bytes(SEED_BYTES))


def _document(restored: Restored) -> dict[str, Any]:
    description = restored.description
    public = restored.key.public_key
    return {
        "home": str(restored.home),
        "chain_id": description.chain_id,
        "height": description.height,
        "block_hash": description.block_hash,
        "state_root": description.state_root,
        "time_ms": description.time_ms,
        "history": description.history,
        "transactions": restored.transactions,
        "patch_files": restored.patches,
        "role": description.role,
        "key_id": public.key_id_hex,
        "did": public.did,
        "is_key_new": restored.is_key_new,
        "peers": list(restored.peers),
    }


def _lines(document: dict[str, Any]) -> Iterator[str]:
    yield from fields(
        (
            ("home", document["home"]),
            ("chain", document["chain_id"]),
            ("stands at height", document["height"]),
            ("block", document["block_hash"]),
            ("state root", document["state_root"]),
            ("time", time_text(document["time_ms"])),
            (
                "history",
                "all blocks" if document["history"] == "full" else "none below this height: the node had forgotten it",
            ),
            ("transactions", document["transactions"]),
            ("patch files", document["patch_files"]),
            ("key", f"{document['did']} ({'new' if document['is_key_new'] else 'from the backup'})"),
            ("asks", document["peers"] or "nobody: set `peers` in config.toml"),
        )
    )
    if document["role"] == "validator":
        yield "its key is new: let governance take it in (governance propose add-learner), then start it"
    elif document["is_key_new"]:
        yield "start it when its identity has this key: identity rotate-key"
