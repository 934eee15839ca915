"""What stands at a node's doors: peers, the local socket, HTTP, addresses; and what an agent reads.

The doors are the real ones. Behind them stand a real replica where a method needs one, and handlers that answer anything elsewhere.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import unquote

import trio

from agent.decision import decision_from_json_untrusted, make_decision, replay_decision_untrusted
from agent.facts import facts_from_json_untrusted
from agent.maintenance import parse_window_untrusted
from agent.policy import PolicyEngine
from agent.policy_cases import read_cases_untrusted
from agent.policy_child import check
from agent.policy_text import _check_caps, check_policy_set, default_policy_set
from agent.sample_facts import SAMPLE_FACTS
from agent.target import TargetConfig
from ledger.configuration_history import build_configuration_proof
from ledger.mempool import Mempool
from ledger.records import IdentityRecord, KeyRecord
from ledger.recovery import build_candidates
from ledger.transaction import decode_transaction_untrusted
from node.distribution.chunks import CHUNK_BYTES
from node.distribution.plan import Found, State
from node.distribution.serving import (
    decode_chunk_untrusted,
    decode_found_untrusted,
    decode_list_untrusted,
    encode_found,
)
from node.errors import PeerProtocolError, PeerUnavailableError
from node.gateway.access import Access
from node.gateway.app import build_app
from node.joining import (
    REFUSALS,
    Joined,
    decode_joined_untrusted,
    decode_wish_untrusted,
    encode_joined,
    encode_wish,
    owner_of_untrusted,
)
from node.local.protocol import (
    decode_blob_untrusted,
    decode_message_untrusted,
    encode_blob,
    encode_message,
    error_from_json,
    error_to_json,
)
from node.local.server import _Connection
from node.net.address import (
    PEER_ID_PREFIX,
    parse_address_untrusted,
    peer_id,
    raw_key_from_multihash_untrusted,
    with_peer_id_untrusted,
)
from node.net.gate import Gate
from node.net.muxer import HEADER, INITIAL_WINDOW_BYTES, RECEIVE_WINDOW_BYTES, STREAMS_MAX, Muxer, _ProtocolError
from node.net.rpc import RpcEndpoint
from node.recovery import RecoveryFile
from node.replica import LedgerReplica
from node.services import Services
from node.storage.backup_files import BackupDescription
from node.submission import Submitter
from node.sync_slots import Wish
from tests.fuzz.of_ledger import LONG, chain
from tests.fuzz.target import Target
from tests.testkit.ledger import key_of, node_key
from tests.testkit.node import open_replica
from tests.testkit.recovery import make_recovery
from wire import canonical_json
from wire.codec import encode
from wire.errors import CorruptionError, PatchwardenError, RejectedError, UnavailableError
from wire.framing import FrameDecoder, encode_frame
from wire.hashing import Digest, sha256
from wire.keys import KeyId

PEER = KeyId(Digest(b"\x09" * 32))
TOKEN = "f00d" * 16
FILE = b"patch"
FILE_DIGEST = sha256(FILE).hex()

_files = ExitStack()
"""Open for the life of the process: the replica's directory, the token."""
atexit.register(_files.close)


def _fresh_directory() -> Path:
    return Path(_files.enter_context(tempfile.TemporaryDirectory(prefix="patchwarden-fuzz-")))


# Peers: RPC frames, Yamux frames, addresses


class _Stream:
    """A stream on which these pieces arrive, and then the end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.written = bytearray()

    async def receive(self, take: Callable[[bytes], None]) -> None:
        for piece in self._pieces:
            take(piece)
            await trio.lowlevel.checkpoint()
        for _ in range(4):  # Handlers that began may end.
            await trio.lowlevel.checkpoint()
        raise PeerUnavailableError("node.net.connection_lost", "the end")

    def write_now(self, data: bytes) -> bool:
        self.written += data
        return True

    async def write(self, data: bytes) -> None:
        self.written += data
        await trio.lowlevel.checkpoint()


async def _echo(peer: KeyId, payload: bytes) -> bytes:
    assert peer == PEER
    if payload == b"refuse":
        raise RejectedError("fuzz.refused", payload.decode())
    return payload


async def _wait(_: KeyId, __: bytes) -> bytes:
    await trio.sleep_forever()
    raise AssertionError("not reached")


def take_rpc(data: bytes) -> bool:
    """A peer's bytes on the RPC stream; whatever leaves is whole frames."""
    size, whole = (data[0] + 1) * 4 if data else 1, data[1:]
    stream = _Stream([whole[start : start + size] for start in range(0, len(whole), size)])

    async def main() -> bool:
        endpoint = RpcEndpoint(stream, PEER, {"echo": _echo, "wait": _wait})
        accepted = False
        try:
            await endpoint.run()
        except* PeerProtocolError:
            pass
        except* PeerUnavailableError:
            accepted = True
        return accepted

    taken = trio.run(main)
    decoder = FrameDecoder()
    decoder.feed(bytes(stream.written))
    assert decoder.bytes_buffered == 0
    return taken


