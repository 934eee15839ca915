"""From one block to the next: what is built is accepted, what was tampered with is refused by name, and nothing else changes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ledger import bodies
from ledger.block import ZERO_DIGEST, Block, decode_block_untrusted, hash_election
from ledger.errors import BlockRefusedError, LedgerCorruptionError
from ledger.keyspace import MemoryStore, Overlay, Table, height_key
from ledger.state import StateView, Tip
from ledger.state_tree import read_root
from ledger.transaction import Transaction, check_signatures, decode_transaction_untrusted, signature_job
from ledger.transition import Admission, build_block, execute_block, signature_jobs
from tests.testkit.ledger import Chain, key_of, make_certificate, make_election, make_genesis, node_key
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.limits import BLOCK_BYTES_MAX
from wire.merkle import EMPTY_ROOT, leaf_hash, root

OTHER = b"\x07" * 32


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    return chain


def report(chain: Chain, text: bytes = b"", **changes: object) -> Transaction:
    return chain.sign(bodies.HostReport("inventory", "site", text), "web1@acme", **changes)


def register(chain: Chain, name: str) -> Transaction:
    body = bodies.IdentityRegister(name, "Name", ("host",), key_of(name).public_key.spki)
    return chain.sign(body, "ada@acme")


def refusal(chain: Chain, block: Block, **arguments: object) -> BlockRefusedError:
    """Return why the block is refused, after showing that the store is as before."""
    before = chain.store.dump()
    with pytest.raises(BlockRefusedError) as refused:
        execute_block(chain.store, block, **({"now_ms": None} | arguments))  # type: ignore[arg-type]
    assert chain.store.dump() == before
    assert refused.value.details.get("height", block.header.height) == block.header.height
    return refused.value


def test_a_follower_comes_to_what_the_leader_built(chain: Chain) -> None:
    built = chain.build(report(chain, b"a"), register(chain, "web2@acme"), report(chain, b"b"))
    assert built.refused == ()
    assert built.left == ()
    executed = execute_block(chain.store, decode_block_untrusted(built.block.raw), now_ms=built.block.header.time_ms)
    assert executed == built.executed
    assert executed.height == 2
    assert executed.block_hash == built.block.header.hash()
    assert executed.tx_ids == tuple(each.tx_id for each in executed.transactions)


def test_the_header_says_what_the_block_holds(chain: Chain) -> None:
    transactions = [report(chain, b"a"), report(chain, b"b"), report(chain, b"c")]
    header = chain.commit(*transactions).block.header
    assert header.transactions_root == root([leaf_hash(each.raw) for each in transactions])
    everything = [leaf_hash(raw) for block in chain.blocks for raw in block.transactions]
    assert (header.log_size, header.log_root) == (4, root(everything))
    assert header.previous_hash == chain.blocks[-2].block_hash
    assert header.validators_hash == chain.view.configuration().hash
    assert header.policy_hash == chain.view.policy().policy_hash
    assert header.state_root == read_root(chain.store)
    assert chain.commit().block.header.state_root == header.state_root, "nothing happened"
    assert header.proposer == node_key(1).public_key.key_id


def test_an_empty_block_is_a_block(chain: Chain) -> None:
    before = chain.blocks[-1].header
    header = chain.commit().block.header
    assert header.transactions_root == EMPTY_ROOT
    assert (header.log_size, header.log_root, header.state_root) == (
        before.log_size,
        before.log_root,
        before.state_root,
    )


def test_genesis_is_a_tip_that_the_first_block_extends() -> None:
    chain = Chain()
    assert chain.view.height == 0
    assert chain.view.chain_id == "test-net"
    assert chain.view.genesis_hash == chain.genesis.genesis_hash == chain.view.header.previous_hash
    assert chain.view.genesis_document == chain.genesis.document
    chain.commit()
    assert chain.view.height == 1


def test_the_chain_can_be_read_back(chain: Chain) -> None:
    chain.commit(report(chain))
    view = chain.view
    for block in chain.blocks:
        height = block.header.height
        assert view.block(height) == block
        assert view.header_at(height) == block.header
        assert view.height_of(block.block_hash) == height
    assert view.certificate(1) is not None
    for missing in (view.block(9), view.header_at(9), view.height_of(OTHER), view.certificate(9), view.location(OTHER)):
        assert missing is None
    assert view.tip == Tip.decode(view.tip.encode())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"chain_id": "other-net"}, "wrong_chain"),
        ({"height": 3}, "wrong_height"),
        ({"height": 1}, "wrong_height"),
        ({"previous_hash": OTHER}, "wrong_previous"),
        ({"time_ms": 0}, "time_backwards"),
        ({"proposer": OTHER}, "unknown_proposer"),
        ({"proposer_signature": b"\x00" * 64}, "bad_proposer_signature"),
        ({"signer": node_key(2)}, "bad_proposer_signature"),
        ({"proposer": node_key(2).public_key.key_id, "signer": node_key(2)}, "proposer_changed"),
        ({"term": 0}, "term_backwards"),
        ({"term": 2}, "missing_election"),
        ({"election_hash": OTHER}, "election_hash"),
        ({"transactions_root": OTHER}, "transactions_root"),
        ({"log_size": 99}, "log_size"),
        ({"log_root": OTHER}, "log_root"),
        ({"state_root": OTHER}, "state_root"),
        ({"validators_hash": OTHER}, "validators_hash"),
        ({"policy_hash": OTHER}, "policy_hash"),
    ],
)
def test_every_field_of_the_header_is_proven(chain: Chain, change: dict[str, object], code: str) -> None:
    """The forged block is honestly signed by the leader: only the field is wrong."""
    block = chain.build(register(chain, "web2@acme")).block
    assert refusal(chain, chain.forge(block, **change)).code == f"ledger.block.{code}"


def test_transactions_cannot_be_dropped_doubled_reordered_or_added(chain: Chain) -> None:
    one, two, three = report(chain, b"1"), report(chain, b"2"), report(chain, b"3")
    block = chain.build(one, two).block
    for raws, code in (
        ((one.raw,), "transactions_root"),
        ((two.raw, one.raw), "transactions_root"),
        ((one.raw, three.raw), "transactions_root"),
        ((one.raw, two.raw, three.raw), "transactions_root"),
        ((one.raw, one.raw), "transaction"),
        ((one.raw, b"\xc0"), "transaction"),
    ):
        assert refusal(chain, chain.forge(block, transactions=raws)).code == f"ledger.block.{code}"


def test_a_refused_transaction_is_named(chain: Chain) -> None:
    good, bad = report(chain), report(chain, chain_id="other-net")
    block = chain.build(good).block
    error = refusal(chain, chain.forge(block, transactions=(good.raw, bad.raw)))
    assert error.code == "ledger.block.transaction"
    assert dict(error.details) == {"index": 1, "tx_id": bad.tx_id.hex(), "cause": "ledger.tx.wrong_chain"}
    error = refusal(chain, chain.forge(block, transactions=(good.raw, b"garbage")))
    assert (error.details["index"], error.details["cause"]) == (1, "ledger.tx.malformed")


def test_time_is_bounded_ahead_for_followers_and_free_for_replays(chain: Chain) -> None:
    block = chain.build().block
    time_ms = block.header.time_ms
    assert execute_block(chain.store, block, now_ms=time_ms - 60_000)
    assert refusal(chain, block, now_ms=time_ms - 60_001).code == "ledger.block.time_ahead"
    assert execute_block(chain.store, block, now_ms=None)


def test_a_leader_whose_clock_is_behind_takes_the_time_of_the_block_before(chain: Chain) -> None:
    block = chain.build(time_ms=5).block
    assert block.header.time_ms == chain.blocks[-1].header.time_ms
    assert execute_block(chain.store, block, now_ms=None)


def test_a_new_term_begins_with_the_election_of_its_proposer(chain: Chain) -> None:
    chain.elect(2)
    block = chain.build().block
    assert block.election is not None
    assert block.header.proposer == node_key(3).public_key.key_id
    chain.apply(block)
    second = chain.build().block
    assert second.election is None
    chain.apply(second)


def test_elections_are_proven(chain: Chain) -> None:
    genesis_block, parent = chain.blocks[0], chain.blocks[-1]
    leader, voters = node_key(3), [node_key(index) for index in (1, 2, 3)]
    chain.elect(2)
    block = chain.build().block

    def forged(election: bytes | None, **changes: object) -> str:
        changes.setdefault("election_hash", hash_election(election))
        return refusal(chain, chain.forge(block, election=election, **changes)).code.removeprefix("ledger.block.")

    chain_id = chain.genesis.chain_id
    assert forged(make_election(chain_id, voters[:2], 2, leader, parent)) == "bad_election"
    assert forged(make_election(chain_id, [*voters[:2], key_of("x")], 2, leader, parent)) == "bad_election"
    assert forged(make_election("other-net", voters, 2, leader, parent)) == "bad_election"
    assert forged(b"garbage") == "bad_election"
    assert forged(make_election(chain_id, voters, 3, leader, parent)) == "election_term"
    assert forged(make_election(chain_id, voters, 2, node_key(2), parent)) == "election_candidate"
    assert forged(make_election(chain_id, voters, 2, leader, genesis_block)) == "election_parent"
    assert forged(None) == "missing_election"
    valid = make_election(chain_id, voters, 2, leader, parent)
    assert forged(valid, election_hash=ZERO_DIGEST) == "election_hash"
    honest = chain.forge(block, election=valid, election_hash=hash_election(valid))
    assert execute_block(chain.store, honest, now_ms=None)


def test_an_election_certificate_has_no_place_later_in_a_term(chain: Chain) -> None:
    election = make_election(chain.genesis.chain_id, chain.voters, 1, node_key(1), chain.blocks[-1])
    block = chain.forge(chain.build().block, election=election, election_hash=hash_election(election))
    assert refusal(chain, block).code == "ledger.block.unexpected_election"


def test_a_transaction_executes_once_for_ever(chain: Chain) -> None:
    transaction = report(chain)
    built = chain.build(transaction, transaction)
    assert [error.code for _, error in built.refused] == ["ledger.tx.duplicate"]
    chain.apply(built.block)
    assert chain.refusal(transaction).code == "ledger.tx.duplicate"
    for _ in range(3):
        chain.commit()
    assert chain.refusal(transaction).code == "ledger.tx.duplicate"


def tampered(transaction: Transaction) -> Transaction:
    """Return the transaction with another signature: the same tx_id, another leaf."""
    values = decode_untrusted(transaction.raw, bytes_max=10**6)
    assert isinstance(values, tuple)
    signature = transaction.signature[:-1] + bytes([transaction.signature[-1] ^ 1])
    return decode_transaction_untrusted(encode((*values[:8], signature)))


def test_a_bad_signature_is_refused_by_everybody(chain: Chain) -> None:
    bad = tampered(report(chain))
    assert chain.refusal(bad).code == "ledger.tx.bad_signature"


def test_a_signature_verified_once_does_not_vouch_for_another_with_the_same_tx_id(chain: Chain) -> None:
    """A leader who swaps the signature of a transaction that the follower has verified must not get it through."""
    good = report(chain)
    bad = tampered(good)
    assert bad.tx_id == good.tx_id
    assert bad.leaf_hash != good.leaf_hash
    block = chain.forge(chain.build(good).block, transactions=(bad.raw,))
    for verified in ({good.leaf_hash}, {good.tx_id}):
        error = refusal(chain, block, verified=verified)
        assert error.details["cause"] == "ledger.tx.bad_signature"


def test_verified_transactions_are_not_verified_again(chain: Chain) -> None:
    bad = tampered(report(chain))
    built = build_block(
        chain.store,
        [bad],
        term=1,
        time_ms=0,
        proposer=node_key(1),
        election=None,
        verified={bad.leaf_hash},
    )
    assert built.executed.tx_ids == (bad.tx_id,)
    assert execute_block(chain.store, built.block, now_ms=None, verified={bad.leaf_hash}) == built.executed


def test_signature_jobs_leave_out_unknown_keys(chain: Chain) -> None:
    known, bad, unknown = report(chain), tampered(report(chain)), report(chain, key=key_of("stranger"))
    jobs = signature_jobs(chain.store, [known, bad, unknown, known])
    assert [job.leaf_hash for job in jobs] == [known.leaf_hash, bad.leaf_hash, known.leaf_hash]
    assert check_signatures(jobs) == (True, False, True)
    key = chain.view.key(known.signer_key_id)
    assert key is not None
    assert jobs[0] == signature_job(known, key) == signature_job(known, key.public_key)


def test_a_key_registered_in_a_block_signs_later_in_the_same_block(chain: Chain) -> None:
    new = register(chain, "web9@acme")
    first = chain.sign(bodies.HostReport("inventory", "site", b""), "web9@acme")
    assert chain.refusal(first).code == "ledger.tx.unknown_signer"
    executed = chain.commit(new, first)
    assert executed.tx_ids == (new.tx_id, first.tx_id)


def test_decoded_transactions_may_be_passed_on(chain: Chain) -> None:
    block = chain.build(report(chain), report(chain)).block
    decoded = [decode_transaction_untrusted(raw) for raw in block.transactions]
    assert execute_block(chain.store, block, now_ms=None, decoded=decoded).transactions == tuple(decoded)


def test_overlays_stack_like_committed_blocks(chain: Chain) -> None:
    """Three blocks executed on overlays give the same rows as three committed ones, and dropping them leaves no trace."""
    before = chain.store.dump()
    reader: object = chain.store
    pipelined = []
    parent = chain.blocks[-1]
    for name in ("web2@acme", "web3@acme", "web4@acme"):
        built = build_block(
            reader,  # type: ignore[arg-type]
            [register(chain, name), report(chain, name.encode())],
            term=1,
            time_ms=parent.header.time_ms + 1,
            proposer=node_key(1),
            election=None,
        )
        executed = execute_block(reader, built.block, now_ms=None)  # type: ignore[arg-type]
        assert executed == built.executed
        reader = Overlay(reader, executed.writes)  # type: ignore[arg-type]
        pipelined.append(executed)
        parent = built.block
    view = StateView(reader)  # type: ignore[arg-type]
    assert view.height == 4
    assert view.identity("web4@acme") is not None
    assert chain.store.dump() == before
    for executed in pipelined:
        assert chain.apply(executed.block, certify=False).writes == executed.writes
    assert chain.view.tip == view.tip


def test_overlays_hide_what_they_remove() -> None:
    store = MemoryStore()
    store.apply({(Table.META, b"a"): b"1", (Table.META, b"b"): b"2"})
    overlay = Overlay(store, {(Table.META, b"a"): None})
    top = Overlay(overlay, {(Table.META, b"b"): b"3"})
    assert [top.get(Table.META, key) for key in (b"a", b"b", b"c")] == [None, b"3", None]
    store.apply({(Table.META, b"a"): None})
    assert list(store.iterate(Table.META, b"", b"z")) == [(b"b", b"2")]


def test_blocks_are_filled_in_order_up_to_their_limits() -> None:
    chain = Chain(make_genesis(limits={"block_transactions_max": 3}))
    chain.register("web1@acme", "host")
    transactions = [report(chain, b"%d" % index) for index in range(5)]
    bad = report(chain, chain_id="other-net")
    built = chain.build(bad, *transactions)
    assert built.executed.transactions == tuple(transactions[:3])
    assert built.left == tuple(transactions[3:])
    assert [each for each, _ in built.refused] == [bad]
    block = chain.forge(built.block, transactions=tuple(each.raw for each in transactions[:4]))
    assert refusal(chain, block).code == "ledger.block.too_many_transactions"


def test_blocks_are_bounded_in_bytes() -> None:
    kibibyte = 1024
    chain = Chain(make_genesis(limits={"block_bytes_max": 64 * kibibyte, "transaction_bytes_max": 8 * kibibyte}))
    chain.register("web1@acme", "host")
    transactions = [report(chain, bytes([index]) * 4000) for index in range(20)]
    built = chain.build(*transactions)
    assert 14 <= len(built.executed.transactions) <= 15
    assert len(built.block.raw) <= 64 * kibibyte
    assert built.executed.transactions + built.left == tuple(transactions)
    block = chain.forge(built.block, transactions=tuple(each.raw for each in transactions))
    assert refusal(chain, block).code == "ledger.block.too_large"
    key = key_of("web2@acme").public_key.spki
    chains = (b"x" * 8 * kibibyte,)
    long = bodies.IdentityRegister("web2@acme", "Name", ("host",), key, chains)
    assert chain.refused(long, "ada@acme") == "ledger.tx.too_large"


def test_admission_answers_like_a_single_check_and_reads_no_later_state(chain: Chain) -> None:
    admission = Admission(chain.store)
    good, bad = report(chain), tampered(report(chain))
    admission.check(good, verified=False)
    admission.check(good, verified=False)
    admission.check(bad, verified=True)
    with pytest.raises(RejectedError) as refused:
        admission.check(bad, verified=False)
    assert refused.value.code == "ledger.tx.bad_signature"


def test_a_store_without_a_chain_is_corruption() -> None:
    for ask in (
        lambda view: view.tip,
        lambda view: view.genesis_document,
        lambda view: view.validators(),
        lambda view: view.network,
    ):
        with pytest.raises(LedgerCorruptionError) as error:
            ask(StateView(MemoryStore()))
        assert error.value.code in ("ledger.corruption.no_genesis", "ledger.corruption.missing")


def test_unreadable_rows_are_corruption(chain: Chain) -> None:
    tip_raw = chain.store.get(Table.META, b"tip")
    assert tip_raw is not None
    chain.store.apply(
        {
            (Table.META, b"tip"): b"\xc0",
            (Table.STATE, b"iada@acme"): b"\x91\x01",
            (Table.STATE, b"oacme"): b"\xc1",
            (Table.STATE, b"v"): encode((2, ())),
        }
    )
    for ask, code in (
        (lambda view: view.tip, "tip"),
        (lambda view: view.identity("ada@acme"), "record"),
        (lambda view: view.organisation("acme"), "record"),
        (lambda view: view.validators(), "record"),
    ):
        with pytest.raises(LedgerCorruptionError) as error:
            ask(chain.view)
        assert error.value.code == f"ledger.corruption.{code}"


def test_certificates_of_the_testkit_are_what_validators_make(chain: Chain) -> None:
    block = chain.blocks[-1]
    assert make_certificate("test-net", chain.voters, block) == chain.certificate(block)
    assert chain.store.get(Table.CERTIFICATE, height_key(1)) is not None


DETERMINISM = """
from ledger import bodies
from ledger.actions import SetPolicy
from tests.testkit import patches
from tests.testkit.ledger import Chain
chain = Chain()
chain.register_patch_people()
data = patches.approve(patches.add_test_result(patches.make_patch()))
chain.publish(data)
chain.attest(data, "bob@beta")
chain.register("eve@acme", "administrator", "attestor:b", "attestor:a", "developer")
proposal = chain.submit(bodies.ProposalCreate(SetPolicy("", ()), "x"), "ada@acme").tx_id
for voter in ("ada@acme", "ben@beta"):
    chain.submit(bodies.ProposalVote(proposal, True), voter)
