"""What hosts record about themselves: intents, outcomes and reports.

Each host numbers its deployment records and names the one before, so that a missing one is visible to everybody. An intent says what is
about to happen, and an outcome closes it; an intent without an outcome is a gap that audits name.

Source: docs/spec/ledger.md 5.4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.block import ZERO_DIGEST
from ledger.bodies import DeploymentIntent, DeploymentOutcome, HostReport
from ledger.keyspace import deployment_key, host_key, patch_key, target_key
from ledger.limits import INSTALLED_MAX, REPORT_BYTES_MAX
from ledger.records import DeploymentRecord, HostRecord, Record, TargetRecord
from ledger.roles import HOST
from ledger.rules_common import Context, Effects, check_role, refuse
from ledger.rules_rollout import count_intent, count_outcome
from ledger.state import StateView
from wire import canonical_json
from wire.errors import RejectedError

SUCCESS: Final = "SUCCESS"
ROLLED_BACK: Final = "ROLLED_BACK"
INVENTORY: Final = "inventory"
ADOPT: Final = "adopt"

EFFECTIVE: Final = (SUCCESS, ROLLED_BACK)
"""Results that say the tree was changed: never without an intent."""


def record_intent(view: StateView, context: Context, body: DeploymentIntent) -> Effects:
    """Return the opened deployment, and the host one record further.

    A withdrawn patch may be announced only where it is installed: there it can only be undone.

    Raises:
        TransactionRefusedError: ``ledger.tx.not_authorised``, ``ledger.host.counter_gap``, ``ledger.host.wrong_previous``,
            ``ledger.patch.not_found``, ``ledger.patch.withdrawn``, ``ledger.rollout.halted``, ``ledger.rollout.not_open`` (it is not
            this host's turn), ``ledger.rollout.too_many_targets``.
    """
    host = _next_record(view, context, body.counter, body.previous)
    patch = view.patch(body.patch_id)
    if patch is None:
        raise refuse("patch.not_found", "the patch is not published", actual=body.patch_id)
    if patch.withdrawn_height is not None and not _is_installed(view, host.host, body):
        raise refuse("patch.withdrawn", f"the patch was withdrawn at height {patch.withdrawn_height}")
    deployment = DeploymentRecord(
        deployment_id=context.tx_id,
        host=host.host,
        target=body.target,
        patch_id=body.patch_id,
        counter=body.counter,
        intent_height=context.height,
        outcome_height=None,
        outcome_tx_id=None,
        result="",
        tree_before=body.tree_before,
        tree_after=None,
    )
    records: dict[bytes, Record] = {
        host_key(host.host): host,
        deployment_key(context.tx_id): deployment,
        **count_intent(view, context, body),
    }
    return Effects(records, (patch_key(body.patch_id), target_key(host.host, body.target)))


def record_outcome(view: StateView, context: Context, body: DeploymentOutcome) -> Effects:
    """Return the closed deployment, the host one record further, and the target when its tree was changed.

    Raises:
        TransactionRefusedError: ``ledger.tx.not_authorised``, ``ledger.host.counter_gap``, ``ledger.host.wrong_previous``,
            ``ledger.host.intent_required`` (a change without an announcement), ``ledger.host.intent_not_found``,
            ``ledger.host.intent_closed``, ``ledger.host.intent_mismatch`` (another host's, target's, patch's or tree's),
            ``ledger.host.unchanged`` (a change that changed nothing).
    """
    host = _next_record(view, context, body.counter, body.previous)
    deployment = _deployment_of(view, context, body)
    if body.result in EFFECTIVE and body.tree_after == body.tree_before:
        raise refuse(
            "host.unchanged", f"the result {body.result} changes the tree", "another tree_after than tree_before"
        )
    deployment = replace(
        deployment,
        outcome_height=context.height,
        outcome_tx_id=context.tx_id,
        result=body.result,
        tree_before=body.tree_before,
        tree_after=body.tree_after,
    )
    records: dict[bytes, Record] = {
        host_key(host.host): host,
        deployment_key(deployment.deployment_id): deployment,
        **count_outcome(view, context, body),
    }
    if body.result in EFFECTIVE:
        target = _target(view, context, body.target)
        others = tuple(each for each in target.installed if each[0] != body.patch_id)
        installed = (*others, (body.patch_id, context.height))[-INSTALLED_MAX:] if body.result == SUCCESS else others
        records[target_key(host.host, body.target)] = replace(
            target, tree_digest=body.tree_after, installed=installed, changed_height=context.height
        )
    return Effects(records, (patch_key(body.patch_id), target_key(host.host, body.target)))


def record_report(view: StateView, context: Context, body: HostReport) -> Effects:
    """Return the target with its last report, and without installed patches when that says so.

    An inventory changes no record and stands in the log alone.

    Raises:
        TransactionRefusedError: ``ledger.tx.not_authorised``.
    """
    check_role(context, HOST, "record reports")
    if body.report_kind == INVENTORY:
        return Effects({})
    target = _target(view, context, body.target)
    target = replace(
        target,
        installed=() if is_empty_adoption(body) else target.installed,
        report_kind=body.report_kind,
        report_tx_id=context.tx_id,
        report_height=context.height,
        changed_height=context.height,
    )
    key = target_key(context.signer.identity_id, body.target)
    return Effects({key: target}, (key,))


def is_empty_adoption(body: HostReport) -> bool:
    """Return whether a report says that nothing is installed in the tree that the host guards from now on."""
    if body.report_kind != ADOPT:
        return False
    try:
        document = canonical_json.decode_untrusted(body.body, bytes_max=REPORT_BYTES_MAX)
    except RejectedError:
        return False  # A report may have any form; then it says nothing of this.
    return isinstance(document, dict) and document.get("installed") == []


def _is_installed(view: StateView, host: str, body: DeploymentIntent) -> bool:
    target = view.target(host, body.target)
    return target is not None and any(patch_id == body.patch_id for patch_id, _ in target.installed)


def _next_record(view: StateView, context: Context, counter: int, previous: bytes) -> HostRecord:
    """Return the host's record after this transaction, when number and link are the next ones."""
    check_role(context, HOST, "record deployments")
    name = context.signer.identity_id
    host = view.host(name) or HostRecord(name, 0, ZERO_DIGEST, 0)
    if counter != host.counter + 1:
        raise refuse(
            "host.counter_gap",
            f"deployment records of {name} are numbered without gaps",
            host.counter + 1,
            counter,
            hint="read the host's counter from the ledger and sign again",
        )
    if previous != host.last_tx_id:
        raise refuse(
            "host.wrong_previous", f"a deployment record of {name} names the one before", host.last_tx_id, previous
        )
    return HostRecord(name, counter, context.tx_id, context.height)


def _deployment_of(view: StateView, context: Context, body: DeploymentOutcome) -> DeploymentRecord:
    host = context.signer.identity_id
    if body.intent_tx_id is None:
        if body.result in EFFECTIVE:
            raise refuse("host.intent_required", f"the result {body.result} needs an intent that announced it")
        return DeploymentRecord(
            deployment_id=context.tx_id,
            host=host,
            target=body.target,
            patch_id=body.patch_id,
            counter=body.counter,
            intent_height=None,
            outcome_height=None,
            outcome_tx_id=None,
            result="",
            tree_before=body.tree_before,
            tree_after=None,
        )
    deployment = view.deployment(body.intent_tx_id)
    if deployment is None or deployment.intent_height is None:
        raise refuse("host.intent_not_found", "the intent is not on the ledger", actual=body.intent_tx_id)
    if deployment.outcome_height is not None:
        raise refuse("host.intent_closed", f"the intent was closed at height {deployment.outcome_height}")
    opened = (deployment.host, deployment.target, deployment.patch_id.hex(), deployment.tree_before.hex())
    closing = (host, body.target, body.patch_id.hex(), body.tree_before.hex())
    if opened != closing:
        raise refuse("host.intent_mismatch", "the outcome does not fit its intent", "/".join(opened), "/".join(closing))
    return deployment


def _target(view: StateView, context: Context, target: str) -> TargetRecord:
    host = context.signer.identity_id
    return view.target(host, target) or TargetRecord(host, target, None, (), context.height, "", None, None)
