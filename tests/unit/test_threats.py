"""Rows of docs/security.md that no test of one part alone shows, and that page itself: it names tests and codes that exist."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.gallery import get_template, with_templates
from agent.policy_text import default_policy_set
from agent.results import ResultCode
from ledger import actions
from provenance.patchfile import build_patch_file
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, World, read_tree
from tests.testkit.cli import refused
from tests.testkit.ledger import Chain, key_of
from tests.testkit.node import open_replica
from tests.testkit.patch_vectors import FOLDER as PATCH_FILES
from wire.limits import TRAILER_LINES_MAX

HOSTILE = Path(__file__).parent.parent / "vectors" / "patches" / "hostile"
RESULTS = {
    "MalformedPatchError": ResultCode.MALFORMED_PATCH,
    "InvalidSignatureError": ResultCode.INVALID_SIGNATURE,
    "InvalidMetadataError": ResultCode.INVALID_METADATA,
}


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.add_target()
    return world


async def refuse_all(world: World, files: list[tuple[str, bytes, ResultCode, str]]) -> None:
    """Apply each file: it is refused with its code, recorded so, and neither target nor state is another one afterwards."""
    state = world.directory / "home" / "agent" / "targets" / TARGET / "state.json"
    before, tree, kept = world.digest(), read_tree(world.root), state.read_bytes()
    recorded = len(world.outcomes())
    for name, data, code, reason in files:
        outcome = await world.agent.apply(data, TARGET, OPERATOR)
        assert (outcome.code, outcome.reason) == (code, reason), (name, outcome.message)
        assert outcome.tree_before == outcome.tree_after == before, name
        assert (world.digest(), state.read_bytes()) == (before, kept), name
    assert read_tree(world.root) == tree
    assert world.leftovers() == []
    assert world.intents() == []
    assert [body.result for body in world.outcomes()[recorded:]] == [code.value for _, _, code, _ in files]


# Patch text


async def test_every_hostile_diff_is_refused_and_changes_nothing(world: World) -> None:
    """Each is signed by a developer gone bad, honest in everything but the diff itself."""
    index: dict[str, dict[str, str]] = json.loads((HOSTILE / "index.json").read_bytes())
    whole: list[tuple[str, bytes, ResultCode, str]] = []
    for number, (name, entry) in enumerate(sorted(index.items()), start=1):
        diff = (HOSTILE / f"{name}.diff").read_bytes()
        # What does not begin and end as a diff makes another file of the one around it, which is found out before.
        if diff.startswith(b"diff --git ") and diff.endswith(b"\n"):
            whole.append((name, patches.sign_around(diff, number), ResultCode.MALFORMED_PATCH, entry["code"]))
    assert len(whole) > 90
    await refuse_all(world, whole)


def test_every_row_about_patch_text_has_a_hostile_diff() -> None:
    index: dict[str, dict[str, str]] = json.loads((HOSTILE / "index.json").read_bytes())
    rows = {int(entry["threat"].removeprefix("B1 ")) for entry in index.values()}
    # 19, 21, 26 and 27 are about applying, not about the text.
    assert rows == set(range(1, 29)) - {19, 21, 26, 27}


async def test_every_hostile_patch_file_is_refused_and_changes_nothing(world: World) -> None:
    entries: list[dict[str, Any]] = json.loads((PATCH_FILES / "index.json").read_bytes())
    hostile = [
        (entry["file"], (PATCH_FILES / entry["file"]).read_bytes(), RESULTS[entry["class"]], entry["code"])
        for entry in entries
        if entry["outcome"] == "refused"
    ]
    assert len(hostile) > 20
    await refuse_all(world, hostile)


async def test_a_result_other_than_the_signed_one_is_refused(world: World) -> None:
    """What a diff leaves of a file follows from the file too: here its author promises another content."""
    metadata, diff = patches.make_metadata()
    (component,) = metadata.affected_components
    assert component.post is not None
    promised = replace(component, post=replace(component.post, sha256="5a" * 32))
    data = build_patch_file(replace(metadata, affected_components=(promised,)), diff, patches.ALICE)
    await refuse_all(
        world, [("another content", world.release(data), ResultCode.APPLY_FAILED, "agent.apply.post_image")]
    )


# Oversize


async def test_a_million_attestations_are_refused_before_any_is_read(world: World) -> None:
    data = world.release()
    line = patches.trailer_lines(data)[-1] + b"\n"
    crowd = data + b"{}\n" * 1_000_000
    heavy = data + line * TRAILER_LINES_MAX
    code = ResultCode.MALFORMED_PATCH
    await refuse_all(
        world,
        [
            ("a million lines", crowd, code, "provenance.file.trailer_lines"),
            ("one line too many", heavy, code, "provenance.file.trailer_lines"),
        ],
    )


def test_a_sparse_gigabyte_is_refused_by_every_command_that_reads_a_patch(tmp_path: Path) -> None:
    file = tmp_path / "huge.patch"
    with file.open("wb") as stream:
        stream.truncate(1 << 30)
    for command in (("patch", "verify"), ("patch", "show"), ("patch", "extract")):
        assert refused(*command, file) == "cli.file.too_large"
    assert [path.name for path in tmp_path.iterdir()] == ["huge.patch"]


# People


async def test_sock_puppets_of_one_organisation_are_one_voice_under_the_two_person_rule(tmp_path: Path) -> None:
    """Beta's administrator registers two people after the patch was made, and both approve it."""
    world = World(tmp_path, policies=with_templates([get_template("two-person-rule")]))
    await world.add_target()
    data = patches.make_patch()
    for name, role in (("puppet1@beta", "security-review"), ("puppet2@beta", "qa")):
        world.chain.register(name, f"attestor:{role}")
        data = patches.approve(data, key_of(name), name, role)
    world.chain.register("dave@acme", "developer", "attestor:release")
    data = patches.seal(data)
    world.publish(data)
    await refuse_all(
        world,
        [("two of beta", data, ResultCode.POLICY_DENIED, "agent.policy.two-people-of-two-organisations")],
    )


# Time and policy


async def test_a_replica_that_hears_nothing_ages_whatever_the_wall_clock_says(tmp_path: Path) -> None:
    chain = Chain()
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        assert replica.replica_age_ms() <= 60_000
        heard = replica.machine.uptime_ms()
        replica.machine = type(replica.machine)(uptime_ms=lambda: heard + 61_000)
        # The wall clock still stands where the newest block was made.
        assert replica.now_ms() == replica.latest_view().header.time_ms
        assert replica.replica_age_ms() >= 61_000


async def test_a_policy_that_was_voted_out_allows_nothing_any_more(world: World) -> None:
    data = world.release()
    assert (await world.agent.explain(data, TARGET, OPERATOR)).is_success
    lenient = world.ledger.snapshot()
    schema, policies = default_policy_set()
    closed = (*policies, ("zz-closed", '@id("zz-closed") forbid (principal, action, resource);'))
    world.chain.adopt(actions.SetPolicy(schema, closed))
    denied = ("under the new set", data, ResultCode.POLICY_DENIED, "agent.policy.zz-closed")
    await refuse_all(world, [denied])
    world.chain.adopt(actions.SetPolicy(schema, policies))
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    # A replica from before both votes, in which the old set rules: this host has acted on a later block.
    world.ledger.frozen = lenient
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.STALE_REPLICA, "agent.replica.rolled_back")
