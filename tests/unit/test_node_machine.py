"""What a process asks of its machine at the start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from node.machine import LARGE_BLOCK_BYTES

BLOCK_BYTES = 8 * LARGE_BLOCK_BYTES
"""More than may be free at the end of the heap by chance: what fits there is put there, large or not."""
PROGRAM = """
import ctypes, sys
from node.machine import bound_fragmentation
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "bound":
    assert bound_fragmentation()
libc.free(libc.malloc(16 << 20))  # From here on glibc would put blocks up to this size into the heap.
block = libc.malloc(int(sys.argv[2]))
heap = next(line for line in open("/proc/self/maps") if "[heap]" in line).split()[0]
start, end = (int(text, 16) for text in heap.split("-"))
print(start <= block < end)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at the maps of a Linux process")
@pytest.mark.parametrize(("how", "in_heap"), [("bound", "False"), ("as it is", "True")])
def test_large_blocks_stay_out_of_the_heap(how: str, in_heap: str) -> None:
    """Guarded by `_MALLOC_OPTIONS` in `node.machine`; without them the second case holds for a node, too."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, str(BLOCK_BYTES)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == in_heap