def rpc_seeds() -> list[bytes]:
    def request(number: int, method: bytes, payload: bytes = b"") -> bytes:
        return b"\x01" + number.to_bytes(4, "big") + bytes([len(method)]) + method + payload

    error = b"\x03\x00\x00\x00\x01" + encode(("rejected", "ledger.tx.malformed", "a sentence", ""))
    frames = [
        [request(1, b"echo", b"hello"), request(2, b"echo", b"refuse"), request(3, b"none"), b"\x04\x00\x00\x00\x01"],
        [request(1, b"wait"), request(2, b"wait"), b"\x06\x00\x00\x00\x01", b"", b"\x05\x00\x00\x00\x00"],
        [b"\x02\x00\x00\x00\x01answer", error],
    ]
    return [b"\x08" + b"".join(map(encode_frame, each)) for each in frames]


class _Nowhere:
    """Takes the place of a connection: what is sent goes nowhere, nothing is encrypted."""

    def __init__(self) -> None:
        self._sink = open("/dev/null", "wb", buffering=0)  # noqa: SIM115 - closed by the muxer
        self.is_initiator = False
        self.conn = SimpleNamespace(
            encrypt=bytes,
            read_writer=SimpleNamespace(
                read_write_closer=SimpleNamespace(stream=SimpleNamespace(stream=SimpleNamespace(socket=self._sink))),
            ),
        )


def take_yamux(data: bytes) -> bool:
    """What a peer's frames make of the streams; they hold no more than the windows allow."""
    size, whole = (data[0] + 1) * 4 if data else 1, data[1:]
    muxer = Muxer(_Nowhere(), PEER)
    plain = bytearray()
    try:
        for start in range(0, len(whole), size):
            plain += whole[start : start + size]
            try:
                goes_on = muxer._take_frames(plain)
            except _ProtocolError:
                return False
            assert len(plain) <= RECEIVE_WINDOW_BYTES + HEADER.size
            assert len(muxer._streams) <= STREAMS_MAX
            for stream in muxer._streams.values():
                assert len(stream.received) + stream.receive_window <= RECEIVE_WINDOW_BYTES
            if not goes_on:
                return True
    finally:
        muxer._end()
    return True


def yamux_seeds() -> list[bytes]:
    opened = HEADER.pack(0, 1, 1, 1, INITIAL_WINDOW_BYTES)
    sent = HEADER.pack(0, 0, 0, 1, 5) + b"hello"
    rest = [
        HEADER.pack(0, 2, 1, 0, 7),
        HEADER.pack(0, 0, 4, 1, 0),
        HEADER.pack(0, 1, 8, 1, 0),
        HEADER.pack(0, 3, 0, 0, 0),
    ]
    many = b"".join(HEADER.pack(0, 0, 1, number, 3) + b"abc" for number in range(1, 80, 2))
    return [b"\x02" + opened + sent + b"".join(rest), b"\xff" + many]


def _found_corruption(error: CorruptionError) -> None:
    raise AssertionError("nothing is damaged here") from error


def take_address(data: bytes) -> bool:
    """A multiaddress; what it says in its one form is read as the same."""
    try:
        assert peer_id(raw_key_from_multihash_untrusted(data))
        Gate(lambda raw_key: True, _found_corruption).admit_untrusted(data)
    except RejectedError:
        text = data.decode("utf-8", "surrogateescape")
        address = parse_address_untrusted(text)
        tail = "" if address.raw_key is None else f"/p2p/{peer_id(address.raw_key)}"
        one_form = f"/{address.protocol}/{address.host}/tcp/{address.port}{tail}"
        assert parse_address_untrusted(one_form) == address
        assert parse_address_untrusted(with_peer_id_untrusted(one_form, node_key(1).public_key.raw)).raw_key is not None
    return True


