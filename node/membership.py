"""Between the ledger's word about validators and the consensus core's: the same groups, as keys.

The ledger says who votes, who is on the way in, who learns and who is leaving; the core only needs their keys. What a block made of the
configuration is read from its writes, so nobody executes anything twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from consensus.membership import Configuration as CoreConfiguration
from consensus.membership import ConfigurationAt
from ledger.bodies import ProposalVote, ValidatorSettle
from ledger.configuration import Configuration, Validator
from ledger.configuration_history import newest_configuration_height
from ledger.keyspace import VALIDATORS_KEY, Reader, Table
from ledger.state import StateView
from ledger.transaction import Transaction
from ledger.transition import Executed
from ledger.validator_actions import VALIDATOR_ACTIONS
from wire.keys import KeyId

_ABOUT_VALIDATORS: Final = frozenset(action.NAME for action in VALIDATOR_ACTIONS)


def core_configuration(configuration: Configuration) -> CoreConfiguration:
    """Return the configuration as the consensus core wants it."""
    return CoreConfiguration(
        voters=tuple(configuration.voters.public_keys.values()),
        incoming=None if configuration.incoming is None else tuple(configuration.incoming.public_keys.values()),
        learners=tuple(configuration.learners.public_keys.values()),
    )


def changed_configuration(executed: Executed) -> CoreConfiguration | None:
    """Return what a block made of the configuration, or None when it left the voters and learners as they were."""
    raw = executed.writes.get((Table.STATE, VALIDATORS_KEY))
    return None if raw is None else core_configuration(Configuration.decode(raw))


def committed_configuration(reader: Reader) -> ConfigurationAt:
    """Return the configuration that rules at the tip of `reader`, with the height of the block that made it."""
    height = newest_configuration_height(reader)
    return (0 if height is None else height, core_configuration(StateView(reader).configuration()))


def may_change_configuration(view: StateView, transaction: Transaction) -> bool:
    """Return whether executing the transaction can change who votes: a vote on a proposal about validators, or the end of a change.

    Votes on other proposals must not wait for a change that nobody can finish.

    Args:
        view: The ledger on which the transaction would be executed. A vote on a proposal that it does not have may be about anything.
        transaction: One that waits for a block.
    """
    match transaction.body:
        case ValidatorSettle():
            return True
        case ProposalVote(proposal_id=proposal_id):
            proposal = view.proposal(proposal_id)
            return proposal is None or proposal.action[0] in _ABOUT_VALIDATORS
        case _:
            return False


def with_one_change(view: StateView, transactions: Iterable[Transaction]) -> tuple[Transaction, ...]:
    """Return the transactions without those that may change who votes, but for the first of them.

    A block changes who votes once (docs/spec/ledger.md 14.2): the others would be refused, and so lost, though they hold in the next.
    """
    kept: list[Transaction] = []
    has_change = False
    for each in transactions:
        if may_change_configuration(view, each):
            if has_change:
                continue
            has_change = True
        kept.append(each)
    return tuple(kept)


def known_nodes(*configurations: Configuration) -> dict[KeyId, Validator]:
    """Return everybody whom one of these configurations names, by key id: those who get blocks, and those on their way out."""
    return {
        node.key_id: node
        for configuration in configurations
        for group in (configuration.leaving, configuration.nodes)
        for node in group
    }