chain.commit(*(chain.sign(bodies.HostReport("drift", f"t{i}", b""), "web1@acme") for i in range(20)))
rows = chain.store.dump()
print(chain.blocks[-1].block_hash.hex(), hash("a") != 0)
print([(int(t), k.hex(), v.hex()) for (t, k), v in rows.items()].__repr__().__len__())
import hashlib
print(hashlib.sha256(repr(list(rows.items())).encode()).hexdigest())
"""


def test_execution_does_not_depend_on_the_hash_seed(repository_root: Path) -> None:
    """Replicas with different PYTHONHASHSEED write the same rows in the same order."""
    outputs = set()
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        result = subprocess.run(
            [sys.executable, "-c", DETERMINISM],
            cwd=repository_root,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        outputs.add(result.stdout)
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == 4


def test_blocks_of_garbage_are_refused(chain: Chain) -> None:
    block = chain.build(report(chain)).block
    values = decode_untrusted(block.raw, bytes_max=BLOCK_BYTES_MAX)
    assert isinstance(values, tuple)
    header, transactions, signature, election = values
    assert isinstance(header, tuple)
    for raw, cause in (
        (b"", "wire.codec.malformed"),
        (block.raw + b"\xc0", "wire.codec.malformed"),
        (encode((header, transactions, signature)), "wire.field.length"),
        (encode(((2, *header[1:]), transactions, signature, election)), "wire.field.range"),
        (encode((header[:-1], transactions, signature, election)), "wire.field.length"),
        (encode((header, (1,), signature, election)), "wire.field.bytes"),
        (encode((header, transactions, b"s" * 73, election)), "wire.field.length"),
        (encode((header, transactions, signature, 5)), "wire.field.bytes"),
    ):
        with pytest.raises(BlockRefusedError) as refused:
            decode_block_untrusted(raw)
        assert refused.value.code == "ledger.block.malformed"
        assert refused.value.details["cause"] == cause
    with pytest.raises(BlockRefusedError) as refused:
        decode_block_untrusted(bytes(BLOCK_BYTES_MAX + 1))
    assert refused.value.code == "ledger.block.too_large"
    with pytest.raises(BlockRefusedError) as refused:
        decode_block_untrusted(encode((header, (b"",) * 1001, signature, election)))
    assert refused.value.code == "ledger.block.too_many_transactions"


def test_every_header_field_has_its_rule(chain: Chain) -> None:
    header = chain.blocks[-1].header
    values = header.to_value()
    assert type(header).from_value_untrusted(values) == header
    for position in range(len(values)):
        broken = (*values[:position], None, *values[position + 1 :])
        with pytest.raises(RejectedError):
            type(header).from_value_untrusted(broken)
    assert replace(header, height=7).hash() != header.hash()
