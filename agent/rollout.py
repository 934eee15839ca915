"""How far a patch has come on all hosts, and which patches of a target still wait for their later review. Read from the replica alone.

Source: docs/spec/policy.md 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

from agent.facts import AuthorFacts, EmergencyFacts, RolloutFacts
from agent.identities import judge_attestations
from agent.limits import FACT_ITEMS_MAX, ROLLOUT_ENTRIES_MAX, ROLLOUT_HOSTS_MAX
from agent.target import Installed
from ledger.keyspace import patch_key
from ledger.records import DeploymentRecord
from ledger.rules_host import SUCCESS
from ledger.state import StateView

EMERGENCY_ROLE: Final = "emergency"
"""Who approves in this role lets a patch in before it is reviewed, where policy allows that."""
LATER_REVIEW_ROLE: Final = "later-review"
"""Who approves in this role has reviewed such a patch afterwards."""


def find_rollout(view: StateView, patch_id: bytes) -> RolloutFacts:
    """Return on which hosts the patch succeeded or failed, by the last that each of their targets recorded.

    A refusal is no failure, and an intent whose outcome is not recorded yet is neither. Of a patch with more than `ROLLOUT_ENTRIES_MAX`
    transactions, the oldest are read: those of the first hosts.
    """
    last: dict[tuple[str, str], DeploymentRecord] = {}
    for entry in islice(view.history(patch_key(patch_id)), ROLLOUT_ENTRIES_MAX):
        record = view.deployment(entry.tx_id)
        if record is not None and record.intent_height is not None and record.outcome_height is not None:
            last[record.host, record.target] = record
    succeeded = [each for each in last.values() if each.result == SUCCESS]
    succeeded.sort(key=lambda each: (each.outcome_height or 0, each.host))
    failed = {each.host for each in last.values() if each.result != SUCCESS}
    hosts = tuple(dict.fromkeys(each.host for each in succeeded))
    return RolloutFacts(hosts[:ROLLOUT_HOSTS_MAX], tuple(sorted(failed))[:ROLLOUT_HOSTS_MAX], _time_of(view, succeeded))


def find_emergencies(view: StateView, installed: Sequence[Installed]) -> tuple[EmergencyFacts, ...]:
    """Return the installed patches that an emergency approval let in and that nobody has reviewed since, the oldest first."""
    found = []
    for each in installed:
        patch_id = bytes.fromhex(each.patch_id)
        # One read for each patch: almost none has such an approval.
        if not any(role == EMERGENCY_ROLE for _, role, _ in view.attestation_list(patch_id).current):
            continue
        record = view.patch(patch_id)
        assert record is not None, "what has attestations is published"
        verdicts = judge_attestations(view, patch_id, AuthorFacts(record.author, record.organisation, ()))
        roles = {approval.role for approval in verdicts.approvals}
        if EMERGENCY_ROLE in roles and LATER_REVIEW_ROLE not in roles:
            found.append(EmergencyFacts(each.patch_id, each.applied_ms))
    return tuple(sorted(found, key=lambda each: (each.applied_ms, each.patch)))[:FACT_ITEMS_MAX]


def _time_of(view: StateView, succeeded: Sequence[DeploymentRecord]) -> int:
    heights = [each.outcome_height for each in succeeded if each.outcome_height is not None]
    header = view.header_at(min(heights)) if heights else None
    return -1 if header is None else header.time_ms
