"""The facts of one decision: everything that policy may see, as values that can be written down and judged again.

A `Facts` is made by `agent.context` from a verified patch, the ledger at one height and the target; it travels inside the decision onto
the ledger, so that an auditor can evaluate the same policies over the same facts years later (`facts_from_json_untrusted`). Nothing here
decides, reads a clock or knows Cedar.

Source: docs/spec/policy.md 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, TypeAlias

from agent.errors import PolicyRefusedError
from agent.limits import COMPONENTS_DECIDED_MAX, FACT_ITEMS_MAX, FACT_TEXT_BYTES_MAX
from provenance.component_listing import digest_paths
from wire.limits import JSON_INTEGER_MAX

FACTS_VERSION: Final = 2
ACTION_APPLY: Final = "apply_patch"
"""What is asked for: that the patch is applied."""
ACTION_ROLLBACK: Final = "rollback_patch"
"""What is asked for: that the patch, which is installed, is undone."""

Json: TypeAlias = "None | bool | int | str | list[Json] | dict[str, Json]"
"""What canonical JSON can hold."""


@dataclass(frozen=True, slots=True)
class AuthorFacts:
    """Who made the patch, from the ledger."""

    identity: str
    """Identity id, such as `alice@acme`."""
    organisation: str
    """Organisation name, such as `acme`."""
    roles: tuple[str, ...]
    """Every role the identity holds now, sorted."""


@dataclass(frozen=True, slots=True)
class AttestorFacts:
    """One verdict that counts: recorded on the ledger by somebody who may give it."""

    identity: str
    """Identity id of the attestor."""
    organisation: str
    """The attestor's organisation."""
    role: str
    """Attestation role without `attestor:`, such as `security-review`."""
    recorded_height: int
    """Height of the block that recorded it."""


@dataclass(frozen=True, slots=True)
class FindingFacts:
    """One vulnerability that a scan of this patch reports."""

    id: str
    """Such as `CVE-2026-0001`."""
    severity: str
    """`critical`, `high`, `medium`, `low`, `none`, or `unknown` where no score can be read."""


@dataclass(frozen=True, slots=True)
class StatementFacts:
    """One attestation that counts and is more than a review: a test result, a scan, a verification, or somebody's own kind.

    It stands beside `approvals` and `rejections`, which list it too where its kind says yes or no.
    """

    identity: str
    """Identity id of the attestor."""
    organisation: str
    """The attestor's organisation; it may be the author's."""
    role: str
    """Attestation role without `attestor:`, such as `vulnerability-scan`."""
    predicate_type: str
    """What kind of statement it is: a URI."""
    recorded_height: int
    """Height of the block that recorded it."""
    readable: bool
    """False where this node no longer has the statement itself, only its record."""
    findings: tuple[FindingFacts, ...]
    """What a scan found, in order of id."""
    properties: tuple[str, ...]
    """What a verifier vouches for, in order."""


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """What the ledger knows about this patch on all hosts."""

    succeeded: tuple[str, ...]
    """Hosts that recorded its application, the first one first."""
    failed: tuple[str, ...]
    """Hosts whose application was announced and recorded as failed or rolled back since; sorted."""
    first_success_ms: int
    """Time of the block with the first success, milliseconds since the epoch; -1 for none."""


@dataclass(frozen=True, slots=True)
class EmergencyFacts:
    """A patch that was let in by an emergency approval, and that nobody has reviewed since."""

    patch: str
    """Patch id."""
    applied_ms: int
    """When it was applied to this target, milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class PathsDigest:
    """What a record holds of the paths of a wide patch: they stand in its file."""

    count: int
    sha256: str
    """As the author's statement has it: `provenance.component_listing.digest_paths`, 64 hexadecimal digits."""

    @classmethod
    def of(cls, paths: Sequence[str]) -> PathsDigest:
        """Return the digest of sorted paths."""
        return cls(len(paths), digest_paths(paths))


@dataclass(frozen=True, slots=True)
class ComponentFacts:
    """One component that the patch names, on this target."""

    name: str
    """As the metadata names it."""
    paths: tuple[str, ...]
    """Touched paths of the component, sorted."""
    changes: tuple[str, ...]
    """Kinds of change to it, sorted: `add`, `copy`, `modify`, `delete`, `rename`."""
    listed: bool
    """Whether the target is configured to carry it."""
    installed_counter: int
    """Highest release counter applied to it on this target; -1 when none."""
    paths_digest: PathsDigest | None = None
    """Of a wide patch: what is recorded instead of the paths, which then are known only where the patch file is."""

    @property
    def lacks_paths(self) -> bool:
        """Return whether the paths were recorded by their digest, and not been looked up since."""
        return self.paths_digest is not None and len(self.paths) != self.paths_digest.count


