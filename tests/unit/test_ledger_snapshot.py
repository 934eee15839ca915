"""Snapshots: what one node makes, another begins from, and every tampering is refused with its code."""

from __future__ import annotations

from dataclasses import replace

import pytest

import ledger.executed
import ledger.snapshot
from ledger import actions, bodies
from ledger.audit import Auditor
from ledger.configuration import Configuration, ValidatorSet
from ledger.errors import HistoryPrunedError, NotYetAvailableError, ProofRefusedError, SnapshotRefusedError
from ledger.executed import ExecutedLink, decode_executed_link, decode_executed_link_untrusted
from ledger.keyspace import MemoryStore, Table, height_key, identity_key, read_height
from ledger.limits import SNAPSHOT_CHUNK_BYTES_MAX
from ledger.proofs import build_consistency_proof, build_receipt, verify_receipt
from ledger.records import TransactionChain
from ledger.settlement import find_settlement
from ledger.snapshot import SnapshotBuilder, SnapshotManifest, decode_manifest_untrusted, verify_manifest
from ledger.snapshot_install import SnapshotInstaller
from ledger.state import StateView
from ledger.state_tree import prove, read_root, verify_state_proof
from ledger.transaction import decode_transaction_untrusted
from ledger.transition import execute_block
from tests.testkit import patches
from tests.testkit.ledger import Chain, make_genesis, node_key, validator
from wire.codec import Value, decode_untrusted, encode
from wire.errors import CorruptionError, RejectedError
from wire.hashing import Digest, sha256
from wire.limits import MEBIBYTE
from wire.merkle import Frontier, verify_consistency

