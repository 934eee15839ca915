"""How a transaction enters: check, admit or pass on to the leader, and wait for its block.

A caller may always retry: the same transaction is executed once, and submitting it again gives the first receipt. A time-out
therefore means "not known yet", never "failed".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Literal

import trio

from ledger.mempool import Mempool
from ledger.transaction import Transaction, decode_transaction_untrusted
from ledger.transition import Admission
from node.limits import SUBMIT_TRANSACTIONS_MAX, WAIT_TIMEOUT_MS_MAX
from node.replica import LedgerReplica
from wire.errors import PatchwardenError, RejectedError, UnavailableError
from wire.hashing import Digest
from wire.limits import MEBIBYTE

FORWARD_RETRY_S: Final = 0.1
"""The pause before a submission looks for a leader again."""
HAND_ON_BYTES_MAX: Final = 2 * MEBIBYTE
"""Of the transactions that a former leader passes on in one request."""
FORWARD_TIMEOUT_S: Final = 5.0
"""How long the leader may take to admit what was passed on."""
PLACE_AGAIN_S: Final = 1.5
"""A submission whose block does not come places its transactions again after this long."""

FINAL_CODES: Final = frozenset({"ledger.tx.wrong_chain", "ledger.tx.bad_signature", "ledger.tx.expired"})
"""Refusals of a well-formed transaction that no further block can change; any other one only the leader can give for good, and only when
it has made sure that it still leads and that its replica holds all that is committed."""

Wait = Literal["none", "admitted", "committed"]
Fate = Literal["committed", "admitted", "refused", "unknown"]
STATUSES: Final[tuple[Fate, ...]] = ("committed", "admitted", "refused", "unknown")


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of one transaction."""

    tx_id: Digest | None
    """None when the bytes hold no transaction."""
    status: Fate
    """`unknown`: admitted somewhere, and not seen in a block within the time the caller gave."""
    height: int | None = None
    """The block's height, when committed."""
    error: PatchwardenError | None = None
    """Why it was refused, or what kept it from being known."""


Forward = Callable[[Sequence[bytes], float], Awaitable[list[Submitted]]]
"""Passes transactions on to the leader; raises `UnavailableError` when there is none to reach."""


