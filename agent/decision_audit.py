"""A recorded decision, judged again from the ledger alone: what it claims against what the ledger says that it must be.

A decision names a height and carries its facts. Two moments judge it: the ledger as it stood *after the block of that height* (policy,
author, attestations, rollout: `judge_at_height`), and the place where its record stands (`judge_at_place`: whose record it is, what the
host had recorded before). Some facts only the host can know, such as its maintenance windows; they are taken as they are, and what policy
says about them is evaluated again.

==========================  ==============================================================================================
code                        what differs
==========================  ==============================================================================================
``agent.replay.form``       the decision cannot be read
``agent.replay.height``     its height is not below the record's, below an earlier decision's about that target, or does not fit its times
``agent.replay.subject``    it is about another host, target, patch or tree than the record that carries it
``agent.replay.result``     an application that it denies was announced, a refusal by policy that it allows was told, or what came of it
                            is not what it is about
``agent.replay.date``       the ledger had heard of it much later than it was taken, and the host says that it waited for the ledger
``agent.replay.applicable`` time, or what the target had by its own facts, speaks against the patch
``agent.replay.policy``     another policy set was in force at its height
``agent.replay.verdict``    that set says something else about its facts
``agent.replay.facts``      the ledger says something else at that height; the member is named
==========================  ==============================================================================================

Source: docs/spec/audit.md 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agent.context import describe_components, describe_patch
from agent.decision import ENGINE, Decision, facts_alone
from agent.errors import DeveloperRefusedError, MetadataRefusedError, PolicyRefusedError
from agent.facts import ACTION_APPLY, ACTION_ROLLBACK, AuthorFacts, Facts, RolloutFacts, StatementFacts
from agent.identities import check_author, judge_attestations
from agent.limits import DECISION_AGE_MS_MAX, FACT_ITEMS_MAX
from agent.policy import RULE_ERROR, Verdict
from agent.policy_cache import PolicyCache
from agent.results import ResultCode
from agent.rollback import known_author
from agent.rollout import find_emergencies
from agent.target import Installed
from agent.validation import check_history
from ledger.block import Header
from ledger.keyspace import Reader
from ledger.records import PatchRecord, PolicySet
from ledger.rules_host import EFFECTIVE, ROLLED_BACK
from ledger.state import StateView
from provenance.metadata import PatchMetadata
from wire.errors import show_value
from wire.hashing import Digest

AGE_SLACK_MS: Final = 10_000
"""How far a replica's recorded age may lie below what height and time say: block and clock are read one after the other."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which a decision is not what the ledger says that it must be."""

    code: str
    """``agent.replay.*``."""
    message: str
    """One sentence."""
    member: str = ""
    """Which member of the decision, such as ``facts.approvals``; "" for the whole."""
    recorded: str = ""
    """What the decision says."""
    derived: str = ""
    """What the ledger says."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "code": self.code,
            "message": self.message,
            "member": self.member,
            "recorded": self.recorded,
            "derived": self.derived,
        }


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """Changes of a target that its host has told, and that have no record: the ledger refused them after they were made without it.

    A decision that was taken after one of them may know it. When each was made, nobody can tell from the ledger.
    """

    patches: frozenset[str] = frozenset()
    """Ids of the patches that were applied or undone."""
    counters: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Their release counters by component."""
    trees: frozenset[bytes] = frozenset()
    """Digests of the trees that came of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """The record that carries a decision, and what its host had recorded before it."""

    height: int
    """Height of its block."""
    host: str | None
    """Identity that signed it, or None where the ledger knows no such key."""
    target: str
    patch_id: bytes
    tree_before: bytes
    result: str | None
    """Of an outcome without an intent; None for an intent."""
    height_before: int
    """The highest height that an earlier decision of this host about this target named; 0 before the first."""
    installed: tuple[str, ...] | None
    """Ids of the patches that this target had by the records before, in order; None where the ledger keeps not all of them."""
    counters: Mapping[str, int]
    """The highest release counter of each component that was applied to this target before."""
    tree: bytes | None
    """The tree that the last record before explains, or None where none did."""
    unrecorded: Unrecorded = Unrecorded()
    """What changed the target without a record, at any time."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A decision whose intent stands on the ledger, as far as its outcome has to fit it."""

    action: str
    """What it decided on: `ACTION_APPLY` or `ACTION_ROLLBACK`."""
    block_ms: int
    """Time of the block with its intent."""
    latest_ms: int | None
    """The latest block time at which it can have been taken (`agent.decision.latest_moment`); None where its height cannot be read."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger keeps beside its state about the patch of a decision, up to the height that it names."""

    metadata: PatchMetadata | None
    """What the author signed; None when it was not published then."""
    payloads: Mapping[bytes, bytes]
    """Recorded statements by digest."""
    rollout: RolloutFacts | None
    """How far the patch had come then; None where that cannot be told."""
    alone: int = 0
    """How many changes without the ledger's acknowledgement the outcome tells, this one included; 0 where the host waited."""


