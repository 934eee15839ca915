"""A large tree is exchanged only where it changes: the same result, and nobody else's work is touched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import agent.tree_cache
from agent.files import Files
from agent.results import ResultCode
from provenance.diff_model import Allowance, FileState
from provenance.layout import split_patch_file_untrusted
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, TREE, World, read_tree, tree_digest_of


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("agent.part.PART_ENTRIES_MIN", 0)
    world = World(tmp_path)
    await world.add_target(allowed=["remove-directory"])
    return world


def inode(path: Path) -> int:
    return path.stat().st_ino


async def test_only_the_directory_that_changes_is_exchanged_and_back(world: World) -> None:
    before, tree, digest = (inode(world.root), inode(world.root / "src")), read_tree(world.root), world.digest()
    (world.root / "src").chmod(0o2750)
    untouched = (world.root / "README").stat().st_ctime_ns
    data = world.release()
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.is_success, outcome.message
    assert outcome.tree_after == world.digest() != digest
    assert (inode(world.root), inode(world.root / "src") != before[1]) == (before[0], True)
    assert (world.root / "src").stat().st_mode & 0o7777 == 0o2750
    assert (world.root / "README").stat().st_ctime_ns == untouched
    assert world.leftovers() == []
    assert not (await world.agent.show_target(TARGET)).is_drifted
    (undone,) = await world.agent.rollback(split_patch_file_untrusted(data).patch_id, TARGET, OPERATOR)
    assert undone.code is ResultCode.ROLLED_BACK
    assert (world.digest(), read_tree(world.root)) == (digest, tree)


async def test_changes_everywhere_exchange_the_root(world: World) -> None:
    before = inode(world.root)
    every_kind = (patches.EVERY_KIND_BEFORE, patches.EVERY_KIND_AFTER, patches.EVERY_KIND_RENAMES)
    outcome = await world.agent.apply(world.release(patches.make_patch(*every_kind)), TARGET, OPERATOR)
    assert outcome.is_success, outcome.message
    assert inode(world.root) != before
    assert outcome.tree_after == world.digest()


async def test_directory_that_the_patch_empties_is_not_the_part(world: World) -> None:
    before, after = {"old/gone.txt": TREE["old/gone.txt"]}, {"old/gone.txt": None}
    data = world.release(patches.make_patch(before, after, allowances=(Allowance.REMOVE_DIRECTORY,)))
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    assert not (world.root / "old").exists()


async def test_what_others_write_elsewhere_meanwhile_stays(world: World) -> None:
    def step(call: str, path: str | bytes) -> None:
        if call == "exchange":
            (world.root / "README").write_bytes(b"theirs\n")

    world.files = Files(step)
    world.reopen()
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert outcome.is_success, outcome.message
    assert read_tree(world.root)["README"] == FileState(0o100644, b"theirs\n")
    assert (await world.agent.show_target(TARGET)).is_drifted


@pytest.mark.parametrize("moment", ["write journal", "exchange src"])
async def test_directory_swapped_for_a_link_leads_nowhere(world: World, tmp_path: Path, moment: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(world.root / "src", elsewhere)
    before, content = inode(elsewhere), tree_digest_of(elsewhere)
    name, part = moment.split()
    done: list[None] = []

    def step(call: str, path: str | bytes) -> None:
        if not done and call == name and part in os.fsdecode(path):
            done.append(None)
            (world.root / "src").rename(world.root / "aside")
            (world.root / "src").symlink_to(elsewhere)

    world.files = Files(step)
    world.reopen()
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert done
    assert (inode(elsewhere), tree_digest_of(elsewhere)) == (before, content)
    assert tree_digest_of(world.root / "aside") == content, "the old files stand where they were moved"
    if name == "write":
        assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.link")


async def test_nothing_is_read_again_after_an_exchange(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's own links move ctimes; what it knows of the files stays known."""
    world.agent._registry.get(TARGET)._cache._now_ns = lambda: 2 * 10**18
    assert not (await world.agent.show_target(TARGET)).is_drifted
    assert (await world.agent.apply(world.release(), TARGET, OPERATOR)).is_success
    read: list[bytes] = []
    original = agent.tree_cache.read_digest

    def counted(root_fd: int, path: bytes, entry: object) -> object:
        read.append(path)
        return original(root_fd, path, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(agent.tree_cache, "read_digest", counted)
    assert not (await world.agent.show_target(TARGET)).is_drifted
    assert read == []
