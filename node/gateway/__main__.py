"""The gateway process: `python -m node.gateway --home DIR --fd N`, started and ended by the core's supervisor."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from node.config import Home
from node.gateway.app import build_app
from node.gateway.connection import BoundedConnection
from node.gateway.limits import DEFAULT_LIMITS, GatewayLimits
from node.local.client import AsyncLocalClient
from node.telemetry import configure_logging

OTHER_FILES: Final = 64
"""Open files besides the connections."""


def main() -> None:
    """Serve HTTP on the inherited socket until the core goes away or says stop."""
    parser = argparse.ArgumentParser(prog="python -m node.gateway")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--log-level", default="info")
    arguments = parser.parse_args()
    configure_logging(level=arguments.log_level)
    raise_file_limit(DEFAULT_LIMITS.connections_max + OTHER_FILES)
    home = Home(arguments.home)
    listener = socket.socket(fileno=arguments.fd)
    asyncio.run(_serve(home, listener))


def raise_file_limit(count: int) -> None:
    """Allow this process `count` open files, as far as its hard limit lets it: the usual 1,024 are fewer than its connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def server_config(app: FastAPI, limits: GatewayLimits) -> uvicorn.Config:
    """Return how uvicorn serves `app` within `limits`."""

    class Connection(BoundedConnection):
        header_timeout_s = limits.header_timeout_s
        connections_max = limits.connections_max

    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        lifespan="off",
        ws="none",
        http=Connection,
        h11_max_incomplete_event_size=limits.header_bytes_max,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=1,
    )


async def _serve(home: Home, listener: socket.socket) -> None:
    limits = DEFAULT_LIMITS
    core = AsyncLocalClient(home.socket)
    app = build_app(core, token_path=home.token, patches_path=home.patches, limits=limits)
    app.state.patch_files.remove_leftovers()
    server = uvicorn.Server(server_config(app, limits))
    watching = asyncio.create_task(_stop_with_core(server))
    try:
        await server.serve(sockets=[listener])
    finally:
        watching.cancel()
        await core.close()


async def _stop_with_core(server: uvicorn.Server) -> None:
    """End the server when standard input ends: the core, however it died, holds the other end."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            ended.set()

    loop.add_reader(sys.stdin.fileno(), on_readable)
    await ended.wait()
    server.should_exit = True
    server.force_exit = True


if __name__ == "__main__":
    main()
