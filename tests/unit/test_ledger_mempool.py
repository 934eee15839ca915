"""The waiting room: bounded in every way, in order of arrival, each transaction once."""

from __future__ import annotations

import pytest

from ledger import bodies
from ledger.errors import NotYetAvailableError
from ledger.mempool import Mempool
from ledger.transaction import Transaction, build_transaction
from tests.testkit.ledger import key_of
from wire.errors import UnavailableError


def make(number: int, signer: str = "a", not_after: int = 9, size: int = 0) -> Transaction:
    body = bodies.HostReport("inventory", "site", bytes(size))
    return build_transaction("net", body.KIND, body, key_of(signer), number.to_bytes(16, "big"), not_after, 0)


def test_transactions_wait_in_order_of_arrival_until_they_are_removed() -> None:
    pool = Mempool()
    transactions = [make(number) for number in (3, 1, 2)]
    assert [pool.add(each) for each in transactions] == [True, True, True]
    assert pool.take() == pool.take() == tuple(transactions)
    assert len(pool) == 3
    assert pool.bytes_waiting == sum(len(each.raw) for each in transactions)
    assert transactions[0].tx_id in pool
    assert pool.find(transactions[1].tx_id) is transactions[1]
    pool.remove([transactions[1].tx_id, b"unknown"])
    assert pool.take() == (transactions[0], transactions[2])
    assert transactions[1].tx_id not in pool
    assert pool.find(transactions[1].tx_id) is None
    pool.remove([each.tx_id for each in transactions])
    assert (len(pool), pool.bytes_waiting) == (0, 0)


def test_a_transaction_waits_once() -> None:
    pool = Mempool(transactions_max=1)
    transaction = make(1)
    assert pool.add(transaction) is True
    assert pool.add(transaction) is False
    assert len(pool) == 1


def refused(pool: Mempool, transaction: Transaction) -> str:
    before = pool.take(), pool.bytes_waiting
    with pytest.raises(NotYetAvailableError) as error:
        pool.add(transaction)
    assert isinstance(error.value, UnavailableError)
    assert (pool.take(), pool.bytes_waiting) == before
    return error.value.code


def test_the_pool_is_bounded_in_count_and_bytes() -> None:
    pool = Mempool(transactions_max=2, per_signer_max=2)
    pool.add(make(1))
    pool.add(make(2))
    assert refused(pool, make(3)) == "ledger.mempool.full"
    pool.remove([make(1).tx_id])
    assert pool.add(make(3))
    size = len(make(1).raw)
    pool = Mempool(bytes_max=2 * size + 5)
    pool.add(make(1))
    assert refused(pool, make(2, size=200)) == "ledger.mempool.full"
    assert pool.add(make(3))


def test_one_signer_leaves_room_for_others() -> None:
    pool = Mempool(transactions_max=4)
    pool.add(make(1))
    pool.add(make(2))
    assert refused(pool, make(3)) == "ledger.mempool.signer_full"
    assert pool.add(make(4, "b"))
    pool.remove([make(1).tx_id])
    assert pool.add(make(3))


def test_taking_stops_at_both_limits() -> None:
    pool = Mempool()
    transactions = [make(number) for number in range(5)]
    for each in transactions:
        pool.add(each)
    size = len(transactions[0].raw)
    assert pool.take(count_max=2) == tuple(transactions[:2])
    assert pool.take(bytes_max=3 * size) == tuple(transactions[:3])
    assert pool.take(bytes_max=3 * size - 1) == tuple(transactions[:2])
    assert pool.take(count_max=0) == ()


def test_what_no_later_block_can_execute_is_forgotten() -> None:
    pool = Mempool()
    early, late = make(1, not_after=5), make(2, not_after=6)
    pool.add(early)
    pool.add(late)
    assert pool.expire(4) == ()
    assert pool.expire(5) == (early,)
    assert pool.take() == (late,)
