"""What the systemd unit's settings refuse to a process, tried call by call, and that each refusal comes from the unit's own text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.testkit.unit_bounds import bounded, missing_means, plan_of

UNIT = Path("deploy/systemd/patchwarden-host.service")
TRY = """
import ctypes, errno, json, os, socket, sys
from tests.testkit.unit_bounds import number_of

libc = ctypes.CDLL(None, use_errno=True)
place = sys.argv[1]

def call(name, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number_of(name)), *(ctypes.c_long(each) for each in arguments))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else ""

def attempt(function, *arguments):
    try:
        result = function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    if isinstance(result, socket.socket):
        result.close()
    return ""

file = os.path.join(place, "file")
os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o644))
print(json.dumps({
    "AF_INET": attempt(socket.socket, socket.AF_INET),
    "AF_INET6": attempt(socket.socket, socket.AF_INET6),
    "AF_UNIX": attempt(socket.socket, socket.AF_UNIX),
    "AF_NETLINK": attempt(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW),
    "AF_PACKET": attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    "chmod plain": attempt(os.chmod, file, 0o755),
    "chmod set-user-id": attempt(os.chmod, file, 0o4755),
    "fchmodat set-group-id": attempt(os.chmod, file, 0o2755),
    "mkdir set-group-id": attempt(os.mkdir, os.path.join(place, "made"), 0o2755),
    "open set-user-id": attempt(os.open, os.path.join(place, "opened"), os.O_CREAT | os.O_WRONLY, 0o4755),
    "chown": attempt(os.chown, file, os.getuid(), os.getgid()),
    # The first arguments are of no use: nothing happens where no filter refuses.
    "ptrace": call("ptrace", 0, 0, 0, 0),
    "clone3": call("clone3", 0, 0),
    "setns": call("setns", -1, 0),
    "personality as it is": call("personality", int(open("/proc/self/personality").read(), 16)),
    "personality": call("personality", 8),
    "sched_setscheduler": call("sched_setscheduler", 0, os.SCHED_FIFO, 0),
    "setpriority": call("setpriority", 0, 0, os.getpriority(os.PRIO_PROCESS, 0)),
    "setuid": call("setuid", os.getuid()),
    **{name: call(name, 0, 0, 0, 0, 0) for name in (
        "mount", "umount2", "kexec_load", "init_module", "bpf", "reboot", "swapon", "iopl", "clock_settime", "syslog",
        "sethostname", "pivot_root", "chroot", "open_by_handle_at", "perf_event_open", "userfaultfd",
    ) if number_of(name) >= 0},
    # In a user namespace of its own a process is somebody else, so this comes last.
    "unshare": call("unshare", 0x10000000),
}))
"""
ALLOWED = ("AF_INET", "AF_UNIX", "chmod plain", "chown", "personality as it is")
REFUSED = {
    "AF_NETLINK": "EAFNOSUPPORT",
    "AF_PACKET": "EAFNOSUPPORT",
    "clone3": "ENOSYS",
}
"""What is refused with another error than `EPERM`."""
FREE = ("AF_NETLINK", "chmod set-user-id", "fchmodat set-group-id", "open set-user-id", "setpriority", "setuid")
"""What any process may do without the bounds, in a container, too."""
ANYWAY = ("AF_INET6", "userfaultfd", *ALLOWED)
"""What the unit does not refuse; whether the machine has all of it is another matter."""
SETTINGS = {
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX": "AF_NETLINK",
    "RestrictSUIDSGID=yes": "chmod set-user-id",
    "LockPersonality=yes": "personality",
    "RestrictNamespaces=yes": "clone3",
    "SystemCallFilter=~@privileged @resources": "setpriority",
}
"""Lines of the unit, and a call that each alone decides on."""


@pytest.fixture(autouse=True, scope="module")
def _means() -> None:
    if reason := missing_means():
        pytest.skip(reason)


def answers(root: Path, directory: Path, unit: str | None) -> dict[str, str]:
    """Return the name of each call's error, "" for none, in a process that the unit bounds; None leaves it free."""
    directory.mkdir()
    command = [sys.executable, "-c", TRY, str(directory)]
    if unit is not None:
        command = bounded(plan_of(unit, directory), *command)
    answer = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root)
    assert answer.returncode == 0, answer.stderr
    found: dict[str, str] = json.loads(answer.stdout)
    return found


@pytest.fixture
def unit(repository_root: Path) -> str:
    return (repository_root / UNIT).read_text()


@pytest.fixture(scope="module")
def free(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return answers(repository_root, tmp_path_factory.mktemp("free") / "place", None)


def test_the_unit_refuses_what_no_node_needs(
    repository_root: Path, tmp_path: Path, unit: str, free: dict[str, str]
) -> None:
    found = answers(repository_root, tmp_path / "bounded", unit)
    assert {name: found[name] for name in ALLOWED} == dict.fromkeys(ALLOWED, "")
    rest = found.keys() - set(ANYWAY)
    assert {name: found[name] for name in rest} == dict.fromkeys(rest, "EPERM") | REFUSED
    assert {name: free[name] for name in FREE} == dict.fromkeys(FREE, "")


@pytest.mark.parametrize("line", SETTINGS)
def test_each_refusal_comes_from_its_line_of_the_unit(
    repository_root: Path, tmp_path: Path, unit: str, line: str, free: dict[str, str]
) -> None:
    name = SETTINGS[line]
    assert unit.count(line) == 1
    if free[name] == REFUSED.get(name, "EPERM"):
        pytest.skip(f"this machine refuses {name} to every process")
    assert answers(repository_root, tmp_path / "without", unit.replace(f"{line}\n", ""))[name] == free[name]


def test_owners_could_not_be_kept_without_the_line_that_allows_it(
    repository_root: Path, tmp_path: Path, unit: str
) -> None:
    without = unit.replace("SystemCallFilter=@chown setrlimit\n", "")
    assert without != unit
    assert answers(repository_root, tmp_path / "without", without)["chown"] == "EPERM"


def test_a_setting_that_nobody_has_thought_of_is_noticed(unit: str) -> None:
    with pytest.raises(AssertionError, match="MemoryDenyWriteExecute"):
        plan_of(unit.replace("[Install]", "MemoryDenyWriteExecute=yes\n\n[Install]"))