class PastView(StateView):
    """The state after one block, during a replay that keeps no history.

    Args:
        reader: The state.
        header: The block's header.
        headers: Headers of earlier blocks, as far as anybody asks for them.
    """

    __slots__ = ("_header", "_headers")

    def __init__(self, reader: Reader, header: Header, headers: Mapping[int, Header]) -> None:
        super().__init__(reader)
        self._header = header
        self._headers = headers

    @property
    def header(self) -> Header:
        """The block's header."""
        return self._header

    @property
    def height(self) -> int:
        """The block's height."""
        return self._header.height

    def header_at(self, height: int) -> Header | None:
        """Return the header of an earlier block, or None where it was not kept."""
        return self._header if height == self._header.height else self._headers.get(height)


def judge_at_height(decision: Decision, view: PastView, known: Known, policies: PolicyCache) -> list[Difference]:
    """Return in what a decision differs from the ledger after the block of its height.

    Where rules look at the paths of a wide patch, which stand in its file, its verdict is not judged: `is_verdict_judged` tells.

    Args:
        decision: It names that height.
        view: The ledger then.
        known: What the state does not hold.
        policies: Checked policy sets.
    """
    found: list[Difference] = []
    policy = view.policy()
    if (decision.policy_version, decision.policy_hash) != (policy.version, policy.policy_hash):
        found.append(
            Difference(
                "agent.replay.policy",
                "another policy set was in force at that height",
                "policy_hash",
                f"version {decision.policy_version}, {decision.policy_hash.hex()}",
                f"version {policy.version}, {policy.policy_hash.hex()}",
            )
        )
    if not is_verdict_judged(decision, view, policies):
        return [*found, *_compare_facts(decision.facts, view, known), *_compare_times(decision, view)]
    try:
        verdict = policies.get(policy).evaluate(decision.facts)
    except PolicyRefusedError as error:
        verdict = Verdict(False, (), ((RULE_ERROR, f"the policy set cannot be used: {error.message}"),), ())
    said = (decision.is_allowed, decision.allowed_by, decision.forbidden_by, decision.missing)
    if said != (verdict.allowed, verdict.allowed_by, verdict.forbidden_by, verdict.missing):
        other = "" if decision.engine == ENGINE else f"; it was evaluated by {decision.engine}, here by {ENGINE}"
        found.append(
            Difference(
                "agent.replay.verdict",
                f"the policy set of that height says something else about these facts{other}",
                "verdict",
                show_value(decision.sentence()),
                show_value(_sentence(verdict)),
            )
        )
    if known.alone and not _allows_alone(decision.facts, known.alone, policy, policies):
        sentence = "the policy set of that height does not let a host go on without the ledger's acknowledgement"
        found.append(Difference("agent.replay.verdict", sentence, "unacknowledged", str(known.alone), "deny"))
    return [*found, *_compare_facts(decision.facts, view, known), *_compare_times(decision, view)]


def is_verdict_judged(decision: Decision, view: PastView, policies: PolicyCache) -> bool:
    """Return False where the rules look at the paths of a wide patch, which its record does not hold."""
    try:
        return policies.get(view.policy()).can_judge(decision.facts)
    except PolicyRefusedError:
        return True  # a set that cannot be used is a finding


