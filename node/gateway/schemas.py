"""The forms of requests and answers, for the OpenAPI document and for checking what comes in.

Answers are made by `node.documents` in the core; these models describe them and are not run over them, so an answer costs one encoding.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from node.limits import SUBMIT_TRANSACTIONS_MAX, WAIT_TIMEOUT_MS_MAX

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A 32-byte digest or id in lower-case hexadecimal."""
Base64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=22_369_624)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Height = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Request(BaseModel):
    """A request's body: exactly these members, of exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Answer(BaseModel):
    """A documented answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SubmitRequest(Request):
    """Signed transactions to be ordered."""

    transactions: Annotated[list[Base64], Field(min_length=1, max_length=SUBMIT_TRANSACTIONS_MAX)]
    """Encoded transactions in base64."""
    wait: Literal["none", "admitted", "committed"] = "committed"
    """What to wait for before answering."""
    timeout_ms: Annotated[int, Field(ge=1, le=WAIT_TIMEOUT_MS_MAX)] = 10_000
    """How long to wait at most."""


class AgentRequest(Request):
    """A patch for one of this host's targets: the file itself, or the id of a published patch."""

    target: Name
    file: Base64 | None = None
    patch_id: Hex32 | None = None


class RollbackRequest(Request):
    """An installed patch that one of this host's targets is to lose."""

    target: Name
    patch_id: Hex32
    with_dependants: bool = False
    """Whether what stands on it goes first, the newest first."""
    explain: bool = False
    """Whether only the decision is wanted; nothing is changed then."""


class DriftRequest(Request):
    """Which of this host's targets to compare with their records: one, or all."""

    target: Name | None = None
    full: bool = False
    """Whether every file is read, also those whose status has not changed."""


class Problem(BaseModel):
    """Problem details, RFC 9457; further members are extensions of one problem, such as `tx_id`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str
    title: str
    status: int
    detail: str
    code: str
    """The stable name of the rule."""
    hint: str


class CoreError(Answer):
    """Why one transaction of a batch was refused."""

    family: Literal["rejected", "unavailable", "corruption", "bug"]
    code: str
    message: str
    hint: str
    details: dict[str, str | int] | None = None


class Submitted(Answer):
    """What became of one transaction."""

    tx_id: Hex32 | None
    status: Literal["committed", "admitted", "refused", "unknown"]
    height: Height | None
    error: CoreError | None


class SubmitAnswer(Answer):
    """What became of each transaction, in order."""

    results: list[Submitted]


class SnapshotFetch(Answer):
    """A snapshot that this node is fetching, because nobody gives it the blocks that come next."""

    height: Height
    """The height of its state."""
    chunks: int
    """How many chunks there are."""
    chunks_here: int
    """How many of them are here."""


class Storage(Answer):
    """How this node's store is."""

    history_from: Height
    """The lowest height whose block and history are kept; 0 where everything is."""
    snapshot_height: Height | None
    """Height of the newest snapshot that this node serves."""
    snapshot_fetch: SnapshotFetch | None
    """The snapshot that is being fetched; null when there is none."""
    rows_scrubbed: int
    """Rows read since the start, to find damage."""
    scrub_passes: int
    """How often every row was read since the start."""
    last_scrub_ms: int | None
    """When the last pass ended, milliseconds since epoch."""
    rows_damaged: int
    """Damaged rows found since the start."""
    rows_repaired: int
    """Damaged rows repaired since the start."""
    rows_waiting: int
    """Damaged rows that wait for a peer's help."""
    repair_at_start: bool
    """Whether the next start makes the whole store anew, because a file of it is damaged."""


class FedObserver(Answer):
    """An observer that takes its blocks from this node."""

    key_id: Hex32
    address: str | None
    """Where others may follow it; null where nobody can."""
    height: Height
    """What it last asked from."""
    beyond_limit: bool
    """Whether it was taken in although the limit was reached, because it had nobody else."""


class Observers(Answer):
    """Whom this node feeds with blocks."""

    limit: int
    redirected: int
    """Questions for a slot that were answered with others' addresses, since the start."""
    fed: list[FedObserver]


class SyncSource(Answer):
    """Somebody from whom an observer takes blocks."""

    key_id: Hex32
    address: str
    head: Height
    """The height up to which it says it has blocks."""
    depth: int
    """How many steps blocks take from a validator to this node by this way."""
    is_main: bool
    """Whether it is the one that is asked for what comes next."""


class DroppedPeer(Answer):
    """Somebody who sent what does not hold, and is left alone for a while."""

    key_id: Hex32
    address: str
    code: str
    times: int
    for_s: int


