"""Ways to hurt a store that nobody has open: rows, single bits of LevelDB's files, whole parts of them."""

from __future__ import annotations

import struct
from pathlib import Path

import plyvel

from node.storage.checks import row_key


def database_of(data: Path) -> Path:
    """Return the directory of the database in use."""
    pointer = data / "DATABASE"
    return data / (pointer.read_text().strip() if pointer.exists() else "db")


def damage_row(data: Path, table: int, key: bytes) -> None:
    """Flip a bit of one row's stored value; LevelDB's own checksums are right."""
    with plyvel.DB(str(database_of(data))) as database:
        stored = database.get(row_key(table, key))
        assert stored is not None, "there is no such row"
        database.put(row_key(table, key), stored[:-1] + bytes((stored[-1] ^ 1,)), sync=True)


def remove_row(data: Path, table: int, key: bytes) -> None:
    """Take one row away behind the store's back."""
    with plyvel.DB(str(database_of(data))) as database:
        assert database.get(row_key(table, key)) is not None, "there is no such row"
        database.delete(row_key(table, key), sync=True)


def compact(data: Path) -> None:
    """Bring all rows from LevelDB's log into its table files."""
    with plyvel.DB(str(database_of(data)), compression=None) as database:
        database.compact_range()


def flip_bit_of_row(data: Path, table: int, key: bytes, *, before_value: int | None = None) -> None:
    """Flip one bit of a row where it lies in a table file, so that LevelDB's checksum of the block around it is wrong as well.

    The row's value must be long enough to be found by its bytes. The bit is in the middle of the value, or in the byte that stands so
    many bytes before it: 1 to 8 are LevelDB's number of the write, 9 is the last byte of the key.
    """
    compact(data)
    with plyvel.DB(str(database_of(data))) as database:
        stored = database.get(row_key(table, key))
    assert stored is not None
    assert len(stored) >= 12
    for file in sorted(database_of(data).glob("*.ldb")):
        content = bytearray(file.read_bytes())
        place = content.find(stored)
        if place >= 0:
            content[place + len(stored) // 2 if before_value is None else place - before_value] ^= 0x10
            file.write_bytes(content)
            return
    raise AssertionError("the row was not found in any table file")


def destroy_block_of_row(data: Path, table: int, key: bytes) -> None:
    """Overwrite the type byte and everything else of the block in which a row lies, so that nothing in it can be read."""
    compact(data)
    with plyvel.DB(str(database_of(data))) as database:
        stored = database.get(row_key(table, key))
    assert stored is not None
    for file in sorted(database_of(data).glob("*.ldb")):
        content = bytearray(file.read_bytes())
        place = content.find(stored)
        if place >= 0:
            for start, size in _blocks(bytes(content)):
                if start <= place < start + size:
                    content[start : start + size + 5] = b"\xff" * (size + 5)
                    file.write_bytes(content)
                    return
    raise AssertionError("the row was not found in any table file")


def _blocks(content: bytes) -> list[tuple[int, int]]:
    """Return offset and size of every data block of a LevelDB table file."""
    footer = content[-48:]
    assert struct.unpack("<Q", footer[-8:])[0] == 0xDB4775248B80FB57, "not a LevelDB table"
    _, position = _varint(footer, 0)
    _, position = _varint(footer, position)
    index_offset, position = _varint(footer, position)
    index_size, _ = _varint(footer, position)
    index = content[index_offset : index_offset + index_size]
    restarts = struct.unpack("<I", index[-4:])[0]
    end = len(index) - 4 - 4 * restarts
    found, at = [], 0
    while at < end:
        _, at = _varint(index, at)
        unshared, at = _varint(index, at)
        _, at = _varint(index, at)
        at += unshared
        offset, at = _varint(index, at)
        size, at = _varint(index, at)
        found.append((offset, size))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
