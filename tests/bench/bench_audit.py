"""How fast and in how much memory an audit replays an archive: `python -m tests.bench.bench_audit make|measure …`.

`make FILE` writes the archive of a chain of signed host reports with a body of 300 bytes, in blocks of 250, certified by four validators;
`measure FILE` replays it as the command line does and shows rates beside the library's bare verification on both cores, and the memory of
the auditing process. With `--deployments` half of the transactions are intents and half outcomes, which make the state grow.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ledger import bodies
from ledger.archive import ArchiveEncoder
from ledger.keyspace import Table
from ledger.transaction import Transaction
from ledger.transition import execute_block
from tests.bench import machine
from tests.testkit import patches
from tests.testkit.ledger import Chain
from wire.certificate import encode_commit_certificate

TRANSACTIONS = 250
PAYLOAD_BYTES = 300
HOSTS = tuple(f"web{index}@acme" for index in range(8))
KEPT = frozenset({Table.META, Table.STATE, Table.STATE_NODE, Table.TX_INDEX, Table.CONFIGURATION})
REPOSITORY = Path(__file__).resolve().parents[2]


def make(path: Path, count: int, per_block: int, *, deployments: bool = False) -> None:
    """Write the archive of a chain of at least `count` transactions; only one block at a time is held in memory."""
    chain = Chain()
    chain.register_patch_people()
    for host in HOSTS:
        if chain.view.identity(host) is None:
            chain.register(host, "host")
    data = patches.approve(patches.make_patch())
    patch_id = chain.publish(data)
    encoder = ArchiveEncoder()
    made = 0
    with path.open("wb") as stream:
        stream.write(encoder.begin(chain.genesis.document))
        for block in chain.blocks[1:]:
            stream.write(encoder.block(block.raw, encode_commit_certificate(chain.certificate(block))))
            made += len(block.transactions)
        while made < count:
            transactions = _deployments(chain, patch_id, per_block) if deployments else _reports(chain, per_block)
            built = chain.build(*transactions, verified=frozenset(each.leaf_hash for each in transactions))
            assert len(built.block.transactions) == len(transactions), built.refused[:1]
            writes = {key: value for key, value in built.executed.writes.items() if key[0] in KEPT}
            chain.store.apply(writes)
            chain.blocks[1:] = [built.block]
            stream.write(encoder.block(built.block.raw, encode_commit_certificate(chain.certificate(built.block))))
            made += len(transactions)
        stream.write(encoder.end())
    # One that `make` builds is also one that a follower takes.
    execute_block(chain.store, chain.build().block, now_ms=None)
    print(f"{made} transactions in {chain.height} blocks, {path.stat().st_size / 1e6:.1f} MB")


def _reports(chain: Chain, count: int) -> list[Transaction]:
    body = bodies.HostReport("inventory", "site", bytes(PAYLOAD_BYTES))
    return [chain.sign(body, HOSTS[index % len(HOSTS)]) for index in range(count)]


def _deployments(chain: Chain, patch_id: bytes, count: int) -> list[Transaction]:
    state = {}
    for host in HOSTS:
        record = chain.view.host(host)
        state[host] = (record.counter, record.last_tx_id) if record else (0, bytes(32))
    transactions = []
    for index in range(count // 2):
        host = HOSTS[index % len(HOSTS)]
        counter, previous = state[host]
        before, after = bytes(32), (counter + 1).to_bytes(32, "big")
        intent = chain.sign(bodies.DeploymentIntent(counter + 1, previous, "site", patch_id, before, b"{}"), host)
        body = bodies.DeploymentOutcome(
            counter + 2, intent.tx_id, "site", patch_id, intent.tx_id, "SUCCESS", before, after, b"{}"
        )
        outcome = chain.sign(body, host)
        state[host] = (counter + 2, outcome.tx_id)
        transactions += [intent, outcome]
    return transactions


@dataclass(frozen=True)
class Run:
    """One replay by the command."""

    seconds: float
    """From start to end of the command."""
    processor_seconds: float
    """Of all its processes."""
    peak_mib: float
    """The most resident memory that its largest process had."""
    transactions: int
    blocks: int


def replay(path: Path, level: str, jobs: int, options: list[str]) -> Run:
    """Replay the archive once; it must hold."""
    arguments = ["audit", "replay", "--archive", str(path), "--level", level, "--jobs", str(jobs), *options]
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "node.cli", *arguments, "-o", "json"], stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as process:
        assert process.stdout is not None
        answer = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    document = json.loads(answer)
    assert document["valid"], document["findings"][:3]
    return Run(
        seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, document["transactions"], document["blocks"]
    )


def measure(path: Path, levels: list[str], rounds: int, jobs: int, options: list[str]) -> None:
    """Replay the archive at each level and show rates, the ratio to bare verification, and memory."""
    for level in levels:
        runs, shares = [], []
        for _ in range(rounds):
            verify = 2e6 / machine.verify_us()
            runs.append(replay(path, level, jobs, options))
            shares.append(runs[-1].transactions / runs[-1].seconds / verify)
        run = sorted(runs, key=lambda each: each.seconds)[len(runs) // 2]
        print(
            f"{level:<11} {run.transactions} transactions, {run.blocks} blocks: {run.transactions / run.seconds:,.0f} tx/s,"
            f" {run.blocks / run.seconds:,.0f} blocks/s, {run.processor_seconds / run.transactions * 1e6:.1f} µs of processor time"
            f" a transaction, {statistics.median(shares):.2f} of bare verification on both cores,"
            f" peak {max(each.peak_mib for each in runs):.0f} MiB (load {machine.load_average():.1f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_audit")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("file", type=Path)
    making.add_argument("--transactions", type=int, default=100_000)
    making.add_argument("--per-block", type=int, default=TRANSACTIONS)
    making.add_argument("--deployments", action="store_true")
    measuring = commands.add_parser("measure")
    measuring.add_argument("file", type=Path)
    measuring.add_argument("--level", action="append", choices=["headers", "signatures", "full"])
    measuring.add_argument("--rounds", type=int, default=3)
    measuring.add_argument("--jobs", type=int, default=2)
    measuring.add_argument("--resume", type=Path, help="keep in this file how far each replay is")
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.file, arguments.transactions, arguments.per_block, deployments=arguments.deployments)
    else:
        options = [] if arguments.resume is None else ["--resume", str(arguments.resume)]
        measure(arguments.file, arguments.level or ["full"], arguments.rounds, arguments.jobs, options)


if __name__ == "__main__":
    main()
