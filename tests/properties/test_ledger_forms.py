"""Whatever the bytes, the doors of the ledger refuse with `RejectedError` or give a value whose one form they are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ledger import bodies
from ledger.archive import ArchiveDecoder, ArchiveEncoder
from ledger.audit import Auditor
from ledger.block import decode_block_untrusted, decode_header_untrusted
from ledger.bodies import BODY_READERS
from ledger.configuration import decode_configuration_untrusted
from ledger.errors import ArchiveRefusedError, BlockRefusedError, GenesisRefusedError, ProofRefusedError
from ledger.genesis import decode_genesis_untrusted
from ledger.keyspace import MemoryStore
from ledger.proofs import Receipt, build_receipt, verify_receipt
from ledger.snapshot import SnapshotBuilder, decode_manifest_untrusted
from ledger.snapshot_install import SnapshotInstaller
from ledger.transaction import decode_transaction_untrusted
from ledger.transition import execute_block
from tests.testkit import patches
from tests.testkit.ledger import Chain
from wire.codec import encode
from wire.errors import RejectedError
from wire.hashing import sha256

CHAIN = Chain()
CHAIN.register_patch_people()
DATA = patches.approve(patches.make_patch())
CHAIN.publish(DATA)
CHAIN.attest(DATA, "bob@beta")
CHAIN.submit(bodies.HostReport("drift", "site", b"body"), "web1@acme")
BUILDER = SnapshotBuilder(CHAIN.store)
CHUNKS = list(BUILDER.chunks())
MANIFEST = BUILDER.manifest()
TRANSACTIONS = [raw for block in CHAIN.blocks for raw in block.transactions]
NEXT = CHAIN.build(CHAIN.sign(bodies.HostReport("drift", "site", b"next"), "web1@acme")).block

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=6).map(tuple),
    max_leaves=20,
)
EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)


def edited(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    """Return the bytes with some of them replaced."""
    changed = bytearray(data)
    for place, byte in edits:
        changed[place % len(changed)] = byte
    return bytes(changed)


@given(st.binary(max_size=300) | VALUES.map(encode))
def test_garbage_never_gets_past_a_door(data: bytes) -> None:
    for door in (
        decode_transaction_untrusted,
        decode_block_untrusted,
        decode_header_untrusted,
        decode_genesis_untrusted,
        decode_configuration_untrusted,
        decode_manifest_untrusted,
        SnapshotInstaller(
            replace(MANIFEST, chunk_digests=(sha256(data),)), CHAIN.genesis, MemoryStore()
        ).feed_untrusted,
    ):
        try:
            door(data)
        except RejectedError:
            continue
        raise AssertionError(f"{door.__name__} took garbage")


@given(st.sampled_from(sorted(BODY_READERS)), VALUES)
def test_a_body_is_refused_or_reads_back_as_it_was(kind: str, value: Any) -> None:
    try:
        body = BODY_READERS[kind](value)
    except RejectedError:
        return
    assert body.to_value() == value


@given(st.sampled_from(TRANSACTIONS), EDITS)
def test_a_changed_transaction_is_refused_or_is_another(raw: bytes, edits: list[tuple[int, int]]) -> None:
    changed = edited(raw, edits)
    try:
        transaction = decode_transaction_untrusted(changed)
    except RejectedError:
        return
    assert transaction.raw == changed
    assert (transaction.leaf_hash == decode_transaction_untrusted(raw).leaf_hash) == (changed == raw)
    if changed != raw:
        refused = CHAIN.build(transaction).refused
        assert refused, "no change of a signed transaction is valid"


@given(EDITS)
def test_a_changed_block_is_refused(edits: list[tuple[int, int]]) -> None:
    changed = edited(NEXT.raw, edits)
    before = CHAIN.store.dump()
    try:
        executed = execute_block(CHAIN.store, decode_block_untrusted(changed), now_ms=None)
    except BlockRefusedError:
        assert changed != NEXT.raw
    else:
        assert executed.block.raw == changed == NEXT.raw
    assert CHAIN.store.dump() == before


@given(st.integers(0, 10**6), EDITS, st.binary(max_size=50))
def test_the_auditor_takes_any_bytes(height: int, edits: list[tuple[int, int]], certificate: bytes) -> None:
    auditor = Auditor(CHAIN.genesis)
    for index, block in enumerate(CHAIN.blocks[1:]):
        raw = block.raw
        if index == height % (len(CHAIN.blocks) - 1):
            raw = edited(raw, edits)
        auditor.feed(raw, CHAIN.view.certificate(index + 1) if raw == block.raw else certificate)
    summary = auditor.finish()
    assert summary.height == CHAIN.height
    damaged = edited(CHAIN.blocks[1 + height % (len(CHAIN.blocks) - 1)].raw, edits)
    assert (summary.findings == ()) == (damaged == CHAIN.blocks[1 + height % (len(CHAIN.blocks) - 1)].raw)


@given(st.integers(0, 10**6), st.sampled_from(["transaction", "header", "certificate", "audit_path", "log_index"]))
def test_a_changed_receipt_proves_nothing(place: int, member: str) -> None:
    tx_id = decode_transaction_untrusted(TRANSACTIONS[2]).tx_id
    document = json.loads(json.dumps(build_receipt(CHAIN.store, tx_id).to_json()))
    honest = json.dumps(document)
    if member == "log_index":
        document[member] = place % 20
    elif member == "audit_path":
        document[member] = document[member] + ["00" * 32] * (1 + place % 3)
    else:
        text = document[member]
        index = place % len(text)
        document[member] = text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]
    try:
        proven = verify_receipt(Receipt.from_json_untrusted(document), CHAIN.genesis)
    except RejectedError:
        return
    assert json.dumps(document) == honest
    assert proven.tx_id == tx_id


@given(VALUES | st.dictionaries(st.text(max_size=12), VALUES, max_size=8))
def test_receipts_from_any_json_are_refused(value: Any) -> None:
    try:
        Receipt.from_json_untrusted(value)
    except ProofRefusedError:
        return
    raise AssertionError("took garbage for a receipt")


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=9) | st.integers(-5, 5), max_size=8))
def test_founding_documents_of_any_json_are_refused(value: dict[str, Any]) -> None:
    try:
        decode_genesis_untrusted(json.dumps(value).encode())
    except GenesisRefusedError:
        return
    raise AssertionError("took garbage for a founding document")


@given(EDITS, st.integers(1, 400))
def test_a_changed_archive_is_refused_in_pieces_of_any_size(edits: list[tuple[int, int]], piece: int) -> None:
    encoder = ArchiveEncoder()
    data = encoder.begin(b"{}") + encoder.block(b"one", None) + encoder.block(b"two", b"c") + encoder.end()
    changed = edited(data, edits)
    decoder = ArchiveDecoder()
    try:
        for start in range(0, len(changed), piece):
            decoder.feed_untrusted(changed[start : start + piece])
        decoder.finish()
    except ArchiveRefusedError:
        assert changed != data
    else:
        assert changed == data


@given(EDITS)
def test_an_edited_chunk_never_becomes_a_ledger(edits: list[tuple[int, int]]) -> None:
    """Even when the forger writes a manifest that fits: the state's root is signed."""
    chunk = edited(CHUNKS[0], edits)
    manifest = replace(MANIFEST, bytes_total=len(chunk), chunk_digests=(sha256(chunk), *MANIFEST.chunk_digests[1:]))
    store = MemoryStore()
    installer = SnapshotInstaller(manifest, CHAIN.genesis, store)
    code = ""
    try:
        store.apply(installer.feed_untrusted(chunk))
        store.apply(installer.finish())
    except RejectedError as error:
        code = error.code
    assert code.startswith("ledger.snapshot.") is (chunk != CHUNKS[0])


@given(EDITS)
def test_an_edited_manifest_is_refused_or_another_s(edits: list[tuple[int, int]]) -> None:
    raw = edited(MANIFEST.encode(), edits)
    try:
        manifest = decode_manifest_untrusted(raw)
        assert manifest.encode() == raw
        store = MemoryStore()
        installer = SnapshotInstaller(manifest, CHAIN.genesis, store)
        store.apply(installer.feed_untrusted(CHUNKS[0]))
        store.apply(installer.finish())
    except RejectedError:
        assert raw != MANIFEST.encode()
    else:
        # Nothing but the signatures of validators can be written otherwise, and only into others that hold.
        assert replace(manifest, certificate=MANIFEST.certificate) == MANIFEST
