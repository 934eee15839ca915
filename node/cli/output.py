"""What a command says: one JSON document or lines of text on standard output, notes for a person on standard error.

Text that comes from files and from the ledger is shown with its control characters escaped, line feeds too: it can never steer a terminal,
and the name of a file can never write a line of its own. Whoever has several lines to say, says several.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import click

Json = Any
"""A JSON value."""

NOTE_INTERVAL_S: Final = 2.0
"""Where standard error is no terminal, progress is one line at most this often."""


def printable(text: str) -> str:
    """Return `text` as one line, with everything escaped that is not shown as itself: control, format and bidirectional characters."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def printable_lines(text: str, indent: str = "") -> str:
    """Return the lines of `text`, each as `printable` shows it; all but the first begin with `indent`."""
    return f"\n{indent}".join(map(printable, text.split("\n")))


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> Iterator[str]:
    """Yield lines with the columns aligned; the last column is not padded."""
    cells = [[printable("-" if cell is None else str(cell)) for cell in row] for row in rows]
    titles = [title.upper() for title in header]
    widths = [max(len(row[column]) for row in [titles, *cells]) for column in range(len(titles))]
    for row in [titles, *cells]:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def fields(pairs: Iterable[tuple[str, object]]) -> Iterator[str]:
    """Yield `name: value` lines with the values aligned; pairs whose value is None are left out, a list has a line for each item."""
    shown = [(name, _lines_of(value)) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    for name, (first, *more) in shown:
        yield f"{name + ':':<{width + 1}} {first}".rstrip()
        for line in more:
            yield f"{'':<{width + 1}} {line}".rstrip()


def _lines_of(value: object) -> list[str]:
    items = value if isinstance(value, list | tuple) else [value]
    return [printable(str(item)) for item in items] or [""]


def short(digest: str | None, length: int = 12) -> str:
    """Return the beginning of a long identifier, for tables; the whole one stands in JSON and in `show`."""
    return "-" if not digest else digest if len(digest) <= length else digest[:length] + "…"


def time_text(time_ms: int) -> str:
    """Return milliseconds since epoch as a date and a time of day, UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


class Progress:
    """How far long work has come: a bar on a terminal, a line now and then elsewhere, nothing for programs.

    Args:
        label: What is counted.
        total: How many there are; 0 when nobody knows.
        shown: False for programs.
    """

    def __init__(self, label: str, total: int, *, shown: bool) -> None:
        self._label = label
        self._total = total
        self._shown = shown
        self._noted_at = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        """Begin to show."""
        if self._shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._bar.add_task(self._label, total=self._total or None)
        return self

    def __exit__(self, *_: object) -> None:
        """End, and leave no bar behind."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int) -> None:
        """Show that so much of the whole is done."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=self._total or None)
        elif self._shown and time.monotonic() - self._noted_at >= NOTE_INTERVAL_S:
            self._noted_at = time.monotonic()
            click.echo(f"{self._label}: {done}" + (f" of {self._total}" if self._total else ""), err=True)


class Stages:
    """How far work of several stages has come: one bar on a terminal, a line now and then elsewhere, nothing for programs.

    Args:
        shown: False for programs.
    """

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._noted_at = time.monotonic()
        self._noted = ""
        self._bar: Any = None

    def __enter__(self) -> Stages:
        """Begin; nothing is shown yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End, and leave no bar behind; what is shown afterwards is not."""
        self._shown = False
        if self._bar is not None:
            self._bar.stop()

    def show(self, label: str, done: int = 0, total: int = 0, unit: str = "") -> None:
        """Show what is being done, and how much of it is; a total of 0 is not known, and without a count there is none."""
        if not self._shown:
            return
        label = printable(label)
        count = f"{done} of {total} {unit}".rstrip() if total else f"{done} {unit}".rstrip() if done else ""
        if sys.stderr.isatty():
            self._show_bar(label, done, total, count)
            return
        line = f"{label}: {count}" if count else label
        if line != self._noted and time.monotonic() - self._noted_at >= NOTE_INTERVAL_S:
            self._noted, self._noted_at = line, time.monotonic()
            click.echo(line, err=True)

    def _show_bar(self, label: str, done: int, total: int, count: str) -> None:
        from rich.markup import escape

        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[count]}"),
                TimeElapsedColumn(),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._bar.add_task("", total=None, count="")
        # Without a total, the bar only shows that something is going on.
        self._bar.update(
            self._bar.task_ids[0], description=escape(label), completed=done, total=total or None, count=escape(count)
        )


class Output:
    """One command's voice."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def emit(self, document: Json, lines: Iterable[str]) -> None:
        """Say the answer: `document` for programs, or `lines` for people."""
        if self.as_json:
            click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            for line in lines:
                click.echo(printable(line))

    def emit_event(self, document: Json, line: str) -> None:
        """Say one of many answers as soon as it is there: one line in either form."""
        if self.as_json:
            click.echo(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
        else:
            click.echo(printable(line))
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell a person something that is no part of the answer."""
        if not self.as_json:
            click.echo(printable_lines(text, "  "), err=True)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Progress]:
        """Show how far the body of the `with` has come."""
        with Progress(label, total, shown=not self.as_json) as progress:
            yield progress

    def stages(self) -> Stages:
        """Return what shows how far work of several stages has come, for a `with`."""
        return Stages(shown=not self.as_json)
