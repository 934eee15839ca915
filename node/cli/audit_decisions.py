"""Every decision on a chain, found in a first reading and judged again while a second one is replayed.

A decision names an earlier height than that of its record, and is judged by the state after the block of that height. So the chain is read
twice: first to learn which heights are named by whom, then in a replay (`node.cli.audit_run`) that stops at each of them. What must be
remembered in between lies in a temporary file: decisions, authors' statements, and attestors' other statements.

Source: docs/spec/audit.md 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Final

from agent.decision import Decision, decision_from_json_untrusted, latest_moment
from agent.decision_audit import (
    Announced,
    Difference,
    Known,
    PastView,
    Place,
    Unrecorded,
    is_verdict_judged,
    judge_at_height,
    judge_at_place,
    judge_outcome,
    rollout_of,
)
from agent.errors import PolicyRefusedError
from agent.facts import RolloutFacts
from agent.limits import ROLLOUT_ENTRIES_MAX
from agent.policy_cache import PolicyCache
from agent.results import ResultCode
from agent.statements import is_statement
from ledger.audit_state import FINDINGS_MAX
from ledger.block import Block, Header, decode_block_untrusted
from ledger.bodies import DeploymentIntent, DeploymentOutcome, HostReport, PatchAttest, PatchPublish
from ledger.limits import DECISION_BYTES_MAX, DETAIL_BYTES_MAX, ENVELOPE_BYTES_MAX, INSTALLED_MAX, REPORT_BYTES_MAX
from ledger.rules_host import ADOPT, ROLLED_BACK, SUCCESS, is_empty_adoption
from ledger.transaction import Transaction, decode_transaction_untrusted
from node.cli.chain import RawBlock
from provenance.statement import decode_author_statement_untrusted
from wire import canonical_json
from wire.envelope import decode_envelope_untrusted
from wire.errors import RejectedError
from wire.hashing import DIGEST_BYTES

if TYPE_CHECKING:
    from ledger.keyspace import Reader
    from ledger.state import StateView
    from node.cli.chain import ReadBlock
    from provenance.metadata import PatchMetadata

PEEK_BYTES: Final = 256
"""A transaction's kind stands behind its version and chain id, within so many bytes."""
ROLLOUT_ENDED_MAX: Final = ROLLOUT_ENTRIES_MAX // 4
"""Applications of one patch from which on hosts no longer look at all of them, so that nobody can tell what one saw."""
SPILL_MEMORY_BYTES: Final = 1 << 20

UNRECORDED_MAX: Final = INSTALLED_MAX
"""Changes without a record that one key may tell of one target; more of them excuse nothing."""

DECISION_KINDS: Final = (b"deployment.",)
"""The kinds of transactions that carry decisions begin so."""
_REPORT_KIND: Final = b"host.report"
_KINDS: Final = (b"deployment.", b"patch.publish", b"patch.attest", _REPORT_KIND)
_DRIFT: Final = "drift"


@dataclass(frozen=True, slots=True)
class DecisionFinding:
    """One thing in which one recorded decision is not what the ledger says that it must be."""

    height: int
    """Where its record stands."""
    index: int
    tx_id: bytes
    host: str
    """Who signed the record, or its key."""
    target: str
    patch_id: bytes
    difference: Difference

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "height": self.height,
            "index": self.index,
            "tx_id": self.tx_id.hex(),
            "host": self.host,
            "target": self.target,
            "patch_id": self.patch_id.hex(),
            **self.difference.to_json(),
        }


@dataclass(slots=True)
class DecisionCounts:
    """What was judged."""

    intents: int = 0
    refusals: int = 0
    """Refusals by policy that carry their decision."""
    other_refusals: int = 0
    """Records of refusals that come before any decision, or for another reason."""
    without_decision: int = 0
    """Refusals by policy whose decision did not fit into the record."""
    allowed: int = 0
    denied: int = 0
    different: int = 0
    """Decisions with at least one finding."""
    unjudged: int = 0
    """Decisions that name a height whose block cannot be read, or whose rules look at paths that only the patch file has."""


@dataclass(frozen=True, slots=True)
class _Named:
    """A decision that waits for the height that it names, and where it lies meanwhile."""

    height: int
    index: int
    place: Spilled


@dataclass(frozen=True, slots=True)
class _Open:
    """An intent without an outcome so far."""

    height: int
    index: int
    announced: Announced | None
    """Its decision; None for one that cannot be read, or is not to be judged."""


@dataclass(frozen=True, slots=True)
class Spilled:
    """Where something lies in a `Spill`."""

    offset: int
    length: int