def address_seeds() -> list[bytes]:
    raw = node_key(1).public_key.raw
    texts = (f"/ip4/127.0.0.1/tcp/9000/p2p/{peer_id(raw)}", "/ip6/::1/tcp/1", "/dns4/node.example/tcp/65535")
    return [PEER_ID_PREFIX + raw, *(text.encode() for text in texts)]


# The local socket


class _Client:
    """A client of the local socket who sends these bytes and then leaves."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.socket = self
        self.sent = bytearray()

    async def recv_into(self, buffer: bytearray) -> int:
        await trio.lowlevel.checkpoint()
        size = min(len(self._data), len(buffer), 64)
        if not size:
            for _ in range(4):
                await trio.lowlevel.checkpoint()
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size

    async def send_all(self, data: bytes) -> None:
        self.sent += data
        await trio.lowlevel.checkpoint()


class _Methods:
    async def echo(self, params: Mapping[str, Any]) -> Any:
        return dict(params)

    async def refuse(self, params: Mapping[str, Any]) -> Any:
        raise RejectedError("fuzz.refused", "the rule is broken", actual=str(params.get("what"))[:50])

    async def count(self, params: Mapping[str, Any]) -> AsyncIterator[Any]:
        for number in range(3):
            yield {"number": number, **params}

    def all(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("echo", "refuse", "count")}


def take_local(data: bytes) -> bool:
    """A client's bytes on the local socket; every answer is a whole frame of JSON."""
    client = _Client(data)

    async def main() -> bool:
        accepted = True
        try:
            await _Connection(client, _Methods().all()).run()  # type: ignore[arg-type]
        except* RejectedError:
            accepted = False
        return accepted

    taken = trio.run(main)
    for frame in FrameDecoder(1 << 26).feed(bytes(client.sent)):
        answer = decode_message_untrusted(frame)
        if "error" in answer:
            error_to_json(error_from_json(answer["error"]))
            assert answer["error"]["code"] != "node.bug" or b"\\ud" in data.lower(), answer
    return taken


def local_seeds() -> list[bytes]:
    messages = (
        {"id": 1, "method": "echo", "params": {"text": "ü", "list": [1, None, True, {}]}},
        {"id": 2, "method": "refuse", "params": {"what": "x"}},
        {"id": 3, "method": "count"},
        {"id": 3, "method": "cancel"},
        {"id": 4, "method": "none", "params": {}},
    )
    return [b"".join(map(encode_message, messages)), encode_message(messages[0])]


def take_blob(data: bytes) -> bool:
    text = data.decode("utf-8", "surrogateescape")
    assert encode_blob(decode_blob_untrusted(text, "file", bytes_max=4096)) == text, "two texts of one blob"
    return True


# The methods of a node's core, over a real replica


@cache
def _replica() -> LedgerReplica:
    replica = _files.enter_context(open_replica(_fresh_directory() / "data", chain().genesis))

    async def fill() -> None:
        for block in chain().blocks[1:]:
            executed = await replica.execute_untrusted(block.raw, block_hash=None, now_ms=None)
            replica.commit_to_store([([executed], chain().certificate(block))])
            replica.committed([executed])

    trio.run(fill)
    return replica


async def _forward(raws: Any, timeout_s: float) -> Any:
    raise UnavailableError("node.no_leader", "nobody leads")


async def _settled() -> None:
    return None


@cache
def _methods() -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    replica, mempool = _replica(), Mempool(transactions_max=4)
    node: Any = SimpleNamespace(
        replica=replica,
        mempool=mempool,
        submitter=Submitter(
            replica,
            mempool,
            is_leader=lambda: True,
            forward=_forward,
            mempool_grew=lambda: None,
            wait_current=_settled,
        ),
        agent_methods=dict,
        validator=None,
        wait_linearizable=_settled,
    )
    methods = Services(node).methods()
    return {name: methods[name] for name in _REPLICA_METHODS}


