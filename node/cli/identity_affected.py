"""`patchwarden identity affected`: what the revocation of a key takes back, asked of a node or derived from blocks alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.chain import RawBlock
from node.cli.command import Command, Session
from node.cli.errors import EXIT_NO
from node.cli.output import short
from node.cli.params import DIGEST, FILE, IDENTITY
from wire.errors import RejectedError

if TYPE_CHECKING:
    from ledger.keyspace import Reader
    from ledger.state import StateView
    from node.cli.chain import ReadBlock


@click.command(
    "affected",
    cls=Command,
    node=True,
    examples=(
        "patchwarden identity affected bob@beta",
        "patchwarden identity affected bob@beta --last-valid-height 812",
        "patchwarden identity affected bob@beta --archive chain.archive --genesis genesis.json -o json",
    ),
)
@click.argument("identity", type=IDENTITY, metavar="IDENTITY")
@click.option("--key-id", type=DIGEST, help="Look at this key only. Default: at all that are revoked.")
@click.option(
    "--last-valid-height",
    type=click.IntRange(min=0),
    metavar="H",
    help="What a revocation from H would take back, before anybody revokes. Default: what those on the ledger do.",
)
@click.option("--archive", type=FILE, metavar="FILE", help="Derive it from this archive instead of asking a node.")
@click.option(
    "--genesis",
    type=FILE,
    metavar="FILE",
    help="For a replay: the founding document that you trust. Default: the source's own.",
)
@click.option("--replay", is_flag=True, help="Believe nothing that a running node says: replay its blocks.")
@click.pass_obj
def affected(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    identity: str,
    key_id: str | None,
    last_valid_height: int | None,
    archive: Path | None,
    genesis: Path | None,
    replay: bool,
) -> None:
    """List what was recorded under keys of IDENTITY after the last height at which they count: patches, attestations, and where they are.

    A running node is asked. An archive, and the home of a stopped node, are replayed from the founding document with every signature, which
    gives the same. Exit code 1 when that chain does not hold.
    """
    from node.cli.governance_replay import is_replayed

    if archive is not None and session.has_node:
        raise click.UsageError("--archive and a node exclude each other")
    if replay or is_replayed(session, archive):
        document = _replay(session, identity, key_id, last_valid_height, archive, genesis)
    elif genesis is not None:
        raise click.UsageError("a node that is asked is believed: --genesis goes with --replay or --archive")
    else:
        asked = {"key_id": key_id, "last_valid_height": last_valid_height}
        answer = session.client().call("identities.affected", identity=identity, **asked)
        document = {**answer, "replayed": False, "findings": []}
    session.output.emit(document, affected_lines(document))
    if document["findings"]:
        click.get_current_context().exit(EXIT_NO)


class AffectedWatcher:
    """Collects, while a replay goes by, where to look (`node.cli.audit_run.Watcher`), and looks when it has ended."""

    def __init__(self, identity: str, key_id: bytes | None, last_valid_height: int | None) -> None:
        from ledger.affected import IndexCollector

        self._asked = (identity, key_id, last_valid_height)
        self._collector = IndexCollector()
        self._height = 0
        self.document: dict[str, Any] = {}
        """What was found, once the replay has ended."""

    def took(self, block: ReadBlock, before: Reader) -> None:
        """Take note of one more block."""
        del before
        from ledger.block import decode_block_untrusted

        if isinstance(block, RawBlock):
            try:
                decoded = decode_block_untrusted(block.block)
                self._collector.feed(decoded.header.height, decoded.transactions)
                self._height = decoded.header.height
            except RejectedError:
                return  # The replay has found that out too, and says so.

    def done(self, view: StateView) -> None:
        """Find what is affected; `view` is the state that the replay came to."""
        from ledger.affected import cut_keys, find_affected
        from node.identity_documents import affected_document

        identity, key_id, last_valid_height = self._asked
        keys = cut_keys(view, self._height, identity, key_id, last_valid_height)
        found = find_affected(view, self._collector.index(view, identity), identity, keys)
        self.document = {**affected_document(found), "height": self._height}


def _replay(  # noqa: PLR0917 - what is asked, and of what
    session: Session,
    identity: str,
    key_id: str | None,
    last_valid_height: int | None,
    archive: Path | None,
    genesis: Path | None,
) -> dict[str, Any]:
    from node.cli.audit_run import run_replay
    from node.cli.chain import open_chain
    from node.cli.verify_pool import VerifyPool, default_workers

    watcher = AffectedWatcher(identity, None if key_id is None else bytes.fromhex(key_id), last_valid_height)
    with VerifyPool(default_workers()) as pool, open_chain(session, archive) as source:
        replayed = run_replay(source, genesis, "full", pool, session.output, watcher=watcher)
    return {**watcher.document, "replayed": True, "findings": replayed["findings"]}


def affected_lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield what a revocation takes back, for people."""
    for key in document["keys"]:
        yield f"key {short(key['key_id'], 16)} of {document['identity']} counts up to height {key['last_valid_height']}"
    for patch in document["patches"]:
        yield ""
        state = "withdrawn" if patch["withdrawn_height"] is not None else "published"
        components = ", ".join(patch["components"])
        yield f"patch {short(patch['patch_id'], 16)} of {patch['author']} ({components}), {state} at height {patch['published_height']}"
        if patch["author_affected"]:
            yield "  published under such a key: no agent applies it any more"
        for each in patch["attestations"]:
            yield f"  {each['verdict']} as {each['role']}, recorded at height {each['recorded_height']}: does not count"
        yield f"  approvals of other organisations that still count: {patch['approvals_left']}"
        for place in patch["installed"]:
            yield f"  INSTALLED on {place['host']}, target {place['target']}, since height {place['height']}"
    if document["acts"]:
        yield ""
        yield "signed under such a key after that height:"
        for act in document["acts"]:
            yield f"  {act['height']:>9}  {act['kind']}  {act['about']}".rstrip()
    yield ""
    count, hosts = document["patch_count"], len({each["host"] for each in document["targets"]})
    targets = len(document["targets"])
    yield f"{count} patches affected, installed on {targets} targets of {hosts} hosts; {document['act_count']} transactions"
    if not document["replayed"]:
        yield f"as the node tells it at height {document['height']}; --replay derives it from its blocks"
    elif document["findings"]:
        yield f"THE CHAIN DOES NOT HOLD: {len(document['findings'])} findings, `audit replay` tells them"
    else:
        yield f"derived from the founding document up to height {document['height']}; the chain holds"
