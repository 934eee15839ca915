"""What a node tells about identities beyond their records: how they are administered, and what the revocation of a key takes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger.affected import cut_keys, find_affected, index_of_view
from node.errors import not_found
from node.identity_documents import administration_document, affected_document
from node.limits import PAGE_DEFAULT, PAGE_MAX
from node.params import Params, as_count, as_hex_digest, as_name, as_optional_integer

if TYPE_CHECKING:
    from node.app import Node

Document = dict[str, Any]


class IdentityServices:
    """The methods of one node about what became of identities."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> dict[str, Callable[[Params], Any]]:
        """Return every method by its name on the socket."""
        return {
            "identities.affected": self.identities_affected,
            "administration.get": self.administration_get,
        }

    async def identities_affected(self, params: Params) -> Document:
        """Return what the ledger recorded under revoked keys of an identity, or what it would be if they were revoked from a height on."""
        name = as_name(params, "identity")
        key_id = None if params.get("key_id") is None else as_hex_digest(params, "key_id")
        last_valid_height = as_optional_integer(params, "last_valid_height")
        with self._node.replica.view() as view:
            keys = cut_keys(view, view.height, name, key_id, last_valid_height)
            lowest = min(key.last_valid_height or 0 for key in keys)
            affected = find_affected(view, index_of_view(view, name, lowest + 1), name, keys)
            return {**affected_document(affected), "height": view.height}

    async def administration_get(self, params: Params) -> Document:
        """Return how many administrators of an organisation must agree, and what they were asked to agree on."""
        name = as_name(params, "organisation")
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        with self._node.replica.view() as view:
            if view.organisation(name) is None:
                raise not_found("organisation", name, view.height)
            return administration_document(view, name, limit)
