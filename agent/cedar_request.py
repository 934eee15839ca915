"""Facts as Cedar requests: one for each component of the patch, with the entities that they name.

Pure. The names of types, attributes and actions are those of ``policies/schema.cedarschema``; Cedar checks every request against the
schema again, so a mistake here denies.

Source: docs/spec/policy.md 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from agent.errors import PolicyRefusedError
from agent.facts import AttestorFacts, ComponentFacts, Facts, PatchFacts, Requester, StatementFacts, SystemFacts
from agent.maintenance import moment_of_week
from provenance.predicates import PREDICATE_VULNS, SEVERITIES

CedarValue: TypeAlias = "bool | int | str | list[CedarValue] | dict[str, CedarValue]"
"""What Cedar's JSON form of a context or an attribute holds."""
CedarObject: TypeAlias = "dict[str, CedarValue]"

_KNOWN_SEVERITIES: Final = frozenset(SEVERITIES) - {"unknown"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CedarRequest:
    """One question to the policy engine."""

    component: str
    """The component that the request is about."""
    action: str
    """`ACTION_APPLY` or `ACTION_ROLLBACK`."""
    request: CedarObject
    """Principal, action, resource and context as Cedar's JSON."""
    entities: list[CedarObject]
    """Every entity that the request names, with attributes and parents."""


def cedar_requests(facts: Facts) -> tuple[CedarRequest, ...]:
    """Return one request for each component, in the order of the facts.

    Raises:
        PolicyRefusedError: ``agent.policy.facts`` when there is no component or a time is not one.
    """
    if not facts.components:
        raise PolicyRefusedError("agent.policy.facts", "facts.components must name at least one component")
    context = _context(facts)
    shared = _shared_entities(facts)
    return tuple(
        CedarRequest(
            component.name,
            facts.action,
            {
                "principal": _uid("Identity", facts.author.identity),
                "action": _uid("Action", facts.action),
                "resource": _uid("Component", _component_id(facts.system, component)),
                "context": context,
            },
            [*shared, _component_entity(facts.system, component)],
        )
        for component in facts.components
    )


def _context(facts: Facts) -> CedarObject:
    approvers = _distinct([each.identity for each in facts.approvals])
    organisations = _distinct([each.organisation for each in facts.approvals])
    weekday, minute = moment_of_week(facts.now_ms)
    return {
        "now": _time(facts.now_ms),
        "weekday": weekday,
        "minute_of_day": minute,
        "patch": _patch(facts.patch, facts.components),
        "approvers": [_reference("Identity", each) for each in approvers],
        "approver_count": len(approvers),
        "approver_organisations": [_reference("Organisation", each) for each in organisations],
        "approver_organisation_count": len(organisations),
        "approving_roles": list(_distinct([each.role for each in facts.approvals])),
        "approvers_in_several_roles": [_reference("Identity", each) for each in _in_several_roles(facts)],
        "rejecters": [_reference("Identity", each) for each in _distinct([one.identity for one in facts.rejections])],
        "statements": _statements(facts),
        "rollout": _rollout(facts),
        "requester": _requester(facts.requester),
        "system": _system(facts.system, facts.now_ms),
    }


def _in_several_roles(facts: Facts) -> tuple[str, ...]:
    roles: dict[str, set[str]] = {}
    for each in facts.approvals:
        roles.setdefault(each.identity, set()).add(each.role)
    return tuple(sorted(identity for identity, held in roles.items() if len(held) > 1))


def _statements(facts: Facts) -> CedarObject:
    """Return what statements amount to: what speaks for a patch from others than the author's organisation, findings from anybody."""
    independent = [each for each in facts.statements if each.organisation != facts.author.organisation]
    rejected = {(each.identity, each.role) for each in facts.rejections}
    vouching = [each for each in independent if (each.identity, each.role) not in rejected]
    scans = [each for each in independent if each.predicate_type == PREDICATE_VULNS and each.readable]
    unread = [each for each in facts.statements if each.predicate_type == PREDICATE_VULNS and not each.readable]
    worst: dict[str, str] = {}
    for each in facts.statements:
        for finding in each.findings:
            worst[finding.id] = max(worst.get(finding.id, finding.severity), finding.severity, key=_severity_rank)
    found = list(worst.values())
    return {
        "types": list(_distinct([each.predicate_type for each in vouching])),
        "properties": list(_distinct([name for each in vouching for name in each.properties])),
        "scanners": [_reference("Identity", each) for each in _distinct([each.identity for each in scans])],
        "scanner_count": len({each.identity for each in scans}),
        "findings": list(_distinct(list(worst))),
        "findings_critical": found.count("critical"),
        "findings_high": found.count("high"),
        "findings_medium": found.count("medium"),
        "findings_unknown": len(unread) + len([each for each in found if each not in _KNOWN_SEVERITIES]),
    }


def _severity_rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else 0


def _rollout(facts: Facts) -> CedarObject:
    rollout = facts.rollout
    since = -1 if rollout.first_success_ms < 0 else max(0, facts.now_ms - rollout.first_success_ms)
    return {
        "succeeded": [_reference("Host", each) for each in _distinct(list(rollout.succeeded))],
        "succeeded_count": len(set(rollout.succeeded)),
        "failed": [_reference("Host", each) for each in _distinct(list(rollout.failed))],
        "since_first_success_ms": since,
    }


def _patch(patch: PatchFacts, components: tuple[ComponentFacts, ...]) -> CedarObject:
    return {
        "id": patch.id,
        "created": _time(patch.created_ms),
        "category": patch.category,
        "references": list(patch.references),
        "release_counter": patch.release_counter,
        "supersedes": list(patch.supersedes),
        "prerequisites": list(patch.prerequisites),
        "components": [each.name for each in components],
        "files": patch.files,
        "lines_added": patch.lines_added,
        "lines_removed": patch.lines_removed,
        "environment_digest": patch.environment_digest,
        "tests_digest": patch.tests_digest,
        "tests_count": patch.tests_count,
        "sealed": patch.sealed,
        "attestations_damaged": patch.attestations_damaged,
        "hidden_text": list(patch.hidden_text),
    }


def _requester(requester: Requester) -> CedarObject:
    return {"name": requester.name, "roles": list(requester.roles), "channel": requester.channel}


def _system(system: SystemFacts, now_ms: int) -> CedarObject:
    oldest = min((each.applied_ms for each in system.emergencies), default=None)
    # Only where there are some: a schema of before this attribute then denies, because it does not know it.
    unacknowledged: CedarObject = (
        {"unacknowledged_intents": system.unacknowledged_intents} if system.unacknowledged_intents else {}
    )
    return {
        **unacknowledged,
        "organisation": _reference("Organisation", system.host_organisation),
        "tree_digest": system.tree_digest,
        "drifted": system.drifted,
        "frozen": system.frozen,
        "in_maintenance_window": system.in_maintenance_window,
        "installed": list(system.installed),
        "emergencies_unreviewed": list(_distinct([each.patch for each in system.emergencies])),
        "emergency_unreviewed_ms": -1 if oldest is None else max(0, now_ms - oldest),
        "replica_age_ms": system.replica_age_ms,
        "replica_age_ms_max": system.replica_age_ms_max,
        "records_waiting": system.records_waiting,
    }


def _shared_entities(facts: Facts) -> list[CedarObject]:
    system = facts.system
    people: dict[str, tuple[str, set[str]]] = {
        facts.author.identity: (facts.author.organisation, set(facts.author.roles))
    }
    attestors: tuple[AttestorFacts | StatementFacts, ...] = (*facts.approvals, *facts.rejections, *facts.statements)
    for attestor in attestors:
        _, roles = people.setdefault(attestor.identity, (attestor.organisation, set()))
        roles.add(f"attestor:{attestor.role}")
    other_hosts = {*facts.rollout.succeeded, *facts.rollout.failed} - {system.host}
    organisations = {organisation for organisation, _ in people.values()} | {system.host_organisation}
    organisations |= {_organisation_of(host) for host in other_hosts}
    all_roles = {role for _, roles in people.values() for role in roles}
    groups = [system.host_group] if system.host_group else []
    return [
        *(_entity("Organisation", name, {}, []) for name in sorted(organisations)),
        *(_entity("Role", role, {}, []) for role in sorted(all_roles)),
        *(_entity("HostGroup", group, {}, []) for group in groups),
        *(
            _entity(
                "Identity",
                identity,
                {"organisation": _reference("Organisation", organisation)},
                [_uid("Role", role) for role in sorted(roles)],
            )
            for identity, (organisation, roles) in sorted(people.items())
        ),
        _entity(
            "Host",
            system.host,
            {"organisation": _reference("Organisation", system.host_organisation)},
            [_uid("HostGroup", group) for group in groups],
        ),
        *(
            _entity("Host", host, {"organisation": _reference("Organisation", _organisation_of(host))}, [])
            for host in sorted(other_hosts)
        ),
        _entity("Target", _target_id(system), {"name": system.target}, [_uid("Host", system.host)]),
    ]


def _component_entity(system: SystemFacts, component: ComponentFacts) -> CedarObject:
    return _entity(
        "Component",
        _component_id(system, component),
        {
            "name": component.name,
            "listed": component.listed,
            "installed_counter": component.installed_counter,
            "paths": list(component.paths),
            "changes": list(component.changes),
        },
        [_uid("Target", _target_id(system))],
    )


def _organisation_of(identity: str) -> str:
    return identity.partition("@")[2]


def _target_id(system: SystemFacts) -> str:
    return f"{system.host}/{system.target}"


def _component_id(system: SystemFacts, component: ComponentFacts) -> str:
    return f"{_target_id(system)}/{component.name}"


def _entity(kind: str, name: str, attributes: CedarObject, parents: list[CedarObject]) -> CedarObject:
    return {"uid": _uid(kind, name), "attrs": attributes, "parents": list(parents)}


def _uid(kind: str, name: str) -> CedarObject:
    return {"type": kind, "id": name}


def _reference(kind: str, name: str) -> CedarValue:
    return {"__entity": _uid(kind, name)}


def _time(milliseconds: int) -> CedarValue:
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise PolicyRefusedError("agent.policy.facts", "a time lies after the year 9999") from None
    text = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    return {"__extn": {"fn": "datetime", "arg": text}}


def _distinct(values: list[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))