Chunks = list[bytes]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks of a few rows, so that small chains have many."""
    monkeypatch.setattr(ledger.snapshot, "SNAPSHOT_CHUNK_BYTES", 2000)


def grow(chain: Chain) -> Chain:
    """Let people, a patch, deployments, votes, a change of the validators and empty blocks happen."""
    chain.register_patch_people()
    data = patches.approve(patches.make_patch())
    patch_id = chain.publish(data)
    chain.attest(data, "bob@beta")
    chain.elect(1)
    chain.add_learner(4)
    chain.adopt(actions.ReplaceValidator("v1", "v4"))
    chain.settle()
    opened = chain.submit(bodies.DeploymentIntent(1, bytes(32), "site", patch_id, bytes(32), b"{}"), "web1@acme").tx_id
    chain.commit()
    body = bodies.DeploymentOutcome(2, opened, "site", patch_id, opened, "SUCCESS", bytes(32), b"\x01" * 32, b"{}")
    chain.submit(body, "web1@acme")
    chain.add_learner(5)
    chain.adopt(actions.PromoteLearner("v5"))
    chain.commit(*(chain.sign(bodies.HostReport("drift", f"t{index}", b""), "web1@acme") for index in range(5)))
    return chain


@pytest.fixture
def chain() -> Chain:
    return grow(Chain(make_genesis(validators=3)))


def build(store: MemoryStore) -> tuple[SnapshotManifest, Chunks]:
    builder = SnapshotBuilder(store)
    chunks = list(builder.chunks())
    return builder.manifest(), chunks


def install(manifest: SnapshotManifest, chunks: Chunks, chain: Chain) -> MemoryStore:
    store = MemoryStore()
    installer = SnapshotInstaller(manifest, chain.genesis, store)
    for index, chunk in enumerate(chunks):
        assert installer.next_index == index
        store.apply(installer.feed_untrusted(chunk))
    store.apply(installer.finish())
    return store


def copied(chain: Chain, store: MemoryStore) -> Chain:
    """Return the same chain going on over another store."""
    twin = Chain(chain.genesis, store=MemoryStore())
    twin.store = store
    twin.blocks = list(chain.blocks)
    twin.node_keys, twin.keys = list(chain.node_keys), dict(chain.keys)
    twin.term, twin.leader, twin.nonces = chain.term, chain.leader, chain.nonces
    return twin


# What holds


def test_a_node_begins_where_another_is(chain: Chain) -> None:
    manifest, chunks = build(chain.store)
    assert len(chunks) > 3
    travelled = decode_manifest_untrusted(manifest.encode())
    assert travelled == manifest
    assert travelled.snapshot_id == manifest.snapshot_id
    assert manifest.bytes_total == sum(len(chunk) for chunk in chunks)
    store = install(travelled, chunks, chain)
    view = StateView(store)
    assert view.tip == chain.view.tip
    assert read_root(store) == chain.blocks[-1].header.state_root
    for table in (Table.STATE, Table.STATE_NODE, Table.TX_INDEX, Table.EXECUTED):
        ours = {key: value for (its, key), value in store.dump().items() if its is table}
        theirs = {key: value for (its, key), value in chain.store.dump().items() if its is table}
        assert ours == theirs
    assert view.genesis_document == chain.view.genesis_document
    assert view.header_at(0) == chain.blocks[0].header
    assert view.block(0) == chain.blocks[0]
    assert view.height_of(chain.blocks[-1].block_hash) == chain.height
    assert view.certificate(chain.height) == chain.view.certificate(chain.height)
    proof = prove(store, identity_key("ada@acme"))
    verify_state_proof(proof, chain.blocks[-1].header.state_root)


def test_the_chain_goes_on_as_if_nothing_had_happened(chain: Chain) -> None:
    """Both nodes write the same rows, receipts and proofs of what comes hold, also across the change that was under way."""
    manifest, chunks = build(chain.store)
    store = install(manifest, chunks, chain)
    before = chain.blocks[-1].header
    twin = copied(chain, store)
    # The node that began here knows no header of before, so it proves the change under way by this one.
    settlement = find_settlement(store)
    assert settlement is not None
    assert settlement.header == before
    settle = chain.sign(settlement, "", key=node_key(2))
    twin.nonces = chain.nonces
    for transactions in (
        (settle,),
        (),
        tuple(chain.sign(bodies.HostReport("drift", f"x{i}", b""), "web1@acme") for i in range(6)),
    ):
        block = chain.commit(*transactions).block
        executed = execute_block(store, block, now_ms=None)
        store.apply(executed.writes)
        store.apply({(Table.CERTIFICATE, height_key(chain.height)): chain.view.certificate(chain.height)})
    assert store.get(Table.META, b"tip") == chain.store.get(Table.META, b"tip")
    for raw in chain.blocks[-1].transactions:
        tx_id = decode_transaction_untrusted(raw).tx_id
        receipt = build_receipt(store, tx_id)
        assert receipt == build_receipt(chain.store, tx_id)
        verify_receipt(receipt, chain.genesis)
    last = chain.blocks[-1].header
    proof = build_consistency_proof(store, before.log_size, last.log_size)
    verify_consistency(before.log_size, before.log_root, last.log_size, last.log_root, proof)
    # And the next snapshot is the same from either.
    assert build(store) == build(chain.store)


def test_what_was_executed_is_not_executed_again(chain: Chain) -> None:
    store = install(*build(chain.store), chain)
    old = decode_transaction_untrusted(chain.blocks[-1].transactions[0])
    assert copied(chain, store).refusal(old).code == "ledger.tx.duplicate"


def test_questions_about_history_are_answered_honestly(chain: Chain) -> None:
    store = install(*build(chain.store), chain)
    view = StateView(store)
    assert (chain.view.history_start, view.history_start) == (0, chain.height + 1)
    old = decode_transaction_untrusted(chain.blocks[1].transactions[0])
    assert view.location(old.tx_id) == chain.view.location(old.tx_id)
    size = chain.blocks[-1].header.log_size
    for ask in (
        lambda: view.check_kept(chain.height),
        lambda: view.identity_at("ada@acme", chain.height - 1),
        lambda: build_receipt(store, old.tx_id),
        lambda: build_consistency_proof(store, 1, size),
    ):
        with pytest.raises(HistoryPrunedError) as pruned:
            ask()
        assert pruned.value.code == "ledger.history.pruned"
    assert view.block(1) is None
    assert view.header_at(1) is None
    assert list(view.history(identity_key("ada@acme"))) == []
    assert view.identity_at("ada@acme", chain.height) == view.identity("ada@acme")
    assert view.identity_at("nobody@acme", chain.height) is None
    view.check_kept(chain.height + 1)


def test_a_missing_node_of_the_kept_log_is_corruption(chain: Chain) -> None:
    store = install(*build(chain.store), chain)
    twin = copied(chain, store)
    twin.commit(*(twin.sign(bodies.HostReport("drift", f"x{i}", b""), "web1@acme") for i in range(9)))
    size = twin.blocks[-1].header.log_size
    for (table, key), _ in list(store.dump().items()):
        if table is Table.LOG_NODE:
            store.apply({(table, key): None})
    with pytest.raises(CorruptionError) as error:
        build_consistency_proof(store, size - 1, size)
    assert error.value.code == "ledger.corruption.missing"


def test_two_nodes_make_the_same_bytes(chain: Chain) -> None:
    """Also one that began from a snapshot itself, and one that wrote its rows in another order."""
    rows = list(chain.store.dump().items())
    other = MemoryStore()
    for key, value in reversed(rows):
        other.apply({key: value})
    assert build(other) == build(chain.store)


def test_chunks_are_filled_to_their_size(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger.snapshot, "SNAPSHOT_CHUNK_BYTES", MEBIBYTE)
    assert len(build(chain.store)[1]) == 1
    monkeypatch.setattr(ledger.snapshot, "SNAPSHOT_CHUNK_ROWS_MAX", 7)
    manifest, chunks = build(chain.store)
    assert len(chunks) == -(-manifest.rows // 7)
    assert install(manifest, chunks, chain).get(Table.META, b"tip") == chain.store.get(Table.META, b"tip")
    monkeypatch.setattr(ledger.snapshot, "SNAPSHOT_CHUNK_BYTES", 1)
    manifest, chunks = build(chain.store)
    assert len(chunks) == manifest.rows


def test_only_a_certified_tip_makes_a_snapshot(chain: Chain) -> None:
    chain.apply(chain.build().block, certify=False)
    with pytest.raises(NotYetAvailableError) as refused:
        SnapshotBuilder(chain.store)
    assert refused.value.code == "ledger.snapshot.not_certified"
    chain.commit()
    builder = SnapshotBuilder(chain.store)
    assert builder.height == chain.height
    with pytest.raises(AssertionError):
        builder.manifest()
    assert list(builder.chunks())
    with pytest.raises(AssertionError):
        list(builder.chunks())


def test_a_chain_without_transactions_has_a_snapshot_too() -> None:
    chain = Chain(make_genesis(validators=1))
    chain.commit()
    manifest, chunks = build(chain.store)
    assert manifest.configuration.is_founding
    store = install(manifest, chunks, chain)
    assert StateView(store).tip == chain.view.tip


def test_only_the_window_of_transactions_travels(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can no longer be executed because of its height needs no memory."""
    monkeypatch.setattr(ledger.executed, "NOT_AFTER_WINDOW_MAX", 5)
    manifest, chunks = build(chain.store)
    store = install(manifest, chunks, chain)
    heights = [read_height(key) for table, key in store.dump() if table is Table.EXECUTED]
    assert min(heights) > chain.height - 5
    for block in chain.blocks[1:]:
        for raw in block.transactions:
            known = StateView(store).location(decode_transaction_untrusted(raw).tx_id)
            assert (known is None) == (block.header.height <= chain.height - 5)
    for _ in range(6):
        chain.commit()
    assert "EXECUTED" not in {table.name for table, _ in install(*build(chain.store), chain).dump()}


