"""The messages that validators exchange, and their only encoding.

Each message is one canonical tuple that begins with its type number. Checked here: form and what one message alone can be checked for
(consecutive heights, terms that do not fall). Not checked here: who sent it, and whether signatures hold.

======  ==================  =====================================
number  message             answers
======  ==================  =====================================
1       `PreVote`
2       `PreVoteReply`      `PreVote`
3       `RequestVote`
4       `Vote`              `RequestVote`
5       `Append`            (without entries: the heartbeat)
6       `AppendReply`       `Append`, `SnapshotOffer`
7       `SnapshotOffer`
9       `TimeoutNow`
10      `ReadIndexRequest`
11      `ReadIndexReply`    `ReadIndexRequest`
8, 12   reserved
======  ==================  =====================================

Source: docs/spec/consensus.md 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from consensus.errors import MalformedMessageError
from consensus.limits import (
    ACKNOWLEDGEMENTS_MAX,
    APPEND_ENTRIES_MAX,
    HEIGHT_MAX,
    MESSAGE_BYTES_MAX,
    PROMISE_MS_MAX,
    ROUND_MAX,
    TERM_MAX,
)
from wire import codec
from wire.fields import as_bool, as_bytes, as_digest, as_int, as_tuple
from wire.hashing import Digest
from wire.keys import KeyId
from wire.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX

NodeId: TypeAlias = KeyId
"""A validator: the key id of its Ed25519 node key, 32 bytes."""

SIGNATURE_BYTES: Final = 64
"""Validators sign with Ed25519."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One block as consensus sees it: a position, a name, and bytes that are never read here."""

    term: int
    """Term of the leader that made the block; the block's header says the same."""
    height: int
    """Position in the log, 1 or more; height 0 is genesis and is no entry."""
    block_hash: Digest
    """32-byte hash of the block's header. That it is the hash of `data` is for the ledger to check, before anything is written."""
    data: bytes
    """The encoded block, at most `BLOCK_BYTES_MAX` bytes."""


@dataclass(frozen=True, slots=True)
class PreVote:
    """Asks whether an election would be won, without changing anybody's term (Raft 9.6)."""

    term: int
    """The term in which the candidate would stand: its own plus one."""
    candidate: NodeId
    last_term: int
    """Term of the candidate's last block; 0 at genesis."""
    last_height: int
    """Height of the candidate's last block."""
    last_hash: Digest
    """Hash of the candidate's last block."""


@dataclass(frozen=True, slots=True)
class PreVoteReply:
    """Answers a `PreVote`. It binds nobody, hence it is not signed."""

    term: int
    """When granted the term asked for, else the voter's term."""
    granted: bool
    voter: NodeId


@dataclass(frozen=True, slots=True)
class RequestVote:
    """Asks for a vote in `term` (Raft 5.2)."""

    term: int
    candidate: NodeId
    last_term: int
    last_height: int
    last_hash: Digest
    transfer: bool = False
    """The leader asked for this election, so hearing from a leader is no reason to withhold a vote."""


@dataclass(frozen=True, slots=True)
class Vote:
    """Answers a `RequestVote`; a granted vote carries the voter's signature."""

    term: int
    """The voter's term."""
    granted: bool
    voter: NodeId
    signature: bytes | None
    """64-byte signature over `wire.certificate.vote_message` of the request; None when not granted."""


@dataclass(frozen=True, slots=True)
class Append:
    """Carries blocks to a follower, says what is committed and proves it (Raft 5.3). Without entries it is the heartbeat."""

    term: int
    leader: NodeId
    prev_term: int
    """Term of the block before the first entry; 0 at genesis."""
    prev_height: int
    prev_hash: Digest
    entries: tuple[Entry, ...]
    """Blocks from `prev_height` + 1 on without gap, at most `APPEND_ENTRIES_MAX`."""
    commit_height: int
    """The leader's commit height."""
    commit_certificate: bytes | None
    """An encoded commit certificate for a height that the follower holds after this append and may not know to be committed."""
    round_id: int
    """Number of the leader's latest heartbeat round, for reads that must be confirmed by a majority."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A follower's signed word that a block of the current term is durable on its disk."""

    height: int
    block_hash: Digest
    signature: bytes
    """64-byte signature over `wire.certificate.acknowledgement_message` of the reply's term, this height and this hash."""


