"""What a patch with a diff of 100 MB takes to make, verify and apply: `python -m tests.bench.large_patch`, or `make large`.

Each step runs in a process of its own, whose peak of memory (VmHWM) is told beside the bound: three times the diff, and 100 MiB. `apply`
is what the agent does with a file that it has: verify, judge and plan against a real tree, and stage the new one beside it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import httpx

from agent.files import Files
from agent.inventory import open_root, take_inventory
from agent.plan import make_plan
from agent.stage import stage_tree
from node.cli.main import main as command_line
from node.cli.patch_transfer import receive_patch, send_patch
from node.cli.rpc import RpcClient
from node.keystore import save_key
from node.local.protocol import decode_blob_untrusted, encode_blob
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches

ROOM_MIB = 100
STEPS = (
    "create",
    "verify",
    "verify --base",
    "apply",
    "attest",
    "seal",
    "show",
    "lint",
    "extract",
    "extract --part diff",
    "send",
    "receive",
)


class Shape(StrEnum):
    """What the diff does."""

    ADDED = "added"
    """Files of about a megabyte are added."""
    CHANGED = "changed"
    """Every tenth line of source files is changed, so that most of what the diff shows is context."""


def _line(number: int) -> bytes:
    return b"    value_%08d = compute(%d, %d);  /* some text */\n" % (number, number * 7, number * 13)


def _added(index: int, base: Path) -> bytes:
    del base
    lines = [_line(index * 20_000 + number) for number in range(20_000)]
    name = b"src/added%05d.c" % index
    header = b"diff --git a/%s b/%s\nnew file mode 100644\n--- /dev/null\n+++ b/%s\n@@ -0,0 +1,%d @@\n"
    return header % (name, name, name, len(lines)) + b"".join(b"+" + line for line in lines)


def _changed(index: int, base: Path) -> bytes:
    lines = [_line(index * 2000 + number) for number in range(2000)]
    (base / "src" / f"changed{index:05}.c").write_bytes(b"".join(lines))
    name = b"src/changed%05d.c" % index
    pieces = [b"diff --git a/%s b/%s\n--- a/%s\n+++ b/%s\n" % (name, name, name, name)]
    for at in range(5, 1990, 10):
        pieces.append(b"@@ -%d,7 +%d,7 @@\n" % (at - 2, at - 2))
        pieces += [b" " + line for line in lines[at - 3 : at]]
        pieces += [b"-" + lines[at], b"+" + lines[at].replace(b"value", b"other")]
        pieces += [b" " + line for line in lines[at + 1 : at + 4]]
    return b"".join(pieces)


def make_inputs(directory: Path, shape: Shape, size: int) -> int:
    """Write a tree, a diff of at least `size` bytes for it and a key; return the diff's size."""
    base = directory / "base"
    for name in ("src", "tests"):
        (base / name).mkdir(parents=True)
    (base / "tests" / "test.c").write_bytes(b"assert\n")
    save_key(directory / "author.key", patches.ALICE)
    save_key(directory / "reviewer.key", patches.BOB)
    make = {Shape.ADDED: _added, Shape.CHANGED: _changed}[shape]
    written = index = 0
    with (directory / "large.diff").open("wb") as stream:
        while written < size:
            written += stream.write(make(index, base))
            index += 1
    return written


def run_step(step: str, directory: Path) -> None:
    """Do one step, and print this process's peak of memory in KiB."""
    patch = directory / "large.patch"
    match step:
        case "create":
            arguments = [
                "--diff",
                str(directory / "large.diff"),
                "--base",
                str(directory / "base"),
                "--out",
                str(patch),
            ]
            arguments += ["--reason", "Large", "--category", "feature", "--component", "large"]
            arguments += ["--author", "Alice <alice@acme.example>", "--key", str(directory / "author.key")]
            _command("patch", "create", *arguments)
        case "verify":
            _command("patch", "verify", str(patch))
        case "verify --base":
            _command("patch", "verify", str(patch), "--base", str(directory / "base"))
        case "apply":
            _apply(patch, directory)
        case "attest":
            words = ["--role", "security-review", "--verdict", "approve", "--identity", "bob@beta"]
            _command("patch", "attest", str(patch), *words, "--key", str(directory / "reviewer.key"))
        case "seal":
            _command("patch", "seal", str(patch), "--identity", "alice@acme", "--key", str(directory / "author.key"))
        case "show":
            _command("patch", "show", str(patch))
        case "lint":
            _command("patch", "lint", str(patch))
        case "extract":
            (directory / "document.json").unlink(missing_ok=True)
            _command("patch", "extract", str(patch), "--out", str(directory / "document.json"))
        case "extract --part diff":
            (directory / "again.diff").unlink(missing_ok=True)
            _command("patch", "extract", str(patch), "--part", "diff", "--out", str(directory / "again.diff"))
        case "send":
            _send(patch)
        case "send as text":
            _send(patch, wastes=True)
        case "receive":
            verify_patch_untrusted(receive_patch(_connection(patch), "ab" * 32))
        case "waste":
            assert wasted_lines(directory)
        case _:
            pass  # what a process has without any patch
    print(f"peak {_peak_kib()}")


