"""`patchwarden patch create`: a diff, its reason and its circumstances, signed as one file."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import CommandError
from node.cli.output import fields
from node.cli.params import DIGEST, EXISTING_DIRECTORY, FILE, FILE_OR_DASH, PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.diff_model import Diff
    from provenance.imports import ForeignMetadata
    from provenance.metadata import CreatorIdentity, Reason
    from wire.keys import Signer

CATEGORIES: Final = ("bug-fix", "security-update", "feature")
GIT_SECONDS_MAX: Final = 5
_AUTHOR: Final = re.compile(r"\s*(?P<name>[^<>]+?)\s*<(?P<email>[^<>\s]+)>\s*")
_SECTION: Final = re.compile(rb"^diff --git ", re.MULTILINE)
_MAIL_SIGNATURE: Final = re.compile(rb"\n-- \n[^\n]{0,80}\n*\Z")
"""What git format-patch writes after a diff: two dashes, and git's version."""
_REFERENCE: Final = re.compile(r"\bCVE-[0-9]{4}-[0-9]{4,19}\b")


@click.command(
    "create",
    cls=Command,
    node=True,
    signs=True,
    examples=(
        "git diff | patchwarden patch create --diff - --reason 'Check the length before reading' \\\n"
        "      --category security-update --reference CVE-2026-0001 --component frames \\\n"
        "      --tests tests --key alice.key --out fix.patch",
        "patchwarden patch create --diff fix.diff --base ../frames-1.4 --category bug-fix --key alice.key --out fix.patch",
    ),
)
@click.option(
    "--diff",
    "diff_path",
    type=FILE_OR_DASH,
    required=True,
    metavar="FILE",
    help="The unified diff, - for standard input.",
)
@click.option(
    "--base",
    type=EXISTING_DIRECTORY,
    default=".",
    metavar="DIR",
    help="The tree that the diff applies to, unpatched or already patched. Default: the current directory.",
)
@click.option(
    "--reason",
    metavar="TEXT",
    help="Why: the first line is the title, the rest the description. Default: the header in front of the diff.",
)
@click.option("--category", type=click.Choice(CATEGORIES), required=True, help="What kind of change it is.")
@click.option("--reference", "references", multiple=True, metavar="CVE|URL", help="A CVE id or a URL; several times.")
@click.option(
    "--component", metavar="NAME", help="The changed component: a package URL or a name. Default: the base's name."
)
@click.option(
    "--component-of",
    "components_of",
    type=(str, str),
    multiple=True,
    metavar="PATH NAME",
    help="The component of one path, where a diff touches several.",
)
@click.option(
    "--author",
    metavar="'NAME <EMAIL>'",
    envvar="PATCHWARDEN_AUTHOR",
    help="You. Default: git's user.name and user.email.",
)
@click.option(
    "--certificate", type=FILE, metavar="PEM", help="Your certificate chain, leaf first, instead of a bare key (DID)."
)
@click.option(
    "--build-env", default="auto", show_default=True, metavar="auto|FILE", help="This machine, or a JSON document."
)
@click.option("--env-digest-only", is_flag=True, help="Put only the hash of the build environment into the patch.")
@click.option("--tests", type=PATH, metavar="DIR|FILE", help="The test suite. Default: the base's tests folder.")
@click.option(
    "--release-counter",
    type=click.IntRange(min=1),
    metavar="N",
    help="Grows with each release. Default: the next, if a node is named; otherwise 1.",
)
@click.option("--supersedes", type=DIGEST, multiple=True, help="A patch that this one replaces; several times.")
@click.option(
    "--prerequisite",
    "prerequisites",
    type=DIGEST,
    multiple=True,
    help="A patch that must be applied before; several times.",
)
@click.option("--not-after", metavar="TIME", help="No host applies it later, such as 2027-01-31T00:00:00Z.")
@click.option("--out", type=FILE_OR_DASH, required=True, metavar="FILE", help="Where the signed patch file goes.")
@click.pass_obj
def create(session: Session, /, out: Path, **given: Any) -> None:
    """Sign a diff together with its provenance.

    The diff must say exactly one thing: where tools would disagree about it, it is refused, and `patch import` makes it exact.
    """
    from node.cli.files import write_file
    from provenance.patchfile import build_patch_file
    from provenance.verify import verify_patch_untrusted

    key = session.key()
    data = _build(session, key, given, build_patch_file)
    patch = verify_patch_untrusted(data)
    write_file(out, data)
    metadata = patch.metadata
    names = sorted({each.name for each in metadata.affected_components})
    document = {
        "patch_id": patch.patch_id,
        "file": str(out),
        "files": metadata.patch_diff.files,
        "lines_added": metadata.patch_diff.lines_added,
        "lines_removed": metadata.patch_diff.lines_removed,
        "components": names,
        "release_counter": metadata.release_counter,
        "key_id": patch.author_key.key_id_hex,
        "build_environment": metadata.build_environment.sha256,
        "validation_tests": metadata.validation_tests.sha256,
    }
    if str(out) == "-":
        return  # The file itself is the answer.
    session.output.emit(
        document,
        fields(
            (
                ("patch", patch.patch_id),
                ("file", out),
                ("title", metadata.reason_for_patch.title),
                ("change", f"{document['files']} files, +{document['lines_added']} -{document['lines_removed']}"),
                ("components", ", ".join(names)),
                ("release counter", metadata.release_counter),
                ("signed by", patch.author_key.key_id_hex),
                ("built with", f"{metadata.build_environment.sha256} (build environment)"),
                ("tested with", f"{metadata.validation_tests.sha256} ({metadata.validation_tests.count} files)"),
            )
        ),
    )