def test_an_auditor_would_come_to_the_same_root(chain: Chain) -> None:
    auditor = Auditor(chain.genesis)
    for block in chain.blocks[1:]:
        auditor.feed(block.raw, chain.view.certificate(block.header.height))
    assert auditor.finish().state_root == build(chain.store)[0].header.state_root


# What is refused: the manifest


def manifest_code(manifest: SnapshotManifest, chain: Chain) -> str:
    with pytest.raises(RejectedError) as refused:
        verify_manifest(manifest, chain.genesis)
    with pytest.raises(RejectedError) as again:
        SnapshotInstaller(manifest, chain.genesis, MemoryStore())
    assert refused.value.code == again.value.code
    return refused.value.code


def test_a_manifest_is_certified_or_nothing(chain: Chain) -> None:
    manifest, _ = build(chain.store)
    verify_manifest(manifest, chain.genesis)
    header, size = manifest.header, manifest.frontier.size
    forged_root = replace(header, state_root=Digest(bytes(32)))
    other = Chain(make_genesis(validators=2))
    other.commit()
    mine = ValidatorSet((validator(9),))
    for wrong, code in (
        (replace(manifest, chain_id="other-net"), "ledger.snapshot.wrong_chain"),
        (replace(manifest, genesis_hash=Digest(bytes(32))), "ledger.snapshot.wrong_chain"),
        (replace(manifest, header=replace(header, chain_id="other-net")), "ledger.snapshot.wrong_chain"),
        (build(other.store)[0], "ledger.snapshot.wrong_chain"),
        (replace(manifest, header=forged_root), "ledger.proof.certificate"),
        (replace(manifest, header=chain.blocks[-2].header), "ledger.proof.certificate"),
        (
            replace(manifest, certificate=replace(manifest.certificate, signatures=())),
            "wire.certificate.too_few",
        ),
        (
            replace(manifest, configuration=replace(manifest.configuration, changes=())),
            "ledger.proof.configuration",
        ),
        (
            replace(manifest, configuration=replace(manifest.configuration, configuration=Configuration(mine))),
            "ledger.proof.configuration",
        ),
        (replace(manifest, frontier=Frontier()), "ledger.snapshot.log"),
        (
            replace(manifest, frontier=Frontier(size, tuple(Digest(bytes(32)) for _ in manifest.frontier.peaks))),
            "ledger.snapshot.log",
        ),
    ):
        assert manifest_code(wrong, chain) == code
    with pytest.raises(ProofRefusedError):
        verify_manifest(replace(manifest, header=replace(header, validators_hash=Digest(bytes(32)))), chain.genesis)


