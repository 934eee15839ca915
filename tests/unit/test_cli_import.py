"""`patchwarden patch import` of series, ranges and mailboxes, and `patch create --set`: from somebody's patches to a signed set."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from node.cli import output
from node.keystore import save_key
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.cli import refused, run, run_json

LINES = [f"line {number}\n" for number in range(1, 31)]


def text(changes: Mapping[int, str]) -> str:
    return "".join(changes.get(number, line) for number, line in enumerate(LINES, 1))


STEPS = ({2: "two\n"}, {2: "two\n", 20: "twenty\n"}, {2: "zwei\n", 20: "twenty\n"})


@pytest.fixture
def git(tmp_path: Path) -> Any:
    """A repository with a commit for each step, and the function that runs git in it."""
    repository = tmp_path / "repository"
    repository.mkdir()

    def call(*words: str) -> bytes:
        identity = ("-c", "user.name=Carol", "-c", "user.email=carol@gamma.example", "-c", "init.defaultBranch=main")
        done = subprocess.run(["git", *identity, *words], cwd=repository, check=True, capture_output=True)
        return done.stdout

    call("init", "-q")
    (repository / "a.c").write_text(text({}))
    call("add", "a.c")
    call("commit", "-q", "-m", "base")
    call("tag", "v1")
    for number, step in enumerate(STEPS, 1):
        (repository / "a.c").write_text(text(step))
        message = (
            f'step {number}: CVE-2026-000{number}\n\nWhy.\n\nFixes: 0123456789ab ("base")\nSigned-off-by: D <d@e.f>'
        )
        call("commit", "-q", "-a", "-s", "-m", message)
    return call


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tree = tmp_path / "a-1.0"
    (tree / "tests").mkdir(parents=True)
    (tree / "tests" / "check").write_text("exit 0\n")
    (tree / "a.c").write_text(text({}))
    return tree


def signing(tmp_path: Path, base: Path, directory: Path, out: Path, *more: object) -> list[object]:
    key = tmp_path / "alice.key"
    if not key.exists():
        save_key(key, patches.ALICE)
    return [
        *("patch", "create", "--set", directory, "--base", base, "--component", "a", "--key", key, "--out", out),
        *("--author", "Alice Example <alice@acme.example>", "--tests", base / "tests", "--env-digest-only", *more),
    ]


def test_a_range_of_commits_becomes_a_signed_set(git: Any, tmp_path: Path, base: Path) -> None:
    document = run_json(
        "patch", "import", "--git", "v1..main", "--repository", tmp_path / "repository", "--out", tmp_path / "exact"
    )
    assert [each["title"] for each in document["patches"]] == [f"step {n}: CVE-2026-000{n}" for n in (1, 2, 3)]
    first = document["patches"][0]
    commit = git("rev-parse", "main~2").decode().strip()
    assert first["origin"] == f"commit {commit}"
    assert first["author"] == "Carol <carol@gamma.example>"
    assert first["references"] == ["CVE-2026-0001"]
    assert [each.partition(":")[0] for each in first["trailers"]] == ["Date", "Fixes", "Signed-off-by", "Signed-off-by"]
    assert first["notes"] == []
    created = run_json(*signing(tmp_path, base, tmp_path / "exact", tmp_path / "signed"))
    before: list[str] = []
    for number, each in enumerate(created["patches"], 1):
        patch = verify_patch_untrusted(Path(each["file"]).read_bytes())
        assert list(patch.metadata.prerequisites) == each["prerequisites"] == before
        assert patch.metadata.release_counter == number
        assert patch.metadata.reason_for_patch.category == "security-update"
        assert patch.metadata.reason_for_patch.description.startswith(
            "Why.\n\nAuthor: Carol <carol@gamma.example>\nOrigin: commit "
        )
        assert "Signed-off-by: D <d@e.f>" in patch.metadata.reason_for_patch.description
        before = [patch.patch_id]
    # Every tool applies the signed files one after the other to the same tree.
    for each in created["patches"]:
        subprocess.run(["git", "apply", each["file"]], cwd=base, check=True)
    assert (base / "a.c").read_text() == text(STEPS[-1])
    # The tree in which all of them are applied will do as a base as well.
    again = run_json(*signing(tmp_path, base, tmp_path / "exact", tmp_path / "again"))
    assert len(again["patches"]) == 3


def test_a_range_can_be_placed_in_another_tree(git: Any, tmp_path: Path, base: Path) -> None:
    (base / "a.c").write_text(text({10: "new\n" * 5}))
    document = run_json(
        *(
            "patch",
            "import",
            "--git",
            "v1..main",
            "--repository",
            tmp_path / "repository",
            "--base",
            base,
            "--out",
            tmp_path / "exact",
        )
    )
    assert document["patches"][1]["moved_hunks"] == [{"path": "a.c", "line": 5, "offset": 4}]


@pytest.mark.parametrize(
    ("text_", "code"),
    [
        ("main", "cli.git.range"),
        ("v1...main", "cli.git.range"),
        ("--output=x..main", "cli.git.range"),
        ("v1..v1", "cli.git.range"),
        ("v1..nowhere", "cli.git.failed"),
        ("v1..--all", "cli.git.range"),
    ],
)
def test_what_is_no_range_is_refused(git: Any, tmp_path: Path, text_: str, code: str) -> None:
    out = tmp_path / "exact"
    assert refused("patch", "import", f"--git={text_}", "--repository", tmp_path / "repository", "--out", out) == code
    assert not out.exists()


def test_a_range_with_a_merge_is_refused(git: Any, tmp_path: Path) -> None:
    git("checkout", "-q", "-b", "side", "v1")
    git("commit", "-q", "--allow-empty", "-m", "side")
    git("merge", "-q", "-m", "merge", "main")
    arguments = (
        "patch",
        "import",
        "--git",
        "v1..side",
        "--repository",
        tmp_path / "repository",
        "--out",
        tmp_path / "exact",
    )
    assert refused(*arguments) == "cli.git.merge"


def test_a_link_in_the_base_commit_is_refused(git: Any, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "link").symlink_to("a.c")
    git("add", "link")
    git("commit", "-q", "-m", "link")
    git("tag", "v2")
    (repository / "link").unlink()
    (repository / "link").write_text("x\n")
    git("add", "link")
    git("commit", "-q", "-m", "no link")
    out = tmp_path / "exact"
    assert (
        refused("patch", "import", "--git", "v2..main", "--repository", repository, "--out", out)
        == "cli.import.refused"
    )


def quilt(tmp_path: Path, *lines: str) -> Path:
    directory = tmp_path / "debian" / "patches"
    directory.mkdir(parents=True)
    names = []
    before: Mapping[int, str] = {}
    for number, step in enumerate(STEPS, 1):
        one, other = tmp_path / "one", tmp_path / "other"
        one.write_text(text(before))
        other.write_text(text(step))
        diff = subprocess.run(
            ["diff", "-u", "--label", "a.c", "--label", "a.c", one, other], capture_output=True, check=False
        ).stdout
        name = f"step-{number}.patch"
        (directory / name).write_bytes(f"Description: step {number}\nForwarded: no\n\n".encode() + diff)
        names.append(f"{name} -p0")
        before = step
    (directory / "series").write_text("\n".join((*lines, "# a comment", "", *names)) + "\n")
    return directory


def test_a_quilt_series_becomes_a_set(tmp_path: Path, base: Path) -> None:
    directory, out = quilt(tmp_path), tmp_path / "exact"
    document = run_json("patch", "import", "--series", directory, "--base", base, "--out", out)
    assert [each["file"] for each in document["patches"]] == [f"000{n}-step-{n}.diff" for n in (1, 2, 3)]
    assert document["patches"][0]["trailers"] == ["Forwarded: no"]
    assert json.loads((out / "set.json").read_text())["format"] == "patchwarden-set-1"
    created = run_json(
        *signing(tmp_path, base, out, tmp_path / "signed", "--release-counter", 7, "--category", "feature")
    )
    assert [each["release_counter"] for each in created["patches"]] == [7, 8, 9]
    assert refused("patch", "import", "--series", directory, "--base", base, "--out", out) == "cli.file.exists"


def test_a_series_with_a_refused_patch_is_kept_only_if_asked(tmp_path: Path, base: Path) -> None:
    directory, out = quilt(tmp_path, "words.patch"), tmp_path / "exact"
    (directory / "words.patch").write_text("only words\n")
    arguments = ("patch", "import", "--series", directory / "series", "--base", base, "--out", out)
    assert refused(*arguments) == "cli.import.refused"
    assert "words.patch: no unified diff was found" in run(*arguments).err
    assert not out.exists()
    document = run_json(*arguments, "--skip-refused")
    assert len(document["patches"]) == 3
    assert [(each["source"], each["code"]) for each in document["refused"]] == [
        ("words.patch", "provenance.import.no_diff")
    ]


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        (
            "../outside.patch",
            "cli.series.entry",
            "line 1: a patch of the series is a file beside it: got ../outside.patch",
        ),
        ("/etc/passwd", "cli.series.entry", "a file beside it: got /etc/passwd"),
        ("..", "cli.series.entry", "a file beside it: got .."),
        ("step-1.patch -p2", "cli.series.strip", "lose one leading component or none: expected -p1 or -p0, got -p2"),
        ("step-1.patch -p1 -R", "cli.series.option", "of quilt's options only -p0 and -p1 are known: got -R"),
        ("gone.patch", "cli.file.unreadable", "gone.patch cannot be read: no such file"),
    ],
)
def test_an_entry_of_a_series_that_cannot_be_taken_says_why_and_may_be_left_out(
    tmp_path: Path, base: Path, line: str, code: str, sentence: str
) -> None:
    out = tmp_path / "exact"
    arguments = ("patch", "import", "--series", quilt(tmp_path, line), "--base", base, "--out", out)
    assert refused(*arguments) == "cli.import.refused"
    assert sentence in run(*arguments).err
    assert not out.exists()
    document = run_json(*arguments, "--skip-refused")
    assert [(each["source"], each["code"]) for each in document["refused"]] == [(line.split(maxsplit=1)[0], code)]
    assert len(document["patches"]) == 3


def test_a_refused_binary_change_names_the_option_that_takes_it(git: Any, tmp_path: Path, base: Path) -> None:
    (tmp_path / "repository" / "logo").write_bytes(b"\0logo")
    (tmp_path / "repository" / "latest").symlink_to("logo")
    git("add", "logo", "latest")
    git("commit", "-q", "-m", "a logo")
    (tmp_path / "logo.patch").write_bytes(git("diff", "--binary", "HEAD~1", "--", "logo"))
    (tmp_path / "latest.patch").write_bytes(git("diff", "HEAD~1", "--", "latest"))
    (tmp_path / "unshown.patch").write_bytes(git("diff", "HEAD~1", "--", "logo"))
    (tmp_path / "all.mbox").write_bytes(git("format-patch", "--stdout", "v1..main"))
    out = ("--base", base, "--out", tmp_path / "exact")
    for name, option in (("logo", "binary"), ("latest", "symlink")):
        assert f"--allow {option}" in run("patch", "import", tmp_path / f"{name}.patch", *out).err
    assert (
        "  try: Leave it out of the patch, or say --allow " in run("patch", "import", tmp_path / "all.mbox", *out).err
    )
    answer = run("patch", "import", tmp_path / "all.mbox", *out, "--skip-refused", "-o", "json")
    assert ["--allow" in each["hint"] for each in answer.document["refused"]] == [True]
    created = ("--key", tmp_path / "alice.key", "--reason", "a logo", "--category", "feature", "--base", base)
    save_key(tmp_path / "alice.key", patches.ALICE)
    for name, hint in (
        ("logo", "--allow binary signs"),
        ("latest", "--allow symlink signs"),
        ("unshown", "print it with git diff --binary, and say --allow binary"),
    ):
        diff = ("--diff", tmp_path / f"{name}.patch", "--author", "A <a@b.c>", "--out", tmp_path / "x.patch")
        assert hint in run("patch", "create", *created, *diff).err
    assert not (tmp_path / "x.patch").exists()


def test_the_steps_of_each_patch_are_shown_to_who_waits(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "NOTE_INTERVAL_S", -1.0)
    arguments = ("patch", "import", "--series", quilt(tmp_path), "--base", base, "--out")
    said = run(*arguments, tmp_path / "exact").err.splitlines()
    assert said[:4] == [
        "step-1.patch: reading it: 0 of 3 patches",
        "step-1.patch: looking for the places of its hunks: 0 of 3 patches",
        "step-1.patch: making the exact diff: 0 of 3 patches",
        "step-2.patch: reading it: 1 of 3 patches",
    ]
    assert len(said) == 9
    assert not run(*arguments, tmp_path / "for-programs", "-o", "json").err


def test_names_that_fit_twice_name_the_option_that_says_which(tmp_path: Path, base: Path) -> None:
    (tmp_path / "new.diff").write_text("--- /dev/null\n+++ new/x\n@@ -0,0 +1 @@\n+x\n")
    answer = run("patch", "import", tmp_path / "new.diff", "--base", base, "--out", tmp_path / "out.diff")
    assert "[provenance.import.strip_ambiguous]" in answer.err
    assert "--strip 1 takes the first component away" in answer.err


def test_a_mailbox_becomes_a_set(git: Any, tmp_path: Path, base: Path) -> None:
    mails = git("format-patch", "--stdout", "--cover-letter", "-M", "v1..main")
    path = tmp_path / "pull-17.patch"
    path.write_bytes(mails)
    answer = run("patch", "import", path, "--base", base, "--out", tmp_path / "exact")
    assert answer.code == 0
    assert "pull-17.patch:1: mail 1 holds no patch and is left out" in answer.err
    assert "3 patches in" in answer.out
    created = run_json(*signing(tmp_path, base, tmp_path / "exact", tmp_path / "signed"))
    assert len(created["patches"]) == 3
    # Out of order, the numbers decide.
    parts = mails.split(b"From ")
    backwards = b"".join(b"From " + part for part in reversed(parts[1:]))
    assert backwards.count(b"\nSubject: ") == 4
    path.write_bytes(backwards)
    answer = run("patch", "import", path, "--base", base, "--out", tmp_path / "other", "-o", "json")
    assert answer.code == 0
    assert [each["title"][:6] for each in answer.document["patches"]] == ["step 1", "step 2", "step 3"]


def test_a_set_that_does_not_fit_signs_nothing(git: Any, tmp_path: Path, base: Path) -> None:
    exact, signed = tmp_path / "exact", tmp_path / "signed"
    run_json("patch", "import", "--git", "v1..main", "--repository", tmp_path / "repository", "--out", exact)
    (base / "a.c").write_text("something else\n")
    assert refused(*signing(tmp_path, base, exact, signed)).startswith("provenance.apply.")
    assert not signed.exists()


@pytest.mark.parametrize(
    "text_",
    ["", "[]", "{}", '{"format": "other"}', '{"format": "patchwarden-set-1", "patches": []}', "[" * 100_000,
     '{"format": "patchwarden-set-1", "patches": [{"file": "../0001-x.diff", "category": "feature"}]}'],
)  # fmt: skip
def test_a_list_that_is_none_is_refused(tmp_path: Path, base: Path, text_: str) -> None:
    exact = tmp_path / "exact"
    exact.mkdir()
    (exact / "set.json").write_text(text_)
    assert refused(*signing(tmp_path, base, exact, tmp_path / "signed")) == "cli.set.form"


@pytest.mark.parametrize(
    "arguments",
    [
        ("import", "--out", "x"),
        ("import", "x", "--series", "y", "--base", ".", "--out", "x"),
        ("import", "x", "--out", "x"),
        ("create", "--out", "x"),
        ("create", "--set", ".", "--diff", "x", "--out", "x"),
        ("create", "--diff", "x", "--out", "x"),
        ("create", "--set", ".", "--reason", "x", "--out", "x"),
    ],
)
def test_half_a_command_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert run("patch", *arguments).code == 2
