"""The facts of a decision, gathered from what the steps before have proven and from the target as it is.

Source: docs/spec/policy.md 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import MetadataRefusedError
from agent.facts import (
    ACTION_APPLY,
    AuthorFacts,
    ComponentFacts,
    EmergencyFacts,
    Facts,
    PatchFacts,
    PathsDigest,
    Requester,
    RolloutFacts,
    SystemFacts,
)
from agent.identities import Verdicts
from agent.inventory import Inventory
from agent.limits import COMPONENTS_DECIDED_MAX
from agent.maintenance import is_window_open
from agent.target import TargetConfig, TargetState
from provenance.component_listing import component_paths
from provenance.diff_lint import find_hidden_text
from provenance.metadata import PatchMetadata
from provenance.timestamp import seconds_from_timestamp
from provenance.verify import VerifiedPatch


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the host knows about itself at the moment of a decision."""

    identity: str
    """The host's identity id."""
    group: str
    """The group its configuration names, or ""."""
    replica_age_ms: int
    replica_age_ms_max: int
    records_waiting: int
    unacknowledged_intents: int = 0


def build_facts(
    *,
    now_ms: int,
    height: int,
    author: AuthorFacts,
    patch: VerifiedPatch,
    verdicts: Verdicts,
    rollout: RolloutFacts,
    emergencies: tuple[EmergencyFacts, ...],
    sealed: bool,
    attestations_damaged: int,
    requester: Requester,
    host: HostFacts,
    config: TargetConfig,
    state: TargetState,
    inventory: Inventory,
    action: str = ACTION_APPLY,
) -> Facts:
    """Return everything that policy may see about this patch on this target.

    Raises:
        MetadataRefusedError: ``agent.metadata.too_many_components``.
    """
    return Facts(
        now_ms=now_ms,
        height=height,
        author=author,
        patch=_patch_facts(patch, sealed=sealed, attestations_damaged=attestations_damaged),
        components=_component_facts(patch, config, state),
        approvals=verdicts.approvals,
        rejections=verdicts.rejections,
        statements=verdicts.statements,
        rollout=rollout,
        requester=requester,
        system=SystemFacts(
            host=host.identity,
            host_organisation=host.identity.partition("@")[2],
            host_group=host.group,
            target=config.name,
            tree_digest=inventory.tree_digest.hex(),
            drifted=inventory.tree_digest != state.tree_digest,
            frozen=config.frozen,
            in_maintenance_window=is_window_open(config.windows, now_ms),
            installed=tuple(each.patch_id for each in state.installed),
            emergencies=emergencies,
            replica_age_ms=host.replica_age_ms,
            replica_age_ms_max=host.replica_age_ms_max,
            records_waiting=host.records_waiting,
            unacknowledged_intents=host.unacknowledged_intents,
        ),
        action=action,
    )


def describe_patch(
    patch_id: str, metadata: PatchMetadata, *, sealed: bool, attestations_damaged: int, hidden_text: tuple[str, ...]
) -> PatchFacts:
    """Return the facts about a patch: what its author signed, and the three that only the file shows."""
    return PatchFacts(
        id=patch_id,
        created_ms=seconds_from_timestamp(metadata.creation_timestamp) * 1000,
        category=metadata.reason_for_patch.category.value,
        references=metadata.reason_for_patch.references,
        release_counter=metadata.release_counter,
        supersedes=metadata.supersedes,
        prerequisites=metadata.prerequisites,
        files=metadata.patch_diff.files,
        lines_added=metadata.patch_diff.lines_added,
        lines_removed=metadata.patch_diff.lines_removed,
        environment_digest=metadata.build_environment.sha256,
        tests_digest=metadata.validation_tests.sha256,
        tests_count=metadata.validation_tests.count,
        sealed=sealed,
        attestations_damaged=attestations_damaged,
        hidden_text=hidden_text,
    )


def describe_components(metadata: PatchMetadata) -> dict[str, tuple[tuple[str, ...] | PathsDigest, tuple[str, ...]]]:
    """Return paths and kinds of change, sorted, for each component that the author's metadata name; sorted by name.

    Of a wide patch the paths are given as its statement gives them, by number and digest: so they are known without its file, too.
    """
    if metadata.component_summary is not None:
        return {
            share.name: (PathsDigest(share.paths, share.paths_sha256), share.changes)
            for share in metadata.component_summary.shares
        }
    changes: dict[str, set[str]] = {}
    for component in metadata.affected_components:
        changes.setdefault(component.name, set()).add(component.change.value)
    return {
        name: (paths, tuple(sorted(changes[name])))
        for name, paths in component_paths(metadata.affected_components).items()
    }


def _patch_facts(patch: VerifiedPatch, *, sealed: bool, attestations_damaged: int) -> PatchFacts:
    return describe_patch(
        patch.patch_id,
        patch.metadata,
        sealed=sealed,
        attestations_damaged=attestations_damaged,
        hidden_text=tuple(sorted(rule.value for rule in find_hidden_text(patch.diff))),
    )


def _component_facts(patch: VerifiedPatch, config: TargetConfig, state: TargetState) -> tuple[ComponentFacts, ...]:
    components = describe_components(patch.metadata)
    if len(components) > COMPONENTS_DECIDED_MAX:
        raise MetadataRefusedError(
            "agent.metadata.too_many_components",
            "the patch names too many different components to decide on",
            expected=f"at most {COMPONENTS_DECIDED_MAX}",
            actual=len(components),
        )
    every_path = component_paths(patch.metadata.affected_components)
    return tuple(
        ComponentFacts(
            name=name,
            paths=every_path[name],
            paths_digest=paths if isinstance(paths, PathsDigest) else None,
            changes=changes,
            listed=config.carries(name),
            installed_counter=state.counter(name),
        )
        for name, (paths, changes) in components.items()
    )