def test_a_manifest_has_one_form(chain: Chain) -> None:
    raw = build(chain.store)[0].encode()
    values = decode_untrusted(raw, bytes_max=MEBIBYTE)
    assert isinstance(values, tuple)
    wrong: list[bytes] = [b"", raw + b"\xc0", encode(values[:-1]), encode((2, *values[1:]))]
    wrong += [encode((*values[:index], -5, *values[index + 1 :])) for index in range(len(values))]
    for data in wrong:
        with pytest.raises(SnapshotRefusedError) as refused:
            decode_manifest_untrusted(data)
        assert refused.value.code == "ledger.snapshot.malformed"
        assert str(refused.value.details["cause"]).startswith("wire.")


# What is refused: the chunks


def rows_of(chunk: bytes) -> list[tuple[int, bytes, bytes]]:
    values = decode_untrusted(chunk, bytes_max=SNAPSHOT_CHUNK_BYTES_MAX)
    assert isinstance(values, tuple)
    return list(values[2])  # type: ignore[arg-type]


def forge(manifest: SnapshotManifest, rows: list[tuple[int, bytes, bytes]]) -> tuple[SnapshotManifest, Chunks]:
    """Return a manifest and one chunk that agree with each other, whatever the rows: what a forger can make."""
    return forge_raw(manifest, encode((1, 0, tuple(rows))), len(rows))


def forge_raw(manifest: SnapshotManifest, chunk: bytes, rows: int) -> tuple[SnapshotManifest, Chunks]:
    return replace(manifest, rows=rows, bytes_total=len(chunk), chunk_digests=(sha256(chunk),)), [chunk]


def feed(installer: SnapshotInstaller, store: MemoryStore, chunk: bytes) -> str | None:
    """Take the chunk and return None, or the code with which it is refused."""
    try:
        store.apply(installer.feed_untrusted(chunk))
    except SnapshotRefusedError as error:
        return error.code
    return None


def code_of(manifest: SnapshotManifest, chunks: Chunks, chain: Chain) -> str:
    """Return the code with which the installation is refused, after showing that the refused call changed nothing."""
    store = MemoryStore()
    installer = SnapshotInstaller(manifest, chain.genesis, store)
    for index, chunk in enumerate(chunks):
        code = feed(installer, store, chunk)
        if code is not None:
            assert installer.next_index == index
            assert feed(installer, store, chunk) == code
            return code
    with pytest.raises(SnapshotRefusedError) as refused:
        installer.finish()
    assert store.get(Table.META, b"tip") is None
    return refused.value.code