def _build(session: Session, key: Signer, given: dict[str, Any], build: Any) -> bytes:
    from node.cli.environment import read_environment
    from node.cli.files import read_file
    from node.cli.patch_files import now
    from node.cli.source_tree import SourceTree
    from provenance.components import describe_components
    from provenance.metadata import DiffSummary, PatchMetadata, normalise_text
    from wire.limits import PATCH_FILE_BYTES_MAX

    text = read_file(given["diff_path"], PATCH_FILE_BYTES_MAX)
    header, raw_diff = split_header(text)
    diff = _parse(raw_diff)
    foreign = read_header(text) if header.strip() else None
    base = SourceTree(given["base"])
    pre, post = _states(base, diff)
    names = {path: normalise_text(name) for path, name in given["components_of"]}
    for path in names:
        if path not in diff.paths:
            raise click.UsageError(f"--component-of names {path!r}, which the diff does not touch")
    component = normalise_text(given["component"] or base.base.resolve().name)
    components = describe_components(diff, pre, post, names, component)
    metadata = PatchMetadata(
        creation_timestamp=now(),
        creator_identity=_creator(key, given["author"], given["certificate"], base.base),
        reason_for_patch=_reason(given, foreign),
        affected_components=components,
        patch_diff=DiffSummary.of(diff),
        build_environment=read_environment(given["build_env"], digest_only=given["env_digest_only"]),
        validation_tests=_tests(given["tests"], base.base),
        release_counter=given["release_counter"] or _next_counter(session, {each.name for each in components}),
        supersedes=tuple(sorted(set(given["supersedes"]))),
        prerequisites=tuple(sorted(set(given["prerequisites"]))),
        not_after=given["not_after"],
    )
    data: bytes = build(metadata, diff.raw, key)
    return data


def split_header(text: bytes) -> tuple[bytes, bytes]:
    """Return what stands in front of the first `diff --git` line, and the diff without a mail's signature."""
    start = _SECTION.search(text)
    if start is None:
        return text, b""
    diff = text[start.start() :]
    signature = _MAIL_SIGNATURE.search(diff)
    return text[: start.start()], diff if signature is None else diff[: signature.start() + 1]


def read_header(text: bytes) -> ForeignMetadata | None:
    """Return what the text in front of a diff says about it, or None when it cannot be read."""
    from provenance.imports import read_foreign_patch_untrusted
    from wire.errors import RejectedError

    try:
        return read_foreign_patch_untrusted(text).metadata
    except RejectedError:
        return None  # The header only proposes; the diff itself is parsed strictly beside this.


