"""The founding document: what it may say, which field is at fault when it does not, and the block that follows from it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from ledger.block import ZERO_DIGEST, decode_block_untrusted
from ledger.errors import GenesisRefusedError
from ledger.genesis import build_genesis, decode_genesis_untrusted, genesis_block
from ledger.keyspace import MemoryStore
from ledger.limits import GENESIS_BYTES_MAX
from ledger.records import Configuration, Validator
from ledger.state import StateView
from ledger.state_tree import prove, read_root, verify_state_proof
from tests.testkit.certificates import make_chain
from tests.testkit.ledger import key_of, make_genesis
from wire import canonical_json
from wire.keys import Algorithm
from wire.merkle import EMPTY_ROOT

CA = make_chain(key_of("x@acme"))[1]


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(make_genesis(ca_certificates=[CA]).document)
    return loaded


def decode(value: object) -> Any:
    return decode_genesis_untrusted(json.dumps(value, indent=2).encode())


def test_any_layout_of_the_document_is_the_same_network() -> None:
    genesis = make_genesis(ca_certificates=[CA])
    pretty = json.dumps(json.loads(genesis.document), indent=4, sort_keys=False).encode()
    assert decode_genesis_untrusted(pretty) == genesis
    assert decode_genesis_untrusted(genesis.document).genesis_hash == genesis.genesis_hash
    assert genesis.document == canonical_json.encode(json.loads(pretty))
    assert genesis.time_ms == 1_795_327_200_000


def test_a_public_key_may_stand_as_pem() -> None:
    value = document()
    pem = key_of("ada@acme").public_key.pem.decode()
    for text in (pem, pem.rstrip("\n")):
        value["organisations"][0]["administrators"][0]["public_key"] = text
        assert decode(value).organisations == make_genesis(ca_certificates=[CA]).organisations


def test_the_genesis_block_holds_the_founders() -> None:
    genesis = make_genesis(ca_certificates=[CA], limits={"block_transactions_max": 7})
    block, writes = genesis_block(genesis)
    header = block.header
    assert (header.height, header.term, header.log_size, header.proposer) == (0, 0, 0, ZERO_DIGEST)
    assert header.previous_hash == genesis.genesis_hash
    assert header.transactions_root == header.log_root == EMPTY_ROOT
    assert decode_block_untrusted(block.raw) == block
    store = MemoryStore()
    store.apply(writes)
    assert read_root(store) == header.state_root
    view = StateView(store)
    ada = view.identity("ada@acme")
    assert ada is not None
    assert (ada.roles, ada.registered_height) == (("administrator",), 0)
    assert view.identity_at("ada@acme", 0) == ada
    organisation = view.organisation("acme")
    assert organisation is not None
    assert (organisation.ca_certificates, organisation.administrators) == ((CA,), ("ada@acme",))
    assert view.validators() == genesis.validators
    assert view.network.block_transactions_max == 7
    assert view.network.block_bytes_max == 4 * 1024 * 1024
    assert view.policy().policies == genesis.policies
    assert view.policy().policy_hash == header.policy_hash
    assert view.governance().organisations == ("acme", "beta", "gamma")
    for key in (b"iada@acme", b"v", b"n", b"inobody@acme"):
        verify_state_proof(prove(store, key), header.state_root)


def test_the_block_depends_on_every_part_of_the_document() -> None:
    hashes = {genesis_block(make_genesis())[0].block_hash}
    for change in (
        {"chain_id": "other"},
        {"validators": 3},
        {"organisations": ("acme",)},
        {"policies": ()},
        {"threshold": "unanimous"},
        {"limits": {"block_transactions_max": 5}},
        {"ca_certificates": [CA]},
    ):
        hashes.add(genesis_block(make_genesis(**change))[0].block_hash)  # type: ignore[arg-type]
    assert len(hashes) == 8


def test_validators_stand_in_order_of_their_key() -> None:
    genesis = make_genesis(validators=7)
    ids = [each.key_id for each in genesis.validators.validators]
    assert ids == sorted(ids)
    assert list(genesis.validators.public_keys) == ids
    assert genesis.validators.find(ids[3]) == genesis.validators.validators[3]
    assert genesis.validators.find(bytes(32)) is None
    configuration = Configuration(genesis.validators)
    assert Configuration.decode(configuration.encode()) == configuration


def put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(root: dict[str, Any]) -> None:
        place: Any = root
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(root: dict[str, Any]) -> None:
        place: Any = root
        for part in path[:-1]:
            place = place[part]
        del place[path[-1]]

    return change


P256_DID = key_of("p", Algorithm.P256).public_key.did
ADMIN = ("organisations", 0, "administrators", 0)


BROKEN = [
    (drop("chain_id"), "members", "document"),
    (put("more", value=1), "members", "document"),
    (put("version", value=2), "field", "version"),
    (put("version", value=True), "field", "version"),
    (put("chain_id", value="No Spaces"), "field", "chain_id"),
    (put("time", value="2026-11-22"), "field", "time"),
    (put("time", value="2026-02-30T00:00:00Z"), "field", "time"),
    (put("time", value=5), "field", "time"),
    (put("organisations", value={}), "field", "organisations"),
    (put("organisations", value=[5]), "members", "organisations[0]"),
    (put("organisations", 0, "name", value="Acme Ltd"), "field", "organisations[0].name"),
    (put("organisations", 0, "display_name", value=""), "field", "organisations[0].display_name"),
    (put("organisations", 1, "name", value="acme"), "repeated", "organisations"),
    (put("organisations", 0, "administrators", value=[]), "no_administrator", "organisations"),
    (put("organisations", 0, "ca_certificates", value=["!"]), "certificate", "organisations[0].ca_certificates[0]"),
    (
        put("organisations", 0, "ca_certificates", value=["QQ"]),
        "certificate",
        "organisations[0].ca_certificates[0]",
    ),
    (
        put("organisations", 0, "ca_certificates", value=["QUI="]),
        "certificate",
        "organisations[0].ca_certificates[0]",
    ),
    (
        put("organisations", 0, "ca_certificates", value=["QR=="]),
        "certificate",
        "organisations[0].ca_certificates[0]",
    ),
    (put("organisations", 0, "ca_certificates", value=[5]), "field", "organisations[0].ca_certificates[0]"),
    (put(*ADMIN, "identity", value="ada"), "field", "organisations[0].administrators[0].identity"),
    (put(*ADMIN, "identity", value="ada@beta"), "unknown_organisation", "administrators"),
    (put(*ADMIN, "identity", value="ben@beta"), "repeated", "administrators"),
    (put(*ADMIN, "name", value=""), "field", "organisations[0].administrators[0].name"),
    (put(*ADMIN, "public_key", value="did:key:z0"), "key", "organisations[0].administrators[0].public_key"),
    (
        put(*ADMIN, "public_key", value="-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
        "key",
        "organisations[0].administrators[0].public_key",
    ),
    (
        put(*ADMIN, "public_key", value="-----BEGIN PUBLIC KEY-----\n*\n-----END PUBLIC KEY-----"),
        "key",
        "organisations[0].administrators[0].public_key",
    ),
    (
        put(*ADMIN, "public_key", value="-----BEGIN PUBLIC KEY-----\nAAAA"),
        "key",
        "organisations[0].administrators[0].public_key",
    ),
    (
        put(*ADMIN, "public_key", value=key_of("ben@beta").public_key.did),
        "repeated",
        "administrators",
    ),
    (put("validators", value=[]), "no_validator", "validators"),
    (put("validators", 0, "public_key", value=P256_DID), "key", "validators[0].public_key"),
    (put("validators", 0, "organisation", value="delta"), "unknown_organisation", "validators"),
    (put("validators", 0, "name", value="V 1"), "field", "validators[0].name"),
    (put("validators", 0, "address", value=""), "field", "validators[0].address"),
    (put("validators", 1, "name", value="v1"), "repeated", "validators"),
    (put("validators", 1, "address", value="/ip4/127.0.0.1/tcp/4001"), "repeated", "validators"),
    (put("validators", 1, "public_key", value=key_of("node v1").public_key.did), "repeated", "validators"),
    (put("governance", "threshold", value="loudest"), "field", "governance.threshold"),
    (put("governance", value={}), "members", "governance"),
    (put("policy", "schema", value=5), "field", "policy.schema"),
    (put("policy", "policies", value=[{"name": "a"}]), "members", "policy.policies[0]"),
    (put("policy", "policies", 0, "text", value=""), "field", "policy.policies"),
    (put("limits", value=[]), "members", "limits"),
    (put("limits", "more", value=1), "members", "limits"),
    (put("limits", "block_transactions_max", value=0), "field", "limits.block_transactions_max"),
    (put("limits", "block_transactions_max", value=1001), "field", "limits.block_transactions_max"),
    (put("limits", "block_bytes_max", value=1024 * 1024), "field", "limits.block_bytes_max"),
]


@pytest.mark.parametrize(
    ("change", "rule", "field"), BROKEN, ids=[f"{index}-{field}" for index, (_, _, field) in enumerate(BROKEN)]
)
def test_a_broken_rule_names_its_field(change: Callable[[dict[str, Any]], None], rule: str, field: str) -> None:
    value = document()
    change(value)
    with pytest.raises(GenesisRefusedError) as refused:
        decode(value)
    assert (refused.value.code, refused.value.details["field"]) == (f"ledger.genesis.{rule}", field)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"version":1,"version":1}',
        b'{"version":1.0}',
        b"\xff",
        b" " * (GENESIS_BYTES_MAX + 1),
    ],
)
def test_what_is_not_acceptable_json_is_refused(data: bytes) -> None:
    with pytest.raises(GenesisRefusedError) as refused:
        decode_genesis_untrusted(data)
    assert refused.value.code in ("ledger.genesis.json", "ledger.genesis.members")


def test_policies_need_no_order_when_built_but_have_one_in_the_document() -> None:
    genesis = make_genesis(policies=[("b", "forbid (principal, action, resource);"), ("a", "x")])
    assert [name for name, _ in genesis.policies] == ["a", "b"]


def test_building_says_what_reading_would() -> None:
    with pytest.raises(GenesisRefusedError) as refused:
        build_genesis(
            chain_id="net",
            time="2026-11-22T06:00:00Z",
            organisations=[],
            validators=[Validator("v1", "acme", key_of("v").public_key.spki, "/ip4/127.0.0.1/tcp/1")],
            policy_schema="",
            policies=[],
        )
    assert refused.value.code == "ledger.genesis.unknown_organisation"
    assert base64.b64encode(CA).decode() in json.dumps(document())
