"""Executing transactions one after the other over a reader, and turning what they did into the rows and roots of one block.

`Draft` is a view that sees the block's own changes, as records, so that each is encoded once a block however often it changes.
`Execution` checks and executes transactions; a refused one leaves no trace in it. `Execution.seal` derives the header that these
transactions lead to, and every row to write. Nothing here trusts a header: `ledger.transition` compares.

Source: docs/spec/ledger.md 5, 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar, cast

from ledger import keyspace
from ledger.block import Block, Header
from ledger.bodies import DeploymentOutcome, HostReport, ValidatorSettle
from ledger.configuration_history import ConfigurationChange, ConfigurationRow, newest_configuration_height
from ledger.errors import TransactionRefusedError
from ledger.executed import FIRST, ExecutedLink
from ledger.keyspace import Reader, Table, WriteSet
from ledger.limits import NOT_AFTER_WINDOW_MAX
from ledger.membership import check_one_change
from ledger.records import REMOVED, REVOKED, SUSPENDED, Configuration, KeyRecord, Record, TransactionChain
from ledger.recovery import Recovery
from ledger.recovery_block import check_recovery_transaction
from ledger.rules import Context, Effects, apply_rule, settle_validators
from ledger.rules_policy import due_policy
from ledger.rules_validator import recover_validators
from ledger.signers import find_signing_key
from ledger.state import PolicyVersion, StateView, Tip
from ledger.state_tree import update
from ledger.transaction import Transaction
from wire.errors import InvalidSignatureError
from wire.hashing import Digest
from wire.keys import PublicKey
from wire.merkle import root as merkle_root

R = TypeVar("R", bound=Record)

WHAT_HAS_HAPPENED: Final = (DeploymentOutcome, HostReport)
"""What the people of a suspended organisation may still say: the record of what was done has no gap by anybody's decision."""


class Draft(StateView):
    """A view over a reader with the changes of the block that is being executed on top."""

    __slots__ = ("_changed", "_records")

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader)
        self._records: dict[bytes, Record | None] = {}
        self._changed: dict[bytes, Record] = {}

    def put(self, records: Mapping[bytes, Record]) -> None:
        """Make `records` (by state key) visible to every later question."""
        self._records.update(records)
        self._changed.update(records)

    @property
    def changed(self) -> Mapping[bytes, Record]:
        """Every record that was put, by state key."""
        return self._changed

    def _find(self, key: bytes, record: type[R]) -> R | None:
        # A state key says which record stands under it, so the cached one has the asked type.
        try:
            return cast("R | None", self._records[key])
        except KeyError:
            found = super()._find(key, record)
            self._records[key] = found
            return found


@dataclass(frozen=True, slots=True)
class Derived:
    """The state that a block's transactions lead to."""

    state_root: Digest
    """Root of the state, 32 bytes."""
    validators_hash: Digest
    """Hash of the configuration, 32 bytes."""
    policy_hash: Digest
    """Hash of the policy set, 32 bytes."""
    configuration: Configuration | None
    """The configuration of the validators after them, if they changed it."""
    executed: ExecutedLink | None
    """What the chain of executed transactions grows by, or None without transactions."""
    writes: WriteSet
    """Rows of STATE and STATE_NODE; with those of TX_INDEX they are all that executing the next block reads."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a block's transactions lead to."""

    header: Header
    """The header with every derived field; the fields that the proposer chooses are those that `Execution` was given."""
    writes: WriteSet
    """Everything that they change, but the rows that need the block itself (`block_writes`)."""
    tip: Tip
    """The tip after them."""
    configuration: Configuration | None
    """The configuration of the validators after them, if they changed it."""


