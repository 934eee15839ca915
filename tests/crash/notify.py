"""A process whose file-system calls are stopped in the kernel, one by one, until this process says what becomes of each.

seccomp's user notification: the child installs a filter that hands every call of `calls.KINDS` to a descriptor which it sends to its
parent. The kernel holds the calling thread before the call has begun. The parent lets it go on, answers it with an error, or kills the
process: what is on the disk then is what the calls before have left. No privilege is needed, and threads are covered.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from tests.crash.calls import AUDIT_ARCH, KINDS, MACHINE, WRITES, Call, is_creating

_PR_SET_NO_NEW_PRIVS: Final = 38
_SYS_SECCOMP: Final = 317
_SYS_PIDFD_GETFD: Final = 438
_SET_MODE_FILTER: Final = 1
_FLAG_NEW_LISTENER: Final = 1 << 3
_GET_NOTIF_SIZES: Final = 3
_RET_ALLOW: Final = 0x7FFF0000
_RET_NOTIFY: Final = 0x7FC00000
_BPF_LOAD_WORD: Final = 0x20
_BPF_JUMP_EQUAL: Final = 0x15
_BPF_RETURN: Final = 0x06
_OFFSET_NUMBER: Final = 0
_OFFSET_ARCH: Final = 4
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
_RESPONSE: Final = struct.Struct("=QqiI")
_RECEIVE: Final = 0xC0502100
_SEND: Final = 0xC0182101
_SET_FLAGS: Final = 0x40082104
_SYNC_WAKE_UP: Final = 1
_CONTINUE: Final = 1
_AT_FDCWD: Final = -100
_PATH_BYTES: Final = 4096
_PAGE: Final = 4096
_PATIENCE_MS: Final = 600_000
"""A process that makes no call for so long hangs; the next wait for it tells so."""

GO_ON: Final = 0
KILL: Final = -1
HALF: Final = -2
"""Half of a write happens, then the process is killed."""
SHORT: Final = -3
"""Half of a write happens, and the process is told so."""
Verdict = int
"""`GO_ON`, `KILL`, `HALF`, `SHORT`, or the number of an error."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def missing_means() -> str:
    """Return why processes cannot be stopped like this here, or ""."""
    if platform.machine() != MACHINE:
        return f"the numbers of system calls are known for {MACHINE}, not for {platform.machine()}"
    sizes = (ctypes.c_uint16 * 3)()
    if _libc.syscall(_SYS_SECCOMP, _GET_NOTIF_SIZES, 0, sizes) != 0:
        return f"this kernel has no user notification of seccomp ({os.strerror(ctypes.get_errno())})"
    if (sizes[0], sizes[1]) != (_NOTIFICATION.size, _RESPONSE.size):
        return "this kernel's seccomp notifications have another form"
    child = os.fork()
    if child == 0:
        try:
            os.close(_install())
        except OSError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return "" if status == 0 else "seccomp filters may not be installed here"


