"""The outbox: nothing is lost, nothing is told twice, and the host's chain has no gap, whatever happens on the way."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from agent.delivery import Delivery
from agent.errors import OutboxError, StateCorruptError
from agent.files import Files
from agent.outbox import ChainHead, HostBody, Outbox
from ledger.bodies import DeploymentIntent, DeploymentOutcome, HostReport, IdentityResume, IdentitySuspend
from ledger.transaction import Transaction, build_transaction, decode_transaction_untrusted
from tests.testkit.agent import HOST, TARGET, FakeLedger, World
from tests.testkit.ledger import CHAIN_ID, key_of
from wire import canonical_json
from wire.errors import RejectedError
from wire.hashing import sha256

TREE = sha256(b"tree")


class Signer:
    """Signs for a host, with a new nonce each time."""

    def __init__(self, not_after: int = 1000) -> None:
        self.not_after = not_after
        self.count = 0

    def __call__(self, body: HostBody) -> Transaction:
        self.count += 1
        nonce = self.count.to_bytes(16, "big")
        return build_transaction(CHAIN_ID, body.KIND, body, key_of(HOST), nonce, self.not_after, 0)


def intent(patch_id: bytes) -> DeploymentIntent:
    return DeploymentIntent(0, bytes(32), TARGET, patch_id, TREE, b"{}")


def refusal(detail: bytes = b"{}") -> DeploymentOutcome:
    return DeploymentOutcome(0, bytes(32), TARGET, bytes(32), None, "ERROR_MALFORMED_PATCH", TREE, TREE, detail)


def outcome(patch_id: bytes, result: str = "SUCCESS") -> DeploymentOutcome:
    return DeploymentOutcome(0, bytes(32), TARGET, patch_id, None, result, TREE, bytes(reversed(TREE)), b"{}")


class Post:
    """An outbox with its delivery, to a ledger on which a patch is published."""

    def __init__(self, world: World, directory: Path) -> None:
        world.release()
        (self.patch,) = world.chain.view.patches()
        self.patch_id = self.patch.patch_id
        self.world = world
        self.chain = world.chain
        self.ledger: FakeLedger = world.ledger
        self.path = directory / "outbox.log"
        self.sign = Signer(world.chain.height + 1000)
        self.open()

    def open(self) -> None:
        self.outbox = Outbox(Files(), str(self.path))
        self.delivery = Delivery(self.outbox, self.ledger, HOST, self.sign)

    def reopen(self) -> None:
        self.outbox.close()
        self.open()

    async def deliver(self) -> None:
        await self.delivery.deliver(1.0)

    def told(self) -> list[tuple[str, int]]:
        """Return kind and counter of every record on the ledger."""
        return [
            (body.KIND.removeprefix("deployment."), getattr(body, "counter", 0))
            for body in self.world.bodies()
            if isinstance(body, DeploymentIntent | DeploymentOutcome | HostReport)
        ]


@pytest.fixture
def post(tmp_path: Path) -> Post:
    return Post(World(tmp_path), tmp_path)


async def refuse(post: Post, code: str) -> None:
    with pytest.raises(OutboxError) as caught:
        await post.deliver()
    assert caught.value.code == code


async def test_records_are_delivered_in_order_and_linked(post: Post) -> None:
    first = await post.delivery.queue(intent(post.patch_id))
    second = await post.delivery.queue(outcome(post.patch_id), closes=first.sequence)
    await post.delivery.queue(HostReport("drift", TARGET, b"{}"))
    await post.delivery.queue(refusal())
    assert [entry.sequence for entry in post.outbox.pending] == [1, 2, 3, 4]
    await post.deliver()
    assert post.outbox.pending == ()
    assert post.told() == [("intent", 1), ("outcome", 2), ("host.report", 0), ("outcome", 3)]
    body = second.body
    assert isinstance(body, DeploymentOutcome)
    assert body.intent_tx_id == first.transaction.tx_id == body.previous
    assert post.outbox.delivered_count == 4
    assert post.outbox.delivered_counter == 3


async def test_intent_is_open_until_its_outcome_is_queued(post: Post) -> None:
    entry = await post.delivery.queue(intent(post.patch_id))
    assert [each.sequence for each in post.outbox.open_intents] == [entry.sequence]
    await post.deliver()
    post.reopen()
    (opened,) = post.outbox.open_intents
    assert opened.height == post.chain.height
    await post.delivery.queue(outcome(post.patch_id), closes=entry.sequence)
    assert post.outbox.open_intents == ()
    post.reopen()
    assert post.outbox.open_intents == ()
    assert post.outbox.find_intent(entry.sequence) is not None, "its outcome may have to be signed again"
    await post.deliver()
    assert post.outbox.find_intent(entry.sequence) is None


async def test_offline_host_loses_nothing(post: Post) -> None:
    post.ledger.is_offline = True
    first = await post.delivery.queue(intent(post.patch_id))
    await post.delivery.queue(outcome(post.patch_id), closes=first.sequence)
    for number in range(40):
        await post.delivery.queue(refusal(b'{"n":%d}' % number))
        post.reopen()
        await refuse(post, "agent.ledger.unavailable")
    post.ledger.is_offline = False
    await post.deliver()
    assert post.told() == [("intent", 1), ("outcome", 2)] + [("outcome", 3 + number) for number in range(40)]


async def test_log_is_compacted_and_still_goes_on(post: Post) -> None:
    for round_number in range(60):
        entry = await post.delivery.queue(intent(post.patch_id))
        await post.deliver()
        await post.delivery.queue(outcome(post.patch_id), closes=entry.sequence)
        await post.deliver()
        if round_number % 7 == 0:
            post.reopen()
    assert post.outbox.head.counter == 120
    assert post.path.stat().st_size < 100_000
    post.reopen()
    assert post.outbox.delivered_count == 120
    assert post.outbox.delivered_counter == 120
    left = await post.delivery.queue(intent(post.patch_id))
    assert left.sequence == 121
    await post.deliver()
    assert post.told()[-1] == ("intent", 121)


async def test_compaction_keeps_an_open_intent_and_what_waits(post: Post) -> None:
    opened = await post.delivery.queue(intent(post.patch_id))
    await post.deliver()
    for _ in range(80):
        await post.delivery.queue(refusal())
        await post.deliver()
    post.ledger.is_offline = True
    await post.delivery.queue(outcome(post.patch_id), closes=opened.sequence)
    post.reopen()
    assert post.outbox.open_intents == ()
    post.ledger.is_offline = False
    await post.deliver()
    last = post.world.outcomes()[-1]
    assert (last.result, last.intent_tx_id) == ("SUCCESS", opened.transaction.tx_id)


async def test_lost_receipt_does_not_tell_twice(post: Post) -> None:
    post.ledger.loses_receipts = True
    await post.delivery.queue(refusal())
    await refuse(post, "agent.ledger.unavailable")
    assert post.told() == [("outcome", 1)]
    post.reopen()
    post.ledger.loses_receipts = False
    await post.deliver()
    assert post.told() == [("outcome", 1)]
    assert post.outbox.pending == ()


async def test_expired_records_are_signed_again_with_what_follows(post: Post) -> None:
    post.sign.not_after = post.chain.height + 2
    post.ledger.is_offline = True
    first = await post.delivery.queue(intent(post.patch_id))
    await post.delivery.queue(outcome(post.patch_id), closes=first.sequence)
    for _ in range(3):
        post.chain.apply(post.chain.build().block)
    post.sign.not_after = post.chain.height + 1000
    post.ledger.is_offline = False
    await post.deliver()
    (announced,), (closed,) = post.world.intents(), post.world.outcomes()
    assert (announced.counter, closed.counter) == (1, 2)
    assert closed.intent_tx_id == closed.previous
    assert closed.intent_tx_id != first.transaction.tx_id, "the intent has a new id, and its outcome names it"


async def test_expiry_that_only_another_node_knows_waits(post: Post) -> None:
    post.sign.not_after = post.chain.height + 2
    await post.delivery.queue(refusal())
    behind = post.ledger.snapshot()
    for _ in range(3):
        post.chain.apply(post.chain.build().block)
    post.ledger.frozen = behind
    await refuse(post, "ledger.tx.expired")
    signed = post.sign.count
    post.ledger.frozen = None
    post.sign.not_after = post.chain.height + 1000
    await post.deliver()
    assert post.sign.count == signed + 1
    assert post.told() == [("outcome", 1)]


async def test_record_refused_for_good_is_kept_and_the_rest_moves_up(post: Post) -> None:
    first = await post.delivery.queue(intent(sha256(b"never published")))
    await post.delivery.queue(outcome(sha256(b"never published"), "ERROR_POLICY_DENIED"), closes=first.sequence)
    await post.delivery.queue(refusal())
    await post.deliver()
    assert post.outbox.refused_count == 1
    assert post.told() == [("outcome", 1), ("outcome", 2)]
    assert post.world.outcomes()[0].intent_tx_id is None, "an intent that is not there cannot be closed"
    settled = post.delivery.find_settled(first.sequence)
    assert settled is not None
    assert settled.refusal is not None
    assert settled.refusal[0] == "ledger.patch.not_found"
    post.reopen()
    assert post.outbox.refused_count == 1
    assert post.outbox.find_intent(first.sequence) is None


async def test_suspended_host_waits(post: Post) -> None:
    post.chain.submit(IdentitySuspend(HOST, "maintenance"), "ada@acme")
    await post.delivery.queue(refusal())
    await refuse(post, "ledger.tx.signer_suspended")
    assert len(post.outbox.pending) == 1
    post.chain.submit(IdentityResume(HOST), "ada@acme")
    await post.deliver()
    assert post.told() == [("outcome", 1)]


async def test_outbox_restored_from_a_backup_goes_on_where_the_ledger_stands(post: Post) -> None:
    await post.delivery.queue(refusal(b'{"n":1}'))
    backup = post.path.read_bytes()
    await post.deliver()
    await post.delivery.queue(refusal(b'{"n":2}'))
    await post.deliver()
    post.path.write_bytes(backup)
    post.reopen()
    await post.delivery.queue(refusal(b'{"n":3}'))
    await post.deliver()
    assert post.told() == [("outcome", 1), ("outcome", 2), ("outcome", 3)]
    assert [body.detail for body in post.world.outcomes()] == [b'{"n":1}', b'{"n":2}', b'{"n":3}']


async def test_new_outbox_begins_where_the_ledger_stands(post: Post) -> None:
    await post.delivery.queue(refusal())
    await post.deliver()
    post.path.unlink()
    post.reopen()
    await post.delivery.queue(refusal())
    await post.deliver()
    assert post.told() == [("outcome", 1), ("outcome", 2)]


async def test_crash_while_signing_again_loses_nothing(post: Post) -> None:
    class Stop(BaseException):
        pass

    post.ledger.is_offline = True
    first = await post.delivery.queue(intent(post.patch_id))
    await post.delivery.queue(outcome(post.patch_id), closes=first.sequence)
    for number in range(4):
        await post.delivery.queue(refusal(b'{"n":%d}' % number))
    post.outbox.close()
    backup = post.path.read_bytes()
    for call in ("open", "write", "fsync", "rename", "done"):
        armed: list[str] = []

        def step(name: str, path: str | bytes, armed: list[str] = armed) -> None:
            if name in armed:
                raise Stop

        post.path.write_bytes(backup)
        outbox = Outbox(Files(step), str(post.path))
        armed.append(call)
        try:
            outbox.sign_again(ChainHead(0, bytes(32)), post.sign)
        except Stop:
            assert call != "done"
        outbox.close()
    post.open()
    assert [entry.sequence for entry in post.outbox.pending] == [1, 2, 3, 4, 5, 6]
    assert post.outbox.open_intents == ()
    post.ledger.is_offline = False
    await post.deliver()
    assert post.told() == [("intent", 1)] + [("outcome", 2 + number) for number in range(5)]


async def test_outbox_that_fills_its_file_is_full(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        await post.delivery.queue(refusal())
    monkeypatch.setattr("agent.outbox.OUTBOX_BYTES_MAX", post.path.stat().st_size)
    with pytest.raises(OutboxError) as caught:
        await post.delivery.queue(refusal())
    assert caught.value.code == "agent.outbox.full"
    await post.deliver()
    post.outbox.sign_again(post.outbox.head, post.sign)
    await post.delivery.queue(refusal())


async def test_replica_without_our_records_is_not_numbered_on(post: Post) -> None:
    before = post.ledger.snapshot()
    await post.delivery.queue(refusal())
    await post.deliver()
    await post.delivery.queue(refusal())
    post.ledger.frozen = before
    await refuse(post, "agent.outbox.replica_behind")
    post.ledger.frozen = None
    await post.deliver()
    assert post.told() == [("outcome", 1), ("outcome", 2)]


async def test_second_agent_with_the_same_identity_is_survived(post: Post) -> None:
    await post.delivery.queue(refusal(b'{"n":"ours"}'))
    head = post.chain.view.host(HOST)
    assert head is None
    post.chain.submit(
        DeploymentOutcome(1, bytes(32), TARGET, bytes(32), None, "ERROR_MALFORMED_PATCH", TREE, TREE, b"theirs"), HOST
    )
    await post.deliver()
    assert [body.detail for body in post.world.outcomes()] == [b"theirs", b'{"n":"ours"}']


async def test_full_outbox_takes_outcomes_of_open_intents_only(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.outbox.OUTBOX_ENTRIES_MAX", 3)
    entry = await post.delivery.queue(intent(post.patch_id))
    for _ in range(2):
        await post.delivery.queue(refusal())
    with pytest.raises(OutboxError) as caught:
        await post.delivery.queue(refusal())
    assert caught.value.code == "agent.outbox.full"
    await post.delivery.queue(outcome(post.patch_id), closes=entry.sequence)
    await post.deliver()
    assert len(post.told()) == 4


async def test_two_deliveries_at_once_tell_once(post: Post) -> None:
    for _ in range(5):
        await post.delivery.queue(refusal())
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(post.deliver)
    assert post.told() == [("outcome", 1 + number) for number in range(5)]


async def test_delivery_stops_at_the_record_that_was_asked_for(post: Post) -> None:
    first = await post.delivery.queue(refusal())
    await post.delivery.queue(refusal())
    await post.delivery.deliver(1.0, until=first.sequence)
    assert post.told() == [("outcome", 1)]
    assert not post.outbox.is_waiting(first.sequence)


async def test_silent_ledger_is_given_up(post: Post, autojump_clock: trio.testing.MockClock) -> None:
    class Silent(FakeLedger):
        async def submit(self, raw: bytes) -> None:
            await trio.sleep_forever()

    post.delivery = Delivery(post.outbox, Silent(post.chain), HOST, post.sign)
    post.outbox.queue(refusal(), post.sign)
    with pytest.raises(OutboxError, match="no answer in 1 s"):
        await post.delivery.deliver(1.0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('"op":"queue"', '"op":"steal"'),
        lambda text: text.replace('"sequence":1', '"sequences":1'),
        lambda text: text.replace('"raw":"', '"raw":"AAAA'),
        lambda text: text.replace('"intent":null', '"intent":7'),
    ],
    ids=["unknown", "missing", "not-a-transaction", "closes-nothing"],
)
async def test_log_of_another_form_is_damage(post: Post, spoil: Callable[[str], str]) -> None:
    await post.delivery.queue(refusal())
    post.outbox.close()
    body = post.path.read_text().partition(" ")[2].rstrip("\n")
    spoilt = spoil(body)
    assert spoilt != body
    post.path.write_text(f"{sha256(spoilt.encode()).hex()[:16]} {spoilt}\n")
    with pytest.raises(StateCorruptError) as caught:
        Outbox(Files(), str(post.path))
    assert caught.value.code == "agent.state.damaged"


async def test_only_a_hosts_records_are_taken_back(post: Post) -> None:
    await post.delivery.queue(refusal())
    post.outbox.close()
    other = post.chain.sign(IdentityResume(HOST), "ada@acme")
    assert isinstance(decode_transaction_untrusted(other.raw).body, IdentityResume)
    record = json.loads(post.path.read_text().partition(" ")[2])
    record["raw"] = base64.b64encode(other.raw).decode()
    text = canonical_json.encode(record)
    post.path.write_bytes(sha256(text).hex()[:16].encode() + b" " + text + b"\n")
    with pytest.raises(StateCorruptError):
        Outbox(Files(), str(post.path))


async def test_fake_ledger_refuses_as_the_real_one(post: Post) -> None:
    wrong = post.sign(replace(refusal(), counter=2))
    with pytest.raises(RejectedError) as caught:
        await post.ledger.submit(wrong.raw)
    assert caught.value.code == "ledger.host.counter_gap"