class Execution:
    """The transactions of one block, executed so far.

    Args:
        reader: The state after the block before.
        template: The header of the block before, or the next one's: height, time and the rest are taken from here as they are, only
            the derived fields (roots, log size, hashes of validators and policy) are computed anew by `seal`.
        tip: The tip that `reader` holds, when the caller has read it already.
    """

    __slots__ = ("_draft", "_duplicates", "_history", "_reader", "_template", "_tip", "_transactions", "network")

    def __init__(self, reader: Reader, template: Header, tip: Tip) -> None:
        self._reader = reader
        self._template = template
        self._tip = tip
        self._draft = Draft(reader)
        self._transactions: list[Transaction] = []
        self._duplicates: set[bytes] = set()
        self._history: list[tuple[bytes, ...]] = []
        self.network = self._draft.network
        self._draft.put(due_policy(self._draft, template.height))

    @property
    def transactions(self) -> tuple[Transaction, ...]:
        """What was executed, in order."""
        return tuple(self._transactions)

    def find_key(self, transaction: Transaction) -> KeyRecord | PublicKey | None:
        """Return the key that the transaction names, as the transactions so far have left it, or None."""
        return find_signing_key(self._draft, transaction)

    def check(self, transaction: Transaction, *, verified: bool) -> Effects:
        """Return what the transaction would do here; nothing is changed.

        Raises:
            RejectedError: ``ledger.tx.*``, the codes of the rule of its kind, ``ledger.validator.changed_in_block``, and ``wire.key.*``,
                ``wire.x509.*``, ``wire.envelope.*``, ``provenance.*`` for what it carries.
        """
        effects = self._judge(transaction, verified=verified)
        changed = effects.records.get(keyspace.VALIDATORS_KEY)
        if changed is not None:
            begun = StateView(self._reader).configuration()
            check_one_change(begun, self._draft.configuration(), cast("Configuration", changed))
        return effects

    def _judge(self, transaction: Transaction, *, verified: bool) -> Effects:
        """Return what the transaction would do were it the first of its block to change who votes."""
        height = self._template.height
        if transaction.chain_id != self.network.chain_id:
            raise _refuse(
                "wrong_chain", "the transaction is for another network", self.network.chain_id, transaction.chain_id
            )
        body = transaction.body
        # What many sign, administrators or validators, may be longer than what a network lets one person say.
        if len(transaction.raw) > self.network.transaction_bytes_max and not isinstance(
            body, Recovery | ValidatorSettle
        ):
            raise _refuse(
                "too_large",
                "the transaction is too long for this network",
                f"at most {self.network.transaction_bytes_max} bytes",
                len(transaction.raw),
            )
        if transaction.not_after_height < height:
            raise _refuse(
                "expired", f"the transaction can no longer be executed at height {height}",
                f"not_after_height of at least {height}", transaction.not_after_height,
                "sign it again with a later not_after_height",
            )  # fmt: skip
        if transaction.not_after_height > height + NOT_AFTER_WINDOW_MAX:
            raise _refuse(
                "not_after_too_far", "the transaction would stay executable for too long",
                f"not_after_height of at most {height + NOT_AFTER_WINDOW_MAX}", transaction.not_after_height,
            )  # fmt: skip
        if transaction.tx_id in self._duplicates or self._reader.get(Table.TX_INDEX, transaction.tx_id) is not None:
            raise _refuse("duplicate", "the transaction was executed already", actual=transaction.tx_id)
        if isinstance(body, Recovery):
            check_recovery_transaction(transaction, body, self._template, self._tip.block_hash)
            return recover_validators(self._draft, height, body)
        if isinstance(body, ValidatorSettle):
            return self._check_settlement(transaction, body, verified=verified)
        key = self._draft.key(transaction.signer_key_id)
        signer = None if key is None else self._draft.identity(key.identity_id)
        if key is None or signer is None:
            raise _refuse(
                "unknown_signer", "the signing key belongs to nobody on this ledger", actual=transaction.signer_key_id
            )
        if not key.is_valid_at(height):
            raise _refuse(
                "key_not_valid",
                f"the signing key of {signer.identity_id} does not count at height {height}",
                hint="sign with a key that is neither retired nor revoked",
                actual=transaction.signer_key_id,
            )
        if signer.status == SUSPENDED:
            raise _refuse("signer_suspended", f"{signer.identity_id} is suspended")
        if signer.status == REVOKED:
            raise _refuse("signer_revoked", f"{signer.identity_id} is revoked")
        standing = self._draft.organisation_status(signer.organisation)
        if standing == REMOVED:
            raise _refuse("organisation_removed", f"{signer.organisation} is no longer a member of this network")
        if standing == SUSPENDED and not isinstance(body, WHAT_HAS_HAPPENED):
            raise _refuse("organisation_suspended", f"{signer.organisation} is suspended")
        if not verified:
            _check_signature(transaction, key.public_key, signer.identity_id)
        time_ms = self._template.time_ms
        context = Context(transaction.tx_id, signer.acting_at(time_ms), key, height, time_ms)
        return apply_rule(self._draft, context, body)

    def _check_settlement(self, transaction: Transaction, body: ValidatorSettle, *, verified: bool) -> Effects:
        key = self._draft.configuration().members.get(transaction.signer_key_id)
        if key is None:
            raise _refuse(
                "unknown_signer", "the signing key is not that of a validator", actual=transaction.signer_key_id
            )
        if not verified:
            _check_signature(transaction, key, "the validator")
        return settle_validators(self._draft, self._template.height, self._template.term, body)

    def execute(self, transaction: Transaction, *, verified: bool) -> None:
        """Execute the transaction, or refuse it and change nothing.

        Raises:
            RejectedError: See `check`.
        """
        effects = self.check(transaction, verified=verified)
        self._draft.put(effects.records)
        self._duplicates.add(transaction.tx_id)
        self._transactions.append(transaction)
        self._history.append(effects.subjects)

    def derive(self) -> Derived:
        """Return the state that the executed transactions lead to, with the rows that executing the next block needs."""
        tip = self._tip
        changed = dict(self._draft.changed)
        executed = self._link()
        if executed is not None:
            changed[keyspace.TRANSACTION_CHAIN_KEY] = executed.chain
        state = {key: record.encode() for key, record in changed.items()}
        writes: WriteSet = {}
        state_root = tip.header.state_root
        if state:
            state_root, tree_writes = update(self._reader, state)
            writes.update(tree_writes)
        for key, value in state.items():
            writes[Table.STATE, key] = value
        policy = cast("PolicyVersion | None", changed.get(keyspace.POLICY_VERSION_KEY))
        configuration = cast("Configuration | None", changed.get(keyspace.VALIDATORS_KEY))
        return Derived(
            state_root=state_root,
            validators_hash=tip.header.validators_hash if configuration is None else configuration.hash,
            policy_hash=tip.header.policy_hash if policy is None else Digest(policy.policy_hash),
            configuration=configuration,
            executed=executed,
            writes=writes,
        )

    def seal(self) -> Sealed:
        """Return the header and the rows that the executed transactions lead to."""
        template = self._template
        height_key = keyspace.height_key(template.height)
        leaves = [each.leaf_hash for each in self._transactions]
        frontier, nodes = self._tip.frontier.extend(leaves)
        derived = self.derive()
        writes = derived.writes
        writes.update(
            {
                (Table.IDENTITY_VERSION, b"%b\x00%b" % (key[1:], height_key)): value
                for (table, key), value in writes.items()
                if table is Table.STATE and key[:1] == keyspace.IDENTITY
            }
        )
        for level, index, digest in nodes:
            writes[Table.LOG_NODE, keyspace.log_node_key(level, index)] = digest
        if derived.executed is not None:
            writes[Table.EXECUTED, height_key] = derived.executed.encode()
            writes.update(derived.executed.index_rows())
        for index, transaction in enumerate(self._transactions):
            for subject in self._history[index]:
                writes[Table.HISTORY, keyspace.history_key(subject, template.height, index)] = transaction.tx_id
        if derived.configuration is not None:
            before = newest_configuration_height(self._reader)
            writes.update(ConfigurationRow(before, derived.configuration, self._ended_change()).writes(template.height))
        header = replace(
            template,
            transactions_root=merkle_root(leaves),
            log_size=frontier.size,
            log_root=frontier.root(),
            state_root=derived.state_root,
            validators_hash=derived.validators_hash,
            policy_hash=derived.policy_hash,
        )
        return Sealed(header, writes, Tip(header, header.hash(), frontier), derived.configuration)

    def _link(self) -> ExecutedLink | None:
        """Return what the chain of executed transactions grows by, or None without transactions."""
        if not self._transactions:
            return None
        raw = self._reader.get(Table.STATE, keyspace.TRANSACTION_CHAIN_KEY)
        before = FIRST if raw is None else TransactionChain.decode(raw)
        tx_ids = tuple(each.tx_id for each in self._transactions)
        return ExecutedLink(self._template.height, before, self._tip.frontier.size, tx_ids)

    def _ended_change(self) -> ConfigurationChange | Recovery | None:
        """Return the change of the validators that this block ends. It began in an earlier block, because that one had to be certified."""
        for transaction in self._transactions:
            body = transaction.body
            if isinstance(body, Recovery):
                return body
            if isinstance(body, ValidatorSettle):
                return ConfigurationChange(StateView(self._reader).configuration(), body.header, body.certificate)
        return None


def block_writes(block: Block, tip: Tip) -> WriteSet:
    """Return the rows that hold the block itself and make it the tip."""
    key = keyspace.height_key(block.header.height)
    return {
        (Table.META, keyspace.TIP_KEY): tip.encode(),
        (Table.HEADER, key): block.header.encode(),
        (Table.BLOCK, key): block.raw,
        (Table.BLOCK_HASH, block.block_hash): key,
    }


def _check_signature(transaction: Transaction, key: PublicKey, signer: str) -> None:
    try:
        key.verify(transaction.tx_id, transaction.signature)
    except InvalidSignatureError as error:
        raise _refuse("bad_signature", f"the signature of {signer} does not hold", actual=transaction.tx_id) from error


def _refuse(
    rule: str, sentence: str, expected: object = None, actual: object = None, hint: str = ""
) -> TransactionRefusedError:
    return TransactionRefusedError(f"ledger.tx.{rule}", sentence, expected=expected, actual=actual, hint=hint)
