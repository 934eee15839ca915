"""What a patch of 10,000 files takes on a real network: `python -m tests.bench.large_network`, or `make large`.

A development network of real processes; a tree, a patch for most of its files, and everything that people and a host do with it, each by
the command that they would type, in a process of its own. Told for each step: how long it took, the peak of memory of the command, and of
the host's core, the first validator's core and their gateways while it ran.

`--bytes 100000000` sends a patch with a large diff the same way instead. What cannot be right ends it with exit code 1: a result that is
not the expected one, a tree that is not what `git apply` makes of it, and a peak of memory beyond the bound: three times the patch file and
100 MiB, for a node beside what it has when nothing is asked of it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.large_patch import ROOM_MIB, Shape, make_inputs
from tests.testkit.devnet import Devnet, running_devnet

TARGET = "many"
OTHER_FILES = 2_000
"""Files of the tree that the patch does not touch."""
HEIGHT_WAIT_S = 60.0


def make_many(directory: Path, count: int) -> int:
    """Write a tree and a diff that touches `count` files of it: four fifths change, an eighth is new, the rest goes; return its bytes."""
    base = directory / "base"
    (base / "tests").mkdir(parents=True)
    (base / "tests" / "test_all.py").write_bytes(b"assert True\n")
    pieces: list[bytes] = []
    changed, added = count * 4 // 5, count // 8
    for index in range(count + OTHER_FILES):
        name = f"lib/part{index % 97:02}/module{index:05}.py"
        lines = [f"VALUE_{number} = {index * 31 + number * 7}\n".encode() for number in range(12)]
        path = base / name
        if not changed <= index < changed + added:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(lines))
        if index < count:
            pieces.append(
                _section(
                    name.encode(), lines, is_new=changed <= index < changed + added, is_gone=index >= changed + added
                )
            )
    diff = b"".join(sorted(pieces))
    (directory / "large.diff").write_bytes(diff)
    return len(diff)


def _section(name: bytes, lines: list[bytes], *, is_new: bool, is_gone: bool) -> bytes:
    head = b"diff --git a/%s b/%s\n" % (name, name)
    if is_new:
        rows = b"".join(b"+" + line for line in lines)
        return head + b"new file mode 100644\n--- /dev/null\n+++ b/%s\n@@ -0,0 +1,%d @@\n" % (name, len(lines)) + rows
    if is_gone:
        rows = b"".join(b"-" + line for line in lines)
        return (
            head + b"deleted file mode 100644\n--- a/%s\n+++ /dev/null\n@@ -1,%d +0,0 @@\n" % (name, len(lines)) + rows
        )
    rows = [b" " + line for line in lines[3:6]] + [b"-" + lines[6], b"+" + lines[6].replace(b"VALUE", b"OTHER")]
    rows += [b" " + line for line in lines[7:10]]
    return head + b"--- a/%s\n+++ b/%s\n@@ -4,7 +4,7 @@\n" % (name, name) + b"".join(rows)


@dataclass
class Story:
    """What happens on one network, step by step."""

    net: Devnet
    directory: Path
    beyond: list[str] = field(default_factory=list)
    """Every peak that was beyond its bound."""
    _idle: dict[str, int] = field(default_factory=dict)
    """What each process of the network had when nothing had been asked of it, KiB."""

    def begin(self) -> None:
        """Take note of what the network's processes have now."""
        self._idle = {who: _peak_kib(pid) for who, pid in self._watched().items()}

    @property
    def bound_kib(self) -> int:
        """Three times the patch file (or the diff, while there is none) and 100 MiB: for a command; for a node beside what it has idle."""
        files = [self.directory / name for name in ("large.diff", "large.patch")]
        return 3 * max(each.stat().st_size for each in files if each.exists()) // 1024 + ROOM_MIB * 1024

    def run(self, name: str, *arguments: object, code: int = 0) -> Any:
        """Return a command's JSON answer, and keep what the step took."""
        watched = self._watched()
        for pid in watched.values():
            _reset_peak(pid)
        begin = time.monotonic()
        command = [sys.executable, "-m", "tests.bench.large_network", "--run", *map(str, arguments), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - begin
        found = re.search(r"^peak (\d+)\n\Z", done.stderr, re.MULTILINE)
        if done.returncode != code or found is None:
            raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        peaks = {who: _peak_kib(pid) for who, pid in watched.items()}
        told = ", ".join(f"{who} {peak // 1024}" for who, peak in peaks.items())
        print(f"{name:<22} {seconds:6.1f} s  command {int(found[1]) // 1024} MiB  ({told})", flush=True)
        used = {"the command": int(found[1]), **{who: peak - self._idle.get(who, 0) for who, peak in peaks.items()}}
        self.beyond += [
            f"{name}: {who} took {peak} KiB of {self.bound_kib}" for who, peak in used.items() if peak > self.bound_kib
        ]
        return json.loads(done.stdout) if done.stdout.strip() else None

    def wait_height(self, node: str, height: int) -> None:
        """Return when a node has a block."""
        deadline = time.monotonic() + HEIGHT_WAIT_S
        while self._height(node) < height:
            if time.monotonic() > deadline:
                raise SystemExit(f"{node} does not reach height {height}")
            time.sleep(0.1)

    def _height(self, node: str) -> int:
        command = [sys.executable, "-m", "node.cli", "node", "status", "--home", self.net.home(node), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(json.loads(done.stdout)["height"])

    def _watched(self) -> dict[str, int]:
        found = {"v1": int(self.net.node("v1")["pid"]), "web1": int(self.net.node("web1")["pid"])}
        gateways = {f"{name}'s gateway": child for name, pid in found.items() if (child := _gateway(pid)) is not None}
        return {**found, **gateways}


def _gateway(core: int) -> int | None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                is_gateway = b"node.gateway" in (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == core and is_gateway:
                return int(entry.name)
    return None


def _reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak_kib(pid: int | str) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def tell(net: Devnet, directory: Path, mode: str) -> None:
    """Print one line for each step of the story of `directory`'s patch; every step is checked to have ended as it must."""
    story, patch, base = Story(net, directory), directory / "large.patch", directory / "base"
    tree = directory / "srv"
    shutil.copytree(base, tree)
    story.begin()
    host, rpc = net.home("web1"), net.rpc("v1")
    story.run(
        "target add", "agent", "target", "add", TARGET, tree, "--component", TARGET, "--mode", mode, "--home", host
    )
    words = ["--reason", "Large", "--category", "bug-fix", "--component", TARGET]
    words += ["--author", "Alice <alice@acme.example>"]
    files = ["--diff", directory / "large.diff", "--base", base, "--key", net.key("alice@acme"), "--out", patch]
    created = story.run("patch create", "patch", "create", *files, *words)
    story.run("patch verify --base", "patch", "verify", patch, "--base", base)
    published = story.run("patch publish", "patch", "publish", patch, "--key", net.key("alice@acme"), "--rpc", rpc)
    for identity, role in (("bob@beta", "security-review"), ("carol@gamma", "qa")):
        words = ["--role", role, "--verdict", "approve", "--key", net.key(identity), "--rpc", rpc]
        attested = story.run("patch attest", "patch", "attest", patch, *words)
    patch_id = str(published["patch_id"])
    fetched = directory / "fetched.patch"
    story.run("patch fetch", "patch", "fetch", patch_id, "--out", fetched, "--rpc", rpc)
    assert patch.read_bytes().startswith(fetched.read_bytes()), "what comes back is what was published"
    story.wait_height("web1", attested["recorded"]["height"])
    at = ["--target", TARGET, "--home", host]
    explained = story.run("agent explain FILE", "agent", "explain", patch, *at)
    assert explained["code"] == "SUCCESS", explained["message"]
    applied = story.run("agent apply ID", "agent", "apply", patch_id, *at)
    assert applied["code"] == "SUCCESS", applied["message"]
    _check(directory, "apply")
    back = story.run("agent rollback", "agent", "rollback", patch_id, *at)
    assert back["outcomes"][0]["code"] == "ROLLED_BACK", back
    assert back["outcomes"][0]["tree_after"] == applied["tree_before"], "the tree is the one of before"
    assert created["patch_id"] == patch_id
    story.run("agent target remove", "agent", "target", "remove", TARGET, "--home", host)
    if story.beyond:
        raise SystemExit("beyond the bound of memory: " + "; ".join(story.beyond))


def _check(directory: Path, what: str) -> None:
    """The tree on the host is what GNU patch or git makes of the base."""
    expected = directory / f"expected-{what}"
    shutil.copytree(directory / "base", expected)
    git = shutil.which("git")
    if git is not None:
        subprocess.run([git, "apply", str(directory / "large.diff")], cwd=expected, check=True, capture_output=True)
        done = subprocess.run(
            ["diff", "-r", str(expected), str(directory / "srv")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[:1000]
    shutil.rmtree(expected)


def _run(arguments: list[str]) -> None:
    """Be one command, and tell this process's peak of memory in KiB at the end."""
    from node.cli.main import main as command_line

    sys.argv = ["patchwarden", *arguments]
    try:
        command_line()
    finally:
        print(f"peak {_peak_kib('self')}", file=sys.stderr)


def measure(count: int, size: int | None, mode: str, validators: int) -> None:
    """Print one line for each step."""
    with tempfile.TemporaryDirectory(prefix="pw-net-") as name:
        directory = Path(name)
        written = make_many(directory, count) if size is None else make_inputs(directory, Shape.CHANGED, size)
        what = f"{count} files" if size is None else "one in ten lines changed"
        print(f"{mode}, {what}, diff {written / 1e6:.1f} MB, {validators} validators", flush=True)
        with running_devnet(directory / "net", "--validators", str(validators), "--hosts", "1") as net:
            tell(net, directory, mode)


def main() -> None:
    """Tell the story, or be the one command that this process was started for."""
    if sys.argv[1:2] == ["--run"]:
        _run(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--mode", choices=("exchange", "in-place"), default="exchange")
    parser.add_argument("--validators", type=int, default=4)
    given = parser.parse_args()
    measure(given.files, given.bytes, given.mode, given.validators)


if __name__ == "__main__":
    main()
