"""An agent that is not root: it changes what it owns, and says clearly what it may not change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534
SECONDS = 300
STORY = """
import os, stat, sys, trio
from pathlib import Path
import agent.standby
from tests.testkit.agent import OPERATOR, TARGET, World

async def story(directory, mode, what):
    world = World(directory)
    try:
        if what == "standby":
            # What not even the owner may write to, in a tree that counts as a large one.
            agent.standby.STANDBY_ENTRIES_MIN = 1
            for place in ("src", "lib", "lib/keep"):
                (world.root / place).chmod(0o555)
        await world.add_target(mode=mode)
        data = world.release()
        if what == "forbidden":
            # What owner and group may not do, nobody but root may.
            place = world.root.parent if mode == "exchange" else world.root
            place.chmod(0o555)
        before = world.digest()
        outcome = await world.agent.apply(data, TARGET, OPERATOR)
        trees = [world.root, *world.root.parent.glob(".*.standby/tree")]
        modes = [oct(stat.S_IMODE((tree / "src").stat().st_mode)) for tree in trees]
        return outcome.code.value, outcome.reason, world.digest() == before, *(modes if what == "standby" else ())
    finally:
        for tree in (world.root, *world.root.parent.glob(".*.standby/tree")):
            for place in ("src", "lib", "lib/keep"):
                (tree / place).chmod(0o755)
        for place in (world.root.parent, world.root):
            place.chmod(0o755)
        world.agent.close()

one, other, mode, what, user = sys.argv[1:]
if os.geteuid() == 0:
    # This user may not even read the checkout: everything is loaded, and the policies are checked, before it is this user.
    assert trio.run(story, Path(one), mode, "owned")[0] == "SUCCESS"
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
assert os.geteuid() != 0
print(*trio.run(story, Path(other), mode, what))
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory that an unprivileged user owns and reaches; pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="patchwarden-user-"))
    if os.geteuid() == 0:
        if not all(parent.stat().st_mode & 0o001 for parent in path.parents):
            path.rmdir()
            pytest.skip(f"an unprivileged user does not reach {path}")
        os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


def tell(root: Path, directory: Path, mode: str, what: str, warm: Path) -> str:
    """Return how an application by an unprivileged user ended: this one, or nobody when this one is root."""
    answer = subprocess.run(
        [sys.executable, "-c", STORY, str(warm), str(directory), mode, what, str(NOBODY)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


@pytest.mark.parametrize("mode", ["exchange", "in-place"])
def test_a_user_applies_to_what_it_owns(repository_root: Path, directory: Path, tmp_path: Path, mode: str) -> None:
    assert tell(repository_root, directory, mode, "owned", tmp_path) == "SUCCESS  False"


@pytest.mark.parametrize("mode", ["exchange", "in-place"])
def test_a_user_is_refused_where_it_may_not_write_and_nothing_changes(
    repository_root: Path, directory: Path, tmp_path: Path, mode: str
) -> None:
    assert (
        tell(repository_root, directory, mode, "forbidden", tmp_path)
        == "ERROR_APPLY_FAILED agent.apply.permission True"
    )


def test_a_user_keeps_a_standby_tree_of_directories_that_are_closed_to_itself(
    repository_root: Path, directory: Path, tmp_path: Path
) -> None:
    said = tell(repository_root, directory, "exchange", "standby", tmp_path)
    if said == "SUCCESS  False 0o555":
        pytest.skip("no standby tree can be kept on this file system")
    assert said == "SUCCESS  False 0o555 0o555"
