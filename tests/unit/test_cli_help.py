"""Every command's help, and how fast the first one comes."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from node.cli.command import Command
from node.cli.lazy import LazyGroup
from node.cli.main import PLACES, cli
from tests.testkit.cli import every_command, run

COMMANDS = list(every_command())
LEAVES = [(path, command) for path, command in COMMANDS if not isinstance(command, click.Group)]

HEAVY = (
    "trio",
    "rich",
    "httpx",
    "libp2p",
    "fastapi",
    "pydantic",
    "plyvel",
    "pyarrow",
    "cedarpy",
    "cryptography",
    "nacl",
    "structlog",
)


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS])
def test_help_of_every_command_answers(path: tuple[str, ...], command: click.Command) -> None:
    answer = run(*path, "--help")
    assert answer.code == 0
    assert answer.err == ""
    assert answer.out.startswith(f"Usage: patchwarden {' '.join(path)}")


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_help_of_every_command_shows_an_example_and_the_common_options(
    path: tuple[str, ...], command: click.Command
) -> None:
    assert isinstance(command, Command)
    text = run(*path, "--help").out
    examples = text.partition("\nExample")[2]
    assert "patchwarden " in examples
    for option in ("--output [text|json]", "--debug"):
        assert option in text
    if any(parameter.name == "session_rpc" for parameter in command.params):
        assert "--home DIR" in text


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_no_command_takes_a_secret_as_an_argument(path: tuple[str, ...], command: click.Command) -> None:
    for parameter in command.params:
        for name in parameter.opts:
            assert name not in ("--passphrase", "--password", "--secret", "--token"), path


def test_examples_are_commands_that_exist() -> None:
    known = {" ".join(path) for path, _ in LEAVES}
    for path, command in LEAVES:
        assert isinstance(command, Command)
        for example in command._examples:
            if "patchwarden " not in example:
                continue
            words = example.partition("patchwarden ")[2].split()
            assert any(" ".join(words[:count]) in known for count in (1, 2, 3, 4)), f"{path}: {example}"


def test_every_option_has_help() -> None:
    for path, command in LEAVES:
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.help, f"{' '.join(path)} {parameter.opts}"


def test_group_help_lists_its_commands_in_their_order_with_summaries() -> None:
    for path, command in COMMANDS:
        if isinstance(command, LazyGroup):
            text = run(*path, "--help").out
            names = command.list_commands(click.Context(command))
            section = text.partition("\nCommands:\n")[2]
            assert [line.split()[0] for line in section.splitlines() if line[:2] == "  " and line[2:3].strip()] == names


def test_summaries_in_tables_do_not_end_in_nothing() -> None:
    for place in PLACES.values():
        assert place.summary.endswith(".")
        assert len(place.summary) < 80


def test_help_imports_nothing_heavy() -> None:
    program = f"import sys; from node.cli.main import cli; cli.run(['--help']); print(sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert run("--version").out == f"patchwarden {version('patchwarden')}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_the_command(shell: str) -> None:
    script = run("completion", shell).out
    assert "_PATCHWARDEN_COMPLETE" in script
    assert f"{shell}_complete" in script


def test_completion_completes_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node.cli"],
        env={
            "_PATCHWARDEN_COMPLETE": "bash_complete",
            "COMP_WORDS": "patchwarden patch at",
            "COMP_CWORD": "2",
            "PATH": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["plain,attest"]


def test_root_is_named_like_the_script() -> None:
    assert cli.name == "patchwarden"
