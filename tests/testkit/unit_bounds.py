"""A process bounded as a systemd unit says, where no systemd runs: the unit's own settings, laid on by this process before it executes.

    python -m tests.testkit.unit_bounds PLAN COMMAND [WORD …]

The plan is what `plan_of` makes of a unit. Its groups of system calls are those that `systemd-analyze` prints here, and libseccomp makes
the filters, as for systemd; which call a setting refuses, by which argument and with which error, follows systemd's own
`src/shared/seccomp-util.c`. Root gives up all capabilities and, if it may, gets a file system that is read-only but for what the unit
names. Every setting of a unit is one that is laid on here or one of `NOT_LAID_ON`; any other is refused, so that none is forgotten.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

LAID_ON: Final = frozenset(
    {
        *(
            "AmbientCapabilities",
            "CapabilityBoundingSet",
            "LimitNOFILE",
            "LockPersonality",
            "NoNewPrivileges",
            "PrivateDevices",
        ),
        *(
            "ProtectClock",
            "ProtectHostname",
            "ProtectKernelLogs",
            "ProtectKernelModules",
            "ProtectKernelTunables",
            "ProtectSystem",
        ),
        *("RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "StateDirectory"),
        *("SupplementaryGroups", "SystemCallArchitectures", "SystemCallErrorNumber", "SystemCallFilter", "UMask"),
    }
)
"""Groups by number, and by root only. Of `PrivateDevices` and the `Protect…` of the kernel the system calls, not their mounts."""
NOT_LAID_ON: Final[dict[str, str]] = {
    "User": "needs a user who may read the checkout; without capabilities root is one that owns files, and no more",
    "Group": "the same",
    "ExecStart": "the program of the checkout is run, with the same words",
    "StateDirectoryMode": "the tests make the home",
    "TimeoutStopSec": "the service manager's own",
    "KillMode": "the service manager's own",
    "Restart": "the service manager's own",
    "RestartPreventExitStatus": "the service manager's own",
    "RestartSec": "the service manager's own",
    "MemoryMax": "needs a control group",
    "TasksMax": "needs a control group",
    "ProtectControlGroups": "a mount, of what neither node nor agent knows",
    "ProtectHome": "hides directories in which the checkout may be",
    "PrivateTmp": "hides the directory in which the tests work; it is read-only instead, but for what the unit names",
    "RemoveIPC": "neither node nor agent has any",
}
REPOSITORY: Final = Path(__file__).resolve().parents[2]
_BASE_PATHS: Final = ("/dev", "/proc", "/sys")
"""What `ProtectSystem=strict` leaves as it is."""

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL_PROCESS: Final = 0x80000000
_ATTRIBUTE_BAD_ARCHITECTURE: Final = 2
_NOT_EQUAL, _LESS, _EQUAL, _GREATER, _MASKED_EQUAL = 1, 2, 4, 6, 7
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWNS: Final = 0x00020000
_NAMESPACES: Final = (0x80, _CLONE_NEWNS, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""Time, mount, control group, UTS, IPC, user, PID, network."""
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_RDONLY: Final = 1
_FAMILIES_MAX: Final = 46
_QUERY: Final = 0xFFFFFFFF

Comparison = tuple[int, int, int, int]
"""Number of the argument, how it is compared, and one or two values."""


class _Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def read_unit(text: str) -> dict[str, list[str]]:
    """Return the values of each setting, in order; every line is a section, a comment or a setting."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#") or re.fullmatch(r"\[(Unit|Service|Install)\]", line):
            continue
        name, separator, value = line.partition("=")
        assert separator, line
        assert re.fullmatch(r"[A-Za-z]+", name), line
        found.setdefault(name, []).append(value)
    return found


def read_service(text: str) -> dict[str, list[str]]:
    """Return the settings of the section `Service` alone."""
    return read_unit(re.split(r"^\[Service\]$", text, flags=re.M)[1].partition("\n[")[0])


@cache
def _libseccomp() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_rule_add_exact_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison)),
    ]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    return library


def number_of(name: str) -> int:
    """Return a system call's number on this machine; negative when it has none."""
    return int(_libseccomp().seccomp_syscall_resolve_name(name.encode()))


@cache
def missing_means() -> str:
    """Return why no process can be bounded like this here, or ""."""
    if shutil.which("systemd-analyze") is None:
        return "systemd-analyze, which knows the groups of system calls, is not installed"
    try:
        _libseccomp()
    except OSError:
        return "libseccomp.so.2 is not installed"
    service = {
        "SupplementaryGroups": ["54321"],
        "CapabilityBoundingSet": [""],
        "AmbientCapabilities": [""],
        "NoNewPrivileges": ["yes"],
        "RestrictNamespaces": ["yes"],
    }
    plan = json.dumps({"service": service, "groups": {}, "writable": []})
    answer = subprocess.run(
        bounded(plan, sys.executable, "-c", "import trio"), check=False, capture_output=True, text=True, cwd=REPOSITORY
    )
    return "" if answer.returncode == 0 else f"processes may not be bounded here: {answer.stderr[-200:]}"


