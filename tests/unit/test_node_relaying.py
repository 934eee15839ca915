"""Whom a node asks, how often it goes to a validator past its sources, and what it says of where it can be followed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from node.config import NodeConfig, build_config
from node.errors import AddressError
from node.net.address import key_id_of, peer_id
from node.relaying import DIRECT_CHECK_TURNS, DIRECT_CHECK_TURNS_MAX, NAMED_ASKED_MAX, Relaying
from node.sync import PeerLedger
from node.telemetry import Metrics
from tests.testkit.ledger import Chain
from tests.testkit.net import raw_key_of
from tests.testkit.node import open_replica
from tests.testkit.sync import SourceBase, key_id_named
from wire.keys import KeyId

RAW = raw_key_of("web1")
OWN = key_id_of(RAW)
LISTENS = f"/ip4/192.0.2.7/tcp/7070/p2p/{peer_id(RAW)}"


@dataclass
class StandInObserver:
    """An observer that follows these."""

    near: list[SourceBase] = field(default_factory=list)
    path: tuple[KeyId, ...] = ()
    is_fed: bool = True
    sources: int = 2
    asked_for: int = 0

    def others(self, named_max: int) -> list[SourceBase]:
        self.asked_for = named_max
        return self.near

    def document(self) -> dict[str, Any]:
        return {"depth": len(self.path)}


class StandInNetwork:
    """A network that nobody uses."""

    own = SimpleNamespace(raw_key=RAW)

    def remote(self, _: KeyId) -> str:
        return ""

    def sent_bytes(self) -> tuple[int, int]:
        return 7, 11


@dataclass
class StandInNode:
    """What `Relaying` sees of a node."""

    replica: Any
    config: NodeConfig
    observer: StandInObserver | None = None
    multiaddr: str = LISTENS
    network: StandInNetwork = field(default_factory=StandInNetwork)
    metrics: Metrics = field(default_factory=Metrics)
    checkpoints: Any = field(default_factory=lambda: SimpleNamespace(highest=None))
    fixed: list[str] = field(default_factory=lambda: ["v1", "v2"])

    def peer_ledgers(self) -> list[PeerLedger]:
        return [PeerLedger(self.network, key_id_named(name), name) for name in self.fixed]  # type: ignore[arg-type]


@pytest.fixture
def node(tmp_path: Path) -> Any:
    chain = Chain()
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        yield StandInNode(replica, settings())


def settings(**more: object) -> NodeConfig:
    return build_config({"name": "web1", "role": "host", **more})


def test_validators_are_asked_last(node: StandInNode) -> None:
    relaying = Relaying(node)  # type: ignore[arg-type]
    assert [peer.address for peer in relaying.peers()] == ["v1", "v2"], "a validator asks validators"
    node.observer = StandInObserver([SourceBase("v2"), SourceBase("web9")])
    assert [peer.key_id for peer in relaying.peers()] == [key_id_named(name) for name in ("v2", "web9", "v1")]
    assert node.observer.asked_for == NAMED_ASKED_MAX


@pytest.mark.parametrize(("depth", "turns"), [(1, DIRECT_CHECK_TURNS), (2, DIRECT_CHECK_TURNS * 8), (9, 0)])
def test_validators_are_compared_with_less_often_the_further_away_they_are(
    node: StandInNode, depth: int, turns: int
) -> None:
    relaying = Relaying(node)  # type: ignore[arg-type]
    assert [peer.address for peer in relaying.peers_to_compare()] == ["v1", "v2"], "while nobody else is known"
    node.observer = StandInObserver([SourceBase("web9")], tuple(key_id_named(str(step)) for step in range(depth)))
    rounds = 3 * DIRECT_CHECK_TURNS * 8
    asked = [[peer.key_id for peer in relaying.peers_to_compare()] for _ in range(rounds)]
    direct = [index + 1 for index, keys in enumerate(asked) if keys != [key_id_named("web9")]]
    assert direct == (list(range(turns, rounds + 1, turns)) if turns else [])
    assert rounds < DIRECT_CHECK_TURNS_MAX
    if len(direct) > 1:
        assert asked[direct[0] - 1] != asked[direct[1] - 1], "another one each time"


@pytest.mark.parametrize(
    ("more", "multiaddr", "announced"),
    [
        ({}, LISTENS, LISTENS),
        ({}, "", None),
        ({"observers_max": 0}, LISTENS, None),
        ({"role": "validator"}, LISTENS, None),
        ({"announce": "/dns4/web1.test/tcp/9"}, LISTENS, f"/dns4/web1.test/tcp/9/p2p/{peer_id(RAW)}"),
    ],
)
def test_where_a_node_can_be_followed(
    node: StandInNode, more: dict[str, object], multiaddr: str, announced: str | None
) -> None:
    node.config, node.multiaddr = settings(**more), multiaddr
    assert Relaying(node).surroundings(OWN).announce() == announced  # type: ignore[arg-type]


def test_an_address_that_is_none_is_refused_at_the_start(node: StandInNode) -> None:
    node.config = settings(announce="web1.test:9")
    with pytest.raises(AddressError):
        Relaying(node)  # type: ignore[arg-type]


async def test_status_and_metrics_tell_of_slots_and_sources(node: StandInNode) -> None:
    relaying = Relaying(node)  # type: ignore[arg-type]
    around = relaying.surroundings(OWN)
    assert around.room() == 8
    assert around.certified() == 0
    node.checkpoints.highest = SimpleNamespace(height=42)
    assert around.certified() == 42
    assert relaying.document() == {"observers": {"limit": 8, "redirected": 0, "fed": []}, "sync": None}
    assert relaying.slots.note_question(key_id_named("web2"), 5, 10**9)
    node.observer = StandInObserver(path=(key_id_named("v1"),))
    relaying.observe()
    text = node.metrics.text()
    for line in (
        "patchwarden_sync_sources 2.0",
        'patchwarden_sent_bytes{stream="consensus"} 7.0',
        'patchwarden_sent_bytes{stream="rpc"} 11.0',
    ):
        assert line in text
    document = relaying.document()
    assert document["sync"] == {"depth": 1}
    assert document["observers"]["fed"] == [
        {"key_id": key_id_named("web2").hex(), "address": None, "height": 5, "beyond_limit": False}
    ]
