"""What the ledger costs by itself, without disk, network and consensus: `python -m tests.bench.bench_ledger`.

The transaction is a host.report with a body of 300 bytes, in blocks of 250. Medians over the blocks, in microseconds of
processor time a transaction; a calibration line (one Ed25519 verification) stands beside them, because shared machines switch speed.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

from ledger import bodies
from ledger.audit import Auditor, Verifier, verify_here
from ledger.block import decode_block_untrusted
from ledger.checkpoint import Checkpoint, build_checkpoint, checkpoint_from_text_untrusted
from ledger.configuration import Configuration
from ledger.consistency import ConsistencyProof, build_consistency
from ledger.cose_receipt import (
    build_cose_receipts,
    decode_cose_receipts_untrusted,
    sign_log_root,
    verify_cose_receipts,
)
from ledger.execution import block_writes
from ledger.genesis import Genesis
from ledger.keyspace import MemoryStore, Table, height_key
from ledger.light import LightClient
from ledger.proofs import Receipt, verify_receipt
from ledger.state import Tip
from ledger.state_proof import CertifiedStateProof, build_certified_state_proof, verify_certified_state_proof
from ledger.state_tree import update
from ledger.transaction import SignatureJob, Transaction, decode_transaction_untrusted
from ledger.transition import Admission, execute_block
from node.cli.verify_pool import VerifyPool
from tests.bench import machine
from tests.testkit.ledger import Chain, key_of
from wire.certificate import encode_commit_certificate
from wire.hashing import sha256
from wire.merkle import leaf_hash, root_from_inclusion

BLOCKS = 80
TRANSACTIONS = 250
PAYLOAD_BYTES = 300
HOSTS = tuple(f"web{index}@acme" for index in range(8))
TREE_KEYS = 100_000
TREE_BATCHES = (1, 10, 250)
ROUNDS = 9
LOG_SIZE = 1_000_000
PATH_HASHES = 20
"""As many as an inclusion proof has in a log of `LOG_SIZE`."""


def microseconds(count: int, work: Callable[..., object], *arguments: object, **named: object) -> float:
    """Return the processor time that `work` takes for each of `count` things; others at work on the machine do not count."""
    start = time.process_time_ns()
    work(*arguments, **named)
    return (time.process_time_ns() - start) / 1e3 / count


def show(name: str, value: float, unit: str = "µs") -> None:
    print(f"  {name:<52} {value:>10,.1f} {unit}", flush=True)


def reports(chain: Chain) -> list[Transaction]:
    body = bodies.HostReport("inventory", "site", bytes(PAYLOAD_BYTES))
    return [chain.sign(body, HOSTS[index % len(HOSTS)]) for index in range(TRANSACTIONS)]


def decode_all(raws: list[bytes]) -> None:
    for raw in raws:
        decode_transaction_untrusted(raw)


def admit_all(admission: Admission, transactions: list[Transaction]) -> None:
    for transaction in transactions:
        admission.check(transaction, verified=True)


def receive(chain: Chain, raw: bytes, verified: frozenset[bytes]) -> None:
    execute_block(chain.store, decode_block_untrusted(raw), now_ms=None, verified=verified)


def measure_blocks() -> Chain:
    """Show what a transaction costs besides its signature, and return the chain."""
    chain = Chain()
    for host in HOSTS:
        chain.register(host, "host")
    times: dict[str, list[float]] = {"decode": [], "admit": [], "build": [], "execute a received block": []}
    for _ in range(BLOCKS):
        transactions = reports(chain)
        verified = frozenset(each.leaf_hash for each in transactions)
        times["decode"].append(microseconds(TRANSACTIONS, decode_all, [each.raw for each in transactions]))
        times["admit"].append(microseconds(TRANSACTIONS, admit_all, Admission(chain.store), transactions))
        times["build"].append(microseconds(TRANSACTIONS, chain.build, *transactions, verified=verified))
        raw = chain.build(*transactions, verified=verified).block.raw
        times["execute a received block"].append(microseconds(TRANSACTIONS, receive, chain, raw, verified))
        executed = chain.apply(decode_block_untrusted(raw))
    for name, values in times.items():
        show(f"{name}, signatures aside", statistics.median(values))
    show("rows to write", len(executed.writes) / TRANSACTIONS, "")
    show("bytes to write", sum(len(value or b"") for value in executed.writes.values()) / TRANSACTIONS, "")
    return chain


def measure_registrations() -> None:
    """Show what a transaction costs that changes the state tree."""
    chain = Chain()
    spkis = [key_of(f"key {index}").public_key.spki for index in range(10 * TRANSACTIONS)]
    costs = []
    for start in range(0, len(spkis), TRANSACTIONS):
        transactions = [
            chain.sign(bodies.IdentityRegister(f"p{start + index}@acme", "P", ("developer",), spki), "ada@acme")
            for index, spki in enumerate(spkis[start : start + TRANSACTIONS])
        ]
        verified = frozenset(each.leaf_hash for each in transactions)
        raw = chain.build(*transactions, verified=verified).block.raw
        costs.append(microseconds(TRANSACTIONS, receive, chain, raw, verified))
        chain.apply(decode_block_untrusted(raw))
    show("execute a block of registrations, signatures aside", statistics.median(costs))


def measure_tree() -> None:
    """Show what a changed key costs in a tree of `TREE_KEYS`."""
    store = MemoryStore()
    for start in range(0, TREE_KEYS, 1000):
        _, writes = update(store, {b"i%d" % index: b"v" for index in range(start, start + 1000)})
        store.apply(writes)
    for size in TREE_BATCHES:
        costs = []
        for turn in range(ROUNDS):
            changes: dict[bytes, bytes | None] = {
                b"i%d" % ((turn * size + index) * 7919 % TREE_KEYS): b"w" for index in range(size)
            }
            costs.append(microseconds(len(changes), update, store, changes))
        show(f"state tree of 100,000 keys, {size} changed together", statistics.median(costs))


def measure_proofs() -> None:
    """Show what proofs cost, and how long they are, in a state of `TREE_KEYS` and a log of `LOG_SIZE`."""
    chain = Chain()
    chain.register(HOSTS[0], "host")
    for start in range(0, TREE_KEYS, 1000):
        entries: dict[bytes, bytes | None] = {b"i%d" % index: b"v" for index in range(start, start + 1000)}
        root, writes = update(chain.store, entries)
        chain.store.apply(writes)
    block = chain.forge(chain.blocks[-1], state_root=root)
    view_writes = {(Table.CERTIFICATE, height_key(1)): encode_commit_certificate(chain.certificate(block))}
    chain.store.apply(
        {**block_writes(block, Tip(block.header, block.block_hash, chain.view.tip.frontier)), **view_writes}
    )
    for what, name in (("presence", HOSTS[0]), ("absence", "nobody@acme")):
        costs = [microseconds(1, build_certified_state_proof, chain.store, "identity", name) for _ in range(50)]
        show(f"state proof of {what}, build", statistics.median(costs))
        proof = build_certified_state_proof(chain.store, "identity", name)
        text = json.dumps(proof.to_json(), separators=(",", ":"))
        costs = [microseconds(1, verify_state_text, text, chain.genesis) for _ in range(50)]
        show(f"state proof of {what}, read and verify", statistics.median(costs))
        show(f"state proof of {what}, JSON", len(text), "bytes")
    entry = reports(chain)[0].raw
    path = tuple(sha256(b"%d" % level) for level in range(PATH_HASHES))
    log_root = root_from_inclusion(leaf_hash(entry), LOG_SIZE // 3, LOG_SIZE, path)
    block = chain.forge(block, log_size=LOG_SIZE, log_root=log_root)
    receipt = Receipt(entry, LOG_SIZE // 3, path, block.header, chain.certificate(block))
    text = json.dumps(receipt.to_json(), separators=(",", ":"))
    keys = chain.node_keys
    signatures = {key.public_key.key_id: sign_log_root(key, chain.genesis.chain_id, log_root) for key in keys}
    data = build_cose_receipts(receipt, Configuration(chain.genesis.validators), signatures).encode()
    show(f"receipt, JSON, read and verify, entry of {len(entry)} bytes", statistics.median(
        microseconds(1, verify_receipt_text, text, chain.genesis) for _ in range(50)))  # fmt: skip
    show("receipt, JSON", len(text), "bytes")
    show("receipt, COSE, read and verify", statistics.median(
        microseconds(1, verify_cose, data, chain.genesis) for _ in range(50)))  # fmt: skip
    show("receipt, COSE", len(data), "bytes")
    show("log root, sign once", statistics.median(
        microseconds(1, sign_log_root, keys[0], chain.genesis.chain_id, log_root) for _ in range(50)))  # fmt: skip


def verify_state_text(text: str, genesis: Genesis) -> None:
    verify_certified_state_proof(CertifiedStateProof.from_json_untrusted(json.loads(text)), genesis)


def verify_receipt_text(text: str, genesis: Genesis) -> None:
    verify_receipt(Receipt.from_json_untrusted(json.loads(text)), genesis)


def verify_cose(data: bytes, genesis: Genesis) -> None:
    verify_cose_receipts(decode_cose_receipts_untrusted(data), genesis)


def take_as_valid(jobs: Sequence[SignatureJob]) -> Callable[[], Sequence[bool]]:
    return lambda: [True] * len(jobs)


def measure_audit(chain: Chain) -> None:
    """Show how fast the chain replays."""
    certificates = [encode_commit_certificate(chain.certificate(block)) for block in chain.blocks]
    blocks = [(block.raw, raw) for block, raw in zip(chain.blocks, certificates, strict=True)][1:]
    count = sum(len(block.transactions) for block in chain.blocks)
    ways: Iterable[tuple[str, AbstractContextManager[Verifier]]] = (
        ("one process", nullcontext(verify_here)),
        ("transactions' signatures aside", nullcontext(take_as_valid)),
        ("two workers, their start included", VerifyPool(2)),
    )
    for name, way in ways:
        with way as verifier:
            auditor = Auditor(chain.genesis, verifier=verifier)
            start, start_cpu = time.perf_counter(), time.process_time()
            for block, certificate in blocks:
                auditor.feed(block, certificate)
            summary = auditor.finish()
            show(f"audit, {name}", count / (time.perf_counter() - start), "tx/s")
            show(f"audit, {name}: this process alone", (time.process_time() - start_cpu) / count * 1e6)
            assert summary.findings == ()
            assert summary.transactions == count


def measure_light() -> None:
    """What a light client spends on a header: when it follows every one, and when it skips from the first to the last."""
    chain = Chain()
    chain.register(HOSTS[0], "host")
    for _ in range(BLOCKS):
        chain.commit(chain.sign(bodies.HostReport("inventory", "site", b""), HOSTS[0]))
    shown = [build_checkpoint(chain.store, height) for height in range(1, chain.height + 1)]
    texts = [checkpoint.to_text() for checkpoint in shown]
    sizes = [block.header.log_size for block in chain.blocks]
    grew = [build_consistency(chain.store, before, after) for before, after in pairwise(sizes)]
    founded = LightClient.from_genesis(chain.genesis)
    show("checkpoint's text, read", median_cost(len(texts), read_checkpoints, texts))
    show("certified header followed, 3 signatures", median_cost(len(texts), follow_headers, founded, shown, grew))
    whole = build_consistency(chain.store, sizes[1], sizes[-1])
    total = median_cost(1, follow_headers, founded, [shown[0], shown[-1]], [whole, whole])
    show(f"{len(texts)} headers skipped in one step, each", total / len(texts))


def median_cost(count: int, work: Callable[..., object], *arguments: object) -> float:
    work(*arguments)
    return statistics.median(microseconds(count, work, *arguments) for _ in range(ROUNDS))


def read_checkpoints(texts: list[bytes]) -> None:
    for text in texts:
        checkpoint_from_text_untrusted(text)


def follow_headers(client: LightClient, shown: list[Checkpoint], grew: list[ConsistencyProof]) -> None:
    for checkpoint, consistency in zip(shown, grew, strict=True):
        client = client.advance(checkpoint, consistency)


def main() -> None:
    print(f"load {machine.load_average():.2f}, one Ed25519 verification {machine.verify_us():.1f} µs")
    chain = measure_blocks()
    measure_registrations()
    measure_tree()
    measure_proofs()
    measure_light()
    measure_audit(chain)


if __name__ == "__main__":
    main()
