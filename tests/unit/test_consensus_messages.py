"""Messages: one encoding each, and a code for every form that is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import MalformedMessageError
from consensus.limits import ACKNOWLEDGEMENTS_MAX, APPEND_ENTRIES_MAX, MESSAGE_BYTES_MAX, PROMISE_MS_MAX, TERM_MAX
from consensus.messages import (
    TYPE_APPEND,
    TYPE_APPEND_REPLY,
    TYPE_READ_INDEX_REPLY,
    TYPE_READ_INDEX_REQUEST,
    TYPE_SNAPSHOT_OFFER,
    TYPE_TIMEOUT_NOW,
    TYPES_RESERVED,
    Acknowledgement,
    Append,
    AppendReply,
    Entry,
    Message,
    NodeId,
    PreVote,
    PreVoteReply,
    ReadIndexReply,
    ReadIndexRequest,
    RequestVote,
    SnapshotOffer,
    TimeoutNow,
    Vote,
    author_of,
    decode_message_untrusted,
    encode_message,
)
from tests.testkit.raft_sim import make_chain
from wire import codec
from wire.errors import MalformedError, RejectedError
from wire.hashing import Digest, sha256
from wire.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX

NODE = NodeId(sha256(b"node"))
HASH = sha256(b"block")
SIGNATURE = bytes(range(64))

EXAMPLES: list[Message] = [
    PreVote(3, NODE, 2, 7, HASH),
    PreVoteReply(3, True, NODE),
    RequestVote(3, NODE, 2, 7, HASH),
    RequestVote(3, NODE, 2, 7, HASH, transfer=True),
    Vote(3, True, NODE, SIGNATURE),
    Vote(3, False, NODE, None),
    Append(3, NODE, 0, 0, HASH, (), 0, None, 0),
    Append(3, NODE, 1, 2, HASH, tuple(make_chain([1, 2, 3], HASH, 3)), 2, b"certificate", 9),
    AppendReply(3, NODE, True, 4, 5, 0, 0, 0, 2, 9, (Acknowledgement(4, HASH, SIGNATURE),)),
    AppendReply(3, NODE, False, 0, 0, 8, 2, 6, 2, 9, ()),
    SnapshotOffer(3, NODE, 5, 9, 7),
    TimeoutNow(3, NODE),
    ReadIndexRequest(3, NODE, 8),
    ReadIndexReply(3, NODE, 8, 6),
    AppendReply(3, NODE, True, 4, 5, 0, 0, 0, 2, 9, (), 400),
]

TERMS = st.integers(1, TERM_MAX)
HEIGHTS = st.integers(0, 2**62)
DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)
NODES = DIGESTS.map(NodeId)
SIGNATURES = st.binary(min_size=64, max_size=64)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    terms = sorted(draw(st.lists(st.integers(1, 50), min_size=1, max_size=6)))
    prev_height = draw(st.integers(0, 2**40))
    entries = tuple(
        Entry(term, height, draw(DIGESTS), draw(st.binary(max_size=40)))
        for height, term in enumerate(terms[1:-1], prev_height + 1)
    )
    return Append(
        terms[-1],
        draw(NODES),
        draw(st.integers(0, terms[0])),
        prev_height,
        draw(DIGESTS),
        entries,
        draw(HEIGHTS),
        draw(st.none() | st.binary(max_size=50)),
        draw(HEIGHTS),
    )


@st.composite
def replies(draw: st.DrawFn) -> AppendReply:
    heights = sorted(draw(st.sets(HEIGHTS, max_size=5)))
    match, received = sorted([draw(HEIGHTS), draw(HEIGHTS)])
    ok = draw(st.booleans())
    return AppendReply(
        draw(TERMS),
        draw(NODES),
        ok,
        match if ok else 0,
        received if ok else 0,
        draw(HEIGHTS),
        draw(st.integers(0, TERM_MAX)),
        draw(HEIGHTS),
        draw(HEIGHTS),
        draw(HEIGHTS),
        tuple(Acknowledgement(height, draw(DIGESTS), draw(SIGNATURES)) for height in heights) if ok else (),
        draw(st.integers(0, PROMISE_MS_MAX)),
    )


MESSAGES = st.one_of(
    st.builds(PreVote, TERMS, NODES, st.integers(0, TERM_MAX), HEIGHTS, DIGESTS),
    st.builds(PreVoteReply, st.integers(0, TERM_MAX), st.booleans(), NODES),
    st.builds(RequestVote, TERMS, NODES, st.integers(0, TERM_MAX), HEIGHTS, DIGESTS, st.booleans()),
    st.builds(Vote, TERMS, st.just(True), NODES, SIGNATURES),
    st.builds(Vote, TERMS, st.just(False), NODES, st.none()),
    appends(),
    replies(),
    st.builds(SnapshotOffer, TERMS, NODES, st.integers(1, 2**62), HEIGHTS, HEIGHTS),
    st.builds(TimeoutNow, TERMS, NODES),
    st.builds(ReadIndexRequest, TERMS, NODES, HEIGHTS),
    st.builds(ReadIndexReply, TERMS, NODES, HEIGHTS, HEIGHTS),
)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__ + str(EXAMPLES.index(message)))
def test_an_example_survives_its_encoding(message: Message) -> None:
    data = encode_message(message)
    assert decode_message_untrusted(data) == message
    for cut in range(len(data)):
        with pytest.raises(MalformedError):
            decode_message_untrusted(data[:cut])
    with pytest.raises(MalformedError):
        decode_message_untrusted(data + b"\xc0")


@given(message=MESSAGES)
def test_every_message_survives_its_encoding(message: Message) -> None:
    assert decode_message_untrusted(encode_message(message)) == message


@given(message=MESSAGES, data=st.data())
def test_whatever_a_changed_byte_makes_is_refused_or_has_that_very_encoding(
    message: Message, data: st.DataObject
) -> None:
    encoded = bytearray(encode_message(message))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_message_untrusted(bytes(encoded))
    except RejectedError:
        return
    assert encode_message(decoded) == bytes(encoded)


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_by_a_rejection_only(data: bytes) -> None:
    with pytest.raises(RejectedError):
        decode_message_untrusted(data)


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-5, 70) | st.binary(max_size=64) | st.just(NODE),
        lambda inner: st.lists(inner, max_size=12).map(tuple),
        max_leaves=30,
    ),
    number=st.integers(1, 12),
)
def test_arbitrary_values_are_refused_by_a_rejection_only(value: codec.Value, number: int) -> None:
    inner = value if isinstance(value, tuple) else (value,)
    try:
        message = decode_message_untrusted(codec.encode((number, *inner)))
    except RejectedError:
        return
    assert encode_message(message) == codec.encode((number, *inner))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="nothing"),
        pytest.param((), id="empty"),
        pytest.param((0,), id="zero"),
        pytest.param((True, 1), id="a bool is no number"),
        pytest.param((b"1",), id="bytes"),
        pytest.param((255,), id="unknown"),
        *(pytest.param((number,), id=f"reserved {number}") for number in TYPES_RESERVED),
    ],
)
def test_an_unknown_type_is_refused(value: codec.Value) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        decode_message_untrusted(codec.encode(value))
    assert caught.value.code == "consensus.message.type"


def encode_append(**changes: object) -> bytes:
    chain = make_chain([1, 2, 3], HASH, 3)
    entries = tuple((e.term, e.height, e.block_hash, e.data) for e in chain)
    fields: dict[str, object] = {
        "term": 3,
        "leader": NODE,
        "prev_term": 1,
        "prev_height": 2,
        "prev_hash": HASH,
        "entries": entries,
        "commit_height": 2,
        "certificate": None,
        "round_id": 1,
    }
    assert changes.keys() <= fields.keys()
    fields.update(changes)
    return codec.encode((TYPE_APPEND, *fields.values()))  # type: ignore[arg-type]


ENTRY = (1, 3, HASH, b"data")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param(
            {"entries": ((1, 4, HASH, b""),)}, "consensus.message.entries", id="gap after the preceding block"
        ),
        pytest.param({"entries": (ENTRY, (1, 5, HASH, b""))}, "consensus.message.entries", id="gap between"),
        pytest.param({"entries": (ENTRY, ENTRY)}, "consensus.message.entries", id="twice"),
        pytest.param({"prev_term": 2, "entries": (ENTRY,)}, "consensus.message.entries", id="term falls at once"),
        pytest.param({"entries": ((2, 3, HASH, b""), (1, 4, HASH, b""))}, "consensus.message.entries", id="term falls"),
        pytest.param({"entries": ((4, 3, HASH, b""),)}, "consensus.message.entries", id="above the leader's term"),
        pytest.param(
            {"prev_term": 0, "entries": ((0, 3, HASH, b""),)}, "consensus.message.entries", id="a block of term 0"
        ),
        pytest.param({"entries": ((1, 3, HASH),)}, "wire.field.length", id="short entry"),
        pytest.param({"entries": ((1, 3, HASH[:31], b""),)}, "wire.field.length", id="short hash"),
        pytest.param({"entries": ((1, 3, HASH, None),)}, "wire.field.bytes", id="no data"),
        pytest.param({"entries": None}, "wire.field.tuple", id="no entries"),
        pytest.param({"term": 0}, "wire.field.range", id="term 0"),
        pytest.param({"term": TERM_MAX + 1}, "wire.field.range", id="term too high"),
        pytest.param({"prev_height": -1}, "wire.field.range", id="negative height"),
        pytest.param({"leader": NODE[:31]}, "wire.field.length", id="short leader"),
        pytest.param({"certificate": bytes(CERTIFICATE_BYTES_MAX + 1)}, "wire.field.length", id="huge certificate"),
        pytest.param({"round_id": True}, "wire.field.int", id="bool round"),
        pytest.param({"commit_height": 2**63}, "wire.field.range", id="commit height too high"),
    ],
)
def test_a_malformed_append_is_refused_with_its_code(changes: dict[str, object], code: str) -> None:
    decode_message_untrusted(encode_append())
    with pytest.raises(MalformedError) as caught:
        decode_message_untrusted(encode_append(**changes))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        pytest.param((TYPE_SNAPSHOT_OFFER, 3, NODE, 0, 9, 7), "wire.field.range", id="an offer of genesis"),
        pytest.param((TYPE_SNAPSHOT_OFFER, 3, NODE, 5, 9), "wire.field.length", id="a short offer"),
        pytest.param((TYPE_SNAPSHOT_OFFER, 3, NODE, 5, -1, 7), "wire.field.range", id="an offer below genesis"),
        pytest.param((TYPE_TIMEOUT_NOW, 0, NODE), "wire.field.range", id="a hand-over in term 0"),
        pytest.param((TYPE_TIMEOUT_NOW, 3), "wire.field.length", id="a hand-over by nobody"),
        pytest.param((TYPE_READ_INDEX_REQUEST, 3, NODE, 2**62 + 1), "wire.field.range", id="a number too high"),
        pytest.param((TYPE_READ_INDEX_REQUEST, 3, NODE[:5], 1), "wire.field.length", id="a short reader"),
        pytest.param((TYPE_READ_INDEX_REPLY, 3, NODE, 1, None), "wire.field.int", id="an answer without height"),
    ],
)
def test_a_malformed_small_message_is_refused_with_its_code(value: codec.Value, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_message_untrusted(codec.encode(value))
    assert caught.value.code == code


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__ + str(EXAMPLES.index(message)))
def test_every_message_names_its_author(message: Message) -> None:
    assert author_of(message) == NODE


def test_an_append_has_so_many_blocks_at_most() -> None:
    def build(count: int) -> bytes:
        return encode_append(entries=tuple((1, height, HASH, b"") for height in range(3, 3 + count)))

    decode_message_untrusted(build(APPEND_ENTRIES_MAX))
    with pytest.raises(MalformedError) as caught:
        decode_message_untrusted(build(APPEND_ENTRIES_MAX + 1))
    assert caught.value.code == "wire.field.length"


def test_the_largest_block_travels_and_a_larger_one_does_not() -> None:
    message = decode_message_untrusted(encode_append(entries=((1, 3, HASH, bytes(BLOCK_BYTES_MAX)),)))
    assert isinstance(message, Append)
    assert len(encode_message(message)) < MESSAGE_BYTES_MAX
    with pytest.raises(MalformedError) as caught:
        decode_message_untrusted(encode_append(entries=((1, 3, HASH, bytes(BLOCK_BYTES_MAX + 1)),)))
    assert caught.value.code == "wire.field.length"
    with pytest.raises(MalformedError) as caught:
        decode_message_untrusted(bytes(MESSAGE_BYTES_MAX + 1))
    assert caught.value.code == "wire.codec.too_large"


@pytest.mark.parametrize(
    "message",
    [
        replace(EXAMPLES[8], received_height=3),  # type: ignore[type-var]
        replace(EXAMPLES[8], acknowledgements=(Acknowledgement(4, HASH, SIGNATURE),) * 2),  # type: ignore[type-var]
        replace(  # type: ignore[type-var]
            EXAMPLES[8], acknowledgements=(Acknowledgement(4, HASH, SIGNATURE), Acknowledgement(3, HASH, SIGNATURE))
        ),
        replace(EXAMPLES[9], match_height=1),  # type: ignore[type-var]
        replace(EXAMPLES[9], received_height=1),  # type: ignore[type-var]
        replace(EXAMPLES[9], acknowledgements=(Acknowledgement(4, HASH, SIGNATURE),)),  # type: ignore[type-var]
    ],
    ids=[
        "holds less than is durable",
        "twice",
        "falling",
        "refusal with match",
        "refusal with received",
        "signed refusal",
    ],
)
def test_a_reply_that_contradicts_itself_is_refused(message: Message) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        decode_message_untrusted(encode_message(message))
    assert caught.value.code == "consensus.message.reply"


def test_a_reply_has_so_many_acknowledgements_at_most() -> None:
    def build(count: int) -> bytes:
        signed = tuple((height, HASH, SIGNATURE) for height in range(count))
        return codec.encode((TYPE_APPEND_REPLY, 3, NODE, True, 999, 999, 0, 0, 0, 0, 0, signed, 0))

    decode_message_untrusted(build(ACKNOWLEDGEMENTS_MAX))
    with pytest.raises(MalformedError) as caught:
        decode_message_untrusted(build(ACKNOWLEDGEMENTS_MAX + 1))
    assert caught.value.code == "wire.field.length"


@pytest.mark.parametrize(("granted", "signature"), [(True, None), (False, SIGNATURE)])
def test_a_vote_is_signed_exactly_when_it_is_granted(granted: bool, signature: bytes | None) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        decode_message_untrusted(encode_message(Vote(3, granted, NODE, signature)))
    assert caught.value.code == "consensus.message.vote"


def test_the_encodings_are_these_bytes() -> None:
    # Written out by hand from docs/spec/consensus.md 2: what another implementation must produce.
    node, block = b"\xc4\x20" + NODE, b"\xc4\x20" + HASH
    assert encode_message(EXAMPLES[0]) == b"\x96\x01\x03" + node + b"\x02\x07" + block
    assert encode_message(EXAMPLES[1]) == b"\x94\x02\x03\xc3" + node
    assert encode_message(EXAMPLES[2]) == b"\x97\x03\x03" + node + b"\x02\x07" + block + b"\xc2"
    assert encode_message(EXAMPLES[4]) == b"\x95\x04\x03\xc3" + node + b"\xc4\x40" + SIGNATURE
    assert encode_message(EXAMPLES[5]) == b"\x95\x04\x03\xc2" + node + b"\xc0"
    assert encode_message(EXAMPLES[6]) == b"\x9a\x05\x03" + node + b"\x00\x00" + block + b"\x90\x00\xc0\x00"
    assert encode_message(EXAMPLES[9]) == (b"\x9d\x06\x03" + node + b"\xc2\x00\x00\x08\x02\x06\x02\x09\x90\x00")
    assert encode_message(EXAMPLES[-1])[-6:] == b"\x02\x09\x90\xcd\x01\x90"
    assert encode_message(EXAMPLES[10]) == b"\x96\x07\x03" + node + b"\x05\x09\x07"
    assert encode_message(EXAMPLES[11]) == b"\x93\x09\x03" + node
    assert encode_message(EXAMPLES[12]) == b"\x94\x0a\x03" + node + b"\x08"
    assert encode_message(EXAMPLES[13]) == b"\x95\x0b\x03" + node + b"\x08\x06"
    assert (
        encode_message(EXAMPLES[8])
        == b"\x9d\x06\x03"
        + node
        + b"\xc3\x04\x05\x00\x00\x00\x02\x09\x91\x93\x04"
        + block
        + b"\xc4\x40"
        + SIGNATURE
        + b"\x00"
    )
