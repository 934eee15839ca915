"""Founding documents and node homes from the command line."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from ledger.genesis import decode_genesis_untrusted
from node.config import Home, load_config
from node.keystore import load_key, save_key
from tests.testkit.cli import refused, run, run_json
from wire.keys import Algorithm, private_key_from_seed


@pytest.fixture
def founders(tmp_path: Path) -> list[Any]:
    arguments: list[Any] = ["network", "genesis", "--chain-id", "releases"]
    for number, name in enumerate(("acme", "beta"), start=1):
        key = run_json("key", "generate", "--out", tmp_path / f"{name}.key", "--no-passphrase")
        node = run_json("node", "init", "--home", tmp_path / f"node-{name}", "--name", f"v-{name}")
        arguments += [
            "--organisation",
            name,
            f"{name.title()} Ltd",
            "--administrator",
            f"admin@{name}",
            f"Admin of {name}",
        ]
        arguments += [
            key["public_file"],
            "--validator",
            f"v-{name}@{name}",
            node["did"],
            f"/ip4/127.0.0.1/tcp/707{number}",
        ]
    return [*arguments, "--out", tmp_path / "genesis.json"]


def test_founding_document_says_what_was_given(tmp_path: Path, founders: list[Any]) -> None:
    document = run_json(*founders, "--threshold", "unanimous", "--time", "2026-11-22T06:50:00Z")
    genesis = decode_genesis_untrusted((tmp_path / "genesis.json").read_bytes())
    assert document["genesis_hash"] == genesis.genesis_hash.hex()
    assert (genesis.chain_id, genesis.threshold, genesis.time) == ("releases", "unanimous", "2026-11-22T06:50:00Z")
    assert [each.name for each in genesis.organisations] == ["acme", "beta"]
    assert {each.name for each in genesis.validators.validators} == {"v-acme", "v-beta"}
    assert len(genesis.policies) == document["policies"] > 5
    shown = run_json("network", "show", tmp_path / "genesis.json")
    assert shown["genesis_hash"] == document["genesis_hash"]
    assert "admin@acme" in run("network", "show", tmp_path / "genesis.json").out


def test_founding_document_is_never_overwritten(tmp_path: Path, founders: list[Any]) -> None:
    run_json(*founders)
    before = (tmp_path / "genesis.json").read_bytes()
    assert refused(*founders) == "cli.file.exists"
    assert (tmp_path / "genesis.json").read_bytes() == before


def test_founding_document_names_only_members(tmp_path: Path, founders: list[Any]) -> None:
    stranger = ("--administrator", "admin@gamma", "G", tmp_path / "acme.key.pub")
    assert refused(*founders, *stranger, code=2) == "cli.usage"
    assert refused(*founders, "--ca", "gamma", tmp_path / "acme.key.pub", code=2) == "cli.usage"
    assert refused(*founders, "--validator", "v9", "did:key:z6M", "/ip4/127.0.0.1/tcp/1", code=2) == "cli.usage"
    did = run_json("key", "show", tmp_path / "acme.key.pub")["did"]
    assert refused(*founders, "--validator", "v9@beta", did, "/ip4/nowhere/tcp/1") == "node.net.address"
    assert (
        refused(*founders, "--validator", "v9@gamma", did, "/ip4/127.0.0.1/tcp/1")
        == "ledger.genesis.unknown_organisation"
    )
    assert not (tmp_path / "genesis.json").exists()


def test_own_policies_are_checked_before_they_found_anything(tmp_path: Path, founders: list[Any]) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "all.cedar").write_text('@id("all")\npermit (principal, action == Action::"apply_patch", resource);\n')
    document = run_json(*founders, "--policy", folder)
    assert document["policies"] == 1
    (tmp_path / "genesis.json").unlink()
    (folder / "all.cedar").write_text("permit (")
    assert refused(*founders, "--policy", folder).startswith("agent.policy.")
    for name in ("a", "b"):
        (folder / f"{name}.cedarschema").write_text("")
    assert refused(*founders, "--policy", folder) == "cli.policy.folder"
    assert not (tmp_path / "genesis.json").exists()


def test_show_refuses_what_breaks_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    path.write_text("{}")
    assert refused("network", "show", path) == "ledger.genesis.members"


def test_node_home_has_key_settings_and_founding_document(tmp_path: Path, founders: list[Any]) -> None:
    run_json(*founders)
    home = Home(tmp_path / "web1")
    peer = run_json("node", "init", "--home", tmp_path / "v9", "--name", "v9", "--listen", "/ip4/127.0.0.1/tcp/7099")
    document = run_json(
        "node", "init", "--home", home.path, "--name", "web1", "--role", "host", "--identity", "web1@acme",
        "--peer", peer["multiaddr"], "--genesis", tmp_path / "genesis.json", "--set", "tick_ms", "20", "--set", "gateway", "false",
    )  # fmt: skip
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.node_key.stat().st_mode) == 0o600
    config = load_config(home)
    assert (config.role, config.identity, config.tick_ms, config.gateway) == ("host", "web1@acme", 20, False)
    assert config.peers == (peer["multiaddr"],)
    assert home.genesis.read_bytes() == (tmp_path / "genesis.json").read_bytes()
    assert load_key(home.node_key).public_key.did == document["did"]
    assert document["multiaddr"] is None  # The port is not known before the node runs.
    assert peer["multiaddr"].endswith(peer["peer_id"])


def test_node_home_is_not_overwritten(tmp_path: Path) -> None:
    home = Home(tmp_path / "v1")
    run_json("node", "init", "--home", home.path, "--name", "v1")
    before = home.node_key.read_bytes(), home.config.read_bytes()
    assert refused("node", "init", "--home", home.path, "--name", "other") == "cli.node.home_exists"
    assert (home.node_key.read_bytes(), home.config.read_bytes()) == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--name", "Not A Name"), "node.config.refused"),
        (("--name", "v1", "--set", "tick_milliseconds", "20"), "node.config.refused"),
        (("--name", "v1", "--set", "tick_ms", "1"), "node.config.refused"),
        (("--name", "v1", "--listen", "localhost:7070"), "node.net.address"),
        (("--name", "v1", "--peer", "/ip4/127.0.0.1/tcp/1"), "cli.node.peer"),
    ],
)
def test_refused_settings_make_no_home(tmp_path: Path, options: tuple[str, ...], code: str) -> None:
    assert refused("node", "init", "--home", tmp_path / "v1", *options) == code
    assert not (tmp_path / "v1").exists()


def test_node_takes_over_an_ed25519_key_and_no_other(tmp_path: Path) -> None:
    key = private_key_from_seed(Algorithm.ED25519, bytes(32))
    save_key(tmp_path / "node.key", key)
    document = run_json("node", "init", "--home", tmp_path / "v1", "--name", "v1", "--key", tmp_path / "node.key")
    assert document["did"] == key.public_key.did
    save_key(tmp_path / "p256.key", private_key_from_seed(Algorithm.P256, bytes(range(32))))
    assert (
        refused("node", "init", "--home", tmp_path / "v2", "--name", "v2", "--key", tmp_path / "p256.key")
        == "cli.node.key"
    )


def test_node_without_home_or_founding_document_does_not_start(tmp_path: Path) -> None:
    assert refused("node", "start", "--home", tmp_path / "missing") == "node.config.unreadable"
    run_json("node", "init", "--home", tmp_path / "v1", "--name", "v1")
    assert refused("node", "start", "--home", tmp_path / "v1", "--log-format", "json", "--log-level", "error") == (
        "node.genesis.unreadable"
    )


def test_store_of_nobody_is_not_verified(tmp_path: Path) -> None:
    assert refused("node", "verify-store", "--home", tmp_path / "missing") == "cli.store.missing"
