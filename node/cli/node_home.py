"""Making node homes: the directory, its key, its settings, the founding document. Nothing that is there is overwritten."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from node.cli.errors import CommandError
from node.cli.files import write_file
from node.clock import random_bytes
from node.config import Home, NodeConfig, build_config
from node.keystore import save_key
from node.net.address import parse_address_untrusted, peer_id
from wire.keys import SEED_BYTES, Algorithm, PrivateKey, private_key_from_seed

if TYPE_CHECKING:
    from wire.keys import PublicKey

HOME_MODE: Final = 0o700


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a new `config.toml` says."""

    name: str
    role: str
    identity: str | None
    listen: str
    rpc_listen: str
    peers: tuple[str, ...]
    more: tuple[tuple[str, str], ...] = ()
    """Other settings by name; the values are numbers, `true`, `false` or text."""

    def to_toml(self) -> str:
        """Return the file's text; a setting that nobody gave is left to its default."""
        values: dict[str, Any] = {"name": self.name, "role": self.role}
        if self.identity is not None:
            values["identity"] = self.identity
        values |= {"listen": self.listen, "rpc_listen": self.rpc_listen}
        if self.peers:
            values["peers"] = list(self.peers)
        values |= {name: setting_value(text) for name, text in self.more}
        build_config(values)
        # JSON's texts, numbers, booleans and arrays are TOML's too.
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
        return "\n".join(["# Every setting: docs/operations/node.md", *lines, ""])


def make_node_home(
    path: Path, settings: NodeSettings, *, genesis: bytes | None = None, key: PrivateKey | None = None
) -> PrivateKey:
    """Make a node home at `path` and return the node's key.

    Args:
        path: Where; made when it is not there.
        settings: What `config.toml` says.
        genesis: The founding document, or None to leave it out for now.
        key: The node's Ed25519 key, or None to make one.

    Raises:
        ConfigError: A setting is refused.
        CommandError: ``cli.node.home_exists``: a node's settings or key are there already.
        FileError: ``cli.file.*``.
    """
    home = Home(path)
    text = settings.to_toml()
    parse_address_untrusted(settings.listen)
    for peer in settings.peers:
        if parse_address_untrusted(peer).raw_key is None:
            raise CommandError("cli.node.peer", "a peer's address ends in /p2p/ and its id", actual=peer)
    for taken in (home.config, home.node_key):
        if taken.exists():
            raise CommandError(
                "cli.node.home_exists", f"{taken} exists and is not overwritten", hint="use another --home"
            )
    path.mkdir(mode=HOME_MODE, parents=True, exist_ok=True)
    private = key or private_key_from_seed(Algorithm.ED25519, random_bytes(SEED_BYTES))
    save_key(home.node_key, private)
    if genesis is not None:
        write_file(home.genesis, genesis)
    write_file(home.config, text.encode())
    return private


def node_identity_document(path: Path, settings: NodeSettings | NodeConfig, public: PublicKey) -> dict[str, Any]:
    """Return what others need to know about a node: its key, and its address once its port is fixed."""
    address = parse_address_untrusted(settings.listen)
    multiaddr = None if address.port == 0 else f"{address.transport}/p2p/{peer_id(public.raw)}"
    return {
        "home": str(path),
        "name": settings.name,
        "role": settings.role,
        "identity": settings.identity,
        "did": public.did,
        "key_id": public.key_id_hex,
        "peer_id": peer_id(public.raw),
        "multiaddr": multiaddr,
    }


def setting_value(text: str) -> str | int | bool:
    """Return what a setting's text on the command line means: a number, a truth value, or itself."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        return text
