"""The history of governance derived from blocks alone: every block replayed, every signature verified, nobody believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.governance_story import StoryCollector
from node.cli.chain import RawBlock
from wire.errors import RejectedError

if TYPE_CHECKING:
    from ledger.keyspace import Reader
    from ledger.state import StateView
    from node.cli.chain import ReadBlock
    from node.cli.command import Session


class GovernanceWatcher:
    """Collects the stories of proposals while a replay goes by (`node.cli.audit_run.Watcher`)."""

    def __init__(self) -> None:
        self._collector = StoryCollector()
        self.proposals: list[dict[str, Any]] = []
        """What was found, once the replay has ended."""

    def took(self, block: ReadBlock, before: Reader) -> None:
        """Take note of one more block."""
        del before
        from ledger.block import decode_block_untrusted

        if isinstance(block, RawBlock):
            try:
                decoded = decode_block_untrusted(block.block)
                self._collector.feed(decoded.header.height, decoded.header.time_ms, decoded.transactions)
            except RejectedError:
                return  # The replay has found that out too, and says so.

    def done(self, view: StateView) -> None:
        """Tell the stories; `view` is the state that the replay came to."""
        from node.governance_documents import story_document

        self.proposals = [story_document(each) for each in self._collector.stories(view)]


def is_replayed(session: Session, archive: Path | None) -> bool:
    """Return whether there is no node to ask: an archive is given, or the home is that of a stopped one."""
    from node.cli.chain import is_running

    return archive is not None or (session.rpc is None and not is_running(session))


def replay_governance(session: Session, archive: Path | None, genesis: Path | None) -> dict[str, Any]:
    """Return the history of governance as a document, from a replay.

    Raises:
        RejectedError: There is no such chain, or its founding document is refused.
        UnavailableError: The source does not answer.
    """
    from node.cli.audit_run import run_replay
    from node.cli.chain import open_chain
    from node.cli.verify_pool import VerifyPool, default_workers

    watcher = GovernanceWatcher()
    with VerifyPool(default_workers()) as pool, open_chain(session, archive) as source:
        replayed = run_replay(source, genesis, "full", pool, session.output, watcher=watcher)
    return {
        "source": replayed["source"],
        "source_kind": replayed["source_kind"],
        "chain_id": replayed["chain_id"],
        "height": replayed["height"],
        "replayed": True,
        "findings": replayed["findings"],
        "proposals": watcher.proposals,
    }
