"""A development network's directory: who and what is in it, how it is founded, and the file that scripts read.

::

    DIR/devnet.json        everything a script needs; replaced whole whenever something changes
    DIR/genesis.json       the founding document
    DIR/nodes/NAME/        a node's home
    DIR/people/IDENTITY.key, .key.pub
    DIR/control.sock       the supervisor, while the network is up
    DIR/LOCK               held by the supervisor

Source: docs/operations/devnet.md.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from node.cli.errors import CommandError, FileError
from node.cli.files import write_file
from node.cli.node_home import NodeSettings, make_node_home
from node.clock import random_bytes
from node.config import Home, load_config
from node.keystore import load_key, save_key
from node.net.address import peer_id
from wire.keys import SEED_BYTES, Algorithm, PrivateKey, private_key_from_seed

CHAIN_ID: Final = "devnet"
VALIDATORS_MAX: Final = 16
HOSTS_MAX: Final = 16
IDLE_BLOCK_INTERVAL_MS: Final = 5_000
"""A quiet development network still shows a block every five seconds."""
LOOPBACK: Final = "127.0.0.1"
PORT_MAX: Final = 65_535
SOCKET_PATH_BYTES_MAX: Final = 107
"""Linux's limit for the path of a Unix socket (`sun_path`, without its end mark)."""