_REPLICA_METHODS = (
    *("blocks.list", "blocks.get", "blocks.raw", "tx.get", "tx.submit", "history", "receipt.get"),
    *("identities.list", "identities.get", "identities.history", "organisations.list"),
    *("hosts.list", "hosts.get", "hosts.records", "rollouts.hosts", "rollouts.course"),
    *("patches.list", "patches.attestations", "deployments.list", "targets.get", "policy.get"),
    *("governance.list", "governance.get", "proofs.state", "proofs.consistency", "checkpoint.get"),
)
"""Methods that take parameters and need no more of a node than its replica and its pool."""
_HARD_TO_GUESS = (
    "identity",
    "organisation",
    "patch",
    "host",
    "web1@acme",
    "alice@acme",
    "admitted",
    "none",
    "transactions",
    "consistency",
)


def take_core(data: bytes) -> bool:
    """A request for one of the core's methods."""
    message = decode_message_untrusted(data)
    method, params = message.get("method"), message.get("params")
    function = _methods().get(method) if isinstance(method, str) else None
    if function is None or not isinstance(params, dict):
        raise RejectedError("fuzz.no_method", "there is no such method")
    if "wait" in params and params["wait"] not in ("none", "admitted"):
        raise RejectedError("fuzz.waits", "nothing is ever committed here")
    params = {"wait": "none", **params} if method == "tx.submit" else params

    async def main() -> Any:
        return await function(params)

    encode_message({"id": 1, "result": trio.run(main)})
    return True


@cache
def core_seeds() -> list[bytes]:
    raw = chain().blocks[2].transactions[0]
    tx_id = decode_transaction_untrusted(raw).tx_id.hex()
    block = chain().blocks[2].block_hash.hex()
    guesses: list[dict[str, Any]] = [
        {},
        {"height": 2},
        {"from": 1, "to": 3, "limit": 2},
        {"hash": block, "limit": 3},
        {"tx_id": tx_id, "height": 3},
        {"identity": "web1@acme", "height": 4},
        {"patch_id": "ab" * 32},
        {"host": "web1@acme", "target": "site"},
        {"proposal_id": "ab" * 32},
        {"subject": "identity", "id": "web1@acme", "from": 1},
        {"transactions": [encode_blob(raw)], "wait": "none", "timeout_ms": 5},
    ]
    known = [{"method": name, "params": params} for name in _methods() for params in guesses]
    return [json.dumps(each).encode() for each in known if _answers(each)]


def _answers(message: Mapping[str, Any]) -> bool:
    try:
        return take_core(json.dumps(message).encode())
    except PatchwardenError:
        return False


# HTTP


class _Core:
    """Answers every method with something of the right kind."""

    async def call(
        self, method: str, more: Mapping[str, Any] | None = None, *, timeout_s: float = 60, **params: Any
    ) -> Any:
        json.dumps({**params, **(more or {})})
        if method == "patches.expect":
            return {
                "file_digest": FILE_DIGEST,
                "file_bytes": len(FILE),
                "file_here": params["patch_id"].startswith("0"),
            }
        if method == "patches.locate":
            return {"file_digest": FILE_DIGEST}
        if method == "tx.submit":
            one = {"tx_id": None, "status": "admitted", "height": None, "error": None}
            return [one] * len(params["transactions"])
        if method.endswith((".list", ".attestations")) or method in ("history", "blocks.raw"):
            return []
        return (
            "text"
            if method in ("metrics", "checkpoint.get")
            else {"file": "AAAA", "live": True, "ready": True, "genesis": "AAAA"}
        )

    async def stream(self, method: str, **params: Any) -> AsyncIterator[Any]:
        yield {"height": 1}


@cache
def _gateway() -> tuple[asyncio.AbstractEventLoop, Any]:
    home = _fresh_directory()
    token, files = home / "rpc.token", home / "patches"
    token.write_text(TOKEN)
    files.mkdir()
    (files / FILE_DIGEST).write_bytes(FILE)
    app = build_app(_Core(), token_path=token, patches_path=files)  # type: ignore[arg-type]
    app.state.core, app.state.access = _Core(), Access(token)
    return asyncio.new_event_loop(), app


