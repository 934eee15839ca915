"""A client that costs little: the machine has two cores, and what the client burns the network does not have."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Self
from urllib.parse import urlsplit

from ledger.transaction import Transaction


class LeanClient:
    """One kept connection, one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes) -> bytes:
        """Return the body of the answer."""
        head = f"POST {path} HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode("ascii") + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in answer.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        return await self._reader.readexactly(length)


def submission(transactions: Sequence[Transaction]) -> bytes:
    """Return the body that submits the transactions and waits for their commit."""
    encoded = [base64.b64encode(transaction.raw).decode("ascii") for transaction in transactions]
    return json.dumps({"transactions": encoded, "wait": "committed", "timeout_ms": 60_000}).encode("ascii")
