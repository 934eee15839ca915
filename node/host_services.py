"""What a node tells about hosts: their trees as the ledger knows them, with the last report, and the chain of their records.

Source: docs/spec/api.md 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import trio

from ledger.block import ZERO_DIGEST
from ledger.bodies import DeploymentIntent, DeploymentOutcome, HostReport
from ledger.records import IdentityRecord, TargetRecord
from ledger.roles import HOST
from ledger.state import StateView
from ledger.transaction import Transaction, decode_transaction_untrusted
from node.documents import target_document
from node.errors import not_found
from node.limits import PAGE_DEFAULT, PAGE_MAX
from node.local.protocol import Json
from node.params import as_count, as_hex_digest, as_name, as_optional_name
from wire import canonical_json
from wire.errors import RejectedError

if TYPE_CHECKING:
    from node.app import Node

Params = Mapping[str, Json]
Document = dict[str, Any]

HOST_TARGETS_MAX: Final = 256
"""Targets of one host that are looked at, in order of name: a host can make as many as it likes. Whether there are more is told."""
SLICE_ROWS: Final = 50
"""After so many rows that were looked at, about 0.5 ms of work, the node does something else."""
DRIFT: Final = "drift"


class HostServices:
    """The methods of one node about hosts."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> dict[str, Callable[[Params], Any]]:
        """Return every method by its name on the socket."""
        return {"hosts.list": self.hosts_list, "hosts.get": self.hosts_get, "hosts.records": self.hosts_records}

    async def hosts_list(self, params: Params) -> list[Document]:
        """Return hosts in order of id, behind `after`."""
        after = as_optional_name(params, "after") or ""
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        found: list[Document] = []
        with self._node.replica.view() as view:
            for row, identity in enumerate(view.identities(after)):
                if row % SLICE_ROWS == SLICE_ROWS - 1:
                    await trio.lowlevel.checkpoint()
                if HOST in identity.roles:
                    await trio.lowlevel.checkpoint()
                    found.append(_summary(view, identity, _targets(view, identity.identity_id)))
                    if len(found) == limit:
                        break
        return found

    async def hosts_get(self, params: Params) -> Document:
        """Return one host with its targets, each with what was last reported about it."""
        host = as_name(params, "host")
        with self._node.replica.view() as view:
            identity = _host(view, host)
            targets = _targets(view, host)
            return {
                **_summary(view, identity, targets),
                "targets": [
                    {**target_document(each), "report": _report(view, each)} for each in targets[:HOST_TARGETS_MAX]
                ],
                "height": view.height,
                "time_ms": view.header.time_ms,
            }

    async def hosts_records(self, params: Params) -> Document:
        """Return the deployment records of a host, the newest first; the next page is what stands `before` the record `next`."""
        host = as_name(params, "host")
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        with self._node.replica.view() as view:
            _host(view, host)
            if params.get("before") is not None:
                before = as_hex_digest(params, "before")
                record = _record(view, before)
                if record is None or record[1] != host:
                    raise not_found("record", before.hex(), view.height)
                start = record[0].body.previous
            else:
                state = view.host(host)
                start = ZERO_DIGEST if state is None else state.last_tx_id
            found = list(islice(_chain(view, start), limit + 1))
            return {
                "host": host,
                "records": found[:limit],
                "next": found[limit - 1]["tx_id"] if len(found) > limit else None,
                "history_start": view.history_start,
            }


def _host(view: StateView, name: str) -> IdentityRecord:
    identity = view.identity(name)
    if identity is None or (HOST not in identity.roles and view.host(name) is None):
        raise not_found("host", name, view.height)
    return identity


def _targets(view: StateView, host: str) -> list[TargetRecord]:
    """Return a host's targets; one more than are told where there are more."""
    return list(islice(view.targets(host), HOST_TARGETS_MAX + 1))


