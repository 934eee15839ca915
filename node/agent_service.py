"""The agent's methods on the local socket, and its life inside a host's node.

Imported by host nodes only: the policy engine behind it is a large library that a validator never needs.
"""

from __future__ import annotations

import getpass
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
import trio

from agent.clock_watch import ClockWatch
from agent.config import AgentConfig
from agent.facts import Requester
from agent.hooks import HookKind
from agent.inbox import Inbox, InboxFolder
from agent.limits import TURNS_INTERVAL_SECONDS
from agent.progress import KIBIBYTES, STEP_FETCH, Progress
from agent.runtime import Agent, Outcome
from agent.target import Mode
from ledger.bodies import HostReport
from node import clock
from node.agent_access import NodeLedger
from node.config import ConfigError
from node.local.protocol import BLOB_BYTES_MAX, Json, decode_blob_untrusted, encode_blob
from node.params import as_count, as_flag, as_hex_digest, as_integer, as_name, as_optional_text
from wire.errors import RejectedError
from wire.hashing import Digest
from wire.limits import KIBIBYTE, PATCH_FILE_BYTES_MAX

if TYPE_CHECKING:
    from node.app import Node
    from wire.keys import PrivateKey

Params = Mapping[str, Json]
Document = dict[str, Any]

NONCE_BYTES = 16
OPERATOR_ROLES = ("operator",)
"""Whoever can open the socket, or has the token that only the node's user can read, operates this host."""

_log = structlog.get_logger("agent")


@dataclass(frozen=True, slots=True)
class _Fetch:
    """A patch file that is being fetched for a target."""

    patch_id: str
    digest: Digest
    size: int
    """Bytes."""
    began_s: float = field(default_factory=trio.current_time)

    def progress(self, here: int | None) -> Progress:
        """Return how far it is; `here` is None when nobody has been found yet who gives the file."""
        elapsed_ms = int(1000 * (trio.current_time() - self.began_s))
        doing = "looking for the patch file" if here is None else "fetching the patch file"
        done, total = (here or 0) // KIBIBYTE, self.size // KIBIBYTE
        return Progress(STEP_FETCH, self.patch_id, STEP_FETCH, doing, done, total, KIBIBYTES, elapsed_ms)