def _install() -> int:
    """Install the filter in this process, for all its threads to come, and return the descriptor of its listener. Raises OSError."""
    numbers = sorted(KINDS)
    steps = [(_BPF_LOAD_WORD, 0, 0, _OFFSET_ARCH), (_BPF_JUMP_EQUAL, 0, len(numbers) + 1, AUDIT_ARCH)]
    steps.append((_BPF_LOAD_WORD, 0, 0, _OFFSET_NUMBER))
    steps += [(_BPF_JUMP_EQUAL, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    steps += [(_BPF_RETURN, 0, 0, _RET_ALLOW), (_BPF_RETURN, 0, 0, _RET_NOTIFY)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    listener = _libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, _FLAG_NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(listener)


class Watch:
    """The parent's side. Make it before the fork; `hand_over` in the child, then `supervise` in the parent.

    Args:
        inside: Directories; calls that name nothing below any of them go on uncounted.
    """

    def __init__(self, *inside: str) -> None:
        self._inside = inside
        self._before_kill: Callable[[], None] | None = None
        self._parent, self._child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def hand_over(self) -> None:
        """From now on, each file-system call of this process waits for the parent."""
        self._parent.close()
        listener = _install()
        socket.send_fds(self._child, [b"l"], [listener])
        # While the child held the listener itself, it would wait forever for a parent that is gone.
        os.close(listener)
        self._child.close()

    def supervise(
        self, pid: int, decide: Callable[[Call], Verdict], before_kill: Callable[[], None] | None = None
    ) -> int:
        """Return the wait status of the child after it ended; `decide` has seen every call of it that was inside, in order.

        Args:
            pid: The child.
            decide: Says what becomes of a call.
            before_kill: Called right before the child is killed, while it waits in the kernel.
        """
        self._before_kill = before_kill
        self._child.close()
        try:
            _, descriptors, _, _ = socket.recv_fds(self._parent, 1, 1)
        finally:
            self._parent.close()
        if descriptors:
            try:
                self._serve(pid, descriptors[0], decide)
            finally:
                os.close(descriptors[0])
        _, status = os.waitpid(pid, 0)
        return status

    def _serve(self, pid: int, listener: int, decide: Callable[[Call], Verdict]) -> None:
        with suppress(OSError):  # Older kernels are slower, and that is all.
            fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        threads: set[int] = set()
        is_killed = False
        try:
            # Until nobody is left: what the child has started lives on for a moment, and goes on meanwhile.
            while (ready := poll.poll(_PATIENCE_MS)) and ready[0][1] & select.POLLIN:
                buffer = bytearray(_NOTIFICATION.size)
                try:
                    fcntl.ioctl(listener, _RECEIVE, buffer)
                except (FileNotFoundError, InterruptedError):
                    continue  # The thread is gone meanwhile.
                identity, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
                if thread not in threads and os.path.exists(f"/proc/{pid}/task/{thread}"):
                    threads.add(thread)
                call = None if is_killed or thread not in threads else self._describe(thread, memory, number, arguments)
                verdict = GO_ON if call is None else decide(call)
                is_killed |= not self._answer(listener, identity, pid=pid, memory=memory, call=call, verdict=verdict)
        finally:
            os.close(memory)

    def _answer(
        self, listener: int, identity: int, *, pid: int, memory: int, call: Call | None, verdict: Verdict
    ) -> bool:
        """Return whether the child goes on after this call."""
        if verdict in (KILL, HALF):
            if verdict == HALF and call is not None:
                _write_half(pid, memory, call)
            if self._before_kill is not None:
                self._before_kill()
            os.kill(pid, signal.SIGKILL)
            return False
        response = _RESPONSE.pack(identity, 0, -verdict, 0 if verdict else _CONTINUE)
        if verdict == SHORT and call is not None:
            response = _RESPONSE.pack(identity, _write_half(pid, memory, call), 0, 0)
        with suppress(FileNotFoundError):  # A signal took the thread out of the call; it asks again.
            fcntl.ioctl(listener, _SEND, response)
        return True

    def _describe(self, thread: int, memory: int, number: int, arguments: list[int]) -> Call | None:
        """Return the call, or None when it is about nothing inside."""
        kind = KINDS[number]
        paths = tuple(_path(thread, memory, arguments, place) for place in kind.places)
        if not any(path.startswith(self._inside) for path in paths):
            return None
        changes = kind.changes or (kind.flags is not None and is_creating(arguments[kind.flags]))
        is_write = kind.name in WRITES
        return Call(
            kind.name,
            paths,
            changes,
            arguments[0] if kind.places[0][1] is None else -1,
            arguments[2] if is_write else 0,
            arguments[1] if is_write else 0,
        )


def _path(thread: int, memory: int, arguments: list[int], place: tuple[int | None, int | None]) -> str:
    directory, path = place
    name = b"" if path is None else _read_text(memory, arguments[path])
    if name.startswith(b"/"):
        return os.fsdecode(name)
    number = _AT_FDCWD if directory is None else ctypes.c_int(arguments[directory] & 0xFFFFFFFF).value
    try:
        below = os.readlink(f"/proc/{thread}/{'cwd' if number == _AT_FDCWD else f'fd/{number}'}")
    except OSError:
        return os.fsdecode(name)
    return os.path.join(below, os.fsdecode(name)) if name else below


def _read_text(memory: int, address: int) -> bytes:
    """Return the text at an address of the child. Read page by page: the next one may not be there."""
    text = b""
    while len(text) < _PATH_BYTES:
        try:
            part = os.pread(memory, _PAGE - address % _PAGE, address)
        except OSError:
            return text
        text += part.partition(b"\0")[0]
        if b"\0" in part or not part:
            return text
        address += len(part)
    return text


def _write_half(pid: int, memory: int, call: Call) -> int:
    """Write the first half of what the child is about to write, in its place; return the number of bytes."""
    data = os.pread(memory, call.length // 2, call.address)
    if not data:
        return 0
    process = os.pidfd_open(pid)
    try:
        descriptor = _libc.syscall(_SYS_PIDFD_GETFD, process, call.descriptor, 0)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        try:
            return os.write(descriptor, data)
        finally:
            os.close(descriptor)
    finally:
        os.close(process)