@dataclass(slots=True)
class _Target:
    """What the records of one target have come to."""

    installed: tuple[str, ...] | None = ()
    counters: dict[str, int] = field(default_factory=dict)
    tree: bytes | None = None

    def take_adoption(self, body: bytes) -> None:
        """Go on from the tree of an adopt report, and without release counters where it says that the host knows of none."""
        try:
            document = canonical_json.decode_untrusted(body, bytes_max=REPORT_BYTES_MAX)
        except RejectedError:
            return
        if not isinstance(document, dict):
            return
        digest = document.get("tree_digest")
        if isinstance(digest, str) and _is_digest(digest):
            self.tree = bytes.fromhex(digest)
        if document.get("counters") == {}:
            self.counters.clear()


class Spill:
    """Bytes in a temporary file, found again by their place; use it with `with`."""

    def __init__(self) -> None:
        self._file: IO[bytes] = TemporaryFile(buffering=SPILL_MEMORY_BYTES)  # noqa: SIM115 - closed by `__exit__`
        self._end = 0

    def __enter__(self) -> Spill:
        """Return the empty file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the file."""
        self._file.close()

    def put(self, data: bytes) -> Spilled:
        """Return where `data` lies from now on."""
        self._file.seek(self._end)
        self._file.write(data)
        place = Spilled(self._end, len(data))
        self._end += len(data)
        return place

    def get(self, place: Spilled) -> bytes:
        """Return what was put there."""
        self._file.seek(place.offset)
        return self._file.read(place.length)


