"""Following the validators of a chain without executing it: enough to check who signed, and nothing more.

A header names the configuration after its block by hash. Which one that is follows from what the block carries: votes on proposals whose
actions were seen before, and the end of a change. A vote may be the deciding one or not; whichever of the possible configurations has the
header's hash is the one. Whether the vote really decided is a question of the full audit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ledger.block import Block
from ledger.bodies import ProposalCreate, ProposalVote, ValidatorSettle
from ledger.configuration import Configuration
from ledger.membership import change_configuration, settle_configuration
from ledger.recovery_block import find_recovery
from ledger.transaction import Transaction, decode_transaction_untrusted
from ledger.validator_actions import VALIDATOR_ACTIONS, ValidatorAction
from wire.errors import RejectedError

CANDIDATES_MAX: Final = 4096
"""Configurations that one block may lead to: an honest one leads to few, and a dozen learners voted in by one block still fit."""

_HEAD_BYTES: Final = 96
"""The kind of a transaction stands in its first bytes, after a version and a chain id."""
_KINDS: Final = tuple(kind.KIND.encode() for kind in (ProposalCreate, ProposalVote, ValidatorSettle))


class ConfigurationFollower:
    """Knows the configuration after the last block it was shown."""

    __slots__ = ("_actions", "configuration")

    def __init__(self, configuration: Configuration, actions: Iterable[tuple[bytes, ValidatorAction]] = ()) -> None:
        self.configuration = configuration
        self._actions = dict(actions)

    @property
    def actions(self) -> tuple[tuple[bytes, ValidatorAction], ...]:
        """What was proposed about validators so far, by proposal id, oldest first."""
        return tuple(self._actions.items())

    def follow(self, block: Block) -> Configuration:
        """Return the configuration after the block: the one that its header names, if the block can lead there; else the one before."""
        recovery = find_recovery(block)
        if recovery is not None:
            # Whether it holds is asked beside who signed; only its word can lead on from here.
            if recovery.statement.configuration.hash == block.header.validators_hash:
                self.configuration = recovery.statement.configuration
            return self.configuration
        candidates = {self.configuration.hash: self.configuration}
        for raw in block.transactions:
            if any(kind in raw[:_HEAD_BYTES] for kind in _KINDS):
                try:
                    transaction = decode_transaction_untrusted(raw)
                except RejectedError:
                    continue
                for found in self._steps(transaction, tuple(candidates.values())):
                    if len(candidates) < CANDIDATES_MAX:
                        candidates[found.hash] = found
        self.configuration = candidates.get(block.header.validators_hash, self.configuration)
        return self.configuration

    def _steps(self, transaction: Transaction, candidates: tuple[Configuration, ...]) -> list[Configuration]:
        match transaction.body:
            case ProposalCreate(action=action):
                if isinstance(action, VALIDATOR_ACTIONS):
                    self._actions[transaction.tx_id] = action
            case ProposalVote(proposal_id=proposal_id):
                wanted = self._actions.get(proposal_id)
                if wanted is not None:
                    return [after for before in candidates for after in _change(before, wanted)]
            case ValidatorSettle():
                return [settle_configuration(each) for each in candidates if each.is_joint]
            case _:
                pass
        return []


def _change(configuration: Configuration, action: ValidatorAction) -> list[Configuration]:
    try:
        return [change_configuration(configuration, action)]
    except RejectedError:
        return []
