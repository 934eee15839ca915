"""What `policy what-if` and `policy explain` ask: a running node, or, where there is none, an archive or a stopped node's home.

An archive and a home are replayed from the founding document with every signature, nobody believed; what the two commands may ask is kept
while the replay goes by, the decisions in a temporary file. Then the same questions get the same answers as from a node.

Source: docs/operations/policy.md 4 and 6; docs/spec/audit.md 7.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.chain import RawBlock
from node.cli.params import FILE
from wire.errors import RejectedError

if TYPE_CHECKING:
    from ledger.keyspace import Reader
    from ledger.records import DeploymentRecord
    from ledger.state import StateView
    from node.cli.audit_decisions import Spill, Spilled
    from node.cli.chain import ReadBlock
    from node.cli.command import Session

ARCHIVE: Final = click.option(
    "--archive", type=FILE, metavar="FILE", help="Derive it from this archive instead of asking a node."
)
GENESIS: Final = click.option(
    "--genesis",
    type=FILE,
    metavar="FILE",
    help="For a replay: the founding document that you trust. Default: the source's own.",
)
REPLAY: Final = click.option(
    "--replay", is_flag=True, help="Believe nothing that a running node says: replay its blocks."
)


class PolicyLedger:
    """Answers what a node is asked about policies and decisions: by asking it, or from a replay (`node.cli.audit_run.Watcher`).

    Args:
        session: Which node, or whose home.
        spill: Where to keep decisions.
        is_replayed: Whether nobody is asked.
        proposal_id: A proposal whose policy set will be asked for, in hexadecimal digits, or None.
    """

    def __init__(self, session: Session, spill: Spill, *, is_replayed: bool, proposal_id: str | None) -> None:
        self._session = session
        self._spill = spill
        self._proposal_id = proposal_id
        self._found: dict[bytes, tuple[int, Spilled, bool]] = {}
        self._decisions: list[_Kept] = []
        self._policies: list[dict[str, Any]] = []
        self._current = 0
        self._proposal: dict[str, Any] | None = None
        self._newest: dict[str, Any] = {"height": 0, "time_ms": 0}
        self.is_replayed = is_replayed
        """Whether the answers come from blocks."""
        self.findings: list[dict[str, Any]] = []
        """What does not hold about the chain that was replayed."""

    # -- while the chain goes by -------------------------------------------------------------------------------------

    def took(self, block: ReadBlock, before: Reader) -> None:
        """Keep the decisions of one more block."""
        del before
        from ledger.block import decode_block_untrusted
        from ledger.bodies import DeploymentIntent, DeploymentOutcome
        from node.cli.audit_decisions import DECISION_KINDS, transactions_of
        from node.documents import header_document

        if not isinstance(block, RawBlock):
            return
        try:
            decoded = decode_block_untrusted(block.block)
        except RejectedError:
            return  # The replay finds that out too, and says so.
        self._newest = header_document(decoded.header)
        for _, transaction in transactions_of(decoded, DECISION_KINDS):
            body = transaction.body
            if isinstance(body, DeploymentIntent):
                kept = self._spill.put(body.decision)
            elif isinstance(body, DeploymentOutcome) and body.intent_tx_id is None:
                kept = self._spill.put(body.detail)
            else:
                continue
            self._found[transaction.tx_id] = decoded.header.time_ms, kept, isinstance(body, DeploymentIntent)

    def done(self, view: StateView) -> None:
        """Keep what the state after the last block says."""
        from node.documents import policy_document, proposal_document
        from node.policy_services import place

        for tx_id, (time_ms, kept, is_intent) in self._found.items():
            record = view.deployment(tx_id)
            if record is not None:  # What was refused by the replay left no record.
                self._decisions.append(_Kept(place(record), record, time_ms, kept, is_intent))
        self._decisions.sort(key=lambda each: each.place)
        self._found.clear()
        self._policies = [policy_document(each) for each in view.policies()]
        self._current = view.policy_version().version
        if self._proposal_id is not None:
            proposal = view.proposal(bytes.fromhex(self._proposal_id))
            self._proposal = None if proposal is None else proposal_document(proposal, "")

    # -- asked -------------------------------------------------------------------------------------------------------

    def call(self, method: str, **params: Any) -> Any:
        """Return what a node answers to this method.

        Raises:
            RejectedError: ``node.*.not_found``, and what a node refuses.
            UnavailableError: The node does not answer.
        """
        if not self.is_replayed:
            return self._session.client().call(method, **params)
        answers: dict[str, Callable[..., Any]] = {
            "blocks.list": lambda limit: [self._newest][:limit],
            "governance.get": self._get_proposal,
            "policy.decision": self._get_decision,
            "policy.decisions": self._get_decisions,
            "policy.get": self._get_policy,
        }
        return answers[method](**params)

    def _get_policy(self, version: int | None) -> dict[str, Any]:
        wanted = self._current if version is None else version
        if wanted >= len(self._policies):
            raise self._missing("policy", str(wanted))
        return self._policies[wanted]

    def _get_proposal(self, proposal_id: str) -> dict[str, Any]:
        if self._proposal is None:
            raise self._missing("proposal", proposal_id)
        return self._proposal

    def _get_decision(self, deployment_id: str) -> dict[str, Any]:
        for each in self._decisions:
            if each.place[1].hex() == deployment_id.lower():
                document = self._document(each)
                if document is None:
                    raise self._missing("decision", deployment_id)
                return document
        raise self._missing("deployment", deployment_id)

    def _get_decisions(self, limit: int, **chosen: Any) -> dict[str, Any]:
        """Return a page; parameters as of `node.policy_services.PolicyServices.policy_decisions`."""
        after = (chosen["from"] or 0, bytes.fromhex(chosen["after"] or ""))
        start = bisect_right(self._decisions, after, key=lambda each: each.place)
        page: list[dict[str, Any]] = []
        for each in self._decisions[start:]:
            is_chosen = chosen["to"] is None or each.place[0] <= chosen["to"]
            document = None
            if is_chosen and chosen["host"] in (None, each.record.host):
                document = self._document(each)
            if document is not None:
                page.append(document)
            if len(page) == limit:
                break
        return {"decisions": page, "history_start": 0}

    def _document(self, each: _Kept) -> dict[str, Any] | None:
        from node.policy_services import decision_document

        raw = self._spill.get(each.spilled)
        return decision_document(each.record, raw, each.time_ms, is_intent=each.is_intent)

    def _missing(self, what: str, name: str) -> RejectedError:
        from node.errors import not_found

        return not_found(what, name, int(self._newest["height"]))

    # -- told --------------------------------------------------------------------------------------------------------

    def described(self) -> dict[str, Any]:
        """Return what an answer says about where it comes from."""
        height = int(self._newest["height"]) if self.is_replayed else None
        return {"replayed": self.is_replayed, "replayed_height": height, "chain_findings": self.findings}

    def lines(self) -> Iterator[str]:
        """Yield the same for people; nothing about a node that was asked."""
        if self.findings:
            yield f"THE CHAIN DOES NOT HOLD: {len(self.findings)} findings, `audit replay` tells them"
        elif self.is_replayed:
            yield f"derived from the founding document up to height {self._newest['height']}; the chain holds"


@dataclass(frozen=True, slots=True)
class _Kept:
    place: tuple[int, bytes]
    """Where it stands among others: height and id."""
    record: DeploymentRecord
    time_ms: int
    spilled: Spilled
    """The decision of an intent, or the detail of an outcome."""
    is_intent: bool


@contextmanager
def open_policy_ledger(
    session: Session, source: str | None, archive: Path | None, genesis: Path | None, *, replay: bool
) -> Iterator[PolicyLedger]:
    """Give what is to be asked; where that is a replay, it has ended.

    Args:
        session: Which node, or whose home.
        source: The policy set that the command line names: a proposal's is kept.
        archive: `--archive`.
        genesis: `--genesis`.
        replay: `--replay`.

    Raises:
        click.UsageError: The options exclude each other.
        RejectedError: There is no such chain, or its founding document is refused.
        UnavailableError: The source does not answer.
    """
    from node.cli.audit_decisions import Spill
    from node.cli.params import DIGEST

    if archive is not None and session.has_node:
        raise click.UsageError("--archive and a node exclude each other")
    is_replayed = replay or archive is not None or _is_stopped(session)
    if genesis is not None and not is_replayed:
        raise click.UsageError("a node that is asked is believed: --genesis goes with --replay or --archive")
    proposal_id = None
    if source is not None and not Path(source).is_dir():
        try:
            proposal_id = DIGEST.convert(source, None, None)
        except click.BadParameter:
            proposal_id = None
    with Spill() as spill:
        ledger = PolicyLedger(session, spill, is_replayed=is_replayed, proposal_id=proposal_id)
        if is_replayed:
            _replay(ledger, session, archive, genesis)
        yield ledger


def _replay(ledger: PolicyLedger, session: Session, archive: Path | None, genesis: Path | None) -> None:
    from node.cli.audit_run import run_replay
    from node.cli.chain import open_chain
    from node.cli.verify_pool import VerifyPool, default_workers

    # Before anything else runs in this process: workers are forked only then.
    with VerifyPool(default_workers()) as pool, open_chain(session, archive) as source:
        ledger.findings = run_replay(source, genesis, "full", pool, session.output, watcher=ledger)["findings"]


def _is_stopped(session: Session) -> bool:
    """Return whether the home that would be asked is that of a node which has run and does not run now."""
    from node.cli.chain import is_running
    from node.config import Home

    return session.rpc is None and not is_running(session) and Home(session.node_home()).data.is_dir()
