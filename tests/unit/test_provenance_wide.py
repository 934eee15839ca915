"""Wide patches: the statement names a list by digest, the preamble holds it, and neither can say anything else than the other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from provenance import patchfile
from provenance.component_listing import ComponentSummary, encode_listing, read_listing_untrusted
from provenance.diff_model import FileState
from provenance.errors import InvalidMetadataError, MalformedPatchError
from provenance.layout import BODY_END, split_patch_file_untrusted
from provenance.limits import COMPONENTS_SUMMARISED_MAX, COMPONENTS_SUMMARISED_MIN
from provenance.patchfile import build_patch_file
from provenance.schema import extract, schema_document
from provenance.statement import decode_author_statement_untrusted
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.appliers import INSTALLED, Tool, run_tool
from tests.testkit.git_tool import am_file
from wire import canonical_json
from wire.envelope import encode_envelope, sign_envelope
from wire.errors import RejectedError

COUNT = COMPONENTS_SUMMARISED_MIN + 3


def tree(count: int, text: bytes) -> dict[str, FileState]:
    return {f"src/m {i % 7}/é{i}.c": FileState(0o100644, b"%s %d\n" % (text, i)) for i in range(count)}


BEFORE, AFTER = tree(COUNT, b"old"), tree(COUNT, b"new")


@pytest.fixture(scope="module")
def wide() -> bytes:
    """A patch whose components are summarised though a statement had room for them."""
    metadata, diff = patches.make_metadata(BEFORE, AFTER)
    names = [f"pkg:deb/debian/{'foo' if i % 3 else 'bar'}@1.2" for i in range(COUNT)]
    components = tuple(replace(each, name=name) for each, name in zip(metadata.affected_components, names, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patchfile, "COMPONENTS_MAX", COUNT - 1)
        return build_patch_file(replace(metadata, affected_components=components), diff, patches.ALICE)


def refusal(data: bytes) -> str:
    with pytest.raises(RejectedError) as caught:
        verify_patch_untrusted(data)
    return caught.value.code


def with_listing(data: bytes, change: Callable[[list[bytes]], list[bytes]], *, summarise: bool = False) -> bytes:
    """Return the file with changed lines, honestly signed; the summary stays, or names the digest of the new lines."""
    file = split_patch_file_untrusted(data)
    lines = change(file.listing.splitlines(keepends=True))
    body = file.body.replace(file.listing, b"".join(lines))
    if not summarise:
        return patches.resign_body(data, body)
    digest = hashlib.sha256(re.sub(rb"(?m)^# ", b"", b"".join(lines))).hexdigest()
    payload = patches.author_payload(data)
    payload["predicate"]["affected_components"]["sha256"] = digest
    payload["subject"][0]["digest"]["sha256"] = hashlib.sha256(body).hexdigest()
    return body + encode_envelope(sign_envelope(canonical_json.encode(payload), patches.ALICE)) + b"\n"


def test_a_wide_patch_says_everything_and_its_statement_is_small(wide: bytes) -> None:
    patch = verify_patch_untrusted(wide)
    assert len(patch.metadata.affected_components) == COUNT
    summary = patch.metadata.component_summary
    assert summary is not None
    assert [(share.name, share.files, share.paths, share.changes) for share in summary.shares] == [
        ("pkg:deb/debian/bar@1.2", 87, 87, ("modify",)),
        ("pkg:deb/debian/foo@1.2", 173, 173, ("modify",)),
    ]
    bar = sorted(each.path for each in patch.metadata.affected_components if "/bar@" in each.name)
    assert summary.shares[0].paths_sha256 == hashlib.sha256("".join(f"{path}\n" for path in bar).encode()).hexdigest()
    assert patch.metadata.component_names == ("pkg:deb/debian/bar@1.2", "pkg:deb/debian/foo@1.2")
    assert len(patch.file.trailer[0]) < 4096
    statement = decode_author_statement_untrusted(patch.author_envelope.payload)
    assert statement.metadata.component_names == patch.metadata.component_names, "known without the file"
    assert statement.metadata.affected_components == ()
    assert b"# Components: pkg:deb/debian/bar@1.2 (files: 87)\n#   pkg:deb/debian/foo@1.2 (files: 173)\n" in wide
    assert hashlib.sha256(re.sub(rb"(?m)^# ", b"", patch.file.listing)).hexdigest() == summary.sha256
    document = extract(patch)
    jsonschema.validate(document, schema_document())
    assert isinstance(document["affected_components"], list)
    assert len(document["affected_components"]) == COUNT


def test_attestations_and_the_seal_are_appended_as_always(wide: bytes) -> None:
    patch = verify_patch_untrusted(patches.seal(patches.approve(wide)))
    assert patch.seal is not None
    assert len(patch.attestations) == 1


@pytest.mark.skipif(Tool.PATCH not in INSTALLED, reason="GNU patch is not installed")
def test_tools_read_nothing_in_the_list(wide: bytes) -> None:
    for tool in (Tool.GIT_APPLY, Tool.PATCH):
        outcome = run_tool(tool, BEFORE, wide)
        assert outcome.accepted, outcome.output
        assert outcome.tree == AFTER
    outcome, commit = am_file(BEFORE, wide)
    assert outcome.tree == AFTER
    assert '"sha256"' not in str(commit), "the list is no part of the commit's message"


def first(old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """Return what replaces a text in the first line of a list."""
    return lambda lines: [lines[0].replace(old, new, 1), *lines[1:]]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param(lambda lines: lines[1:], "provenance.metadata.listing_digest", id="a line less"),
        pytest.param(lambda lines: [*lines, lines[-1]], "provenance.metadata.listing_digest", id="a line more"),
        pytest.param(
            first(b"modify", b"delete"),
            "provenance.metadata.listing_digest",
            id="another change",
        ),
        pytest.param(lambda lines: [], "provenance.metadata.listing_digest", id="no list"),
        pytest.param(lambda lines: [b"# {nothing\n", *lines], "provenance.file.listing_line", id="no object"),
        pytest.param(lambda lines: [*lines[:2], b"#\n", *lines[2:]], "provenance.file.listing_line", id="another line"),
        pytest.param(
            lambda lines: [*lines, b"diff --git a/x b/x\n"],
            "provenance.file.preamble_end",
            id="the diff begins earlier",
        ),
        pytest.param(lambda lines: [*lines, b"--- a/x\n"], "provenance.file.listing_line", id="a name line"),
        pytest.param(
            lambda lines: [b"# {" + b" " * 8192 + b"}\n", *lines], "provenance.file.listing_line", id="too long a line"
        ),
        pytest.param(
            lambda lines: ["# {\u202e}\n".encode(), *lines], "provenance.file.preamble_text", id="hidden text"
        ),
        pytest.param(lambda lines: [b"# {\xff}\n", *lines], "provenance.file.preamble_text", id="no text"),
    ],
)
def test_another_list_is_refused(wide: bytes, change: Callable[[list[bytes]], list[bytes]], code: str) -> None:
    assert refusal(with_listing(wide, change)) == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param(lambda lines: lines[1:], "provenance.metadata.listing_files", id="fewer than it says"),
        pytest.param(lambda lines: lines[::-1], "provenance.field.order", id="not in order"),
        pytest.param(lambda lines: [lines[0], *lines[:-1]], "provenance.field.order", id="one twice"),
        pytest.param(
            first(b"bar", b"foo"),
            "provenance.metadata.listing_components",
            id="names",
        ),
        pytest.param(
            first(b'"modify"', b'"add"'),
            "provenance.field.image",
            id="no component",
        ),
        pytest.param(lambda lines: [b"# {}\n", *lines[1:]], "provenance.field.member_missing", id="an empty object"),
        pytest.param(
            first(b'{"change"', b'{"change":1,"change"'),
            "wire.json.duplicate_member",
            id="twice a member",
        ),
        pytest.param(
            first(b":", b": "),
            "provenance.preamble.not_equal",
            id="not canonical",
        ),
        pytest.param(
            lambda lines: [lines[0][:-1] + b"," + lines[1][2:], *lines[2:], lines[0]],
            "provenance.field.length",
            id="two in a line",
        ),
        pytest.param(
            lambda lines: [lines[0].replace(b'sha256":"', b'sha256":"0', 1)[:-1] + b"\n", *lines[1:]],
            "provenance.field.digest",
            id="no digest",
        ),
        pytest.param(
            lambda lines: [re.sub(rb'"sha256":"[0-9a-f]', b'"sha256":"f', lines[0]), *lines[1:]],
            "",
            id="another digest",
        ),
    ],
)
def test_a_list_that_its_author_signed_is_refused_where_it_has_another_form(
    wide: bytes, change: Callable[[list[bytes]], list[bytes]], code: str
) -> None:
    data = with_listing(wide, change, summarise=True)
    if not code:
        # Digests of changed files are compared where the files are; the form holds.
        assert verify_patch_untrusted(data).metadata.affected_components[0].pre is not None
        return
    assert refusal(data) == code


def share(**changes: Any) -> dict[str, Any]:
    """Return what a summary says about one component that has all files."""
    paths = {"count": COUNT, "sha256": "0" * 64}
    return {"changes": ["modify"], "files": COUNT, "name": "a", "paths": paths, **changes}


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("files", 86),
        ("changes", ["add"]),
        ("changes", ["add", "modify"]),
        ("paths", {"count": 88}),
        ("paths", {"sha256": "0" * 64}),
    ],
)
def test_a_summary_that_says_something_else_than_the_list_is_refused(wide: bytes, member: str, value: Any) -> None:
    def change(payload: dict[str, Any]) -> None:
        shares = payload["predicate"]["affected_components"]["components"]
        shares[0][member] = {**shares[0][member], **value} if isinstance(value, dict) else value
        shares[1]["files"] = COUNT - shares[0]["files"]

    assert refusal(patches.resign(wide, change)) == "provenance.metadata.listing_components"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"files": COMPONENTS_SUMMARISED_MIN - 1}, "provenance.field.range"),
        ({"files": COMPONENTS_SUMMARISED_MAX + 1}, "provenance.field.range"),
        ({"files": COUNT - 1}, "provenance.metadata.listing_files"),
        ({"sha256": "x"}, "provenance.field.digest"),
        ({"sha256": "0" * 64}, "provenance.metadata.listing_digest"),
        ({"more": 1}, "provenance.field.member_unknown"),
        ({"components": []}, "provenance.field.length"),
        ({"components": [{"files": COUNT}]}, "provenance.field.member_missing"),
        ({"components": [share(files=0), share(name="b")]}, "provenance.field.range"),
        ({"components": [share(files=1, name="b"), share(files=COUNT - 1)]}, "provenance.field.order"),
        ({"components": [share(name="pkg:x")]}, "provenance.field.purl"),
        ({"components": [share(name="other")]}, "provenance.metadata.listing_components"),
        ({"components": [share(changes=["modify", "add"])]}, "provenance.field.order"),
        ({"components": [share(changes=["touch"])]}, "provenance.field.choice"),
        ({"components": [share(changes=[])]}, "provenance.field.length"),
        ({"components": [share(paths={"count": 0, "sha256": "0" * 64})]}, "provenance.field.range"),
        ({"components": [share(paths={"count": 1, "sha256": "0"})]}, "provenance.field.digest"),
    ],
)
def test_a_summary_out_of_form_is_refused(wide: bytes, members: dict[str, Any], code: str) -> None:
    data = patches.resign(wide, lambda payload: payload["predicate"]["affected_components"].update(members))
    assert refusal(data) == code


def test_a_list_without_a_summary_is_refused(wide: bytes) -> None:
    listing = split_patch_file_untrusted(wide).listing
    data = patches.make_patch(BEFORE, AFTER)
    body = split_patch_file_untrusted(data).body.replace(b"\n---\n\n", b"\n---\n" + listing + b"\n", 1)
    assert refusal(patches.resign_body(data, body)) == "provenance.preamble.not_equal"


def test_a_list_beyond_its_limit_is_refused(wide: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = split_patch_file_untrusted(wide).listing
    monkeypatch.setattr("provenance.layout.LISTING_BYTES_MAX", len(listing))
    verify_patch_untrusted(wide)
    monkeypatch.setattr("provenance.layout.LISTING_BYTES_MAX", len(listing) - 1)
    with pytest.raises(MalformedPatchError) as caught:
        verify_patch_untrusted(wide)
    assert caught.value.code == "provenance.file.listing_length"


def test_a_link_in_a_list_needs_its_allowance(wide: bytes) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        return [lines[0].replace(b'"mode":"100644"', b'"mode":"120000"'), *lines[1:]]

    assert refusal(with_listing(wide, change, summarise=True)) == "provenance.metadata.allowance_missing"


def test_no_line_can_end_the_list_early(wide: bytes) -> None:
    """The end of the body is looked for behind the list as well; a list has no line that begins otherwise."""
    patch = verify_patch_untrusted(wide)
    assert patch.file.body == patch.file.preamble + patch.file.diff + BODY_END
    assert patch.file.preamble.endswith(patch.file.listing + b"\n")
    components = patch.metadata.affected_components
    summary = ComponentSummary.of(components)
    assert read_listing_untrusted(encode_listing(components), summary) == components
    with pytest.raises(InvalidMetadataError) as caught:
        read_listing_untrusted(b"", summary)
    assert caught.value.code == "provenance.metadata.listing_digest"
