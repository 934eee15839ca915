"""The executed tail of the chain: what is committed in the store, and the blocks above it that may still be truncated.

::

    store (committed) ← layer h+1 ← layer h+2 ← … ← tip

Each layer holds the writes of one executed block and reads through to the one below. A commit writes the lowest layers to the store and
then
relinks the next one, so a chain that never rests does not grow. Nothing here does I/O of its own or runs anywhere but on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger.keyspace import Reader, Table, WriteSet
from ledger.transition import Executed
from wire.hashing import Digest


class Layer:
    """The ledger after one uncommitted block: its own writes above the ledger before it."""

    __slots__ = ("_below", "executed")

    def __init__(self, below: Reader, executed: Executed) -> None:
        self._below = below
        self.executed = executed

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the record, or None where there is none."""
        writes: WriteSet = self.executed.writes
        pair = (table, key)
        return writes[pair] if pair in writes else self._below.get(table, key)

    def relink(self, below: Reader) -> None:
        """Read through to `below` from now on; it holds what the released layers held."""
        self._below = below


class Chain:
    """The layers above a store whose committed tip is at `committed_height`."""

    def __init__(self, store: Reader, committed_height: int, committed_hash: Digest, committed_time_ms: int) -> None:
        self._store = store
        self._committed_time_ms = committed_time_ms
        self._layers: dict[int, Layer] = {}
        self.committed_height = committed_height
        self._committed_hash = committed_hash

    @property
    def tip_height(self) -> int:
        """The height of the highest executed block."""
        return self.committed_height + len(self._layers)

    @property
    def tip_time_ms(self) -> int:
        """The time of the highest executed block, milliseconds since epoch, UTC."""
        layer = self._layers.get(self.tip_height)
        return self._committed_time_ms if layer is None else layer.executed.block.header.time_ms

    def tip(self) -> Reader:
        """Return the ledger after the highest executed block."""
        return self._layers.get(self.tip_height, self._store)

    def find_hash(self, height: int) -> Digest | None:
        """Return the hash of the executed block at `height` if it is the committed tip or above it."""
        if height == self.committed_height:
            return self._committed_hash
        layer = self._layers.get(height)
        return layer.executed.block_hash if layer else None

    def push(self, executed: Executed) -> None:
        """Put `executed`, which was executed on `tip()`, on top."""
        height = executed.block.header.height
        assert height == self.tip_height + 1, "a block was executed on something other than the tip"
        self._layers[height] = Layer(self.tip(), executed)

    def take_from(self, height: int) -> list[Executed]:
        """Remove and return every uncommitted block at `height` and above, the lowest first."""
        assert height > self.committed_height, "a committed block cannot be truncated"
        return [self._layers.pop(number).executed for number in range(height, self.tip_height + 1)]

    def executed(self, height: int) -> Executed:
        """Return the uncommitted block at `height`, which was executed."""
        return self._layers[height].executed

    def find_raw(self, height: int) -> bytes | None:
        """Return the encoded block at `height` if it was executed and is not committed."""
        layer = self._layers.get(height)
        return layer.executed.block.raw if layer else None

    def executed_between(self, above: int, height: int) -> Iterator[Executed]:
        """Yield the uncommitted blocks above `above` up to `height`, the lowest first."""
        for number in range(above + 1, height + 1):
            yield self._layers[number].executed

    def release_through(self, height: int) -> None:
        """Forget the layers up to `height`: the store holds their writes durably."""
        for released in range(self.committed_height + 1, height + 1):
            executed = self._layers.pop(released).executed
            self._committed_hash, self._committed_time_ms = executed.block_hash, executed.block.header.time_ms
        self.committed_height = height
        if above := self._layers.get(height + 1):
            above.relink(self._store)