class Submitter:
    """Admits transactions on a node that leads, and passes them on from a node that does not."""

    def __init__(
        self,
        replica: LedgerReplica,
        mempool: Mempool,
        *,
        is_leader: Callable[[], bool],
        forward: Forward,
        mempool_grew: Callable[[], None],
        awaited_elsewhere: Callable[[], None] = lambda: None,
        why_waiting: Callable[[Digest], UnavailableError | None] = lambda _: None,
        wait_current: Callable[[], Awaitable[None]],
    ) -> None:
        """Admit into `mempool` while `is_leader`.

        Args:
            replica: This node's ledger.
            mempool: Where transactions wait for a block.
            is_leader: Whether this node builds blocks now.
            forward: Passes transactions on.
            mempool_grew: Called after transactions were admitted.
            awaited_elsewhere: Called before that when another node passed them on, and waits for their commit.
            why_waiting: Returns why a transaction that waits here is put into no block, where there is a reason.
            wait_current: Returns when this replica holds everything that was committed anywhere before the call; raises `UnavailableError`
                when nobody confirms it. Called by a node that leads.
        """
        self._replica = replica
        self._mempool = mempool
        self._is_leader = is_leader
        self._forward = forward
        self._mempool_grew = mempool_grew
        self._awaited_elsewhere = awaited_elsewhere
        self._why_waiting = why_waiting
        self._wait_current = wait_current
        self._waits: dict[trio.CancelScope, None] = {}
        self._leader_known = trio.Event()
        self._leader_changes = 0
        self._under_way = 0
        self._drained = trio.Event()
        self.open = True

    async def submit(self, raws: Sequence[bytes], *, wait: Wait, timeout_ms: int) -> list[Submitted]:
        """Return what became of each transaction, in order. A refusal of one does not touch the others.

        Raises:
            RejectedError: Too many at once (`node.submit.too_many`).
            UnavailableError: This node is stopping (`node.stopping`), or no leader could be reached in time (`node.no_leader`).
        """
        if len(raws) > SUBMIT_TRANSACTIONS_MAX:
            raise RejectedError(
                "node.submit.too_many",
                "a submission holds too many transactions",
                expected=f"at most {SUBMIT_TRANSACTIONS_MAX}",
                actual=len(raws),
            )
        deadline = trio.current_time() + min(timeout_ms, WAIT_TIMEOUT_MS_MAX) / 1000
        self._under_way += 1
        try:
            leads = self._is_leader()
            results, pending = await self._check(raws, leads=leads)
            if pending:
                await self._place(pending, results, wait=wait, deadline=deadline, led=leads)
        finally:
            self._under_way -= 1
            self._drained.set()
        return [result if result is not None else _unknown(None) for result in results]

    async def admit(self, raws: Sequence[bytes]) -> list[Submitted]:
        """Admit transactions that another node passed on; this node must lead.

        Raises:
            UnavailableError: This node does not lead (`node.not_leader`) or is stopping.
        """
        if not self._is_leader():
            raise UnavailableError("node.not_leader", "this node does not lead", hint="submit to the leader, or retry")
        results, pending = await self._check(raws, leads=True)
        self._awaited_elsewhere()
        self._admit_checked(pending, results)
        return [result if result is not None else _unknown(None) for result in results]

    def leader_changed(self) -> None:
        """Place what waits for its block again at once: another node leads now, and what the last one had may be gone with it."""
        self._leader_changes += 1
        for scope in self._waits:
            scope.cancel()
        self._leader_known.set()

    async def run(self) -> None:
        """Pass on what was admitted here whenever another node begins to lead, until cancelled."""
        while True:
            await self._leader_known.wait()
            self._leader_known = trio.Event()
            await self.hand_on()

    async def hand_on(self) -> None:
        """Return when everything that was admitted here waits at the node that leads now, or this node leads itself."""
        while not self._is_leader() and (batch := self._mempool.take(HAND_ON_BYTES_MAX, SUBMIT_TRANSACTIONS_MAX)):
            try:
                answers = await self._forward([transaction.raw for transaction in batch], FORWARD_TIMEOUT_S)
            except UnavailableError:
                answers = []
            settled = [t.tx_id for t, answer in zip(batch, answers, strict=False) if _is_settled(answer)]
            self._mempool.remove(settled)
            if not settled:
                await self._pause(FORWARD_RETRY_S)

    async def drain(self) -> None:
        """Return when every submission that is under way has its answer; the caller sets the deadline."""
        while self._under_way:
            self._drained = trio.Event()
            await self._drained.wait()

    @contextmanager
    def _until_leader_changes(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Cancel the body after so many seconds, or when another node begins to lead."""
        with trio.move_on_after(seconds) as scope:
            self._waits[scope] = None
            try:
                yield scope
            finally:
                del self._waits[scope]

    async def _pause(self, seconds: float) -> None:
        with self._until_leader_changes(seconds):
            await trio.sleep_forever()

    async def _check(
        self, raws: Sequence[bytes], *, leads: bool
    ) -> tuple[list[Submitted | None], list[tuple[int, Transaction]]]:
        """Decode and check each; return results for those that are settled, and the rest by position.

        A node that does not lead may be some blocks behind: what it finds wrong only by its own state, it leaves to the leader.
        """
        if not self.open:
            raise UnavailableError("node.stopping", "this node is stopping", hint="submit to another node")
        if not self._replica.store.store.has_space():
            raise UnavailableError(
                "node.disk_low",
                "this node admits nothing while its disk is nearly full; it still answers questions",
                hint="free space on the node's disk, or submit to another node",
            )
        results: list[Submitted | None] = [None] * len(raws)
        pending: list[tuple[int, Transaction]] = []
        for index, raw in enumerate(raws):
            try:
                transaction = decode_transaction_untrusted(raw)
            except RejectedError as error:
                results[index] = Submitted(None, "refused", error=error)
                continue
            if (known := self._find_committed(transaction.tx_id)) is not None:
                results[index] = known
            else:
                pending.append((index, transaction))
        await self._replica.verify_transactions(
            self._replica.store, [t for _, t in pending if t.tx_id not in self._mempool]
        )
        new = [(index, transaction) for index, transaction in pending if transaction.tx_id not in self._mempool]
        waiting = [(index, transaction) for index, transaction in pending if transaction.tx_id in self._mempool]
        return results, sorted(waiting + await self._settle(new, results, leads=leads), key=itemgetter(0))

    async def _settle(
        self, pending: list[tuple[int, Transaction]], results: list[Submitted | None], *, leads: bool
    ) -> list[tuple[int, Transaction]]:
        """Settle what is committed already or refused for good; return the rest."""
        good, doubtful = self._sort(pending, results)
        if leads and doubtful:
            # Another node may have acknowledged what makes these good: this one's disk may be behind, or its leadership over.
            try:
                await self._wait_current()
            except UnavailableError as error:
                for index, (transaction, _) in doubtful.items():
                    results[index] = self._find_committed(transaction.tx_id) or _unknown(transaction.tx_id, error)
                return good
            good_now, doubtful = self._sort([(index, each) for index, (each, _) in doubtful.items()], results)
            for index, (transaction, refusal) in doubtful.items():
                results[index] = Submitted(transaction.tx_id, "refused", error=refusal)
            return sorted(good + good_now, key=itemgetter(0))
        return sorted(good + [(index, each) for index, (each, _) in doubtful.items()], key=itemgetter(0))

    def _sort(
        self, pending: list[tuple[int, Transaction]], results: list[Submitted | None]
    ) -> tuple[list[tuple[int, Transaction]], dict[int, tuple[Transaction, RejectedError]]]:
        """Settle what is committed already or never can be; return what is good here, and what only this replica's state speaks against."""
        admission = Admission(self._replica.store)
        good: list[tuple[int, Transaction]] = []
        doubtful: dict[int, tuple[Transaction, RejectedError]] = {}
        for index, transaction in pending:
            try:
                admission.check(transaction, verified=self._replica.is_verified(transaction))
            except RejectedError as error:
                # It may have been committed while its signature was verified: then it is no duplicate but done.
                known = self._find_committed(transaction.tx_id)
                if known is None and error.code not in FINAL_CODES:
                    doubtful[index] = transaction, error
                else:
                    results[index] = known or Submitted(transaction.tx_id, "refused", error=error)
            else:
                good.append((index, transaction))
        return good, doubtful

    def _admit_checked(self, pending: list[tuple[int, Transaction]], results: list[Submitted | None]) -> None:
        for index, transaction in pending:
            try:
                if transaction.tx_id not in self._mempool:
                    self._mempool.add(transaction)
                results[index] = Submitted(transaction.tx_id, "admitted")
            except (RejectedError, UnavailableError) as error:
                results[index] = Submitted(transaction.tx_id, "refused", error=error)
        self._mempool_grew()

    async def _place(
        self,
        pending: list[tuple[int, Transaction]],
        results: list[Submitted | None],
        *,
        wait: Wait,
        deadline: float,
        led: bool,
    ) -> None:
        """Bring transactions to whoever leads, again whenever that changes, until they are where the caller wants them.

        `led` says whether this node led when it checked them.
        """
        while pending:
            changes = self._leader_changes
            try:
                await self._place_once(pending, results, deadline, led=led)
            except UnavailableError as error:
                if trio.current_time() + FORWARD_RETRY_S >= deadline:
                    for index, transaction in pending:
                        results[index] = self._find_committed(transaction.tx_id) or _unknown(transaction.tx_id, error)
                    return
                await self._pause(FORWARD_RETRY_S)
                continue
            pending = [(i, t) for i, t in pending if (r := results[i]) is not None and r.status == "admitted"]
            if wait != "committed":
                return
            # Whom the transactions were brought to may have ceased to lead before the answer was here.
            if self._leader_changes == changes and not await self._wait_committed(pending, results, deadline):
                return
            # What was committed or became invalid meanwhile is settled; the rest is placed again.
            led = self._is_leader()
            pending = await self._settle(pending, results, leads=led)

    async def _place_once(
        self, pending: list[tuple[int, Transaction]], results: list[Submitted | None], deadline: float, *, led: bool
    ) -> None:
        if self._is_leader():
            # It may have begun to lead since it checked, and then it has to decide what it had left to the leader.
            self._admit_checked(pending if led else await self._settle(pending, results, leads=True), results)
            return
        timeout_s = max(FORWARD_RETRY_S, min(FORWARD_TIMEOUT_S, deadline - trio.current_time()))
        answers = await self._forward([t.raw for _, t in pending], timeout_s)
        unknown = next((answer for answer in answers if answer.status == "unknown"), None)
        if unknown is not None:
            # A validator that passed on for us reached nobody; those it did bring there may be brought again.
            raise UnavailableError(*_reason(unknown))
        for (index, transaction), answer in zip(pending, answers, strict=True):
            # What the leader calls committed may not have reached this node: its height counts when it has.
            if answer.status == "refused":
                results[index] = answer
            else:
                results[index] = self._find_committed(transaction.tx_id) or Submitted(transaction.tx_id, "admitted")

    async def _wait_committed(
        self, pending: list[tuple[int, Transaction]], results: list[Submitted | None], deadline: float
    ) -> bool:
        """Wait for the blocks of `pending`; return True when some must be placed again.

        They must when another node begins to lead, and when no block took them for a while: their leader may have fallen unnoticed, or
        have found them invalid when it built its block.
        """
        for index, transaction in pending:
            left_s = max(0.0, min(PLACE_AGAIN_S, deadline - trio.current_time()))
            with self._until_leader_changes(left_s) as waiting:
                await self._replica.wait_transaction(transaction.tx_id)
            if not waiting.cancelled_caught:
                results[index] = self._find_committed(transaction.tx_id)
            elif trio.current_time() < deadline:
                return True
            else:
                error = self._why_waiting(transaction.tx_id) or UnavailableError(
                    "node.submit.timeout",
                    "the transaction was not committed in time; it may still be",
                    hint="submit it again, or ask with `patchwarden tx wait`",
                )
                results[index] = _unknown(transaction.tx_id, error)
        return False

    def _find_committed(self, tx_id: Digest) -> Submitted | None:
        location = self._replica.latest_view().location(tx_id)
        return None if location is None else Submitted(tx_id, "committed", height=location.height)


def _is_settled(answer: Submitted) -> bool:
    """Return whether the leader has the transaction now, or will never take it."""
    return answer.status in ("admitted", "committed") or (
        answer.status == "refused" and isinstance(answer.error, RejectedError)
    )


def _unknown(tx_id: Digest | None, error: PatchwardenError | None = None) -> Submitted:
    return Submitted(tx_id, "unknown", error=error)


def _reason(result: Submitted) -> tuple[str, str]:
    if result.error is None:
        return "node.no_leader", "a peer could not bring the transaction to a leader"
    return result.error.code, result.error.message
