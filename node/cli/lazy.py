"""Groups that know their commands by name and import one when it is used.

A group's table holds, for each command, the place of its object and the sentence that the group's help shows. So help costs no import, and
a command costs only its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click


class Place(NamedTuple):
    """Where a command is, and what it is for."""

    target: str
    """``module:attribute``."""
    summary: str
    """One line, as the group's help shows it."""


class LazyGroup(click.Group):
    """A group over a table of places."""

    def __init__(self, *args: Any, places: Mapping[str, Place], **kwargs: Any) -> None:
        kwargs.setdefault("no_args_is_help", True)
        super().__init__(*args, **kwargs)
        self._places = dict(places)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order: the order in which they are used."""
        del ctx
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None when the table has no such name."""
        del ctx
        place = self._places.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; an unknown one is refused with those that look like it."""
        if args and args[0] not in self._places and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self._places, n=2)
            known = " or ".join(near) if near else ", ".join(self._places)
            raise click.UsageError(f"there is no command {args[0]!r} here; did you mean {known}?", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in self._places.items()])
