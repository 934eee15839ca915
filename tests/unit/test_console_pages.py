"""Pages with commands and their output: what varies may vary, everything else is noticed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.testkit.console import Names, NotAsShownError, Shell, matches, open_shell, read_steps, run_page

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


def wait_ended(pid: int) -> None:
    """Wait until the process is gone, or ended and not yet collected by whoever is its parent now."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in "ZX":
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} still runs")


def page(*lines: str, words: str = "console") -> str:
    return "\n".join(["# A page", f"```{words}", *lines, "```", ""])


@contextmanager
def shell(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "work").mkdir()
    with open_shell(tmp_path / "work") as opened:
        yield opened


def check(tmp_path: Path, *lines: str, words: str = "console", needs: tuple[str, ...] = (), write: bool = False) -> str:
    (tmp_path / "work").mkdir()
    return run_page(page(*lines, words=words), tmp_path / "work", needs, write=write)


def test_commands_are_read_with_their_continuations_and_documents() -> None:
    text = page("$ cat > x <<'END'", "$ no command", "END", "$ echo a \\", "   b", "a b", "", "$ true")
    assert [(step.line, step.command, step.output) for step in read_steps(text)] == [
        (3, "cat > x <<'END'\n$ no command\nEND", ()),
        (6, "echo a \\\n   b", ("a b", "")),
        (10, "true", ()),
    ]
    assert list(read_steps(page("$ rm -r /", words="sh"))) == []
    (step,) = read_steps(page("$ true", words="console network"))
    assert step.needs == {"network"}
    with pytest.raises(AssertionError, match="without its command"):
        list(read_steps(page("an output")))


def test_what_is_as_shown_passes_and_the_shell_goes_on_from_command_to_command(tmp_path: Path) -> None:
    lines = (
        "$ name=there; cd /",
        "$ echo $name; pwd; echo error >&2",
        "there",
        "/",
        "error",
        "$ cat",
        "$ printf 'no end'",
        "no end",
    )
    assert check(tmp_path, *lines) == page(*lines)


@pytest.mark.parametrize(
    "lines",
    [
        ("$ echo one", "two"),
        ("$ echo one",),
        ("$ true", "one"),
        ("$ printf 'one\\ntwo\\n'", "one"),
        ("$ echo one", "one", "two"),
        ("$ false",),
        ("$ echo one; exit 3", "one"),
        ("$ echo two begins otherwise", "one…"),
        ("$ printf 'one\\ntwo\\n'", "…", "three"),
    ],
)
def test_what_is_not_as_shown_is_found(tmp_path: Path, lines: tuple[str, ...]) -> None:
    with pytest.raises(NotAsShownError, match=r"line 3|the shell ended"):
        check(tmp_path, *lines)


def test_a_command_without_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    with shell(tmp_path) as opened, pytest.raises(NotAsShownError, match="no end within"):
        opened.run("sleep 600 & echo $! > child; wait", seconds_max=1)
    wait_ended(int((tmp_path / "work" / "child").read_text()))


def test_what_a_page_leaves_running_ends_with_it(tmp_path: Path) -> None:
    with shell(tmp_path) as opened:
        code, printed = opened.run("sleep 600 > /dev/null 2>&1 & echo $!")
        assert code == 0
        os.kill(int(printed), 0)
    wait_ended(int(printed))


def test_blocks_that_need_more_are_left_out_unless_it_is_there(tmp_path: Path) -> None:
    assert check(tmp_path, "$ false", words="console network")
    with pytest.raises(NotAsShownError):
        check(tmp_path / "work", "$ false", words="console network", needs=("network",))


def test_what_is_printed_can_be_written_into_the_page(tmp_path: Path) -> None:
    written = check(tmp_path, "$ echo one", "old", "older", "$ echo two", "$ echo three", "th…", write=True)
    assert written == page("$ echo one", "one", "$ echo two", "two", "$ echo three", "th…")


