"""Bringing the outbox to the ledger: in order, each record at its place in the host's chain, again and again until it is there.

======================================  ========================================================================
what the replica or a validator says    what is done
======================================  ========================================================================
the record stands on the ledger         delivered
another place is free than its own      everything that waits is signed again from where the ledger stands
it expired, by the replica's height     the same: that transaction can never execute any more
not now (unavailable, suspended, …)     it waits; what comes after waits too
refused for good                        kept in the log as refused; what comes after is signed again; of a change that the
                                        ledger will never have, a drift is queued in the same record
======================================  ========================================================================

Source: docs/spec/agent.md 7.2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

import trio

from agent.access import LedgerAccess
from agent.documents import unrecorded_body
from agent.errors import OutboxError
from agent.limits import SETTLED_ENTRIES_KEPT
from agent.outbox import FIRST_PREVIOUS, ChainHead, Entry, HostBody, Outbox, Signer
from ledger.bodies import DeploymentOutcome, HostReport
from ledger.rules_host import EFFECTIVE
from ledger.state import StateView
from wire.errors import RejectedError, UnavailableError

T = TypeVar("T")

WAITING_CODES: Final = frozenset(
    {
        "ledger.tx.duplicate",  # It is on the ledger; the replica will show it.
        "ledger.tx.expired",  # Only the replica's own height proves that; another node may be ahead.
        "ledger.tx.unknown_signer",  # The host is not registered yet.
        "ledger.tx.signer_suspended",
        "ledger.tx.organisation_suspended",
        "ledger.tx.key_not_valid",
        "ledger.tx.not_authorised",
        "ledger.host.counter_gap",  # Our place is taken or not free yet: the replica will show which.
        "ledger.host.wrong_previous",
    }
)
"""Refusals that an administrator or time can lift: the record stays and waits."""
ATTEMPTS_MAX: Final = 8
"""Times that everything is signed again in one delivery before it is given up until the next."""


class Delivery:
    """The way of one host's records to the ledger. One delivery at a time; whoever comes second waits for the first.

    The outbox is written in a thread, because it waits for the disk, and under one lock.

    Args:
        outbox: What waits. Nobody else writes to it.
        ledger: Where it goes.
        host: The host's identity id.
        sign: Signs a body for delivery now.
    """

    def __init__(self, outbox: Outbox, ledger: LedgerAccess, host: str, sign: Signer) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._host = host
        self._sign = sign
        self._delivering = trio.Lock()
        self._writing = trio.Lock()
        self._wake = trio.Event()
        self._settled: OrderedDict[int, Entry] = OrderedDict()

    def find_settled(self, sequence: int) -> Entry | None:
        """Return what was delivered or refused for good under this sequence lately, in its last form, or None."""
        return self._settled.get(sequence)

    async def queue(self, body: HostBody, *, closes: int | None = None, owed: bool = False) -> Entry:
        """Return the entry of `body`, signed for the next place of the host's chain and durable.

        Args:
            body: What to tell; counter, previous and intent_tx_id are filled in.
            closes: The open intent that an outcome closes.
            owed: Whether it tells of what was done already, after there was room for it.

        Raises:
            OutboxError: ``agent.outbox.full``.
            StateCorruptError: ``agent.state.append``.
        """
        ledger_head = _ledger_head(self._ledger.view(), self._host)

        def write() -> Entry:
            # A new outbox begins where the ledger says the host stands; one that was restored from a backup goes on there too.
            is_chain_empty = all(isinstance(each.body, HostReport) for each in self._outbox.pending)
            if is_chain_empty and ledger_head.counter > self._outbox.head.counter:
                self._outbox.sign_again(ledger_head, self._sign)
            return self._outbox.queue(body, self._sign, closes=closes, owed=owed)

        entry = await self._write(write)
        self._wake.set()
        return entry

    async def wait_queued(self) -> None:
        """Return when something may have been queued since the last call."""
        await self._wake.wait()
        self._wake = trio.Event()

    async def deliver(self, timeout_s: float, until: int | None = None) -> None:
        """Return when nothing waits any more, or nothing up to the record with sequence `until`.

        Args:
            timeout_s: How long one record may take.
            until: A sequence, or None for everything.

        Raises:
            OutboxError: ``agent.ledger.unavailable``, or the ledger's own code where it refuses for now.
            StateCorruptError: ``agent.state.append``.
        """
        async with self._delivering:
            signed_again = 0
            while (entry := self._next(until)) is not None:
                view = self._ledger.view()
                location = view.location(entry.transaction.tx_id)
                if location is not None:
                    await self._mark_delivered(entry, location.height)
                    continue
                if not self._is_in_place(entry, view):
                    signed_again += 1
                    if signed_again > ATTEMPTS_MAX:
                        raise OutboxError(
                            "agent.outbox.unstable",
                            "the host's chain of records moves while it is written",
                            hint=_SHARED,
                        )
                    head = _ledger_head(view, self._host)
                    await self._write(partial(self._outbox.sign_again, head, self._sign))
                    continue
                await self._send(entry, timeout_s)
                signed_again = 0

    def is_first_on_ledger(self) -> bool:
        """Return whether the replica shows the oldest record that waits, as when somebody has carried it to the ledger."""
        entry = self._next(None)
        return entry is not None and self._ledger.view().location(entry.transaction.tx_id) is not None

    def _next(self, until: int | None) -> Entry | None:
        pending = self._outbox.pending
        return pending[0] if pending and (until is None or pending[0].sequence <= until) else None

    def _is_in_place(self, entry: Entry, view: StateView) -> bool:
        """Return whether the record, which is not on the ledger, can be executed as it is signed."""
        if view.height >= entry.transaction.not_after_height:
            return False
        if isinstance(entry.body, HostReport):
            return True
        head = _ledger_head(view, self._host)
        if head.counter < self._outbox.delivered_counter:
            # Signing for a place that is taken would tell the same thing twice, so wait until the replica has caught up.
            raise OutboxError(
                "agent.outbox.replica_behind",
                "the replica lacks records that this host has delivered",
                expected=f"counter {self._outbox.delivered_counter}",
                actual=head.counter,
            )
        return head == ChainHead(entry.body.counter - 1, entry.body.previous)

    async def _send(self, entry: Entry, timeout_s: float) -> None:
        transaction = entry.transaction
        try:
            with trio.fail_after(timeout_s):
                await self._ledger.submit(transaction.raw)
                committed = await self._ledger.wait_receipt(transaction.tx_id, timeout_s)
        except RejectedError as error:
            if error.code in WAITING_CODES:
                raise OutboxError(error.code, error.message, hint=error.hint, details=error.details) from error
            instead: HostReport | None = None
            if isinstance(entry.body, DeploymentOutcome) and entry.body.result in EFFECTIVE:
                # The tree was changed all the same, and somebody must hear of it.
                instead = HostReport("drift", entry.body.target, unrecorded_body(entry.body, error.code))
            refuse = partial(self._outbox.mark_refused, entry.sequence, error.code, error.message, self._sign)
            await self._write(partial(refuse, instead=instead))
            self._remember(replace(entry, refusal=(error.code, error.message)))
            self._wake.set()
        except (UnavailableError, trio.TooSlowError) as error:
            reason = error.message if isinstance(error, UnavailableError) else f"no answer in {timeout_s:g} s"
            raise OutboxError(
                "agent.ledger.unavailable", f"a record could not be put on the ledger: {reason}"
            ) from error
        else:
            await self._mark_delivered(entry, committed.height)

    async def _mark_delivered(self, entry: Entry, height: int) -> None:
        await self._write(partial(self._outbox.mark_delivered, entry.sequence, height))
        self._remember(replace(entry, height=height))

    def _remember(self, entry: Entry) -> None:
        self._settled[entry.sequence] = entry
        if len(self._settled) > SETTLED_ENTRIES_KEPT:
            self._settled.popitem(last=False)

    async def _write(self, change: Callable[[], T]) -> T:
        async with self._writing:
            return await trio.to_thread.run_sync(change)


_SHARED: Final = "make sure that no second agent uses this host's identity"


def _ledger_head(view: StateView, host: str) -> ChainHead:
    record = view.host(host)
    return ChainHead(0, FIRST_PREVIOUS) if record is None else ChainHead(record.counter, record.last_tx_id)