def _summary(view: StateView, identity: IdentityRecord, targets: list[TargetRecord]) -> Document:
    member = view.group_member(identity.identity_id)
    state = view.host(identity.identity_id)
    return {
        "host": identity.identity_id,
        "organisation": identity.organisation,
        "status": identity.status,
        "group": None if member is None else member.group_id or None,
        "targets_total": min(len(targets), HOST_TARGETS_MAX),
        "targets_more": len(targets) > HOST_TARGETS_MAX,
        "targets_drifted": sum(each.report_kind == DRIFT for each in targets[:HOST_TARGETS_MAX]),
        "records": 0 if state is None else state.counter,
        "recorded_height": None if state is None else state.changed_height,
    }


def _report(view: StateView, target: TargetRecord) -> Document | None:
    """Return the last report about a target with what the host said: None where that is no JSON, or its block is not kept here."""
    if target.report_tx_id is None or target.report_height is None:
        return None
    found = _transaction(view, target.report_tx_id)
    body = None if found is None else found[0].body
    header = view.header_at(target.report_height)
    return {
        "kind": target.report_kind,
        "tx_id": target.report_tx_id.hex(),
        "height": target.report_height,
        "time_ms": None if header is None else header.time_ms,
        "detail": _object(body.body) if isinstance(body, HostReport) else None,
    }


def _chain(view: StateView, tx_id: bytes) -> Iterator[Document]:
    """Yield a host's record and those before it; each names the one before, so no more than these are read."""
    while tx_id != ZERO_DIGEST:
        found = _transaction(view, tx_id)
        if found is None:
            return  # The block is not kept here.
        transaction, height, time_ms = found
        body = transaction.body
        assert isinstance(body, DeploymentIntent | DeploymentOutcome), "a host's chain has nothing else"
        yield _record_document(transaction, body, height, time_ms)
        tx_id = body.previous


def _record_document(
    transaction: Transaction, body: DeploymentIntent | DeploymentOutcome, height: int, time_ms: int
) -> Document:
    intent = transaction.tx_id if isinstance(body, DeploymentIntent) else body.intent_tx_id
    document: Document = {
        "tx_id": transaction.tx_id.hex(),
        "kind": "intent" if isinstance(body, DeploymentIntent) else "outcome",
        "counter": body.counter,
        "height": height,
        "time_ms": time_ms,
        "target": body.target,
        "patch_id": body.patch_id.hex(),
        "deployment_id": (intent or transaction.tx_id).hex(),
        "result": None,
        "reason": None,
        "message": None,
        "verdict": None,
    }
    if isinstance(body, DeploymentIntent):
        decision: object = _object(body.decision)
    else:
        detail = _object(body.detail) or {}
        document |= {"result": body.result, "reason": _text(detail, "reason"), "message": _text(detail, "message")}
        decision = detail.get("decision")
    return {**document, "verdict": _text(decision, "verdict")}


def _record(view: StateView, tx_id: bytes) -> tuple[Any, str] | None:
    found = _transaction(view, tx_id)
    if found is None or not isinstance(found[0].body, DeploymentIntent | DeploymentOutcome):
        return None
    signer = view.identity_of_key(found[0].signer_key_id)
    return None if signer is None else (found[0], signer.identity_id)


def _transaction(view: StateView, tx_id: bytes) -> tuple[Transaction, int, int] | None:
    """Return a transaction with its height and its block's time, or None where this node does not keep it."""
    location = view.location(tx_id)
    block = None if location is None else view.block(location.height)
    if location is None or block is None:
        return None
    return decode_transaction_untrusted(block.transactions[location.index]), location.height, block.header.time_ms


def _object(raw: bytes) -> Document | None:
    """Return the JSON object that a host recorded, or None where it is none: the ledger does not read it."""
    try:
        document = canonical_json.decode_untrusted(raw) if raw else None
    except RejectedError:
        return None
    return document if isinstance(document, dict) else None


def _text(document: object, name: str) -> str | None:
    value = document.get(name) if isinstance(document, dict) else None
    return value if isinstance(value, str) else None
