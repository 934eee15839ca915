"""The gateway process, kept alive: HTTP runs outside the core, so its load and its bugs cannot touch consensus.

The core binds the HTTP socket itself and hands it down. The address is thus known before the first request, stays the same when the gateway
is restarted, and connections that arrive in between wait in the kernel's queue instead of being refused.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from ipaddress import ip_address
from typing import Final

import structlog
import trio

from node.config import ConfigError, Home
from wire.errors import UnavailableError

RESTART_PAUSE_S: Final = 0.5
"""The pause before a dead gateway is started again; it doubles with each death in a row."""
RESTART_PAUSE_MAX_S: Final = 30.0
HEALTHY_AFTER_S: Final = 30.0
"""A gateway that lived this long died of something new: the pause begins anew."""
STOP_TIMEOUT_S: Final = 2.0
"""How long a gateway may take to finish its requests before it is killed."""
BACKLOG: Final = 512
"""Connections that wait in the kernel."""

_log = structlog.get_logger("node.supervisor")


def bind_http(address: str) -> socket.socket:
    """Return a listening socket for `host:port`.

    Raises:
        ConfigError: Not an address, or not a loopback one (`node.config.rpc_not_loopback`): there is no TLS to protect it.
        UnavailableError: The port is taken (`node.rpc.listen`).
    """
    host, _, port = address.rpartition(":")
    try:
        ip, number = ip_address(host.strip("[]")), int(port)
    except ValueError as error:
        raise ConfigError("node.config.rpc_listen", "rpc_listen is not ADDRESS:PORT", actual=address) from error
    if not ip.is_loopback:
        raise ConfigError(
            "node.config.rpc_not_loopback",
            "the HTTP interface binds to loopback only while it has no TLS",
            expected="127.0.0.1 or ::1",
            actual=host,
        )
    listener = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((str(ip), number))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UnavailableError(
            "node.rpc.listen", f"the HTTP interface cannot listen on {address}: {error.strerror}"
        ) from error
    return listener


def rpc_url(listener: socket.socket) -> str:
    """Return the base URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Gateway:
    """One node's gateway process."""

    def __init__(self, home: Home, listener: socket.socket) -> None:
        self._home = home
        self._listener = listener
        self.pid: int | None = None
        self.restarts = 0

    async def run(self) -> None:
        """Keep a gateway process running until cancelled; it is gone afterwards."""
        pause_s = RESTART_PAUSE_S
        while True:
            started = trio.current_time()
            code = await self._run_once()
            if trio.current_time() - started > HEALTHY_AFTER_S:
                pause_s = RESTART_PAUSE_S
            self.restarts += 1
            _log.error("gateway died", exit_code=code, restart_in_s=pause_s)
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_PAUSE_MAX_S)

    async def _run_once(self) -> int | None:
        descriptor = self._listener.fileno()
        command = [sys.executable, "-m", "node.gateway", "--home", str(self._home.path), "--fd", str(descriptor)]
        # The gateway reads its standard input and ends with it: however this core dies, the kernel closes the other end.
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, pass_fds=(descriptor,), start_new_session=True, env=_environment()
        )
        self.pid = process.pid
        try:
            return await process.wait()
        finally:
            self.pid = None
            with trio.CancelScope(shield=True):
                await _end(process)


def _environment() -> dict[str, str]:
    """Return the gateway's environment: what Python needs, nothing that could hold a secret."""
    kept = (
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "PYTHONPATH",
        "PYTHONHASHSEED",
        "VIRTUAL_ENV",
        "TZ",
        "COVERAGE_PROCESS_START",
    )
    return {name: os.environ[name] for name in kept if name in os.environ}


async def _end(process: trio.Process) -> None:
    if process.stdin is not None:
        await process.stdin.aclose()
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    with trio.move_on_after(STOP_TIMEOUT_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