@dataclass(frozen=True, slots=True)
class PatchFacts:
    """The patch itself, from its signed metadata."""

    id: str
    """SHA-256 of the body, 64 lower-case hexadecimal digits."""
    created_ms: int
    """Creation as the author says, milliseconds since the epoch, UTC."""
    category: str
    """`bug-fix`, `security-update` or `feature`."""
    references: tuple[str, ...]
    """CVE ids and URLs."""
    release_counter: int
    """The author's monotonic counter for these components."""
    supersedes: tuple[str, ...]
    """Patch ids that this one replaces."""
    prerequisites: tuple[str, ...]
    """Patch ids that must be installed before."""
    files: int
    """Files touched."""
    lines_added: int
    """`+` lines of the diff."""
    lines_removed: int
    """`-` lines of the diff."""
    environment_digest: str
    """SHA-256 of the build environment's document, hexadecimal."""
    tests_digest: str
    """SHA-256 of the test suite, hexadecimal."""
    tests_count: int
    """Tests in it."""
    sealed: bool
    """Whether the file ends with a release seal."""
    attestations_damaged: int
    """Trailer lines whose signature or binding does not hold."""
    hidden_text: tuple[str, ...]
    """How added lines hide something from a reader: values of `provenance.diff_lint.LintRule`, sorted."""


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks this host to apply the patch."""

    name: str
    """A local name, such as a login or `inbox`."""
    roles: tuple[str, ...]
    """Roles on this host, such as `operator`."""
    channel: str
    """`socket`, `rpc`, `inbox` or `automatic`."""


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """The state of the host and the target at the moment of the decision."""

    host: str
    """The host's identity id."""
    host_organisation: str
    """The host's organisation."""
    host_group: str
    """The group the host's configuration names, or ""."""
    target: str
    """The target's name."""
    tree_digest: str
    """Git tree id (SHA-256) of the target as it is, hexadecimal."""
    drifted: bool
    """Whether the tree differs from what the records explain."""
    frozen: bool
    """Whether an operator has frozen the target."""
    in_maintenance_window: bool
    """Whether now is inside a maintenance window; true without windows."""
    installed: tuple[str, ...]
    """Ids of the patches installed, in order."""
    emergencies: tuple[EmergencyFacts, ...]
    """Installed patches with an approval as `emergency` and none as `later-review`, the oldest first."""
    replica_age_ms: int
    """Milliseconds since the newest certified block."""
    replica_age_ms_max: int
    """What this host tolerates, milliseconds."""
    records_waiting: int
    """Records that wait for the ledger."""
    unacknowledged_intents: int = 0
    """Changes of this host whose intents the ledger has not got yet, this one included where it would go on without; see agent.md 7.3."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything one decision is made from."""

    now_ms: int
    """Milliseconds since the epoch, UTC; never before the time of the newest certified block."""
    height: int
    """Ledger height at which identities, attestations and policy were read."""
    author: AuthorFacts
    patch: PatchFacts
    components: tuple[ComponentFacts, ...]
    """One for each component name, sorted by name."""
    approvals: tuple[AttestorFacts, ...]
    """Approvals that count, in recorded order."""
    rejections: tuple[AttestorFacts, ...]
    """Rejections that count, in recorded order."""
    statements: tuple[StatementFacts, ...]
    """Other attestations than reviews that count, in recorded order."""
    rollout: RolloutFacts
    requester: Requester
    system: SystemFacts
    action: str = ACTION_APPLY
    """`ACTION_APPLY` or `ACTION_ROLLBACK`."""

    def to_json(self) -> dict[str, Json]:
        """Return the facts as plain values for canonical JSON; `facts_from_json_untrusted` reads them back."""
        document: dict[str, Json] = {"version": FACTS_VERSION}
        document.update(_plain(asdict(self)))
        if self.action == ACTION_APPLY:
            # As facts were written before there were rollbacks, so that there is one form for one meaning.
            del document["action"]
        document["components"] = [_recorded(each) for each in self.components]
        system = document["system"]
        if isinstance(system, dict) and self.system.unacknowledged_intents == 0:
            # Likewise, of before hosts could go on without the ledger.
            del system["unacknowledged_intents"]
        return document

    @property
    def lacks_paths(self) -> bool:
        """Return whether these facts were recorded without the paths of a wide patch: no rule can be evaluated then."""
        return any(component.lacks_paths for component in self.components)

    def with_paths(self, paths: Mapping[str, Sequence[str]]) -> Facts:
        """Return the facts with the paths of a wide patch.

        Args:
            paths: Of each component, sorted, from the patch's own file.

        Raises:
            PolicyRefusedError: ``agent.policy.facts`` when they are not the recorded ones.
        """
        components = []
        for component in self.components:
            own = tuple(paths.get(component.name, ()))
            if component.paths_digest is None:
                components.append(component)
                continue
            if PathsDigest.of(own) != component.paths_digest:
                raise _refuse("facts.components.paths", "are other ones than those that were recorded")
            components.append(replace(component, paths=own))
        return replace(self, components=tuple(components))


