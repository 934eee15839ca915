"""Clients of the core's Unix socket: a blocking one for commands, an asyncio one for the gateway process.

Both raise what the core raised: the same family, code, sentence and hint.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from node.local.protocol import (
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    Json,
    decode_message_untrusted,
    encode_message,
    error_from_json,
)
from wire.errors import UnavailableError

CALL_TIMEOUT_S: Final = 60.0
"""How long a blocking call waits for its answer unless the caller says otherwise."""


def _unavailable(path: Path, reason: str) -> UnavailableError:
    return UnavailableError(
        "node.local.unreachable",
        f"no node answers at {path}: {reason}",
        hint="start it with `patchwarden node start`",
    )


class LocalClient:
    """A blocking connection to a core; one request at a time."""

    def __init__(self, path: Path, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Connect to the socket at `path`.

        Raises:
            UnavailableError: Nothing listens there (`node.local.unreachable`).
        """
        self._path = path
        self._ids = itertools.count(1)
        self.patience: Callable[[], bool] | None = None
        """Asked whether to go on waiting when nothing came for `timeout_s`; None never waits longer."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise _unavailable(path, error.strerror or "connection refused") from error

    def __enter__(self) -> LocalClient:
        """Return this client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._socket.close()

    def call(self, method: str, more: Mapping[str, Json] | None = None, **params: Json) -> Json:
        """Return the core's result; `more` takes parameters whose names are words of Python.

        Raises:
            PatchwardenError: What the core raised.
            UnavailableError: The connection broke (`node.local.unreachable`).
        """
        result = None
        for kind, value in self._exchange(method, {**params, **(more or {})}):
            if kind == "result":
                result = value
        return result

    def stream(self, method: str, **params: Json) -> Iterator[Json]:
        """Yield the events of a subscription until the core ends it or the caller stops iterating.

        Raises:
            PatchwardenError: What the core raised.
        """
        for kind, value in self._exchange(method, params):
            if kind == "event":
                yield value

    def _exchange(self, method: str, params: dict[str, Json]) -> Iterator[tuple[str, Json]]:
        number = next(self._ids)
        try:
            self._socket.sendall(encode_message({"id": number, "method": method, "params": params}))
            while True:
                message = decode_message_untrusted(self._read_frame())
                if message.get("id") != number:
                    continue
                if "error" in message:
                    raise error_from_json(message["error"])
                if "event" in message:
                    yield "event", message["event"]
                    continue
                yield "result", message.get("result")
                return
        except OSError as error:
            raise _unavailable(self._path, error.strerror or "the connection broke") from error

    def _read_frame(self) -> bytes:
        length = int.from_bytes(self._read_exactly(LENGTH_BYTES), "big")
        if length > FRAME_BYTES_MAX:
            raise _unavailable(self._path, "it sent an oversized frame")
        return self._read_exactly(length)

    def _read_exactly(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            try:
                part = self._socket.recv(min(count, 1 << 20))
            except TimeoutError:
                if self.patience is not None and self.patience():
                    continue
                raise
            if not part:
                raise _unavailable(self._path, "it closed the connection")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class AsyncLocalClient:
    """An asyncio connection to a core that carries many requests at once; it connects on use and again after a break."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids = itertools.count(1)
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Queue[dict[str, Json] | None]] = {}
        self._connecting = asyncio.Lock()

    async def call(
        self,
        method: str,
        more: Mapping[str, Json] | None = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        **params: Json,
    ) -> Json:
        """Return the core's result; `more` takes parameters whose names are words of Python.

        Raises:
            PatchwardenError: What the core raised; `UnavailableError` when it is not there or does not answer in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                async for message in self._messages(method, {**params, **(more or {})}):
                    if "result" in message:
                        return message["result"]
        except TimeoutError as error:
            raise UnavailableError("node.local.timeout", f"the core did not answer within {timeout_s:g} s") from error
        return None

    async def stream(self, method: str, **params: Json) -> AsyncIterator[Json]:
        """Yield the events of a subscription."""
        async for message in self._messages(method, params):
            if "event" in message:
                yield message["event"]

    async def close(self) -> None:
        """Close the connection; waiting callers get an `UnavailableError`."""
        if self._reader_task is not None:
            self._reader_task.cancel()
        self._drop()

    async def _messages(self, method: str, params: dict[str, Json]) -> AsyncIterator[dict[str, Json]]:
        await self._connect()
        number = next(self._ids)
        queue: asyncio.Queue[dict[str, Json] | None] = asyncio.Queue()
        self._waiting[number] = queue
        done = False
        try:
            await self._send({"id": number, "method": method, "params": params})
            while True:
                message = await queue.get()
                if message is None:
                    raise _unavailable(self._path, "it closed the connection")
                if "error" in message:
                    done = True
                    raise error_from_json(message["error"])
                done = "event" not in message
                yield message
                if done:
                    return
        finally:
            self._waiting.pop(number, None)
            if not done and self._writer is not None:
                # The core stops working for a caller who has gone: a subscription would otherwise run for ever.
                self._writer.write(encode_message({"id": number, "method": "cancel", "params": {}}))

    async def _send(self, message: dict[str, Json]) -> None:
        writer = self._writer
        if writer is None:
            raise _unavailable(self._path, "it closed the connection")
        try:
            writer.write(encode_message(message))
            await writer.drain()
        except OSError as error:
            raise _unavailable(self._path, error.strerror or "the connection broke") from error

    async def _connect(self) -> None:
        async with self._connecting:
            if self._writer is not None:
                return
            try:
                reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=1 << 20)
            except OSError as error:
                raise _unavailable(self._path, error.strerror or "connection refused") from error
            self._reader_task = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
                if length > FRAME_BYTES_MAX:
                    return
                message = decode_message_untrusted(await reader.readexactly(length))
                queue = self._waiting.get(message.get("id", 0))
                if queue is not None:
                    queue.put_nowait(message)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            self._drop()

    def _drop(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        for queue in self._waiting.values():
            queue.put_nowait(None)