class _Payloads(Mapping[bytes, bytes]):
    """Recorded statements by digest."""

    def __init__(self, spill: Spill, places: Mapping[bytes, Spilled]) -> None:
        self._spill = spill
        self._places = places

    def __getitem__(self, digest: bytes) -> bytes:
        return self._spill.get(self._places[digest])

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class DecisionReplay:
    """Judges the decisions of a chain while it is replayed (`node.cli.audit_run.Watcher`); `collect` comes first.

    Args:
        spill: Where to keep what must be remembered.
        only: The one record to judge, or None for all.
    """

    def __init__(self, spill: Spill, only: bytes | None = None) -> None:
        self._spill = spill
        self._only = only
        self._named: dict[int, list[_Named]] = {}
        self._policies = PolicyCache()
        self._headers: dict[int, Header] = {}
        self._patches: dict[bytes, Spilled] = {}
        self._statements: dict[bytes, Spilled] = {}
        self._targets: dict[tuple[str, str], _Target] = {}
        self._named_before: dict[tuple[str, str], int] = {}
        self._intents: dict[bytes, _Open] = {}
        self._latest: dict[tuple[int, int], int] = {}
        self._ended: dict[bytes, dict[tuple[str, str], tuple[tuple[int, int], bool, int, int]]] = {}
        self._differs: dict[tuple[int, int], list[Difference]] = {}
        self._records: dict[tuple[int, int], tuple[bytes, str, str, bytes]] = {}
        self._newest: tuple[bytes, PatchMetadata] | None = None
        self._begun: dict[bytes, tuple[int, int]] = {}
        self._alone: dict[tuple[int, int], int] = {}
        self._unrecorded: dict[tuple[bytes, str], set[tuple[bytes, bytes]]] = {}
        self._pending: Block | None = None
        self._tables: Reader | None = None
        self.counts = DecisionCounts()
        """What was judged so far."""
        self.hosts: set[str] = set()
        """Whose records were judged."""
        self.shown: Decision | None = None
        """The decision that was asked for, with `only`."""

    # -- first reading ---------------------------------------------------------------------------------------------

    def collect(self, blocks: Iterable[ReadBlock]) -> None:
        """Take note of which heights the decisions of a chain name."""
        for read in blocks:
            block = _decode(read)
            if block is None:
                continue
            height = block.header.height
            for index, transaction in transactions_of(block, (*DECISION_KINDS, _REPORT_KIND)):
                self._note_alone(transaction, height, index)
                self._note_unrecorded(transaction)
                raw = self._wanted(transaction)
                named = None if raw is None else _named_height(raw)
                if raw is not None and named is not None and 1 <= named < height:
                    self._named.setdefault(named, []).append(_Named(height, index, self._spill.put(raw)))

    def _note_alone(self, transaction: Transaction, height: int, index: int) -> None:
        """Remember of an intent that its host went on without the ledger, as the outcome says."""
        body = transaction.body
        if isinstance(body, DeploymentIntent):
            self._begun[transaction.tx_id] = (height, index)
        elif isinstance(body, DeploymentOutcome) and body.intent_tx_id is not None:
            begun, count = self._begun.pop(body.intent_tx_id, None), _alone(body)
            if begun is not None and count > 0:
                self._alone[begun] = count

    def _note_unrecorded(self, transaction: Transaction) -> None:
        """Remember of which changes a host tells that they have no record: it may tell so long after decisions that know them."""
        body = transaction.body
        change = _unrecorded(body.body) if isinstance(body, HostReport) and body.report_kind == _DRIFT else None
        if isinstance(body, HostReport) and change is not None:
            changes = self._unrecorded.setdefault((transaction.signer_key_id, body.target), set())
            if len(changes) < UNRECORDED_MAX:
                changes.add(change)

    # -- second reading --------------------------------------------------------------------------------------------

    def took(self, block: ReadBlock, before: Reader) -> None:
        """Judge what the block before makes possible to judge: `before` is the state after it."""
        self._tables = before
        self._settle()
        self._pending = _decode(block)

    def done(self, view: StateView) -> None:
        """Judge what is left after the last block."""
        del view
        self._settle()
        self.counts.unjudged += sum(map(len, self._named.values()))
        self.counts.different = len(self._differs)

    @property
    def findings(self) -> list[DecisionFinding]:
        """What was found, in the order of the ledger; at most `FINDINGS_MAX`."""
        return [
            DecisionFinding(height, index, *self._records[height, index], difference)
            for height, index in (place for place in sorted(self._differs) if place in self._records)
            for difference in self._differs[height, index]
        ][:FINDINGS_MAX]

    @property
    def findings_count(self) -> int:
        """How many there are."""
        return sum(map(len, self._differs.values()))

    def _settle(self) -> None:
        """Take the block whose state is there now into account."""
        block, self._pending = self._pending, None
        if block is None or self._tables is None:
            return
        view = PastView(self._tables, block.header, self._headers)
        for index, transaction in transactions_of(block, _KINDS):
            self._take(view, transaction, index)
        for named in self._named.pop(block.header.height, ()):
            self._judge_at_height(named, view)

    def _take(self, view: PastView, transaction: Transaction, index: int) -> None:
        body = transaction.body
        if isinstance(body, PatchPublish):
            self._headers[view.height] = view.header
            self._patches[body.patch_id] = self._spill.put(_payload(body.envelope))
        elif isinstance(body, PatchAttest):
            payload = _payload(body.envelope)
            digest = decode_envelope_untrusted(body.envelope, bytes_max=ENVELOPE_BYTES_MAX).payload_digest
            record = view.attestation(digest)
            if record is not None and is_statement(record):
                self._statements[digest] = self._spill.put(payload)
        elif isinstance(body, HostReport | DeploymentIntent | DeploymentOutcome):
            key = view.key(transaction.signer_key_id)
            host = None if key is None else key.identity_id
            target = self._targets.setdefault((host or "", body.target), _Target())
            if isinstance(body, HostReport):
                if body.report_kind == ADOPT:
                    target.take_adoption(body.body)
                if is_empty_adoption(body):
                    target.installed = ()
                return
            decision = self._judge_at_place(view, transaction, index, host, target)
            if isinstance(body, DeploymentIntent):
                latest_ms = self._latest.pop((view.height, index), None)
                announced = (
                    None if decision is None else Announced(decision.facts.action, view.header.time_ms, latest_ms)
                )
                self._intents[transaction.tx_id] = _Open(view.height, index, announced)
            else:
                self._end(view, body, host or "", target)

    def _end(self, view: PastView, body: DeploymentOutcome, host: str, target: _Target) -> None:
        """Take an outcome into account: what is installed, and how far the patch has come."""
        opened = None if body.intent_tx_id is None else self._intents.pop(body.intent_tx_id, None)
        if opened is not None:
            begun = opened.height, opened.index
            self._judge_outcome(opened, body, host)
            ended = self._ended.setdefault(body.patch_id, {})
            before = ended.get((host, body.target))
            if before is None or before[0] <= begun:
                is_success = body.result == SUCCESS
                ended[host, body.target] = (begun, is_success, view.height, view.header.time_ms)
        if body.result not in (SUCCESS, ROLLED_BACK):
            return
        target.tree = body.tree_after
        if target.installed is None:
            return
        others = tuple(each for each in target.installed if each != body.patch_id.hex())
        target.installed = (*others, body.patch_id.hex()) if body.result == SUCCESS else others
        if len(target.installed) > INSTALLED_MAX:
            target.installed = None
        record = view.patch(body.patch_id)
        if body.result == SUCCESS and record is not None:
            for name in record.components:
                target.counters[name] = max(record.release_counter, target.counters.get(name, -1))

    # -- judging ---------------------------------------------------------------------------------------------------

    def _judge_outcome(self, opened: _Open, body: DeploymentOutcome, host: str) -> None:
        """Find where an outcome does not fit the decision that was announced; it is said where that one stands."""
        if opened.announced is None or body.intent_tx_id is None:
            return
        found = judge_outcome(opened.announced, body.result, is_alone=_alone(body) > 0)
        if found:
            place = opened.height, opened.index
            self._differs.setdefault(place, []).extend(found)
            self._records.setdefault(place, (body.intent_tx_id, host, body.target, body.patch_id))

    def _judge_at_place(
        self, view: PastView, transaction: Transaction, index: int, host: str | None, target: _Target
    ) -> Decision | None:
        """Return the decision of a record, judged by its place; None where there is none to judge."""
        body = transaction.body
        assert isinstance(body, DeploymentIntent | DeploymentOutcome), "only these carry decisions"
        raw = _decision_of(body)
        is_wanted = self._only is None or transaction.tx_id == self._only
        if raw is None:
            if is_wanted and isinstance(body, DeploymentOutcome) and body.intent_tx_id is None:
                self._count_without(body)
            return None
        place = view.height, index
        decision: Decision | None = None
        try:
            decision = _read(raw)
            unrecorded = self._find_unrecorded(view, transaction.signer_key_id, body.target)
            found = judge_at_place(decision, self._place(view.height, body, host, target, unrecorded))
        except RejectedError as error:
            found = [Difference("agent.replay.form", f"the decision cannot be read: {error.message}")]
        about = host or "", body.target
        if decision is not None and decision.height < view.height:
            self._named_before[about] = max(self._named_before.get(about, 0), decision.height)
        if not is_wanted:
            return None
        if decision is not None and decision.height < 1:
            found.append(Difference("agent.replay.height", "no decision is taken on the founding document", "height"))
        self._count(body, decision, host)
        if self._only is not None:
            self.shown = decision
        if found:
            self._differs.setdefault(place, []).extend(found)
        if place in self._differs:
            name = host or f"key {transaction.signer_key_id.hex()}"
            self._records[place] = (transaction.tx_id, name, body.target, body.patch_id)
        return decision

    def _find_unrecorded(self, view: PastView, key_id: bytes, target: str) -> Unrecorded:
        changes = self._unrecorded.get((key_id, target), set())
        patches = {patch_id for _, patch_id in changes}
        counters: dict[str, set[int]] = {}
        for record in filter(None, map(view.patch, patches)):
            for name in record.components:
                counters.setdefault(name, set()).add(record.release_counter)
        return Unrecorded(
            patches=frozenset(each.hex() for each in patches),
            counters={name: frozenset(each) for name, each in counters.items()},
            trees=frozenset(tree for tree, _ in changes),
        )

    def _place(
        self,
        height: int,
        body: DeploymentIntent | DeploymentOutcome,
        host: str | None,
        target: _Target,
        unrecorded: Unrecorded,
    ) -> Place:
        return Place(
            height=height,
            host=host,
            target=body.target,
            patch_id=body.patch_id,
            tree_before=body.tree_before,
            result=None if isinstance(body, DeploymentIntent) else body.result,
            height_before=self._named_before.get((host or "", body.target), 0),
            installed=target.installed,
            counters=dict(target.counters),
            tree=target.tree,
            unrecorded=unrecorded,
        )

    def _judge_at_height(self, named: _Named, view: PastView) -> None:
        try:
            decision = _read(self._spill.get(named.place))
        except RejectedError:
            return  # Where its record stands, that is said.
        self._latest[named.height, named.index] = latest_moment(decision.facts, view.header.time_ms)
        patch_id = bytes.fromhex(decision.facts.patch.id) if _is_digest(decision.facts.patch.id) else b""
        known = Known(
            self._metadata(patch_id),
            _Payloads(self._spill, self._statements),
            self._rollout(patch_id),
            self._alone.pop((named.height, named.index), 0),
        )
        found = judge_at_height(decision, view, known, self._policies)
        if not found and not is_verdict_judged(decision, view, self._policies):
            self.counts.unjudged += 1
        if found:
            self._differs.setdefault((named.height, named.index), []).extend(found)

    def _metadata(self, patch_id: bytes) -> PatchMetadata | None:
        place = self._patches.get(patch_id)
        if place is None:
            return None
        # The same patch is decided on by one host after the other.
        if self._newest is None or self._newest[0] != patch_id:
            self._newest = patch_id, decode_author_statement_untrusted(self._spill.get(place)).metadata
        return self._newest[1]

    def _rollout(self, patch_id: bytes) -> RolloutFacts | None:
        ended = self._ended.get(patch_id, {})
        if len(ended) > ROLLOUT_ENDED_MAX:
            return None
        return rollout_of([(host, *each[1:]) for (host, _), each in ended.items()])

    def _count(self, body: DeploymentIntent | DeploymentOutcome, decision: Decision | None, host: str | None) -> None:
        counts = self.counts
        if isinstance(body, DeploymentIntent):
            counts.intents += 1
        else:
            counts.refusals += 1
        if decision is not None and decision.is_allowed:
            counts.allowed += 1
        elif decision is not None:
            counts.denied += 1
        self.hosts.add(host or "")

    def _count_without(self, body: DeploymentOutcome) -> None:
        if body.result == ResultCode.POLICY_DENIED.value:
            self.counts.without_decision += 1
        else:
            self.counts.other_refusals += 1

    def _wanted(self, transaction: Transaction) -> bytes | None:
        if self._only is not None and transaction.tx_id != self._only:
            return None
        body = transaction.body
        return _decision_of(body) if isinstance(body, DeploymentIntent | DeploymentOutcome) else None