class Sync(Answer):
    """How an observer follows."""

    depth: int
    """How many steps blocks take from a validator to this node; 0 while nobody is followed."""
    sources: list[SyncSource]
    dropped: list[DroppedPeer]


class FetchedPatchFile(Answer):
    """A patch file that is being fetched."""

    file_digest: Hex32
    file_bytes: int
    chunks: int
    chunks_here: int
    sources: list[Hex32]
    """Key ids of those who give it now."""


class PatchFiles(Answer):
    """The patch files of this node."""

    bytes: int
    """All of them, those that are being fetched with the length that they will have."""
    bytes_max: int
    places: int
    """How many peers may take one file."""
    places_used: int
    """How many peers take one now, of all files together."""
    redirected: int
    """Questions for a file that had to go elsewhere, since the start."""
    spare_given: int
    """Copies given beyond the usual ones to who is stranded, since the start."""
    fetching: list[FetchedPatchFile]
    dropped: list[DroppedPeer]


class CertificateSummary(Answer):
    """Certificates on the ledger by this node's last look at them."""

    expiring: int
    """How many end within 90 days, or have ended."""
    days_left: int | None
    """Until the first ends; null without any."""


class Status(Answer):
    """What this node is and where it stands."""

    name: str
    chain_id: str
    role: Literal["leader", "follower", "candidate", "learner", "observer"]
    removed: bool
    """Whether this node was a validator and is none any more."""
    term: int
    leader: str | None
    height: Height
    block_hash: Hex32
    state_root: Hex32
    log_size: int
    last_height: Height
    time_ms: int
    replica_age_ms: int
    policy_hash: Hex32
    node_key_id: Hex32
    identity: str | None
    multiaddr: str
    mempool: int
    peers_connected: int
    following: str | None
    observers: Observers
    sync: Sync | None
    """How this node follows; null on one that takes part in consensus."""
    patches: PatchFiles
    storage: Storage
    certificates: CertificateSummary
    checkpoint_height: Height | None
    """The highest certified header that this node has seen anywhere."""
    split_views: int
    """How many contradictions between certified histories this node has found; anything but 0 is an emergency."""
    recovered_at: list[Height]
    """Heights at which the organisations went on without a majority of the validators, declared lost for good."""
    gateway_restarts: int
    pid: int
    version: str


class Validator(Answer):
    """A node that votes, is about to, learns, or has just lost its vote."""

    name: str
    organisation: str
    key_id: Hex32
    did: str
    address: str
    membership: Literal["voter", "incoming", "outgoing", "learner", "leaving"]
    match_height: Height | None
    """On the leader: up to here the node's log is durable and the same."""


class Peer(Answer):
    """A node that this one knows."""

    name: str | None
    key_id: Hex32
    address: str | None
    connected: bool
    rtt_ms: float | None


class Header(Answer):
    """A block header with its hash."""

    chain_id: str
    height: Height
    term: int
    block_hash: Hex32
    previous_hash: Hex32
    time_ms: int
    proposer: Hex32
    transactions_root: Hex32
    log_size: int
    log_root: Hex32
    state_root: Hex32
    validators_hash: Hex32
    policy_hash: Hex32
    election_hash: Hex32


class BlockSummary(Header):
    """A block header and how many transactions the block holds."""

    transactions: int


class CertificateSignature(Answer):
    """One validator's acknowledgement."""

    validator: Hex32
    signature: Base64


class Certificate(Answer):
    """A commit certificate."""

    term: int
    height: Height
    block_hash: Hex32
    signatures: list[CertificateSignature]


class Block(Header):
    """A block with the ids of its transactions."""

    transactions: list[Hex32]
    election_certificate: Base64 | None
    certificate: Certificate | None
    size_bytes: int


class RawBlock(Answer):
    """An encoded block, and its own certificate where one is stored."""

    height: Height
    block: Base64
    certificate: Base64 | None


class Transaction(Answer):
    """A transaction and where it stands."""

    tx_id: Hex32
    status: Literal["committed", "pending"]
    height: Height | None
    index: int | None
    kind: str
    body: Any
    """The body's fields in the order of docs/spec/ledger.md."""
    signer: str | None
    signer_key_id: Hex32
    not_after_height: Height
    client_time_ms: int
    raw: Base64


class HistoricTransaction(Transaction):
    """A transaction with its block's time."""

    time_ms: int


class Key(Answer):
    """A public key and the heights between which it counts."""

    key_id: Hex32
    algorithm: str
    did: str
    added_height: Height
    retired_height: Height | None
    last_valid_height: Height | None
    reason: str
    certificate_chain: list[Base64]


class AsOf(Answer):
    """How current an answer is."""

    consistency: Literal["linearizable", "local"]
    height: Height
    replica_age_ms: int


