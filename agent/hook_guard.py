"""The small process that runs one hook and outlives nobody: run by path, alone, with nothing but the standard library.

    python -I -S hook_guard.py MILLISECONDS OUTPUT_BYTES PROGRAM [WORD …]

Standard input is the agent's lifeline: when it closes, because the agent ended or gave up, everything the hook has started is ended. So it
is when the time is over. The hook gets this process's environment and nothing else of it: a session of its own, no standard input, one pipe
for its output, of which the last OUTPUT_BYTES are kept. When the hook ends by itself, the rest of its process group is ended; what has
made itself a daemon, in a session of its own, stays.

One JSON object is written at the end: ``{"exit", "signal", "timed_out", "ms", "bytes", "output"}``, the output in base64. An inherited
descriptor above 2 is a lock that is held until this process ends; the hook does not get it.

Source: docs/spec/agent.md 6.8.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_READ_BYTES = 65_536
_END_SECONDS = 10.0
"""How long ending everything may take: a process in an uninterruptible call cannot be ended before it returns."""
_LOOK_SECONDS = 0.05
_NOT_RUN = 127

_libc = ctypes.CDLL(None)


def start(argv: list[str], output_fd: int) -> int:
    """Return the pid of the hook, in a session of its own."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        os.chdir("/")
        os.umask(0o022)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execve(argv[0], argv, os.environ)  # noqa: S606 - that there is no shell is the point
    except OSError as error:
        os.write(2, f"the program cannot be started: {error.strerror}\n".encode())
    finally:
        os._exit(_NOT_RUN)


def end_group(pid: int) -> None:
    """End what is left of the hook's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_everything(pid: int) -> None:
    """End the hook and every process that came of it: an orphan's new parent is this process."""
    deadline = time.monotonic() + _END_SECONDS
    while time.monotonic() < deadline:
        end_group(pid)
        for child in children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def children() -> list[int]:
    """Return the pids of this process's children."""
    me, found = os.getpid(), []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            if parent == me:
                found.append(int(name))
    return found


def watch(pid: int, output_fd: int, limit_s: float, output_max: int) -> dict[str, object] | None:
    """Return how the hook ended, or None when the agent is gone."""
    began = time.monotonic()
    output, total, status = bytearray(), 0, None
    poller = select.poll()
    for descriptor in (0, output_fd):
        poller.register(descriptor, select.POLLIN)
    pause = _LOOK_SECONDS
    with contextlib.suppress(OSError):  # Where it is forbidden or not there, the hook is looked at now and then.
        poller.register(os.pidfd_open(pid), select.POLLIN)
        pause = limit_s
    while status is None:
        left = began + limit_s - time.monotonic()
        ready = dict(poller.poll(min(left, pause) * 1000)) if left > 0 else {}
        if output_fd in ready:
            chunk = os.read(output_fd, _READ_BYTES)
            total += len(chunk)
            output = (output + chunk)[-output_max:]
            if not chunk:
                poller.unregister(output_fd)
        if 0 in ready:
            end_everything(pid)
            return None
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            end_group(pid)  # Before it is reaped: until then its number is its own.
            status = os.waitpid(pid, 0)[1]
        elif left <= 0:
            break
    if status is None:
        end_everything(pid)
    os.set_blocking(output_fd, False)
    try:
        while chunk := os.read(output_fd, _READ_BYTES):
            total += len(chunk)
            output = (output + chunk)[-output_max:]
            if total > 16 * _READ_BYTES + output_max:
                break  # A daemon that goes on writing is not waited for.
    except BlockingIOError:
        pass
    return {
        "exit": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
        "timed_out": status is None,
        "ms": int((time.monotonic() - began) * 1000),
        "bytes": total,
        "output": base64.b64encode(bytes(output)).decode("ascii"),
    }


def main() -> None:
    """Run one hook and say how it ended."""
    limit_s, output_max, argv = int(sys.argv[1]) / 1000, int(sys.argv[2]), sys.argv[3:]
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    read_end, write_end = os.pipe()
    pid = start(argv, write_end)
    os.close(write_end)
    answer = watch(pid, read_end, limit_s, output_max)
    if answer is not None:
        os.write(1, json.dumps(answer).encode())


if __name__ == "__main__":
    main()
