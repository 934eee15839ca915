"""What governance does to the policies, and when a set that was adopted for later comes into force.

A set adopted for a later height waits under `POLICY_PENDING_KEY`. The first block at that height or above puts it in force before its own
transactions are executed, so header and state agree on it from that block on. A set that is adopted meanwhile takes a higher version,
and the waiting one never comes into force.

Source: docs/spec/ledger.md 6.
"""

from __future__ import annotations

from collections.abc import Mapping

from ledger.actions import PolicyAction, SetPolicyCases
from ledger.keyspace import POLICY_CASES_KEY, POLICY_PENDING_KEY, POLICY_VERSION_KEY, policy_key
from ledger.limits import POLICY_ACTIVATION_AHEAD_MAX
from ledger.records import PolicyCases, PolicyPending, PolicySet, PolicyVersion, Record, hash_policy
from ledger.rules_common import Context, Effects, refuse
from ledger.state import StateView


def change_policy(view: StateView, context: Context, action: PolicyAction) -> Effects:
    """Return what the action changes now.

    Raises:
        TransactionRefusedError: ``ledger.proposal.no_change``, ``ledger.proposal.activation_too_far``.
    """
    if isinstance(action, SetPolicyCases):
        return _set_cases(view, context, action)
    current, waiting = view.policy_version(), view.policy_pending()
    policy_hash = hash_policy(action.schema, action.policies)
    activate_height = max(action.activate_height, context.height)
    if waiting is None and policy_hash == current.policy_hash:
        raise refuse("proposal.no_change", "this policy set is in force already", actual=policy_hash)
    if waiting is not None and (policy_hash, activate_height) == (waiting.policy_hash, waiting.activate_height):
        raise refuse("proposal.no_change", "this policy set is adopted for that height already", actual=policy_hash)
    if activate_height > context.height + POLICY_ACTIVATION_AHEAD_MAX:
        raise refuse(
            "proposal.activation_too_far",
            "the policy set would come into force too late",
            f"a height of at most {context.height + POLICY_ACTIVATION_AHEAD_MAX}",
            activate_height,
        )
    version = (current.version if waiting is None else waiting.version) + 1
    policy = PolicySet(version, action.schema, action.policies, policy_hash, activate_height)
    if activate_height == context.height:
        return Effects({policy_key(version): policy, POLICY_VERSION_KEY: PolicyVersion(version, policy_hash)})
    return Effects(
        {policy_key(version): policy, POLICY_PENDING_KEY: PolicyPending(version, policy_hash, activate_height)}
    )


def due_policy(view: StateView, height: int) -> Mapping[bytes, Record]:
    """Return what block `height` changes before its transactions: the set that comes into force with it, or nothing."""
    waiting = view.policy_pending()
    if waiting is None or waiting.activate_height > height:
        return {}
    return {POLICY_VERSION_KEY: PolicyVersion(waiting.version, waiting.policy_hash)}


def _set_cases(view: StateView, context: Context, action: SetPolicyCases) -> Effects:
    if view.policy_cases().cases == action.cases:
        raise refuse("proposal.no_change", "these are the network's cases already")
    return Effects({POLICY_CASES_KEY: PolicyCases(action.cases, context.height)})
