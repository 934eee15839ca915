"""The operations manual names commands, options and settings that exist, and all of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import click
import pytest

from node.cli.main import PLACES
from node.config import NodeConfig
from tests.testkit.cli import every_command

DOCUMENTS = (
    "README.md",
    "docs/interop.md",
    "docs/operations/agent.md",
    "docs/operations/air-gapped.md",
    "docs/operations/backup.md",
    "docs/operations/cli.md",
    "docs/operations/devnet.md",
    "docs/operations/governance.md",
    "docs/operations/identities.md",
    "docs/operations/node.md",
    "docs/operations/policy.md",
    "docs/operations/rollouts.md",
    "devnet/README.md",
)
COMMANDS = dict(every_command())
SHELL_WORDS = frozenset({"|", "||", "&&", "&", ";", ">", "2>"})
"""What stands behind one of these is not the command's any more."""


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of every `patchwarden …` line in fenced blocks, continued lines joined."""
    for block in re.findall(r"^```[a-z ]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.match(r"\s*(?:\$ )?(?:\S*/)?patchwarden (.*)", line)
            if command is not None:
                yield list(takewhile(lambda word: word not in SHELL_WORDS, shlex.split(command[1], comments=True)))


def resolve(words: list[str]) -> tuple[tuple[str, ...], click.Command]:
    for count in (4, 3, 2, 1):
        found = COMMANDS.get(tuple(words[:count]))
        if found is not None:
            return tuple(words[:count]), found
    raise AssertionError(f"no such command: patchwarden {' '.join(words)}")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_in_documents_exist(repository_root: Path, document: str) -> None:
    for words in command_lines((repository_root / document).read_text()):
        if words == ["--version"]:
            continue
        path, command = resolve(words)
        known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
        for word in words[len(path) :]:
            if word == "--":
                break  # What follows belongs to another program.
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in {*known, "--help"}, f"patchwarden {' '.join(words)}"


@pytest.mark.parametrize(
    "path", [path for path, command in COMMANDS.items() if not isinstance(command, click.Group)], ids=" ".join
)
def test_examples_in_help_use_options_that_exist(path: tuple[str, ...]) -> None:
    for example in COMMANDS[path]._examples:  # type: ignore[attr-defined]
        for part in re.split(r"\||&&|;", example.replace("\\\n", " ")):
            if (found := re.search(r"patchwarden ([^>]*)", part)) is None:
                continue
            words = shlex.split(found[1].replace('"$(', "").replace(')"', ""))
            words_path, command = resolve(words)
            known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
            for word in words[len(words_path) :]:
                if word == "--":
                    break  # What follows belongs to another program.
                if word.startswith("-") and word != "-":
                    assert word in known, example


def test_manual_names_every_group(repository_root: Path) -> None:
    text = (repository_root / "docs/operations/cli.md").read_text()
    for name in PLACES:
        assert re.search(rf"`{name}\b", text), name


def test_manual_names_every_command(repository_root: Path) -> None:
    text = (repository_root / "docs/operations/cli.md").read_text().partition("## Groups")[2]
    for path, command in COMMANDS.items():
        if len(path) == 2 and not isinstance(command, click.Group):
            row = next(line for line in text.splitlines() if re.match(rf"\|.*`{path[0]} [a-z]", line))
            assert re.search(rf"[ |]{path[1]}\b", row.replace("\\|", "|")) or "…" in row, path


def test_manual_names_every_setting_with_its_default(repository_root: Path) -> None:
    text = (repository_root / "docs/operations/node.md").read_text()
    section = text.partition("## Settings")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \|", section, flags=re.MULTILINE))
    assert set(rows) == set(NodeConfig.model_fields)
    for name, field in NodeConfig.model_fields.items():
        shown = rows[name].strip().strip("`")
        if field.is_required() or field.default in (None, (), ""):
            assert shown in ("none", "empty"), name
        else:
            assert shown == str(field.default).lower(), name
