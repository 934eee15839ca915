"""Whose a key is, by somebody who is believed: so that nobody speaks in a file under another one's name.

A file names whoever attested and sealed it by their own word, and proves no more than that the key it carries signed the line. A ledger
assigns a key to one identity, for ever: what it says of a key today is true of every line that the key ever signed.

Source: docs/spec/patch-file.md 7.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wire.errors import RejectedError

if TYPE_CHECKING:
    from ledger.genesis import Genesis

FORGED_NAME: Final = "cli.verify.forged_name"
UNKNOWN_KEY: Final = "cli.verify.unknown_key"


@dataclass(frozen=True, slots=True)
class Names:
    """Which keys are whose."""

    owners: dict[str, str]
    """Identity id by key id, 64 hexadecimal digits."""
    identities: frozenset[str]
    """Identity ids that are known to be registered."""
    is_complete: bool
    """Whether every key is known (a ledger was asked); otherwise one that is not among `owners` may be anybody's."""

    @classmethod
    def nobody_asked(cls) -> Names:
        """Return what is known when nobody was asked: nothing."""
        return cls({}, frozenset(), is_complete=False)

    @classmethod
    def of_ledger(cls, identities: Iterable[dict[str, Any]]) -> Names:
        """Return what a node's identity documents say."""
        owners = {key["key_id"]: each["identity"] for each in identities for key in each["keys"]}
        return cls(owners, frozenset(each["identity"] for each in identities), is_complete=True)

    @classmethod
    def of_genesis(cls, genesis: Genesis) -> Names:
        """Return what a founding document says: the first administrators' keys."""
        from wire.keys import public_key_from_spki_untrusted

        owners = {
            public_key_from_spki_untrusted(each.spki).key_id_hex: each.identity_id
            for organisation in genesis.organisations
            for each in organisation.administrators
        }
        return cls(owners, frozenset(owners.values()), is_complete=False)

    def refusal(self, identity: str, key_id: str) -> RejectedError | None:
        """Return why a line signed with the key does not speak for `identity`, or None: it does, or nobody knows.

        The code is `FORGED_NAME` when the name is another one's, and `UNKNOWN_KEY` when neither the key nor the name is on the ledger.
        """
        owner = self.owners.get(key_id)
        if owner == identity or (owner is None and not self.is_complete):
            return None
        if owner is None and identity not in self.identities:
            return RejectedError(UNKNOWN_KEY, f"the key that signed as {identity} belongs to nobody on the ledger")
        whose = "nobody's on the ledger" if owner is None else f"{owner}'s"
        return RejectedError(
            FORGED_NAME,
            f"the name is forged: it is signed as {identity}, and the key is {whose}",
            details={"key": key_id},
        )
