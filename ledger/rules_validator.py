"""The rules about validators: what a proposal's action changes, and how a validator ends the change that is under way.

Source: docs/spec/ledger.md 6.1, 14.
"""

from __future__ import annotations

from ledger.bodies import ValidatorSettle
from ledger.certificate import verify_block_certificate
from ledger.configuration import Configuration, RetiredValidator
from ledger.keyspace import VALIDATORS_KEY, identity_key, organisation_key, retired_key
from ledger.membership import change_configuration, retired_between, settle_configuration
from ledger.records import ACTIVE, Record
from ledger.recovery import Recovery
from ledger.rules_common import Context, Effects, refuse
from ledger.rules_organisation import find_member
from ledger.state import StateView
from ledger.validator_actions import AddLearner, ValidatorAction


def change_validators(view: StateView, context: Context, action: ValidatorAction) -> Effects:
    """Return the configuration after the action.

    Raises:
        RejectedError: The codes of `change_configuration`; ``ledger.proposal.organisation_not_found``,
            ``.organisation_removed``, ``.organisation_not_active``, ``.validator_key_retired``.
    """
    configuration = view.configuration()
    changed = change_configuration(configuration, action)
    subjects: tuple[bytes, ...] = (VALIDATORS_KEY,)
    if isinstance(action, AddLearner):
        learner = action.learner
        find_member(view, learner.organisation)
        if (status := view.organisation_status(learner.organisation)) != ACTIVE:
            raise refuse("proposal.organisation_not_active", f"{learner.organisation} is {status}")
        if view.retired_validator(learner.key_id) is not None:
            raise refuse(
                "proposal.validator_key_retired",
                "a node of this network had this key and was removed",
                hint="give the node a new key",
                actual=learner.key_id,
            )
        subjects = (VALIDATORS_KEY, organisation_key(learner.organisation))
    return Effects(_records(configuration, changed, context.height), subjects)


def settle_validators(view: StateView, height: int, term: int, body: ValidatorSettle) -> Effects:
    """Return the plain configuration that ends the change under way. The signer has a vote in the joint one.

    Args:
        view: What the ledger knows.
        height: Of the block in which this is executed.
        term: Of that block.
        body: What a validator says.

    Raises:
        RejectedError: ``ledger.validator.not_joint``, ``ledger.validator.wrong_chain``, ``ledger.validator.later_term``,
            ``ledger.proof.validators`` (a header of another configuration), ``ledger.proof.certificate``, ``wire.certificate.*``.
    """
    configuration = view.configuration()
    if not configuration.is_joint:
        raise refuse("validator.not_joint", "no change of the validators is under way")
    chain_id = view.chain_id
    if body.header.chain_id != chain_id:
        raise refuse("validator.wrong_chain", "the header is of another network", chain_id, body.header.chain_id)
    if body.header.term > term:
        # What a leader knows to be certified is of its own term or before (docs/spec/consensus.md 8.2 rests on it).
        raise refuse(
            "validator.later_term", "the header is of a later term than this block", f"at most {term}", body.header.term
        )
    # A joint configuration never comes back, because it brings a key that is new or takes one away for ever: a header that names it is of
    # this change.
    verify_block_certificate(body.certificate, body.header, configuration)
    changed = settle_configuration(configuration)
    return Effects(_records(configuration, changed, height), (VALIDATORS_KEY,))


def recover_validators(view: StateView, height: int, recovery: Recovery) -> Effects:
    """Return the configuration that a recovery, which holds, brings: its voters, and nobody else; everybody who is not among them has left.

    Raises:
        RejectedError: ``ledger.recovery.key_retired``: a key left the network before, and never comes back.
    """
    for voter in recovery.after:
        if view.retired_validator(voter.key_id) is not None:
            raise refuse("recovery.key_retired", f"the key of {voter.name} has left this network", actual=voter.key_id)
    records = _records(view.configuration(), recovery.statement.configuration, height)
    signers = (identity_key(each.identity_id) for each in recovery.approvals)
    return Effects(records, (VALIDATORS_KEY, *signers))


def _records(before: Configuration, after: Configuration, height: int) -> dict[bytes, Record]:
    records: dict[bytes, Record] = {VALIDATORS_KEY: after}
    for gone in retired_between(before, after):
        records[retired_key(gone.key_id)] = RetiredValidator(
            gone.name, gone.organisation, gone.spki, gone.address, height
        )
    return records
