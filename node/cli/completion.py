"""`patchwarden completion`: the script that makes a shell complete this command."""

from __future__ import annotations

from typing import Final

import click

from node.cli.command import CONTEXT, Command, Session
from node.cli.errors import CommandError

SHELLS: Final = ("bash", "zsh", "fish")


@click.command(
    "completion",
    cls=Command,
    context_settings=dict(CONTEXT),
    examples=(
        'eval "$(patchwarden completion bash)"',
        "patchwarden completion fish > ~/.config/fish/completions/patchwarden.fish",
    ),
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_obj
def completion(session: Session, shell: str) -> None:
    """Print the script that completes commands and options in SHELL."""
    from click.shell_completion import get_completion_class

    from node.cli.main import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise CommandError("cli.completion.shell", f"there is no completion for {shell}")
    script = kind(cli, {}, "patchwarden", "_PATCHWARDEN_COMPLETE").source()
    session.output.emit({"shell": shell, "script": script}, script.split("\n"))