ORGANISATIONS: Final = (("acme", "Acme Ltd"), ("beta", "Beta GmbH"), ("gamma", "Gamma SA"))
PEOPLE: Final = (
    ("admin@acme", "Ada Admin", ("administrator",)),
    ("alice@acme", "Alice Example", ("developer",)),
    ("admin@beta", "Ben Admin", ("administrator",)),
    ("bob@beta", "Bob Beispiel", ("attestor:security-review",)),
    ("admin@gamma", "Gwen Admin", ("administrator",)),
    ("carol@gamma", "Carol Exemple", ("attestor:qa",)),
)
HOST_ORGANISATION: Final = "acme"


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the network."""

    name: str
    role: str
    """`validator` or `host`."""
    home: Path
    rpc: str
    """Base URL of its HTTP interface."""
    multiaddr: str
    pid: int | None = None
    """None while it is stopped."""

    @property
    def identity(self) -> str:
        """The ledger identity of a host."""
        return f"{self.name}@{HOST_ORGANISATION}"

    @property
    def explorer(self) -> str:
        """Where its pages for people begin."""
        return f"{self.rpc}/explorer/"

    @property
    def log(self) -> Path:
        """Where its log goes."""
        return Home(self.home).logs / "node.log"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "role": self.role,
            "home": str(self.home),
            "rpc": self.rpc,
            "multiaddr": self.multiaddr,
            "pid": self.pid,
        }


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a key in the directory."""

    identity: str
    roles: tuple[str, ...]
    key: Path
    """Unencrypted: everything in this network is for trying out."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"identity": self.identity, "roles": list(self.roles), "key": str(self.key)}


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands in ``devnet.json``."""

    directory: Path
    chain_id: str
    nodes: tuple[Node, ...]
    people: tuple[Person, ...]

    @property
    def genesis(self) -> Path:
        """The founding document."""
        return self.directory / "genesis.json"

    @property
    def file(self) -> Path:
        """The file that scripts read."""
        return self.directory / "devnet.json"

    @property
    def validators(self) -> tuple[Node, ...]:
        """The nodes that vote."""
        return tuple(node for node in self.nodes if node.role == "validator")

    @property
    def hosts(self) -> tuple[Node, ...]:
        """The nodes with an agent."""
        return tuple(node for node in self.nodes if node.role == "host")

    def person(self, identity: str) -> Person:
        """Return the person with this identity."""
        return next(person for person in self.people if person.identity == identity)

    def node(self, name: str) -> Node:
        """Return the node with this name.

        Raises:
            CommandError: ``cli.devnet.no_such_node``.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.nodes)
        raise CommandError("cli.devnet.no_such_node", "the network has no such node", expected=names, actual=name)

    def with_pid(self, name: str, pid: int | None) -> Layout:
        """Return the layout with another process id for one node."""
        nodes = tuple(replace(node, pid=pid) if node.name == name else node for node in self.nodes)
        return replace(self, nodes=nodes)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "chain_id": self.chain_id,
            "genesis": str(self.genesis),
            "nodes": [node.to_json() for node in self.nodes],
            "people": [person.to_json() for person in self.people],
        }

    def write(self) -> None:
        """Replace ``devnet.json``. Raises FileError."""
        write_file(self.file, json.dumps(self.to_json(), indent=2, ensure_ascii=False).encode() + b"\n")


def read_layout(directory: Path) -> Layout | None:
    """Return the network in a directory, or None when there is none.

    Raises:
        FileError: ``cli.devnet.damaged``: the file is there and is no network's.
    """
    directory = directory.absolute()
    path = directory / "devnet.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Layout(
            directory,
            document["chain_id"],
            tuple(
                Node(each["name"], each["role"], Path(each["home"]), each["rpc"], each["multiaddr"], each["pid"])
                for each in document["nodes"]
            ),
            tuple(Person(each["identity"], tuple(each["roles"]), Path(each["key"])) for each in document["people"]),
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError("cli.devnet.damaged", f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FileError("cli.devnet.damaged", f"{path} does not describe a network") from error


def get_layout(directory: Path) -> Layout:
    """Return the network in a directory.

    Raises:
        FileError: ``cli.devnet.damaged``.
        CommandError: ``cli.devnet.missing``.
    """
    layout = read_layout(directory)
    if layout is None:
        raise CommandError(
            "cli.devnet.missing",
            f"there is no network in {directory}",
            hint="start one: patchwarden devnet up --dir DIR",
        )
    return layout


def found_network(directory: Path, *, validators: int, hosts: int, base_port: int) -> Layout:
    """Make a new network's keys, homes and founding document in an empty directory; ``devnet.json`` is not written yet.

    Args:
        directory: Made when it is not there.
        validators: How many nodes vote; they belong to three organisations in turn.
        hosts: How many nodes have an agent.
        base_port: The first of two ports for each node; 0 for free ones.

    Raises:
        CommandError: ``cli.devnet.not_empty``, ``cli.devnet.path_too_long``, ``cli.devnet.ports``.
    """
    directory = directory.absolute()
    existed = directory.exists()
    if existed and any(directory.iterdir()):
        raise CommandError(
            "cli.devnet.not_empty",
            f"{directory} holds something that is not a network",
            hint="name an empty directory with --dir, or remove what a first start left when it was killed",
        )
    names = [*(f"v{number + 1}" for number in range(validators)), *(f"web{number + 1}" for number in range(hosts))]
    check_sockets_fit(directory, names)
    ports = _ports(2 * len(names), base_port)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return _make(directory, names, validators, ports)
    except BaseException:
        remove_network(directory, keep_directory=existed)
        raise


def check_sockets_fit(directory: Path, names: Sequence[str] = ("web1",)) -> None:
    """Return when every node's Unix socket below this directory has a path that Linux takes.

    Raises:
        CommandError: ``cli.devnet.path_too_long``.
    """
    length = max(len(os.fsencode(Home(directory / "nodes" / name).socket)) for name in names)
    if length > SOCKET_PATH_BYTES_MAX:
        raise CommandError(
            "cli.devnet.path_too_long",
            f"the directory's path is too long for the nodes' sockets: {directory}",
            hint="use a --dir with a shorter path",
            expected=f"at most {len(os.fsencode(directory)) - (length - SOCKET_PATH_BYTES_MAX)} bytes",
        )


def remove_network(directory: Path, *, keep_directory: bool) -> None:
    """Remove everything that a network keeps in its directory, and the directory itself if it was made for it."""
    for name in ("nodes", "people"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in ("devnet.json", "genesis.json", "control.sock", "LOCK"):
        with suppress(OSError):
            (directory / name).unlink(missing_ok=True)
    if not keep_directory:
        with suppress(OSError):
            directory.rmdir()


def _make(directory: Path, names: Sequence[str], validators: int, ports: Sequence[int]) -> Layout:
    from agent.policy_text import default_policy_set
    from ledger.actions import Administrator
    from ledger.genesis import GenesisOrganisation, build_genesis
    from ledger.records import Validator
    from node.cli.patch_files import now

    people_directory = directory / "people"
    people_directory.mkdir(mode=0o700)
    people: dict[str, tuple[Person, PrivateKey]] = {}
    for identity, _, roles in PEOPLE:
        person = Person(identity, roles, people_directory / f"{identity}.key")
        key = _new_key()
        save_key(person.key, key)
        write_file(person.key.with_name(f"{person.key.name}.pub"), key.public_key.pem)
        people[identity] = (person, key)
    keys = {name: _new_key() for name in names}
    listens = {name: f"/ip4/{LOOPBACK}/tcp/{ports[2 * index]}" for index, name in enumerate(names)}
    owners = [ORGANISATIONS[index % len(ORGANISATIONS)][0] for index in range(validators)]
    schema, policies = default_policy_set()
    genesis = build_genesis(
        chain_id=CHAIN_ID,
        time=now(),
        organisations=[
            GenesisOrganisation(
                name,
                title,
                tuple(
                    Administrator(identity, display, people[identity][1].public_key.spki)
                    for identity, display, roles in PEOPLE
                    if identity.endswith(f"@{name}") and "administrator" in roles
                ),
            )
            for name, title in ORGANISATIONS
        ],
        validators=[
            Validator(name, owner, keys[name].public_key.spki, listens[name])
            for name, owner in zip(names[:validators], owners, strict=True)
        ],
        policy_schema=schema,
        policies=policies,
    )
    write_file(directory / "genesis.json", genesis.document)
    addresses = {name: f"{listens[name]}/p2p/{peer_id(keys[name].public_key.raw)}" for name in names}
    nodes = []
    for index, name in enumerate(names):
        is_validator = index < validators
        home = directory / "nodes" / name
        node = Node(
            name,
            "validator" if is_validator else "host",
            home,
            f"http://{LOOPBACK}:{ports[2 * index + 1]}",
            addresses[name],
        )
        settings = NodeSettings(
            name=name,
            role=node.role,
            identity=None if is_validator else node.identity,
            listen=listens[name],
            rpc_listen=f"{LOOPBACK}:{ports[2 * index + 1]}",
            peers=() if is_validator else tuple(addresses[each] for each in names[:validators]),
            more=(("idle_block_interval_ms", str(IDLE_BLOCK_INTERVAL_MS)),),
        )
        make_node_home(home, settings, genesis=genesis.document, key=keys[name])
        Home(home).logs.mkdir()
        nodes.append(node)
    return Layout(directory, CHAIN_ID, tuple(nodes), tuple(person for person, _ in people.values()))


def host_key(node: Node) -> PrivateKey:
    """Return the key of a host's node, which is its ledger identity's key too."""
    load_config(Home(node.home))
    return load_key(Home(node.home).node_key)


def _new_key() -> PrivateKey:
    return private_key_from_seed(Algorithm.ED25519, random_bytes(SEED_BYTES))


def _ports(count: int, base_port: int) -> list[int]:
    """Return that many ports: from `base_port` on, or free ones."""
    if base_port:
        if base_port + count > PORT_MAX:
            raise CommandError("cli.devnet.ports", "the network needs more ports than there are above --base-port")
        return list(range(base_port, base_port + count))
    probes = [socket.socket() for _ in range(count)]
    try:
        # All are held at once, so no two are the same; somebody else could still take one before the node does.
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
