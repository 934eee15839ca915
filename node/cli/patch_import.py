"""`patchwarden patch import`: a diff in somebody else's form, made exact for one tree, ready to sign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.command import Command, Session
from node.cli.output import fields
from node.cli.params import EXISTING_DIRECTORY, FILE_OR_DASH

if TYPE_CHECKING:
    from provenance.imports import ForeignMetadata


@click.command(
    "import",
    cls=Command,
    examples=(
        "patchwarden patch import --base ../foo-1.2 debian/patches/fix-overflow.patch --out fix.diff",
        "patchwarden patch create --diff fix.diff --base ../foo-1.2 --category security-update --key alice.key --out fix.patch",
    ),
)
@click.argument("file", type=FILE_OR_DASH, metavar="FILE")
@click.option("--base", type=EXISTING_DIRECTORY, required=True, metavar="DIR", help="The unpatched tree it is for.")
@click.option(
    "--strip", type=click.IntRange(0, 1), help="Leading parts of its file names to take away. Default: found out."
)
@click.option("--out", type=FILE_OR_DASH, required=True, metavar="FILE", help="Where the exact diff goes.")
@click.pass_obj
def import_patch(session: Session, file: Path, base: Path, strip: int | None, out: Path) -> None:
    """Make the diff in FILE exact for the tree DIR.

    FILE is what git format-patch, quilt, Debian (DEP-3) or `diff -u` made. Hunks may have moved; nothing is guessed: where two
    places fit, it is refused with the line. Look at the result before you sign it.
    """
    from node.cli.files import read_file, write_file
    from node.cli.source_tree import SourceTree
    from provenance.diff import parse_diff_untrusted
    from provenance.diff_make import make_diff
    from provenance.imports import read_foreign_patch_untrusted, rebase
    from wire.limits import PATCH_FILE_BYTES_MAX

    foreign = read_foreign_patch_untrusted(read_file(file, PATCH_FILE_BYTES_MAX))
    tree = SourceTree(base)
    rebased = rebase(foreign, tree.read, strip=strip)
    exact = make_diff(rebased.pre, rebased.post, rebased.renames)
    diff = parse_diff_untrusted(exact)
    metadata = foreign.metadata
    write_file(out, header_of(metadata) + exact)
    if str(out) == "-":
        return
    moves = [{"path": each.path, "line": each.line, "offset": each.offset} for each in rebased.moves]
    document = {
        "file": str(out),
        "files": len(diff.files),
        "lines_added": diff.lines_added,
        "lines_removed": diff.lines_removed,
        "strip": rebased.strip,
        "moved_hunks": moves,
        "title": metadata.title,
        "description": metadata.description,
        "author": f"{metadata.author_name} <{metadata.author_email}>" if metadata.author_name else "",
        "references": list(metadata.references),
        "origin": metadata.origin,
        "category": metadata.category,
    }
    moved = "; ".join(f"{each.path} line {each.line}: {each.offset:+d} lines" for each in rebased.moves)
    session.output.emit(
        document,
        fields(
            (
                ("exact diff", out),
                ("change", f"{len(diff.files)} files, +{diff.lines_added} -{diff.lines_removed}"),
                ("moved hunks", moved or None),
                ("title", metadata.title or None),
                ("author", document["author"] or None),
                ("references", ", ".join(metadata.references) or None),
                ("category", f"{metadata.category} (a guess: say it with --category)"),
            )
        ),
    )


def header_of(metadata: ForeignMetadata) -> bytes:
    """Return the text that stands in front of an exact diff, in DEP-3's form: `patch create` takes title and description from it."""
    if not metadata.title:
        return b""
    lines = [f"Description: {metadata.title}"]
    lines += [f" {line}" if line else " ." for line in metadata.description.split("\n") if metadata.description]
    if metadata.author_name:
        lines.append(f"Author: {metadata.author_name} <{metadata.author_email}>")
    if metadata.origin:
        lines.append(f"Origin: {metadata.origin}")
    lines += [f"Bug: {reference}" for reference in metadata.references]
    return "\n".join([*lines, "---", ""]).encode()
