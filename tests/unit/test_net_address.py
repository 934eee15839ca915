"""PeerIds and multiaddresses without libp2p, and the same ones as libp2p's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from node.errors import AddressError
from node.net.address import (
    Address,
    key_id_of,
    parse_address_untrusted,
    peer_id,
    raw_key_from_peer_id_untrusted,
    with_peer_id_untrusted,
)
from wire.errors import RejectedError
from wire.keys import Algorithm, private_key_from_seed

KEY = private_key_from_seed(Algorithm.ED25519, bytes(range(32))).public_key


def test_a_peer_id_names_its_key() -> None:
    text = peer_id(KEY.raw)
    assert text.startswith("12D3KooW")
    assert raw_key_from_peer_id_untrusted(text) == KEY.raw
    assert key_id_of(KEY.raw) == KEY.key_id


def test_the_peer_id_is_the_one_of_libp2p() -> None:
    code = (
        "from libp2p import create_identity_from_seed as c; from libp2p.peer.id import ID;"
        "print(ID.from_pubkey(c(bytes(range(32))).public_key))"
    )
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert theirs.strip() == peer_id(KEY.raw)


@pytest.mark.parametrize("text", ["", "0OIl", "Qm" + "1" * 44, "12D3KooW", peer_id(KEY.raw)[:-1], "1" * 1000, "ü"])
def test_other_text_is_no_peer_id(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        raw_key_from_peer_id_untrusted(text)
    assert caught.value.code == "node.net.peer_id"


def test_a_small_order_key_is_nobodys() -> None:
    with pytest.raises(RejectedError):
        key_id_of(bytes(32))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/ip4/127.0.0.1/tcp/4001", Address("ip4", "127.0.0.1", 4001)),
        ("/ip4/10.0.0.7/tcp/0", Address("ip4", "10.0.0.7", 0)),
        ("/ip6/::1/tcp/65535", Address("ip6", "::1", 65535)),
        ("/dns4/node-1.example.org/tcp/443", Address("dns4", "node-1.example.org", 443)),
        (f"/dns6/a/tcp/1/p2p/{peer_id(KEY.raw)}", Address("dns6", "a", 1, KEY.raw)),
    ],
)
def test_addresses_are_read_and_written(text: str, address: Address) -> None:
    assert parse_address_untrusted(text) == address
    assert str(address) == text
    assert text.startswith(address.transport)


def test_only_addresses_of_this_machine_are_loopback() -> None:
    texts = ["/ip4/127.9.9.9/tcp/1", "/ip6/::1/tcp/1", "/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1", "/dns4/localhost/tcp/1"]
    assert [parse_address_untrusted(text).is_loopback for text in texts] == [True, True, False, False, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:4001",
        "/ip4/127.0.0.1",
        "/ip4/127.0.0.1/tcp",
        "/ip4/127.0.0.1/tcp/",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/01",
        "/ip4/127.0.0.1/tcp/-1",
        "/ip4/127.0.0.1/tcp/\uff14",
        "/ip4/127.0.0.1/udp/1",
        "/ip4/127.0.0.1/tcp/1/ws",
        "/ip4/127.0.0.1/tcp/1/",
        "/ip4/127.0.0.256/tcp/1",
        "/ip4/::1/tcp/1",
        "/ip6/127.0.0.1/tcp/1",
        "/dns4/-bad/tcp/1",
        "/dns4//tcp/1",
        "/dns4/" + "a" * 64 + "/tcp/1",
        "/dns4/ex ample/tcp/1",
        "/dns/example.org/tcp/1",
        "x/ip4/127.0.0.1/tcp/1",
        "/ip4/127.0.0.1/tcp/1/p2p/",
        "/ip4/127.0.0.1/tcp/1/p2p-circuit/x",
        "/dns4/" + "a." * 300 + "/tcp/1",
    ],
)
def test_other_text_is_no_address(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address_untrusted(text)
    assert caught.value.code in ("node.net.address", "node.net.peer_id")


def test_a_peer_id_is_added_but_not_changed() -> None:
    with_id = with_peer_id_untrusted("/ip4/127.0.0.1/tcp/1", KEY.raw)
    assert with_id == f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id(KEY.raw)}"
    assert with_peer_id_untrusted(with_id, KEY.raw) == with_id
    with pytest.raises(AddressError) as caught:
        with_peer_id_untrusted(with_id, private_key_from_seed(Algorithm.ED25519, bytes(32)).public_key.raw)
    assert caught.value.code == "node.net.peer_id"
