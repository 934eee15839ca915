"""`patchwarden patch`, as far as it needs no node: made, attested, sealed, shown, verified, and every tampering refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from node.keystore import save_key
from provenance.diff_model import FileState
from provenance.schema import schema_document
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.certificates import make_chain
from tests.testkit.cli import refused, run, run_json
from wire.canonical_json import encode
from wire.keys import PrivateKey

ENVIRONMENT = {"format": "test", "compiler": "gcc 12.2.0"}


@dataclass
class Desk:
    """A source tree, a diff for it, and keys: what a developer has."""

    root: Path

    @property
    def tree(self) -> Path:
        return self.root / "frames-1.4"

    @property
    def patch(self) -> Path:
        return self.root / "fix.patch"

    def key(self, name: str, key: PrivateKey) -> Path:
        path = self.root / f"{name}.key"
        if not path.exists():
            save_key(path, key)
        return path

    def create_arguments(self, **changes: Any) -> list[Any]:
        options = {
            "diff": self.root / "fix.diff",
            "base": self.tree,
            "category": "security-update",
            "reason": "Check the length\n\nThe loop read one element too far: CVE-2026-0001.",
            "component": "pkg:deb/debian/frames@1.4",
            "author": "Alice Example <alice@acme.example>",
            "build-env": self.root / "environment.json",
            "key": self.key("alice", patches.ALICE),
            "out": self.patch,
        }
        options |= {name.replace("_", "-"): value for name, value in changes.items()}
        return [
            "patch", "create", *(part for name, value in options.items() if value is not None for part in (f"--{name}", value)),
        ]  # fmt: skip

    def create(self, **changes: Any) -> dict[str, Any]:
        document: dict[str, Any] = run_json(*self.create_arguments(**changes))
        return document

    def attest(
        self, name: str = "bob@beta", role: str = "security-review", key: PrivateKey = patches.BOB, *more: Any
    ) -> Any:
        arguments = ("patch", "attest", self.patch, "--role", role, "--identity", name, "--key", self.key(name, key))
        return run_json(*arguments, *(more or ("--verdict", "approve")))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    for name, state in patches.BEFORE.items():
        assert state is not None
        place = desk.tree / name
        place.parent.mkdir(parents=True)
        place.write_bytes(state.content)
    (desk.tree / "tests").mkdir()
    (desk.tree / "tests" / "test_frame.c").write_text("assert")
    (tmp_path / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (tmp_path / "fix.diff").write_bytes(patches.make_metadata()[1])
    return desk


# -- create ------------------------------------------------------------------------------------------------------------


def test_created_patch_verifies_and_says_what_was_given(desk: Desk) -> None:
    document = desk.create()
    patch = verify_patch_untrusted(desk.patch.read_bytes())
    metadata = patch.metadata
    assert document["patch_id"] == patch.patch_id
    assert patch.author_key == patches.ALICE.public_key
    assert metadata.reason_for_patch.title == "Check the length"
    assert metadata.reason_for_patch.description == "The loop read one element too far: CVE-2026-0001."
    assert metadata.reason_for_patch.references == ("CVE-2026-0001",)
    assert metadata.reason_for_patch.category == "security-update"
    assert {each.name for each in metadata.affected_components} == {"pkg:deb/debian/frames@1.4"}
    assert metadata.build_environment.document == encode({"compiler": "gcc 12.2.0", "format": "test"})
    assert metadata.validation_tests.count == 1
    assert metadata.release_counter == 1
    assert metadata.creator_identity.mail_address() == "Alice Example <alice@acme.example>"
    assert document["build_environment"] == metadata.build_environment.sha256


def test_tree_that_is_patched_already_gives_the_same_metadata(desk: Desk) -> None:
    before = desk.create()["patch_id"], verify_patch_untrusted(desk.patch.read_bytes()).metadata.affected_components
    (desk.tree / "src/frame.c").write_bytes(patches.AFTER["src/frame.c"].content)  # type: ignore[union-attr]
    desk.patch.unlink()
    desk.create()
    assert verify_patch_untrusted(desk.patch.read_bytes()).metadata.affected_components == before[1]


def test_tree_that_is_neither_is_refused(desk: Desk) -> None:
    (desk.tree / "src/frame.c").write_bytes(b"something else\n")
    assert refused(*desk.create_arguments()).startswith("provenance.apply.")
    assert not desk.patch.exists()


def test_every_kind_of_change_from_the_patched_tree(desk: Desk) -> None:
    diff = desk.root / "every.diff"
    diff.write_bytes(
        patches.make_metadata(patches.EVERY_KIND_BEFORE, patches.EVERY_KIND_AFTER, patches.EVERY_KIND_RENAMES)[1]
    )
    for name, tree in (("unpatched", patches.EVERY_KIND_BEFORE), ("patched", patches.EVERY_KIND_AFTER)):
        base = desk.root / name
        for path, state in tree.items():
            if state is not None:
                place = base / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(state.content)
                place.chmod(state.mode & 0o777)
        desk.create(diff=diff, base=base, tests=desk.tree / "tests", out=desk.root / f"{name}.patch")
    first, second = (
        verify_patch_untrusted((desk.root / f"{name}.patch").read_bytes()) for name in ("unpatched", "patched")
    )
    assert first.metadata.affected_components == second.metadata.affected_components
    assert run_json("patch", "verify", desk.root / "patched.patch", "--base", desk.root / "unpatched")["valid"]


def test_what_git_prints_of_a_copied_file_is_signed_from_either_tree_and_shown(desk: Desk) -> None:
    base, source = desk.root / "before", patches.FRAME_BEFORE
    base.mkdir()
    (base / "frame.c").write_bytes(source)
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "HOME": str(desk.root)}

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=base, env=environment, capture_output=True, check=True).stdout

    git("init", "--quiet")
    git("add", ".")
    shutil.copytree(base, desk.root / "after")
    for tree in (base, desk.root / "after"):
        (tree / "frame.c").write_bytes(source.replace(b"<= length", b"< length"))
        (tree / "copy.c").write_bytes(source)
        (tree / "other.c").write_bytes(source.replace(b"int sum = 0", b"int sum = 1"))
    git("add", "--intent-to-add", ".")
    diff = desk.root / "copies.diff"
    diff.write_bytes(git("diff", "--find-copies"))
    assert diff.read_bytes().count(b"\ncopy from frame.c\n") == 2
    (base / "frame.c").write_bytes(source)
    (base / "copy.c").unlink()
    (base / "other.c").unlink()
    made = []
    for name in ("before", "after"):
        desk.create(diff=diff, base=desk.root / name, tests=desk.tree / "tests", out=desk.root / f"{name}.patch")
        made.append(verify_patch_untrusted((desk.root / f"{name}.patch").read_bytes()).metadata.affected_components)
    assert made[0] == made[1]
    assert [(each.change.value, each.path, each.previous_path) for each in made[0]] == [
        ("copy", "copy.c", "frame.c"),
        ("modify", "frame.c", None),
        ("copy", "other.c", "frame.c"),
    ]
    assert run_json("patch", "verify", desk.root / "before.patch", "--base", base)["valid"]
    assert "copy    other.c (copy of frame.c)" in run("patch", "show", desk.root / "before.patch").out
    document = run_json("patch", "extract", desk.root / "before.patch")
    jsonschema.validate(document, schema_document())
    assert document["affected_components"][0]["change"] == "copy"
    (desk.root / "after" / "other.c").write_bytes(b"not what the diff makes\n")
    arguments = desk.create_arguments(
        diff=diff, base=desk.root / "after", tests=desk.tree / "tests", out=desk.root / "other.patch"
    )
    assert refused(*arguments).startswith("provenance.apply.")


def test_diff_from_standard_input_and_file_to_standard_output(desk: Desk) -> None:
    diff = (desk.root / "fix.diff").read_bytes()
    answer = run(*desk.create_arguments(diff="-", out="-"), stdin=diff)
    assert answer.code == 0
    assert verify_patch_untrusted(answer.out.encode()).file.diff == diff


def test_mail_in_front_of_the_diff_gives_the_reason(desk: Desk) -> None:
    mail = desk.root / "0001.patch"
    mail.write_bytes(
        b"From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\nFrom: Someone <s@example.org>\n"
        b"Subject: [PATCH 1/2] Check the length\n\nIt read too far.\n---\n src/frame.c | 2 +-\n\n"
        + (desk.root / "fix.diff").read_bytes()
        + b"-- \n2.39.5\n\n"
    )
    desk.create(diff=mail, reason=None)
    metadata = verify_patch_untrusted(desk.patch.read_bytes()).metadata
    assert metadata.reason_for_patch.title == "Check the length"
    assert "It read too far." in metadata.reason_for_patch.description
    # Whoever signs is the creator, not whoever wrote the mail.
    assert metadata.creator_identity.name == "Alice Example"


def test_reason_author_and_tests_must_come_from_somewhere(desk: Desk) -> None:
    assert refused(*desk.create_arguments(reason=None), code=2) == "cli.usage"
    assert refused(*desk.create_arguments(author="nobody"), code=2) == "cli.usage"
    shutil.rmtree(desk.tree / "tests")
    assert refused(*desk.create_arguments(), code=2) == "cli.usage"
    assert refused(*desk.create_arguments(key=None), code=2) == "cli.usage"
    assert not desk.patch.exists()


def test_author_from_git(desk: Desk) -> None:
    for command in (["init", "-q"], ["config", "user.name", "Git Alice"], ["config", "user.email", "git@acme.example"]):
        subprocess.run(["git", *command], cwd=desk.tree, check=True)
    desk.create(author=None)
    assert verify_patch_untrusted(desk.patch.read_bytes()).metadata.creator_identity.name == "Git Alice"


@pytest.mark.parametrize(
    ("diff", "code"),
    [
        (b"", "cli.diff.not_git"),
        (b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n", "cli.diff.not_git"),
        (b"diff --git a/../x b/../x\n--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n", "provenance.diff.path_component"),
    ],
)
def test_diff_that_is_not_exact_is_refused(desk: Desk, diff: bytes, code: str) -> None:
    (desk.root / "fix.diff").write_bytes(diff)
    answer = run(*desk.create_arguments(), "-o", "json")
    assert answer.code == 1
    assert answer.error["code"] == code
    assert "patch import" in answer.error["hint"]
    assert not desk.patch.exists()


def test_file_that_is_there_is_overwritten_only_by_force(desk: Desk) -> None:
    """A patch file gathers attestations: to sign anew over it would lose them."""
    desk.create()
    before = desk.patch.read_bytes()
    answer = run(*desk.create_arguments(), "-o", "json")
    assert (answer.code, answer.error["code"]) == (1, "cli.file.exists")
    assert "--force" in answer.error["hint"]
    assert desk.patch.read_bytes() == before
    assert run(*desk.create_arguments(release_counter=9), "--force").code == 0
    assert verify_patch_untrusted(desk.patch.read_bytes()).metadata.release_counter == 9
    exact = desk.root / "exact.diff"
    importing = ("patch", "import", desk.root / "fix.diff", "--base", desk.tree, "--out", exact)
    exact.write_bytes(b"somebody's work\n")
    assert refused(*importing) == "cli.file.exists"
    assert exact.read_bytes() == b"somebody's work\n"
    assert run(*importing, "--force").code == 0
    assert b"diff --git" in exact.read_bytes()


def test_options_become_metadata(desk: Desk) -> None:
    ids = sorted(("ab" * 32, "cd" * 32))
    desk.create(
        release_counter=7, not_after="2999-01-01T00:00:00Z", supersedes=ids[0], prerequisite=ids[1], reference="https://bugs.example/1"
    )  # fmt: skip
    metadata = verify_patch_untrusted(desk.patch.read_bytes()).metadata
    assert metadata.release_counter == 7
    assert metadata.not_after == "2999-01-01T00:00:00Z"
    assert (metadata.supersedes, metadata.prerequisites) == ((ids[0],), (ids[1],))
    assert metadata.reason_for_patch.references == ("https://bugs.example/1",)


def test_environment_can_be_a_hash_only(desk: Desk) -> None:
    assert run(*desk.create_arguments(), "--env-digest-only").code == 0
    assert verify_patch_untrusted(desk.patch.read_bytes()).metadata.build_environment.document is None


def test_components_of_single_paths(desk: Desk) -> None:
    assert run(*desk.create_arguments(), "--component-of", "src/frame.c", "parser").code == 0
    assert [each.name for each in verify_patch_untrusted(desk.patch.read_bytes()).metadata.affected_components] == [
        "parser"
    ]
    arguments = (*desk.create_arguments(), "--component-of", "src/other.c", "parser", "--force")
    assert refused(*arguments, code=2) == "cli.usage"


def test_link_in_the_tree_is_refused(desk: Desk) -> None:
    real = desk.tree / "src/real.c"
    (desk.tree / "src/frame.c").rename(real)
    (desk.tree / "src/frame.c").symlink_to(real)
    assert refused(*desk.create_arguments()) == "cli.base.link"


def test_key_must_be_the_certificates(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "chain.pem"
    path.write_text("no certificate here")
    assert refused(*desk.create_arguments(certificate=path)) == "cli.key.no_certificate"


# -- import ------------------------------------------------------------------------------------------------------------


def test_foreign_diff_becomes_exact_and_keeps_its_header(desk: Desk) -> None:
    foreign = desk.root / "foreign.patch"
    diff = (desk.root / "fix.diff").read_text()
    plain = "\n".join(line for line in diff.splitlines() if not line.startswith(("diff ", "index "))) + "\n"
    # Two lines in front have moved since: the hunk's numbers are old.
    (desk.tree / "src/frame.c").write_bytes(b"/* new */\n/* lines */\n" + patches.FRAME_BEFORE)
    foreign.write_text(
        "Description: check the length\n of a frame\nAuthor: Someone <s@example.org>\nBug: https://bugs.example/7\n---\n"
        + plain
    )
    out = desk.root / "exact.diff"
    document = run_json("patch", "import", foreign, "--base", desk.tree, "--out", out)
    assert document["title"] == "check the length"
    assert document["references"] == ["https://bugs.example/7"]
    assert [move["offset"] for move in document["moved_hunks"]] == [2]
    desk.create(diff=out, reason=None)
    metadata = verify_patch_untrusted(desk.patch.read_bytes()).metadata
    assert metadata.reason_for_patch.title == "check the length"
    assert metadata.reason_for_patch.references == ("https://bugs.example/7",)
    assert run_json("patch", "verify", desk.patch, "--base", desk.tree)["valid"]


def test_foreign_diff_for_another_tree_is_refused(desk: Desk) -> None:
    foreign, out = desk.root / "foreign.patch", desk.root / "exact.diff"
    foreign.write_text("--- a/src/frame.c\n+++ b/src/frame.c\n@@ -1 +1 @@\n-not there\n+x\n")
    assert refused("patch", "import", foreign, "--base", desk.tree, "--out", out).startswith("provenance.import.")
    assert not out.exists()


# -- attest and seal ---------------------------------------------------------------------------------------------------


def test_attestations_and_seal_are_appended(desk: Desk) -> None:
    created = desk.create()
    body = verify_patch_untrusted(desk.patch.read_bytes()).file.body
    document = desk.attest()
    assert (document["identity"], document["role"], document["verdict"]) == ("bob@beta", "security-review", "approve")
    assert document["recorded"] is None
    desk.attest("carol@gamma", "qa", patches.CAROL, "--verdict", "reject", "--comment", "crashes")
    run_json("patch", "seal", desk.patch, "--identity", "dave@acme", "--key", desk.key("dave", patches.DAVE))
    patch = verify_patch_untrusted(desk.patch.read_bytes())
    assert patch.patch_id == created["patch_id"]
    assert patch.file.body == body
    assert [(each.identity, each.verdict) for each in patch.attestations] == [
        ("bob@beta", "approve"),
        ("carol@gamma", "reject"),
    ]
    assert patch.seal is not None
    assert patch.seal.identity == "dave@acme"


def test_refused_attestation_changes_nothing(desk: Desk) -> None:
    desk.create()
    desk.attest()
    before = desk.patch.read_bytes()
    bob = desk.key("bob@beta", patches.BOB)
    common = ("patch", "attest", desk.patch, "--identity", "bob@beta", "--key", bob)
    assert refused(*common, "--role", "security-review", "--verdict", "approve") == "provenance.attestation.duplicate"
    assert refused(*common, "--role", "Security Review", "--verdict", "approve").startswith("provenance.field.")
    assert refused(*common, "--role", "qa", code=2) == "cli.usage"
    own = ("--identity", "alice@acme", "--key", desk.key("alice", patches.ALICE))
    code = refused("patch", "attest", desk.patch, "--role", "qa", "--verdict", "approve", *own)
    assert code == "provenance.attestation.self_approval"
    assert desk.patch.read_bytes() == before


def test_nothing_is_added_behind_a_seal(desk: Desk) -> None:
    desk.create()
    run_json("patch", "seal", desk.patch, "--identity", "dave@acme", "--key", desk.key("dave", patches.DAVE))
    before = desk.patch.read_bytes()
    arguments = (
        "--role",
        "qa",
        "--verdict",
        "approve",
        "--identity",
        "bob@beta",
        "--key",
        desk.key("bob", patches.BOB),
    )
    assert refused("patch", "attest", desk.patch, *arguments) == "provenance.seal.sealed"
    assert desk.patch.read_bytes() == before


def test_test_result_as_predicate_speaks_for_itself(desk: Desk) -> None:
    desk.create()
    result = desk.root / "result.json"
    result.write_text(json.dumps({"result": "FAILED", "configuration": [], "failedTests": ["frames"]}))
    document = desk.attest("ci@acme", "tests", patches.CAROL, "--predicate", result)
    assert document["verdict"] == "reject"
    contradiction = (
        "--predicate",
        result,
        "--verdict",
        "approve",
        "--identity",
        "ci@acme",
        "--key",
        desk.key("ci", patches.CAROL),
    )
    assert refused("patch", "attest", desk.patch, "--role", "qa", *contradiction) == "cli.attest.verdict"
    without = (
        "--predicate-type",
        "https://x.example/v1",
        "--verdict",
        "approve",
        "--identity",
        "c@d",
        "--key",
        desk.key("bob", patches.BOB),
    )
    assert refused("patch", "attest", desk.patch, "--role", "qa", *without, code=2) == "cli.usage"


def test_identity_must_be_said_when_no_node_knows_it(desk: Desk) -> None:
    desk.create()
    arguments = ("--role", "qa", "--verdict", "approve", "--key", desk.key("bob", patches.BOB))
    assert refused("patch", "attest", desk.patch, *arguments, code=2) == "cli.usage"
    assert refused("patch", "attest", desk.patch, *arguments, "--ledger-only", code=2) == "cli.usage"
    assert refused("patch", "attest", desk.patch, *arguments, "--identity", "Bob", code=2) == "cli.usage"


# -- show, extract, verify, lint ---------------------------------------------------------------------------------------


@pytest.fixture
def released(tmp_path: Path) -> Path:
    path = tmp_path / "released.patch"
    path.write_bytes(patches.make_released_patch())
    return path


def test_extracted_provenance_conforms_to_the_published_schema(released: Path) -> None:
    document = run_json("patch", "extract", released)
    jsonschema.validate(document, schema_document(), jsonschema.Draft202012Validator)
    assert json.loads(run("patch", "extract", released).out) == document
    for name in (
        "creation_timestamp", "creator_identity", "reason_for_patch", "affected_components",
        "patch_diff", "build_environment", "validation_tests", "attestation_signatures",
    ):  # fmt: skip
        assert name in document


def test_a_document_on_a_terminal_steers_nothing_and_stays_json(tmp_path: Path) -> None:
    path = tmp_path / "odd.patch"
    odd = "\u202e \U000e0041 \x1b[2J\n"
    before, after = FileState(0o100644, b"old\n"), FileState(0o100644, odd.encode())
    path.write_bytes(patches.make_patch({"a": before}, {"a": after}))
    shown = run("patch", "extract", path).out
    assert all(each.isprintable() or each == "\n" for each in shown)
    assert odd in json.loads(shown)["patch_diff"]
    assert json.loads(shown) == run_json("patch", "extract", path)


def test_parts_come_byte_for_byte(released: Path, tmp_path: Path) -> None:
    file = verify_patch_untrusted(released.read_bytes()).file
    bundle = b"".join(line + b"\n" for line in file.trailer)
    assert file.body + bundle == released.read_bytes()
    for part, expected in (("body", file.body), ("diff", file.diff), ("bundle", bundle)):
        out = tmp_path / part
        answer = run_json("patch", "extract", released, "--part", part, "--out", out)
        assert out.read_bytes() == expected
        assert (answer["part"], answer["bytes"]) == (part, len(expected))
        assert answer["sha256"] == hashlib.sha256(expected).hexdigest()
        assert run("patch", "extract", released, "--part", part).out == expected.decode("ascii")
    assert run_json("patch", "extract", released, "--part", "body", "--out", tmp_path / "id")["sha256"] == file.patch_id
    document = tmp_path / "document.json"
    run_json("patch", "extract", released, "--out", document)
    assert json.loads(document.read_bytes()) == run_json("patch", "extract", released)


def test_a_part_never_replaces_a_file_and_is_given_of_no_forged_one(released: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"mine")
    assert refused("patch", "extract", released, "--part", "bundle", "--out", out) == "cli.file.exists"
    assert out.read_bytes() == b"mine"
    released.write_bytes(released.read_bytes().replace(b"CVE-2026-0001", b"CVE-2026-0002", 1))
    assert refused("patch", "extract", released, "--part", "bundle", "--out", tmp_path / "new").startswith(
        "provenance."
    )
    assert not (tmp_path / "new").exists()


def test_show_tells_everything_a_reader_needs(released: Path) -> None:
    text = run("patch", "show", released).out
    for part in (
        "CVE-2026-0001",
        "Alice Example <alice@acme.example>",
        "src/frame.c",
        "bob@beta as security-review",
        "dave@acme",
    ):
        assert part in text
    assert run_json("patch", "show", released)["patch_id"] in text


def test_show_of_neither_a_file_nor_an_id(tmp_path: Path) -> None:
    assert refused("patch", "show", tmp_path / "missing") == "cli.file.unreadable"


def test_every_step_is_told(released: Path) -> None:
    document = run_json("patch", "verify", released)
    assert document["valid"] is True
    assert [step["step"] for step in document["steps"]] == [
        "author's signature", "metadata", "diff", "attestation", "attestation", "release seal",
    ]  # fmt: skip
    assert {step["result"] for step in document["steps"]} == {"passed"}
    text = run("patch", "verify", released).out
    assert text.endswith("valid\n")


TAMPERINGS = {
    "diff": (b"i < length", b"i > length", "provenance.signature.body"),
    "reason": (b"The loop read", b"The lobe read", "provenance.signature.body"),
    "title": (b"bounds check", b"bounds chack", "provenance.signature.body"),
    "end": (b"patchwarden 1\n", b"patchwarden 2\n", "provenance.file."),
    "envelope": (b'{"payload":"', b'{"payload":"A', "wire."),
    "form": (b'"signatures":', b'"signature_":', "wire."),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampered_file_is_not_valid(released: Path, name: str) -> None:
    old, new, code = TAMPERINGS[name]
    data = released.read_bytes()
    assert data.count(old) >= 1
    released.write_bytes(data.replace(old, new, 1))
    document = run_json("patch", "verify", released, code=1)
    assert document["valid"] is False
    failed = [step for step in document["steps"] if step["result"] == "failed"]
    assert failed
    assert failed[0]["code"].startswith(code)
    assert refused("patch", "extract", released).startswith(code)
    assert "NOT VALID" in run("patch", "verify", released).out


def test_stripped_attestation_breaks_the_seal(released: Path) -> None:
    lines = patches.trailer_lines(released.read_bytes())
    released.write_bytes(patches.with_lines(released.read_bytes(), [lines[0], lines[1], lines[3]]))
    assert refused("patch", "show", released) == "provenance.seal.attestations"


def test_somebody_elses_attestation_is_set_aside_and_named(tmp_path: Path) -> None:
    path = tmp_path / "moved.patch"
    other = patches.trailer_lines(patches.approve(patches.make_patch(release_counter=2)))[1]
    own = patches.make_patch()
    path.write_bytes(patches.with_lines(own, [*patches.trailer_lines(own), other]))
    document = run_json("patch", "verify", path, code=1)
    failed = [step for step in document["steps"] if step["result"] == "failed"]
    assert [step["code"] for step in failed] == ["provenance.attestation.other_patch"]
    assert "trailer.set_aside" in {each["rule"] for each in run_json("patch", "lint", path, code=1)["findings"]}


def test_base_that_is_not_the_signed_one_fails(desk: Desk) -> None:
    desk.create()
    assert run_json("patch", "verify", desk.patch, "--base", desk.tree)["valid"]
    (desk.tree / "src/frame.c").write_bytes(patches.FRAME_BEFORE + b"\n")
    document = run_json("patch", "verify", desk.patch, "--base", desk.tree, code=1)
    assert document["steps"][-1]["code"] == "provenance.apply.pre_image"


def test_lint_finds_what_a_reviewer_overlooks(desk: Desk) -> None:
    after = {
        "src/frame.c": patches.FileState(0o100644, patches.FRAME_BEFORE.replace(b"int sum", "int \u202esum".encode()))
    }
    data = patches.make_patch(after=after)
    desk.patch.write_bytes(data)
    findings = run_json("patch", "lint", desk.patch, code=1)["findings"]
    rules = {each["rule"] for each in findings}
    assert {"diff.bidirectional", "trailer.no_verdict"} <= rules
    text = run("patch", "lint", desk.patch).out
    assert "\u202e" not in text


def test_lint_without_findings_is_silent_about_nothing(released: Path) -> None:
    assert run_json("patch", "lint", released) == {
        "patch_id": run_json("patch", "show", released)["patch_id"],
        "findings": [],
    }
    assert run("patch", "lint", released).out == "no findings\n"


def test_git_applies_what_was_created(desk: Desk) -> None:
    desk.create()
    desk.attest()
    subprocess.run(["git", "apply", desk.patch], cwd=desk.tree, check=True, env={"PATH": os.environ["PATH"]})
    assert (desk.tree / "src/frame.c").read_bytes() == patches.AFTER["src/frame.c"].content  # type: ignore[union-attr]


def test_receipts_need_a_founding_document(released: Path) -> None:
    assert refused("patch", "verify", released, "--receipt", released, code=2) == "cli.usage"


# -- certificates ------------------------------------------------------------------------------------------------------


def test_creator_with_a_certificate(desk: Desk) -> None:
    chain = make_chain(patches.ALICE)
    path = desk.root / "chain.pem"
    path.write_text("".join(ssl.DER_cert_to_PEM_cert(der) for der in chain))
    document = desk.create(certificate=path)
    metadata = verify_patch_untrusted(desk.patch.read_bytes()).metadata
    assert metadata.creator_identity.kind == "x509"
    assert metadata.creator_identity.certificate_chain == chain
    assert document["key_id"] == patches.ALICE.public_key.key_id_hex
    assert run_json("key", "show", path)["key_id"] == document["key_id"]
    # Somebody else's certificate over one's own key is refused before anything is written.
    path.write_text("".join(ssl.DER_cert_to_PEM_cert(der) for der in make_chain(patches.CAROL)))
    assert (
        refused(*desk.create_arguments(certificate=path, out=desk.root / "other.patch")) == "provenance.signature.keyid"
    )
    assert not (desk.root / "other.patch").exists()
