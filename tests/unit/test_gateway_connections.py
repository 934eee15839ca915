"""Connections that ask nothing, or not to the end: closed in time, so that nobody can hold every place of the gateway."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from node.gateway.__main__ import server_config
from node.gateway.app import build_app
from node.gateway.limits import GatewayLimits

LIMITS = GatewayLimits(header_timeout_s=0.8, keep_alive_s=5)
REQUEST = b"GET /no/such/path HTTP/1.1\r\nHost: node\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def _serving(
    tmp_path: Path, limits: GatewayLimits = LIMITS
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, Connection]]]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = build_app(object(), token_path=tmp_path / "rpc.token", patches_path=tmp_path, limits=limits)  # type: ignore[arg-type]
    server = uvicorn.Server(server_config(app, limits))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    opened: list[Connection] = []

    async def connect() -> Connection:
        # The socket listens already: who comes before the server waits in the kernel.
        opened.append(await asyncio.open_connection(*listener.getsockname()))
        return opened[-1]

    try:
        yield connect
    finally:
        for _, writer in opened:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        server.should_exit = server.force_exit = True
        await task


async def _answer(connection: Connection) -> bytes:
    head = await connection[0].readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    await connection[0].readexactly(length)
    return head


async def _is_cut(connection: Connection) -> bool:
    try:
        return await connection[0].read(100) == b""
    except ConnectionError:
        return True


@pytest.mark.slow
def test_connections_that_do_not_ask_are_closed_and_others_are_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), _serving(tmp_path) as connect:
            warm = await connect()
            warm[1].write(REQUEST)
            await _answer(warm)
            silent, trickling, later, busy = [await connect() for _ in range(4)]
            later[1].write(REQUEST)
            assert (await _answer(later)).startswith(b"HTTP/1.1 404")
            later[1].write(b"GET /no/such/path HTTP/1.1\r\n")
            begin = asyncio.get_running_loop().time()
            cut = asyncio.gather(_is_cut(silent), _is_cut(trickling), _is_cut(later))
            trickled = b"GET /no/such/path HTTP/1.1\r\nHost: node\r\nX-Long: "
            while not cut.done():
                trickling[1].write(trickled[:1] or b"x")
                trickled = trickled[1:]
                if asyncio.get_running_loop().time() - begin > 0.3:
                    busy[1].write(REQUEST)
                    assert (await _answer(busy)).startswith(b"HTTP/1.1 404"), "who asks again and again stays"
                await asyncio.sleep(0.05)
            assert await cut == [True, True, True]
            assert asyncio.get_running_loop().time() - begin < 5
            busy[1].write(REQUEST * 2)
            assert (await _answer(busy)).startswith(b"HTTP/1.1 404")
            assert (await _answer(busy)).startswith(b"HTTP/1.1 404")

    asyncio.run(main())


@pytest.mark.slow
def test_connection_too_many_is_asked_to_come_back(tmp_path: Path) -> None:
    """Guarded by `BoundedConnection.connection_made`: uvicorn's own answer says neither why nor when to come back."""

    async def main() -> None:
        async with asyncio.timeout(20), _serving(tmp_path, GatewayLimits(connections_max=2)) as connect:
            first, second = await connect(), await connect()
            for connection in (first, second):
                connection[1].write(REQUEST)
                assert (await _answer(connection)).startswith(b"HTTP/1.1 404")
            third = await connect()
            third[1].write(REQUEST)
            head = await _answer(third)
            assert head.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in head.lower()
            assert b"application/problem+json" in head.lower()
            assert await _is_cut(third)
            first[1].write(REQUEST)
            assert (await _answer(first)).startswith(b"HTTP/1.1 404")

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize(("hard", "expected"), [(2000, 1500), (1200, 1200)])
def test_the_gateway_may_open_as_many_files_as_it_takes_connections(hard: int, expected: int) -> None:
    program = (
        "import resource\n"
        "from node.gateway.__main__ import raise_file_limit\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))\n"
        "raise_file_limit(1500)\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(expected), str(hard)]
