"""Directories keep their set-group-id bit, or the patch is refused: some kernels and services do not let the agent set it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import trio

import agent.set_id
from agent.errors import ApplyFailedError
from agent.files import Files
from agent.inventory import Entry
from agent.limits import STANDBY_ENTRIES_MIN
from agent.results import ResultCode
from agent.set_id import SetIdRights
from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, STANDBY_NAME, TARGET, World

BEFORE: patches.Tree = {"shared/kept": FileState(0o100644, b"kept\n"), "shared/changed": FileState(0o100644, b"one\n")}
AFTER: patches.Tree = {
    **BEFORE,
    "shared/changed": FileState(0o100644, b"two\n"),
    "shared/new/file": FileState(0o100644, b"new\n"),
}
MANY: patches.Tree = {f"many/{number}": FileState(0o100644, b"") for number in range(STANDBY_ENTRIES_MIN)}
WAYS = pytest.mark.parametrize(
    ("mode", "more"), [("exchange", {}), ("exchange", MANY), ("in-place", {})], ids=["exchange", "standby", "in-place"]
)


class ForbiddenBit(Files):
    """A service whose manager forbids to set the bit (`RestrictSUIDSGID`)."""

    def change_mode(self, path: str | bytes, mode: int, *, dir_fd: int | None = None) -> None:
        if mode & stat.S_ISGID:
            raise PermissionError(1, "Operation not permitted")
        super().change_mode(path, mode, dir_fd=dir_fd)

    def set_mode(self, descriptor: int, mode: int, path: str | bytes) -> None:
        if mode & stat.S_ISGID:
            raise PermissionError(1, "Operation not permitted")
        super().set_mode(descriptor, mode, path)


class LostBit(Files):
    """A kernel that takes the bit away without a word, as from one who is not in the group and has no `CAP_FSETID`."""

    def change_mode(self, path: str | bytes, mode: int, *, dir_fd: int | None = None) -> None:
        super().change_mode(path, mode & ~stat.S_ISGID, dir_fd=dir_fd)

    def set_mode(self, descriptor: int, mode: int, path: str | bytes) -> None:
        super().set_mode(descriptor, mode & ~stat.S_ISGID, path)


def world_of(directory: Path, files: Files | None, more: patches.Tree) -> World:
    world = World(directory, files=files, tree={**BEFORE, **more})
    os.chmod(world.root / "shared", 0o2775)
    return world


@WAYS
def test_the_bit_stays_and_new_directories_have_it(tmp_path: Path, mode: str, more: patches.Tree) -> None:
    async def story() -> None:
        world = world_of(tmp_path, None, more)
        await world.add_target(mode=mode)
        outcome = await world.agent.apply(world.release(patches.make_patch(BEFORE, AFTER)), TARGET, OPERATOR)
        assert outcome.code is ResultCode.SUCCESS, outcome.reason
        world.agent.close()
        assert (world.root.parent / STANDBY_NAME).exists() == (bool(more) and mode == "exchange")
        for name in ("shared", "shared/new"):
            assert stat.S_IMODE((world.root / name).stat().st_mode) == 0o2775

    trio.run(story)


RIGHTS = [SetIdRights(True, None), SetIdRights(False, frozenset({-1}))]
"""Of an agent whose service forbids the bit, and of one that is neither in the group nor has `CAP_FSETID`."""


@pytest.mark.parametrize("rights", RIGHTS, ids=["forbidden", "of-another-group"])
@WAYS
def test_what_is_known_beforehand_refuses_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, rights: SetIdRights, more: patches.Tree
) -> None:
    async def story() -> None:
        world = world_of(tmp_path, None, more)
        await world.add_target(mode=mode)
        data = world.release(patches.make_patch(BEFORE, AFTER))
        monkeypatch.setattr(SetIdRights, "of_this_thread", lambda: rights)
        for ended in (
            await world.agent.explain(data, TARGET, OPERATOR),
            await world.agent.apply(data, TARGET, OPERATOR),
        ):
            assert (ended.code, ended.reason) == (ResultCode.APPLY_FAILED, "agent.apply.attributes")
            assert "RestrictSUIDSGID" in ended.hint
        assert world.intents() == [], "nothing was announced"
        await world.agent.remove_target(TARGET)
        if mode == "exchange":
            with pytest.raises(ApplyFailedError) as caught:
                await world.add_target()
            assert caught.value.code == "agent.target.no_exchange"
            assert "in-place" in caught.value.hint
        else:
            await world.add_target(mode=mode)
        world.agent.close()

    trio.run(story)


@pytest.mark.parametrize("rights", RIGHTS, ids=["forbidden", "of-another-group"])
def test_in_place_only_new_directories_need_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rights: SetIdRights
) -> None:
    async def story() -> None:
        world = world_of(tmp_path, None, {})
        monkeypatch.setattr(SetIdRights, "of_this_thread", lambda: rights)
        await world.add_target(mode="in-place")
        after = {**BEFORE, "shared/changed": AFTER["shared/changed"], "beside/file": FileState(0o100644, b"new\n")}
        outcome = await world.agent.apply(world.release(patches.make_patch(BEFORE, after)), TARGET, OPERATOR)
        assert outcome.code is ResultCode.SUCCESS, outcome.reason
        assert stat.S_IMODE((world.root / "shared").stat().st_mode) == 0o2775
        world.agent.close()

    trio.run(story)


def test_rights_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(agent.set_id, "_STATUS_PATH", str(status))
    monkeypatch.setattr(agent.set_id.os, "getegid", lambda: 7)
    monkeypatch.setattr(agent.set_id.os, "getgroups", lambda: [8, 9])
    monkeypatch.setattr(agent.set_id.os, "geteuid", lambda: 1)
    for told, groups in (
        ("Name:\tx\nCapEff:\t0000000000000010\n", None),
        ("Name:\tx\nCapEff:\t000001ffffffffef\n", {7, 8, 9}),
        ("Name:\tx\n", {7, 8, 9}),
    ):
        status.write_text(told)
        assert SetIdRights.of_this_thread() == SetIdRights(False, groups and frozenset(groups))
    status.unlink()
    monkeypatch.setattr(agent.set_id.os, "geteuid", lambda: 0)
    assert SetIdRights.of_this_thread().groups is None

    def refuse(descriptor: int, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(agent.set_id.os, "fchmod", refuse)
    assert SetIdRights.of_this_thread().is_forbidden


def test_bits_that_can_be_kept() -> None:
    def entry(mode: int) -> Entry:
        return Entry(stat.S_IFDIR | mode, 1, 1, 2, 5, 6, 0, 0, 0)

    everything, nothing = SetIdRights(False, None), SetIdRights(True, None)
    assert everything.can_keep(entry(0o6755))
    assert nothing.can_keep(entry(0o1755))
    assert not nothing.can_keep(entry(0o2755))
    assert not nothing.can_keep(entry(0o4755))
    assert SetIdRights(False, frozenset({6})).can_keep(entry(0o2755))
    assert SetIdRights(False, frozenset({5})).can_keep(entry(0o4755))
    assert not SetIdRights(False, frozenset({5})).can_keep(entry(0o2755))


@pytest.mark.parametrize("files", [ForbiddenBit(), LostBit()], ids=["forbidden", "lost"])
@WAYS
def test_a_patch_that_would_lose_the_bit_is_refused(
    tmp_path: Path, mode: str, files: Files, more: patches.Tree
) -> None:
    async def story() -> None:
        world = world_of(tmp_path, files, more)
        await world.add_target(mode=mode)
        before = world.digest()
        outcome = await world.agent.apply(world.release(patches.make_patch(BEFORE, AFTER)), TARGET, OPERATOR)
        assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.attributes")
        assert "RestrictSUIDSGID" in outcome.hint
        assert await world.agent.check_drift() == ()
        world.agent.close()
        assert world.digest() == before
        assert stat.S_IMODE((world.root / "shared").stat().st_mode) == 0o2775
        assert world.leftovers() == []

    trio.run(story)