@pytest.mark.parametrize(
    ("shown", "actual"),
    [
        (f"key {ONE}", f"key {TWO}"),
        ("did:key:z" + "6" * 47, "did:key:z" + "7" * 47),
        ("SHA256:" + "a" * 43, "SHA256:" + "b/" * 21 + "c"),
        ("2026-11-22T06:50:00Z", "2031-01-02T03:04:05Z"),
        ("at Nov 22 06:50:00 2026 GMT", "at Jan  2 03:04:05 2031 GMT"),
        ("AB:CD:" * 4 + "EF", "01:23:" * 4 + "45"),
        ("MIIB" * 12 + "==", "MIIC" * 14),
    ],
)
def test_what_varies_may_be_another_one(shown: str, actual: str) -> None:
    assert matches((shown,), (actual,), Names())


def test_what_is_shown_as_the_same_is_the_same_and_what_differs_differs() -> None:
    def holds(shown: tuple[str, ...], actual: tuple[str, ...]) -> bool:
        names = Names()
        return all(matches((old,), (new,), names) for old, new in zip(shown, actual, strict=True))

    assert holds((ONE, TWO, ONE), (TWO, THREE, TWO))
    assert not holds((ONE, ONE), (ONE, TWO))
    assert not holds((ONE, TWO), (THREE, THREE))
    assert not holds((f"{ONE} {ONE}",), (f"{ONE} {TWO}",))
    assert not holds((f"{ONE} {TWO}",), (f"{THREE} {THREE}",))
    assert holds(("2026-11-22T06:50:00Z",) * 2, ("2026-11-22T06:50:00Z", "2026-11-22T06:50:01Z"))
    assert not holds((ONE,), ("x",))


NETWORKED = [
    ("height:      5", "height:      12"),
    ("ok    admit: 63311 bytes; replica at height 5, 759 ms old", "ok    admit: 72819 bytes; replica at height 36, 4120 ms old"),
    ("ok    replica: height 14, 0.2 s old; decides up to 60 s", "ok    replica: height 3, 11.9 s old; decides up to 60 s"),
    ("      5.0  2026-11-22 22:45:47  patch 9b5e00547d41 published  [log 5, certified by block 5, c458c10e4407…]",
     "     32.0  2026-11-22 20:50:09  patch 8482203f4d3e published  [log 6, certified by block 32, 0164419a997f…]"),
    ("21     host.report  volume  -       51c183217240…  50038", "21     host.report  volume  -       9900c526930a…  50107"),
]  # fmt: skip


@pytest.mark.parametrize(("shown", "actual"), NETWORKED)
def test_heights_ages_and_sizes_may_differ_where_a_network_runs_and_nowhere_else(
    tmp_path: Path, shown: str, actual: str
) -> None:
    lines = (f"$ cat <<'END'\n{actual}\nEND", shown)
    check(tmp_path, *lines, words="console devnet", needs=("devnet",))
    with pytest.raises(NotAsShownError):
        check(tmp_path / "work", *lines)


@pytest.mark.parametrize(
    ("shown", "actual"),
    [
        ("installed: 1", "installed: 0"),
        ("result:   SUCCESS", "result:   ERROR_POLICY_DENIED"),
        ("ok    replica: height 14, 0.2 s old", "FAIL  replica: height 14, 0.2 s old"),
        ("ok    app tree: as recorded, 1 patches installed", "ok    app tree: as recorded, 2 patches installed"),
        ("exit code 1", "exit code 3"),
        ("workers 4", "workers 64"),
    ],
)
def test_what_a_network_answers_may_not_differ(tmp_path: Path, shown: str, actual: str) -> None:
    with pytest.raises(NotAsShownError):
        check(tmp_path, f"$ echo '{actual}'", shown, words="console devnet", needs=("devnet",))


def test_the_directory_has_one_name_on_every_page(tmp_path: Path) -> None:
    assert check(tmp_path, "$ pwd", "/srv/try")


def test_any_lines_may_stand_for_three_dots() -> None:
    assert matches(("a", "…", "d"), ("a", "b", "c", "d"), Names())
    assert matches(("a", "…"), ("a",), Names())
    assert not matches(("a", "…", "d"), ("a", "b", "c"), Names())
    assert not matches(("a", "…", "d"), ("a", "d", "e"), Names())