@dataclass(frozen=True, slots=True)
class AppendReply:
    """Answers an `Append`: what agrees with the leader, what is durable, or where to look for agreement."""

    term: int
    """The follower's term."""
    follower: NodeId
    ok: bool
    """The block before the first entry is the follower's too."""
    match_height: int
    """Up to here the follower's log is the leader's and durable. It steers what is sent next; only signatures count for commitment."""
    received_height: int
    """Up to here the follower holds the leader's log, durable or in memory; `match_height` or more."""
    reject_height: int
    """When refused: the `prev_height` of the append; else 0."""
    hint_term: int
    """When refused: the term at `hint_height`; else 0."""
    hint_height: int
    """When refused: the follower's highest height that can agree; else 0."""
    commit_height: int
    """The follower's commit height."""
    round_id: int
    """The greatest `round_id` heard from this leader."""
    acknowledgements: tuple[Acknowledgement, ...]
    """For blocks of the current term only, ascending heights, at most `ACKNOWLEDGEMENTS_MAX`."""
    promise_ms: int = 0
    """For so many milliseconds after it heard the round, the follower supports nobody else, unless the leader wishes it; 0: no promise."""


@dataclass(frozen=True, slots=True)
class SnapshotOffer:
    """Tells a follower, in place of an append, that the leader no longer has its next block. It is a heartbeat too."""

    term: int
    leader: NodeId
    first_height: int
    """The lowest block that the leader has: a snapshot at `first_height` - 1 or above it is what the follower needs."""
    commit_height: int
    """The leader's commit height."""
    round_id: int
    """As in `Append`."""


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """The leader asks a follower that has its whole log to stand for election at once (thesis 3.10)."""

    term: int
    leader: NodeId


@dataclass(frozen=True, slots=True)
class ReadIndexRequest:
    """A follower asks its leader up to where everything is committed that anybody may know of by now (thesis 6.4)."""

    term: int
    follower: NodeId
    number: int
    """The follower's name for the request; not used again, also not after a restart."""


@dataclass(frozen=True, slots=True)
class ReadIndexReply:
    """Answers a `ReadIndexRequest`, after a majority has confirmed the leader since."""

    term: int
    leader: NodeId
    number: int
    """That of the request."""
    height: int
    """A state at this height or above it holds everything that was committed when the request was made."""


Message: TypeAlias = (
    PreVote
    | PreVoteReply
    | RequestVote
    | Vote
    | Append
    | AppendReply
    | SnapshotOffer
    | TimeoutNow
    | ReadIndexRequest
    | ReadIndexReply
)

TYPE_PRE_VOTE: Final = 1
TYPE_PRE_VOTE_REPLY: Final = 2
TYPE_REQUEST_VOTE: Final = 3
TYPE_VOTE: Final = 4
TYPE_APPEND: Final = 5
TYPE_APPEND_REPLY: Final = 6
TYPE_SNAPSHOT_OFFER: Final = 7
TYPE_TIMEOUT_NOW: Final = 9
TYPE_READ_INDEX_REQUEST: Final = 10
TYPE_READ_INDEX_REPLY: Final = 11
TYPES_RESERVED: Final = (8, 12)
"""Refused today like any unknown type."""


def author_of(message: Message) -> NodeId:
    """Return who says to have sent the message."""
    match message:
        case Append() | SnapshotOffer() | TimeoutNow() | ReadIndexReply():
            return message.leader
        case AppendReply() | ReadIndexRequest():
            return message.follower
        case PreVote() | RequestVote():
            return message.candidate
        case PreVoteReply() | Vote():
            return message.voter
        case _ as never:
            assert_never(never)