def _decode(read: ReadBlock) -> Block | None:
    if not isinstance(read, RawBlock):
        return None
    try:
        return decode_block_untrusted(read.block)
    except RejectedError:
        return None  # The replay finds that out too, and says so.


def transactions_of(block: Block, kinds: tuple[bytes, ...]) -> Iterator[tuple[int, Transaction]]:
    """Yield the transactions of these kinds with their places, and perhaps others."""
    for index, raw in enumerate(block.transactions):
        head = raw[:PEEK_BYTES]
        if any(kind in head for kind in kinds):
            try:
                yield index, decode_transaction_untrusted(raw)
            except RejectedError:
                continue  # The same.


def _payload(envelope: bytes) -> bytes:
    return decode_envelope_untrusted(envelope, bytes_max=ENVELOPE_BYTES_MAX).payload


def _decision_of(body: DeploymentIntent | DeploymentOutcome) -> bytes | None:
    """Return the decision that a record carries, or None."""
    if isinstance(body, DeploymentIntent):
        return body.decision
    if body.intent_tx_id is not None:
        return None
    try:
        detail = canonical_json.decode_untrusted(body.detail, bytes_max=DETAIL_BYTES_MAX)
        found = detail.get("decision") if isinstance(detail, dict) else None
        return None if found is None else canonical_json.encode(found)
    except RejectedError:
        return None