class RoleTerm(Answer):
    """A role that is bound to a time: block times, both included; null for no bound."""

    role: str
    from_ms: int | None
    until_ms: int | None


class Identity(Answer):
    """A person, service or host."""

    identity: str
    organisation: str
    display_name: str
    roles: list[str]
    role_terms: list[RoleTerm]
    status: Literal["active", "suspended", "revoked"]
    registered_height: Height
    changed_height: Height
    keys: list[Key]


class IdentityAsOf(Identity):
    """An identity, and how current the answer is."""

    as_of: AsOf


class ActApproval(Answer):
    """One administrator's approval."""

    identity: str
    key_id: Hex32
    height: Height
    counted: bool


class AdministrativeAct(Answer):
    """What administrators were asked to agree on."""

    act_id: Hex32
    proposer: str
    kind: str
    body: Any
    """The body's fields in the order of docs/spec/ledger.md."""
    created_height: Height
    expires_height: Height
    status: Literal["open", "executed", "withdrawn", "expired"]
    approvals: list[ActApproval]
    closed_height: Height | None


class Administration(Answer):
    """How an organisation's identities are administered."""

    organisation: str
    threshold: int
    """How many administrators must agree."""
    acting: list[str]
    """Those who can and stay."""
    height: Height
    acts: list[AdministrativeAct]


class Organisation(Answer):
    """An organisation of the network, removed ones included."""

    name: str
    display_name: str
    status: Literal["active", "suspended", "removed"]
    admitted_height: Height
    administrators: list[str]
    ca_certificates: list[Base64]


class Attestation(Answer):
    """One recorded verdict."""

    payload_digest: Hex32
    identity: str
    organisation: str
    key_id: Hex32
    role: str
    verdict: Literal["approve", "reject", "none"]
    predicate_type: str
    recorded_height: Height
    tx_id: Hex32
    current: bool


class Finding(Answer):
    """What a vulnerability scan reports."""

    id: str
    severity: Literal["critical", "high", "medium", "low", "none", "unknown"]


class JudgedAttestation(Attestation):
    """One recorded verdict, whether it counts now, and what policies read of it."""

    recorded_time_ms: int | None
    counts: bool
    why_not: str | None
    readable: bool
    findings: list[Finding]
    properties: list[str]


class Place(Answer):
    """A tree on which a patch is installed."""

    host: str
    target: str
    height: Height


class AffectedPatch(Answer):
    """A patch that does not stand as it did, because a key was revoked."""

    patch_id: Hex32
    author: str
    published_height: Height
    components: list[str]
    withdrawn_height: Height | None
    author_affected: bool
    """Whether it was published under such a key: no agent applies it any more."""
    attestations: list[Attestation]
    """Its current attestations that do not count any more."""
    approvals_left: int
    """Approvals of different people outside the author's organisation that still count."""
    installed: list[Place]


class CutKey(Answer):
    """A key and the last height at which it counts."""

    key_id: Hex32
    last_valid_height: Height


class AffectedTarget(Answer):
    """A tree of a host."""

    host: str
    target: str


class Act(Answer):
    """A transaction that was signed under such a key after its last valid height."""

    height: Height
    index: int
    tx_id: Hex32
    kind: str
    key_id: Hex32
    about: str


class Affected(Answer):
    """What the revocation of keys takes back."""

    identity: str
    height: Height
    keys: list[CutKey]
    patch_count: int
    patches: list[AffectedPatch]
    """The first 10,000."""
    targets: list[AffectedTarget]
    """Where they are installed."""
    act_count: int
    acts: list[Act]
    """The first 10,000."""


class Patch(Answer):
    """A published patch."""

    patch_id: Hex32
    author: str
    organisation: str
    author_key_id: Hex32
    author_payload_digest: Hex32
    file_digest: Hex32
    file_bytes: int
    published_height: Height
    tx_id: Hex32
    components: list[str]
    release_counter: int
    supersedes: list[Hex32]
    prerequisites: list[Hex32]
    superseded_by: Hex32 | None
    withdrawn_height: Height | None
    withdrawn_reason: str
    attestations: list[Attestation]


class PatchWithFile(Patch):
    """A published patch, and whether this node keeps its file."""

    file_here: bool


class StoredPatch(Answer):
    """A patch file that this node keeps now."""

    patch_id: Hex32
    file_digest: Hex32
    file_bytes: int


class Deployment(Answer):
    """One application of a patch, or one refusal, as its host told it."""

    deployment_id: Hex32
    host: str
    target: str
    patch_id: Hex32
    counter: int
    intent_height: Height | None
    outcome_height: Height | None
    outcome_tx_id: Hex32 | None
    result: str | None
    tree_before: Hex32
    tree_after: Hex32 | None


