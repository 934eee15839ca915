"""One replay from its source to its result: feeding the auditor, keeping where it stands, telling what was found."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ledger.audit import AuditLevel, Auditor, AuditSummary, Verifier
from ledger.audit_state import Finding
from ledger.genesis import Genesis, decode_genesis_untrusted
from node.cli.audit_home import find_damaged_rows, find_other_state
from node.cli.audit_resume import Fed, Point, ResumeFile
from node.cli.audit_store import AuditTables
from node.cli.chain import DamagedBlock, ReadBlock
from node.cli.receipt import read_genesis
from node.cli.recovery_mark import mark_document
from wire.errors import CorruptionError, PatchwardenError, RejectedError

if TYPE_CHECKING:
    from ledger.keyspace import Reader
    from ledger.state import StateView
    from node.cli.chain import ChainSource
    from node.cli.output import Output, Progress
    from node.storage.leveldb import Store

COLLECTION_OBJECTS: Final = 50_000
"""New objects between two looks for cycles: those of some ten blocks."""
NOTES_MAX: Final = 20
"""Findings told while the replay goes on; the result has them all."""


class Watcher(Protocol):
    """Sees a chain go by while it is replayed at level ``full``."""

    def took(self, block: ReadBlock, before: Reader) -> None:
        """Take note of one more block, which is replayed next; `before` is the state until then, and moves on with the replay."""
        ...

    def done(self, view: StateView) -> None:
        """Take note of the state after all of them."""
        ...


def run_replay(  # noqa: PLR0917 - what is replayed, and how
    source: ChainSource,
    genesis: Path | None,
    level: str,
    verifier: Verifier,
    output: Output,
    resume: Path | None = None,
    *,
    watcher: Watcher | None = None,
    auditor_class: type[Auditor] = Auditor,
) -> dict[str, Any]:
    """Return what replaying a chain came to, as a document.

    Args:
        source: The chain; it is read once.
        genesis: The founding document that the user trusts, or None for the source's own.
        level: One of `AuditLevel`.
        verifier: Who checks the transactions' signatures.
        output: For progress and notes.
        resume: Where to keep how far the replay is, and to go on from.
        watcher: Who wants to see every block that is replayed, and the state at the end; not with `resume`.
        auditor_class: For tests that end a replay in its middle.

    Raises:
        RejectedError: The founding document is refused; the resume file is damaged or another replay's (``cli.resume.*``).
        UnavailableError: The source does not answer any more; with a resume file the same call goes on from there.
    """
    founding = decode_genesis_untrusted(source.genesis) if genesis is None else read_genesis(genesis)
    begin = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(_rare_collections())
        tables = stack.enter_context(AuditTables(is_recorded=resume is not None))
        file = None if resume is None else stack.enter_context(ResumeFile(resume, source, founding, level))
        point = None if file is None else file.load(tables)
        if point is None:
            auditor = auditor_class(founding, level=AuditLevel(level), verifier=verifier, store=tables)
        else:
            auditor = auditor_class.resume(founding, point.state, tables, level=AuditLevel(level), verifier=verifier)
            output.note(f"going on behind block {auditor.height}, from {resume}")
            begin -= point.seconds
        progress = stack.enter_context(output.progress("blocks replayed", source.height))
        blocks = _blocks(source, file, point)
        if watcher is not None:
            blocks = _watched(blocks, watcher, tables)
        stopped = _feed(auditor, blocks, _Keeper(file, tables, point, begin), output, progress)
        if watcher is not None:
            watcher.done(auditor.view)
        if source.store is not None and level == AuditLevel.FULL:
            _check_home(auditor, source.store, source.height, tables)
    if genesis is not None:
        _check_founding(auditor, founding, source)
    if stopped is not None:
        auditor.note(_finding(auditor.height + 1, stopped))
    summary = auditor.finish()
    return _document(source, founding, level, summary, time.monotonic() - begin, is_trusted=genesis is not None)


def _watched(blocks: Iterator[ReadBlock], watcher: Watcher, tables: Reader) -> Iterator[ReadBlock]:
    for block in blocks:
        watcher.took(block, tables)
        yield block


class _Keeper:
    """Knows what was fed, and makes where the replay stands durable now and then, where there is a file for it."""

    def __init__(self, file: ResumeFile | None, tables: AuditTables, point: Point | None, begin: float) -> None:
        self._file = file
        self._tables = tables
        self._fed = Fed() if point is None else point.fed
        self._begin = begin

    def took(self, block: ReadBlock, auditor: Auditor) -> None:
        if self._file is not None:
            self._fed = self._fed.after(block)
            if self._file.is_due(auditor):
                self.keep(auditor)

    def keep(self, auditor: Auditor) -> None:
        if self._file is not None:
            self._file.save(auditor, self._tables, self._fed, time.monotonic() - self._begin)


def _blocks(source: ChainSource, file: ResumeFile | None, point: Point | None) -> Iterator[ReadBlock]:
    if file is None or point is None:
        return source.read(1)
    # A live node is not asked for everything again; what lies on a disk is, because it may have changed.
    has_all = source.kind != "node"
    start = 1 if has_all else max(1, point.state.height)
    return file.check(point, source.read(start), has_all=has_all)


def _feed(
    auditor: Auditor, blocks: Iterator[ReadBlock], keeper: _Keeper, output: Output, progress: Progress
) -> PatchwardenError | None:
    """Feed every block; return why the chain could not be read to its end, or None."""
    noted = 0
    while True:
        try:
            block = next(blocks, None)
        except PatchwardenError as error:
            keeper.keep(auditor)
            if isinstance(error, CorruptionError) or error.code.startswith("ledger.archive."):
                return error
            raise
        if block is None:
            keeper.keep(auditor)
            return None
        if isinstance(block, DamagedBlock):
            found = auditor.feed_unreadable(block.error)
        else:
            found = auditor.feed(block.block, block.certificate)
            if block.damage is not None:
                auditor.note(_finding(auditor.height, block.damage))
        for finding in found:
            noted += 1
            if noted <= NOTES_MAX:
                output.note(f"block {finding.height}: {finding.message} [{finding.what}]")
        keeper.took(block, auditor)
        progress.update(auditor.height)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Let Python look for cycles less often: a replay makes millions of small objects and no cycles, and looking costs time."""
    thresholds = gc.get_threshold()
    gc.set_threshold(COLLECTION_OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _check_home(auditor: Auditor, store: Store, height: int, tables: AuditTables) -> None:
    """Note what a stopped node stores besides its blocks and should not."""
    for finding in find_damaged_rows(store, height):
        auditor.note(finding)
    auditor.suspend()  # Every answer is there.
    # Where the chain itself does not hold, no state is the right one; and blocks without certificate were not replayed.
    if auditor.height == height and not auditor.findings:
        for finding in find_other_state(store, tables, height):
            auditor.note(finding)


def _check_founding(auditor: Auditor, founding: Genesis, source: ChainSource) -> None:
    """Note when the source is founded on another document than the one that the user trusts."""
    try:
        theirs = decode_genesis_untrusted(source.genesis)
    except RejectedError as error:
        auditor.note(_finding(0, error))
        return
    if theirs.genesis_hash != founding.genesis_hash:
        auditor.note(
            Finding(
                0,
                "cli.audit.other_genesis",
                "the source is founded on another document than the one given",
                founding.genesis_hash.hex(),
                theirs.genesis_hash.hex(),
            )
        )


def _finding(height: int, error: PatchwardenError) -> Finding:
    return Finding(height, error.code, error.message, "", "")


def _document(
    source: ChainSource,
    founding: Genesis,
    level: str,
    summary: AuditSummary,
    seconds: float,
    *,
    is_trusted: bool,
) -> dict[str, Any]:
    return {
        "valid": not summary.findings,
        "source": source.name,
        "source_kind": source.kind,
        "chain_id": founding.chain_id,
        "genesis_hash": founding.genesis_hash.hex(),
        "genesis_given": is_trusted,
        "level": level,
        "blocks": summary.blocks,
        "transactions": summary.transactions,
        "height": summary.height,
        "certified_height": summary.certified_height,
        "recoveries": [mark_document(each) for each in summary.recoveries],
        "block_hash": summary.tip.hash().hex(),
        "time_ms": summary.tip.time_ms,
        "state_root": summary.state_root.hex() if level == "full" else None,
        "seconds": round(seconds, 3),
        "transactions_per_second": round(summary.transactions / seconds) if seconds > 0 else None,
        "codes": dict(sorted(Counter(each.what for each in summary.findings).items())),
        "findings_omitted": summary.omitted,
        "findings": [
            {
                "height": each.height,
                "index": each.index,
                "what": each.what,
                "message": each.message,
                "expected": each.expected,
                "actual": each.actual,
            }
            for each in summary.findings
        ],
    }