class AgentService:
    """One host's agent and the methods that reach it."""

    def __init__(self, node: Node, agent: Agent) -> None:
        self._node = node
        self._agent = agent
        self._fetches: dict[str, _Fetch] = {}
        self._inbox = (
            Inbox(
                agent,
                InboxFolder(os.path.normpath(node.config.inbox)),
                now_ms=clock.now_ms,
                uptime_ms=clock.uptime_ms,
                note=_noted,
                asked=self._count,
            )
            if node.config.inbox
            else None
        )

    @classmethod
    def open(cls, node: Node, key: PrivateKey) -> AgentService:
        """Return the service over an agent that holds its directory.

        Raises:
            ConfigError: The host has no identity (`node.config.identity`).
            UnavailableError: Another process holds the directory.
            CorruptionError: The agent's state is damaged.
        """
        if node.config.identity is None:
            raise ConfigError(
                "node.config.identity",
                "a host needs its ledger identity",
                hint='set identity = "web1@acme" in config.toml',
            )
        config = AgentConfig(
            home=node.home.path,
            identity_id=node.config.identity,
            key=key,
            host_group=node.config.host_group,
            replica_age_ms_max=node.config.replica_age_max_ms,
            drift_interval_s=node.config.drift_interval_s,
            drift_full_interval_s=node.config.drift_full_interval_s,
            turns_interval_s=TURNS_INTERVAL_SECONDS if node.config.rollouts else None,
            unacknowledged_intents_max=node.config.unacknowledged_intents_max,
        )

        def noted(event: str, facts: Mapping[str, object]) -> None:
            if event == "agent.turn":
                node.metrics.decisions.labels(result=str(facts["result"])).inc()
            _noted(event, facts)

        agent = Agent(
            config,
            NodeLedger(node),
            now_ms=clock.now_ms,
            uptime_ms=clock.uptime_ms,
            clock=ClockWatch(clock.now_ms, clock.uptime_ms),
            nonce=lambda: clock.random_bytes(NONCE_BYTES),
            note=noted,
        )
        return cls(node, agent)

    async def run(self) -> None:
        """Recover, deliver records, look for drift and into the inbox, and take turns in rollouts until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._agent.run)
            if self._inbox is not None:
                nursery.start_soon(self._inbox.run)

    def close(self) -> None:
        """Release the agent's directory."""
        self._agent.close()

    async def installed_patches(self) -> frozenset[bytes]:
        """Return the ids of the patches that are installed here. Raises StateCorruptError."""
        return await self._agent.installed_patches()

    def methods(self) -> dict[str, Callable[[Params], Any]]:
        """Return the agent's methods by their names on the socket."""
        return {
            "agent.status": self.status,
            "agent.history": self.history,
            "agent.explain": self.explain,
            "agent.apply": self.apply,
            "agent.rollback": self.rollback,
            "agent.progress": self.progress,
            "agent.drift": self.drift,
            "agent.outbox": self.outbox,
            "agent.target.add": self.target_add,
            "agent.target.list": self.target_list,
            "agent.target.show": self.target_show,
            "agent.target.adopt": self.target_adopt,
            "agent.target.freeze": self.target_freeze,
            "agent.target.allow": self.target_allow,
            "agent.target.mode": self.target_mode,
            "agent.target.standby": self.target_standby,
            "agent.target.hook": self.target_hook,
            "agent.target.remove": self.target_remove,
            "agent.split.list": self.split_list,
            "agent.split.settle": self.split_settle,
        }

    async def status(self, params: Params) -> Document:
        """Return how the agent and each of its targets stand."""
        del params
        targets = [(await self._agent.glance_at_target(name)).to_json() for name in self._agent.list_targets()]
        inbox = None if self._inbox is None else self._inbox.to_json()
        return {**self._agent.status().to_json(), "inbox": inbox, "targets": targets}

    async def history(self, params: Params) -> list[Document]:
        """Return how the last applications and refusals of a target ended, the newest first."""
        return list(await self._agent.history(as_name(params, "target"), as_count(params, "limit", 100, 1000)))

    async def explain(self, params: Params) -> Document:
        """Return the decision on a patch, with its reasons; nothing is changed."""
        data, target = await self._patch(params), as_name(params, "target")
        return (await self._agent.explain(data, target, self._requester(params))).to_json()

    async def apply(self, params: Params) -> Document:
        """Decide on a patch, apply it if everything holds, and record how it ended."""
        data, target = await self._patch(params), as_name(params, "target")
        outcome = await self._agent.apply(data, target, self._requester(params))
        self._count(outcome)
        return outcome.to_json()

    async def rollback(self, params: Params) -> Document:
        """Undo an installed patch, if everything holds, and record how it ended."""
        patch_id, target = as_hex_digest(params, "patch_id").hex(), as_name(params, "target")
        outcomes = await self._agent.rollback(
            patch_id,
            target,
            self._requester(params),
            with_dependants=as_flag(params, "with_dependants"),
            explain=as_flag(params, "explain"),
        )
        if not as_flag(params, "explain"):
            for outcome in outcomes:
                self._count(outcome)
        return {"patch_id": patch_id, "target": target, "outcomes": [outcome.to_json() for outcome in outcomes]}

    async def progress(self, params: Params) -> Document:
        """Return how far it is what is being done at a target; `work` is null when nothing is. Never waits for anything."""
        name = as_name(params, "target")
        work = self._agent.progress(name)
        if work is None and (fetch := self._fetches.get(name)) is not None:
            work = fetch.progress(self._node.patches.fetcher.bytes_here(fetch.digest))
        return {"target": name, "work": None if work is None else work.to_json()}

    async def drift(self, params: Params) -> list[Document]:
        """Return the targets whose tree no record explains, looking now, at all of them or at one."""
        name = None if params.get("target") is None else as_name(params, "target")
        return [status.to_json() for status in await self._agent.check_drift(name, full=as_flag(params, "full"))]

    async def outbox(self, params: Params) -> list[Document]:
        """Return records that wait for the ledger, in their order, behind a sequence."""
        after, limit = as_integer(params, "after"), as_count(params, "limit", 100, 256)
        return [
            {
                "sequence": each.sequence,
                "kind": each.body.KIND,
                "target": each.body.target,
                "counter": None if isinstance(each.body, HostReport) else each.body.counter,
                "closes": each.intent,
                "tx_id": each.transaction.tx_id.hex(),
                "not_after_height": each.transaction.not_after_height,
                "transaction": encode_blob(each.transaction.raw),
            }
            for each in self._agent.waiting(after, limit)
        ]

    async def target_add(self, params: Params) -> Document:
        """Take a directory tree under guard; as it is, it becomes the baseline."""
        document = {
            "version": 1,
            "name": params.get("name"),
            "root": params.get("root"),
            "components": params.get("components"),
            "windows": params.get("windows") or [],
            "frozen": as_flag(params, "frozen"),
            "allowed": params.get("allowed") or [],
            "mode": params.get("mode") or Mode.EXCHANGE.value,
        }
        return (await self._agent.add_target(document)).to_json()

    async def target_list(self, params: Params) -> list[str]:
        """Return the names of all targets."""
        del params
        return list(self._agent.list_targets())

    async def target_show(self, params: Params) -> Document:
        """Return a target as it is configured, recorded, and found now."""
        return (await self._agent.show_target(as_name(params, "target"))).to_json()

    async def target_adopt(self, params: Params) -> Document:
        """Make a target's tree as it is the recorded one."""
        return (await self._agent.adopt_target(as_name(params, "target"))).to_json()

    async def target_freeze(self, params: Params) -> Document:
        """Stop all changes of a target, or allow them again."""
        name, frozen = as_name(params, "target"), as_flag(params, "frozen", default=True)
        await self._agent.freeze_target(name, frozen=frozen)
        return {"target": name, "frozen": frozen}

    async def target_allow(self, params: Params) -> Document:
        """Let patches do these things at a target besides changing text, and no others."""
        name, allowed = as_name(params, "target"), params.get("allowed") or []
        await self._agent.allow_target(name, allowed)
        return {"target": name, "allowed": allowed}

    async def target_mode(self, params: Params) -> Document:
        """Let a target be changed in another mode from now on, after it was tried."""
        name, mode = as_name(params, "target"), as_name(params, "mode")
        await self._agent.change_mode(name, mode)
        return {"target": name, "mode": mode}

    async def target_standby(self, params: Params) -> Document:
        """Let a large target have a standby tree, or none from now on."""
        name, kept = as_name(params, "target"), as_flag(params, "kept")
        await self._agent.change_standby(name, kept=kept)
        return (await self._agent.show_target(name)).to_json()

    async def target_hook(self, params: Params) -> Document:
        """Let something run around changes of a target, or nothing any more."""
        name, kind = as_name(params, "target"), as_name(params, "hook")
        if kind not in tuple(HookKind):
            raise RejectedError("node.param.hook", f"hook is one of {', '.join(HookKind)}")
        members = ("argv", "timeout_s", "retries", "interval_s", "soak_s")
        hook = {member: params[member] for member in members if params.get(member) is not None}
        await self._agent.set_hook(name, HookKind(kind), hook or None)
        return (await self._agent.show_target(name)).to_json()

    async def target_remove(self, params: Params) -> Document:
        """Forget a target; its tree and its history stay."""
        name = as_name(params, "target")
        await self._agent.remove_target(name)
        return {"target": name, "removed": True}

    async def split_list(self, params: Params) -> list[Document]:
        """Return every split view that this host knows of, and what was said about it."""
        del params
        return [each.to_json() for each in self._agent.split_views()]

    async def split_settle(self, params: Params) -> Document:
        """Settle one split view: this host goes on with the history that it has."""
        height = as_integer(params, "height")
        reason = as_optional_text(params, "reason") or ""
        return (await self._agent.settle_split_view(height, reason, getpass.getuser())).to_json()

    async def _patch(self, params: Params) -> bytes:
        """Return the patch file that a request carries, or the published one that it names."""
        if sum(params.get(name) is not None for name in ("file", "path", "patch_id")) != 1:
            raise RejectedError("node.param.patch", "give either a patch file or the id of a published patch")
        if params.get("file") is not None:
            return decode_blob_untrusted(params["file"], "file", bytes_max=BLOB_BYTES_MAX)
        if params.get("path") is not None:
            return await trio.to_thread.run_sync(_read_patch, params["path"])
        patch_id = as_hex_digest(params, "patch_id")
        name, record = as_name(params, "target"), self._node.replica.latest_view().patch(patch_id)
        if record is not None:
            self._fetches[name] = _Fetch(patch_id.hex(), Digest(record.file_digest), record.file_bytes)
        try:
            return await self._agent.fetch_patch(patch_id.hex())
        finally:
            self._fetches.pop(name, None)

    def _requester(self, params: Params) -> Requester:
        channel = as_name(params, "channel", "socket")
        return Requester(getpass.getuser(), OPERATOR_ROLES, channel if channel in ("socket", "rpc") else "socket")

    def _count(self, outcome: Outcome) -> None:
        self._node.metrics.decisions.labels(result=outcome.code.value).inc()


def _noted(event: str, facts: Mapping[str, object]) -> None:
    _log.info(event, **facts)


def _read_patch(place: object) -> bytes:
    """Return the bytes of a file of this machine, one more than a patch file may have where it is longer."""
    if not isinstance(place, str) or not place.startswith("/") or "\0" in place:
        raise RejectedError("node.param.path", "path must be an absolute path of this machine")
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RejectedError("node.param.path", "path must name a regular file")
            return file.read(PATCH_FILE_BYTES_MAX + 1)
    except (OSError, UnicodeEncodeError) as error:
        raise RejectedError(
            "node.param.path",
            f"the node cannot read the file: {getattr(error, 'strerror', None) or error}",
            hint="publish it and name its id, or let the node's user read it",
        ) from error
