"""What an agent that is not root needs to change files of other owners: the three documented capabilities suffice, and each is needed.

Runs as root only: nobody else can give files away, or a process capabilities.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = 65534
OTHER = 54321
SECONDS = 300
CAPABILITIES = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3}
"""As docs/operations/agent.md 9 names them, with their numbers in linux/capability.h."""
SET_ID = {"CAP_FSETID": 4}
"""For set-group-id directories of groups that the user is not in."""
STORY = """
import ctypes, os, sys, threading, time, trio
from pathlib import Path
from tests.testkit.agent import OPERATOR, TARGET, World

PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, RAISE, VERSION_3 = 8, 24, 38, 47, 2, 0x20080522
libc = ctypes.CDLL(None, use_errno=True)

def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def become(user, kept):
    # As systemd does for a unit with User=, CapabilityBoundingSet=, AmbientCapabilities= and NoNewPrivileges=.
    for number in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        if number not in kept:
            check(libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0))
    check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    mask = sum(1 << number for number in kept)
    check(libc.capset((ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)))
    for number in kept:
        check(libc.prctl(PR_CAP_AMBIENT, RAISE, number, 0, 0))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {mask}, status

async def story(directory, mode, bits="0755", owner=None, user=None, kept=()):
    world = World(directory)
    if owner is not None:
        for place in directory.rglob("*"):
            is_targets = place.is_relative_to(world.root.parent)
            os.chown(place, owner if is_targets else user, owner if is_targets else user, follow_symlinks=False)
        os.chown(directory, user, user)
        (world.root / "lib").chmod(int(bits, 8))
        become(user, kept)
    try:
        await world.add_target(mode=mode)
        outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    except Exception as error:
        return getattr(error, "code", repr(error)), ""
    finally:
        world.agent.close()
    assert f"{(world.root / 'lib').stat().st_mode & 0o7777:04o}" == bits
    owners = {place.lstat().st_uid for place in world.root.rglob("*")} | {world.root.stat().st_uid}
    return outcome.code.value, outcome.reason, sorted(owners)

warm, directory, mode, bits, owner, user, *kept = sys.argv[1:]
# This user may not even read the checkout: everything is loaded, and the policies are checked, before it is this user.
trio._core._thread_cache.IDLE_TIMEOUT = 0.1
assert trio.run(story, Path(warm), mode)[0] == "SUCCESS"
# Capabilities are a thread's: those that served until now would have none.
while threading.active_count() > 1:
    time.sleep(0.05)
print(*trio.run(story, Path(directory), mode, bits, int(owner), int(user), tuple(map(int, kept))))
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"),
    pytest.mark.slow,
]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory that an unprivileged user reaches; pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="patchwarden-capabilities-"))
    if not all(parent.stat().st_mode & 0o001 for parent in path.parents):
        path.rmdir()
        pytest.skip(f"an unprivileged user does not reach {path}")
    yield path
    shutil.rmtree(path)


def missing_here() -> bool:
    """Return whether this root lacks one of them itself, as in some containers."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return any(not int(line.split()[1], 16) >> number & 1 for number in (*CAPABILITIES.values(), 4, 6, 7, 8))


def tell(
    root: Path, places: tuple[Path, Path], mode: str, owner: int, names: tuple[str, ...], *, bits: str = "0755"
) -> str:
    """Return how an application to a target of the owner, with one directory of these bits, ended by a user with these capabilities."""
    if missing_here():
        pytest.skip("this root may not give files away, or change its user and capabilities")
    numbers = [str((CAPABILITIES | SET_ID)[name]) for name in names]
    answer = subprocess.run(
        [sys.executable, "-c", STORY, *map(str, places), mode, bits, str(owner), str(USER), *numbers],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


@pytest.mark.parametrize("owner", [0, OTHER], ids=["of-root", "of-another-user"])
@pytest.mark.parametrize("mode", ["exchange", "in-place"])
def test_the_documented_capabilities_suffice_and_owners_stay(
    repository_root: Path, directory: Path, tmp_path: Path, mode: str, owner: int
) -> None:
    assert tell(repository_root, (tmp_path, directory), mode, owner, tuple(CAPABILITIES)) == f"SUCCESS  [{owner}]"


@pytest.mark.parametrize("left_out", CAPABILITIES)
def test_without_one_of_them_nothing_is_applied(
    repository_root: Path, directory: Path, tmp_path: Path, left_out: str
) -> None:
    others = tuple(name for name in CAPABILITIES if name != left_out)
    told = tell(repository_root, (tmp_path, directory), "exchange", OTHER, others)
    assert not told.startswith("SUCCESS"), told


@pytest.mark.parametrize(
    ("names", "ending"),
    [((*CAPABILITIES, *SET_ID), f"SUCCESS  [{OTHER}]"), (tuple(CAPABILITIES), "agent.target.no_exchange")],
    ids=["with-fsetid", "without"],
)
def test_set_group_id_directories_of_other_groups_need_one_more(
    repository_root: Path, directory: Path, tmp_path: Path, names: tuple[str, ...], ending: str
) -> None:
    told = tell(repository_root, (tmp_path, directory), "exchange", OTHER, names, bits="2755")
    assert told == ending
