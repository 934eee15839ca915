"""The question for a slot: who is refused and why, and which addresses are believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node.joining import (
    BEHIND,
    BEHIND_BLOCKS_MAX,
    DEEP,
    FULL,
    LOOP,
    PATH_MAX,
    SINGLE_PER_S_MAX,
    Joined,
    JoinServer,
    Standing,
    certified_height,
    decode_joined_untrusted,
    decode_wish_untrusted,
    encode_joined,
    encode_wish,
    owner_of_untrusted,
    reachable_address,
)
from node.net.address import key_id_of, peer_id
from node.replica import LedgerReplica
from node.sync import FOLLOW_JOIN, KNOWN_CODES, REFUSED, PeerLedger, SyncServer
from node.sync_slots import OFFERS_MAX, Slots, Wish
from tests.testkit.ledger import Chain, node_key
from tests.testkit.net import raw_key_of
from tests.testkit.node import open_replica
from tests.testkit.sync import key_id_named
from wire.codec import encode
from wire.errors import MalformedError, RejectedError, UnavailableError
from wire.keys import KeyId

RAW = raw_key_of("web1")
ASKER = key_id_of(RAW)
ADDRESS = f"/ip4/127.0.0.1/tcp/7070/p2p/{peer_id(RAW)}"
WISH = Wish(ADDRESS, 0, 8, 0, is_stranded=False)
FED = Standing((), is_fed=True)


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[LedgerReplica]:
    chain = Chain()
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        yield replica


async def _ask(
    replica: LedgerReplica, wish: Wish, *, standing: Standing = FED, slots: Slots | None = None, asker: KeyId = ASKER
) -> Joined:
    server = JoinServer(slots or Slots(8), replica, lambda: standing, lambda _: "127.0.0.1:5000")
    return decode_joined_untrusted(await server.join(asker, encode_wish(wish)))


async def test_an_observer_gets_a_slot_and_the_way_to_it(replica: LedgerReplica) -> None:
    path = (key_id_named("v1"), key_id_named("web9"))
    joined = await _ask(replica, WISH, standing=Standing(path, is_fed=True))
    assert joined == Joined(None, 0, path, ())


@pytest.mark.parametrize(
    ("wish", "standing", "refusal"),
    [
        (WISH, Standing((key_id_named("v1"), ASKER, key_id_named("web9")), is_fed=True), LOOP),
        (WISH, Standing((key_id_named("v1"),) * PATH_MAX, is_fed=True), DEEP),
        (replace(WISH, height=BEHIND_BLOCKS_MAX + 1), FED, BEHIND),
        (replace(WISH, height=BEHIND_BLOCKS_MAX), FED, None),
        (WISH, Standing((), is_fed=False), BEHIND),
    ],
)
async def test_refusals(replica: LedgerReplica, wish: Wish, standing: Standing, refusal: str | None) -> None:
    slots = Slots(8)
    assert slots.join(ASKER, wish, trio.current_time())
    joined = await _ask(replica, wish, standing=standing, slots=slots)
    assert joined.refusal == refusal
    assert slots.used(trio.current_time()) == (refusal is None), "who is refused holds no slot"


async def test_who_finds_no_slot_hears_of_those_who_have_one(replica: LedgerReplica) -> None:
    slots = Slots(1)
    assert (await _ask(replica, WISH, slots=slots)).refusal is None
    joined = await _ask(replica, replace(WISH, address=None), slots=slots, asker=key_id_named("web2"))
    assert (joined.refusal, joined.offers) == (FULL, (ADDRESS,))


async def test_who_is_connected_no_more_holds_no_slot(replica: LedgerReplica) -> None:
    connected = {ASKER: "127.0.0.1:5000"}
    server = JoinServer(Slots(1), replica, lambda: FED, lambda key_id: connected.get(key_id, ""))
    await server.join(ASKER, encode_wish(WISH))
    other = key_id_named("web2")
    connected[other] = "127.0.0.1:5001"
    assert decode_joined_untrusted(await server.join(other, encode_wish(WISH))).refusal == FULL
    del connected[ASKER]
    assert decode_joined_untrusted(await server.join(other, encode_wish(WISH))).refusal is None


async def test_validators_need_no_slot(replica: LedgerReplica) -> None:
    slots = Slots(1)
    assert (await _ask(replica, WISH, slots=slots)).refusal is None
    for index in (1, 2):
        joined = await _ask(replica, WISH, slots=slots, asker=node_key(index).public_key.key_id)
        assert joined.refusal is None
    assert slots.used(trio.current_time()) == 1


async def test_blocks_are_refused_without_a_slot_and_never_to_validators(replica: LedgerReplica) -> None:
    server = JoinServer(Slots(1), replica, lambda: FED, lambda _: "127.0.0.1:5000")
    await server.join(ASKER, encode_wish(WISH))

    class ANode:
        def __init__(self) -> None:
            self.replica = replica

    sync = SyncServer(ANode(), server)  # type: ignore[arg-type]
    question = encode((1, None, 1000, 0))
    assert await sync._blocks(ASKER, question) == encode(())
    assert await sync._blocks(node_key(1).public_key.key_id, question) == encode(())
    with pytest.raises(UnavailableError) as error:
        await sync._blocks(key_id_named("web2"), question)
    assert error.value.code == FULL
    single = encode((1, None, 1, 0))
    assert await sync._blocks(key_id_named("web2"), single) == encode(()), "a node that repairs its store"


async def test_single_blocks_without_a_slot_are_bounded(replica: LedgerReplica, autojump_clock: MockClock) -> None:
    server = JoinServer(Slots(1), replica, lambda: FED, lambda _: "127.0.0.1:5000")
    await server.join(ASKER, encode_wish(WISH))
    stranger = key_id_named("web2")
    for _ in range(2):
        answers = [server.admits(stranger, 0, is_single=True) for _ in range(SINGLE_PER_S_MAX + 1)]
        assert answers == [True] * SINGLE_PER_S_MAX + [False]
        await trio.sleep(1)
    assert not server.admits(stranger, 0)


def test_the_certified_height_is_that_of_the_newest_certificate() -> None:
    chain = Chain()
    chain.register("alice@acme", "developer")
    assert certified_height(chain.view) == chain.height
    chain.apply(chain.build().block, certify=False)
    assert certified_height(chain.view) == chain.height - 1


def test_wishes_and_answers_keep_their_form() -> None:
    for wish in (WISH, Wish(None, 5, 0, 2, is_stranded=True)):
        assert decode_wish_untrusted(encode_wish(wish)) == wish
    for joined in (Joined(None, 7, (), ()), Joined(FULL, 0, (ASKER,), (ADDRESS,) * OFFERS_MAX)):
        assert decode_joined_untrusted(encode_joined(joined)) == joined


@pytest.mark.parametrize(
    "value",
    [
        (),
        (ADDRESS, 0, 8, 0),
        (1, 0, 8, 0, False),
        (ADDRESS, -1, 8, 0, False),
        (ADDRESS, 0, 8, 0, 1),
        ("x" * 500, 0, 8, 0, False),
    ],
)
def test_malformed_wishes_are_refused(value: tuple[object, ...]) -> None:
    with pytest.raises(MalformedError):
        decode_wish_untrusted(encode(value))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        (),
        (None, 0, ()),
        ("node.sync.because", 0, (), ()),
        (None, 0, (b"short",), ()),
        (None, 0, (bytes(32),) * (PATH_MAX + 1), ()),
        (None, 0, (), ("x",) * (OFFERS_MAX + 1)),
        (None, 0, (), (5,)),
    ],
)
def test_malformed_answers_are_refused(value: tuple[object, ...]) -> None:
    with pytest.raises(MalformedError):
        decode_joined_untrusted(encode(value))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("announced", "remote", "reachable"),
    [
        (ADDRESS, "127.0.0.1:5000", ADDRESS),
        (ADDRESS, "192.0.2.7:5000", None),
        (ADDRESS.replace("127.0.0.1", "192.0.2.7"), "192.0.2.7:5000", ADDRESS.replace("127.0.0.1", "192.0.2.7")),
        (ADDRESS.replace("127.0.0.1", "192.0.2.7"), "127.0.0.1:5000", ADDRESS.replace("127.0.0.1", "192.0.2.7")),
        (ADDRESS.replace("127.0.0.1", "0.0.0.0"), "192.0.2.7:5000", ADDRESS.replace("127.0.0.1", "192.0.2.7")),
        (ADDRESS.replace("ip4/127.0.0.1", "dns4/web1.test"), "x", ADDRESS.replace("ip4/127.0.0.1", "dns4/web1.test")),
        (ADDRESS.replace("7070", "0"), "127.0.0.1:5000", None),
        (ADDRESS.partition("/p2p")[0], "127.0.0.1:5000", None),
        (ADDRESS.replace(peer_id(RAW), peer_id(raw_key_of("web2"))), "127.0.0.1:5000", None),
        (ADDRESS, "", None),
        ("nonsense", "127.0.0.1:5000", None),
        (None, "127.0.0.1:5000", None),
    ],
)
def test_which_addresses_are_passed_on(announced: str | None, remote: str, reachable: str | None) -> None:
    assert reachable_address(announced, ASKER, remote) == reachable


def test_an_offer_says_whose_it_is() -> None:
    assert owner_of_untrusted(ADDRESS) == ASKER
    for offer in ("nonsense", ADDRESS.partition("/p2p")[0], ADDRESS.replace("7070", "0")):
        with pytest.raises(RejectedError):
            owner_of_untrusted(offer)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((UnavailableError(code, "so"), code) for code in sorted(KNOWN_CODES)),
        (UnavailableError("evil.code.of.its-own", "so"), REFUSED),
        (RejectedError("node.net.unknown_method", "so"), REFUSED),
    ],
)
async def test_a_peers_own_word_for_refusing_is_not_taken_over(error: Exception, code: str) -> None:
    class Refusing:
        async def request(self, *_: object, **__: object) -> bytes:
            await trio.lowlevel.checkpoint()
            raise error

    peer = PeerLedger(Refusing(), ASKER, ADDRESS)  # type: ignore[arg-type]
    for question in (peer.join(WISH), peer.blocks(1, bytes_max=1, wait_ms=0)):
        with pytest.raises(UnavailableError) as found:
            await question
        assert found.value.code == code


def test_the_method_has_a_name_that_peers_accept() -> None:
    assert FOLLOW_JOIN == "follow.join"
