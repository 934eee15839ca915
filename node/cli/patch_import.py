"""`patchwarden patch import`: diffs in somebody else's form, made exact for one tree, ready to sign."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import CommandError
from node.cli.output import Stages, fields
from node.cli.params import ALLOWANCES, EXISTING_DIRECTORY, FILE_OR_DASH, FORCE, PATH, PATH_OR_DASH

if TYPE_CHECKING:
    from provenance.import_rebase import ReadState
    from provenance.import_series import Imported, Refused, Source, Step

_STEPS: Final = {
    "read": "reading it",
    "place": "looking for the places of its hunks",
    "make": "making the exact diff",
}
"""What a person who waits is told of each `Step`."""


@click.command(
    "import",
    cls=Command,
    examples=(
        "patchwarden patch import --base ../foo-1.2 debian/patches/fix-overflow.patch --out fix.diff",
        "patchwarden patch create --diff fix.diff --base ../foo-1.2 --category security-update --key alice.key --out fix.patch",
        "patchwarden patch import --series debian/patches --base ../foo-1.2 --out exact",
        "patchwarden patch create --set exact --base ../foo-1.2 --key alice.key --out signed",
        "patchwarden patch import --git v1.2..fixes --out exact",
        "patchwarden patch import --base ../foo-1.2 pull-request-17.patch --out exact",
    ),
)
@click.argument("file", type=FILE_OR_DASH, metavar="[FILE]", required=False)
@click.option("--series", type=PATH, metavar="DIR|FILE", help="Import a quilt series, all patches in its order.")
@click.option("--git", "git_range", metavar="OLD..NEW", help="Import the commits of a range, oldest first.")
@click.option(
    "--repository",
    type=EXISTING_DIRECTORY,
    default=".",
    metavar="DIR",
    help="The git repository of --git. Default: the current directory.",
)
@click.option(
    "--base",
    type=EXISTING_DIRECTORY,
    metavar="DIR",
    help="The unpatched tree it is for. Default with --git: the tree of OLD.",
)
@click.option(
    "--strip", type=click.IntRange(0, 1), help="Leading parts of its file names to take away. Default: found out."
)
@click.option(
    "--allow",
    type=click.Choice(ALLOWANCES),
    multiple=True,
    help="What the exact diff may do besides changing text; several times.",
)
@click.option("--skip-refused", is_flag=True, help="Leave refused patches out of a series, and name them.")
@click.option(
    "--out",
    type=PATH_OR_DASH,
    required=True,
    metavar="FILE|DIR",
    help="Where the exact diff goes; a new directory for several patches.",
)
@FORCE
@click.pass_obj
def import_patch(session: Session, /, file: Path | None, out: Path, *, force: bool, **given: Any) -> None:
    """Make somebody's diffs exact for the tree DIR.

    FILE is what git format-patch, quilt, Debian (DEP-3) or `diff -u` made, or a mailbox or pull request's .patch with several. Hunks may
    have moved; nothing is guessed: where two places fit, it is refused with the line. What is not taken over is said line by line.

    Several patches become a set: a directory of exact diffs and set.json, for `patch create --set`. Look at the result before you sign it.
    """
    from dataclasses import replace

    from node.cli.files import refuse_existing
    from provenance.diff_model import Allowance
    from provenance.import_series import import_series

    refuse_existing(out, force=force)
    allowed = frozenset(Allowance(each) for each in given["allow"])
    sources, said, read = _sources(file, given)
    if given["strip"] is not None:
        sources = [replace(each, strip=given["strip"]) for each in sources]
    for sentence in said:
        session.output.note(sentence)
    if not sources:
        raise CommandError("cli.import.empty", "there is no patch in it")
    total = len(sources)
    with Stages(shown=not session.output.as_json) as stages:
        results: list[Imported | Refused] = []

        def tell(name: str, step: Step) -> None:
            stages.show(f"{name}: {_STEPS[step.value]}", len(results), total, "patches")

        for result in import_series(_let_go(sources), read, allowed, tell):
            results.append(result)
    if file is not None and total == 1:
        _emit_one(session, results[0], out)
    else:
        _emit_set(session, results, out, skip_refused=given["skip_refused"])


def _sources(file: Path | None, given: dict[str, Any]) -> tuple[list[Source], list[str], ReadState]:
    """Return the patches in their order, what of them is left out already, and the tree before the first."""
    from node.cli.patch_import_sources import GitRange, from_file, from_series
    from node.cli.source_tree import SourceTree

    series, git_range, base = given["series"], given["git_range"], given["base"]
    links = "symlink" in given["allow"]
    if sum(each is not None for each in (file, series, git_range)) != 1:
        raise click.UsageError("name one of FILE, --series and --git")
    if git_range is not None:
        commits = GitRange(given["repository"], git_range, links=links)
        return commits.sources(), [], commits.read if base is None else SourceTree(base, links=links).read
    if base is None:
        raise click.UsageError("name the unpatched tree with --base")
    if series is not None:
        return from_series(series), [], SourceTree(base, links=links).read
    assert file is not None, "one of the three is there"
    return *from_file(file), SourceTree(base, links=links).read


def _let_go(sources: list[Source]) -> Iterator[Source]:
    """Yield the sources and keep none: one of them can be as long as a patch may be."""
    sources.reverse()
    while sources:
        yield sources.pop()


def _emit_one(session: Session, result: Imported | Refused, out: Path) -> None:
    from node.cli.files import write_file
    from node.cli.patch_set import describe, header_of
    from provenance.import_series import Refused

    if isinstance(result, Refused):
        raise result.error
    write_file(out, header_of(result.foreign.metadata) + result.diff.raw)
    if str(out) == "-":
        return
    document = {"file": str(out), **describe(result)}
    session.output.emit(document, [*fields(_rows(document, "exact diff", out)), *_note_lines(document)])


def _emit_set(session: Session, results: list[Imported | Refused], out: Path, *, skip_refused: bool) -> None:
    from node.cli.patch_set import write_set
    from provenance.import_series import Imported, Refused

    refused = [each for each in results if isinstance(each, Refused)]
    accepted = [each for each in results if isinstance(each, Imported)]
    lines = []
    for each in refused:
        lines.append(f"refused  {each.name}: {each.error.message} ({each.error.code})")
        lines += [f"  try: {each.error.hint}"] if each.error.hint else []
    if not accepted or (refused and not skip_refused):
        for line in lines:
            session.output.note(line)
        raise CommandError(
            "cli.import.refused",
            f"{len(refused)} of {len(results)} patches cannot be taken over; nothing was written",
            hint="leave them out with --skip-refused, or bring them in order first; the first one refused may be the reason for others",
            details={"refused": ", ".join(f"{each.name} ({each.error.code})" for each in refused[:20])},
        )
    if str(out) == "-":
        raise click.UsageError("several patches go to a directory: --out DIR")
    entries = write_set(out, accepted)
    document = {
        "directory": str(out),
        "patches": entries,
        "refused": [
            {
                "source": each.name,
                "code": each.error.code,
                "message": each.error.message,
                "hint": each.error.hint,
            }
            for each in refused
        ],
    }
    for entry in entries:
        lines += ["", *fields(_rows(entry, "exact diff", out / entry["file"])), *_note_lines(entry)]
    session.output.emit(
        document,
        [*lines, "", f"{len(accepted)} patches in {out}, {len(refused)} refused. Sign: patch create --set {out}"],
    )


def _rows(document: dict[str, Any], label: str, path: Path) -> list[tuple[str, Any]]:
    """Return what a person reads about one imported patch."""
    moved = "; ".join(
        f"{each['path']} line {each['line']}: {each['offset']:+d} lines" for each in document["moved_hunks"]
    )
    return [
        (label, path),
        ("from", document["source"]),
        ("change", f"{document['files']} files, +{document['lines_added']} -{document['lines_removed']}"),
        ("moved hunks", moved or None),
        ("title", document["title"] or None),
        ("author", document["author"] or None),
        ("origin", document["origin"] or None),
        ("references", ", ".join(document["references"]) or None),
        *(("kept", trailer) for trailer in document["trailers"]),
        ("category", f"{document['category']} (a guess: say it with --category)"),
    ]


def _note_lines(document: dict[str, Any]) -> list[str]:
    return [f"  line {each['line']}: {each['text']}" for each in document["notes"]]
