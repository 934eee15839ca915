"""`patchwarden identity …` against a chain in memory: what one does alone is proposed where several must agree."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from ledger import bodies
from ledger.limits import PROPOSAL_LIFETIME
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from node.cli import client as client_module
from node.cli.command import Session
from node.documents import header_document, identity_document, organisation_document
from node.identity_documents import administration_document
from node.identity_services import IdentityServices
from node.local.protocol import decode_blob_untrusted
from tests.testkit.certificates import make_chain
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import Chain, key_of, make_genesis
from tests.unit.test_ledger_crl import CA, OTHER_CA, make_crl
from wire.errors import RejectedError
from wire.limits import TX_BYTES_MAX


class LedgerNode:
    """What the commands see of a node: it executes what is submitted at once, in a block of its own."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        services = IdentityServices(SimpleNamespace(replica=self))  # type: ignore[arg-type]
        self.methods = services.methods()

    @contextmanager
    def view(self) -> Iterator[StateView]:
        yield self.chain.view

    def call(self, method: str, **params: Any) -> Any:
        view = self.chain.view
        match method:
            case "status":
                return {"chain_id": view.chain_id, "height": view.height}
            case "identities.get":
                identity = view.identity(params["identity"])
                assert identity is not None
                keys = [key for key_id in identity.key_ids if (key := view.key(key_id)) is not None]
                as_of = {"consistency": "local", "height": view.height, "replica_age_ms": 1}
                return {**identity_document(identity, keys), "as_of": as_of}
            case "identities.list":
                return [
                    self.call("identities.get", identity=each.identity_id)
                    for each in view.identities(params["after"] or "")
                    if each.organisation == params["organisation"]
                ]
            case "blocks.get":
                header = view.header_at(params["height"])
                assert header is not None
                return header_document(header)
            case "organisations.list":
                return [organisation_document(each, "active") for each in view.organisations()]
            case "tx.submit":
                (blob,) = params["transactions"]
                raw = decode_blob_untrusted(blob, "transaction", bytes_max=TX_BYTES_MAX)
                self.chain.commit(decode_transaction_untrusted(raw))
                return [{"status": "committed", "height": self.chain.height}]
            case _:
                return trio.run(self.methods[method], params)

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Chain:
    chain = Chain(make_genesis(ca_certificates=(CA,)))
    chain.register("amy@acme", "administrator")
    chain.register("alice@acme", "developer")

    def open_fake(session: Session) -> LedgerNode:
        del session
        return LedgerNode(chain)

    monkeypatch.setattr(client_module, "open_client", open_fake)
    return chain


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """Private keys of administrators, in files."""
    paths = {}
    for name in ("ada@acme", "amy@acme", "ben@beta"):
        paths[name] = tmp_path / name
        paths[name].write_bytes(key_of(name).to_pem(None))
        paths[name].chmod(0o600)
    return paths


def test_what_one_does_alone_is_done(chain: Chain, keys: dict[str, Path]) -> None:
    did = key_of("new@acme").public_key.did
    register = (
        "identity",
        "register",
        "new@acme",
        "--public-key",
        did,
        "--role",
        "developer",
        "--key",
        keys["ada@acme"],
    )
    assert run_json(*register)["kind"] == "identity.register"
    assert chain.view.identity("new@acme") is not None


def test_where_two_must_agree_it_is_proposed_and_approved(chain: Chain, keys: dict[str, Path]) -> None:
    ada, amy = ("--key", keys["ada@acme"]), ("--key", keys["amy@acme"])
    assert run_json("identity", "set-threshold", "acme", 2, *ada)["kind"] == "administration.set-threshold"
    roles = ("identity", "set-roles", "alice@acme", "--role", "auditor")
    proposed = run(*roles, *ada)
    assert proposed.code == 0, proposed.err
    assert "still to agree: 1 more administrators of acme" in proposed.out
    (act,) = run_json("identity", "pending", "acme")["acts"]
    assert (act["kind"], act["status"], act["proposer"]) == ("identity.update-roles", "open", "ada@acme")
    shown = run("identity", "pending", "acme").out
    assert "2 of 2 administrators must agree: ada@acme, amy@acme" in shown
    assert "identity.update-roles alice@acme" in shown
    assert refused("identity", "approve", act["act_id"], *ada) == "ledger.administration.already_approved"
    assert run_json("identity", "approve", act["act_id"], *amy)["kind"] == "administration.approve"
    alice = chain.view.identity("alice@acme")
    assert alice is not None
    assert alice.roles == ("auditor",)
    assert run_json("identity", "pending", "acme")["acts"] == []
    (closed,) = run_json("identity", "pending", "acme", "--all")["acts"]
    assert (closed["status"], closed["closed_height"]) == ("executed", chain.height)


def test_own_keys_are_rotated_and_others_suspended_alone(chain: Chain, keys: dict[str, Path]) -> None:
    run_json("identity", "set-threshold", "acme", 2, "--key", keys["ada@acme"])
    rotate = ("identity", "rotate-key", "amy@acme", "--new-key", key_of("amy 2").public_key.did)
    assert run_json(*rotate, "--key", keys["amy@acme"])["kind"] == "identity.rotate-key"
    suspend = ("identity", "suspend", "alice@acme", "--reason", "lost", "--key", keys["ada@acme"])
    assert run_json(*suspend)["kind"] == "identity.suspend"
    resume = ("identity", "resume", "alice@acme", "--key", keys["ada@acme"])
    assert run_json(*resume)["kind"] == "administration.propose"


