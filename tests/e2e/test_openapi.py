"""The OpenAPI document against a running node: it is valid, and no generated request finds a server error or an undocumented answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from tests.testkit import patches
from tests.testkit.cluster import NodeProcess
from tests.testkit.scene import Scene, running_scene

pytestmark = [pytest.mark.live, pytest.mark.slow]

EXAMPLES_MAX = "15"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running_scene(tmp_path_factory.mktemp("openapi"), patches.BEFORE, validators=1) as scene:
        scene.cluster.publish(patches.approve(patches.make_patch()))
        yield scene


@pytest.mark.parametrize("role", ["validator", "host"])
def test_generated_requests_find_no_server_error_and_no_undocumented_answer(scene: Scene, role: str) -> None:
    node: NodeProcess = scene.cluster.validators[0] if role == "validator" else scene.host
    validate(scene.cluster.client.get(f"{node.rpc}/openapi.json").json())
    token = (node.home / "rpc.token").read_text().strip()
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{node.rpc}/openapi.json",
            f"--url={node.rpc}",
            f"--checks={CHECKS}",
            f"--header=Authorization: Bearer {token}",
            # An event stream has no end that a generator could wait for; tests/unit/test_gateway.py reads it.
            "--exclude-path=/v1/events",
            f"--max-examples={EXAMPLES_MAX}",
            "--phases=coverage,fuzzing",
            "--seed=1",
            "--request-timeout=30",
            "--no-color",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=scene.tree.parent,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert node.is_up()
    assert "ERROR" not in scene.cluster.client.get(f"{node.rpc}/livez").text
