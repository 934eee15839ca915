"""What the ledger costs by itself, without disk, network and consensus: `python -m tests.bench.bench_ledger`.

The transaction is a host.report with a body of 300 bytes, in blocks of 250. Medians over the blocks, in microseconds of
processor time a transaction; a calibration line (one Ed25519 verification) stands beside them, because shared machines switch speed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from ledger import bodies
from ledger.audit import Auditor, Verifier, verify_here
from ledger.block import decode_block_untrusted
from ledger.keyspace import MemoryStore
from ledger.state_tree import update
from ledger.transaction import SignatureJob, Transaction, decode_transaction_untrusted
from ledger.transition import Admission, execute_block
from node.cli.verify_pool import VerifyPool
from tests.bench import machine
from tests.testkit.ledger import Chain, key_of
from wire.certificate import encode_commit_certificate

BLOCKS = 80
TRANSACTIONS = 250
PAYLOAD_BYTES = 300
HOSTS = tuple(f"web{index}@acme" for index in range(8))
TREE_KEYS = 100_000
TREE_BATCHES = (1, 10, 250)
ROUNDS = 9


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


def main() -> None:
    print(f"load {machine.load_average():.2f}, one Ed25519 verification {machine.verify_us():.1f} µs")
    chain = measure_blocks()
    measure_registrations()
    measure_tree()
    measure_audit(chain)


if __name__ == "__main__":
    main()
