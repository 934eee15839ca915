"""What a machine builds with, and the hash of a test suite: collected, bounded, recomputable."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from node.cli.environment import _escape, collect_facts, find_test_suite, read_environment, read_test_suite
from node.cli.errors import CommandError
from provenance.build_environment import encode_build_document
from wire.canonical_json import encode
from wire.errors import RejectedError
from wire.hashing import sha256


@pytest.fixture(scope="module")
def document() -> bytes:
    return encode_build_document(collect_facts())


def test_this_machine_is_described(document: bytes) -> None:
    loaded = json.loads(document)
    parameters = loaded["internalParameters"]
    assert parameters["kernel"] == os.uname().release
    assert parameters["machine"] == os.uname().machine
    assert parameters["os"]["name"]
    names = [tool["name"] for tool in parameters["tools"]]
    assert "python3" in names
    assert names == sorted(names)
    for dependency in loaded["resolvedDependencies"]:
        assert dependency["uri"].startswith("pkg:deb/")


def test_same_machine_gives_the_same_hash(document: bytes) -> None:
    assert read_environment("auto").sha256 == sha256(document).hex()


def test_document_names_neither_host_nor_user_nor_place(document: bytes) -> None:
    text = document.decode()
    assert str(Path.home()) not in text
    assert os.getcwd() not in text


def test_digest_only_keeps_no_document() -> None:
    field = read_environment("auto", digest_only=True)
    assert field.document is None
    assert field.sha256 == read_environment("auto").sha256


def test_document_of_another_machine_in_any_layout(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    path.write_text('{ "b": 1,\n "a": ["x"] }')
    field = read_environment(str(path))
    assert field.document == encode({"a": ["x"], "b": 1})


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1.5}', '{"a": 1, "a": 2}', "nonsense"])
def test_document_that_is_not_acceptable_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "environment.json"
    path.write_text(text)
    with pytest.raises(RejectedError):
        read_environment(str(path))


def test_machine_without_tools_has_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    facts = collect_facts()
    assert (list(facts.tools), list(facts.dependencies)) == ([], [])


def test_tool_that_fails_or_floods_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in {"gcc": "exit 3", "make": "printf 'GNU Make \\033[1m4\\nmore\\n'", "git": "printf ''"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [(tool.name, tool.version) for tool in collect_facts().tools] == [("make", "GNU Make [1m4")]


def test_package_urls_escape_what_is_not_plain() -> None:
    assert _escape("1:2.3~rc1+b1") == "1%3A2.3~rc1+b1"
    assert _escape("a/b c") == "a%2Fb%20c"


def test_suite_is_hashed_as_documented(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.py").write_text("assert 1\n")
    (tmp_path / "b" / "run").write_text("#!/bin/sh\n")
    (tmp_path / "b" / "run").chmod(0o755)
    lines = b"patchwarden-tree-sha256/1\n"
    for mode, name in (("100644", "a.py"), ("100755", "b/run")):
        lines += f"{mode} {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()} {name}\0".encode()
    field = read_test_suite(tmp_path)
    assert (field.sha256, field.count) == (hashlib.sha256(lines).hexdigest(), 2)


def test_what_tools_leave_is_no_part_of_the_suite(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text("1")
    before = read_test_suite(tmp_path)
    for name in (".git", "__pycache__", ".pytest_cache"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    assert read_test_suite(tmp_path) == before


def test_one_file_is_a_suite_too(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text("1")
    assert read_test_suite(tmp_path / "t.py") == read_test_suite(tmp_path)


@pytest.mark.parametrize("kind", ["file link", "directory link", "fifo"])
def test_suite_holds_regular_files_only(tmp_path: Path, kind: str) -> None:
    suite = tmp_path / "tests"
    suite.mkdir()
    (suite / "t.py").write_text("1")
    if kind == "fifo":
        os.mkfifo(suite / "x")
    else:
        (suite / "x").symlink_to(suite / "t.py" if kind == "file link" else tmp_path)
    with pytest.raises(CommandError) as caught:
        read_test_suite(suite)
    assert caught.value.code == "cli.tests.not_regular"


def test_suite_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        read_test_suite(tmp_path / "missing")
    assert caught.value.code == "cli.tests.unreadable"
    with pytest.raises(RejectedError) as rejected:
        read_test_suite(tmp_path)
    assert rejected.value.code == "provenance.suite.empty"


def test_suite_is_found_where_projects_keep_it(tmp_path: Path) -> None:
    assert find_test_suite(tmp_path) is None
    (tmp_path / "test").mkdir()
    assert find_test_suite(tmp_path) == tmp_path / "test"
    (tmp_path / "tests").mkdir()
    assert find_test_suite(tmp_path) == tmp_path / "tests"
