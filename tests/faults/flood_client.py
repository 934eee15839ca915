"""A client that submits as much as it can over many connections and does not heed what it is told; counts how it is answered.

python -m tests.faults.flood_client --chain live-net --signers f1@acme,f2@acme --seconds 10 URL…

It prints one JSON object: answers by status and code, how many of them lacked the `Retry-After` that they must have, transactions admitted,
and connections that broke without an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from ledger import bodies
from ledger.transaction import build_transaction
from tests.testkit.ledger import key_of

BODY_BYTES: Final = 300
NOT_AFTER_HEIGHTS: Final = 50_000
ASKED_BACK: Final = frozenset({429, 503})
"""Statuses of an overloaded node; each must say when to come back."""
RECONNECT_S: Final = 0.05


@dataclass
class Answers:
    """How a flood was answered."""

    statuses: Counter[str] = field(default_factory=Counter)
    """By status, with the code where there is one: ``200``, ``503 ledger.mempool.full``."""
    results: Counter[str] = field(default_factory=Counter)
    """Transactions in answers with 200, by status and code."""
    without_retry_after: int = 0
    broken: int = 0
    """Connections that ended without an answer."""

    def unexpected(self) -> dict[str, int]:
        """Return the answers that are neither success nor a request to come back later."""
        allowed = ("200", *(str(status) for status in ASKED_BACK))
        return {text: count for text, count in self.statuses.items() if text.split(" ")[0] not in allowed}


@dataclass(frozen=True, slots=True)
class _Flood:
    """What every connection of a flood sends."""

    chain_id: str
    signers: tuple[str, ...]
    batch: int
    until: float
    """Monotonic seconds."""
    answers: Answers

    async def send(self, url: str) -> None:
        """Submit to one node over one connection at a time, until it is over."""
        parts = urlsplit(url)
        signers = itertools.cycle(self.signers)
        while time.monotonic() < self.until:
            try:
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            except OSError:
                self.answers.broken += 1
                await asyncio.sleep(RECONNECT_S)
                continue
            try:
                while time.monotonic() < self.until:
                    writer.write(_request(self.chain_id, next(signers), self.batch))
                    await writer.drain()
                    if not await _take_answer(reader, self.answers):
                        break
            except (OSError, asyncio.IncompleteReadError):
                self.answers.broken += 1
            finally:
                writer.close()


def _request(chain_id: str, signer: str, batch: int) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    transactions = []
    for _ in range(batch):
        body = bodies.HostReport("inventory", "flood", os.urandom(BODY_BYTES))
        transaction = build_transaction(
            chain_id, body.KIND, body, key_of(signer), os.urandom(16), NOT_AFTER_HEIGHTS, now_ms
        )
        transactions.append(base64.b64encode(transaction.raw).decode("ascii"))
    content = json.dumps({"transactions": transactions, "wait": "none", "timeout_ms": 5000}).encode("ascii")
    head = f"POST /v1/transactions HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode("ascii") + content


async def _take_answer(reader: asyncio.StreamReader, answers: Answers) -> bool:
    """Count an answer; return whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    document = json.loads(await reader.readexactly(int(headers["content-length"])))
    answers.statuses[f"{status} {document['code']}" if "code" in document else str(status)] += 1
    if status in ASKED_BACK and "retry-after" not in headers:
        answers.without_retry_after += 1
    for result in document.get("results", ()):
        answers.results[f"{result['status']} {(result['error'] or {'code': ''})['code']}".strip()] += 1
    return headers.get("connection") != "close"


async def flood(
    urls: Sequence[str], *, chain_id: str, signers: Sequence[str], connections: int, batch: int, seconds: float
) -> Answers:
    """Return how the nodes answered so many connections to each of them."""
    answers = Answers()
    sending = _Flood(chain_id, tuple(signers), batch, time.monotonic() + seconds, answers)
    async with asyncio.TaskGroup() as group:
        for url in urls:
            for _ in range(connections):
                group.create_task(sending.send(url))
    return answers


def main() -> None:
    """Flood and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.flood_client")
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--chain", required=True)
    parser.add_argument("--signers", required=True)
    parser.add_argument("--connections", type=int, default=32, help="to each node")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    answers = asyncio.run(
        flood(
            arguments.urls,
            chain_id=arguments.chain,
            signers=arguments.signers.split(","),
            connections=arguments.connections,
            batch=arguments.batch,
            seconds=arguments.seconds,
        )
    )
    print(json.dumps(vars(answers)))


if __name__ == "__main__":
    main()
