"""What is put into the inbox goes through the pipeline once, and moves on with how it ended; nothing else there is touched."""

from __future__ import annotations

import errno
import getpass
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.errors import InboxError
from agent.inbox import DONE, REFUSED, RESULT_SUFFIX, Found, Inbox, InboxFolder
from agent.limits import (
    FILE_NAME_BYTES_MAX,
    INBOX_INTERVAL_SECONDS,
    INBOX_RESULTS_KEPT_MAX,
    INBOX_RETRY_SECONDS,
    INBOX_RETRY_SECONDS_MAX,
)
from provenance.diff_model import FileState
from provenance.layout import split_patch_file_untrusted
from tests.testkit import patches
from tests.testkit.agent import TARGET, TREE, World, write_tree
from wire.limits import PATCH_FILE_BYTES_MAX


class Desk:
    """A host with an inbox."""

    def __init__(self, directory: Path, folder: type[InboxFolder] = InboxFolder) -> None:
        self.world = World(directory)
        self.path = directory / "inbox"
        self.path.mkdir()
        self.notes: list[tuple[str, Mapping[str, object]]] = []
        self.folder = folder(str(self.path))
        self.inbox = self.open()

    def open(self) -> Inbox:
        """Return the inbox as after a restart."""
        return Inbox(
            self.world.agent,
            self.folder,
            now_ms=lambda: self.world.now_ms,
            uptime_ms=lambda: self.world.uptime_ms,
            note=lambda *note: self.notes.append((note[0], note[1])),
        )

    def put(self, data: bytes, name: str = "fix.patch") -> None:
        (self.path / f".{name}").write_bytes(data)
        (self.path / f".{name}").rename(self.path / name)

    async def look(self, times: int = 2) -> None:
        for _ in range(times):
            await self.inbox.look()

    def said(self, folder: str, name: str = "fix.patch") -> dict[str, Any]:
        assert (self.path / folder / name).is_file()
        assert not (self.path / name).exists()
        document: dict[str, Any] = json.loads((self.path / folder / f"{name}.json").read_text())
        return document


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_a_patch_is_applied_once_and_moves_on(desk: Desk) -> None:
    await desk.world.add_target()
    data = desk.world.release()
    desk.put(data)
    await desk.look(1)
    assert desk.world.outcomes() == []
    assert desk.inbox.to_json() == {
        "directory": str(desk.path),
        "waiting": 1,
        "problem": "",
        "problem_code": "",
        "problem_hint": "",
    }
    await desk.look(3)
    document = desk.said(DONE)
    assert document["targets"][TARGET]["code"] == "SUCCESS"
    assert document["requester"] == getpass.getuser()
    assert (desk.path / DONE / "fix.patch").read_bytes() == data
    assert [each.result for each in desk.world.outcomes()] == ["SUCCESS"]
    decision = json.loads(desk.world.intents()[0].decision)
    assert decision["facts"]["requester"] == {"name": getpass.getuser(), "roles": ["operator"], "channel": "inbox"}
    assert desk.inbox.to_json()["waiting"] == 0
    assert desk.notes[-1][1]["done"] is True


async def test_a_problem_is_shown_with_its_code_and_what_to_do(desk: Desk) -> None:
    desk.path.chmod(0o777)
    await run_looks(desk, 3, lambda: None)
    told = desk.inbox.to_json()
    assert told["problem"].endswith("cannot be used: others may put files there")
    assert told["problem_code"] == "agent.inbox.directory"
    assert "not everybody may write" in told["problem_hint"]


async def test_what_is_still_being_written_is_left(desk: Desk) -> None:
    await desk.world.add_target()
    data = desk.world.release()
    for length in (100, 200, len(data)):
        (desk.path / "fix.patch").write_bytes(data[:length])
        await desk.look(1)
    assert desk.world.outcomes() == []
    await desk.look(1)
    assert desk.said(DONE)["targets"][TARGET]["code"] == "SUCCESS"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda world: b"no patch", "provenance.file."),
        (lambda world: world.release(publish=False), "agent.metadata.not_published"),
        (lambda world: world.release(), "agent.inbox.no_target"),
    ],
)
async def test_what_is_for_no_target_is_refused_here(desk: Desk, make: Any, reason: str) -> None:
    await desk.world.add_target(components=["pkg:deb/debian/other"])
    desk.put(make(desk.world))
    await desk.look()
    document = desk.said(REFUSED)
    assert document["refusal"]["reason"].startswith(reason)
    assert document["targets"] == {}
    assert desk.world.outcomes() == []


