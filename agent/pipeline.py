"""The deciding half of the pipeline: from bytes to "may be applied, and this is what would change", without changing anything.

::

    admit              size; the replica is fresh, not rolled back, not split   ERROR_MALFORMED_PATCH, ERROR_STALE_REPLICA
    verify-signature   bytes ──────────▶ SignedPatch                           ERROR_INVALID_SIGNATURE, ERROR_MALFORMED_PATCH
    extract-metadata   SignedPatch ────▶ DescribedPatch                        ERROR_INVALID_METADATA
    verify-identities  author and attestors on the ledger at one height        ERROR_INVALID_DEVELOPER
    validate-metadata  DescribedPatch ─▶ VerifiedPatch; ledger and target      ERROR_INVALID_METADATA, ERROR_MALFORMED_PATCH
    policy             Facts ──────────▶ Decision                              ERROR_POLICY_DENIED
    plan               pre-images and post-images in memory                    ERROR_APPLY_FAILED

A rollback takes the same steps with the file that the target keeps; what its author and attestors are worth today is named, but decides
nothing except through policy, and the plan is the opposite of the patch.

The first failure ends it. Everything is read at one ledger height from the replica on this host: nothing here waits for a network.

Source: docs/spec/agent.md 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from agent.clock_watch import check_clock
from agent.context import HostFacts, build_facts
from agent.decision import Decision, make_decision
from agent.errors import PolicyRefusedError
from agent.facts import ACTION_APPLY, ACTION_ROLLBACK, AuthorFacts, Facts, Requester
from agent.file_flags import FlagMemory
from agent.highwater import HighWater, check_replica
from agent.hooks import check_programs
from agent.host_checks import check_host
from agent.identities import (
    Verdicts,
    check_author,
    count_damaged,
    describe_file_attestations,
    is_sealed,
    judge_attestations,
)
from agent.inventory import Inventory
from agent.plan import Plan, make_plan, make_reverse_plan
from agent.policy import RULE_ERROR, Verdict
from agent.policy_cache import PolicyCache
from agent.progress import FILES, KIBIBYTES, Tracker
from agent.results import StepName, StepResult
from agent.rollback import ReadPatch, check_newest, height_of, known_author, tree_before
from agent.rollout import find_emergencies, find_rollout
from agent.split_views import SplitViews
from agent.standby import names_in_standby
from agent.statements import payloads_of
from agent.target import TargetConfig, TargetState
from agent.turns import check_turn
from agent.validation import check_applicable, check_published
from ledger.limits import DECISION_BYTES_MAX
from ledger.records import PatchRecord
from ledger.state import StateView
from provenance.errors import MalformedPatchError
from provenance.verify import (
    DescribedPatch,
    SignedPatch,
    VerifiedPatch,
    check_metadata,
    check_signature_untrusted,
    extract_metadata,
)
from wire import canonical_json
from wire.errors import MalformedError, PatchwardenError, RejectedError, UnavailableError
from wire.hashing import Digest
from wire.limits import KIBIBYTE, PATCH_FILE_BYTES_MAX

_DOING: Final = {
    StepName.ADMIT: "admitting the patch",
    StepName.VERIFY_SIGNATURE: "verifying the signature",
    StepName.EXTRACT_METADATA: "reading the metadata",
    StepName.VERIFY_IDENTITIES: "verifying the identities",
    StepName.VALIDATE_METADATA: "validating the metadata",
    StepName.POLICY: "asking the policy",
    StepName.PLAN: "planning",
}
"""What each step is doing, for a person who waits."""


def no_patch(patch_id: str) -> None:
    """Return that no file of an installed patch is at hand."""
    del patch_id


@dataclass(frozen=True, slots=True)
class Case:
    """One patch file for one target at one moment."""

    data: bytes
    """The whole patch file; untrusted."""
    requester: Requester
    view: StateView
    """The replica at one height."""
    mark: HighWater | None
    """The highest block acted on so far."""
    split_views: SplitViews
    """What was settled on this host."""
    split_heights: frozenset[int]
    """Heights at which this node has found two certified histories."""
    host: HostFacts
    now_ms: int
    """The host's clock, milliseconds since the epoch, UTC."""
    config: TargetConfig
    state: TargetState
    inventory: Inventory
    """The target as it is."""
    root_fd: int
    """The target's root, open."""
    look: Callable[[Iterable[bytes]], Inventory]
    """Returns the target as it is now, at these paths for certain; raises what reading a target raises."""
    policies: PolicyCache
    action: str = ACTION_APPLY
    """`ACTION_APPLY` or `ACTION_ROLLBACK`."""
    clock_step_ms: int = 0
    """By how much the host's clock has jumped, milliseconds (`agent.clock_watch`)."""
    flags: FlagMemory = field(default_factory=FlagMemory)
    """What is known of the flags of the target's files."""
    read_patch: ReadPatch = no_patch
    """The files of installed patches; only a rollback asks."""
    tracker: Tracker = field(default_factory=Tracker)
    """Told how far it is."""


