"""One node of the cluster: its home, its process inside its namespace, and the ways to hurt it."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from node.local.client import LocalClient
from tests.faults.machine import PREFIX, HarnessError, run
from tests.faults.network import REPOSITORY
from wire.errors import PatchwardenError

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0
CALL_TIMEOUT_S: Final = 4.0
"""The harness's own calls; a node that is stopped by a signal answers none."""
SMALL_DISK_BYTES: Final = 448 * 1024 * 1024
"""The file system of the node with the small disk: the node's reserve of 256 MiB, its data, and room for them to grow."""


class Node:
    """A node that may be down, stopped or ill at any moment. Everything here is the harness's view from outside."""

    def __init__(
        self, name: str, home: Path, namespace: str, *, code: Path = REPOSITORY, clock_library: Path | None = None
    ) -> None:
        self.name = name
        self._code = code
        self.home = home
        self.namespace = namespace
        self._clock_library = clock_library
        self.process: subprocess.Popen[bytes] | None = None
        self.expected_down = False
        """Whether a fault has ended, or is about to end, this process."""
        self.paused = False
        self.starts = 0
        self._mounted = False

    # Its files

    @property
    def socket(self) -> Path:
        return self.home / "core.sock"

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log_file(self) -> Path:
        return self.home / "node.log"

    def log_size(self) -> int:
        """Return where the log ends now, for `log_since`."""
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def log_since(self, offset: int) -> str:
        """Return what was logged after `offset`."""
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as file:
            file.seek(offset)
            return file.read().decode("utf-8", "replace")

    def mount_small_disk(self, size_bytes: int) -> None:
        """Put the data directory on a file system of its own that is small enough to fill."""
        self.data.mkdir(mode=0o700)
        run(
            [
                "mount",
                "-t",
                "tmpfs",
                "-o",
                f"size={size_bytes},mode=0700",
                f"{PREFIX}-{os.getpid()}-{self.name}",
                str(self.data),
            ]
        )
        self._mounted = True

    @property
    def has_small_disk(self) -> bool:
        """Whether its disk can be filled without harm to anybody else."""
        return self._mounted

    def unmount(self) -> None:
        """Take the small disk away, with what is on it."""
        if self._mounted:
            run(["umount", str(self.data)])
            self._mounted = False

    def set_clock(self, offset_s: int) -> None:
        """Move this node's wall clock away from the machine's, at once and over restarts; needs the clock library."""
        # In place: the process has mapped the file.
        with (self.home / "clock").open("r+b" if (self.home / "clock").exists() else "wb") as file:
            file.write(struct.pack("=q", offset_s * 1_000_000_000))

    # Its process

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start the process; call it from the main thread, because it dies with the thread that started it."""
        assert not self.is_running
        (self.home / "run.json").unlink(missing_ok=True)
        environment = dict(os.environ)
        if self._clock_library is not None:
            environment |= {"LD_PRELOAD": str(self._clock_library), "PWFAULT_CLOCK": str(self.home / "clock")}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                # setpriv and ip replace themselves, so this is the node's own process id. It dies with the harness, however that dies.
                [
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    *("ip", "netns", "exec", self.namespace),
                    *(sys.executable, "-m", "node.process", str(self.home)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._code,
                env=environment,
                start_new_session=True,
            )
        self.expected_down = False
        self.paused = False
        self.starts += 1

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End the process as a power cut would, as far as it can tell."""
        self.expected_down = True
        if self.is_running:
            self.signal(signal.SIGKILL)
            assert self.process is not None
            self.process.wait(STOP_TIMEOUT_S)

    def pause(self) -> None:
        self.paused = True
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.is_running:
            self.signal(signal.SIGCONT)
        self.paused = False

    def stop(self) -> int:
        """End the process in order; return its exit code."""
        assert self.process is not None
        self.expected_down = True
        with suppress(ProcessLookupError):
            self.signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)

    def wait_ended(self, timeout_s: float) -> int | None:
        """Return the exit code, or None when the process still runs after `timeout_s`."""
        assert self.process is not None
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout_s)
        return None

    # Its answers

    def call(self, method: str, *, timeout_s: float = CALL_TIMEOUT_S, **params: Any) -> Any:
        """Return the core's answer to one call over a connection of its own.

        Raises:
            PatchwardenError: What the core raised, or that nothing answers.
        """
        with LocalClient(self.socket, timeout_s=timeout_s) as client:
            return client.call(method, **params)

    def status(self) -> dict[str, Any] | None:
        """Return the node's status, or None when it does not answer."""
        try:
            status: dict[str, Any] = self.call("status")
        except PatchwardenError:
            return None
        return status

    def wait_up(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Return the seconds until the node answers.

        Raises:
            HarnessError: It ended instead, or does not answer in time; with the end of its log.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < timeout_s:
            if self.status() is not None:
                return time.monotonic() - begin
            if not self.is_running:
                assert self.process is not None
                raise HarnessError(
                    f"{self.name} ended with {self.process.returncode} at its start: {self._last_lines()}"
                )
            time.sleep(0.05)
        raise HarnessError(f"{self.name} does not answer within {timeout_s:g} s of its start: {self._last_lines()}")

    def _last_lines(self) -> str:
        return self.log_since(max(0, self.log_size() - 2000))
