"""A switch in user space: one TAP device in each namespace, frames passed between them, late where a rule says so.

It stands in for `tc netem`, which many kernels lack. It runs as a process of its own (`python -m tests.faults.switch NAMESPACE …`), because
its timing must not wait for the harness, and ends when its standard input closes. One JSON object a line comes in: the complete rules, as
``{"0>1": {"delay_ms": 20, "jitter_ms": 5, "duplicate_permille": 10}, …}`` by index of the namespaces; one line ``ok`` goes out for each.

Devices are made inside their namespace, so nothing ever shows up outside. Frames of one direction of one link keep their order, whatever
the jitter: TCP takes reordering for loss, and loss is a fault of its own (`tests.faults.network`).
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from tests.faults.machine import NETNS_DIRECTORY

DEVICE: Final = "eth0"
FRAME_BYTES_MAX: Final = 2048
"""More than an Ethernet frame of the usual 1,500 bytes."""
FRAMES_WAITING_MAX: Final = 20_000
"""Delayed frames at once; a real switch drops too when its queue is full."""
READS_MAX: Final = 64
"""Frames from one device before the others have their turn."""

_TUNSETIFF: Final = 0x400454CA
_IFF_TAP_NO_PI: Final = 0x0002 | 0x1000
_CLONE_NEWNET: Final = 0x40000000
_NAMESPACES_MAX: Final = 250


def mac_of(index: int) -> str:
    """Return the hardware address of the device in the namespace with this index: a locally administered one."""
    return f"02:70:77:66:00:{index:02x}"


def open_tap(namespace: str) -> int:
    """Make the device inside the namespace and return its descriptor; the calling thread is back where it was afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(NETNS_DIRECTORY / namespace, os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")
        try:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH14x", DEVICE.encode(), _IFF_TAP_NO_PI))
            return descriptor
        finally:
            if libc.setns(home, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "cannot come back from the namespace")
    finally:
        os.close(there)
        os.close(home)


class Switch:
    """The frames on their way, and the rules for them."""

    def __init__(self, devices: Sequence[int], chance: random.Random) -> None:
        self._devices = list(devices)
        self._index = {descriptor: index for index, descriptor in enumerate(devices)}
        self._by_mac = {bytes.fromhex(mac_of(index).replace(":", "")): index for index in range(len(devices))}
        self._chance = chance
        self._rules: dict[tuple[int, int], Mapping[str, float]] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._last: dict[tuple[int, int], float] = {}
        self._number = 0

    def set_rules(self, rules: Mapping[str, Mapping[str, float]]) -> None:
        """Replace all rules; frames that wait already keep their time."""
        self._rules = {}
        for link, rule in rules.items():
            source, _, target = link.partition(">")
            self._rules[int(source), int(target)] = rule

    def read(self, descriptor: int, now: float) -> None:
        """Take what a device has and pass it on, at once or later."""
        source = self._index[descriptor]
        for _ in range(READS_MAX):
            try:
                frame = os.read(descriptor, FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            target = self._by_mac.get(frame[:6])
            if target is not None:
                self._pass(source, target, frame, now)
            elif frame[0] & 1:
                for other in range(len(self._devices)):
                    if other != source:
                        self._pass(source, other, frame, now)

    def _pass(self, source: int, target: int, frame: bytes, now: float) -> None:
        link = (source, target)
        rule = self._rules.get(link)
        if rule is None and self._last.get(link, 0.0) <= now:
            self._write(target, frame)
            return
        rule = rule or {}
        at = now + max(0.0, rule.get("delay_ms", 0) + self._chance.uniform(-1, 1) * rule.get("jitter_ms", 0)) / 1000
        at = self._last[link] = max(at, self._last.get(link, 0.0))
        copies = 2 if self._chance.random() * 1000 < rule.get("duplicate_permille", 0) else 1
        for _ in range(copies):
            if len(self._waiting) < FRAMES_WAITING_MAX:
                self._number += 1
                heapq.heappush(self._waiting, (at, self._number, target, frame))

    def deliver(self, now: float) -> float | None:
        """Write every frame whose time has come; return the seconds until the next one, or None."""
        while self._waiting and self._waiting[0][0] <= now:
            _, _, target, frame = heapq.heappop(self._waiting)
            self._write(target, frame)
        return self._waiting[0][0] - now if self._waiting else None

    def _write(self, target: int, frame: bytes) -> None:
        try:
            os.write(self._devices[target], frame)
        except OSError:
            return  # Its queue is full, or the device is down: the frame is lost, as on a real wire.


def main(namespaces: Sequence[str]) -> None:
    """Switch until standard input closes."""
    assert len(namespaces) <= _NAMESPACES_MAX
    devices = [open_tap(namespace) for namespace in namespaces]
    switch = Switch(devices, random.Random(0))
    poll = select.epoll()
    for descriptor in (0, *devices):
        poll.register(descriptor, select.EPOLLIN)
    commands = b""
    print("ready", flush=True)
    while True:
        pause = switch.deliver(time.monotonic())
        for descriptor, _ in poll.poll(pause):
            if descriptor != 0:
                switch.read(descriptor, time.monotonic())
                continue
            data = os.read(0, 1 << 16)
            if not data:
                return
            commands += data
            while b"\n" in commands:
                line, _, commands = commands.partition(b"\n")
                switch.set_rules(json.loads(line))
                print("ok", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