def _recorded(component: ComponentFacts) -> dict[str, Json]:
    """Return the plain form of a component, with the digest of its paths in their place where it has one."""
    document = _plain(asdict(component))
    digest = document.pop("paths_digest")
    if digest is not None:
        document["paths"] = digest
    return document


def facts_from_json_untrusted(document: object) -> Facts:
    """Return the facts that `document` holds, every member of the right type and within its limits.

    Raises:
        PolicyRefusedError: ``agent.policy.facts``, naming the member.
    """
    reader = _Reader(document, "facts")
    if reader.integer("version") != FACTS_VERSION:
        raise _refuse("facts.version", f"must be {FACTS_VERSION}")
    facts = Facts(
        now_ms=reader.integer("now_ms"),
        height=reader.integer("height"),
        author=_author(reader.record("author")),
        patch=_patch(reader.record("patch")),
        components=tuple(_component(each) for each in reader.records("components", COMPONENTS_DECIDED_MAX)),
        approvals=tuple(_attestor(each) for each in reader.records("approvals", FACT_ITEMS_MAX)),
        rejections=tuple(_attestor(each) for each in reader.records("rejections", FACT_ITEMS_MAX)),
        statements=tuple(_statement(each) for each in reader.records("statements", FACT_ITEMS_MAX)),
        rollout=_rollout(reader.record("rollout")),
        requester=_requester(reader.record("requester")),
        system=_system(reader.record("system")),
        action=_action(reader),
    )
    reader.finish()
    return facts


def _action(reader: _Reader) -> str:
    if not reader.has("action"):
        return ACTION_APPLY
    if reader.text("action") != ACTION_ROLLBACK:
        raise _refuse("facts.action", f"must be {ACTION_ROLLBACK}, or absent for an application")
    return ACTION_ROLLBACK


def _author(reader: _Reader) -> AuthorFacts:
    author = AuthorFacts(
        identity=reader.text("identity"), organisation=reader.text("organisation"), roles=reader.texts("roles")
    )
    reader.finish()
    return author


def _attestor(reader: _Reader) -> AttestorFacts:
    attestor = AttestorFacts(
        identity=reader.text("identity"),
        organisation=reader.text("organisation"),
        role=reader.text("role"),
        recorded_height=reader.integer("recorded_height"),
    )
    reader.finish()
    return attestor


def _statement(reader: _Reader) -> StatementFacts:
    statement = StatementFacts(
        identity=reader.text("identity"),
        organisation=reader.text("organisation"),
        role=reader.text("role"),
        predicate_type=reader.text("predicate_type"),
        recorded_height=reader.integer("recorded_height"),
        readable=reader.boolean("readable"),
        findings=tuple(_finding(each) for each in reader.records("findings", FACT_ITEMS_MAX)),
        properties=reader.texts("properties"),
    )
    reader.finish()
    return statement


def _finding(reader: _Reader) -> FindingFacts:
    finding = FindingFacts(id=reader.text("id"), severity=reader.text("severity"))
    reader.finish()
    return finding


def _rollout(reader: _Reader) -> RolloutFacts:
    rollout = RolloutFacts(
        succeeded=reader.texts("succeeded"),
        failed=reader.texts("failed"),
        first_success_ms=reader.integer("first_success_ms", minimum=-1),
    )
    reader.finish()
    return rollout


def _emergency(reader: _Reader) -> EmergencyFacts:
    emergency = EmergencyFacts(patch=reader.text("patch"), applied_ms=reader.integer("applied_ms"))
    reader.finish()
    return emergency


def _component(reader: _Reader) -> ComponentFacts:
    digest = reader.paths_digest("paths")
    component = ComponentFacts(
        name=reader.text("name"),
        paths=() if digest is not None else reader.texts("paths"),
        paths_digest=digest,
        changes=reader.texts("changes"),
        listed=reader.boolean("listed"),
        installed_counter=reader.integer("installed_counter", minimum=-1),
    )
    reader.finish()
    return component


def _patch(reader: _Reader) -> PatchFacts:
    patch = PatchFacts(
        id=reader.text("id"),
        created_ms=reader.integer("created_ms"),
        category=reader.text("category"),
        references=reader.texts("references"),
        release_counter=reader.integer("release_counter"),
        supersedes=reader.texts("supersedes"),
        prerequisites=reader.texts("prerequisites"),
        files=reader.integer("files"),
        lines_added=reader.integer("lines_added"),
        lines_removed=reader.integer("lines_removed"),
        environment_digest=reader.text("environment_digest"),
        tests_digest=reader.text("tests_digest"),
        tests_count=reader.integer("tests_count"),
        sealed=reader.boolean("sealed"),
        attestations_damaged=reader.integer("attestations_damaged"),
        hidden_text=reader.texts("hidden_text"),
    )
    reader.finish()
    return patch