@dataclass(slots=True)
class Judged:
    """How far a case came, and what was learnt on the way. Filled step by step by `judge`, then only read."""

    steps: list[StepResult] = field(default_factory=list)
    """Every step taken, in order."""
    error: PatchwardenError | None = None
    """What ended it, or None when the patch may be applied."""
    patch_id: str = ""
    """64 hexadecimal digits, once the body could be read."""
    patch: VerifiedPatch | None = None
    decision: Decision | None = None
    plan: Plan | None = None
    mark: HighWater | None = None
    """The block that the decision stands on."""
    tree_after: Digest | None = None
    """What the tree digest becomes by the plan, 32 bytes."""
    inventory: Inventory | None = None
    """The tree that was judged."""
    state: TargetState | None = None
    """The target's recorded state then."""
    action: str = ACTION_APPLY
    """What was asked for."""
    restores: Digest | None = None
    """Tree digest that a rollback must give, where it is known."""


def judge(case: Case) -> Judged:
    """Return how the case ends before anything is changed; the file system, the ledger and the case are as before.

    Raises:
        CorruptionError: The replica's own data are damaged.
    """
    judged = Judged(inventory=case.inventory, state=case.state, action=case.action)
    run = (_Rollback if case.action == ACTION_ROLLBACK else _Run)(case, judged)
    for step, check in run.steps():
        case.tracker.begin(step.value, _DOING[step])
        try:
            message = check()
        except (RejectedError, UnavailableError) as error:
            judged.error = error
            judged.steps.append(StepResult(step, False, error.code, error.message))
            return judged
        judged.steps.append(StepResult(step, True, "", message))
    return judged


