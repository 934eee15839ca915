"""The agent's own files: what was written is read back, damage is never taken for absence, and a torn end is cut off."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from agent.errors import StateCorruptError, TargetRefusedError
from agent.files import Files, is_there
from agent.maintenance import is_window_open, parse_window_untrusted
from agent.record_log import RecordLog, read_records
from agent.state_file import read_state, write_state
from agent.target import Installed, TargetConfig, TargetState, TargetStore
from wire.errors import RejectedError
from wire.hashing import Digest, sha256

DIGEST = sha256(b"a tree")


# State files


def test_state_reads_back_and_is_private(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    assert read_state(path) is None
    write_state(Files(), path, {"a": [1, "é"], "b": None})
    assert read_state(path) == {"a": [1, "é"], "b": None}
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    write_state(Files(), path, {})
    assert read_state(path) == {}


def test_leftover_of_a_crash_does_not_stop_the_next_write(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    (tmp_path / "state.json.new").write_bytes(b"half")
    write_state(Files(), path, {"a": 1})
    assert read_state(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["state.json"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_write_that_fails_takes_its_room_back(tmp_path: Path, call: str) -> None:
    path = str(tmp_path / "state.json")
    write_state(Files(), path, {"a": 1})

    def fail(name: str, where: str | bytes) -> None:
        if name == call:
            raise OSError(errno.ENOSPC, "no space left (injected)")

    with pytest.raises(OSError, match="no space left"):
        write_state(Files(fail), path, {"a": 2})
    assert os.listdir(tmp_path) == ["state.json"]
    assert read_state(path) == {"a": 1}


@pytest.mark.parametrize("position", [0, 1, 5, -1, -2, -60])
def test_damaged_state_is_never_taken_for_absent(tmp_path: Path, position: int) -> None:
    path = tmp_path / "state.json"
    write_state(Files(), str(path), {"a": 1})
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(StateCorruptError) as caught:
        read_state(str(path))
    assert caught.value.code == "agent.state.damaged"


@pytest.mark.parametrize("data", [b"", b"{}", b"{}\n", b"[]\n" + sha256(b"[]").hex().encode() + b"\n"])
def test_truncated_or_foreign_state_is_damage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(data)
    with pytest.raises(StateCorruptError):
        read_state(str(path))


def test_unreadable_state_is_damage(tmp_path: Path) -> None:
    with pytest.raises(StateCorruptError):
        read_state(str(tmp_path))


# Logs


def test_log_keeps_every_record_in_order(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = RecordLog(Files(), path)
    for number in range(5):
        log.append({"n": number})
    assert log.lines == 5
    log.close()
    assert read_records(path) == tuple({"n": number} for number in range(5))
    again = RecordLog(Files(), path)
    assert again.records == read_records(path)
    again.rewrite(again.records[3:])
    again.append({"n": 9})
    assert read_records(path) == ({"n": 3}, {"n": 4}, {"n": 9})
    again.close()


@pytest.mark.parametrize("cut", range(1, 20))
def test_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log"
    log = RecordLog(Files(), str(path))
    log.append({"n": 1})
    log.append({"n": 2})
    log.close()
    path.write_bytes(path.read_bytes()[:-cut])
    log = RecordLog(Files(), str(path))
    assert log.records == ({"n": 1},)
    log.append({"n": 3})
    log.close()
    assert read_records(str(path)) == ({"n": 1}, {"n": 3})


@pytest.mark.parametrize("position", [0, 17, 20])
def test_damage_in_a_whole_line_is_not_the_end(tmp_path: Path, position: int) -> None:
    path = tmp_path / "log"
    log = RecordLog(Files(), str(path))
    log.append({"n": 1})
    log.append({"n": 2})
    log.close()
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(StateCorruptError, match="line 1"):
        RecordLog(Files(), str(path))


def test_log_stops_after_a_failed_write(tmp_path: Path) -> None:
    failing = {"fsync": False}

    def step(name: str, path: str | bytes) -> None:
        if failing.get(name):
            raise OSError(errno.EIO, "input/output error")

    log = RecordLog(Files(step), str(tmp_path / "log"))
    log.append({"n": 1})
    failing["fsync"] = True
    with pytest.raises(StateCorruptError) as caught:
        log.append({"n": 2})
    assert caught.value.code == "agent.state.append"
    failing["fsync"] = False
    with pytest.raises(StateCorruptError):
        log.append({"n": 3})
    assert log.records == ({"n": 1},)


def test_closed_log_writes_nothing(tmp_path: Path) -> None:
    log = RecordLog(Files(), str(tmp_path / "log"))
    log.close()
    with pytest.raises(StateCorruptError):
        log.append({})


# Files


def test_exchange_swaps_two_directories(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").touch()
    Files().exchange(str(tmp_path / "a"), str(tmp_path / "b"))
    assert os.listdir(tmp_path / "a") == []
    assert os.listdir(tmp_path / "b") == ["x"]
    with pytest.raises(FileNotFoundError):
        Files().exchange(str(tmp_path / "a"), str(tmp_path / "missing"))


def test_removing_a_tree_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "closed").mkdir(parents=True)
    (tree / "closed" / "file").touch()
    (tree / "closed").chmod(0o555)
    (tree / "link").symlink_to(outside)
    Files().remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "kept").exists()
    Files().remove_tree(str(tree))
    (tmp_path / "link").symlink_to(outside)
    Files().remove_tree(str(tmp_path / "link"))
    assert (outside / "kept").exists()


def test_directory_swapped_for_a_link_while_it_is_removed_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "a" / "file").touch()

    def swap(name: str, path: str | bytes) -> None:
        """While the first file goes, somebody who works in the tree puts a link in place of its directory."""
        if name == "unlink" and not (tree / "a").is_symlink():
            (tree / "a").rename(tree / "moved")
            (tree / "a").symlink_to(outside)

    with pytest.raises(OSError):  # noqa: PT011 - which one depends on what was there to be removed next
        Files(swap).remove_tree(str(tree))
    assert (outside / "kept").exists()
    Files().remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "kept").exists()


def test_every_change_passes_the_step(tmp_path: Path) -> None:
    seen: list[str] = []
    files = Files(lambda name, path: seen.append(name))
    files.make_directories(str(tmp_path / "a" / "b"))
    files.replace(str(tmp_path / "a" / "file"), b"x")
    files.remove_tree(str(tmp_path / "a"))
    assert seen[:9] == ["mkdir", "fsync", "mkdir", "fsync", "open", "write", "fsync", "rename", "fsync"]
    assert sorted(seen[9:]) == ["rmdir", "rmdir", "unlink"]
    assert not (tmp_path / "a").exists()


# Maintenance windows

WEDNESDAY_MS = 6 * 24 * 3_600_000
"""1970-01-07T00:00:00Z."""
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("text", "hours_open"),
    [
        ("* 00:00-24:00", range(168)),
        ("wed 02:00-04:00", [2, 3]),
        ("mon-fri 02:00-03:00", [2, 26, 50, 122, 146]),
        ("sat,sun 23:00-24:00", [95, 119]),
        ("fri-mon 01:00-02:00", [49, 73, 97, 121]),
        ("wed 22:00-02:00", [22, 23, 24, 25]),
        ("tue 22:00-02:00", [0, 1, 166, 167]),
    ],
)
def test_window_is_open_at_its_hours_only(text: str, hours_open: range | list[int]) -> None:
    window = parse_window_untrusted(text)
    found = [hour for hour in range(168) if window.is_open(WEDNESDAY_MS + hour * HOUR_MS)]
    assert found == list(hours_open)
    assert window.text == text


def test_window_ends_before_its_last_minute() -> None:
    window = parse_window_untrusted("wed 10:30-10:45")
    assert window.is_open(WEDNESDAY_MS + 10 * HOUR_MS + 30 * 60_000)
    assert window.is_open(WEDNESDAY_MS + 10 * HOUR_MS + 45 * 60_000 - 1)
    assert not window.is_open(WEDNESDAY_MS + 10 * HOUR_MS + 45 * 60_000)


def test_without_windows_it_is_always_open() -> None:
    assert is_window_open((), 0)
    assert not is_window_open((parse_window_untrusted("mon 00:00-01:00"),), WEDNESDAY_MS)


@pytest.mark.parametrize(
    "text",
    [
        *("", "mon", "mon 1:00-2:00", "mon 25:00-26:00", "mon 10:60-11:00", "mon 10:00-10:00", "moo 10:00-11:00"),
        *("mon 24:00-01:00", "mon 10:00-00:00", "mon,  10:00-11:00", "* 10:00-11:00\n", "MON 10:00-11:00"),
        "mon 24:30-24:45",
    ],
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(TargetRefusedError) as caught:
        parse_window_untrusted(text)
    assert caught.value.code == "agent.target.window"


# Targets

DOCUMENT = {
    "version": 1,
    "name": "app",
    "root": "/srv/app",
    "components": ["pkg:deb/debian/*", "zlib"],
    "windows": ["sun 02:00-04:00"],
    "frozen": False,
    "allowed": [],
    "hooks": {},
    "mode": "exchange",
    "keeps_standby": True,
}


def test_target_carries_what_its_patterns_say() -> None:
    config = TargetConfig.from_json_untrusted(DOCUMENT)
    assert config.to_json() == DOCUMENT
    assert config.carries("pkg:deb/debian/foo@1.2")
    assert config.carries("zlib")
    assert not config.carries("zlib2")
    assert not config.carries("pkg:deb/ubuntu/foo@1.2")
    assert config.staging == "/srv/.app.patchwarden-app"


def test_target_of_before_there_were_modes_is_exchanged_and_may_have_a_standby_tree() -> None:
    older = {name: value for name, value in DOCUMENT.items() if name not in ("allowed", "mode", "keeps_standby")}
    assert TargetConfig.from_json_untrusted(older) == TargetConfig.from_json_untrusted(DOCUMENT)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"root": "srv/app"}, "agent.target.root"),
        ({"root": "/srv/../etc"}, "agent.target.root"),
        ({"root": "/srv/app/"}, "agent.target.root"),
        ({"root": "/"}, "agent.target.root"),
        ({"root": "/srv/a\nb"}, "wire.field.characters"),
        ({"name": "App"}, "wire.field.identifier"),
        ({"name": ".."}, "wire.field.identifier"),
        ({"components": []}, "agent.target.components"),
        ({"components": "zlib"}, "agent.target.components"),
        ({"components": [""]}, "wire.field.length"),
        ({"windows": ["never"]}, "agent.target.window"),
        ({"windows": ["* 00:00-24:00"] * 33}, "agent.target.window"),
        ({"frozen": "no"}, "wire.field.bool"),
        ({"keeps_standby": "off"}, "wire.field.bool"),
        ({"version": 2}, "wire.field.range"),
    ],
)
def test_what_is_no_target_is_refused(changes: dict[str, object], code: str) -> None:
    with pytest.raises(RejectedError) as caught:
        TargetConfig.from_json_untrusted({**DOCUMENT, **changes})
    assert caught.value.code == code


def installed(counter: int, *components: str) -> Installed:
    return Installed(sha256(b"%d" % counter).hex(), counter, components, 5, "aa" * 32, 1000)


def test_state_keeps_patches_and_highest_counters(tmp_path: Path) -> None:
    state = (
        TargetState(DIGEST).with_patch(installed(7, "a", "b"), sha256(b"1")).with_patch(installed(3, "b", "c"), DIGEST)
    )
    assert (state.counter("a"), state.counter("b"), state.counter("c"), state.counter("d")) == (7, 7, 3, -1)
    assert state.with_patch(installed(7, "a"), sha256(b"other")) is state
    store = TargetStore(Files(), str(tmp_path))
    assert store.read_target_state() is None
    store.write_target_state(state)
    assert store.read_target_state() == state


def test_state_of_before_adoptions_were_marked_was_told(tmp_path: Path) -> None:
    document = TargetState(Digest(DIGEST), untold=True).to_json()
    del document["untold"]
    write_state(Files(), str(tmp_path / "state.json"), document)
    assert TargetStore(Files(), str(tmp_path)).read_target_state() == TargetState(Digest(DIGEST), counters={})


@pytest.mark.parametrize(
    "changes", [{"version": 2}, {"installed": [{}]}, {"tree_digest": "00"}, {"counters": []}, {"untold": 1}]
)
def test_state_of_another_form_is_damage(tmp_path: Path, changes: dict[str, object]) -> None:
    store = TargetStore(Files(), str(tmp_path))
    write_state(Files(), str(tmp_path / "state.json"), {**TargetState(Digest(DIGEST)).to_json(), **changes})
    with pytest.raises(StateCorruptError):
        store.read_target_state()


def test_configuration_of_another_form_is_damage(tmp_path: Path) -> None:
    write_state(Files(), str(tmp_path / "target.json"), {**DOCUMENT, "root": "/"})
    with pytest.raises(StateCorruptError):
        TargetStore(Files(), str(tmp_path)).read_config()


def test_a_path_that_cannot_be_looked_at_is_not_taken_for_missing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path = str(tmp_path / "loop" / "outbox.log")
    with pytest.raises(OSError, match="symbolic links"):
        is_there(path)
    with pytest.raises(StateCorruptError) as caught:
        read_records(path)
    assert caught.value.code == "agent.state.damaged"
    assert not is_there(tmp_path / "nothing" / "there")
    assert is_there(tmp_path / "loop")


def test_what_a_killed_process_left_in_a_log_is_durable_before_it_is_believed(tmp_path: Path) -> None:
    path = str(tmp_path / "outbox.log")
    log = RecordLog(Files(), path)
    log.append({"a": 1})
    log.close()
    calls: list[tuple[str, str | bytes]] = []
    again = RecordLog(Files(lambda name, where: calls.append((name, where))), path)
    assert again.records == ({"a": 1},)
    assert calls == [("fsync", path), ("fsync", str(tmp_path))]
    again.close()
