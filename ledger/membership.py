"""From one configuration of the validators to the next: pure steps, for the rules that execute them and for the auditor that follows them.

::

    plain  --add-learner, remove-validator of a learner-->  plain
    plain  --promote-learner, remove-validator, replace-validator-->  joint  --settle-->  plain

One change at a time: a joint configuration refuses every action until it is settled, and a block makes one of these steps of the voters.

Source: docs/spec/ledger.md 14; Ongaro, "Consensus: Bridging Theory and Practice", 4.3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from ledger.configuration import Configuration, Validator, ValidatorSet, check_node_key
from ledger.errors import TransactionRefusedError
from ledger.limits import LEARNERS_MAX
from ledger.rules_common import refuse
from ledger.validator_actions import AddLearner, PromoteLearner, RemoveValidator, ReplaceValidator, ValidatorAction
from wire.limits import VALIDATORS_MAX


def change_configuration(configuration: Configuration, action: ValidatorAction) -> Configuration:
    """Return the configuration after the action. What only the ledger's other records can refuse is not asked here.

    Raises:
        RejectedError: ``ledger.proposal.configuration_busy``, ``.validator_not_found``, ``.learner_not_found``,
            ``.validator_name_exists``, ``.validator_key_exists``, ``.validator_address_exists``,
            ``.last_validator``, ``.too_many_validators``, ``.too_many_learners``, ``wire.key.*``.
    """
    if configuration.is_joint:
        raise refuse(
            "proposal.configuration_busy",
            "another change of the validators is under way",
            hint="vote again when it is finished",
        )
    match action:
        case AddLearner():
            return _add_learner(configuration, action.learner)
        case PromoteLearner():
            learner = _find_learner(configuration, action.name)
            return _enter_joint(configuration, configuration.voters.with_validator(learner), learner)
        case RemoveValidator():
            return _remove(configuration, action.name)
        case ReplaceValidator():
            old = configuration.voters.find_name(action.name)
            if old is None:
                raise _not_found(configuration, action.name)
            learner = _find_learner(configuration, action.learner)
            return _enter_joint(configuration, configuration.voters.without(old).with_validator(learner), learner)
        case _:
            assert_never(action)


def settle_configuration(configuration: Configuration) -> Configuration:
    """Return the configuration after the change that is under way: the incoming are the voters, and who lost the vote is leaving."""
    assert configuration.incoming is not None, "only a joint configuration can be settled"
    gone = tuple(each for each in configuration.voters if configuration.incoming.find(each.key_id) is None)
    return Configuration(configuration.incoming, None, configuration.learners, ValidatorSet(gone))


def check_one_change(begun: Configuration, now: Configuration, changed: Configuration) -> None:
    """Return only when a block that began with `begun`, and has led to `now`, may make `changed` of it: a block changes who votes once.

    Blocks are what validators agree on, so nobody ever decides anything under a configuration that comes and goes inside of one. Who counts
    majorities may then rely on voters that change in two steps, whatever a leader proposes.

    Raises:
        TransactionRefusedError: ``ledger.validator.changed_in_block``.
    """
    if not changed.has_voters_of(now) and not now.has_voters_of(begun):
        raise refuse(
            "validator.changed_in_block",
            "an earlier transaction of this block changes who votes",
            "one such change in a block",
            hint="put it into the next block",
        )


def retired_between(before: Configuration, after: Configuration) -> tuple[Validator, ...]:
    """Return the nodes that no longer receive blocks, in order of key id: their keys never come back."""
    return tuple(each for each in before.nodes if after.nodes.find(each.key_id) is None)


def _add_learner(configuration: Configuration, learner: Validator) -> Configuration:
    check_node_key(learner.spki)
    for other in configuration.nodes:
        for code, ours, theirs in (
            ("ledger.proposal.validator_name_exists", other.name, learner.name),
            ("ledger.proposal.validator_key_exists", other.spki, learner.spki),
            ("ledger.proposal.validator_address_exists", other.address, learner.address),
        ):
            if ours == theirs:
                raise TransactionRefusedError(code, f"{other.name} is there with the same already", actual=theirs)
    if len(configuration.learners) >= LEARNERS_MAX:
        raise refuse("proposal.too_many_learners", "the network has too many learners", f"at most {LEARNERS_MAX}")
    return replace(configuration, learners=configuration.learners.with_validator(learner))


def _remove(configuration: Configuration, name: str) -> Configuration:
    learner = configuration.learners.find_name(name)
    if learner is not None:
        return replace(configuration, learners=configuration.learners.without(learner))
    voter = configuration.voters.find_name(name)
    if voter is None:
        raise _not_found(configuration, name)
    left = configuration.voters.without(voter)
    if not left:
        raise refuse("proposal.last_validator", f"{name} is the last validator", hint="replace it instead")
    return replace(configuration, incoming=left)


def _enter_joint(configuration: Configuration, incoming: ValidatorSet, learner: Validator) -> Configuration:
    changed = replace(configuration, incoming=incoming, learners=configuration.learners.without(learner))
    # Both groups together, because one certificate may carry a signature of each.
    if len(changed.members) > VALIDATORS_MAX:
        raise refuse(
            "proposal.too_many_validators", "the network would have too many validators", f"at most {VALIDATORS_MAX}"
        )
    return changed


def _find_learner(configuration: Configuration, name: str) -> Validator:
    learner = configuration.learners.find_name(name)
    if learner is None:
        raise refuse(
            "proposal.learner_not_found",
            "there is no such learner",
            " or ".join(each.name for each in configuration.learners) or "a learner; there is none",
            name,
        )
    return learner


def _not_found(configuration: Configuration, name: str) -> TransactionRefusedError:
    names = " or ".join(each.name for each in (*configuration.voters, *configuration.learners))
    return refuse("proposal.validator_not_found", "there is no such validator", names, name)
