"""One signed patch the whole way, through real processes: publish, attest, refuse, apply, record, and every node tells the same story."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testkit import patches
from tests.testkit.ledger import attest_body, key_of
from tests.testkit.scene import Scene, git_tree, running_scene

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running_scene(tmp_path_factory.mktemp("e2e"), patches.BEFORE) as scene:
        yield scene


def test_whole_way_of_one_patch(scene: Scene) -> None:
    cluster = scene.cluster
    data = patches.approve(patches.make_patch())
    patch_id = cluster.publish(data)
    scene.wait_level()

    refused = scene.agent("apply", data)
    assert refused["code"] == "ERROR_POLICY_DENIED"
    assert [rule for rule, _ in refused["decision"]["forbidden_by"]] == ["two-independent-approvals"]
    assert (scene.tree / "src/frame.c").read_bytes() == patches.FRAME_BEFORE

    data = patches.approve(data, key_of("carol@gamma"), "carol@gamma", "qa")
    cluster.submit([cluster.sign(attest_body(data), "carol@gamma")])
    scene.wait_level()
    assert scene.agent("explain", data)["code"] == "SUCCESS"
    assert (scene.tree / "src/frame.c").read_bytes() == patches.FRAME_BEFORE

    applied = scene.agent("apply", data)
    assert applied["code"] == "SUCCESS"
    assert (scene.tree / "src/frame.c").read_bytes() == patches.AFTER["src/frame.c"].content  # type: ignore[union-attr]
    assert applied["tree_after"] == git_tree(scene.tree)

    cluster.wait_equal()
    for node in cluster.nodes:
        records = cluster.client.get(f"{node.rpc}/v1/deployments", params={"patch": patch_id}).json()
        assert [record["result"] for record in records] == ["SUCCESS", "ERROR_POLICY_DENIED"]
        assert records[0]["tree_after"] == applied["tree_after"]

    again = scene.agent("apply", data)
    assert again["code"] == "ERROR_INVALID_METADATA"
    assert git_tree(scene.tree) == applied["tree_after"]
