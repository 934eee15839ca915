"""Command lines run in this process, as click's own runner does it, with the answer read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
from click.testing import CliRunner

from node.cli.lazy import LazyGroup
from node.cli.main import cli


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON that the command answered with."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The JSON that the command was refused with."""
        document: dict[str, Any] = json.loads(self.err)["error"]
        return document


def run(*arguments: object, stdin: bytes | str | None = None, env: dict[str, str | None] | None = None) -> Answer:
    """Run `patchwarden` with these arguments."""
    # Author and node must come from the command line: a developer's environment must not change a test.
    names = ("PATCHWARDEN_RPC", "PATCHWARDEN_OUTPUT", "PATCHWARDEN_AUTHOR", "PATCHWARDEN_SIGNER")
    environment = {**dict.fromkeys(names), **(env or {})}
    result = CliRunner().invoke(
        cli, [str(each) for each in arguments], input=stdin, env=environment, prog_name="patchwarden"
    )
    return Answer(result.exit_code, result.stdout, result.stderr)


def run_json(*arguments: object, code: int = 0, **options: Any) -> Any:
    """Run a command that must end with `code`, and return its JSON answer."""
    answer = run(*arguments, "-o", "json", **options)
    assert answer.code == code, f"{arguments}: exit code {answer.code}\n{answer.out}\n{answer.err}"
    return answer.document if answer.out.strip() else None


def refused(*arguments: object, code: int = 1, **options: Any) -> str:
    """Run a command that must be refused with exit code `code`, and return the stable code of the refusal."""
    answer = run(*arguments, "-o", "json", **options)
    assert answer.code == code, f"{arguments}: exit code {answer.code}\n{answer.out}\n{answer.err}"
    assert answer.out == ""
    return str(answer.error["code"])


def every_command(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with its words, groups included."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, LazyGroup):
            yield from every_command(command, (*path, name))
