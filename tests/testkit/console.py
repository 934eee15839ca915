"""Pages that show commands with their output, run again: ``python -m tests.testkit.console PAGE [--write] [KIND…]``.

A block of kind ``console`` holds a session: a line that begins with ``$ `` is a command, what follows is what it printed (standard error
too). A command goes on on the next line behind a backslash, and to its end mark when it has a here-document. ``…`` alone on a line stands
for any lines, at the end of a line for any rest of it. Further words in front of the block say what it needs (``console network``).

The commands of a page run in one shell, in order, in an empty directory; each must succeed. What differs from run to run is known by its
form: digests, keys, signatures, times. Such a text may be another one, but the same one wherever the page shows the same one.
Where a network runs (blocks ``console devnet``) heights, ages, sizes and ports differ as well, and are not compared. The directory is
``/srv/try`` on every page.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PROMPT: Final = "$ "
ANYTHING: Final = "…"
COMMAND_SECONDS_MAX: Final = 300
OUTPUT_BYTES_MAX: Final = 1 << 20
SHOWN_DIRECTORY: Final = "/srv/try"
NETWORKED: Final = "devnet"
"""The word in front of blocks whose commands talk to a running network."""
_FENCE: Final = re.compile(r"```(?P<words>[a-z ]*)$")
_HERE: Final = re.compile(r"<<'(?P<mark>[A-Z]+)'")
_TIME: Final = (
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|"
    r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4} GMT|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000"
)
_VARYING: Final = re.compile(
    rf"(?P<time>{_TIME})|did:key:z[1-9A-HJ-NP-Za-km-z]{{40,}}|SHA256:[A-Za-z0-9+/]{{43}}|"
    r"(?:[0-9A-Fa-f]{2}:){7,}[0-9A-Fa-f]{2}|[0-9a-f]{16,}|[A-Za-z0-9+/]{40,}={0,2}"
)
_MEASURE: Final = re.compile(
    r"^(?:height|bytes|blocks|taken): +\d.*$|^ *\d+\.\d(?=  \d{4}-)|\b(?:height:? +|blocks? |log )\d+(?: to \d+)?|\b\d+ (?:bytes|blocks)\b|"
    r"\b\d+ ms old|\b\d+\.\d s\b|\b\d+ MiB are free|127\.0\.0\.1:\d+|/tcp/\d+|\b[0-9a-f]{12}\b|  \d{4,}$"
)
"""What a network and a machine differ in from run to run: heights, ages, sizes, free room, ports, and digests cut short."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a page."""

    line: int
    """Where it stands, from 1."""
    command: str
    """As the shell takes it, several lines where it has them."""
    output: tuple[str, ...]
    """What the page says that it prints."""
    output_start: int
    """The line, from 1, on which that begins."""
    needs: frozenset[str]
    """Words in front of its block besides ``console``."""


class NotAsShownError(AssertionError):
    """A command that fails, or prints something else than the page says."""


def read_steps(text: str) -> Iterator[Step]:
    """Yield the commands of a page's ``console`` blocks, in order."""
    lines = text.splitlines()
    index = 0
    while index < len(lines):
        fence = _FENCE.match(lines[index])
        index += 1
        if fence is None:
            continue
        end = lines.index("```", index)
        kind, *needs = fence["words"].split() or [""]
        while kind == "console" and index < end:
            assert lines[index].startswith(PROMPT), f"line {index + 1}: an output without its command"
            start, command = index, lines[index].removeprefix(PROMPT)
            index += 1
            here = _HERE.search(command)
            while (command.endswith("\\") if here is None else lines[index - 1] != here["mark"]) and index < end:
                command += "\n" + lines[index]
                index += 1
            first = index
            while index < end and not lines[index].startswith(PROMPT):
                index += 1
            yield Step(start + 1, command, tuple(lines[first:index]), first + 1, frozenset(needs))
        index = end + 1


class Names:
    """Which text of this run stands for which text of the page."""

    def __init__(self) -> None:
        self._by_shown: dict[str, str] = {}
        self._by_actual: dict[str, str] = {}

    def match(self, shown: str, actual: str) -> bool:
        """Return whether a printed line is the shown one, but for what varies; remembers what varied if so."""
        stem = shown.removesuffix(ANYTHING)
        if stem != shown and _VARYING.search(stem) is None:
            return actual.startswith(stem)
        if _blank(shown) != _blank(actual):
            return False
        by_shown, by_actual = dict(self._by_shown), dict(self._by_actual)
        for old, new in zip(_VARYING.finditer(shown), _VARYING.finditer(actual), strict=True):
            if old["time"] is None and (by_shown.setdefault(old[0], new[0]), by_actual.setdefault(new[0], old[0])) != (
                new[0],
                old[0],
            ):
                return False
        self._by_shown, self._by_actual = by_shown, by_actual
        return True


def _blank(line: str) -> str:
    return _VARYING.sub(lambda found: "<time>" if found["time"] else "<varies>", line)