def take_gateway(data: bytes) -> bool:
    """One request: a line with method and target, a line with the content type, the body. Nothing is answered with 500."""
    head, _, body = data.partition(b"\n")
    kind, _, body = body.partition(b"\n")
    method, _, target = head.partition(b" ")
    if (
        method not in (b"GET", b"POST", b"PUT")
        or not target.startswith(b"/")
        or any(not 0x20 < byte < 0x7F for byte in target + kind)
    ):
        raise RejectedError("fuzz.http", "no HTTP server lets this through")
    path, _, query = target.partition(b"?")
    loop, app = _gateway()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method.decode(),
        "scheme": "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [
            (b"content-type", kind),
            (b"content-length", str(len(body)).encode()),
            (b"authorization", b"Bearer " + TOKEN.encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    received = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return received.pop(0) if len(received) > 1 else received[0]

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    loop.run_until_complete(asyncio.wait_for(app(scope, receive, send), 20))
    if not sent and "/v1/events" in scope["path"]:
        return True
    status = sent[0]["status"]
    assert status < 500, (status, sent)
    if status >= 400:
        document = json.loads(b"".join(message.get("body", b"") for message in sent[1:]))
        assert document["status"] == status
        assert document["code"]
    return status < 400


def gateway_seeds() -> list[bytes]:
    submission = json.dumps({"transactions": ["AAAA", "////"], "wait": "admitted", "timeout_ms": 10}).encode()
    apply = json.dumps({"target": "app", "file": "AAAA", "patch_id": None}).encode()
    digest = b"ab" * 32
    posts = [b"POST /v1/transactions\napplication/json\n" + submission]
    posts += [b"POST /v1/agent/%b\napplication/json\n%b" % (name, apply) for name in (b"apply", b"explain")]
    gets = (
        b"/v1/blocks?from=3&limit=2",
        b"/v1/blocks/3",
        b"/v1/blocks/1/raw?limit=2",
        b"/v1/transactions/" + digest,
        b"/v1/identities?role=host&organisation=acme",
        b"/v1/identities/web1%40acme?height=3",
        b"/v1/history/identity/web1%40acme",
        b"/v1/patches?limit=1",
        b"/v1/patches/" + digest + b"/file",
        b"/v1/deployments?host=web1%40acme",
        b"/v1/policy?height=1",
        b"/v1/proofs/state?subject=identity&id=web1%40acme",
        b"/v1/proofs/consistency?from=1&to=2",
        b"/v1/checkpoint?height=2",
        b"/v1/agent/history?target=app",
        b"/v1/status",
        b"/metrics",
        b"/",
    )
    return [
        *posts,
        b"PUT /v1/patches/" + digest + b"\napplication/octet-stream\npatch",
        *(b"GET " + each + b"\n\n" for each in gets),
    ]


# What other nodes and operators hand over: wishes, recoveries, backups


PATCH_FILE_BYTES: Final = CHUNK_BYTES + 1
"""A file of two chunks."""


def take_handed_over(data: bytes) -> bool:
    taken = False
    for decode, encode_again in (
        (decode_wish_untrusted, encode_wish),
        (decode_joined_untrusted, encode_joined),
        (decode_found_untrusted, encode_found),
        (RecoveryFile.decode_untrusted, RecoveryFile.encode),
        (BackupDescription.decode_untrusted, BackupDescription.encode),
    ):
        readers: Any = decode, encode_again
        try:
            assert readers[1](readers[0](data)) == data, "two forms of one value"
            taken = True
        except RejectedError:
            continue
    for read in (decode_chunk_untrusted, lambda raw: decode_list_untrusted(raw, PATCH_FILE_BYTES)):
        try:
            read(data)
            taken = True
        except RejectedError:
            continue
    try:
        owner_of_untrusted(data.decode("utf-8", "surrogateescape"))
    except RejectedError:
        return taken
    return True


@cache
def handed_over_seeds() -> list[bytes]:
    address = f"/ip4/127.0.0.1/tcp/9000/p2p/{peer_id(node_key(1).public_key.raw)}"
    recovery = make_recovery(chain(), signers=())
    candidate = build_candidates(chain().store, [(_identity("ada@acme"), [_key_record("ada@acme")])])
    digest = "ab" * 32
    description = BackupDescription("test-net", digest, 3, digest, digest, 1, "full", "v1", "validator", "0.1.0", 7)
    return [
        encode_wish(Wish(address, 3, 4, 1, False)),
        encode_joined(Joined(None, 7, (PEER,), (address,))),
        encode_joined(Joined(REFUSALS[0], 7, (), ())),
        encode_found(Found(State.HERE, 3, sha256(b"root"), (address,))),
        encode_found(Found(State.ABSENT, 0, None, ())),
        encode(sha256(b"one") + sha256(b"two")),
        encode(None),
        RecoveryFile(recovery, build_configuration_proof(chain().store, chain().height), tuple(candidate)).encode(),
        description.encode(),
        address.encode(),
    ]


def _identity(name: str) -> IdentityRecord:
    found = chain().view.identity(name)
    assert found is not None
    return found


def _key_record(name: str) -> KeyRecord:
    found = chain().view.key(key_of(name).public_key.key_id)
    assert found is not None
    return found


# What an agent reads


def take_agent(data: bytes) -> bool:
    """Facts, decisions, cases and targets as JSON, a maintenance window as text."""
    taken = False
    try:
        parse_window_untrusted(data.decode("utf-8", "surrogateescape"))
        taken = True
    except RejectedError:
        pass
    for read in (read_cases_untrusted, lambda raw: replay_decision_untrusted(raw, _engine())):
        try:
            read(data)
            taken = True
        except RejectedError:
            continue
    value = canonical_json.decode_untrusted(data, canonical=False)
    for reader in (facts_from_json_untrusted, decision_from_json_untrusted):
        try:
            assert reader(value).to_json() == value, "read and written, it is something else"
            taken = True
        except RejectedError:
            continue
    if isinstance(value, dict):
        try:
            TargetConfig.from_json_untrusted(value)
        except RejectedError:
            return taken
        return True
    return taken


@cache
def _engine() -> PolicyEngine:
    schema, policies = default_policy_set()
    return PolicyEngine(check_policy_set(schema, policies))


def agent_seeds() -> list[bytes]:
    decision = make_decision(_engine().evaluate(SAMPLE_FACTS), SAMPLE_FACTS, (), 1, bytes(32))
    target = {
        "version": 1,
        "name": "app",
        "root": "/srv/app",
        "components": ["pkg:deb/debian/foo*"],
        "windows": ["mon-fri 22:00-04:00"],
        "frozen": False,
    }
    return [
        canonical_json.encode(SAMPLE_FACTS.to_json()),
        canonical_json.encode(decision.to_json()),
        canonical_json.encode(target),
        b'[{"name":"one","facts":{"system":{"frozen":true}},"expect":"deny","forbidden_by":["frozen"],"among":["frozen"]}]',
        b'[{"expect":"allow"},{"expect":"deny"}]',
        b"* 00:00-24:00",
        b"sat,sun-tue 23:30-01:00",
    ]


def take_policy(data: bytes) -> bool:
    """A policy as text under the default schema, in this process: the caps alone keep the parser's stack whole."""
    text = data.decode("utf-8", "replace")
    schema, _ = default_policy_set()
    _check_caps(schema, [("rule", text)])
    try:
        answer = check({"schema": schema, "policies": [["rule", text]], "requests": []})
    except BaseException as error:
        # Both end the child, which is what that is for, and are refusals there; its stack is smaller than this one.
        if isinstance(error, RecursionError) or type(error).__name__ == "PanicException":
            return False
        raise
    return not answer["errors"]


def policy_seeds() -> list[bytes]:
    _, policies = default_policy_set()
    return [text.replace(f'@id("{name}")', '@id("rule")').encode() for name, text in policies]


def targets() -> list[Target]:
    words = tuple(f'"{word}"'.encode() for word in _HARD_TO_GUESS)
    return [
        Target("rpc", take_rpc, rpc_seeds, share=2, short_inputs=100),
        Target("yamux", take_yamux, yamux_seeds, share=2),
        Target("address", take_address, address_seeds),
        Target(
            "local-frames",
            take_local,
            local_seeds,
            words=(b'"id":', b'"method":"count"', b'"params":{'),
            short_inputs=100,
        ),
        Target("handed-over", take_handed_over, handed_over_seeds, input_bytes_max=LONG, share=2),
        Target("blob", take_blob, lambda: [encode_blob(bytes(range(size))).encode() for size in (0, 1, 2, 3, 200)]),
        Target("core", take_core, core_seeds, refusals=(RejectedError, UnavailableError), words=words, share=2),
        Target(
            "gateway",
            take_gateway,
            gateway_seeds,
            words=(*words, b"%00", b"%ff", b"?", b"&limit="),
            share=2,
            short_inputs=100,
        ),
        Target("agent", take_agent, agent_seeds),
        Target(
            "policy",
            take_policy,
            policy_seeds,
            words=(b"permit", b"forbid", b"when {", b"principal", b'@id("rule")', b" in ", b".containsAny("),
        ),
    ]
