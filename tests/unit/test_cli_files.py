"""Files that commands write: whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from node.cli.errors import FileError
from node.cli.files import read_file, read_text, write_file
from node.cli.output import Output, fields, printable, printable_lines, short, table


def test_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "fix.patch"
    write_file(path, b"one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o600)
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["fix.patch"]


def test_link_is_followed_and_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"one")
    link.symlink_to(target)
    write_file(link, b"two")
    assert link.is_symlink()
    assert target.read_bytes() == b"two"


def test_existing_file_is_refused_where_it_must_be_new(tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    path.write_bytes(b"one")
    with pytest.raises(FileError) as caught:
        write_file(path, b"two", replace=False)
    assert caught.value.code == "cli.file.exists"
    assert path.read_bytes() == b"one"


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path / "is-a-directory"
    directory.mkdir()
    (directory / "x").touch()
    for path in (directory, tmp_path / "missing" / "file"):
        with pytest.raises(FileError) as caught:
            write_file(path, b"data")
        assert caught.value.code == "cli.file.unwritable"
    assert os.listdir(tmp_path) == ["is-a-directory"]


def test_reading_is_bounded_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(FileError) as caught:
        read_file(path, 4)
    assert caught.value.code == "cli.file.too_large"
    with pytest.raises(FileError) as caught:
        read_file(tmp_path / "missing", 4)
    assert caught.value.code == "cli.file.unreadable"
    assert "missing" in caught.value.message


def test_text_must_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(FileError) as caught:
        read_text(path, 100)
    assert caught.value.code == "cli.file.not_utf8"


@pytest.mark.parametrize(
    "bad", ["\x1b[31m", "\r", "\n", "\x0b", "\u2028", "\x85", "\x07", "\u202e", "\u200b", "\x7f", "\x9b"]
)
def test_what_could_steer_a_terminal_is_escaped(bad: str) -> None:
    shown = printable(f"a{bad}b")
    assert bad not in shown
    assert shown.startswith("a")
    assert shown.endswith("b")
    assert len(shown.splitlines()) == 1
    for lines in (table([(f"a{bad}b", 1)], ("name", "count")), fields([("name", f"a{bad}b")])):
        assert all(bad not in line and len(line.splitlines()) == 1 for line in lines)


def test_printable_text_stays_as_it_is() -> None:
    assert printable("Größe 5 → 6") == "Größe 5 → 6"
    assert printable_lines("one\ntwo\x1b", "  ") == "one\n  two\\x1b"


def test_every_answer_goes_through_one_door(capsys: pytest.CaptureFixture[str]) -> None:
    forged = "README\n2026-11-22 22:45:00  SUCCESS"
    Output(as_json=False).emit({}, [f"  {forged}"])
    Output(as_json=False).emit_event({}, forged)
    Output(as_json=False).note(forged)
    said = capsys.readouterr()
    assert said.out.splitlines() == [r"  README\n2026-11-22 22:45:00  SUCCESS", r"README\n2026-11-22 22:45:00  SUCCESS"]
    assert said.err.splitlines() == ["README", "  2026-11-22 22:45:00  SUCCESS"]


def test_table_aligns_and_escapes() -> None:
    assert list(table([("a", 1), ("long name", None)], ("name", "count"))) == [
        "NAME       COUNT",
        "a          1",
        "long name  -",
    ]
    assert "\x1b" not in "".join(table([("\x1b[0m", 1)], ("name", "count")))


def test_fields_align_and_leave_out_what_is_none() -> None:
    assert list(fields([("a", 1), ("long", ("x", "y")), ("gone", None)])) == ["a:    1", "long: x", "      y"]


def test_short_shows_when_it_cuts() -> None:
    assert short("a" * 64) == "a" * 12 + "…"
    assert short("abc") == "abc"
    assert short(None) == "-"
