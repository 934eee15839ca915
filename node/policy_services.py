"""What the ledger knows about policy: the sets that were ever adopted, the network's own cases, and every decision that hosts recorded.

A decision stands in the intent of an application, or in the detail of the outcome where policy refused. Neither the engine nor the facts
are read here: whoever asks evaluates them.

Source: docs/spec/policy.md 6 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from ledger.bodies import DeploymentIntent, DeploymentOutcome
from ledger.records import DeploymentRecord, PolicySet
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from node.errors import not_found
from node.local.protocol import Json
from node.params import as_count, as_hex_digest, as_optional_integer, as_optional_name
from wire import canonical_json
from wire.errors import RejectedError

if TYPE_CHECKING:
    from node.app import Node

Params = Mapping[str, Json]
Document = dict[str, Any]

DECISIONS_DEFAULT: Final = 100
DECISIONS_MAX: Final = 500
"""Decisions in one answer."""
DECISIONS_BYTES_MAX: Final = 4 * 1024 * 1024
"""Decisions in one answer, as they stand on the ledger; one more is added to whatever lies below."""


class PolicyServices:
    """The methods of one node about policy, but for the set itself."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> dict[str, Callable[[Params], Any]]:
        """Return every method by its name on the socket."""
        return {
            "policy.history": self.policy_history,
            "policy.cases": self.policy_cases,
            "policy.decisions": self.policy_decisions,
            "policy.decision": self.policy_decision,
        }

    async def policy_history(self, params: Params) -> list[Document]:
        """Return every policy set that was ever adopted, without its texts, the oldest first."""
        del params
        with self._node.replica.view() as view:
            return [policy_version_document(view, policy) for policy in view.policies()]

    async def policy_cases(self, params: Params) -> Document:
        """Return the network's own cases for policy sets."""
        del params
        with self._node.replica.view() as view:
            record = view.policy_cases()
            return {"cases": record.cases, "adopted_height": record.adopted_height}

    async def policy_decisions(self, params: Params) -> Document:
        """Return the decisions that hosts recorded, the oldest first; the next page begins behind the last one's height and id."""
        limit = as_count(params, "limit", DECISIONS_DEFAULT, DECISIONS_MAX)
        host = as_optional_name(params, "host")
        after_id = as_hex_digest(params, "after") if params.get("after") is not None else b""
        after = (as_optional_integer(params, "from") or 0, after_id)
        to = as_optional_integer(params, "to")
        with self._node.replica.view() as view:
            found = sorted(
                (
                    each
                    for each in view.deployments()
                    if place(each) > after
                    and (to is None or place(each)[0] <= to)
                    and (host is None or each.host == host)
                ),
                key=place,
            )
            answer: list[Document] = []
            size = 0
            for document, length in _decisions(view, found):
                answer.append(document)
                size += length
                if len(answer) == limit or size > DECISIONS_BYTES_MAX:
                    break
            return {"decisions": answer, "history_start": view.history_start}

    async def policy_decision(self, params: Params) -> Document:
        """Return the decision of one deployment: by its intent, or by the outcome of a refusal."""
        deployment_id = as_hex_digest(params, "deployment_id")
        with self._node.replica.view() as view:
            record = view.deployment(deployment_id)
            if record is None:
                raise not_found("deployment", deployment_id.hex(), view.height)
            view.check_kept(place(record)[0])
            for document, _ in _decisions(view, [record]):
                return document
            raise not_found("decision", deployment_id.hex(), view.height)


def policy_version_document(view: StateView, policy: PolicySet) -> Document:
    """Return one version of the policy set, without its texts, and whether it is in force."""
    current, waiting = view.policy_version().version, view.policy_pending()
    if policy.version == current:
        status = "in force"
    elif waiting is not None and policy.version == waiting.version:
        status = "waits"
    elif _came_into_force(view, policy):
        status = "former"
    else:
        status = "replaced before it came into force"
    return {
        "version": policy.version,
        "policy_hash": policy.policy_hash.hex(),
        "adopted_height": policy.adopted_height,
        "policies": len(policy.policies),
        "status": status,
    }


def place(record: DeploymentRecord) -> tuple[int, bytes]:
    """Return where a deployment stands among others: the height at which it was opened, and its id."""
    height = record.intent_height if record.intent_height is not None else record.outcome_height
    assert height is not None, "a deployment has an intent or an outcome"
    return height, record.deployment_id


def _came_into_force(view: StateView, policy: PolicySet) -> bool:
    # The header at its height says so itself; every header is kept, whatever was pruned.
    header = view.header_at(policy.adopted_height)
    return header is not None and header.policy_hash == policy.policy_hash


def _decisions(view: StateView, records: list[DeploymentRecord]) -> Iterator[tuple[Document, int]]:
    """Yield each deployment that policy was asked about, and the length of what stands on the ledger.

    A decision is None where it did not fit into the record, or is no JSON.
    """
    for record in records:
        height, _ = place(record)
        location = view.location(record.deployment_id)
        block = None if location is None else view.block(height)
        if location is None or block is None:
            continue
        body = decode_transaction_untrusted(block.transactions[location.index]).body
        if isinstance(body, DeploymentIntent):
            raw = body.decision
        elif isinstance(body, DeploymentOutcome):
            raw = body.detail
        else:
            continue
        document = decision_document(record, raw, block.header.time_ms, is_intent=isinstance(body, DeploymentIntent))
        if document is not None:
            yield document, len(raw)


def decision_document(record: DeploymentRecord, raw: bytes, time_ms: int, *, is_intent: bool) -> Document | None:
    """Return what is told about a decision; None where policy was not asked.

    Args:
        record: The deployment.
        raw: What stands on the ledger: the decision of an intent, the detail of an outcome without one.
        time_ms: When that block was made, ms since the epoch, UTC.
        is_intent: Which of the two it is.
    """
    decision = _decode(raw) if raw else None
    if not is_intent:
        if not isinstance(decision, dict) or not decision.keys() & {"decision", "decision_bytes"}:
            return None  # It was refused before policy was asked.
        decision = decision.get("decision")
    return {
        "deployment_id": record.deployment_id.hex(),
        "host": record.host,
        "target": record.target,
        "patch_id": record.patch_id.hex(),
        "height": place(record)[0],
        "time_ms": time_ms,
        "result": record.result or None,
        "decision": decision,
    }


def _decode(raw: bytes) -> Json:
    """Return the JSON that a host recorded; None where it is none, since the ledger does not read it."""
    try:
        return canonical_json.decode_untrusted(raw)
    except RejectedError:
        return None
