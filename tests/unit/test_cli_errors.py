"""How commands end: exit codes, sentences, JSON, and no traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from node.cli import main
from node.cli.command import wants_json
from node.cli.errors import CommandError, exit_code, from_os_error, worst
from node.local.protocol import InternalError
from tests.testkit.cli import refused, run
from wire.errors import CorruptionError, PatchwardenError, RejectedError, UnavailableError


def report(
    error: BaseException, capsys: pytest.CaptureFixture[str], *, as_json: bool = True, debug: bool = False
) -> tuple[int, str]:
    code = main.report(error, as_json=as_json, debug=debug)
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RejectedError("a.b", "no"), 1),
        (CommandError("cli.x", "no"), 1),
        (UnavailableError("a.b", "later"), 3),
        (CorruptionError("a.b", "damaged"), 4),
        (InternalError("a.b", "bug elsewhere"), 70),
        (click.UsageError("wrong"), 2),
        (click.exceptions.Exit(1), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (ValueError("bug"), 70),
        (SystemExit(5), 5),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 3),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1),
    ],
)
def test_exit_code_follows_from_the_error(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(error, capsys)[0] == code


def test_refusal_is_one_sentence_with_code_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    error = RejectedError(
        "ledger.tx.expired", "the transaction has expired", hint="sign it again", expected=3, actual=7
    )
    code, text = report(error, capsys, as_json=False)
    assert code == 1
    assert text == "error: the transaction has expired: expected 3, got 7 [ledger.tx.expired]\n  try: sign it again\n"


def test_refusal_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    error = RejectedError(
        "ledger.tx.expired", "the transaction has expired", hint="sign it again", details={"height": 7}
    )
    _, text = report(error, capsys)
    assert json.loads(text) == {
        "error": {
            "code": "ledger.tx.expired",
            "message": "the transaction has expired",
            "hint": "sign it again",
            "details": {"height": 7},
        }
    }


def test_bug_shows_no_traceback_unless_debug(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("something inside")
    except ValueError as error:
        code, text = report(error, capsys, as_json=False)
        assert code == 70
        assert "Traceback" not in text
        assert "something inside" in text
        assert "--debug" in text
        code, text = report(error, capsys, as_json=False, debug=True)
    assert code == 70
    assert "Traceback" in text
    assert "test_cli_errors.py" in text


def test_control_characters_in_messages_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _, text = report(ValueError("\x1b[2Jgone\u202e"), capsys, as_json=False)
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_group_of_errors_ends_with_the_one_that_says_most(capsys: pytest.CaptureFixture[str]) -> None:
    unavailable, corrupt = UnavailableError("a.u", "later"), CorruptionError("a.c", "damaged")
    group = BaseExceptionGroup("tasks", [unavailable, BaseExceptionGroup("inner", [corrupt, KeyboardInterrupt()])])
    assert worst(group) is corrupt
    assert report(group, capsys)[0] == 4
    bug = ValueError("bug")
    assert worst(ExceptionGroup("tasks", [corrupt, bug])) is bug


def test_error_outside_the_families_is_a_bug() -> None:
    assert exit_code(PatchwardenError("a.b", "what family?")) == 70


def test_system_error_names_the_file() -> None:
    error = from_os_error(PermissionError(errno.EACCES, "Permission denied", "/some/file"))
    assert isinstance(error, CommandError)
    assert error.code == "cli.os.refused"
    assert error.message == "/some/file: permission denied"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-o", "json"], True),
        (["key", "show", "--output", "json"], True),
        (["-ojson"], True),
        (["--output=json"], True),
        (["-o", "text", "json"], False),
        (["json"], False),
        ([], False),
    ],
)
def test_wish_for_json_is_seen_in_wrong_command_lines(arguments: list[str], expected: bool) -> None:
    assert wants_json(arguments) is expected


def test_usage_errors() -> None:
    assert refused("key", "generate", code=2) == "cli.usage"
    assert refused("nonsense", code=2) == "cli.usage"
    assert refused("block", "show", "12", "--rpc", code=2) == "cli.usage"


def test_unknown_command_names_the_ones_that_look_like_it() -> None:
    answer = run("patch", "atest")
    assert answer.code == 2
    assert "attest" in answer.err
    assert answer.out == ""


def test_missing_command_shows_the_help_on_standard_error() -> None:
    answer = run("patch")
    assert answer.code == 2
    assert answer.out == ""
    assert "Commands:" in answer.err


def test_node_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    assert refused("node", "status", "--home", tmp_path, code=3) == "node.local.unreachable"
    assert refused("node", "status", "--rpc", "http://127.0.0.1:1", code=3) == "cli.rpc.unreachable"


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:7080", "http://", "http://host/path", "http://host?query"])
def test_rpc_must_be_a_base_url(url: str) -> None:
    assert refused("node", "status", "--rpc", url) == "cli.rpc.url"


def test_environment_chooses_output_and_node_and_flags_win(tmp_path: Path) -> None:
    by_environment = run("node", "status", env={"PATCHWARDEN_RPC": "http://127.0.0.1:1"})
    assert "cli.rpc.unreachable" in by_environment.err
    flag_wins = run("node", "status", "--home", tmp_path, env={"PATCHWARDEN_RPC": "http://127.0.0.1:1"})
    assert "node.local.unreachable" in flag_wins.err


def test_output_into_a_closed_pipe_ends_quietly() -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys; os.read(0, 1); from node.cli.main import main; main()",
            "policy",
            "facts",
        ],
        stdin=subprocess.PIPE,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    os.close(reading)
    _, err = process.communicate("x", timeout=30)
    assert process.returncode == 1
    assert err == ""