async def test_what_the_pipeline_refuses_is_recorded_and_moves_on(desk: Desk) -> None:
    await desk.world.add_target(frozen=True)
    desk.put(desk.world.release())
    await desk.look()
    told = desk.said(REFUSED)["targets"][TARGET]
    assert (told["code"], told["reason"]) == ("ERROR_POLICY_DENIED", "agent.policy.not-frozen")
    assert [each.result for each in desk.world.outcomes()] == ["ERROR_POLICY_DENIED"]


async def test_every_target_that_carries_it_is_asked(desk: Desk) -> None:
    await desk.world.add_target()
    other = desk.world.root.parent / "other"
    write_tree(other, {**patches.AFTER})
    await desk.world.add_target(name="other", root=str(other))
    desk.put(desk.world.release())
    await desk.look()
    told = desk.said(REFUSED)["targets"]
    assert told[TARGET]["code"] == "SUCCESS"
    assert told["other"]["code"] == "ERROR_APPLY_FAILED"


async def test_a_stale_replica_keeps_it_and_it_is_recorded_once(desk: Desk) -> None:
    await desk.world.add_target()
    desk.put(desk.world.release())
    desk.world.ledger.age_ms = 10**9
    await desk.look(4)
    assert desk.inbox.waiting == 1
    desk.world.pass_ms(1000 * INBOX_RETRY_SECONDS)
    await desk.look(2)
    assert (desk.path / "fix.patch").exists()
    desk.world.ledger.age_ms = 0
    await desk.look(2)
    assert (desk.path / "fix.patch").exists()
    desk.world.pass_ms(2000 * INBOX_RETRY_SECONDS)
    await desk.look(1)
    assert desk.said(DONE)["targets"][TARGET]["code"] == "SUCCESS"
    assert [each.result for each in desk.world.outcomes()] == ["ERROR_STALE_REPLICA", "SUCCESS"]


async def test_a_clock_that_was_wrong_for_a_moment_puts_no_file_off(desk: Desk) -> None:
    await desk.world.add_target()
    desk.put(desk.world.release())
    right, year_ms = desk.world.now_ms, 365 * 86_400_000
    await desk.look(1)
    desk.world.now_ms, desk.world.ledger.age_ms = right + year_ms, year_ms
    await desk.look(1)
    assert [each.result for each in desk.world.outcomes()] == ["ERROR_STALE_REPLICA"]
    desk.world.now_ms, desk.world.ledger.age_ms = right, 0
    await desk.look(1)
    assert (desk.path / "fix.patch").exists()
    desk.world.pass_ms(1000 * INBOX_RETRY_SECONDS)
    await desk.look(1)
    assert desk.said(DONE)["targets"][TARGET]["code"] == "SUCCESS"


class FailsOnce(InboxFolder):
    """Ends once between an application and its move, as a crash would."""

    failures = 1

    def settle(self, found: Found, folder: str, document: Mapping[str, Any]) -> bool:
        if self.failures:
            self.failures -= 1
            raise InboxError("agent.inbox.write", "the disk is full")
        return super().settle(found, folder, document)


async def test_a_crash_before_the_move_applies_nothing_twice(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FailsOnce)
    await desk.world.add_target()
    desk.put(desk.world.release())
    with pytest.raises(InboxError):
        await desk.look()
    desk.inbox = desk.open()
    await desk.look()
    assert desk.said(DONE)["targets"][TARGET]["reason"] == "agent.metadata.already_applied"
    assert [each.result for each in desk.world.outcomes()].count("SUCCESS") == 1


async def test_what_cannot_be_moved_stops_no_other(tmp_path: Path) -> None:
    desk = Desk(tmp_path, FailsOnce)
    await desk.world.add_target()
    desk.put(b"no patch", "a.patch")
    desk.put(desk.world.release(), "b.patch")
    with pytest.raises(InboxError):
        await desk.look()
    assert desk.said(DONE, "b.patch")["targets"][TARGET]["code"] == "SUCCESS"
    assert (desk.path / "a.patch").exists()