def encode_message(message: Message) -> bytes:
    """Return the one encoding of `message`: at most `MESSAGE_BYTES_MAX` bytes when its blocks respect the limits of an append.

    Source: docs/spec/consensus.md 2.
    """
    match message:
        case Append():
            entries = tuple((e.term, e.height, e.block_hash, e.data) for e in message.entries)
            return codec.encode(
                (
                    TYPE_APPEND,
                    message.term,
                    message.leader,
                    message.prev_term,
                    message.prev_height,
                    message.prev_hash,
                    entries,
                    message.commit_height,
                    message.commit_certificate,
                    message.round_id,
                )
            )
        case AppendReply():
            acknowledgements = tuple((a.height, a.block_hash, a.signature) for a in message.acknowledgements)
            return codec.encode(
                (
                    TYPE_APPEND_REPLY,
                    message.term,
                    message.follower,
                    message.ok,
                    message.match_height,
                    message.received_height,
                    message.reject_height,
                    message.hint_term,
                    message.hint_height,
                    message.commit_height,
                    message.round_id,
                    acknowledgements,
                    message.promise_ms,
                )
            )
        case PreVote(term, candidate, last_term, last_height, last_hash):
            return codec.encode((TYPE_PRE_VOTE, term, candidate, last_term, last_height, last_hash))
        case PreVoteReply(term, granted, voter):
            return codec.encode((TYPE_PRE_VOTE_REPLY, term, granted, voter))
        case RequestVote(term, candidate, last_term, last_height, last_hash, transfer):
            return codec.encode((TYPE_REQUEST_VOTE, term, candidate, last_term, last_height, last_hash, transfer))
        case Vote(term, granted, voter, signature):
            return codec.encode((TYPE_VOTE, term, granted, voter, signature))
        case SnapshotOffer(term, leader, first_height, commit_height, round_id):
            return codec.encode((TYPE_SNAPSHOT_OFFER, term, leader, first_height, commit_height, round_id))
        case TimeoutNow(term, leader):
            return codec.encode((TYPE_TIMEOUT_NOW, term, leader))
        case ReadIndexRequest(term, follower, number):
            return codec.encode((TYPE_READ_INDEX_REQUEST, term, follower, number))
        case ReadIndexReply(term, leader, number, height):
            return codec.encode((TYPE_READ_INDEX_REPLY, term, leader, number, height))


def decode_message_untrusted(data: bytes) -> Message:
    """Return the message that `data` encodes; encoding it again gives the same bytes.

    Raises:
        MalformedError: ``wire.codec.*`` or ``wire.field.*`` when the bytes are not canonical or a field has the wrong form.
        MalformedMessageError: ``consensus.message.type`` for an unknown or reserved type; ``consensus.message.entries`` when blocks
            do not follow each other; ``consensus.message.vote`` when a signature is missing or too many;
            ``consensus.message.reply`` when heights of a reply contradict each other.

    Source: docs/spec/consensus.md 2.
    """
    value = codec.decode_untrusted(data, bytes_max=MESSAGE_BYTES_MAX)
    if not isinstance(value, tuple) or not value:
        raise MalformedMessageError("consensus.message.type", "a message is a tuple that begins with its type number")
    number = value[0]
    reader = _READERS.get(number) if type(number) is int else None
    if reader is None:
        raise MalformedMessageError(
            "consensus.message.type",
            "the message type is unknown",
            expected="1 to 7 or 9 to 11",
            actual=repr(number)[:40],
        )
    return reader(value)


def _term(value: object, name: str) -> int:
    return as_int(value, name, minimum=0, maximum=TERM_MAX)


def _own_term(value: object) -> int:
    # A message is sent in a term, and the first one is 1: term 0 is genesis.
    return as_int(value, "term", minimum=1, maximum=TERM_MAX)


