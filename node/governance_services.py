"""What a node tells about governance: who decides, what was decided and by whom, and which certificates end when."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

import trio

from ledger.governance_story import find_story, proposal_status, story_place
from node import documents
from node.errors import not_found
from node.governance_documents import governance_document, story_document
from node.limits import PAGE_DEFAULT, PAGE_MAX
from node.params import Params, as_count, as_hex_digest, as_optional_integer

if TYPE_CHECKING:
    from node.app import Node

Document = dict[str, Any]


class GovernanceServices:
    """The methods of one node about governance."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> dict[str, Callable[[Params], Any]]:
        """Return every method by its name on the socket."""
        return {
            "organisations.list": self.organisations_list,
            "governance.status": self.governance_status,
            "governance.certificates": self.governance_certificates,
            "governance.list": self.governance_list,
            "governance.get": self.governance_get,
            "governance.history": self.governance_history,
        }

    async def organisations_list(self, params: Params) -> list[Document]:
        """Return the organisations, those that are suspended or removed included."""
        del params
        with self._node.replica.view() as view:
            return [
                documents.organisation_document(organisation, view.organisation_status(organisation.name))
                for organisation in view.organisations()
            ]

    async def governance_status(self, params: Params) -> Document:
        """Return who has a vote, who can cast it, how many decide, and what is open."""
        del params
        await self._node.upkeep.expiry.look()
        with self._node.replica.view() as view:
            return {**governance_document(view), "certificates": self._node.upkeep.expiry.document()}

    async def governance_certificates(self, params: Params) -> list[Document]:
        """Return the certificates on the ledger that matter still, the first to end first; on demand only those that end soon."""
        within = as_optional_integer(params, "within_days")
        now_ms = self._node.replica.now_ms()
        found = await self._node.upkeep.expiry.look()
        late = (each for each in found if within is None or each.days_left(now_ms) < within)
        return [each.document(now_ms) for each in islice(late, PAGE_MAX)]

    async def governance_list(self, params: Params) -> list[Document]:
        """Return proposals, the newest first."""
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        with self._node.replica.view() as view:
            found = sorted(view.proposals(), key=lambda proposal: (-proposal.created_height, proposal.proposal_id))
            return [
                documents.proposal_document(proposal, proposal_status(proposal, view.height))
                for proposal in found[:limit]
            ]

    async def governance_get(self, params: Params) -> Document:
        """Return one proposal with its story."""
        proposal_id = as_hex_digest(params, "proposal_id")
        with self._node.replica.view() as view:
            proposal = view.proposal(proposal_id)
            if proposal is None:
                raise not_found("proposal", proposal_id.hex(), view.height)
            return story_document(find_story(view, proposal))

    async def governance_history(self, params: Params) -> list[Document]:
        """Return proposals with their stories, the oldest first; the next page begins behind the last one's height and id."""
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        after_id = as_hex_digest(params, "after") if params.get("after") is not None else b""
        after = (as_optional_integer(params, "from") or 0, after_id)
        with self._node.replica.view() as view:
            found = sorted((each for each in view.proposals() if story_place(each) > after), key=story_place)
            answer = []
            for each in found[:limit]:
                answer.append(story_document(find_story(view, each)))
                await trio.lowlevel.checkpoint()  # Each story reads a block for each of its transactions.
            return answer