def judge_at_place(decision: Decision, place: Place) -> list[Difference]:
    """Return in what a decision does not fit the record that carries it, and what its host had recorded before."""
    found: list[Difference] = []
    facts = decision.facts
    if decision.height >= place.height:
        found.append(_height("its height is not below that of its record", decision.height, f"below {place.height}"))
    if decision.height < place.height_before:
        sentence = "an earlier decision of this host about this target was taken at a higher height"
        found.append(_height(sentence, decision.height, f"{place.height_before} or more"))
    for member, recorded, derived in (
        ("facts.system.host", facts.system.host, place.host or "a key that nobody has"),
        ("facts.system.target", facts.system.target, place.target),
        ("facts.patch.id", facts.patch.id, place.patch_id.hex()),
        ("facts.system.tree_digest", facts.system.tree_digest, place.tree_before.hex()),
    ):
        if recorded != derived:
            sentence = "it is about something else than the record that carries it"
            found.append(
                Difference("agent.replay.subject", sentence, member, show_value(recorded), show_value(derived))
            )
    found += _compare_result(decision, place)
    return [*found, *_compare_target(facts, place)]


def _compare_target(facts: Facts, place: Place) -> list[Difference]:
    """Return in what the target is not what the records before have come to, except for what its host has told to be without a record."""
    found: list[Difference] = []
    if place.installed is not None:
        untold = place.unrecorded.patches
        said, known = (
            tuple(each for each in patches if each not in untold)
            for patches in (facts.system.installed, place.installed)
        )
        if said != known:
            found.append(_facts("facts.system.installed", facts.system.installed, place.installed))
    for component in facts.components:
        highest = place.counters.get(component.name, -1)
        untold_counters = place.unrecorded.counters.get(component.name, frozenset())
        if component.installed_counter <= highest or component.installed_counter not in untold_counters:
            member = f"facts.components.{component.name}.installed_counter"
            found += _compare(member, component.installed_counter, highest)
    # Of a tree that such a change made, a host says that it has not drifted.
    if place.tree is not None and (facts.system.drifted or place.tree_before not in place.unrecorded.trees):
        found += _compare("facts.system.drifted", facts.system.drifted, place.tree != place.tree_before)
    return found


def judge_outcome(announced: Announced, result: str, *, is_alone: bool) -> list[Difference]:
    """Return in what a decision does not fit what came of it.

    Only a change is judged: what was announced and came to nothing may have waited in a host that was cut off.

    Args:
        announced: The decision.
        result: The result of the outcome that closes its intent.
        is_alone: Whether the host says that it went on without the ledger's acknowledgement: when it did so, nobody else can tell.
    """
    if result not in EFFECTIVE:
        return []
    found: list[Difference] = []
    action = ACTION_ROLLBACK if result == ROLLED_BACK else ACTION_APPLY
    if announced.action != action:
        sentence = f"it was announced as another action than its outcome {result} tells"
        found.append(Difference("agent.replay.result", sentence, "facts.action", announced.action, action))
    late_ms = 0 if announced.latest_ms is None else announced.block_ms - announced.latest_ms
    if late_ms > DECISION_AGE_MS_MAX and not is_alone:
        sentence = (
            "its intent came to the ledger much later than it was taken, and the host says that it waited for that"
        )
        expected = f"a block of at most {DECISION_AGE_MS_MAX} ms later"
        found.append(Difference("agent.replay.date", sentence, "facts.now_ms", f"{late_ms} ms before", expected))
    return found


def _allows_alone(facts: Facts, count: int, policy: PolicySet, policies: PolicyCache) -> bool:
    try:
        return policies.get(policy).evaluate(facts_alone(facts, count)).allowed
    except PolicyRefusedError:
        return False


def _compare_result(decision: Decision, place: Place) -> list[Difference]:
    if place.result is None and not decision.is_allowed:
        sentence = "an application was announced that this decision denies"
        return [Difference("agent.replay.result", sentence, "verdict", "deny", "allow")]
    if place.result == ResultCode.POLICY_DENIED.value and decision.is_allowed:
        sentence = "a refusal by policy was told that this decision allows"
        return [Difference("agent.replay.result", sentence, "verdict", "allow", "deny")]
    return []


