"""Transactions and bodies: one wire form for each, and a code for everything that is not one."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from ledger import actions, bodies, rollout_bodies
from ledger.actions import Administrator
from ledger.bodies import BODY_READERS, Body
from ledger.errors import TransactionRefusedError
from ledger.genesis import genesis_block
from ledger.limits import POLICY_BYTES_MAX, ROLES_MAX
from ledger.rollout_waves import Wave
from ledger.transaction import build_transaction, check_signatures, decode_transaction_untrusted, signature_job
from tests.testkit.ledger import Chain, key_of, make_certificate, make_genesis, validator
from tests.testkit.recovery import make_recovery
from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError, RejectedError
from wire.hashing import DOMAIN_TRANSACTION, hash_domain
from wire.keys import Algorithm
from wire.limits import TX_BYTES_MAX
from wire.merkle import leaf_hash

D1, D2, D3 = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
SPKI = key_of("somebody").public_key.spki
KEY = key_of("signer")
GENESIS = genesis_block(make_genesis())[0]

WAVES = (Wave("canary", "web@b", 5, None, 10_000, 10, 60_000), Wave("all", None, None, 10_000, 0, 0, 0))

CHAIN = Chain()
CHAIN.commit()

EVERY_BODY: tuple[Body, ...] = (
    make_recovery(CHAIN),
    bodies.IdentityRegister("a@b", "Name", ("attestor:x", "developer"), SPKI, (b"der",)),
    bodies.IdentityUpdateRoles("a@b", ("host",)),
    bodies.IdentityRotateKey("a@b", D1, SPKI),
    bodies.IdentitySuspend("a@b", "why"),
    bodies.IdentitySetRoleTerm("a@b", "developer", None, 1),
    bodies.AdministrationSetThreshold("b", 2),
    bodies.AdministrationPropose(bodies.IdentityResume("a@b")),
    bodies.AdministrationApprove(D1),
    bodies.AdministrationWithdraw(D1),
    bodies.IdentityPublishCrl("b", b"crl", (D1,)),
    bodies.IdentityResume("a@b"),
    bodies.IdentityRevoke("a@b", D1, 7, ""),
    bodies.IdentityRevoke("a@b", None, 0, ""),
    bodies.ProposalCreate(actions.SetPolicy("schema", (("a", "text"), ("b", "more\nlines"))), "why"),
    bodies.ProposalCreate(actions.SetPolicy("schema", (("a", "text"),), 812), "why"),
    bodies.ProposalCreate(actions.SetPolicyCases('[{"expect": "allow"}]\n'), "why"),
    bodies.ProposalCreate(actions.AddOrganisation("o", "O", (Administrator("a@o", "A", SPKI),), (b"der",)), ""),
    bodies.ProposalCreate(actions.AddAdministrator("o", Administrator("a@o", "A", SPKI)), ""),
    bodies.ProposalCreate(actions.AddCaCertificate("o", b"der"), ""),
    bodies.ProposalCreate(actions.RemoveCaCertificate("o", D1), ""),
    bodies.ProposalCreate(actions.SetThreshold("unanimous"), ""),
    bodies.ProposalCreate(actions.RevokeKey(D1, 3, "stolen"), ""),
    bodies.ProposalCreate(actions.WithdrawPatch(D1, "bad"), ""),
    bodies.ProposalCreate(actions.RenameOrganisation("o", "Other"), ""),
    bodies.ProposalCreate(actions.SuspendOrganisation("o", "why"), ""),
    bodies.ProposalCreate(actions.ResumeOrganisation("o"), ""),
    bodies.ProposalCreate(actions.RemoveOrganisation("o", "why"), ""),
    bodies.ProposalCreate(actions.SetLimits(4096, 65536, 1), ""),
    bodies.ProposalVote(D1, True),
    bodies.ProposalWithdraw(D1),
    bodies.PatchPublish(D1, D2, 5, b"{}", (D1, D2)),
    bodies.PatchAttest(D1, b"{}"),
    bodies.PatchWithdraw(D1, "why"),
    bodies.DeploymentIntent(1, D1, "site", D2, D3, b"{}"),
    bodies.DeploymentOutcome(2, D1, "site", D2, D3, "SUCCESS", D1, D2, b"{}"),
    bodies.DeploymentOutcome(2, D1, "site", D2, None, "ERROR_POLICY_DENIED", D1, D1, b"{}"),
    bodies.HostReport("drift", "site", b"x" * 4096),
    bodies.ProposalCreate(actions.AddLearner(validator(5)), ""),
    bodies.ProposalCreate(actions.PromoteLearner("v5"), ""),
    bodies.ProposalCreate(actions.RemoveValidator("v5"), ""),
    bodies.ProposalCreate(actions.ReplaceValidator("v1", "v5"), ""),
    bodies.ProposalCreate(actions.DecideRollout("spring@b", "halt", "why"), ""),
    rollout_bodies.GroupAssign("web@b", ("web1@b", "web2@b")),
    rollout_bodies.GroupAssign(None, ("web1@b",)),
    rollout_bodies.RolloutCreate("spring@b", D1, ("db@b", "web@b"), WAVES, 2, "more\nlines"),
    rollout_bodies.RolloutDecide("spring@b", "resume", ""),
    bodies.EvidenceSubmit(b"{}"),
    bodies.ValidatorSettle(GENESIS.header, make_certificate("net", [KEY], GENESIS)),
)


def sign(body: Body, **changes: object) -> bytes:
    arguments = {
        "chain_id": "net",
        "kind": body.KIND,
        "body": body,
        "key": KEY,
        "nonce": bytes(16),
        "not_after_height": 9,
        "client_time_ms": 1,
    }
    return build_transaction(**(arguments | changes)).raw  # type: ignore[arg-type]


def test_every_kind_has_a_sample() -> None:
    assert {body.KIND for body in EVERY_BODY} == set(BODY_READERS)
    names = {body.action.NAME for body in EVERY_BODY if isinstance(body, bodies.ProposalCreate)}
    assert names == {action.NAME for action in actions.Action.__args__}


@pytest.mark.parametrize("body", EVERY_BODY, ids=[f"{index}-{body.KIND}" for index, body in enumerate(EVERY_BODY)])
def test_what_is_built_is_read_back(body: Body) -> None:
    transaction = decode_transaction_untrusted(sign(body))
    assert transaction.body == body
    assert transaction.kind == body.KIND
    values = decode_untrusted(transaction.raw, bytes_max=TX_BYTES_MAX)
    assert isinstance(values, tuple)
    assert transaction.tx_id == hash_domain(DOMAIN_TRANSACTION, encode(values[:8]))
    assert transaction.leaf_hash == leaf_hash(transaction.raw)
    KEY.public_key.verify(transaction.tx_id, transaction.signature)


def test_p256_signatures_fit_too() -> None:
    key = key_of("p", Algorithm.P256)
    transaction = decode_transaction_untrusted(sign(EVERY_BODY[-1], key=key))
    assert transaction.signer_key_id == key.public_key.key_id
    key.public_key.verify(transaction.tx_id, transaction.signature)


@pytest.mark.parametrize("body", EVERY_BODY, ids=[f"{index}-{body.KIND}" for index, body in enumerate(EVERY_BODY)])
def test_every_position_of_every_body_has_its_rule(body: Body) -> None:
    """A type that no field accepts, at each position in turn, and one value too many or too few."""
    values = body.to_value()
    wrong: list[tuple[Value, ...]] = [(*values[:i], -5, *values[i + 1 :]) for i in range(len(values))]
    wrong += [values[:-1], (*values, None)]
    for value in wrong:
        with pytest.raises(RejectedError):
            BODY_READERS[body.KIND](value)


def refuse(values: tuple[Value, ...]) -> TransactionRefusedError:
    with pytest.raises(TransactionRefusedError) as refused:
        decode_transaction_untrusted(encode(values))
    return refused.value


GOOD = decode_untrusted(sign(bodies.IdentityResume("a@b")), bytes_max=TX_BYTES_MAX)


@pytest.mark.parametrize(
    ("position", "value", "cause"),
    [
        (0, 2, "wire.field.range"),
        (1, "Not an id", "wire.field.identifier"),
        (3, 1, "wire.field.tuple"),
        (4, b"short", "wire.field.length"),
        (5, b"short", "wire.field.length"),
        (6, -1, "wire.field.range"),
        (6, True, "wire.field.int"),
        (7, -1, "wire.field.range"),
        (7, 2**63, "wire.field.range"),
        (8, "text", "wire.field.bytes"),
        (8, b"s" * 73, "wire.field.length"),
    ],
)
def test_fields_of_the_envelope_have_their_rules(position: int, value: Value, cause: str) -> None:
    assert isinstance(GOOD, tuple)
    error = refuse((*GOOD[:position], value, *GOOD[position + 1 :]))
    assert (error.code, error.details["cause"]) == ("ledger.tx.malformed", cause)


def test_form_errors_have_their_codes() -> None:
    assert isinstance(GOOD, tuple)
    assert refuse(GOOD[:8]).code == "ledger.tx.malformed"
    for kind in ("identity.forget", 5):
        assert refuse((*GOOD[:2], kind, *GOOD[3:])).code == "ledger.tx.unknown_kind"
    for raw, code in (
        (b"", "ledger.tx.malformed"),
        (encode(GOOD) + b"\x00", "ledger.tx.malformed"),
        (bytes(TX_BYTES_MAX + 1), "ledger.tx.too_large"),
    ):
        with pytest.raises(TransactionRefusedError) as refused:
            decode_transaction_untrusted(raw)
        assert refused.value.code == code


def test_another_encoding_of_the_same_values_is_refused() -> None:
    """The height 9 in two bytes instead of one: msgpack reads it, the ledger must not."""
    raw = sign(bodies.IdentityResume("a@b"), not_after_height=9)
    place = raw.index(bytes(16)) + 16
    assert raw[place] == 9
    with pytest.raises(TransactionRefusedError) as refused:
        decode_transaction_untrusted(raw[:place] + b"\xcc\x09" + raw[place + 1 :])
    assert refused.value.details["cause"] == "wire.codec.not_canonical"


def test_nobody_builds_what_nobody_accepts() -> None:
    resume = bodies.IdentityResume("a@b")
    for body, changes, code in (
        (resume, {"chain_id": "NO"}, "ledger.tx.malformed"),
        (resume, {"nonce": b""}, "ledger.tx.malformed"),
        (resume, {"kind": "identity.revoke"}, "ledger.tx.malformed"),
        (bodies.IdentityUpdateRoles("a@b", ("king",)), {}, "ledger.identity.bad_role"),
    ):
        with pytest.raises(RejectedError) as refused:
            sign(body, **changes)  # type: ignore[arg-type]
        assert refused.value.code == code


def test_roles_have_one_order() -> None:
    body = bodies.IdentityUpdateRoles("a@b", ("host", "developer", "host", "attestor:z"))
    decoded = decode_transaction_untrusted(sign(body)).body
    assert decoded == replace(body, roles=("attestor:z", "developer", "host"))
    read = BODY_READERS["identity.update-roles"]
    for roles in (("host", "developer"), ("host", "host"), (), ("attestor:",), ("attestor:NO",), ("king",), (5,)):
        with pytest.raises(TransactionRefusedError) as refused:
            read(("a@b", roles))
        assert refused.value.code == "ledger.identity.bad_role"
    with pytest.raises(MalformedError):
        read(("a@b", tuple(f"attestor:r{index:02}" for index in range(ROLES_MAX + 1))))


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (("remove-organisation", "acme"), "wire.field.length"),
        (("set-limits",), "wire.field.length"),
        (("set-limits", 1, 4 << 20, 1000), "ledger.proposal.bad_limits"),
        (("set-limits", 1 << 20, 4 << 20, 1001), "ledger.proposal.bad_limits"),
        (("set-limits", 1 << 20, 1 << 20, 1000), "ledger.proposal.bad_limits"),
        (("rename-organisation", "acme", ""), "wire.field.length"),
        (("add-validator", "v5"), "ledger.proposal.unknown_action"),
        (("replace-validator",), "wire.field.length"),
        (("promote-learner", "Not a name"), "wire.field.identifier"),
        (("add-learner", "v5", "acme", b"k" * 92, "/ip4/127.0.0.1/tcp/1"), "wire.field.length"),
        (("add-learner", "v5", "acme", b"k", ""), "wire.field.length"),
        (("make-coffee",), "ledger.proposal.unknown_action"),
        ((), "wire.field.text"),
        (5, "wire.field.tuple"),
        (("set-threshold", "loudest"), "ledger.proposal.bad_threshold"),
        (("set-threshold", 5), "ledger.proposal.bad_threshold"),
        (("set-threshold",), "wire.field.length"),
        (("set-policy", "", (("b", "x"), ("a", "y"))), "ledger.proposal.bad_policy_set"),
        (("set-policy", "", (("a", "x"), ("a", "y"))), "ledger.proposal.bad_policy_set"),
        (
            ("set-policy", "", tuple((f"p{index}", "x" * POLICY_BYTES_MAX) for index in range(9))),
            "ledger.proposal.bad_policy_set",
        ),
        (("set-policy", "", (("a", ""),)), "wire.field.length"),
        (("add-organisation", "o", "O", (), ()), "ledger.proposal.no_administrator"),
        (("add-organisation", "o", "O", (("a@o", "A"),), ()), "wire.field.length"),
    ],
)
def test_actions_have_their_codes(action: Value, code: str) -> None:
    with pytest.raises(RejectedError) as refused:
        BODY_READERS["proposal.create"]((action, "why"))
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        ("patch.publish", (D1, D2, 5, b"{}", (D1, D1)), "wire.field.repeated"),
        ("patch.publish", (D1, D2, 0, b"{}", ()), "wire.field.range"),
        ("host.report", ("gossip", "site", b""), "wire.field.choice"),
        ("host.report", ("drift", "Site", b""), "wire.field.identifier"),
        ("host.report", ("drift", "site", bytes(4097)), "wire.field.length"),
        ("deployment.intent", (0, D1, "site", D2, D3, b""), "wire.field.range"),
        ("deployment.outcome", (1, D1, "site", D2, None, "success", D1, D2, b""), "wire.field.result"),
        ("deployment.outcome", (1, D1, "site", D2, None, "S" * 65, D1, D2, b""), "wire.field.result"),
        ("identity.suspend", ("a@b", "two\nlines"), "wire.field.characters"),
        ("identity.register", ("a@b", "", ("host",), SPKI, ()), "wire.field.length"),
        ("identity.register", ("alice", "A", ("host",), SPKI, ()), "wire.field.identity_id"),
        ("identity.register", ("a@b", "A", ("host",), SPKI, (b"d",) * 9), "wire.field.length"),
    ],
)
def test_bodies_have_their_codes(kind: str, value: Value, code: str) -> None:
    with pytest.raises(RejectedError) as refused:
        BODY_READERS[kind](value)
    assert refused.value.code == code


def test_signature_jobs_travel_between_processes() -> None:
    transaction = decode_transaction_untrusted(sign(bodies.IdentityResume("a@b")))
    job = signature_job(transaction, KEY.public_key)
    bad = replace(job, signature=bytes(64))
    assert check_signatures(pickle.loads(pickle.dumps([job, bad, job]))) == (True, False, True)