def _parse(raw_diff: bytes) -> Diff:
    from provenance.diff import parse_diff_untrusted
    from provenance.errors import DiffRefusedError

    hint = "make it exact first: patchwarden patch import --base DIR FILE --out FILE"
    if not raw_diff:
        raise CommandError("cli.diff.not_git", "there is no `diff --git` line in it", hint=hint)
    try:
        return parse_diff_untrusted(raw_diff)
    except DiffRefusedError as error:
        raise DiffRefusedError(error.code, error.message, hint=error.hint or hint, details=error.details) from error


def _states(base: Any, diff: Diff) -> tuple[Any, Any]:
    """Return the states before and after; the base may be the unpatched tree, or the patched one it was made in."""
    from provenance.diff_apply import apply_diff
    from provenance.errors import ApplyRefusedError

    now_there = base.states(diff)
    try:
        return now_there, apply_diff(diff, now_there)
    except ApplyRefusedError as error:
        before = _undo(diff, now_there)
        if before is not None:
            return before, now_there
        raise ApplyRefusedError(
            error.code,
            f"the diff does not fit the tree {base.base}: {error.message}",
            hint="name the tree that it was made for with --base, or use `patchwarden patch import`",
        ) from error


def _undo(diff: Diff, after: Any) -> Any:
    """Return the state that the diff turns into `after`, or None when there is none: a diff read backwards is a diff."""
    from node.cli.source_tree import reverse_diff
    from provenance.diff_apply import apply_diff
    from provenance.errors import ApplyRefusedError

    try:
        before = apply_diff(reverse_diff(diff), after)
        return before if apply_diff(diff, before) == after else None
    except ApplyRefusedError:
        return None


def _creator(key: Signer, author: str | None, certificate: Path | None, base: Path) -> CreatorIdentity:
    from provenance.metadata import CreatorIdentity, normalise_text

    match = _AUTHOR.fullmatch(author or _git_author(base))
    if match is None:
        raise click.UsageError("say who you are: --author 'NAME <EMAIL>'")
    name, email = normalise_text(match["name"]), match["email"]
    if certificate is None:
        return CreatorIdentity.from_key(key.public_key, name, email)
    from node.cli.public_keys import read_certificates

    return CreatorIdentity.from_certificates(read_certificates(certificate), name, email)


def _git_author(base: Path) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    answers = []
    for name in ("user.name", "user.email"):
        try:
            done = subprocess.run(
                [git, "config", "--get", name],
                cwd=base,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=GIT_SECONDS_MAX,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        answers.append(done.stdout.decode("utf-8", "replace").strip())
    return f"{answers[0]} <{answers[1]}>"


def _reason(given: dict[str, Any], foreign: ForeignMetadata | None) -> Reason:
    from provenance.metadata import Category, Reason, normalise_text

    text: str | None = given["reason"]
    references: Sequence[str] = given["references"]
    if text is None:
        if foreign is None or not foreign.title:
            raise click.UsageError("say why: --reason TEXT, or put a header in front of the diff")
        title, description = foreign.title, foreign.description
        references = references or foreign.references
    else:
        title, _, description = text.strip().partition("\n")
        references = references or tuple(dict.fromkeys(_REFERENCE.findall(text)))
    title = normalise_text(title)
    return Reason(
        Category(given["category"]), title, normalise_text(description, multiline=True) or title, tuple(references)
    )


def _tests(path: Path | None, base: Path) -> Any:
    from node.cli.environment import find_test_suite, read_test_suite

    place = path or find_test_suite(base)
    if place is None:
        raise click.UsageError(f"name the test suite with --tests: {base} has no folder called tests")
    return read_test_suite(place)


def _next_counter(session: Session, components: set[str]) -> int:
    """Return one more than the highest published counter of these components; 1 when no node was named."""
    if not session.has_node:
        return 1
    published = session.client().call("patches.list", limit=500)
    highest = [each["release_counter"] for each in published if components & set(each["components"])]
    return max(highest, default=0) + 1