def _compare_times(decision: Decision, view: PastView) -> list[Difference]:
    facts = decision.facts
    time_ms = view.header.time_ms
    if facts.now_ms < time_ms:
        return [_height("it was taken before the block of its height was made", facts.now_ms, f"{time_ms} ms or later")]
    age_ms = facts.now_ms - time_ms
    if facts.system.replica_age_ms < age_ms - AGE_SLACK_MS:
        sentence = "the block of its height was older than the replica is said to be"
        return [_height(sentence, f"{facts.system.replica_age_ms} ms", f"{age_ms} ms")]
    return []


def _compare_facts(facts: Facts, view: PastView, known: Known) -> list[Difference]:
    """Return which of the facts are not what the ledger says at that height."""
    try:
        patch_id = bytes.fromhex(facts.patch.id)
    except ValueError:
        patch_id = b""
    record, metadata = view.patch(patch_id), known.metadata
    if record is None or metadata is None:
        return [_facts("facts.patch.id", facts.patch.id, "not published at that height")]
    found: list[Difference] = []
    # What is installed may be undone whatever became of it.
    is_rollback = facts.action == ACTION_ROLLBACK
    if record.withdrawn_height is not None and not is_rollback:
        found.append(_facts("facts.patch.id", facts.patch.id, f"withdrawn at height {record.withdrawn_height}"))
    if record.superseded_by is not None and not is_rollback:
        found.append(_facts("facts.patch.id", facts.patch.id, f"superseded by {record.superseded_by.hex()}"))
    found += _judge_history(facts, metadata)
    derived_patch = describe_patch(
        facts.patch.id,
        metadata,
        sealed=facts.patch.sealed,
        attestations_damaged=facts.patch.attestations_damaged,
        hidden_text=facts.patch.hidden_text,
    )
    for name in derived_patch.__slots__:
        found += _compare(f"facts.patch.{name}", getattr(facts.patch, name), getattr(derived_patch, name))
    components = {each.name: (each.paths_digest or each.paths, each.changes) for each in facts.components}
    found += _compare("facts.components", components, describe_components(metadata))
    organisation = facts.system.host.partition("@")[2]
    found += _compare("facts.system.host_organisation", facts.system.host_organisation, organisation)
    found += _compare_people(facts, view, record, metadata, known.payloads)
    if known.rollout is not None:
        found += _compare_rollout(facts.rollout, known.rollout)
    installed = [Installed(each, 0, (), 0, "", 0) for each in facts.system.installed if _is_published(view, each)]
    emergencies = sorted(each.patch for each in find_emergencies(view, installed))
    found += _compare("facts.system.emergencies", sorted(each.patch for each in facts.system.emergencies), emergencies)
    return found


def _judge_history(facts: Facts, metadata: PatchMetadata) -> list[Difference]:
    """Return what its own facts say against going on; whether they are true, others tell."""
    installed = facts.system.installed
    if facts.action == ACTION_ROLLBACK:
        if facts.patch.id in installed:
            return []
        sentence = "the patch that is to be undone is not installed on this target"
        return [_not_applicable(sentence, facts.patch.id, "not installed")]
    counters = {each.name: each.installed_counter for each in facts.components}
    try:
        check_history(metadata, facts.patch.id, installed, lambda name: counters.get(name, -1), facts.now_ms)
    except MetadataRefusedError as error:
        return [_not_applicable(error.message, "goes on", error.code)]
    return []


def _not_applicable(sentence: str, recorded: str, derived: str) -> Difference:
    return Difference("agent.replay.applicable", sentence, "facts.patch.id", show_value(recorded), show_value(derived))


def _compare_people(
    facts: Facts, view: PastView, record: PatchRecord, metadata: PatchMetadata, payloads: Mapping[bytes, bytes]
) -> list[Difference]:
    try:
        is_rollback = facts.action == ACTION_ROLLBACK
        author = known_author(view, record) if is_rollback else _author(facts, view, record, metadata)
    except DeveloperRefusedError as error:
        return [_facts("facts.author", facts.author.identity, f"refused: {error.message}")]
    found = _compare("facts.author", facts.author, author)
    verdicts = judge_attestations(view, record.patch_id, author, payloads)
    found += _compare("facts.approvals", facts.approvals, verdicts.approvals)
    found += _compare("facts.rejections", facts.rejections, verdicts.rejections)
    statements = tuple(
        _as_unread(derived) if not recorded.readable else derived
        for recorded, derived in zip(facts.statements, verdicts.statements, strict=False)
    )
    found += _compare("facts.statements", facts.statements, statements + verdicts.statements[len(statements) :])
    return found


