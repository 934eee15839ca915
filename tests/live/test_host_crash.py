"""A host's node killed at ten random moments of an application: the tree is old or new, never mixed, and the ledger tells which."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.scene import Scene, approved, git_tree, running_scene
from wire.errors import PatchwardenError

pytestmark = [pytest.mark.live, pytest.mark.slow]

FILES = 60
ROUNDS = 10
SEED = 20261122


def _tree(generation: int) -> patches.Tree:
    return {
        f"src/part{number % 6}/file{number}.c": FileState(
            0o100644, b"".join(b"line %d of %d\n" % (line, generation) for line in range(40))
        )
        for number in range(FILES)
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running_scene(tmp_path_factory.mktemp("crash"), _tree(0), validators=3) as scene:
        yield scene


def _publish(scene: Scene, generation: int) -> tuple[bytes, str]:
    data = approved(patches.make_patch(_tree(generation - 1), _tree(generation), release_counter=generation))
    patch_id = scene.cluster.publish(data)
    scene.wait_level()
    return data, patch_id


def _records(scene: Scene, patch_id: str) -> list[dict[str, object]]:
    leader = scene.cluster.leader()
    response = scene.cluster.client.get(f"{leader.rpc}/v1/deployments", params={"patch": patch_id})
    records: list[dict[str, object]] = response.json()
    return records


def test_ten_kills_during_applications_leave_whole_trees_and_true_records(scene: Scene) -> None:
    chance = random.Random(SEED)
    data, _ = _publish(scene, 1)
    begin = time.monotonic()
    assert scene.agent("apply", data)["code"] == "SUCCESS"
    usual_s = time.monotonic() - begin
    digests = {0: "", 1: git_tree(scene.tree)}
    applied_in_spite = 0

    for generation in range(2, ROUNDS + 2):
        before = git_tree(scene.tree)
        assert before == digests[generation - 1]
        data, patch_id = _publish(scene, generation)

        def apply(data: bytes = data) -> None:
            with suppress(PatchwardenError):
                scene.agent("apply", data)

        application = threading.Thread(target=apply)
        application.start()
        time.sleep(chance.uniform(0, usual_s))
        scene.host.kill()
        application.join(30)

        tree = git_tree(scene.tree)
        scene.cluster.start([scene.host])
        scene.cluster.wait_for(
            lambda: scene.call("agent.status")["intents_open"] == 0, "the agent recovered", scene.host
        )
        scene.cluster.wait_for(
            lambda: scene.call("agent.status")["records_waiting"] == 0, "the outbox is empty", scene.host
        )
        recovered = git_tree(scene.tree)
        closed = [record for record in _records(scene, patch_id) if record["result"]]
        succeeded = [record for record in closed if record["result"] == "SUCCESS"]
        assert len(closed) == len(_records(scene, patch_id)), "every intent has its outcome"
        if recovered == before:
            assert tree == before
            assert not succeeded
            outcome = scene.agent("apply", data)
            assert outcome["code"] == "SUCCESS", outcome
        else:
            applied_in_spite += 1
            assert len(succeeded) == 1
            assert succeeded[0]["tree_after"] == recovered
        digests[generation] = git_tree(scene.tree)
        for name, state in _tree(generation).items():
            assert isinstance(state, FileState)
            assert (scene.tree / name).read_bytes() == state.content
        records = _records(scene, patch_id)
        assert [record["result"] for record in records].count("SUCCESS") == 1

    print(f"{ROUNDS} kills, {applied_in_spite} after the switch; an undisturbed application took {usual_s:.2f} s")


def test_a_file_in_the_inbox_is_applied_by_itself(scene: Scene, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir(mode=0o700)
    with (scene.host.home / "config.toml").open("a") as config:
        config.write(f'inbox = "{inbox}"\n')
    scene.host.kill()
    scene.cluster.start([scene.host])
    generation = ROUNDS + 2
    data, patch_id = _publish(scene, generation)
    (inbox / ".fix").write_bytes(data)
    (inbox / ".fix").rename(inbox / "fix.patch")
    result = inbox / "done" / "fix.patch.json"
    scene.cluster.wait_for(result.exists, "the file moves on", scene.host)
    assert json.loads(result.read_text())["patch_id"] == patch_id
    stands = scene.call("agent.status")["inbox"]
    assert (stands["directory"], stands["waiting"], stands["problem"]) == (str(inbox), 0, "")
    for name, state in _tree(generation).items():
        assert isinstance(state, FileState)
        assert (scene.tree / name).read_bytes() == state.content
    assert [record["result"] for record in _records(scene, patch_id)] == ["SUCCESS"]
