"""Executing transactions one after the other over a reader, and turning what they did into the rows and roots of one block.

`Draft` is a view that sees the block's own changes, as records, so that each is encoded once a block however often it changes.
`Execution` checks and executes transactions; a refused one leaves no trace in it. `Execution.seal` derives the header that these
transactions lead to, and every row to write. Nothing here trusts a header: `ledger.transition` compares.

Source: docs/spec/ledger.md 5, 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from ledger import keyspace
from ledger.block import Block, Header
from ledger.errors import TransactionRefusedError
from ledger.keyspace import Reader, Table, WriteSet
from ledger.limits import NOT_AFTER_WINDOW_MAX
from ledger.records import REVOKED, SUSPENDED, KeyRecord, Record
from ledger.rules import Context, Effects, apply_rule
from ledger.state import PolicyVersion, StateView, Tip
from ledger.state_tree import update
from ledger.transaction import Transaction
from wire.errors import InvalidSignatureError
from wire.hashing import Digest
from wire.merkle import root as merkle_root

R = TypeVar("R", bound=Record)


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
class Sealed:
    """What a block's transactions lead to."""

    header: Header
    """The header with every derived field; the fields that the proposer chooses are those that `Execution` was given."""
    writes: WriteSet
    """Everything that they change, but the rows that need the block itself (`block_writes`)."""
    tip: Tip
    """The tip after them."""


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

    @property
    def transactions(self) -> tuple[Transaction, ...]:
        """What was executed, in order."""
        return tuple(self._transactions)

    def find_key(self, key_id: bytes) -> KeyRecord | None:
        """Return the key's record as the transactions so far have left it, or None."""
        return self._draft.key(key_id)

    def check(self, transaction: Transaction, *, verified: bool) -> Effects:
        """Return what the transaction would do here; nothing is changed.

        Raises:
            RejectedError: ``ledger.tx.*``, the codes of the rule of its kind, and ``wire.key.*``, ``wire.x509.*``, ``wire.envelope.*``,
                ``provenance.*`` for what it carries.
        """
        height = self._template.height
        if transaction.chain_id != self.network.chain_id:
            raise _refuse(
                "wrong_chain", "the transaction is for another network", self.network.chain_id, transaction.chain_id
            )
        if len(transaction.raw) > self.network.transaction_bytes_max:
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
        if not verified:
            try:
                key.public_key.verify(transaction.tx_id, transaction.signature)
            except InvalidSignatureError as error:
                raise _refuse(
                    "bad_signature", f"the signature of {signer.identity_id} does not hold", actual=transaction.tx_id
                ) from error
        context = Context(transaction.tx_id, signer, key, height, self._template.time_ms)
        return apply_rule(self._draft, context, transaction.body)

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

    def seal(self) -> Sealed:
        """Return the header and the rows that the executed transactions lead to."""
        template, tip = self._template, self._tip
        height_key = keyspace.height_key(template.height)
        leaves = [each.leaf_hash for each in self._transactions]
        frontier, nodes = tip.frontier.extend(leaves)
        changed = self._draft.changed
        state = {key: record.encode() for key, record in changed.items()}
        writes: WriteSet = {}
        state_root = tip.header.state_root
        if state:
            state_root, tree_writes = update(self._reader, state)
            writes.update(tree_writes)
        for key, value in state.items():
            writes[Table.STATE, key] = value
            if key[:1] == keyspace.IDENTITY:
                writes[Table.IDENTITY_VERSION, b"%b\x00%b" % (key[1:], height_key)] = value
        for level, index, digest in nodes:
            writes[Table.LOG_NODE, keyspace.log_node_key(level, index)] = digest
        first = tip.frontier.size
        for index, transaction in enumerate(self._transactions):
            writes[Table.TX_INDEX, transaction.tx_id] = keyspace.pack_location(template.height, index, first + index)
            for subject in self._history[index]:
                writes[Table.HISTORY, keyspace.history_key(subject, template.height, index)] = transaction.tx_id
        policy = changed.get(keyspace.POLICY_VERSION_KEY)
        header = replace(
            template,
            transactions_root=merkle_root(leaves),
            log_size=frontier.size,
            log_root=frontier.root(),
            state_root=state_root,
            # Validator changes are not executable yet, so the set and its hash stay those of the block before.
            validators_hash=tip.header.validators_hash,
            policy_hash=Digest(cast(PolicyVersion, policy).policy_hash) if policy else tip.header.policy_hash,
        )
        return Sealed(header, writes, Tip(header, header.hash(), frontier))


def block_writes(block: Block, tip: Tip) -> WriteSet:
    """Return the rows that hold the block itself and make it the tip."""
    key = keyspace.height_key(block.header.height)
    return {
        (Table.META, keyspace.TIP_KEY): tip.encode(),
        (Table.HEADER, key): block.header.encode(),
        (Table.BLOCK, key): block.raw,
        (Table.BLOCK_HASH, block.block_hash): key,
    }


def _refuse(
    rule: str, sentence: str, expected: object = None, actual: object = None, hint: str = ""
) -> TransactionRefusedError:
    return TransactionRefusedError(f"ledger.tx.{rule}", sentence, expected=expected, actual=actual, hint=hint)
