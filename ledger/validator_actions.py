"""What a proposal of governance can do to the validators.

=====================  ===================================================================================
action                 effect
=====================  ===================================================================================
``add-learner``        a node receives blocks from now on, without a vote
``promote-learner``    a learner becomes a voter: a joint change
``remove-validator``   a voter loses its vote: a joint change; a learner goes at once
``replace-validator``  a learner takes a voter's place: one joint change instead of two
=====================  ===================================================================================

Source: docs/spec/ledger.md 6.1, 14.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from ledger.configuration import Validator
from ledger.limits import ADDRESS_BYTES_MAX
from wire.codec import Value
from wire.fields import as_bytes, as_identifier, as_text, as_tuple
from wire.limits import SPKI_BYTES_MAX


@dataclass(frozen=True, slots=True)
class AddLearner:
    """Let a node receive blocks, so that it can be promoted once it has caught up."""

    NAME: ClassVar[str] = "add-learner"
    learner: Validator
    """The node: a name, a key and an address that no other has."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        new = self.learner
        return (self.NAME, new.name, new.organisation, new.spki, new.address)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> AddLearner:
        """Return the action; raises `MalformedError`."""
        _, name, organisation, spki, address = as_tuple(value, "action", length=5)
        return cls(
            Validator(
                as_identifier(name, "name"),
                as_identifier(organisation, "organisation"),
                as_bytes(spki, "spki", bytes_max=SPKI_BYTES_MAX),
                as_text(address, "address", ADDRESS_BYTES_MAX, 1),
            )
        )


@dataclass(frozen=True, slots=True)
class PromoteLearner:
    """Give a learner a vote."""

    NAME: ClassVar[str] = "promote-learner"
    name: str
    """The learner's name."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.name)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> PromoteLearner:
        """Return the action; raises `MalformedError`."""
        _, name = as_tuple(value, "action", length=2)
        return cls(as_identifier(name, "name"))


@dataclass(frozen=True, slots=True)
class RemoveValidator:
    """Take a voter or a learner out of the network; its key never comes back."""

    NAME: ClassVar[str] = "remove-validator"
    name: str
    """The node's name."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.name)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> RemoveValidator:
        """Return the action; raises `MalformedError`."""
        _, name = as_tuple(value, "action", length=2)
        return cls(as_identifier(name, "name"))


@dataclass(frozen=True, slots=True)
class ReplaceValidator:
    """Let a learner take a voter's place; the voter's key never comes back."""

    NAME: ClassVar[str] = "replace-validator"
    name: str
    """The voter's name."""
    learner: str
    """The learner's name."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.name, self.learner)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> ReplaceValidator:
        """Return the action; raises `MalformedError`."""
        _, name, learner = as_tuple(value, "action", length=3)
        return cls(as_identifier(name, "name"), as_identifier(learner, "learner"))


ValidatorAction: TypeAlias = AddLearner | PromoteLearner | RemoveValidator | ReplaceValidator
"""Everything that a proposal can do to the validators."""

VALIDATOR_ACTIONS: Final = (AddLearner, PromoteLearner, RemoveValidator, ReplaceValidator)
"""The same, to go through."""