def wasted_lines(directory: Path) -> list[list[bytes]]:
    """Return the lines of the diff as objects, several times: what must not happen, for a test that can fail."""
    lines = (directory / "large.diff").read_bytes().split(b"\n")
    return [[marker + line for line in lines] for marker in (b" ", b"+", b"-", b"=", b"#", b"!")]


def _command(*arguments: str) -> None:
    sys.argv = ["patchwarden", *arguments]
    try:
        command_line()
    except SystemExit as end:
        # `lint` finds that nobody reads so many lines.
        if end.code not in (None, 0) and (arguments[1], end.code) != ("lint", 1):
            raise


def _apply(patch_file: Path, directory: Path) -> None:
    patch = verify_patch_untrusted(patch_file.read_bytes())
    staged = directory / "staged"
    shutil.rmtree(staged, ignore_errors=True)
    root = open_root(str(directory / "base"))
    inventory = take_inventory(root)
    stage_tree(Files(), root, inventory, make_plan(patch, root, inventory), str(staged))


def _send(patch_file: Path, *, wastes: bool = False) -> None:
    """What `patch publish` does with the file: verify it, and send what was published of it."""
    patch = verify_patch_untrusted(patch_file.read_bytes())
    client = _connection(patch_file)
    if wastes:
        text = encode_blob(patch.file.raw)
        copy = decode_blob_untrusted(text, "file", bytes_max=len(patch.file.raw))
        client.send_file("patches.put", copy + b"\n", lambda done, total: None, patch_id=patch.patch_id)
    send_patch(client, memoryview(patch.file.raw), patch.patch_id)


class _Forgetful(httpx.BaseTransport):
    """A node that forgets what it gets, and gives one file; httpx's own transport for tests would hold it whole.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer to a request."""
        if request.method == "GET":
            return httpx.Response(200, content=self._pieces())
        assert isinstance(request.stream, httpx.SyncByteStream)
        for _ in request.stream:
            pass
        return httpx.Response(200, json={"patch_id": "ab" * 32})

    def _pieces(self) -> Iterator[bytes]:
        with self._path.open("rb") as stream:
            while piece := stream.read(1 << 18):
                yield piece


def _connection(patch_file: Path) -> RpcClient:
    return RpcClient("http://127.0.0.1:1", transport=_Forgetful(patch_file))


def _peak_kib() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def peak_kib(output: str) -> int:
    """Return the peak that a step has printed, in KiB."""
    return int(output.rsplit("peak ", 1)[1])


def describe(step: str, size: int, peak: int, seconds: float) -> str:
    """Return one line of the answer."""
    bound = (3 * size + ROOM_MIB * 1024 * 1024) // (1024 * 1024)
    return f"{step}  diff {size / 1e6:.1f} MB  peak {peak // 1024} MiB (bound {bound})  {seconds:.1f} s"


def measure(shape: Shape, size: int) -> Iterator[str]:
    """Yield one line for each step."""
    with tempfile.TemporaryDirectory(prefix="patchwarden-large-") as name:
        directory = Path(name)
        written = make_inputs(directory, shape, size)
        for step in STEPS:
            begin = time.monotonic()
            command = [sys.executable, "-m", "tests.bench.large_patch", "--step", step, "--directory", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            yield f"{shape:<8} {describe(step, written, peak_kib(done.stdout), time.monotonic() - begin)}"


def main() -> None:
    """Measure both shapes, or do the one step that this process was started for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=100_000_000)
    parser.add_argument("--step")
    parser.add_argument("--directory", type=Path)
    given = parser.parse_args()
    if given.step is not None:
        run_step(given.step, given.directory)
        return
    for shape in Shape:
        for line in measure(shape, given.bytes):
            print(line, flush=True)


if __name__ == "__main__":
    main()
