"""`patchwarden patch create`: a diff, its reason and its circumstances, signed as one file."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import CommandError
from node.cli.output import fields
from node.cli.params import ALLOWANCES, DIGEST, EXISTING_DIRECTORY, FILE, FILE_OR_DASH, FORCE, PATH, PATH_OR_DASH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from provenance.components import AffectedComponent
    from provenance.diff_model import Allowance, Diff
    from provenance.imports import ForeignMetadata
    from provenance.metadata import CreatorIdentity, Reason
    from provenance.verify import VerifiedPatch
    from wire.keys import Signer

CATEGORIES: Final = ("bug-fix", "security-update", "feature")
GIT_SECONDS_MAX: Final = 5
_AUTHOR: Final = re.compile(r"\s*(?P<name>[^<>]+?)\s*<(?P<email>[^<>\s]+)>\s*")
_SECTION: Final = re.compile(rb"^diff --git ", re.MULTILINE)
_ANY_DIFF: Final = b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-x\n+y\n"
"""What a header is read in front of: it says nothing about the diff that follows, which may be long."""
_LINK_MODE: Final = re.compile(rb"^(?:(?:new file|deleted file|new|old) mode|index [0-9a-f.]+) 120000$", re.MULTILINE)
_MAIL_SIGNATURE: Final = re.compile(rb"\n-- \n[^\n]{0,80}\n*\Z")
"""What git format-patch writes after a diff: two dashes, and git's version."""
_MAIL_SIGNATURE_BYTES_MAX: Final = 4096
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
    metavar="FILE",
    help="The unified diff, - for standard input.",
)
@click.option(
    "--set",
    "set_path",
    type=EXISTING_DIRECTORY,
    metavar="DIR",
    help="Instead of --diff: a series that `patch import` made; each patch gets the one before it as prerequisite.",
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
@click.option(
    "--category",
    type=click.Choice(CATEGORIES),
    help="What kind of change it is. Default with --set: what set.json says of each.",
)
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
@click.option(
    "--allow",
    type=click.Choice(ALLOWANCES),
    multiple=True,
    help="What the patch may do besides changing text; the target's operator must allow it too; several times.",
)
@click.option("--not-after", metavar="TIME", help="No host applies it later, such as 2027-01-31T00:00:00Z.")
@click.option(
    "--out",
    type=PATH_OR_DASH,
    required=True,
    metavar="FILE|DIR",
    help="Where the signed patch file goes; with --set a new directory.",
)
@FORCE
@click.pass_obj
def create(session: Session, /, out: Path, *, force: bool, **given: Any) -> None:
    """Sign a diff together with its provenance.

    The diff must say exactly one thing: where tools would disagree about it, it is refused, and `patch import` makes it exact.
    """
    from node.cli.files import refuse_existing, write_file

    if (given["diff_path"] is None) == (given["set_path"] is None):
        raise click.UsageError("name one of --diff and --set")
    if given["set_path"] is not None:
        _create_set(session, out, given)
        return
    if given["category"] is None:
        raise click.UsageError("say what kind of change it is: --category")
    refuse_existing(out, force=force)
    key = session.key()
    data, patch = _build(session, key, given)
    refuse_existing(out, force=force)
    write_file(out, data)
    document = _document(out, patch)
    if str(out) == "-":
        return  # The file itself is the answer.
    session.output.emit(document, _lines(document, patch))


def _document(out: Path, patch: VerifiedPatch) -> dict[str, Any]:
    metadata = patch.metadata
    names = metadata.component_names
    return {
        "patch_id": patch.patch_id,
        "file": str(out),
        "files": metadata.patch_diff.files,
        "lines_added": metadata.patch_diff.lines_added,
        "lines_removed": metadata.patch_diff.lines_removed,
        "components": list(names),
        "release_counter": metadata.release_counter,
        "key_id": patch.author_key.key_id_hex,
        "build_environment": metadata.build_environment.sha256,
        "validation_tests": metadata.validation_tests.sha256,
    }


def _lines(document: dict[str, Any], patch: VerifiedPatch) -> Iterator[str]:
    metadata = patch.metadata
    return fields(
        (
            ("patch", patch.patch_id),
            ("file", document["file"]),
            ("title", metadata.reason_for_patch.title),
            ("change", f"{document['files']} files, +{document['lines_added']} -{document['lines_removed']}"),
            ("components", ", ".join(document["components"])),
            ("release counter", metadata.release_counter),
            ("prerequisites", ", ".join(metadata.prerequisites) or None),
            ("signed by", patch.author_key.key_id_hex),
            ("built with", f"{metadata.build_environment.sha256} (build environment)"),
            ("tested with", f"{metadata.validation_tests.sha256} ({metadata.validation_tests.count} files)"),
        )
    )


def _create_set(session: Session, out: Path, given: dict[str, Any]) -> None:
    """Sign every patch of a set in its order; all are made before the first one is written."""
    from node.cli.files import write_file
    from node.cli.output import Progress
    from node.cli.patch_set import make_directory, patch_name, read_diff, read_set
    from node.cli.source_tree import SourceTree
    from provenance.components import describe_components

    if given["reason"] is not None or given["references"] or given["supersedes"]:
        raise click.UsageError("each patch of a set has its own reason: edit the header of its diff instead")
    key = session.key()
    entries = read_set(given["set_path"])
    texts = [read_diff(given["set_path"], entry) for entry in entries]
    diffs = [_parse(split_header(text)[1], given["allow"], shown=False) for text in texts]
    base = SourceTree(given["base"], links="symlink" in given["allow"])
    steps = _series_states(base, diffs)
    circumstances = _Circumstances.of(key, given, base)
    made: list[tuple[bytes, VerifiedPatch]] = []
    prerequisites, counter = given["prerequisites"], given["release_counter"]
    with Progress("patches signed", len(entries), shown=not session.output.as_json) as progress:
        for entry, text, diff, (pre, post) in zip(entries, texts, diffs, steps, strict=True):
            own = {**given, "category": given["category"] or entry.category, "prerequisites": prerequisites}
            own["components_of"] = [each for each in given["components_of"] if each[0] in diff.paths]
            own["release_counter"] = counter
            components = describe_components(diff, pre, post, _names(own), circumstances.component)
            foreign = read_header(split_header(text)[0])
            made.append(_sign(session, own, circumstances, foreign, diff, components))
            prerequisites, counter = (made[-1][1].patch_id,), made[-1][1].metadata.release_counter + 1
            progress.update(len(made))
    make_directory(out)
    documents = []
    lines: list[str] = []
    for entry, (data, patch) in zip(entries, made, strict=True):
        place = out / patch_name(entry.file)
        write_file(place, data)
        documents.append({**_document(place, patch), "prerequisites": list(patch.metadata.prerequisites)})
        lines.append(f"{patch.patch_id}  {place}  {patch.metadata.reason_for_patch.title}")
    session.output.emit({"patches": documents}, lines)


@dataclass(frozen=True, slots=True)
class _Circumstances:
    """What is the same for all patches of one command."""

    key: Signer
    creator: CreatorIdentity
    build_environment: Any
    tests: Any
    component: str

    @classmethod
    def of(cls, key: Signer, given: dict[str, Any], base: Any) -> _Circumstances:
        """Return them as the command line gives them."""
        from node.cli.environment import read_environment
        from provenance.metadata import normalise_text

        return cls(
            key=key,
            creator=_creator(key, given["author"], given["certificate"], base.base),
            build_environment=read_environment(given["build_env"], digest_only=given["env_digest_only"]),
            tests=_tests(given["tests"], base.base),
            component=normalise_text(given["component"] or base.base.resolve().name),
        )


def _build(session: Session, key: Signer, given: dict[str, Any]) -> tuple[bytes, VerifiedPatch]:
    from node.cli.files import read_file
    from node.cli.source_tree import SourceTree
    from wire.limits import PATCH_FILE_BYTES_MAX

    header, raw_diff = split_header(read_file(given["diff_path"], PATCH_FILE_BYTES_MAX))
    diff = _parse(raw_diff, given["allow"], shown=not session.output.as_json)
    base = SourceTree(given["base"], links="symlink" in given["allow"])
    for path, _ in given["components_of"]:
        if path not in diff.paths:
            raise click.UsageError(f"--component-of names {path!r}, which the diff does not touch")
    circumstances = _Circumstances.of(key, given, base)
    components = _components(session, given, circumstances, base, diff)
    return _sign(session, given, circumstances, read_header(header), diff, components)


def _components(
    session: Session, given: dict[str, Any], circumstances: _Circumstances, base: Any, diff: Diff
) -> tuple[AffectedComponent, ...]:
    """Return what the diff touches, read file by file; where the base is the patched tree, with all its files at once."""
    from node.cli.output import Progress
    from provenance.components import describe_applied, describe_components
    from provenance.errors import ApplyRefusedError

    names = _names(given)
    try:
        with Progress("files described", len(diff.files), shown=not session.output.as_json) as progress:
            return describe_applied(diff, base.read, names, circumstances.component, progress.update)
    except ApplyRefusedError as error:
        after = base.states(diff)
        before = _undo(diff, after)
        if before is not None:
            return describe_components(diff, before, after, names, circumstances.component)
        raise ApplyRefusedError(
            error.code,
            f"the diff does not fit the tree {base.base}: {error.message}",
            hint="name the tree that it was made for with --base, or use `patchwarden patch import`",
        ) from error


def _names(given: dict[str, Any]) -> dict[str, str]:
    from provenance.metadata import normalise_text

    return {path: normalise_text(name) for path, name in given["components_of"]}


def _sign(  # noqa: PLR0917 - what is signed, each part once
    session: Session,
    given: dict[str, Any],
    circumstances: _Circumstances,
    foreign: ForeignMetadata | None,
    diff: Diff,
    components: tuple[AffectedComponent, ...],
) -> tuple[bytes, VerifiedPatch]:
    """Return one signed patch file, verified as a stranger would."""
    from node.cli.patch_files import now
    from provenance.metadata import DiffSummary, PatchMetadata
    from provenance.patchfile import build_verified_patch

    metadata = PatchMetadata(
        creation_timestamp=now(),
        creator_identity=circumstances.creator,
        reason_for_patch=_reason(given, foreign),
        affected_components=components,
        patch_diff=DiffSummary.of(diff),
        build_environment=circumstances.build_environment,
        validation_tests=circumstances.tests,
        release_counter=given["release_counter"] or _next_counter(session, {each.name for each in components}),
        supersedes=tuple(sorted(set(given["supersedes"]))),
        prerequisites=tuple(sorted(set(given["prerequisites"]))),
        not_after=given["not_after"],
        allowances=_allowances(diff, given["allow"]),
    )
    return build_verified_patch(metadata, diff.raw, circumstances.key)


def _allowances(diff: Diff, given: Sequence[str]) -> tuple[Allowance, ...]:
    """Return what the diff needs, and the removal of directories if the author asks for it."""
    from provenance.diff_model import Allowance

    asked = {Allowance.REMOVE_DIRECTORY} if Allowance.REMOVE_DIRECTORY in given else set()
    return tuple(sorted(diff.needs | asked))


def split_header(text: bytes) -> tuple[bytes, bytes]:
    """Return what stands in front of the first `diff --git` line, and the diff without a mail's signature."""
    start = _SECTION.search(text)
    if start is None:
        return text, b""
    diff = text[start.start() :]
    signature = _MAIL_SIGNATURE.search(diff, max(0, len(diff) - _MAIL_SIGNATURE_BYTES_MAX))
    return text[: start.start()], diff if signature is None else diff[: signature.start() + 1]


def read_header(header: bytes) -> ForeignMetadata | None:
    """Return what the text in front of a diff says about it, or None when there is none or it cannot be read."""
    from provenance.imports import read_foreign_patch_untrusted
    from wire.errors import RejectedError

    if not header.strip():
        return None
    try:
        return read_foreign_patch_untrusted(header + _ANY_DIFF).metadata
    except RejectedError:
        return None  # The header only proposes; the diff itself is parsed strictly beside this.


def _parse(raw_diff: bytes, allowed: Sequence[str], *, shown: bool) -> Diff:
    from node.cli.output import Progress
    from provenance.diff import Allowance, parse_diff_untrusted
    from provenance.errors import DiffRefusedError
    from wire.limits import KIBIBYTE

    hint = "make it exact first: patchwarden patch import --base DIR FILE --out FILE"
    if not raw_diff:
        raise CommandError("cli.diff.not_git", "there is no `diff --git` line in it", hint=hint)
    try:
        with Progress("KiB of diff read", len(raw_diff) // KIBIBYTE, shown=shown) as progress:
            return parse_diff_untrusted(
                raw_diff,
                frozenset(Allowance(each) for each in allowed),
                progress=lambda done: progress.update(done // KIBIBYTE),
            )
    except DiffRefusedError as error:
        better = _allow_hint(error.code, raw_diff) or error.hint or hint
        raise DiffRefusedError(error.code, error.message, hint=better, details=error.details) from error


def _allow_hint(code: str, raw_diff: bytes) -> str:
    """Return which option the refused diff needs to be read, or "" where none would do."""
    if code == "provenance.diff.binary":
        shown = b"\nGIT binary patch\n" in raw_diff
        return (
            "--allow binary signs binary changes, too"
            if shown
            else "print it with git diff --binary, and say --allow binary"
        )
    if code == "provenance.diff.file_type" and _LINK_MODE.search(raw_diff) is not None:
        return "--allow symlink signs symbolic links, too"
    return ""


def _series_states(base: Any, diffs: Sequence[Diff]) -> list[tuple[Any, Any]]:
    """Return the states before and after each patch of a series; the base is the tree before all of them, or after all."""
    from provenance.diff_apply import apply_diff
    from provenance.errors import ApplyRefusedError

    there = {path: base.read(path) for path in dict.fromkeys(path for diff in diffs for path in diff.reads)}
    now, steps = dict(there), []
    try:
        for diff in diffs:
            pre = {path: now[path] for path in diff.reads}
            post = apply_diff(diff, pre)
            steps.append((pre, post))
            now |= post
        return steps
    except ApplyRefusedError as error:
        refusal = ApplyRefusedError(
            error.code,
            f"patch {len(steps) + 1} of the set does not fit the tree {base.base}: {error.message}",
            hint="name the tree that the set was made for with --base",
            details=error.details,
        )
    now, steps = dict(there), []
    for diff in reversed(diffs):
        post = {path: now[path] for path in diff.reads}
        before = _undo(diff, post)
        if before is None:
            raise refusal
        steps.append((before, post))
        now |= before
    return steps[::-1]


def _undo(diff: Diff, after: Any) -> Any:
    """Return the state that the diff turns into `after`, or None when there is none: a diff read backwards is a diff."""
    from node.cli.source_tree import reverse_diff
    from provenance.diff_apply import apply_diff
    from provenance.diff_model import ChangeKind
    from provenance.errors import ApplyRefusedError

    try:
        before = {**after, **apply_diff(reverse_diff(diff), after)}
        before |= dict.fromkeys((each.path for each in diff.files if each.kind is ChangeKind.COPY), None)
        return before if apply_diff(diff, before) == {path: after[path] for path in diff.paths} else None
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
        title, description = foreign.title, foreign.reason
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