class _Run:
    """One run through the steps; each leaves what the next one needs."""

    def __init__(self, case: Case, judged: Judged) -> None:
        self._case = case
        self._judged = judged
        self._signed: SignedPatch
        self._described: DescribedPatch
        self._record: PatchRecord | None = None
        self._author: AuthorFacts
        self._verdicts: Verdicts
        # The host's clock may be behind, but never before what the network has certified.
        self._now_ms = max(case.now_ms, case.view.header.time_ms)

    def steps(self) -> tuple[tuple[StepName, Callable[[], str]], ...]:
        return (
            (StepName.ADMIT, self._admit),
            (StepName.VERIFY_SIGNATURE, self._verify_signature),
            (StepName.EXTRACT_METADATA, self._extract_metadata),
            (StepName.VERIFY_IDENTITIES, self._verify_identities),
            (StepName.VALIDATE_METADATA, self._validate_metadata),
            (StepName.POLICY, self._decide),
            (StepName.PLAN, self._plan),
        )

    def _admit(self) -> str:
        case = self._case
        if len(case.data) > PATCH_FILE_BYTES_MAX:
            raise MalformedPatchError(
                "agent.admit.too_large",
                "the patch file is too large",
                expected=f"at most {PATCH_FILE_BYTES_MAX} bytes",
                actual=len(case.data),
            )
        host = case.host
        self._judged.mark = check_replica(
            case.view, case.mark, host.replica_age_ms, host.replica_age_ms_max, case.now_ms
        )
        check_clock(case.clock_step_ms)
        case.split_views.check_settled(case.split_heights, case.view)
        return f"{len(case.data)} bytes; replica at height {self._judged.mark.height}, {host.replica_age_ms} ms old"

    def _verify_signature(self) -> str:
        self._signed = check_signature_untrusted(self._case.data)
        self._judged.patch_id = self._signed.file.patch_id
        self._case.tracker.name_patch(self._judged.patch_id)
        return f"body and diff are signed by {self._signed.author_key.did}"

    def _extract_metadata(self) -> str:
        self._described = extract_metadata(self._signed)
        return self._described.metadata.reason_for_patch.title

    def _verify_identities(self) -> str:
        view, patch_id = self._case.view, bytes.fromhex(self._judged.patch_id)
        self._record = view.patch(patch_id)
        creator = self._described.metadata.creator_identity
        self._author = check_author(view, self._described.signed.author_key, creator, self._record)
        payloads = payloads_of(self._described.signed.envelopes)
        self._verdicts = judge_attestations(view, patch_id, self._author, payloads)
        approvals, rejections = self._verdicts.approvals, self._verdicts.rejections
        return (
            f"author {self._author.identity}; {len(approvals)} approvals and {len(rejections)} rejections count, "
            f"{len(self._verdicts.set_aside)} are set aside"
        )

    def _validate_metadata(self) -> str:
        patch = self._check_metadata()
        record = check_published(patch, self._record)
        check_turn(self._case.view, self._case.host.identity, record.patch_id)
        check_applicable(patch, self._case.state, self._now_ms)
        self._judged.patch = patch
        self._look(patch)
        return f"published at height {record.published_height}, release counter {patch.metadata.release_counter}"

    def _decide(self) -> str:
        case, patch = self._case, self._verified()
        facts = build_facts(
            action=case.action,
            now_ms=self._now_ms,
            height=case.view.height,
            author=self._author,
            patch=patch,
            verdicts=self._verdicts,
            rollout=find_rollout(case.view, bytes.fromhex(patch.patch_id)),
            emergencies=find_emergencies(case.view, case.state.installed),
            sealed=is_sealed(case.view, patch, self._author),
            attestations_damaged=count_damaged(patch),
            requester=case.requester,
            host=case.host,
            config=case.config,
            state=case.state,
            inventory=self._inventory(),
        )
        policy = case.view.policy()
        set_aside = (*self._verdicts.set_aside, *describe_file_attestations(case.view, patch))
        verdict = self._evaluate(facts)
        decision = make_decision(verdict, facts, set_aside, policy.version, policy.policy_hash)
        _check_size(decision)
        self._judged.decision = decision
        if not decision.is_allowed:
            raise PolicyRefusedError(
                f"agent.policy.{decision.forbidden_by[0][0]}",
                decision.sentence(),
                hint="; ".join(decision.missing),
                details={"rules": ", ".join(rule for rule, _ in decision.forbidden_by)},
            )
        return decision.sentence()

    def _evaluate(self, facts: Facts) -> Verdict:
        try:
            engine = self._case.policies.get(self._case.view.policy())
        except PolicyRefusedError as error:
            return Verdict(False, (), ((RULE_ERROR, f"the policy set cannot be used: {error.message}"),), ())
        return engine.evaluate(facts)

    def _plan(self) -> str:
        self._check_hooks()
        case, patch = self._case, self._verified()
        plan = make_plan(
            patch,
            case.root_fd,
            self._inventory(),
            case.config.allowed,
            self._count_planned(patch),
            own_names=partial(names_in_standby, case.config),
        )
        self._check_host(plan)
        self._judged.plan = plan
        return f"{len(plan.changes)} paths change; every pre-image and post-image is as signed"

    def _check_metadata(self) -> VerifiedPatch:
        tracker, size = self._case.tracker, self._described.metadata.patch_diff.size_bytes
        tracker.begin(StepName.VALIDATE_METADATA, "reading the diff", size // KIBIBYTE, KIBIBYTES)
        return check_metadata(self._described, lambda done: tracker.reach(done // KIBIBYTE))

    def _look(self, patch: VerifiedPatch) -> Inventory:
        """Return the target as it is where the patch reads and writes; what follows decides on that."""
        self._case.tracker.begin(StepName.VALIDATE_METADATA, "looking at the target")
        self._judged.inventory = self._case.look(path.encode() for path in patch.diff.reads)
        return self._judged.inventory

    def _inventory(self) -> Inventory:
        assert self._judged.inventory is not None, "validation has looked"
        return self._judged.inventory

    def _count_planned(self, patch: VerifiedPatch) -> Callable[[int], None]:
        """Begin to count what is planned, and return where the count is told."""
        tracker = self._case.tracker
        tracker.begin(StepName.PLAN, "planning", len(patch.diff.files), FILES)
        return tracker.reach

    def _check_host(self, plan: Plan) -> None:
        case = self._case
        check_host(case.config, case.root_fd, plan, self._inventory(), case.flags)

    def _check_hooks(self) -> None:
        config = self._case.config
        check_programs(config.hooks, (config.root,))

    def _verified(self) -> VerifiedPatch:
        assert self._judged.patch is not None, "validation comes before"
        return self._judged.patch


class _Rollback(_Run):
    """One run through the steps of a rollback. A patch whose author or attestors have fallen may be undone all the same."""

    def _verify_identities(self) -> str:
        view, patch_id = self._case.view, bytes.fromhex(self._judged.patch_id)
        self._record = view.patch(patch_id)
        self._author = known_author(view, self._record)
        self._verdicts = judge_attestations(view, patch_id, self._author, payloads_of(self._described.signed.envelopes))
        return f"the patch is by {self._author.identity}"

    def _validate_metadata(self) -> str:
        case, patch = self._case, self._check_metadata()
        installed = check_newest(case.state, patch.patch_id, case.read_patch)
        self._judged.patch = patch
        self._judged.restores = tree_before(case.view, installed, self._look(patch).tree_digest)
        height = height_of(case.view, case.host.identity, case.config.name, installed)
        since = "installed, not yet on the ledger" if height is None else f"installed since height {height}"
        return f"{since}, and no other patch stands on it"

    def _plan(self) -> str:
        self._check_hooks()
        patch = self._verified()
        own_names = partial(names_in_standby, self._case.config)
        plan = make_reverse_plan(
            patch, self._case.root_fd, self._inventory(), self._count_planned(patch), own_names=own_names
        )
        self._check_host(plan)
        self._judged.plan = plan
        return f"{len(plan.changes)} paths go back; every one is what the patch made of it"


def encode_decision(decision: Decision) -> bytes:
    """Return the canonical JSON of a decision, as it goes into an intent."""
    return canonical_json.encode(decision.to_json())


def _check_size(decision: Decision) -> None:
    """Refuse facts that no intent can carry: a decision that cannot be recorded must not be acted on."""
    try:
        size = len(encode_decision(decision))
    except MalformedError as error:
        raise PolicyRefusedError("agent.policy.facts", f"the facts cannot be recorded: {error.message}") from error
    if size > DECISION_BYTES_MAX:
        raise PolicyRefusedError(
            "agent.policy.facts_too_large",
            "the decision and its facts are too large to be recorded",
            expected=f"at most {DECISION_BYTES_MAX} bytes",
            actual=size,
            hint="split the patch",
        )