def without_measures(lines: Sequence[str]) -> list[str]:
    """Return the lines without what differs where a network runs, and with one space where columns have several."""
    return [re.sub(r"(?<=\S) {2,}", " ", _MEASURE.sub("<measure>", line)) for line in lines]


def matches(shown: Sequence[str], actual: Sequence[str], names: Names) -> bool:
    """Return whether a command printed what the page shows."""
    if not shown:
        return not actual
    if shown[0] == ANYTHING:
        if len(shown) == 1:
            return True
        starts = [index for index, line in enumerate(actual) if _blank(line) == _blank(shown[1])]
        return any(matches(shown[1:], actual[index:], names) for index in starts[:1])
    return bool(actual) and names.match(shown[0], actual[0]) and matches(shown[1:], actual[1:], names)


class Shell:
    """A shell that goes on from command to command; it has a process group of its own, which ends with it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._script = directory.with_name(f"{directory.name}.command")
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._count = 0

    def run(self, command: str, seconds_max: float = COMMAND_SECONDS_MAX) -> tuple[int, str]:
        """Run a command and return its exit status and what it printed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self._count += 1
        mark = f"--- end of command {self._count} of {os.getpid()}:"
        self._script.write_text(command + "\n")
        # From a file: a command that reads standard input must not eat those that follow.
        stdin.write(f"source '{self._script}' </dev/null; printf '\\n{mark} %d\\n' $?\n".encode())
        stdin.flush()
        deadline = time.monotonic() + seconds_max
        data = b""
        while True:
            found = re.search(rf"\n{re.escape(mark)} (\d+)\n\Z".encode(), data)
            if found is not None:
                return int(found[1]), data[: found.start()].decode("utf-8", "replace")
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                raise NotAsShownError(f"no end within {seconds_max} s: {command}\n{data.decode('utf-8', 'replace')}")
            more = os.read(stdout.fileno(), 65536)
            data += more
            if not more or len(data) > OUTPUT_BYTES_MAX:
                raise NotAsShownError(f"the shell ended, or printed too much: {command}\n{data[-2000:]!r}")

    def close(self) -> None:
        """End the shell and whatever it has left running."""
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(timeout=10)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()


@contextmanager
def open_shell(directory: Path) -> Iterator[Shell]:
    """Give a shell in the empty directory `directory` with `patchwarden` in its path and neutral settings."""
    tools = directory.with_name(f"{directory.name}.bin")
    tools.mkdir()
    command = tools / "patchwarden"
    # Whether a command takes long enough to say how far it is depends on the machine.
    main = "import node.cli.output; node.cli.output.NOTE_INTERVAL_S = 1e9; from node.cli.main import main; main()"
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -P -c "{main}" "$@"\n')
    command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PATCHWARDEN_", "GIT_", "LC_"))}
    kept.pop("PYTHONPATH", None)
    settings = {
        "SOURCE": str(ROOT),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "LC_ALL": "C",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CEILING_DIRECTORIES": str(directory.parent),
        "SSH_AUTH_SOCK": "",
    }
    shell = Shell(directory, {**kept, **settings})
    try:
        yield shell
    finally:
        shell.close()


def run_page(text: str, directory: Path, needs: Collection[str] = (), *, write: bool = False) -> str:
    """Run a page's commands in the empty directory `directory`; those that need something which is not in `needs` are left out.

    Returns:
        The page; with `write`, as it would be with what the commands print now.

    Raises:
        NotAsShownError: A command failed, or, without `write`, printed something else.
    """
    names, lines, shift = Names(), text.splitlines(), 0
    with open_shell(directory) as shell:
        for step in read_steps(text):
            if not step.needs <= set(needs):
                continue
            code, printed = shell.run(step.command)
            printed = printed.replace(str(directory), SHOWN_DIRECTORY)
            actual = [line.rstrip() for line in printed.rstrip("\n").splitlines()]
            if code != 0:
                raise NotAsShownError(f"line {step.line}: exit status {code}: {step.command}\n{printed}")
            if not write:
                ways = (
                    (without_measures(step.output), without_measures(actual))
                    if NETWORKED in step.needs
                    else (step.output, actual)
                )
                if not matches(*ways, names):
                    shown = "\n".join(step.output)
                    raise NotAsShownError(
                        f"line {step.line}: {step.command}\n--- shown:\n{shown}\n--- printed:\n{printed}"
                    )
                continue
            if any(line.endswith(ANYTHING) for line in step.output) and matches(
                without_measures(step.output), without_measures(actual), Names()
            ):
                continue
            start = step.output_start - 1 + shift
            lines[start : start + len(step.output)] = actual
            shift += len(actual) - len(step.output)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Check a page, or write what its commands print into it."""
    parser = argparse.ArgumentParser(prog="python -m tests.testkit.console", description=main.__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("needs", nargs="*", help="kinds of blocks to run besides the plain ones, such as `network`")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="patchwarden-console-") as name:
        directory = Path(name, "work")
        directory.mkdir()
        page = run_page(arguments.page.read_text(), directory, arguments.needs, write=arguments.write)
    if arguments.write:
        arguments.page.write_text(page)


if __name__ == "__main__":
    main()
