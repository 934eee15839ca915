"""What this host has to tell the ledger: signed, in order, durable before anything else happens, and never lost.

Deployment records carry the host's counter and the id of the record before, so each is signed for its place in that chain. A record that
can no longer be executed in its place (it expired, or one before it was refused for good) is signed anew for the next place; the counter
lets only one of the two ever execute. An intent stays *open* until its outcome stands in this outbox: what is open after a crash is what
recovery must find the truth about.

The log's records::

    {"op": "queue", "sequence", "raw", "intent": sequence | null}     a signed transaction; `intent` is what an outcome closes
    {"op": "deliver", "sequence", "height"}                           the ledger has it
    {"op": "refuse", "sequence", "code", "message"}                   the ledger will never have it; of a change with `instead`,
                                                                      {"sequence", "raw"}: a report that is queued in its place
    {"op": "head", "counter", "previous", "sequence",                 where the chain goes on; what a rewriting left out
     "delivered", "delivered_counter", "refused"}
    {"op": "intent", "sequence", "raw", "height", "refusal"}          an intent, kept for the sake of its outcome

The log is rewritten, in one step, with only what still matters: when it has grown, and when records are signed anew.

Source: docs/spec/agent.md 7.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, cast

from agent.errors import OutboxError
from agent.files import Files
from agent.limits import OUTBOX_BYTES_MAX, OUTBOX_ENTRIES_MAX, OUTBOX_LINES_KEPT
from agent.record_log import Record, RecordLog
from agent.state_file import damaged
from ledger.bodies import DeploymentIntent, DeploymentOutcome, HostReport
from ledger.rules_host import EFFECTIVE
from ledger.transaction import Transaction, decode_transaction_untrusted
from wire.errors import RejectedError
from wire.hashing import DIGEST_BYTES

HostBody = DeploymentIntent | DeploymentOutcome | HostReport
"""What a host says."""

Signer = Callable[[HostBody], Transaction]
"""Returns the signed transaction of a body, executable from now on for a good while."""

FIRST_PREVIOUS: Final = bytes(DIGEST_BYTES)
"""What the first deployment record of a host names as the record before it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record that waits for the ledger, or an intent that waits for its outcome."""

    sequence: int
    """Its place in this outbox, from 1; never used again."""
    transaction: Transaction
    """As it is signed now."""
    intent: int | None
    """Sequence of the intent that this outcome closes, or None."""
    height: int | None = None
    """Height at which the ledger recorded it, or None while it waits."""
    refusal: tuple[str, str] | None = None
    """Code and sentence with which the ledger refused it for good, or None."""

    @property
    def body(self) -> HostBody:
        """What it says."""
        return cast("HostBody", self.transaction.body)


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The last record of the host's chain that this outbox has signed."""

    counter: int
    """Its number; 0 before the first."""
    previous: bytes
    """Its tx_id, 32 bytes; zeros before the first."""