def all_rows(chunks: Chunks) -> list[tuple[int, bytes, bytes]]:
    return [row for chunk in chunks for row in rows_of(chunk)]


def test_every_flipped_chunk_is_refused_and_comes_again(chain: Chain) -> None:
    manifest, chunks = build(chain.store)
    store = MemoryStore()
    installer = SnapshotInstaller(manifest, chain.genesis, store)
    for index, chunk in enumerate(chunks):
        for place in (0, len(chunk) // 2, len(chunk) - 1):
            flipped = bytearray(chunk)
            flipped[place] ^= 1
            for wrong in (bytes(flipped), chunk[:-1], chunk + b"\x00", chunks[index - 1]):
                with pytest.raises(SnapshotRefusedError) as refused:
                    installer.feed_untrusted(wrong)
                assert refused.value.code == "ledger.snapshot.chunk_digest"
        store.apply(installer.feed_untrusted(chunk))
    with pytest.raises(SnapshotRefusedError) as refused:
        installer.feed_untrusted(chunks[0])
    assert refused.value.code == "ledger.snapshot.wrong_chunk"
    store.apply(installer.finish())
    assert StateView(store).tip == chain.view.tip


def test_a_snapshot_that_is_not_whole_is_no_ledger(chain: Chain) -> None:
    manifest, chunks = build(chain.store)
    for count in range(len(chunks)):
        assert code_of(manifest, chunks[:count], chain) == "ledger.snapshot.incomplete"
    for totals in ({"rows": manifest.rows + 1}, {"bytes_total": manifest.bytes_total - 1}):
        assert code_of(replace(manifest, **totals), chunks, chain) == "ledger.snapshot.totals"  # type: ignore[arg-type]


def test_another_state_has_another_root(chain: Chain) -> None:
    """A forger makes a snapshot in perfect form with one row changed, gone or added: each row once."""
    manifest, chunks = build(chain.store)
    rows = all_rows(chunks)
    states = [index for index, row in enumerate(rows) if row[0] == Table.STATE]
    assert len(states) > 30
    for index in states:
        table, key, value = rows[index]
        for changed in ([(table, key, value + b"\x00")], [], [(table, key, value), (table, key + b"\x00", value)]):
            forged = forge(manifest, [*rows[:index], *changed, *rows[index + 1 :]])
            assert code_of(*forged, chain) == "ledger.snapshot.state_root"
    assert code_of(*forge(manifest, rows[:1]), chain) == "ledger.snapshot.state_root"
    assert code_of(*forge(manifest, []), chain) == "ledger.snapshot.state_root"


def test_other_executed_transactions_are_found(chain: Chain) -> None:
    """They are not under the state root themselves: the chain of them is."""
    manifest, chunks = build(chain.store)
    rows = all_rows(chunks)
    executed = [index for index, row in enumerate(rows) if row[0] == Table.EXECUTED]
    assert len(executed) > 10
    for index in executed:
        table, key, value = rows[index]
        height = read_height(key)
        link = decode_executed_link(height, value)
        wrong_before = TransactionChain(bytes(32), link.before.height)
        tampered = [
            None,
            (table, height_key(height + 1), value) if index + 1 == len(rows) else None,
            (table, key, replace(link, tx_ids=(*link.tx_ids, Digest(bytes(32)))).encode()),
            (table, key, replace(link, tx_ids=(Digest(bytes(32)), *link.tx_ids[1:])).encode()),
            (table, key, replace(link, first=link.first + 1).encode()),
            (table, key, replace(link, before=wrong_before).encode()) if height > 1 else None,
        ]
        for row in tampered:
            changed = [] if row is None else [row]
            code = code_of(*forge(manifest, [*rows[:index], *changed, *rows[index + 1 :]]), chain)
            assert code == "ledger.snapshot.executed"
    without = [row for row in rows if row[0] == Table.STATE]
    assert code_of(*forge(manifest, without), chain) == "ledger.snapshot.executed"
    early = (int(Table.EXECUTED), height_key(0), rows[-1][2])
    assert code_of(*forge(manifest, [*without, early]), chain) == "ledger.snapshot.executed"
    odd = (int(Table.EXECUTED), b"short", rows[-1][2])
    assert code_of(*forge(manifest, [*without, odd]), chain) == "ledger.snapshot.executed"
    unreadable = (int(Table.EXECUTED), height_key(1), b"\xc0")
    assert code_of(*forge(manifest, [*without, unreadable]), chain) == "ledger.snapshot.malformed"


def test_a_chain_of_executed_transactions_of_one_s_own_is_found(chain: Chain) -> None:
    """Well linked from the first to the last, and still not what the state says."""
    manifest, chunks = build(chain.store)
    rows = all_rows(chunks)
    forged: list[tuple[int, bytes, bytes]] = [row for row in rows if row[0] == Table.STATE]
    before = TransactionChain(bytes(32), 0)
    for height in range(1, 5):
        link = ExecutedLink(height, before, height, (sha256(b"%d" % height),))
        forged.append((int(Table.EXECUTED), height_key(height), link.encode()))
        before = link.chain
    assert code_of(*forge(manifest, forged), chain) == "ledger.snapshot.executed"


def test_rows_of_other_tables_and_orders_are_refused(chain: Chain) -> None:
    manifest, chunks = build(chain.store)
    rows = all_rows(chunks)
    for table in (Table.META, Table.STATE_NODE, Table.TX_INDEX, Table.CERTIFICATE, 64, 255):
        assert code_of(*forge(manifest, [(int(table), b"k", b"v")]), chain) == "ledger.snapshot.table"
    assert code_of(*forge(manifest, [rows[1], rows[0]]), chain) == "ledger.snapshot.order"
    assert code_of(*forge(manifest, [rows[0], rows[0]]), chain) == "ledger.snapshot.order"
    assert code_of(*forge(manifest, [rows[5], rows[0]]), chain) == "ledger.snapshot.order"
    # The order holds across chunks too.
    first, second = encode((1, 0, (rows[1],))), encode((1, 1, (rows[0],)))
    two = replace(manifest, chunk_digests=(sha256(first), sha256(second)))
    assert code_of(two, [first, second], chain) == "ledger.snapshot.order"


@pytest.mark.parametrize(
    "value",
    [
        None,
        (),
        (2, 0, ()),
        (1, 1, ()),
        (1, 0, 5),
        (1, 0, ((2, b"k"),)),
        (1, 0, (("2", b"k", b"v"),)),
        (1, 0, ((2, "k", b"v"),)),
        (1, 0, ((2, b"k" * 1025, b"v"),)),
        (1, 0, ((2, b"k", None),)),
    ],
)
def test_a_chunk_has_one_form(chain: Chain, value: Value) -> None:
    manifest, _ = build(chain.store)
    assert code_of(*forge_raw(manifest, encode(value), 0), chain) == "ledger.snapshot.malformed"


def test_sizes_are_bounded(chain: Chain) -> None:
    manifest, _ = build(chain.store)
    huge = bytes(SNAPSHOT_CHUNK_BYTES_MAX + 1)
    assert code_of(*forge_raw(manifest, huge, 0), chain) == "ledger.snapshot.too_large"
    assert code_of(*forge_raw(manifest, b"\xc1", 0), chain) == "ledger.snapshot.malformed"


def test_a_store_that_holds_something_takes_no_snapshot(chain: Chain) -> None:
    with pytest.raises(AssertionError):
        SnapshotInstaller(build(chain.store)[0], chain.genesis, chain.store)


def test_links_of_executed_transactions_have_their_form() -> None:
    link = ExecutedLink(7, TransactionChain(b"\x01" * 32, 5), 3, (Digest(b"\x02" * 32),))
    assert decode_executed_link_untrusted(7, link.encode()) == link
    assert link.chain.height == 7
    assert replace(link, height=8).chain.digest != link.chain.digest
    with pytest.raises(CorruptionError) as error:
        decode_executed_link(7, b"\xc0")
    assert error.value.code == "ledger.corruption.record"
