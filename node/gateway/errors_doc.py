"""The error answers of every route, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from node.gateway.problems import PROBLEM_TYPE
from node.gateway.schemas import Problem

_SENTENCES = {
    400: "A parameter does not have its form.",
    401: "The bearer token is missing or wrong.",
    404: "There is no such thing on this replica.",
    409: "It exists already.",
    410: "This node keeps no history of that height any more; another one may.",
    413: "The request is too large.",
    422: "The request breaks a rule; `code` names it.",
    429: "Too many transactions of this signer wait already. Retry after the given time.",
    500: "A bug; the node's log has the trace.",
    503: "Not now: no leader, no core, or too much at once. Retry after the given time.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that can answer with `statuses`, besides 422, 500 and 503 which every route can."""
    return {
        status: {
            "model": Problem,
            "description": _SENTENCES[status],
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*statuses, 422, 500, 503})
    }