async def test_links_and_other_names_are_left_alone(desk: Desk) -> None:
    await desk.world.add_target()
    outside = desk.path.parent / "outside"
    outside.write_bytes(desk.world.release())
    (desk.path / "link.patch").symlink_to(outside)
    (desk.path / "directory.patch").mkdir()
    os.mkfifo(desk.path / "pipe.patch")
    (desk.path / ".hidden.patch").write_bytes(b"")
    (desk.path / "other.txt").write_bytes(b"")
    (desk.path / "line\nfeed.patch").write_bytes(b"")
    await desk.look(3)
    assert len(list(desk.path.iterdir())) == 6
    assert desk.inbox.waiting == 0


def test_a_file_that_was_exchanged_since_the_look_is_not_read(desk: Desk) -> None:
    desk.put(b"one")
    (found,) = desk.folder.look()
    desk.put(b"two")
    assert desk.folder.read(found) is None
    (desk.path / "fix.patch").unlink()
    assert desk.folder.read(found) is None


class Replaced(InboxFolder):
    """Lets something happen between the end of an application and the move of its file."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def settle(self, found: Found, folder: str, document: Mapping[str, Any]) -> bool:
        self.meanwhile()
        return super().settle(found, folder, document)


async def test_a_file_that_is_replaced_while_it_is_applied_is_applied_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Replaced)
    await desk.world.add_target()
    one = desk.world.release()
    readme = TREE["README"]
    later = {"README": FileState(0o100644, b"second\n")}
    two = desk.world.release(patches.make_patch({"README": readme}, later, release_counter=2))
    desk.put(one)
    await desk.look(1)
    desk.folder.meanwhile = lambda: desk.put(two)  # type: ignore[attr-defined]
    await desk.look(1)
    assert (desk.path / "fix.patch").read_bytes() == two
    told = json.loads((desk.path / DONE / "fix.patch.json").read_text())
    assert told["patch_id"] == split_patch_file_untrusted(one).patch_id
    assert not (desk.path / DONE / "fix.patch").exists()
    assert desk.inbox.waiting == 1
    assert desk.notes[-1][1]["moved"] is False
    desk.folder.meanwhile = lambda: None  # type: ignore[attr-defined]
    await desk.look()
    assert desk.said(DONE)["patch_id"] == split_patch_file_untrusted(two).patch_id
    assert (desk.path / DONE / "fix.patch").read_bytes() == two
    assert (desk.world.root / "README").read_bytes() == b"second\n"
    assert [each.result for each in desk.world.outcomes()] == ["SUCCESS", "SUCCESS"]


@pytest.mark.parametrize("exchanges", [1, 2])
def test_a_file_that_is_replaced_at_the_move_goes_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, exchanges: int
) -> None:
    desk.put(b"one")
    (found,) = desk.folder.look()
    rename = os.rename
    replaced: list[bytes] = []

    def replace_before(source: str, *places: str, **directories: int) -> None:
        is_the_move = source == "fix.patch" and len(replaced) == 0
        if is_the_move:
            replaced.append(b"second")
            (desk.path / "fix.patch").unlink()
            (desk.path / "fix.patch").write_bytes(b"second")
        rename(source, *places, **directories)
        if is_the_move and exchanges == 2:
            (desk.path / "fix.patch").write_bytes(b"three")

    monkeypatch.setattr("agent.inbox.os.rename", replace_before)
    assert desk.folder.settle(found, DONE, {}) is False
    assert (desk.path / "fix.patch").read_bytes() == [b"second", b"three"][exchanges - 1]
    assert os.listdir(desk.path / DONE) == ["fix.patch.json"]


def test_a_file_that_was_taken_away_meanwhile_leaves_how_it_ended(desk: Desk) -> None:
    desk.put(b"one")
    (found,) = desk.folder.look()
    (desk.path / "fix.patch").unlink()
    assert desk.folder.settle(found, DONE, {}) is False
    assert os.listdir(desk.path / DONE) == ["fix.patch.json"]


def test_reading_and_looking_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with (desk.path / "big.patch").open("wb") as file:
        file.truncate(PATCH_FILE_BYTES_MAX + 4096)
    (found,) = desk.folder.look()
    data = desk.folder.read(found)
    assert data is not None
    assert len(data) == PATCH_FILE_BYTES_MAX + 1
    monkeypatch.setattr("agent.inbox.INBOX_NAMES_MAX", 5)
    for number in range(4):
        (desk.path / f"{number}.txt").touch()
    assert len(desk.folder.look()) == 1
    (desk.path / "one too many").touch()
    with pytest.raises(InboxError, match="more than 5 names") as caught:
        desk.folder.look()
    assert caught.value.code == "agent.inbox.directory"


def skip_where_names_are_short(directory: Path) -> None:
    if os.pathconf(directory, "PC_NAME_MAX") < FILE_NAME_BYTES_MAX:
        pytest.skip(f"a name in {directory} cannot have {FILE_NAME_BYTES_MAX} bytes")


@pytest.mark.parametrize("name", ["a" * 244 + ".patch", "\N{LATIN SMALL LETTER O WITH DIAERESIS}" * 122 + ".patch"])
async def test_a_name_as_long_as_it_may_be_moves_on(desk: Desk, name: str) -> None:
    skip_where_names_are_short(desk.path)
    assert len(os.fsencode(name)) == FILE_NAME_BYTES_MAX - len(RESULT_SUFFIX)
    await desk.world.add_target()
    desk.put(desk.world.release(), name)
    await desk.look()
    assert desk.said(DONE, name)["targets"][TARGET]["code"] == "SUCCESS"


async def test_a_name_that_is_too_long_for_its_result_is_told_and_never_asked_about(desk: Desk) -> None:
    skip_where_names_are_short(desk.path)
    await desk.world.add_target()
    data = desk.world.release()
    long = "a" * 245 + ".patch"
    (desk.path / long).write_bytes(data)
    await desk.look(1)
    for _ in range(3):
        with pytest.raises(InboxError) as caught:
            await desk.look(1)
        assert caught.value.code == "agent.inbox.name"
        assert caught.value.message.endswith("expected at most 250 bytes, got " + "a" * 120 + "\N{HORIZONTAL ELLIPSIS}")
        desk.world.pass_ms(1000 * INBOX_RETRY_SECONDS_MAX)
    assert desk.world.outcomes() == []
    (desk.path / long).rename(desk.path / "fix.patch")
    await desk.look()
    assert desk.said(DONE)["targets"][TARGET]["code"] == "SUCCESS"


class Unreadable(InboxFolder):
    """A directory in which some files cannot be read."""

    def read(self, found: Found) -> bytes | None:
        if found.name.startswith("a"):
            raise InboxError("agent.inbox.unreadable", f"{found.name} cannot be read: Permission denied")
        return super().read(found)


async def test_files_that_can_never_be_taken_hide_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.inbox.INBOX_FILES_MAX", 3)
    desk = Desk(tmp_path, Unreadable)
    await desk.world.add_target()
    for number in range(7):
        desk.put(b"", f"a{number}.patch")
    desk.put(desk.world.release(), "z.patch")
    await desk.look(1)
    told = []
    for _ in range(4):
        with pytest.raises(InboxError) as caught:
            await desk.look(1)
        told.append(caught.value.message)
        desk.world.pass_ms(1000 * INBOX_RETRY_SECONDS_MAX)  # Each of them is due again at once.
    assert desk.said(DONE, "z.patch")["targets"][TARGET]["code"] == "SUCCESS"
    assert set(told) == {"a0.patch cannot be read: Permission denied"}, "one problem is told until it ends"
    assert desk.inbox.waiting == 7


async def test_a_problem_is_told_once_and_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Unreadable)
    desk.put(b"", "a.patch")
    problems = await run_looks(desk, 6, (desk.path / "a.patch").unlink)
    assert problems == ["", *["a.patch cannot be read: Permission denied"] * 2, "", "", ""]
    assert [event for event, _ in desk.notes] == ["agent.inbox.failed"]


class Failing(InboxFolder):
    """A directory on a disk that fails, in one place."""

    fails = ""

    def look(self, roots: tuple[str, ...] = ()) -> list[Found]:
        if self.fails == "look":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().look(roots)


async def run_looks(desk: Desk, looks: int, mend: Callable[[], None]) -> list[str]:
    """Run the inbox for so many looks, mended after the third; return the problem that it told of after each."""
    problems: list[str] = []

    async def pause(seconds: float) -> None:
        problems.append(desk.inbox.problem)
        if len(problems) == 3:
            mend()
        if len(problems) == looks:
            scope.cancel()
        await trio.lowlevel.checkpoint()

    with trio.CancelScope() as scope:
        await desk.inbox.run(pause)
    return problems


@pytest.mark.parametrize("call", ["scandir", "fstat", "stat"])
async def test_a_directory_that_cannot_be_looked_into_ends_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    await desk.world.add_target()
    desk.put(desk.world.release())
    real = getattr(os, call)

    def forbidden(place: Any, **rest: Any) -> Any:
        if isinstance(place, int) or place == "fix.patch":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(place, **rest)

    with monkeypatch.context() as patched:
        patched.setattr(f"agent.inbox.os.{call}", forbidden)
        with pytest.raises(InboxError) as caught:
            await desk.look(1)
        problems = await run_looks(desk, 6, patched.undo)
    assert caught.value.code == "agent.inbox.directory"
    assert problems == [f"the inbox {desk.path} cannot be used: Permission denied"] * 3 + [""] * 3
    assert [event for event, _ in desk.notes] == ["agent.inbox.failed", "agent.inbox"]
    assert desk.said(DONE)["targets"][TARGET]["code"] == "SUCCESS"


async def test_whatever_else_fails_for_now_ends_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Failing)
    await desk.world.add_target()
    desk.put(desk.world.release())
    desk.folder.fails = "look"  # type: ignore[attr-defined]
    problems = await run_looks(desk, 6, lambda: setattr(desk.folder, "fails", ""))
    assert all("Input/output error" in each for each in problems[:3])
    assert problems[3:] == [""] * 3
    assert desk.said(DONE)["targets"][TARGET]["code"] == "SUCCESS"


async def test_a_file_that_the_disk_does_not_show_stops_no_other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.world.add_target()
    desk.put(b"bad sector", "a.patch")
    desk.put(desk.world.release(), "b.patch")
    real = os.stat

    def bad(path: Any, **rest: Any) -> os.stat_result:
        if path == "a.patch":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, **rest)

    with monkeypatch.context() as patched:
        patched.setattr("agent.inbox.os.stat", bad)
        with pytest.raises(InboxError) as caught:
            await desk.look()
    assert caught.value.code == "agent.inbox.unreadable"
    assert "a.patch" in caught.value.message
    assert desk.said(DONE, "b.patch")["targets"][TARGET]["code"] == "SUCCESS"
    await desk.look()
    assert desk.said(REFUSED, "a.patch")["refusal"]["reason"].startswith("provenance.file.")


def test_only_the_newest_results_are_kept(desk: Desk) -> None:
    (desk.path / DONE).mkdir()
    for number in range(INBOX_RESULTS_KEPT_MAX):
        for name in (f"{number:04}.patch", f"{number:04}.patch.json"):
            (desk.path / DONE / name).touch()
            os.utime(desk.path / DONE / name, (number, number))
    desk.put(b"no patch", "new.patch")
    desk.folder.settle(desk.folder.look()[0], DONE, {})
    kept = {path.name for path in (desk.path / DONE).iterdir()}
    assert len(kept) == 2 * INBOX_RESULTS_KEPT_MAX
    assert {"new.patch", "new.patch.json", "0001.patch"} <= kept
    assert kept.isdisjoint({"0000.patch", "0000.patch.json"})


async def test_a_directory_that_others_may_write_is_not_used_until_it_is_mended(desk: Desk) -> None:
    await desk.world.add_target()
    desk.put(desk.world.release())
    desk.path.chmod(0o777)
    pauses = 0

    async def pause(seconds: float) -> None:
        nonlocal pauses
        assert seconds == INBOX_INTERVAL_SECONDS
        pauses += 1
        if pauses == 3:
            assert "others may put files there" in desk.inbox.problem
            assert [event for event, _ in desk.notes] == ["agent.inbox.failed"]
            desk.path.chmod(0o770)
        if pauses == 6:
            scope.cancel()
        await trio.lowlevel.checkpoint()

    with trio.CancelScope() as scope:
        await desk.inbox.run(pause)
    assert desk.inbox.problem == ""
    assert desk.said(DONE)["targets"][TARGET]["code"] == "SUCCESS"


@pytest.mark.parametrize("place", ["missing", "link", "inside"])
async def test_a_directory_that_cannot_be_one_is_said_to_be_so(desk: Desk, place: str) -> None:
    await desk.world.add_target()
    path = desk.path.parent / "elsewhere"
    if place == "link":
        path.symlink_to(desk.path)
    if place == "inside":
        path = desk.world.root / "inbox"
        path.mkdir()
    with pytest.raises(InboxError) as caught:
        InboxFolder(str(path)).look(desk.world.agent.roots())
    assert caught.value.code == "agent.inbox.directory"