class InstalledPatch(Answer):
    """A patch that a target holds."""

    patch_id: Hex32
    height: Height


class Target(Answer):
    """What the ledger knows of one directory tree of a host."""

    host: str
    target: str
    tree_digest: Hex32 | None
    installed: list[InstalledPatch]
    changed_height: Height
    report_kind: str | None
    report_tx_id: Hex32 | None
    report_height: Height | None


class Policy(Answer):
    """One Cedar policy."""

    name: str
    text: str


class PolicySet(Answer):
    """One version of the network's policies."""

    version: int
    policy_hash: Hex32
    adopted_height: Height
    schema_: Annotated[str, Field(alias="schema")]
    policies: list[Policy]


class PolicyVersion(Answer):
    """One policy set that was adopted."""

    version: int
    policy_hash: Hex32
    adopted_height: Height
    policies: int
    status: Literal["in force", "waits", "former", "replaced before it came into force"]


class PolicyCases(Answer):
    """The network's own cases for policy sets."""

    cases: str
    adopted_height: Height


class RecordedDecision(Answer):
    """One decision of a host. `decision` is null where it did not fit into the record."""

    deployment_id: Hex32
    host: str
    target: str
    patch_id: Hex32
    height: Height
    time_ms: int
    result: str | None
    decision: dict[str, Any] | None


class Decisions(Answer):
    """Decisions that hosts recorded. Below `history_start` this node keeps none."""

    decisions: list[RecordedDecision]
    history_start: Height


class PolicySetAsOf(PolicySet):
    """One version of the network's policies, and how current the answer is."""

    as_of: AsOf


class Vote(Answer):
    """One organisation's vote."""

    organisation: str
    identity: str
    approve: bool
    height: Height


class Proposal(Answer):
    """A proposal of governance."""

    proposal_id: Hex32
    proposer: str
    organisation: str
    action: Any
    description: str
    created_height: Height
    expires_height: Height
    status: Literal["open", "executed", "rejected", "withdrawn", "expired"]
    votes: list[Vote]
    closed_height: Height | None


class ProposalStep(Answer):
    """One transaction about a proposal."""

    what: Literal["proposed", "for", "against", "withdrawn"]
    tx_id: Hex32
    height: Height
    index: int
    time_ms: int
    identity: str
    organisation: str
    key_id: Hex32
    in_force: bool
    """For a vote: whether the organisation cast no later one."""
    key_counted: bool
    """Whether the key counts at that height as the ledger knows it now."""


class Tally(Answer):
    """The votes on an open proposal as they count now."""

    for_: Annotated[int, Field(alias="for")]
    against: int
    needed: int
    votes: int


class Ended(Answer):
    """How a proposal stopped being open."""

    height: Height
    time_ms: int | None
    tx_id: Hex32 | None
    """The deciding vote or the withdrawal; null when it expired."""


class ProposalStory(Proposal):
    """A proposal, its transactions in order, and what became of it."""

    steps: list[ProposalStep]
    tally: Tally | None
    ended: Ended | None
    complete: bool
    """False where this node keeps no history of its beginning."""


class Member(Answer):
    """An organisation as governance sees it."""

    name: str
    display_name: str
    status: Literal["active", "suspended", "removed"]
    reason: str
    changed_height: Height
    has_vote: bool
    administrators: list[str]
    acting_administrator: str | None
    """One who has a key that counts in the next block."""
    ca_certificates: int


class NetworkLimits(Answer):
    """What the network allows at most."""

    transaction_bytes_max: int
    block_bytes_max: int
    block_transactions_max: int


class GovernanceStatus(Answer):
    """Who decides, and whether they can."""

    height: Height
    threshold: Literal["majority", "two-thirds", "unanimous"]
    votes: int
    votes_needed: int
    able_to_vote: int
    """Organisations with a vote and an administrator who can cast it."""
    spare: int
    """How many of these could be missing; never negative."""
    changed_height: Height
    organisations: list[Member]
    limits: NetworkLimits
    policy_version: int
    validators: int
    change_of_validators_under_way: bool
    open_proposals: list[Hex32]
    certificates: CertificateSummary


class LedgerCertificate(Answer):
    """A certificate on the ledger that matters still."""

    kind: Literal["authority", "identity"]
    organisation: str
    identity: str | None
    key_id: Hex32 | None
    subject: str
    sha256: Hex32
    not_after_ms: int
    days_left: int


class Genesis(Answer):
    """The founding document, base64."""

    genesis: Base64


class Live(Answer):
    """The process answers."""

    live: bool


class Ready(Answer):
    """The node can serve."""

    ready: bool
    height: Height
    replica_age_ms: int