def _requester(reader: _Reader) -> Requester:
    requester = Requester(name=reader.text("name"), roles=reader.texts("roles"), channel=reader.text("channel"))
    reader.finish()
    return requester


def _system(reader: _Reader) -> SystemFacts:
    system = SystemFacts(
        host=reader.text("host"),
        host_organisation=reader.text("host_organisation"),
        host_group=reader.text("host_group"),
        target=reader.text("target"),
        tree_digest=reader.text("tree_digest"),
        drifted=reader.boolean("drifted"),
        frozen=reader.boolean("frozen"),
        in_maintenance_window=reader.boolean("in_maintenance_window"),
        installed=reader.texts("installed"),
        emergencies=tuple(_emergency(each) for each in reader.records("emergencies", FACT_ITEMS_MAX)),
        replica_age_ms=reader.integer("replica_age_ms"),
        replica_age_ms_max=reader.integer("replica_age_ms_max"),
        records_waiting=reader.integer("records_waiting"),
        unacknowledged_intents=(
            reader.integer("unacknowledged_intents", minimum=1) if reader.has("unacknowledged_intents") else 0
        ),
    )
    reader.finish()
    return system


class _Reader:
    """One JSON object read member by member; `finish` refuses what nobody asked for."""

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, dict):
            raise _refuse(name, "must be an object")
        self._left: dict[object, object] = dict(value)
        self._name = name

    def _take(self, member: str) -> object:
        if member not in self._left:
            raise _refuse(f"{self._name}.{member}", "is missing")
        return self._left.pop(member)

    def has(self, member: str) -> bool:
        return member in self._left

    def text(self, member: str) -> str:
        return _as_text(self._take(member), f"{self._name}.{member}")

    def texts(self, member: str) -> tuple[str, ...]:
        name = f"{self._name}.{member}"
        return tuple(_as_text(each, name) for each in _as_list(self._take(member), name, FACT_ITEMS_MAX))

    def integer(self, member: str, minimum: int = 0) -> int:
        value = self._take(member)
        if type(value) is not int or not minimum <= value <= JSON_INTEGER_MAX:
            raise _refuse(f"{self._name}.{member}", f"must be an integer from {minimum} to 2^53 - 1")
        return value

    def boolean(self, member: str) -> bool:
        value = self._take(member)
        if type(value) is not bool:
            raise _refuse(f"{self._name}.{member}", "must be true or false")
        return value

    def record(self, member: str) -> _Reader:
        return _Reader(self._take(member), f"{self._name}.{member}")

    def records(self, member: str, items_max: int) -> list[_Reader]:
        name = f"{self._name}.{member}"
        return [_Reader(each, name) for each in _as_list(self._take(member), name, items_max)]

    def paths_digest(self, member: str) -> PathsDigest | None:
        """Return the digest that stands in the place of a list, or None where it is not one; nothing is taken then."""
        if not isinstance(self._left.get(member), dict):
            return None
        reader = self.record(member)
        digest = PathsDigest(reader.integer("count", minimum=1), reader.text("sha256"))
        reader.finish()
        return digest

    def finish(self) -> None:
        if self._left:
            raise _refuse(f"{self._name}.{next(iter(self._left))}", "is not a member")


def _as_text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > FACT_TEXT_BYTES_MAX:
        raise _refuse(name, f"must be a text of at most {FACT_TEXT_BYTES_MAX} bytes")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise _refuse(name, "holds a lone surrogate") from None
    if length > FACT_TEXT_BYTES_MAX:
        raise _refuse(name, f"must be a text of at most {FACT_TEXT_BYTES_MAX} bytes")
    return value


def _as_list(value: object, name: str, items_max: int) -> list[object]:
    if not isinstance(value, list | tuple) or len(value) > items_max:
        raise _refuse(name, f"must be a list of at most {items_max} members")
    return list(value)


def _refuse(name: str, sentence: str) -> PolicyRefusedError:
    return PolicyRefusedError("agent.policy.facts", f"{name} {sentence}", details={"member": name})


def _plain(value: dict[str, object]) -> dict[str, Json]:
    return {name: _plain_value(each) for name, each in value.items()}


def _plain_value(value: object) -> Json:
    match value:
        case dict():
            return _plain(value)
        case list() | tuple():
            return [_plain_value(each) for each in value]
        case bool() | int() | str() | None:
            return value
        case _:
            raise AssertionError(f"facts hold plain values only, not {type(value).__name__}")