def _author(facts: Facts, view: PastView, record: PatchRecord, metadata: PatchMetadata) -> AuthorFacts:
    """Return who the author was; a node without the old headers takes the newest one's time for roles that are bound to one."""
    key_record = view.key(record.author_key_id)
    assert key_record is not None, "a published patch has a registered key"
    author = check_author(view, key_record.public_key, metadata.creator_identity, record)
    if author == facts.author:
        return author
    pruned = PastView(view._reader, view.header, {})
    try:
        without = check_author(pruned, key_record.public_key, metadata.creator_identity, record)
    except DeveloperRefusedError:
        return author
    return without if without == facts.author else author


def _compare_rollout(recorded: RolloutFacts, derived: RolloutFacts) -> list[Difference]:
    """Compare how far a patch had come. A node that pruned its history knows fewer hosts, and never more."""
    found = []
    for member, said, known in (
        ("succeeded", recorded.succeeded, derived.succeeded),
        ("failed", recorded.failed, derived.failed),
    ):
        if not set(said) <= set(known):
            found.append(_facts(f"facts.rollout.{member}", ", ".join(said), ", ".join(known)))
    is_same = recorded.succeeded == derived.succeeded
    first, known_first = recorded.first_success_ms, derived.first_success_ms
    if (is_same and first != known_first) or (first != -1 and first < known_first):
        found.append(_facts("facts.rollout.first_success_ms", first, known_first))
    return found


def rollout_of(ended: Sequence[tuple[str, bool, int, int]]) -> RolloutFacts:
    """Return how far a patch had come, as `agent.rollout.find_rollout` tells it.

    Args:
        ended: For each target, what its last application came to: host, whether it succeeded, height and time (ms) of the outcome's block.
    """
    succeeded = sorted((each for each in ended if each[1]), key=lambda each: (each[2], each[0]))
    failed = {host for host, is_success, _, _ in ended if not is_success}
    hosts = tuple(dict.fromkeys(host for host, _, _, _ in succeeded))
    first_ms = min(((height, time_ms) for _, _, height, time_ms in succeeded), default=(0, -1))[1]
    return RolloutFacts(hosts[:FACT_ITEMS_MAX], tuple(sorted(failed))[:FACT_ITEMS_MAX], first_ms)


def _as_unread(statement: StatementFacts) -> StatementFacts:
    """Return a statement as a node tells it that has only its record."""
    return StatementFacts(
        statement.identity,
        statement.organisation,
        statement.role,
        statement.predicate_type,
        statement.recorded_height,
        readable=False,
        findings=(),
        properties=(),
    )


def _is_published(view: PastView, patch_id: str) -> bool:
    try:
        return view.patch(Digest(bytes.fromhex(patch_id))) is not None
    except ValueError:
        return False


def _sentence(verdict: Verdict) -> str:
    if verdict.allowed:
        return f"allowed by {', '.join(verdict.allowed_by)}"
    return f"forbidden by {'; '.join(f'{rule}: {reason}' for rule, reason in verdict.forbidden_by)}"


def _compare(member: str, recorded: object, derived: object) -> list[Difference]:
    return [] if recorded == derived else [_facts(member, recorded, derived)]


def _facts(member: str, recorded: object, derived: object) -> Difference:
    sentence = "the ledger says something else at that height"
    return Difference("agent.replay.facts", sentence, member, show_value(_plain(recorded)), show_value(_plain(derived)))


def _height(sentence: str, recorded: object, derived: object) -> Difference:
    return Difference("agent.replay.height", sentence, "height", show_value(str(recorded)), show_value(str(derived)))


def _plain(value: object) -> str:
    """Return a fact for a person."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple | list):
        return ", ".join(_plain(each) for each in value) or "none"
    identity = getattr(value, "identity", None)
    if identity is not None:
        role = getattr(value, "role", "")
        roles = getattr(value, "roles", ())
        height = getattr(value, "recorded_height", None)
        about = f" as {role} at {height}" if role else f" with {', '.join(roles) or 'no role'}"
        return f"{identity}{about}"
    return str(value)
