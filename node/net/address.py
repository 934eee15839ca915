"""PeerIds and multiaddresses, without importing libp2p: configuration, genesis documents and the CLI need them too.

The PeerId of an Ed25519 key is the base58 text of an identity multihash over the key's protobuf form: six fixed bytes, then the 32 bytes of
the key. It therefore names the key itself, and a member's PeerId needs no directory.

Source: docs/spec/network.md 2; libp2p specs, peer-ids.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from node.errors import AddressError
from wire.base58 import base58_decode_untrusted, base58_encode
from wire.errors import RejectedError
from wire.keys import Algorithm, KeyId, public_key_from_raw_untrusted

PEER_ID_PREFIX: Final = bytes.fromhex("002408011220")
"""Identity multihash of 36 bytes; protobuf: type Ed25519, 32 bytes of data."""
RAW_KEY_BYTES: Final = 32
_ADDRESS_CHARACTERS_MAX: Final = 400
_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    re.ASCII,
)
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP endpoint, and whose it is."""

    protocol: str
    """``ip4``, ``ip6``, ``dns4`` or ``dns6``."""
    host: str
    """Address or name."""
    port: int
    """0 to 65535; 0 only to listen on a port that the system chooses."""
    raw_key: bytes | None = None
    """The 32-byte Ed25519 key behind it, when the address ends in ``/p2p/…``."""

    @property
    def transport(self) -> str:
        """The multiaddress without the PeerId."""
        return f"/{self.protocol}/{self.host}/tcp/{self.port}"

    def __str__(self) -> str:
        """Return the multiaddress, with the PeerId if known."""
        return self.transport if self.raw_key is None else f"{self.transport}/p2p/{peer_id(self.raw_key)}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.protocol == "ip4":
            return IPv4Address(self.host).is_loopback
        return self.protocol == "ip6" and IPv6Address(self.host).is_loopback


def peer_id(raw_key: bytes) -> str:
    """Return the PeerId of a 32-byte Ed25519 key, such as ``12D3KooW…``."""
    assert len(raw_key) == RAW_KEY_BYTES, "an Ed25519 key has 32 bytes"
    return base58_encode(PEER_ID_PREFIX + raw_key)


def raw_key_from_peer_id_untrusted(text: str) -> bytes:
    """Return the 32-byte Ed25519 key that a PeerId names.

    Raises:
        AddressError: ``node.net.peer_id`` for other text, and for PeerIds of other kinds of keys.
    """
    try:
        data = base58_decode_untrusted(text[:_ADDRESS_CHARACTERS_MAX])
    except RejectedError as error:
        raise AddressError("node.net.peer_id", f"this is not a PeerId: {error}") from error
    return raw_key_from_multihash_untrusted(data)


def raw_key_from_multihash_untrusted(data: bytes) -> bytes:
    """Return the 32-byte Ed25519 key in the binary form of a PeerId.

    Raises:
        AddressError: ``node.net.peer_id``.
    """
    if len(data) != len(PEER_ID_PREFIX) + RAW_KEY_BYTES or not data.startswith(PEER_ID_PREFIX):
        raise AddressError("node.net.peer_id", "this is not the PeerId of an Ed25519 key", actual=data)
    return data[len(PEER_ID_PREFIX) :]


def key_id_of(raw_key: bytes) -> KeyId:
    """Return the key id under which the ledger knows a 32-byte Ed25519 key.

    Raises:
        RejectedError: ``wire.key.*`` when it is no usable key.
    """
    return public_key_from_raw_untrusted(Algorithm.ED25519, raw_key).key_id


def parse_address_untrusted(text: str) -> Address:
    """Return the address in a multiaddress ``/ip4|ip6|dns4|dns6/HOST/tcp/PORT[/p2p/PEERID]``.

    Raises:
        AddressError: ``node.net.address``, ``node.net.peer_id``.
    """
    parts = text.split("/") if len(text) <= _ADDRESS_CHARACTERS_MAX else []
    if len(parts) not in (5, 7) or parts[0] or parts[3] != "tcp" or (len(parts) == 7 and parts[5] != "p2p"):
        raise _refuse(text)
    protocol, host, port = parts[1], parts[2], parts[4]
    try:
        match protocol:
            case "ip4":
                host = str(IPv4Address(host))
            case "ip6":
                host = str(IPv6Address(host))
            case "dns4" | "dns6" if _DNS_NAME.fullmatch(host):
                pass
            case _:
                raise _refuse(text)
    except AddressValueError:
        raise _refuse(text) from None
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise _refuse(text)
    return Address(protocol, host, int(port), raw_key_from_peer_id_untrusted(parts[6]) if len(parts) == 7 else None)


def with_peer_id_untrusted(text: str, raw_key: bytes) -> str:
    """Return the multiaddress with the PeerId of this 32-byte key at its end.

    Raises:
        AddressError: ``node.net.address``; ``node.net.peer_id`` when it ends in another one already.
    """
    address = parse_address_untrusted(text)
    if address.raw_key not in (None, raw_key):
        raise AddressError("node.net.peer_id", "the address belongs to another peer", actual=text)
    return str(replace(address, raw_key=raw_key))


def _refuse(text: str) -> AddressError:
    return AddressError(
        "node.net.address",
        "this is not an address that we can use",
        expected="/ip4/ADDRESS/tcp/PORT, optionally followed by /p2p/PEERID",
        actual=text,
    )