def _groups() -> dict[str, list[str]]:
    """Return the members of every group of system calls, as this machine's systemd has them."""
    answer = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter"], check=True, capture_output=True, text=True
    )
    groups: dict[str, list[str]] = {}
    for line in answer.stdout.splitlines():
        if line.startswith("@"):
            members = groups.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.lstrip().startswith("#"):
            members.append(line.strip())
        elif line.startswith("#"):  # Calls that no group has follow the groups.
            break
    groups.pop("@known", None)  # All of them; no filter names it.
    return groups


def plan_of(text: str, *writable: Path) -> str:
    """Return how a process is bounded that a unit with this text starts.

    Args:
        text: The unit.
        writable: The state directory, and what `ReadWritePaths` of a drop-in would name.
    """
    service = read_service(text)
    unknown = service.keys() - LAID_ON - NOT_LAID_ON.keys()
    assert not unknown, f"a unit's settings that nobody lays on: {sorted(unknown)}"
    return json.dumps({"service": service, "groups": _groups(), "writable": [str(path) for path in writable]})


def allowed_calls(lines: Sequence[str], groups: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the calls that the lines of `SystemCallFilter` allow, the first of which begins a list of allowed ones."""
    assert not lines[0].startswith("~"), "a list of what is forbidden is not the form of our units"

    def members(word: str) -> set[str]:
        return set().union(*map(members, groups[word])) if word.startswith("@") else {word}

    allowed = members("@default")
    for line in lines:
        named = set().union(*map(members, line.removeprefix("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


# What the process does to itself


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


class _Filter:
    """One filter of system calls; all that are loaded hold together."""

    def __init__(self, default: int = _ALLOW, other_architectures: int = _ALLOW) -> None:
        self._library = _libseccomp()
        self._context = self._library.seccomp_init(default)
        assert self._context, "libseccomp gives no context"
        self._library.seccomp_attr_set(self._context, _ATTRIBUTE_BAD_ARCHITECTURE, other_architectures)

    def add(self, name: str, *comparisons: Comparison, action: int = _ERRNO | errno.EPERM) -> None:
        """Let the action happen to calls whose arguments compare so; nothing for a call that this machine lacks."""
        number = number_of(name)
        if number < 0:
            return
        array = (_Comparison * max(1, len(comparisons)))(*comparisons)
        result = self._library.seccomp_rule_add_exact_array(self._context, action, number, len(comparisons), array)
        assert result in (0, -errno.EEXIST), (name, comparisons, result)

    def load(self) -> None:
        """Lay it on this process, for ever."""
        result = self._library.seccomp_load(self._context)
        self._library.seccomp_release(self._context)
        if result:
            raise OSError(-result, f"seccomp_load: {os.strerror(-result)}")


def _refuse(names: Iterable[str]) -> None:
    filter_ = _Filter()
    for name in names:
        filter_.add(name)
    filter_.load()


def _address_families(value: str) -> None:
    families = sorted(int(getattr(socket, name)) for name in value.split())
    filter_ = _Filter()
    refused = [(0, _LESS, families[0], 0), (0, _GREATER, families[-1], 0)]
    refused += [(0, _EQUAL, family, 0) for family in range(1, _FAMILIES_MAX) if family not in families]
    for comparison in refused:
        filter_.add("socket", comparison, action=_ERRNO | errno.EAFNOSUPPORT)
    filter_.load()


def _namespaces() -> None:
    filter_ = _Filter()
    filter_.add("clone3", action=_ERRNO | errno.ENOSYS)
    filter_.add("setns")
    for flag in _NAMESPACES:
        filter_.add("unshare", (0, _MASKED_EQUAL, flag, flag))
        if flag != _NAMESPACES[0]:  # The low byte of clone's flags is the signal that tells of the end.
            filter_.add("clone", (0, _MASKED_EQUAL, flag, flag))
    filter_.load()


def _realtime() -> None:
    filter_ = _Filter()
    for policy in (os.SCHED_FIFO, os.SCHED_RR, 4):
        filter_.add("sched_setscheduler", (1, _EQUAL, policy, 0))
    filter_.add("sched_setscheduler", (1, _GREATER, os.SCHED_IDLE, 0))
    filter_.load()


def _set_id() -> None:
    filter_ = _Filter()
    for bit in (stat.S_ISUID, stat.S_ISGID):
        for name, place in {"chmod": 1, "fchmod": 1, "fchmodat": 2, "mkdir": 1, "mkdirat": 2, "mknod": 1}.items():
            filter_.add(name, (place, _MASKED_EQUAL, bit, bit))
        filter_.add("mknodat", (2, _MASKED_EQUAL, bit, bit))
        filter_.add("creat", (1, _MASKED_EQUAL, bit, bit))
        for name, place in {"open": 1, "openat": 2}.items():
            creating = (place, _MASKED_EQUAL, os.O_CREAT, os.O_CREAT)
            filter_.add(name, creating, (place + 1, _MASKED_EQUAL, bit, bit))
    # Their modes stand behind a pointer, or came after this setting.
    filter_.add("openat2", action=_ERRNO | errno.ENOSYS)
    filter_.add("fchmodat2", action=_ERRNO | errno.ENOSYS)
    filter_.load()


def _personality() -> None:
    filter_ = _Filter()
    filter_.add("personality", (0, _NOT_EQUAL, ctypes.CDLL(None).personality(ctypes.c_ulong(_QUERY)), 0))
    filter_.load()


def _capabilities() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        _check(libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "a capability")


def _mounts(writable: Sequence[str]) -> None:
    """See every file system read-only, but for some directories."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str | None, place: str, flags: int) -> None:
        named = None if source is None else os.fsencode(source)
        _check(libc.mount(named, os.fsencode(place), None, ctypes.c_ulong(flags), None), f"mount {place}")

    def set_read_only(place: str, *, read_only: bool) -> None:
        bits = (0, _MOUNT_ATTR_RDONLY)
        attributes = (ctypes.c_uint64 * 4)(*(reversed(bits) if read_only else bits), 0, 0)
        number = number_of("mount_setattr")
        arguments = (
            ctypes.c_long(_AT_FDCWD),
            os.fsencode(place),
            ctypes.c_long(_AT_RECURSIVE),
            attributes,
            ctypes.c_long(32),
        )
        _check(libc.syscall(ctypes.c_long(number), *arguments), f"mount_setattr {place}")

    _check(libc.unshare(_CLONE_NEWNS), "unshare")
    mount(None, "/", _MS_REC | _MS_PRIVATE)
    for place in writable:
        mount(place, place, _MS_BIND | _MS_REC)
    set_read_only("/", read_only=True)
    for place in (*_BASE_PATHS, *writable):
        set_read_only(place, read_only=False)


def lay_on(service: Mapping[str, Sequence[str]], groups: Mapping[str, Sequence[str]], writable: Sequence[str]) -> None:
    """Bound this process, and whatever it becomes or starts, as the settings say. For ever."""
    last = {name: values[-1] for name, values in service.items()}

    def is_on(name: str) -> bool:
        return last.get(name) == "yes"

    def members(*names: str) -> list[str]:
        return sorted(allowed_calls([" ".join(names)], {**groups, "@default": ()}))

    if "UMask" in last:
        os.umask(int(last["UMask"], 8))
    if "LimitNOFILE" in last:
        most = min(int(last["LimitNOFILE"]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if os.geteuid() == 0:
        os.setgroups([int(word) for word in last.get("SupplementaryGroups", "").split()])
    if _is_read_only_possible() and last.get("ProtectSystem") == "strict":
        _mounts(writable)
    if os.geteuid() == 0 and last.get("CapabilityBoundingSet") == "":
        assert last["AmbientCapabilities"] == "", (
            "a unit that keeps capabilities is tried by test_agent_capabilities.py"
        )
        _capabilities()
    if is_on("NoNewPrivileges"):
        _check(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if "RestrictAddressFamilies" in last:
        _address_families(last["RestrictAddressFamilies"])
    switches: dict[str, Callable[[], None]] = {
        "RestrictRealtime": _realtime,
        "RestrictSUIDSGID": _set_id,
        "RestrictNamespaces": _namespaces,
        "ProtectHostname": lambda: _refuse(["sethostname", "setdomainname"]),
        "ProtectKernelTunables": lambda: _refuse(["_sysctl"]),
        "ProtectKernelModules": lambda: _refuse(members("@module")),
        "ProtectKernelLogs": lambda: _refuse(["syslog"]),
        "ProtectClock": lambda: _refuse(members("@clock")),
        "PrivateDevices": lambda: _refuse(members("@raw-io")),
        "LockPersonality": _personality,
    }
    for name, switch in switches.items():
        if is_on(name):
            switch()
    if last.get("SystemCallArchitectures") == "native":
        _Filter(other_architectures=_KILL_PROCESS).load()
    if "SystemCallFilter" in service:
        number = last.get("SystemCallErrorNumber")
        filter_ = _Filter(_KILL_PROCESS if number is None else _ERRNO | int(getattr(errno, number)))
        for name in sorted(allowed_calls(service["SystemCallFilter"], groups)):
            filter_.add(name, action=_ALLOW)
        filter_.load()


def _is_read_only_possible() -> bool:
    """Return whether this process may see the file systems read-only: root, where the machine lets it."""
    if os.geteuid() != 0:
        return False
    child = os.fork()
    if child == 0:
        try:
            _mounts([])
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def bounded(plan: str, *command: str) -> list[str]:
    """Return the command that runs a command within the bounds of a plan."""
    return [sys.executable, "-m", __name__, plan, *command]


def main() -> None:
    """Become the command, bounded."""
    plan: dict[str, Any] = json.loads(sys.argv[1])
    lay_on(plan["service"], plan["groups"], plan["writable"])
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