def test_act_is_withdrawn(chain: Chain, keys: dict[str, Path]) -> None:
    ada = ("--key", keys["ada@acme"])
    run_json("identity", "set-threshold", "acme", 2, *ada)
    run_json("identity", "set-term", "alice@acme", "--role", "developer", "--until", "2999-12-31T00:00:00Z", *ada)
    (act,) = run_json("identity", "pending", "acme")["acts"]
    assert refused("identity", "withdraw", act["act_id"], "--key", keys["ben@beta"]) == "ledger.tx.not_authorised"
    assert run_json("identity", "withdraw", act["act_id"], *ada)["kind"] == "administration.withdraw"
    assert run_json("identity", "pending", "acme")["acts"] == []
    (act,) = run_json("identity", "pending", "acme", "--all")["acts"]
    assert act["status"] == "withdrawn"
    assert "withdrawn" in run("identity", "pending", "acme", "--all").out


def test_term_that_has_ended_or_not_begun_is_shown_as_such(
    chain: Chain, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time of a block that would be made now: the ledger's newest, or this machine's where that is later."""
    ada = ("--key", keys["ada@acme"])
    run_json("identity", "set-term", "alice@acme", "--role", "developer", "--until", "2999-12-31T00:00:00Z", *ada)
    assert "ended" not in run("identity", "show", "alice@acme").out
    monkeypatch.setattr("time.time_ns", lambda: 32_503_680_001_000 * 1_000_000)  # in the year 3000
    text = run("identity", "show", "alice@acme").out
    assert "roles:        developer (ended)\n" in text
    assert "until 2999-12-31 00:00:00 (ended)\n" in text
    assert " developer (ended) " in run("identity", "list", "--organisation", "acme").out
    run_json("identity", "set-term", "alice@acme", "--role", "developer", "--from", "3500-01-01T00:00:00Z", *ada)
    assert "developer (not begun)" in run("identity", "show", "alice@acme").out
    assert "release-manager" in run("identity", "register", "--help").out


def test_terms_are_shown(chain: Chain, keys: dict[str, Path]) -> None:
    bounds = ("--from", "2026-01-01T00:00:00Z", "--until", "2999-12-31T00:00:00Z")
    run_json("identity", "set-term", "alice@acme", "--role", "developer", *bounds, "--key", keys["ada@acme"])
    shown = run("identity", "show", "alice@acme").out
    assert "from 2026-01-01 00:00:00 until 2999-12-31 00:00:00" in shown
    (term,) = run_json("identity", "show", "alice@acme")["role_terms"]
    assert term == {"role": "developer", "from_ms": 1767225600000, "until_ms": 32503593600000}


def test_unknown_organisations_are_told(chain: Chain, keys: dict[str, Path]) -> None:
    assert refused("identity", "pending", "nowhere") == "node.organisation.not_found"
    register = ("identity", "register", "x@nowhere", "--public-key", key_of("x").public_key.did, "--role", "host")
    assert refused(*register, "--key", keys["ada@acme"]) == "ledger.identity.unknown_organisation"


def test_node_that_refuses_to_say_is_believed_in_nothing(
    chain: Chain, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: LedgerNode, method: str, **params: Any) -> Any:
        del self, method, params
        raise RejectedError("node.method.unknown", "there is no such method")

    monkeypatch.setattr(LedgerNode, "call", refuse)
    height = chain.height
    resume = ("identity", "resume", "alice@acme", "--key", keys["ada@acme"])
    assert refused(*resume) == "node.method.unknown"
    assert chain.height == height


def test_act_that_nobody_can_approve_any_more_is_told_as_expired(chain: Chain) -> None:
    chain.submit(bodies.AdministrationSetThreshold("acme", 2), by="ada@acme")
    act_id = chain.submit(
        bodies.AdministrationPropose(bodies.IdentityUpdateRoles("alice@acme", ("host",))), by="ada@acme"
    ).tx_id
    act = chain.view.pending_act(act_id)
    assert act is not None
    later = SimpleNamespace(
        **{name: getattr(chain.view, name) for name in ("pending_acts", "administration_threshold", "identity", "key")},
        organisation=chain.view.organisation,
        header=chain.view.header,
        height=act.created_height + PROPOSAL_LIFETIME,
    )
    document = administration_document(later, "acme", 10)  # type: ignore[arg-type]
    assert [each["status"] for each in document["acts"]] == ["expired"]


def test_revocation_list_goes_on_the_ledger_with_the_keys_that_it_ends(
    chain: Chain, keys: dict[str, Path], tmp_path: Path
) -> None:
    key = key_of("x@acme")
    register = bodies.IdentityRegister("x@acme", "X", ("host",), key.public_key.spki, make_chain(key))
    chain.submit(register, by="ada@acme")
    crl, pem, foreign = (tmp_path / name for name in ("acme.crl", "acme.pem", "other.crl"))
    crl.write_bytes(make_crl())
    block = base64.encodebytes(make_crl(number=2)).decode()
    pem.write_text(f"-----BEGIN X509 CRL-----\n{block}-----END X509 CRL-----\n")
    foreign.write_bytes(make_crl(key=OTHER_CA))
    publish, ada = ("identity", "publish-crl", "acme"), ("--key", keys["ada@acme"])
    assert refused(*publish, foreign, *ada) == "cli.crl.unknown_issuer"
    assert refused("identity", "publish-crl", "beta", crl, *ada) == "cli.crl.unknown_issuer"
    done = run(*publish, crl, *ada)
    assert f"key {key.public_key.key_id_hex} of x@acme" in done.out
    record = chain.view.key(key.public_key.key_id)
    assert record is not None
    assert record.last_valid_height == chain.height
    assert refused(*publish, crl, *ada) == "ledger.identity.crl_not_newer"
    assert run_json(*publish, pem, *ada)["kind"] == "identity.publish-crl"
