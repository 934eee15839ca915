"""What the harness needs of a machine, why it cannot run on another, and the traces that a killed run may have left."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

PREFIX: Final = "pwfault"
"""Every namespace, mount and directory of the harness is named ``pwfault-<process id of the harness>-…``."""
CLOCK_SOURCE: Final = Path(__file__).with_name("clock_step.c")
NETNS_DIRECTORY: Final = Path("/run/netns")
TOOLS: Final = {"ip": "iproute2", "nft": "nftables", "setpriv": "util-linux", "mount": "mount"}
"""Programs without which nothing runs, and the Debian package of each."""


class HarnessError(Exception):
    """The harness itself could not do what it was asked; says nothing about the product."""


def run(command: Sequence[str], *, text: str | None = None) -> str:
    """Return the standard output of a command that succeeded."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise HarnessError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def find_obstacle() -> str | None:
    """Return why the harness cannot run on this machine, or None when it can: tried out, not looked up."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [f"{tool} (Debian package {package})" for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    name = f"{PREFIX}-{os.getpid()}-probe"
    try:
        run(["ip", "netns", "add", name])
        try:
            rules = "type filter hook input priority 0;\nnumgen random mod 2 0 drop"
            ruleset = f"table inet probe {{\nchain input {{\n{rules}\n}}\n}}\n"
            run(["ip", "netns", "exec", name, "nft", "-f", "-"], text=ruleset)
        finally:
            run(["ip", "netns", "del", name])
    except HarnessError as error:
        return f"this kernel or container does not let us: {error}"
    return None


def find_strace_obstacle() -> str | None:
    """Return why disk faults cannot be injected into a running process, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian package strace)"
    done = subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "true"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return None if done.returncode == 0 else f"strace cannot inject faults here: {done.stderr.strip()[:200]}"


def build_clock_library(directory: Path) -> Path:
    """Return the library that moves the wall clock of the process that preloads it; see `clock_step.c`.

    Raises:
        HarnessError: There is no C compiler, or it does not build the library.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise HarnessError("there is no C compiler (Debian package gcc)")
    library = directory / "clock_step.so"
    run([compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(CLOCK_SOURCE), "-ldl"])
    return library


def find_clock_obstacle() -> str | None:
    """Return why a node's wall clock cannot be moved, or None."""
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}-") as directory:
        try:
            build_clock_library(Path(directory))
        except HarnessError as error:
            return str(error)
    return None


def sweep() -> list[str]:
    """Remove the namespaces and mounts of harness processes that are gone; return what was removed."""
    removed = []
    for name in (entry.name for entry in NETNS_DIRECTORY.glob(f"{PREFIX}-*")):
        if not _is_alive(name):
            with suppress(HarnessError):
                run(["ip", "netns", "del", name])
                removed.append(name)
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        source, place, *_ = line.split()
        if source.startswith(f"{PREFIX}-") and not _is_alive(source):
            with suppress(HarnessError):
                run(["umount", "--lazy", place.replace("\\040", " ")])
                removed.append(place)
    return removed


def _is_alive(name: str) -> bool:
    """Return whether the harness process that a name carries still runs; a name of another form is not ours to judge."""
    pid = name.split("-")[1]
    return not pid.isdigit() or Path(f"/proc/{pid}").exists()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def private_kib(pid: int) -> int | None:
    """Return the private memory of a process, or None when it is gone.

    That is what it has written itself. Pages of files that it has mapped, LevelDB's tables among them, are the system's to take back and
    do not count.
    """
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    except OSError:
        return None
    return None