class Outbox:
    """The outbox of one host, held by one process.

    Args:
        files: The door to the file system.
        path: The log; made when it is not there.

    Raises:
        StateCorruptError: ``agent.state.damaged``.
    """

    def __init__(self, files: Files, path: str) -> None:
        self._log = RecordLog(files, path)
        self._pending: dict[int, Entry] = {}
        self._intents: dict[int, Entry] = {}
        self._closed: set[int] = set()
        self._head = ChainHead(0, FIRST_PREVIOUS)
        self._sequence = 0
        self._delivered = 0
        self._delivered_counter = 0
        self._refused = 0
        for record in self._log.records:
            try:
                self._fold(record)
            except (KeyError, TypeError, ValueError, RejectedError) as error:
                raise damaged(path, f"does not have its form: {error}") from error

    # Reading

    @property
    def pending(self) -> tuple[Entry, ...]:
        """Records that wait for the ledger, oldest first."""
        return tuple(self._pending.values())

    @property
    def open_intents(self) -> tuple[Entry, ...]:
        """Intents without an outcome, oldest first, whether the ledger has them yet or not."""
        # A copy first, here and below: the event loop looks while a thread writes.
        return tuple(entry for sequence, entry in tuple(self._intents.items()) if sequence not in self._closed)

    @property
    def unacknowledged(self) -> int:
        """Changes that were carried out and whose intents the ledger is not known to have."""
        return sum(
            entry.intent in self._pending and entry.body.result in EFFECTIVE
            for entry in self.pending
            if isinstance(entry.body, DeploymentOutcome)
        )

    @property
    def head(self) -> ChainHead:
        """The last signed place in the host's chain."""
        return self._head

    @property
    def delivered_counter(self) -> int:
        """The highest number in the host's chain that the ledger is known to have; 0 before the first."""
        return self._delivered_counter

    @property
    def delivered_count(self) -> int:
        """Records that the ledger has taken so far."""
        return self._delivered

    @property
    def refused_count(self) -> int:
        """Records that the ledger refused for good."""
        return self._refused

    def find_intent(self, sequence: int) -> Entry | None:
        """Return an intent that is open, or whose outcome still waits, in its present form; None when both are done."""
        return self._intents.get(sequence)

    def is_waiting(self, sequence: int) -> bool:
        """Return whether the record still waits for the ledger."""
        return sequence in self._pending

    # Writing

    def queue(self, body: HostBody, sign: Signer, *, closes: int | None = None, owed: bool = False) -> Entry:
        """Return the entry of `body`, signed for the next place and durable.

        Args:
            body: What to tell; counter, previous and intent_tx_id are filled in here, whatever they are.
            sign: Signs.
            closes: The open intent that an outcome closes.
            owed: Whether it tells of what was done already, after `check_room`, so that it always finds room, as an outcome does.

        Raises:
            OutboxError: ``agent.outbox.full``.
            StateCorruptError: ``agent.state.append``.
        """
        # An outcome always finds room: nothing is applied without room for both of its records.
        if closes is None and not owed:
            self.check_room()
        raw = sign(self._place(body, closes)).raw
        sequence = self._sequence + 1
        self._append({"op": "queue", "sequence": sequence, "raw": _to_text(raw), "intent": closes})
        return self._pending[sequence]

    def check_room(self) -> None:
        """Return when one more record may wait.

        Raises:
            OutboxError: ``agent.outbox.full``.
        """
        if len(self._pending) >= OUTBOX_ENTRIES_MAX or self._log.size >= OUTBOX_BYTES_MAX:
            raise OutboxError(
                "agent.outbox.full",
                "too many records wait for the ledger",
                expected=f"fewer than {OUTBOX_ENTRIES_MAX}",
                hint="bring the host's node back to the network; the records are delivered by themselves",
            )

    def mark_delivered(self, sequence: int, height: int) -> None:
        """Record that the ledger has the entry since block `height`.

        Raises:
            StateCorruptError: ``agent.state.append``.
        """
        self._append({"op": "deliver", "sequence": sequence, "height": height})
        self._compact()

    def mark_refused(
        self, sequence: int, code: str, message: str, sign: Signer, *, instead: HostReport | None = None
    ) -> None:
        """Record that the ledger will never have the entry. What follows it in the chain must be signed again.

        Args:
            sequence: The entry.
            code: The ledger's code.
            message: Its sentence.
            sign: Signs.
            instead: What is queued in its place, in the same record: a crash loses neither, and there is always room.

        Raises:
            StateCorruptError: ``agent.state.append``.
        """
        record: Record = {"op": "refuse", "sequence": sequence, "code": code, "message": message}
        if instead is not None:
            record["instead"] = {"sequence": self._sequence + 1, "raw": _to_text(sign(instead).raw)}
        self._append(record)
        self._compact()

    def sign_again(self, head: ChainHead, sign: Signer) -> None:
        """Sign every pending record anew, the counted ones for the places after `head`, where the ledger says the chain stands.

        Raises:
            StateCorruptError: ``agent.state.append``.
        """
        self._head = head
        for entry in self.pending:
            self._put(replace(entry, transaction=sign(self._place(entry.body, entry.intent))))
        self._rewrite()

    def close(self) -> None:
        """Release the file."""
        self._log.close()

    # Inside

    def _place(self, body: HostBody, closes: int | None) -> HostBody:
        """Return `body` with its place in the chain, and the id of the intent that it closes."""
        if isinstance(body, HostReport):
            return body
        counter, previous = self._head.counter + 1, self._head.previous
        if isinstance(body, DeploymentIntent):
            return replace(body, counter=counter, previous=previous)
        intent = None if closes is None else self._intents[closes]
        # An intent that the ledger refused for good is not there to be closed: its outcome stands alone.
        intent_tx_id = None if intent is None or intent.refusal is not None else intent.transaction.tx_id
        return replace(body, counter=counter, previous=previous, intent_tx_id=intent_tx_id)

    def _append(self, record: Record) -> None:
        self._log.append(record)
        self._fold(record)

    def _fold(self, record: Record) -> None:
        """Take one record of the log into account; nothing else changes what this outbox holds."""
        sequence = int(record["sequence"])
        match record["op"]:
            case "queue":
                entry = Entry(sequence, _from_text(record["raw"]), record["intent"])
                if entry.intent is not None:
                    if entry.intent not in self._intents or entry.intent in self._closed:
                        raise ValueError("an outcome closes an intent that is not open")
                    self._closed.add(entry.intent)
                self._sequence = sequence
                self._put(entry)
            case "deliver":
                self._delivered += 1
                entry = self._pending.pop(sequence)
                if not isinstance(entry.body, HostReport):
                    self._delivered_counter = entry.body.counter
                self._settle(replace(entry, height=int(record["height"])))
            case "refuse":
                self._refused += 1
                entry = self._pending.pop(sequence)
                if not isinstance(entry.body, HostReport) and self._head.previous == entry.transaction.tx_id:
                    self._head = ChainHead(entry.body.counter - 1, entry.body.previous)  # Its place is free again.
                self._settle(replace(entry, refusal=(str(record["code"]), str(record["message"]))))
                if "instead" in record:
                    self._sequence = int(record["instead"]["sequence"])
                    self._put(Entry(self._sequence, _from_text(record["instead"]["raw"]), None))
            case "head":
                self._head = ChainHead(int(record["counter"]), bytes.fromhex(record["previous"]))
                self._sequence = sequence
                self._delivered, self._refused = int(record["delivered"]), int(record["refused"])
                self._delivered_counter = int(record["delivered_counter"])
            case "intent":
                refusal_pair = record["refusal"]
                self._intents[sequence] = Entry(
                    sequence,
                    _from_text(record["raw"]),
                    None,
                    record["height"],
                    None if refusal_pair is None else (str(refusal_pair[0]), str(refusal_pair[1])),
                )
            case _:
                raise ValueError("a record of an unknown kind")

    def _put(self, entry: Entry) -> None:
        self._pending[entry.sequence] = entry
        if isinstance(entry.body, DeploymentIntent):
            self._intents[entry.sequence] = entry
        if not isinstance(entry.body, HostReport):
            self._head = ChainHead(entry.body.counter, entry.transaction.tx_id)

    def _settle(self, entry: Entry) -> None:
        """Forget what waits no longer, except an intent whose outcome still needs it."""
        if isinstance(entry.body, DeploymentIntent):
            self._intents[entry.sequence] = entry
        elif entry.intent is not None:
            self._intents.pop(entry.intent)
            self._closed.discard(entry.intent)

    def _compact(self) -> None:
        kept = len(self._pending) + len(self._intents)
        if self._log.lines > OUTBOX_LINES_KEPT + 4 * kept:
            self._rewrite()

    def _rewrite(self) -> None:
        # An intent that waits itself comes back with its own record; a settled one comes first, so that its outcome finds it.
        intents = [
            {
                "op": "intent",
                "sequence": sequence,
                "raw": _to_text(entry.transaction.raw),
                "height": entry.height,
                "refusal": None if entry.refusal is None else list(entry.refusal),
            }
            for sequence, entry in self._intents.items()
            if sequence not in self._pending
        ]
        queued = [
            {"op": "queue", "sequence": entry.sequence, "raw": _to_text(entry.transaction.raw), "intent": entry.intent}
            for entry in self.pending
        ]
        # The head stands last: the sequence and the chain go on from here even when nothing waits.
        head = {
            "op": "head",
            "counter": self._head.counter,
            "previous": self._head.previous.hex(),
            "sequence": self._sequence,
            "delivered": self._delivered,
            "delivered_counter": self._delivered_counter,
            "refused": self._refused,
        }
        self._log.rewrite([*intents, *queued, head])


def _to_text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _from_text(text: str) -> Transaction:
    transaction = decode_transaction_untrusted(binascii.a2b_base64(text, strict_mode=True))
    if not isinstance(transaction.body, DeploymentIntent | DeploymentOutcome | HostReport):
        raise TypeError("a record of another kind than a host's")
    return transaction