def _height(value: object, name: str) -> int:
    return as_int(value, name, minimum=0, maximum=HEIGHT_MAX)


def _round(value: object, name: str) -> int:
    return as_int(value, name, minimum=0, maximum=ROUND_MAX)


def _node(value: object, name: str) -> NodeId:
    return NodeId(as_digest(value, name))


def _read_pre_vote(value: tuple[object, ...]) -> PreVote:
    _, term, candidate, last_term, last_height, last_hash = as_tuple(value, "prevote", length=6)
    return PreVote(
        _own_term(term),
        _node(candidate, "candidate"),
        _term(last_term, "last_term"),
        _height(last_height, "last_height"),
        as_digest(last_hash, "last_hash"),
    )


def _read_pre_vote_reply(value: tuple[object, ...]) -> PreVoteReply:
    _, term, granted, voter = as_tuple(value, "prevote_reply", length=4)
    return PreVoteReply(_term(term, "term"), as_bool(granted, "granted"), _node(voter, "voter"))


def _read_request_vote(value: tuple[object, ...]) -> RequestVote:
    _, term, candidate, last_term, last_height, last_hash, transfer = as_tuple(value, "request_vote", length=7)
    return RequestVote(
        _own_term(term),
        _node(candidate, "candidate"),
        _term(last_term, "last_term"),
        _height(last_height, "last_height"),
        as_digest(last_hash, "last_hash"),
        as_bool(transfer, "transfer"),
    )


def _read_vote(value: tuple[object, ...]) -> Vote:
    _, term, granted_value, voter, signature_value = as_tuple(value, "vote", length=5)
    granted = as_bool(granted_value, "granted")
    if granted is (signature_value is None):
        raise MalformedMessageError("consensus.message.vote", "a vote is signed exactly when it is granted")
    signature = None if signature_value is None else as_bytes(signature_value, "signature", length=SIGNATURE_BYTES)
    return Vote(_own_term(term), granted, _node(voter, "voter"), signature)


def _read_append(value: tuple[object, ...]) -> Append:
    (
        _,
        term_value,
        leader,
        prev_term_value,
        prev_height_value,
        prev_hash,
        entry_values,
        commit_height,
        certificate,
        round_id,
    ) = as_tuple(value, "append", length=10)
    term = _own_term(term_value)
    prev_term = _term(prev_term_value, "prev_term")
    prev_height = _height(prev_height_value, "prev_height")
    entries: list[Entry] = []
    term_before, height_before = prev_term, prev_height
    for entry_value in as_tuple(entry_values, "entries", length_max=APPEND_ENTRIES_MAX):
        entry_term, entry_height, block_hash, block = as_tuple(entry_value, "entry", length=4)
        entry = Entry(
            _term(entry_term, "entry.term"),
            _height(entry_height, "entry.height"),
            as_digest(block_hash, "entry.block_hash"),
            as_bytes(block, "entry.data", bytes_max=BLOCK_BYTES_MAX),
        )
        if entry.height != height_before + 1:
            raise MalformedMessageError(
                "consensus.message.entries",
                "blocks of one append follow each other",
                expected=f"height {height_before + 1}",
                actual=f"height {entry.height}",
            )
        if not max(term_before, 1) <= entry.term <= term:
            raise MalformedMessageError(
                "consensus.message.entries",
                "terms of blocks do not fall, and none is above the leader's",
                expected=f"a term from {max(term_before, 1)} to {term}",
                actual=f"term {entry.term}",
            )
        entries.append(entry)
        term_before, height_before = entry.term, entry.height
    return Append(
        term,
        _node(leader, "leader"),
        prev_term,
        prev_height,
        as_digest(prev_hash, "prev_hash"),
        tuple(entries),
        _height(commit_height, "commit_height"),
        None if certificate is None else as_bytes(certificate, "commit_certificate", bytes_max=CERTIFICATE_BYTES_MAX),
        _round(round_id, "round_id"),
    )


