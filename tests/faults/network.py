"""The cluster's network: one namespace for each node, a user-space switch between them, nft for what is lost.

Rules are laid over each other: each fault adds its own and takes it away again, in any order. A blocked direction stays blocked as long as
one rule blocks it, losses count at their greatest, delays add up.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.faults.machine import PREFIX, HarnessError, run
from tests.faults.switch import DEVICE, mac_of

NETWORK: Final = "198.18.77"
"""Addresses for benchmarks that no router passes on (RFC 2544); they exist inside the namespaces only."""
REPOSITORY: Final = Path(__file__).resolve().parents[2]

Link = tuple[int, int]
"""One direction between two nodes: index of the sender, index of the receiver."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What happens to the packets of one direction."""

    blocked: bool = False
    loss_permille: int = 0
    delay_ms: float = 0
    jitter_ms: float = 0
    duplicate_permille: int = 0

    def over(self, other: Impairment) -> Impairment:
        """Return both at once."""
        return Impairment(
            self.blocked or other.blocked,
            max(self.loss_permille, other.loss_permille),
            self.delay_ms + other.delay_ms,
            self.jitter_ms + other.jitter_ms,
            max(self.duplicate_permille, other.duplicate_permille),
        )


Rules = Mapping[Link, Impairment]


def combine(layers: Iterable[Rules]) -> dict[Link, Impairment]:
    """Return what all layers together do to each direction that any of them names."""
    combined: dict[Link, Impairment] = {}
    for layer in layers:
        for link, impairment in layer.items():
            combined[link] = impairment.over(combined.get(link, Impairment()))
    return combined


def firewall_ruleset(receiver: int, rules: Rules) -> str:
    """Return what `nft -f` makes of the receiver's firewall, in one transaction."""
    drops = []
    for (source, target), impairment in sorted(rules.items()):
        if target != receiver:
            continue
        if impairment.blocked:
            drops.append(f"ip saddr {address_of(source)} drop")
        elif impairment.loss_permille:
            drops.append(f"ip saddr {address_of(source)} numgen random mod 1000 < {impairment.loss_permille} drop")
    lines = ["type filter hook input priority 0;", *drops]
    chain = "\n".join(["chain input {", *lines, "}"])
    return f"table inet {PREFIX}\ndelete table inet {PREFIX}\ntable inet {PREFIX} {{\n{chain}\n}}\n"


def address_of(index: int) -> str:
    """Return the IPv4 address inside the namespace with this index."""
    return f"{NETWORK}.{index + 1}"


class Network:
    """Namespaces and switch of one cluster; `close` removes everything."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.namespaces = [f"{PREFIX}-{os.getpid()}-{name}" for name in names]
        self._made: list[str] = []
        self._layers: dict[int, Rules] = {}
        self._next = 0
        self._switch: subprocess.Popen[str] | None = None

    def open(self) -> None:
        """Make the namespaces, connect them, and give each its address."""
        for namespace in self.namespaces:
            run(["ip", "netns", "add", namespace])
            self._made.append(namespace)
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.switch", *self.namespaces],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            # Ctrl-C at a terminal goes to the whole group; the switch must live until the nodes are stopped.
            start_new_session=True,
        )
        self._expect("ready")
        for index, namespace in enumerate(self.namespaces):
            for command in (
                f"link set {DEVICE} address {mac_of(index)}",
                f"addr add {address_of(index)}/24 dev {DEVICE}",
                "link set lo up",
                f"link set {DEVICE} up",
            ):
                run(["ip", "-n", namespace, *command.split()])
        self._apply(range(len(self.names)))

    @property
    def switch_pid(self) -> int:
        """The process id of the switch."""
        assert self._switch is not None
        return self._switch.pid

    def add(self, rules: Rules) -> int:
        """Lay rules over those in force; return their number for `remove`."""
        self._next += 1
        self._layers[self._next] = MappingProxyType(dict(rules))
        self._apply({target for _, target in rules})
        return self._next

    def remove(self, number: int) -> None:
        """Take rules away."""
        rules = self._layers.pop(number)
        self._apply({target for _, target in rules})

    def _apply(self, receivers: Iterable[int]) -> None:
        combined = combine(self._layers.values())
        for receiver in receivers:
            ruleset = firewall_ruleset(receiver, combined)
            run(["ip", "netns", "exec", self.namespaces[receiver], "nft", "-f", "-"], text=ruleset)
        assert self._switch is not None
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps(switch_rules(combined)) + "\n")
        self._switch.stdin.flush()
        self._expect("ok")

    def _expect(self, word: str) -> None:
        assert self._switch is not None
        assert self._switch.stdout is not None
        line = self._switch.stdout.readline()
        if line.strip() != word:
            raise HarnessError(f"the switch answered {line!r} and not {word!r}")

    def close(self) -> None:
        """End the switch and remove the namespaces; calling it again does nothing."""
        if self._switch is not None:
            self._switch.send_signal(signal.SIGKILL)
            self._switch.wait(10)
            for pipe in (self._switch.stdin, self._switch.stdout):
                if pipe is not None:
                    pipe.close()
            self._switch = None
        failures = []
        while self._made:
            try:
                run(["ip", "netns", "del", self._made.pop()])
            except HarnessError as error:
                failures.append(str(error))
        if failures:
            raise HarnessError("; ".join(failures))


def switch_rules(rules: Rules) -> dict[str, dict[str, float]]:
    """Return the part of the rules that the switch carries out, in its words."""
    return {
        f"{source}>{target}": {
            "delay_ms": impairment.delay_ms,
            "jitter_ms": impairment.jitter_ms,
            "duplicate_permille": impairment.duplicate_permille,
        }
        for (source, target), impairment in sorted(rules.items())
        if impairment.delay_ms or impairment.jitter_ms or impairment.duplicate_permille
    }