def _read(raw: bytes) -> Decision:
    try:
        return decision_from_json_untrusted(canonical_json.decode_untrusted(raw, bytes_max=DECISION_BYTES_MAX))
    except RecursionError as error:
        raise PolicyRefusedError("agent.policy.decision", "the decision is nested too deeply") from error


def _named_height(raw: bytes) -> int | None:
    try:
        document = canonical_json.decode_untrusted(raw, bytes_max=DECISION_BYTES_MAX)
    except RejectedError:
        return None
    height = document.get("height") if isinstance(document, dict) else None
    return height if type(height) is int else None


def _alone(body: DeploymentOutcome) -> int:
    """Return how many changes without acknowledgement an outcome tells, itself included; 0 for none."""
    try:
        detail = canonical_json.decode_untrusted(body.detail, bytes_max=DETAIL_BYTES_MAX)
    except RejectedError:
        return 0
    count = detail.get("unacknowledged") if isinstance(detail, dict) else None
    return count if type(count) is int and count > 0 else 0


def _unrecorded(body: bytes) -> tuple[bytes, bytes] | None:
    """Return the tree that a change without a record made, and its patch; None where a drift report tells of no such thing."""
    try:
        document = canonical_json.decode_untrusted(body, bytes_max=REPORT_BYTES_MAX)
    except RejectedError:
        return None
    told = document.get("unrecorded") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(told, dict):
        return None
    tree, patch_id = document.get("tree_digest"), told.get("patch_id")
    if not isinstance(tree, str) or not isinstance(patch_id, str) or not _is_digest(tree) or not _is_digest(patch_id):
        return None
    return bytes.fromhex(tree), bytes.fromhex(patch_id)


def _is_digest(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == DIGEST_BYTES
    except ValueError:
        return False