def _read_append_reply(value: tuple[object, ...]) -> AppendReply:
    (
        _,
        term,
        follower,
        ok_value,
        match_value,
        received_value,
        reject_value,
        hint_term,
        hint_value,
        commit_height,
        round_id,
        acknowledgement_values,
        promise_ms,
    ) = as_tuple(value, "append_reply", length=13)
    acknowledgements: list[Acknowledgement] = []
    for item in as_tuple(acknowledgement_values, "acknowledgements", length_max=ACKNOWLEDGEMENTS_MAX):
        height, block_hash, signature = as_tuple(item, "acknowledgement", length=3)
        acknowledgements.append(
            Acknowledgement(
                _height(height, "acknowledgement.height"),
                as_digest(block_hash, "acknowledgement.block_hash"),
                as_bytes(signature, "acknowledgement.signature", length=SIGNATURE_BYTES),
            )
        )
    reply = AppendReply(
        _own_term(term),
        _node(follower, "follower"),
        as_bool(ok_value, "ok"),
        _height(match_value, "match_height"),
        _height(received_value, "received_height"),
        _height(reject_value, "reject_height"),
        _term(hint_term, "hint_term"),
        _height(hint_value, "hint_height"),
        _height(commit_height, "commit_height"),
        _round(round_id, "round_id"),
        tuple(acknowledgements),
        as_int(promise_ms, "promise_ms", minimum=0, maximum=PROMISE_MS_MAX),
    )
    heights = [a.height for a in acknowledgements]
    if reply.ok:
        coherent = reply.received_height >= reply.match_height and heights == sorted(set(heights))
    else:
        coherent = not heights and reply.match_height == reply.received_height == 0
    if not coherent:
        raise MalformedMessageError("consensus.message.reply", "the heights of a reply contradict each other")
    return reply


def _read_snapshot_offer(value: tuple[object, ...]) -> SnapshotOffer:
    _, term, leader, first_height, commit_height, round_id = as_tuple(value, "snapshot_offer", length=6)
    return SnapshotOffer(
        _own_term(term),
        _node(leader, "leader"),
        as_int(first_height, "first_height", minimum=1, maximum=HEIGHT_MAX),
        _height(commit_height, "commit_height"),
        _round(round_id, "round_id"),
    )


def _read_timeout_now(value: tuple[object, ...]) -> TimeoutNow:
    _, term, leader = as_tuple(value, "timeout_now", length=3)
    return TimeoutNow(_own_term(term), _node(leader, "leader"))


def _read_read_index_request(value: tuple[object, ...]) -> ReadIndexRequest:
    _, term, follower, number = as_tuple(value, "read_index_request", length=4)
    return ReadIndexRequest(_own_term(term), _node(follower, "follower"), _round(number, "number"))


def _read_read_index_reply(value: tuple[object, ...]) -> ReadIndexReply:
    _, term, leader, number, height = as_tuple(value, "read_index_reply", length=5)
    return ReadIndexReply(_own_term(term), _node(leader, "leader"), _round(number, "number"), _height(height, "height"))


_READERS: Final[dict[int, Callable[[tuple[object, ...]], Message]]] = {
    TYPE_PRE_VOTE: _read_pre_vote,
    TYPE_PRE_VOTE_REPLY: _read_pre_vote_reply,
    TYPE_REQUEST_VOTE: _read_request_vote,
    TYPE_VOTE: _read_vote,
    TYPE_APPEND: _read_append,
    TYPE_APPEND_REPLY: _read_append_reply,
    TYPE_SNAPSHOT_OFFER: _read_snapshot_offer,
    TYPE_TIMEOUT_NOW: _read_timeout_now,
    TYPE_READ_INDEX_REQUEST: _read_read_index_request,
    TYPE_READ_INDEX_REPLY: _read_read_index_reply,
}
